//! `mandate run all`: every role in one process, as on a laptop.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use kube::Api;
use kube::api::PostParams;
use mandate::api::{AgentTask, Phase};
use serde_json::{Value, json};

use crate::bed::mandate::{self as install, NAMESPACE, printed};
use crate::bed::{Bed, free_ports};
use crate::place::Outcome;

const LIMIT: Duration = Duration::from_secs(30);
const OBJECTS: &str = include_str!("../../examples/manifests/finance.yaml");
const TOOLS: &str = include_str!("../../examples/manifests/tools.yaml");
const CEILING: &str = include_str!("../../examples/manifests/ceiling.yaml");

#[tokio::test]
async fn one_process_issues_admits_and_decides() -> Outcome {
    let bed = Bed::start("all").await?;
    let admin = bed.admin();
    for namespace in ["finance", NAMESPACE] {
        install::apply(&admin, &format!("{{apiVersion: v1, kind: Namespace, metadata: {{name: {namespace}}}}}")).await?;
    }
    install::kinds(&bed).await?;
    let [webhook, authorizer, probes] = free_ports()?;
    let (ceiling, audit) = (bed.dir().join("ceiling.yaml"), bed.dir().join("audit"));
    std::fs::write(&ceiling, CEILING)?;
    let url = format!("https://127.0.0.1:{webhook}");
    let ceiling = ceiling.display().to_string();
    let flags = ["--guard", "finance", "--ceiling", &ceiling, "--webhook-url", &url];
    install::apply(&admin, &printed(&[&["rbac"], flags.as_slice()].concat())?).await?;
    let [listen, decide, probe] = [webhook, authorizer, probes].map(|port| format!("127.0.0.1:{port}"));
    let (kubeconfig, audit) = (bed.kubeconfig().display().to_string(), audit.display().to_string());
    let mut args = vec!["run", "all", "--guard", "finance", "--kubeconfig", &kubeconfig, "--listen", &listen, "--admin", &probe];
    args.extend(["--authorizer-listen", &decide, "--audit-dir", &audit]);
    let mut process = bed.process("all", install::binary()?, &args, &[])?;
    install::apply(&admin, &printed(&[&["webhooks"], flags.as_slice()].concat())?).await?;
    install::ready(&bed, "process", probes).await?;

    install::apply(&admin, OBJECTS).await?;
    install::apply(&admin, TOOLS).await?;
    let task = json!({
        "apiVersion": "mandate.dev/v1alpha1", "kind": "AgentTask", "metadata": {"name": "october", "namespace": "finance"},
        "spec": {"agent": "invoice-bot", "scope": "reconcile-invoices", "objective": "Reconcile October"},
    });
    install::apply(&admin, &task.to_string()).await?;
    let tasks: Api<AgentTask> = Api::namespaced(admin.clone(), "finance");
    let secret = bed
        .wait("the task to be active", LIMIT, || async {
            let status = tasks.get("october").await.ok()?.status?;
            status.secret.filter(|_| status.phase == Some(Phase::Active))
        })
        .await?;
    assert!(tasks.get("october").await?.spec.requested_by.is_some(), "the webhook says who asked");

    let secret = Api::<Secret>::namespaced(admin.clone(), "finance").get(&secret).await?;
    let token = secret.data.context("an empty Secret")?.remove("mandate").context("no token for the authorizer")?;
    let gateway = token_of(&bed, "gateway").await?;
    let subject = json!({"type": "task", "id": "finance/october", "properties": {"token": String::from_utf8(token.0)?}});
    let answer = bed
        .wait("the task to be known to the authorizer", LIMIT, || async {
            ask(&decide, &gateway, &subject, "finance/ledger/read").ok().filter(|answer| answer["decision"] == true)
        })
        .await?;
    assert_eq!(answer["context"]["outcome"], "permit");
    let answer = ask(&decide, &gateway, &subject, "finance/ledger/delete")?;
    assert_eq!(answer["context"]["reasons"][0]["code"], "OutOfScope", "{answer}");

    process.stop().await?;
    let verified = install::run(&["audit", "verify", "--dir", &audit])?;
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stderr));
    Ok(bed.stop().await?)
}

/// A token by which a ServiceAccount of the gateways asks.
async fn token_of(bed: &Bed, account: &str) -> Result<String> {
    let accounts: Api<ServiceAccount> = Api::namespaced(bed.admin(), "gateways");
    let spec = TokenRequestSpec { audiences: Some(vec!["mandate".to_owned()]), ..TokenRequestSpec::default() };
    let request = TokenRequest { spec: Some(spec), ..TokenRequest::default() };
    let made: TokenRequest = accounts.create_subresource("token", account, &PostParams::default(), &request).await?;
    made.status.and_then(|status| status.token).context("no token")
}

fn ask(address: &str, bearer: &str, subject: &Value, tool: &str) -> Result<Value> {
    let body = json!({"subject": subject, "action": {"name": "tools/call"}, "resource": {"type": "tool", "id": tool}});
    let output = Command::new("curl")
        .args(["--silent", "--show-error", "--insecure", "--data", &body.to_string()])
        .args(["--header", "Content-Type: application/json", "--header", &format!("Authorization: Bearer {bearer}")])
        .arg(format!("https://{address}/access/v1/evaluation"))
        .output()?;
    serde_json::from_slice(&output.stdout).with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())
}
