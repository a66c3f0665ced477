//! One line a finding: `file:line:column: word: rule: message`, as editors understand it.

use std::io;

use super::super::lint::Report;
use super::line;

pub(super) fn render(report: &Report, out: &mut impl io::Write) -> io::Result<()> {
    for (object, finding) in report.findings() {
        let found = &finding.found;
        writeln!(
            out,
            "{}:{}: {}: [{}] {}: {}",
            line(&object.file),
            finding.at,
            finding.word(),
            found.rule,
            line(&object.to_string()),
            line(&found.message)
        )?;
    }
    for problem in &report.problems {
        let at = problem.at.map(|at| format!(":{at}")).unwrap_or_default();
        writeln!(out, "{}{at}: problem: {}", line(&problem.file), line(&problem.message))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::{Format, printed};

    #[test]
    fn every_finding_is_one_line() {
        let expected = "\
a b/50%,x.yaml:7:5: deny: [secret-env] Pod finance/app: container `a<b>&\"` reads: Secret `db`
a b/50%,x.yaml:9:5: warn: [automounted-token] Pod finance/app: a token\u{fffd}is mounted\u{fffd}[31m
bad.yaml:2:3: problem: this is no YAML
gone.yaml: problem: the file cannot be read: no such file
";
        assert_eq!(printed(Format::Concise), expected);
    }
}
