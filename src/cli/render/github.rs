//! Workflow commands of GitHub Actions: annotations at the lines of a pull request.
//!
//! Escaping as in actions/toolkit `packages/core/src/command.ts`: `%`, CR and LF everywhere,
//! and `:` and `,` in properties. Without it a name in a manifest could write a command of its
//! own.

use std::io;

use super::super::lint::Report;
use super::line;

pub(super) fn render(report: &Report, out: &mut impl io::Write) -> io::Result<()> {
    for (object, finding) in report.findings() {
        let found = &finding.found;
        let command = if finding.is_denied() { "error" } else { "warning" };
        let title = format!("{} in {object}", found.rule);
        let message =
            if found.help.is_empty() { found.message.clone() } else { format!("{}\nhelp: {}", found.message, found.help) };
        let (file, at) = (property(&object.file), finding.at);
        writeln!(
            out,
            "::{command} file={file},line={},col={},title={}::{}",
            at.line,
            at.column,
            property(&title),
            data(&message)
        )?;
    }
    for problem in &report.problems {
        let at = problem.at.map(|at| format!(",line={},col={}", at.line, at.column)).unwrap_or_default();
        let message = if problem.help.is_empty() {
            problem.message.clone()
        } else {
            format!("{}\nhelp: {}", problem.message, problem.help)
        };
        writeln!(out, "::error file={}{at},title=not checked::{}", property(&problem.file), data(&message))?;
    }
    Ok(())
}

fn data(text: &str) -> String {
    let lines: Vec<_> = text.split('\n').map(|text| line(text).replace('%', "%25")).collect();
    lines.join("%0A")
}

fn property(text: &str) -> String {
    data(text).replace(':', "%3A").replace(',', "%2C")
}

#[cfg(test)]
mod tests {
    use super::super::{Format, printed};
    use super::*;

    #[test]
    fn every_finding_is_one_command() {
        let expected = "\
::error file=a b/50%25%2Cx.yaml,line=7,col=5,title=secret-env in Pod finance/app::container `a<b>&\"` reads: Secret `db`%0Ahelp: remove it
::warning file=a b/50%25%2Cx.yaml,line=9,col=5,title=automounted-token in Pod finance/app::a token%0Ais mounted\u{fffd}[31m%0Ahelp: remove it
::error file=bad.yaml,line=2,col=3,title=not checked::this is no YAML%0Ahelp: indent with spaces
::error file=gone.yaml,title=not checked::the file cannot be read: no such file
";
        assert_eq!(printed(Format::Github), expected);
    }

    #[test]
    fn a_name_cannot_write_a_command() {
        assert_eq!(data("a\r\n::error::b%0A"), "a\u{fffd}%0A::error::b%250A");
        assert_eq!(property("C:\\x,y"), "C%3A\\x%2Cy");
    }
}
