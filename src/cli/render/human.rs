//! For people: where, what, and what to write instead, gravest news last.

use std::io;

use super::super::lint::Report;
use super::line;

const BOLD: &str = "\u{1b}[1m";
const RED: &str = "\u{1b}[1;31m";
const YELLOW: &str = "\u{1b}[1;33m";
const DIM: &str = "\u{1b}[2m";
const RESET: &str = "\u{1b}[0m";

pub(super) fn render(report: &Report, colour: bool, out: &mut impl io::Write) -> io::Result<()> {
    let paint = |style: &str, text: &str| if colour { format!("{style}{text}{RESET}") } else { text.to_owned() };
    for (object, finding) in report.findings() {
        let found = &finding.found;
        let place = paint(BOLD, &format!("{}:{}", line(&object.file), finding.at));
        let word = paint(if finding.is_denied() { RED } else { YELLOW }, finding.word());
        writeln!(out, "{place}: {word}: {} [{}]", line(&found.message), found.rule)?;
        let field = if found.path.is_empty() { String::new() } else { format!(", {}", found.path) };
        writeln!(out, "  {}", paint(DIM, &format!("in {}{}", line(&object.to_string()), line(&field))))?;
        if !found.help.is_empty() {
            writeln!(out, "  help: {}", line(&found.help))?;
        }
        writeln!(out)?;
    }
    for problem in &report.problems {
        let at = problem.at.map(|at| format!(":{at}")).unwrap_or_default();
        let place = paint(BOLD, &format!("{}{at}", line(&problem.file)));
        writeln!(out, "{place}: {}: {}", paint(RED, "problem"), line(&problem.message))?;
        if !problem.help.is_empty() {
            writeln!(out, "  help: {}", line(&problem.help))?;
        }
        writeln!(out)?;
    }
    writeln!(out, "{}", report.summary)
}

#[cfg(test)]
mod tests {
    use super::super::{Format, example, printed};

    #[test]
    fn people_read_where_what_and_what_instead() {
        let expected = "\
a b/50%,x.yaml:7:5: deny: container `a<b>&\"` reads: Secret `db` [secret-env]
  in Pod finance/app, spec.containers[0].env[0].valueFrom.secretKeyRef
  help: remove it

a b/50%,x.yaml:9:5: warn: a token\u{fffd}is mounted\u{fffd}[31m [automounted-token]
  in Pod finance/app, spec.automountServiceAccountToken
  help: remove it

bad.yaml:2:3: problem: this is no YAML
  help: indent with spaces

gone.yaml: problem: the file cannot be read: no such file

3 documents read, 1 denied, 1 warned, 2 problems
";
        assert_eq!(printed(Format::Text), expected);
    }

    #[test]
    fn colours_change_no_word() {
        let mut out = vec![];
        super::render(&example(), true, &mut out).unwrap();
        let mut text = String::from_utf8(out).unwrap();
        for style in [super::BOLD, super::RED, super::YELLOW, super::DIM, super::RESET] {
            assert!(text.contains(style));
            text = text.replace(style, "");
        }
        assert_eq!(text, printed(Format::Text));
    }
}
