//! JUnit XML: a suite a file, a test case an object; what is refused fails it, and a document
//! that could not be read is an error. Warnings stand in the case's output.
//!
//! Written by hand, since it is this little; the tests read it back with another's reader.

use std::io;

use super::super::lint::{Finding, Object, Report};
use super::super::manifest::Problem;

pub(super) fn render(report: &Report, out: &mut impl io::Write) -> io::Result<()> {
    let mut files: Vec<&str> =
        report.objects.iter().map(|object| &*object.file).chain(report.problems.iter().map(|problem| &*problem.file)).collect();
    files.sort_unstable();
    files.dedup();
    let refused = report.objects.iter().filter(|object| object.findings.iter().any(Finding::is_denied)).count();
    let (tests, errors) = (report.objects.len() + report.problems.len(), report.problems.len());
    writeln!(out, "<?xml version=\"1.0\" encoding=\"UTF-8\"?>")?;
    writeln!(out, "<testsuites name=\"mandate lint\" tests=\"{tests}\" failures=\"{refused}\" errors=\"{errors}\">")?;
    let mut objects = report.objects.iter().collect::<Vec<_>>();
    objects.sort_by_key(|object| &*object.file);
    let mut problems = report.problems.iter().collect::<Vec<_>>();
    problems.sort_by_key(|problem| &*problem.file);
    for file in files {
        // Both lists are in the order of the files.
        let of = objects.partition_point(|object| &*object.file <= file);
        let here: Vec<_> = objects.drain(..of).collect();
        let of = problems.partition_point(|problem| &*problem.file <= file);
        suite(file, &here, &problems.drain(..of).collect::<Vec<_>>(), out)?;
    }
    writeln!(out, "</testsuites>")
}

fn suite(file: &str, objects: &[&Object], problems: &[&Problem], out: &mut impl io::Write) -> io::Result<()> {
    let refused = objects.iter().filter(|object| object.findings.iter().any(Finding::is_denied)).count();
    let (tests, errors, name) = (objects.len() + problems.len(), problems.len(), xml(file));
    writeln!(out, "  <testsuite name=\"{name}\" tests=\"{tests}\" failures=\"{refused}\" errors=\"{errors}\" disabled=\"0\">")?;
    for object in objects {
        writeln!(out, "    <testcase classname=\"{name}\" name=\"{}\">", xml(&format!("{object} (line {})", object.at.line)))?;
        let (denied, warned): (Vec<_>, Vec<_>) = object.findings.iter().partition(|finding| finding.is_denied());
        if let Some(first) = denied.first() {
            let message = match denied.len() {
                1 => first.found.message.clone(),
                n => format!("{} (and {} more)", first.found.message, n - 1),
            };
            writeln!(
                out,
                "      <failure type=\"{}\" message=\"{}\">{}</failure>",
                first.found.rule,
                xml(&message),
                xml(&list(file, &denied))
            )?;
        }
        if !warned.is_empty() {
            writeln!(out, "      <system-out>{}</system-out>", xml(&list(file, &warned)))?;
        }
        writeln!(out, "    </testcase>")?;
    }
    for problem in problems {
        let at = problem.at.map(|at| format!(":{at}")).unwrap_or_default();
        let text = format!("{file}{at}: {}\nhelp: {}", problem.message, problem.help);
        let line = problem.at.map(|at| format!(" (line {})", at.line)).unwrap_or_default();
        writeln!(out, "    <testcase classname=\"{name}\" name=\"not checked{line}\">")?;
        writeln!(out, "      <error type=\"problem\" message=\"{}\">{}</error>", xml(&problem.message), xml(&text))?;
        writeln!(out, "    </testcase>")?;
    }
    writeln!(out, "  </testsuite>")
}

fn list(file: &str, findings: &[&Finding]) -> String {
    let lines = findings.iter().map(|finding| {
        let found = &finding.found;
        format!("{file}:{}: [{}] {}: {}\n  help: {}\n", finding.at, found.rule, found.path, found.message, found.help)
    });
    lines.collect()
}

/// A text in XML. Characters that XML 1.0 cannot hold even as references are replaced.
pub(in super::super) fn xml(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&apos;"),
            '\n' | '\t' => out.push(c),
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use quick_junit::{NonSuccessKind, Report, TestCaseStatus};

    use super::super::{Format, printed};

    #[test]
    fn another_program_reads_what_is_written() {
        let report = Report::deserialize_from_str(&printed(Format::Junit)).unwrap();
        assert_eq!((report.tests, report.failures, report.errors), (4, 1, 2));
        let names: Vec<_> = report.test_suites.iter().map(|suite| suite.name.as_str()).collect();
        assert_eq!(names, ["a b/50%,x.yaml", "bad.yaml", "clean.yaml", "gone.yaml"]);
        let refused = &report.test_suites[0].test_cases[0];
        assert_eq!(refused.name.as_str(), "Pod finance/app (line 1)");
        let TestCaseStatus::NonSuccess { kind, message, ty, description, .. } = &refused.status else { panic!("{refused:?}") };
        assert_eq!((*kind, ty.as_deref()), (NonSuccessKind::Failure, Some("secret-env")));
        assert_eq!(message.as_deref(), Some("container `a<b>&\"` reads: Secret `db`"));
        assert!(
            description.as_deref().unwrap().starts_with("a b/50%,x.yaml:7:5: [secret-env] spec.containers[0].env"),
            "{description:?}"
        );
        assert!(refused.system_out.as_deref().unwrap().contains("[automounted-token]"));
        assert!(matches!(report.test_suites[2].test_cases[0].status, TestCaseStatus::Success { .. }));
        for suite in [1, 3] {
            let case = &report.test_suites[suite].test_cases[0];
            assert!(matches!(&case.status, TestCaseStatus::NonSuccess { kind: NonSuccessKind::Error, .. }), "{case:?}");
        }
    }

    #[test]
    fn what_xml_cannot_hold_is_replaced() {
        assert_eq!(super::xml("a\u{0}b\u{1b}<\u{ffff}>'\n"), "a\u{fffd}b\u{fffd}&lt;\u{fffd}&gt;&apos;\n");
    }
}
