//! `docs/coverage.md`: what of each way to a credential webhook, lint and policies see, made of
//! the corpus and of what [`seen`](crate::seen) lists. `make generate` writes it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use mandate::decide::cel::Extent;
use mandate::decide::finding::Finding;
use mandate::install::vap;

use crate::case::Case;
use crate::seen;

/// The ways to a credential are numbered from 1 to this.
const LAST: u32 = 52;

const HEAD: &str = "# Coverage

<!-- Written by `make generate`. -->

What reaches a credential, and who sees it: the webhook, [`mandate lint`](lint.md), and the
policies that [`mandate vap`](vap.md) prints, which hold without the webhook. Every cell counts
files of the corpus, [`tests/cases`](../tests/cases): of those in which something is wrong, how
many are seen in the same words as the webhook has. What the counts rest on:

- webhook: [`tests/cases.rs`](../tests/cases.rs) judges every file, and
  [`tests/cluster/admission.rs`](../tests/cluster/admission.rs) sends it to a real API server with
  the real webhook behind it;
- lint: [`tests/cases.rs`](../tests/cases.rs) compares its words with the webhook's;
- policies: [`tests/cluster/parity.rs`](../tests/cluster/parity.rs) sends every file to a real API
  server that has the printed policies and no webhook, and compares their words with the
  webhook's. Pods that nobody wrote, made from the API server's own schema, go through all three.

Near misses are files that look alike and must pass; they pass everywhere. The descriptions stand
in [cases](cases.md).

| Case | webhook | near misses | lint | policies |
|---|---|---|---|---|
";

/// The whole file.
pub fn text(cases: &[Case], described: &BTreeMap<u32, String>) -> String {
    let mut text = HEAD.to_owned();
    let mut notes = String::new();
    for number in 1..=LAST {
        let of_it = || cases.iter().filter(|case| case.numbers().contains(&number));
        let caught: Vec<&Case> = of_it().filter(|case| case.is_caught()).collect();
        let passing = of_it().count() - caught.len();
        let what = described.get(&number).map_or("", String::as_str);
        if of_it().next().is_none() {
            let _ = writeln!(text, "| {number} | no file in the corpus | | | |");
            continue;
        }
        let (by_lint, not_by_lint) = counted(&caught, unseen_by_lint);
        let (by_policies, not_by_policies) = counted(&caught, unseen_by_policies);
        let cell =
            |seen: usize| if caught.is_empty() { "nothing to see".to_owned() } else { format!("{seen} of {}", caught.len()) };
        let _ = writeln!(
            text,
            "| {number}. {what} | {} | {passing} | {} | {} |",
            cell(caught.len()),
            cell(by_lint),
            cell(by_policies)
        );
        let files: Vec<String> = of_it().map(|case| format!("`{}`", seen::name(case))).collect();
        let _ = writeln!(notes, "- **{number}**: {}.", files.join(", "));
        for (who, reasons) in [("lint", not_by_lint), ("the policies", not_by_policies)] {
            for (reason, files) in reasons {
                let _ = writeln!(notes, "  - not by {who}, {reason}: {}.", files.join(", "));
            }
        }
    }
    let _ = write!(
        text,
        "\n## Files\n\nEvery file of a case, and why one is not seen.\n\n{notes}\n## What the policies cannot see\n\n{}",
        gaps()
    );
    text
}

/// How many are seen, and the others by reason.
fn counted(caught: &[&Case], unseen: impl Fn(&Case) -> Option<String>) -> (usize, BTreeMap<String, Vec<String>>) {
    let mut reasons: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for case in caught {
        if let Some(reason) = unseen(case) {
            reasons.entry(reason).or_default().push(format!("`{}`", seen::name(case)));
        }
    }
    (caught.len() - reasons.values().map(Vec::len).sum::<usize>(), reasons)
}

fn listed(list: &[(&str, &str)], case: &Case) -> Option<String> {
    let name = seen::name(case);
    list.iter().find(|(listed, _)| *listed == name).map(|(_, reason)| (*reason).to_owned())
}

fn unseen_by_lint(case: &Case) -> Option<String> {
    let of =
        |found: Result<Vec<Finding>, String>| found.map(|found| found.iter().map(Finding::to_string).collect::<BTreeSet<_>>());
    let decided = of(seen::decided(case).map(|found| seen::as_of_manifest(&found))).unwrap_or_default();
    let linted = of(seen::linted(case)).unwrap_or_default();
    if !decided.is_empty() && decided.is_subset(&linted) {
        return None;
    }
    listed(seen::BY_LINT, case).or_else(|| seen::of_lint(case).map(str::to_owned))
}

fn unseen_by_policies(case: &Case) -> Option<String> {
    if let Some(reason) = listed(seen::BY_POLICIES, case) {
        return Some(reason);
    }
    if seen::decided(case).unwrap_or_default().iter().any(|finding| finding.waiver.is_some()) {
        return Some("which know no waivers".to_owned());
    }
    let Some(case) = seen::requested(Case::read(&case.file)) else {
        return Some("which are asked about no such thing".to_owned());
    };
    let found = seen::decided(&case).unwrap_or_default();
    if found.is_empty() {
        return Some("because they mend nothing".to_owned());
    }
    let reasons: BTreeSet<String> = found.iter().filter_map(seen::of_policies).collect();
    (!reasons.is_empty()).then(|| reasons.into_iter().collect::<Vec<_>>().join("; "))
}

/// What no expression can say.
fn gaps() -> String {
    let mut text = "| rule | not seen | what the expressions lack |\n|---|---|---|\n".to_owned();
    for gap in seen::gaps() {
        let extent = match gap.extent {
            Extent::Whole => "at all",
            Extent::Part => "in part",
        };
        let lacks: Vec<&str> = gap.lacks.iter().copied().collect();
        let _ = writeln!(text, "| `{}` | {extent} | {} |", gap.rule.id, lacks.join("; "));
    }
    for (what, why) in vap::OTHERS {
        let _ = writeln!(text, "| {what} | at all | {why} |");
    }
    text
}
