//! The corpus: what is refused, what passes and what is changed, one file a case.
//!
//! `tests/cases/<rule>/*.yaml` are the cases; `docs/cases.md` lists the numbered ones and
//! says how to write one. No cluster, no clock, no network.
#![allow(clippy::unwrap_used, clippy::panic, reason = "in a test a panic is the answer")]

#[allow(dead_code, reason = "the tests on a real API server use the rest")]
#[path = "cases/case.rs"]
mod case;
#[path = "cases/coverage.rs"]
mod coverage;
#[path = "cases/laws.rs"]
mod laws;
#[path = "cases/property.rs"]
mod property;
#[path = "cases/seen.rs"]
mod seen;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use case::Case;
use mandate::decide::rule::RULES;

/// Numbers of the ways to a credential that the corpus covers, as `docs/cases.md` lists them.
const NUMBERED: [u32; 48] = [
    1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 32, 33,
    34, 35, 36, 37, 38, 39, 40, 41, 42, 43, 46, 47, 50, 51, 52,
];
/// Directories that are about something else than one rule.
const OTHERS: [&str; 11] = [
    "mutation",
    "policies",
    "scope-refused",
    "task-label-changed",
    "task-refused",
    "task-token",
    "templates",
    "unknown-request",
    "unreadable-policy",
    "updates",
    "waivers",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases")
}

fn sorted(directory: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

fn corpus() -> Vec<Case> {
    let directories = sorted(&root()).into_iter().filter(|path| path.is_dir());
    directories.flat_map(|directory| sorted(&directory)).map(|file| Case::read(&file)).collect()
}

#[test]
fn every_case_is_judged_as_written() {
    let cases = corpus();
    let wrong: Vec<String> = cases
        .iter()
        .filter_map(|case| case.judge().err().map(|why| format!("{}: {why}", case.file.strip_prefix(root()).unwrap().display())))
        .collect();
    assert!(wrong.is_empty(), "{} of {} cases are wrong:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}

#[test]
fn every_rule_catches_two_forms_and_lets_two_near_misses_pass() {
    let cases = corpus();
    for rule in RULES {
        let about = || cases.iter().filter(|case| case.about == rule.id);
        let caught = about().filter(|case| case.finds(rule.id)).count();
        let passes = about().filter(|case| !case.is_caught()).count();
        assert!(caught >= 2 && passes >= 2, "{} has {caught} caught forms and {passes} near misses", rule.id);
    }
}

#[test]
fn every_numbered_case_is_caught_and_has_a_near_miss() {
    let cases = corpus();
    let of = |caught: bool| -> BTreeSet<u32> {
        cases.iter().filter(|case| case.is_caught() == caught).flat_map(Case::numbers).collect()
    };
    let (caught, passes) = (of(true), of(false));
    for number in NUMBERED {
        // 29 is about what must pass.
        assert!(number == 29 || caught.contains(&number), "case {number} has no file in which it is caught");
        assert!(passes.contains(&number), "case {number} has no near miss");
    }
    let all: BTreeSet<u32> = caught.union(&passes).copied().collect();
    assert_eq!(all, NUMBERED.into(), "numbers in the files");
    assert_eq!(documented().into_keys().collect::<BTreeSet<u32>>(), NUMBERED.into(), "numbers in docs/cases.md");
}

/// The numbers and the descriptions in the table of the documentation.
fn documented() -> BTreeMap<u32, String> {
    let text = std::fs::read_to_string(root().join("../../docs/cases.md")).unwrap();
    let row = |line: &str| {
        let mut cells = line.strip_prefix("| ")?.split(" | ");
        Some((cells.next()?.parse().ok()?, cells.next()?.to_owned()))
    };
    text.lines().filter_map(row).collect()
}

#[test]
fn coverage_is_what_the_corpus_says() {
    let (file, text) = (root().join("../../docs/coverage.md"), coverage::text(&corpus(), &documented()));
    if std::env::var_os("MANDATE_GENERATE").is_some() {
        std::fs::write(&file, &text).unwrap();
    }
    let current = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(current == text, "docs/coverage.md is not current: run `make generate`");
}

#[test]
fn every_directory_is_about_a_rule_and_every_file_says_what_it_shows() {
    for case in corpus() {
        let file = case.file.display();
        assert!(OTHERS.contains(&case.about.as_str()) || RULES.iter().any(|rule| rule.id == case.about), "{file}: about no rule");
        assert!(case.comment.len() >= 20, "{file}: begins with no comment");
    }
}

#[test]
fn lint_says_the_same_as_the_webhook() {
    let listed: BTreeMap<&str, &str> = seen::BY_LINT.iter().copied().collect();
    let mut wrong = vec![];
    for case in corpus() {
        let name = seen::name(&case);
        let decided = seen::words(&seen::as_of_manifest(&seen::decided(&case).unwrap()));
        let linted = seen::words(&seen::linted(&case).unwrap());
        match (decided == linted, seen::of_lint(&case), listed.contains_key(name.as_str())) {
            (_, Some(_), false) | (true, None, false) | (false, None, true) => {}
            (true, ..) | (_, Some(_), true) => wrong.push(format!("{name}: take it out of BY_LINT")),
            (false, None, false) => wrong.push(format!("{name}: the webhook says {decided:#?}\nlint says {linted:#?}")),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
