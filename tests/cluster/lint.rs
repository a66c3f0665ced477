//! `mandate lint --cluster`: manifests held to what stands in a cluster, as far as whoever asks
//! may see it.

use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::bed::{Bed, mandate::run};
use crate::place::{Outcome, Place};

/// The status, the findings as `rule path`, and what is noted.
fn lint(bed: &Bed, kubeconfig: &Path, manifest: &Value) -> Result<(Option<i32>, Vec<String>, String)> {
    static NUMBER: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
    let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let file = bed.dir().join(format!("lint-{number}.json"));
    std::fs::write(&file, manifest.to_string())?;
    let (file, kubeconfig) = (file.to_str().context("a path is text")?, kubeconfig.to_str().context("a path is text")?);
    let output = run(&["lint", file, "--format", "json", "--cluster", "--kubeconfig", kubeconfig])?;
    let notes = String::from_utf8(output.stderr)?;
    let report: Value = serde_json::from_slice(&output.stdout).with_context(|| notes.clone())?;
    let findings = report["findings"].as_array().context("a list of findings")?;
    let told = findings.iter().map(|finding| format!("{} {}", finding["rule"], finding["path"]).replace('"', "")).collect();
    Ok((output.status.code(), told, notes))
}

/// A pod with nothing wrong but, perhaps, its task.
fn pod(namespace: &str, task: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "worker", "namespace": namespace, "labels": {"mandate.dev/task": task}},
        "spec": {"containers": [{"name": "worker", "image": "example.com/worker"}]}
    })
}

#[tokio::test]
async fn a_manifest_is_held_to_the_tasks_of_its_cluster() -> Outcome {
    let place = Place::fresh().await?;
    place.agent(json!({})).await?;
    place.scope_to_read("read").await?;
    place.start("lives", "read", json!({})).await?;
    let dead = vec!["dead-task metadata.labels['mandate.dev/task']".to_owned()];
    let admin = place.bed.kubeconfig();
    assert_eq!(lint(place.bed, admin, &pod(&place.namespace, "lives"))?, (Some(0), vec![], String::new()));
    assert_eq!(lint(place.bed, admin, &pod(&place.namespace, "never-was"))?, (Some(1), dead, String::new()));
    Ok(())
}

#[tokio::test]
async fn what_may_not_be_seen_is_noted_and_nothing_is_made_of_it() -> Outcome {
    let place = Place::fresh().await?;
    let nobody = place.bed.user_kubeconfig("nobody", &[])?;
    let (status, findings, notes) = lint(place.bed, &nobody, &pod(&place.namespace, "never-was"))?;
    assert_eq!((status, findings), (Some(0), vec![]), "{notes}");
    for kind in ["agenttasks.mandate.dev", "clusteragentpolicies.mandate.dev", "serviceaccounts"] {
        assert!(notes.contains(&format!("you may not list {kind}, so")), "{notes}");
    }
    Ok(())
}

#[tokio::test]
async fn a_cluster_without_mandate_is_no_failure() -> Outcome {
    let bed = Bed::start("lint").await?;
    let (status, findings, notes) = lint(&bed, bed.kubeconfig(), &pod("default", "never-was"))?;
    assert_eq!((status, findings), (Some(0), vec![]), "{notes}");
    assert!(notes.contains("the cluster knows no agenttasks.mandate.dev; is Mandate installed there?"), "{notes}");
    bed.stop().await?;
    Ok(())
}
