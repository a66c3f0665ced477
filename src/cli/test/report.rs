//! How the results of `mandate test` are printed: for people, and as JUnit XML.

use std::io;

use super::super::decide::for_people;
use super::super::render::junit::xml;
use super::super::render::line;
use super::{Failure, Result_, Tested};

pub(super) fn text(tested: &[Tested], out: &mut impl io::Write) -> io::Result<()> {
    let (mut passed, mut failed, mut problems) = (0, 0, 0);
    for Tested { file, cases, problems: found } in tested {
        writeln!(out, "{}", line(file))?;
        for Result_ { name, failure, .. } in cases {
            match failure {
                None => {
                    passed += 1;
                    writeln!(out, "  ok      {}", line(name))?;
                }
                Some(failure) => {
                    failed += 1;
                    writeln!(out, "  FAILED  {}", line(name))?;
                    told(file, failure).lines().try_for_each(|said| writeln!(out, "          {said}"))?;
                }
            }
        }
        for problem in found {
            problems += 1;
            writeln!(out, "  PROBLEM {}", line(problem))?;
        }
    }
    write!(out, "{passed} as expected, {failed} not")?;
    match problems {
        0 => writeln!(out),
        n => writeln!(out, "; {n} problems kept others from being run"),
    }
}

/// A failed step: where, what was expected, and the answer with its reasons.
fn told(file: &str, failure: &Failure) -> String {
    let Failure { step, at, tool, wrong, decision } = failure;
    let mut text = format!("{file}:{at}: step {step}, {}: {}\n", line(tool), wrong.join("; "));
    text.push_str(&for_people(decision));
    text
}

pub(super) fn junit(tested: &[Tested], out: &mut impl io::Write) -> io::Result<()> {
    let count = |of: &dyn Fn(&Tested) -> usize| tested.iter().map(of).sum::<usize>();
    let (tests, failures, errors) = (count(&tests), count(&failures), count(&|one| one.problems.len()));
    writeln!(out, "<?xml version=\"1.0\" encoding=\"UTF-8\"?>")?;
    writeln!(out, "<testsuites name=\"mandate test\" tests=\"{tests}\" failures=\"{failures}\" errors=\"{errors}\">")?;
    tested.iter().try_for_each(|one| suite(one, out))?;
    writeln!(out, "</testsuites>")
}

fn tests(one: &Tested) -> usize {
    one.cases.len() + one.problems.len()
}

fn failures(one: &Tested) -> usize {
    one.cases.iter().filter(|case| case.failure.is_some()).count()
}

fn suite(one: &Tested, out: &mut impl io::Write) -> io::Result<()> {
    let Tested { file, cases, problems } = one;
    let (name, tests, failures, errors) = (xml(file), tests(one), failures(one), problems.len());
    writeln!(out, "  <testsuite name=\"{name}\" tests=\"{tests}\" failures=\"{failures}\" errors=\"{errors}\" disabled=\"0\">")?;
    for Result_ { name: case, at, failure } in cases {
        writeln!(out, "    <testcase classname=\"{name}\" name=\"{}\">", xml(&format!("{case} (line {})", at.line)))?;
        if let Some(failure) = failure {
            let message = xml(&failure.wrong.join("; "));
            writeln!(out, "      <failure type=\"unexpected\" message=\"{message}\">{}</failure>", xml(&told(file, failure)))?;
        }
        writeln!(out, "    </testcase>")?;
    }
    for problem in problems {
        writeln!(out, "    <testcase classname=\"{name}\" name=\"not run\">")?;
        writeln!(out, "      <error type=\"problem\" message=\"{0}\">{0}</error>", xml(problem))?;
        writeln!(out, "    </testcase>")?;
    }
    writeln!(out, "  </testsuite>")
}
