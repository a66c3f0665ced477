//! What `docs/waivers.md` writes is what is meant: its manifests are put beside a Deployment and
//! checked.

use jiff::{SignedDuration, Timestamp};

use crate::docs::{commands, words};
use crate::{answer, command, fresh, read};
use clap::Parser as _;
use mandate::cli::Cli;

/// The manifests of the document, with the waiver over in so many hours.
fn manifests(hours: i64) -> String {
    let text = read("docs/waivers.md");
    let blocks = text.split("```yaml\n").skip(1).filter_map(|rest| rest.split_once("```"));
    let yaml: Vec<&str> = blocks.map(|(block, _)| block).collect();
    assert_eq!(yaml.len(), 2, "a policy and a waiver");
    let end = Timestamp::now() + SignedDuration::from_hours(hours);
    let all = yaml.join("---\n");
    assert!(all.contains("2026-03-31T18:00:00Z"), "the end of the example");
    all.replace("2026-03-31T18:00:00Z", &end.to_string())
}

const DEPLOYMENT: &str = "---
apiVersion: apps/v1
kind: Deployment
metadata: {name: NAME, namespace: finance}
spec:
  selector: {matchLabels: {app: a}}
  template:
    metadata: {labels: {app: a}}
    spec:
      automountServiceAccountToken: false
      containers:
      - {name: app, image: a, env: [{name: KEY, valueFrom: {secretKeyRef: {name: ledger-api, key: k}}}]}
";

fn lint(hours: i64, deployment: &str) -> (i32, String) {
    let dir = fresh(&format!("waivers-{deployment}-{hours}"));
    std::fs::write(dir.join("all.yaml"), manifests(hours) + &DEPLOYMENT.replace("NAME", deployment)).unwrap();
    let told = answer(command(&["lint", "--format", "concise", "all.yaml"]).current_dir(&dir));
    (told.status, told.out)
}

#[test]
fn lint_knows_the_waivers_among_the_manifests() {
    let (status, out) = lint(24, "ledger-sync");
    assert_eq!(status, 0, "{out}");
    assert!(
        out.contains("waived by PolicyWaiver finance/ledger-key until ") && out.contains("owner ledger (#ledger-oncall)"),
        "{out}"
    );
}

#[test]
fn lint_refuses_what_no_waiver_covers_now() {
    for (hours, deployment, why) in [
        (-1, "ledger-sync", "it is over"),
        (24, "another", "it is about another Deployment"),
        (721, "ledger-sync", "it lives longer than the policy lets it"),
    ] {
        let (status, out) = lint(hours, deployment);
        assert_eq!(status, 1, "{why}: {out}");
        assert!(!out.contains("waived"), "{why}: {out}");
    }
}

#[test]
fn every_command_that_the_document_names_exists() {
    let ours = commands("docs/waivers.md")
        .iter()
        .flat_map(|line| words(line))
        .filter(|command| command[0] == "mandate")
        .collect::<Vec<_>>();
    assert_eq!(ours.len(), 2);
    for command in ours {
        assert!(Cli::try_parse_from(&command).is_ok(), "{}", command.join(" "));
    }
}
