//! JSON: `findings`, `problems` and `summary`. Fields are added to it and never taken away.

use std::io;

use serde::Serialize;

use super::super::lint::{Report, Summary};

#[derive(Serialize)]
struct Root<'a> {
    findings: Vec<Finding<'a>>,
    problems: Vec<Problem<'a>>,
    summary: Summary,
}

#[derive(Serialize)]
struct Finding<'a> {
    rule: &'a str,
    severity: &'a str,
    file: &'a str,
    line: usize,
    column: usize,
    path: &'a str,
    object: Object<'a>,
    message: &'a str,
    help: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Object<'a> {
    api_version: &'a str,
    kind: &'a str,
    namespace: &'a str,
    name: &'a str,
}

/// `line` and `column` are null where it is about a file as a whole.
#[derive(Serialize)]
struct Problem<'a> {
    file: &'a str,
    line: Option<usize>,
    column: Option<usize>,
    message: &'a str,
    help: &'a str,
}

pub(super) fn render(report: &Report, out: &mut impl io::Write) -> io::Result<()> {
    let findings = report.findings().map(|(object, finding)| Finding {
        rule: finding.found.rule,
        severity: finding.word(),
        file: &object.file,
        line: finding.at.line,
        column: finding.at.column,
        path: &finding.found.path,
        object: Object { api_version: &object.api_version, kind: &object.kind, namespace: &object.namespace, name: &object.name },
        message: &finding.found.message,
        help: &finding.found.help,
    });
    let problems = report.problems.iter().map(|problem| Problem {
        file: &problem.file,
        line: problem.at.map(|at| at.line),
        column: problem.at.map(|at| at.column),
        message: &problem.message,
        help: &problem.help,
    });
    let root = Root { findings: findings.collect(), problems: problems.collect(), summary: report.summary };
    serde_json::to_writer_pretty(&mut *out, &root)?;
    writeln!(out)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::{Format, printed};

    #[test]
    fn findings_problems_and_summary_are_all_there() {
        let root: Value = serde_json::from_str(&printed(Format::Json)).unwrap();
        assert_eq!(
            root["findings"][0],
            json!({
                "rule": "secret-env", "severity": "deny", "file": "a b/50%,x.yaml", "line": 7, "column": 5,
                "path": "spec.containers[0].env[0].valueFrom.secretKeyRef",
                "object": {"apiVersion": "v1", "kind": "Pod", "namespace": "finance", "name": "app"},
                "message": "container `a<b>&\"` reads: Secret `db`", "help": "remove it",
            })
        );
        assert_eq!(
            root["problems"][0],
            json!({"file": "bad.yaml", "line": 2, "column": 3, "message": "this is no YAML", "help": "indent with spaces"})
        );
        assert_eq!(root["problems"][1]["line"], Value::Null);
        assert_eq!(root["summary"], json!({"documents": 3, "objects": 2, "denied": 1, "warned": 1, "problems": 2}));
    }
}
