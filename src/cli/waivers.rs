//! `mandate waivers`: which risks are accepted, by whom, for how long, and whether they count.
//!
//! Exit status: 0 where every waiver that is listed counts, 1 where one has expired or is not
//! honoured, so that a pipeline can ask for dead exceptions to be cleared away.

use std::io::Write as _;

use anyhow::Context as _;
use clap::ValueEnum;
use jiff::Timestamp;
use kube::api::ListParams;
use kube::{Api, ResourceExt as _};
use serde::Serialize;

use super::Outcome;
use super::task::Cluster;
use crate::api::{Owner, PolicyWaiver, RuleName, WaivedObject};
use crate::cluster::connect::{Target, connect};
use crate::decide::waive::Waiver;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    cluster: Cluster,
    /// List the waivers of every namespace
    #[arg(short = 'A', long, conflicts_with = "namespace")]
    all_namespaces: bool,
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// How waivers are printed.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum Output {
    /// For people
    #[default]
    Text,
    /// One list
    Json,
}

/// One waiver as it is listed.
#[derive(Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Listed {
    namespace: String,
    name: String,
    owner: Owner,
    reason: String,
    rules: Vec<RuleName>,
    objects: Vec<WaivedObject>,
    expires_at: Timestamp,
    days_left: i64,
    uses: i64,
    last_used: Option<Timestamp>,
    covers: i64,
    honoured: bool,
    why: String,
}

pub(super) fn run(args: &Args) -> anyhow::Result<Outcome> {
    super::runtime()?.block_on(list(args))
}

async fn list(args: &Args) -> anyhow::Result<Outcome> {
    let Cluster { namespace, kubeconfig, context } = &args.cluster;
    let client = connect(&Target { kubeconfig: kubeconfig.clone(), context: context.clone(), act_as: None }).await?;
    let api: Api<PolicyWaiver> = if args.all_namespaces {
        Api::all(client)
    } else {
        let namespace = namespace.clone().unwrap_or_else(|| client.default_namespace().to_owned());
        Api::namespaced(client, &namespace)
    };
    let all = api.list(&ListParams::default()).await.context("listing waivers")?;
    let now = Timestamp::now();
    let all: Vec<Listed> = all.items.iter().map(|waiver| listed(waiver, now)).collect();
    let mut out = std::io::stdout().lock();
    match args.output {
        Output::Json => writeln!(out, "{}", serde_json::to_string_pretty(&all)?)?,
        Output::Text if all.is_empty() => writeln!(out, "no waivers")?,
        Output::Text => write!(out, "{}", table(&all))?,
    }
    Ok(if all.iter().all(|waiver| waiver.honoured) { Outcome::Done } else { Outcome::No })
}

/// What is said of one waiver. That it is over, this clock tells; all else, the controller.
fn listed(waiver: &PolicyWaiver, now: Timestamp) -> Listed {
    let spec = &waiver.spec;
    let status = waiver.status.clone().unwrap_or_default();
    let ready = status.conditions.iter().find(|condition| condition.type_ == "Ready");
    let known = Waiver::of(waiver);
    let (honoured, why) = match (&known, ready) {
        (None, _) => (false, "it is being deleted".to_owned()),
        (Some(known), _) if known.is_expired(now) => (false, format!("it expired at {}", known.expires_at)),
        (Some(_), Some(ready)) => (ready.status == "True", ready.message.clone()),
        (Some(_), None) => (false, "the controller has not looked at it; is it running?".to_owned()),
    };
    Listed {
        namespace: waiver.namespace().unwrap_or_default(),
        name: waiver.name_any(),
        owner: spec.owner.clone(),
        reason: spec.reason.clone(),
        rules: spec.rules.clone(),
        objects: spec.objects.clone(),
        expires_at: spec.expires_at.0,
        days_left: known.map_or(0, |known| known.days_left(now)),
        uses: status.uses,
        last_used: status.last_used.map(|at| at.0),
        covers: status.covers,
        honoured,
        why,
    }
}

/// A table whose columns are as wide as what stands in them.
fn table(all: &[Listed]) -> String {
    let heads = ["WAIVER", "OWNER", "RULES", "OBJECTS", "DAYS LEFT", "USES", "HONOURED"].map(str::to_owned);
    let rows: Vec<[String; 7]> = std::iter::once(heads).chain(all.iter().map(row)).collect();
    let mut text = String::new();
    for row in &rows {
        for (column, cell) in row.iter().enumerate() {
            let width = rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
            // Nothing follows the last column.
            let padding = if column + 1 == row.len() { 0 } else { width + 2 - cell.chars().count() };
            text.push_str(cell);
            text.extend(std::iter::repeat_n(' ', padding));
        }
        text.push('\n');
    }
    text
}

fn row(waiver: &Listed) -> [String; 7] {
    let Listed { namespace, name, owner, rules, objects, days_left, uses, honoured, why, .. } = waiver;
    let rules: Vec<&str> = rules.iter().map(|rule| rule.as_str()).collect();
    let objects: Vec<String> = objects.iter().map(|object| format!("{}/{}", object.kind, object.name)).collect();
    let honoured = if *honoured { "yes".to_owned() } else { format!("no: {why}") };
    [
        format!("{namespace}/{name}"),
        format!("{} ({})", owner.team, owner.contact),
        rules.join(","),
        objects.join(","),
        days_left.to_string(),
        uses.to_string(),
        honoured,
    ]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn waiver(conditions: serde_json::Value) -> PolicyWaiver {
        let waiver = json!({
            "apiVersion": "mandate.dev/v1alpha1",
            "kind": "PolicyWaiver",
            "metadata": {"name": "legacy", "namespace": "finance", "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {
                "owner": {"team": "ledger", "contact": "#ledger"},
                "reason": "the ledger takes API keys only",
                "expiresAt": "2026-01-11T12:00:00Z",
                "rules": ["secret-env", "secret-volume"],
                "objects": [{"kind": "Deployment", "name": "web"}],
            },
            "status": {"uses": 3, "covers": 2, "conditions": conditions},
        });
        serde_json::from_value(waiver).unwrap()
    }

    fn ready(status: &str, message: &str) -> serde_json::Value {
        json!([{"type": "Ready", "status": status, "reason": "R", "message": message, "lastTransitionTime": "2026-01-01T00:00:00Z"}])
    }

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn a_list_names_owner_days_left_uses_and_whether_it_counts() {
        let counts = listed(&waiver(ready("True", "honoured")), at("2026-01-01T00:00:00Z"));
        let not = listed(&waiver(ready("False", "no ClusterAgentPolicy honours waivers")), at("2026-01-11T11:59:59Z"));
        let expected = "\
WAIVER          OWNER             RULES                     OBJECTS         DAYS LEFT  USES  HONOURED
finance/legacy  ledger (#ledger)  secret-env,secret-volume  Deployment/web  10         3     yes
finance/legacy  ledger (#ledger)  secret-env,secret-volume  Deployment/web  0          3     no: no ClusterAgentPolicy honours waivers
";
        assert_eq!(table(&[counts, not]), expected);
    }

    #[test]
    fn a_waiver_that_is_over_counts_no_more_whatever_its_status_says() {
        let over = listed(&waiver(ready("True", "honoured")), at("2026-01-11T12:00:00Z"));
        assert_eq!((over.honoured, over.why.as_str(), over.days_left), (false, "it expired at 2026-01-11T12:00:00Z", 0));
    }

    #[test]
    fn a_waiver_that_nobody_has_looked_at_does_not_count() {
        assert!(!listed(&waiver(json!([])), at("2026-01-01T00:00:00Z")).honoured);
    }
}
