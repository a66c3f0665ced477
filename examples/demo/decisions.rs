//! What an agent does with its authority is decided when it happens, and recorded.

use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use kube::api::{Patch, PatchParams, PostParams};
use kube::config::{AuthInfo, Cluster, Context, Kubeconfig, NamedAuthInfo, NamedCluster, NamedContext};
use kube::{Api, Client, Config};
use serde_json::{Value, json};

use super::bed::Bed;
use super::bed::mandate::{self, Authorizer};
use super::{LIMIT, NAMESPACE, Teller, mandate_api, start, token_named, until};

/// A gateway that asks, about one task.
struct Gateway {
    client: Client,
    token: String,
}

impl Gateway {
    /// It knows the authorizer's authority, and shows the token of its own ServiceAccount.
    async fn of(bed: &Bed, authorizer: &Authorizer, task: &str) -> Result<Self> {
        let secrets: Api<Secret> = Api::namespaced(bed.admin(), mandate::NAMESPACE);
        let data = bed
            .wait("the authorizer's certificate", LIMIT, || async { secrets.get(Authorizer::CERTIFICATE).await.ok()?.data })
            .await?;
        let authority = data.get("ca.crt").context("a certificate without its authority")?;
        let request = TokenRequest {
            spec: Some(TokenRequestSpec { audiences: Some(vec!["mandate".to_owned()]), ..TokenRequestSpec::default() }),
            ..TokenRequest::default()
        };
        let accounts: Api<ServiceAccount> = Api::namespaced(bed.admin(), "gateways");
        let own = accounts.create_subresource::<_, TokenRequest>("token", "gateway", &PostParams::default(), &request).await;
        let own = own
            .context("a token for the gateway")?
            .status
            .context("a token request without an answer")?
            .token
            .context("an answer without a token")?;
        let name = "authorizer".to_owned();
        let cluster = Cluster {
            server: Some(authorizer.url()),
            certificate_authority_data: Some(serde_json::to_value(authority)?.as_str().unwrap_or_default().to_owned()),
            ..Cluster::default()
        };
        let auth = AuthInfo { token: Some(secrecy::SecretString::from(own)), ..AuthInfo::default() };
        let kubeconfig = Kubeconfig {
            clusters: vec![NamedCluster { name: name.clone(), cluster: Some(cluster), ..NamedCluster::default() }],
            auth_infos: vec![NamedAuthInfo { name: name.clone(), auth_info: Some(auth), ..NamedAuthInfo::default() }],
            contexts: vec![NamedContext {
                name: name.clone(),
                context: Some(Context { cluster: name.clone(), user: Some(name.clone()), ..Context::default() }),
                ..NamedContext::default()
            }],
            current_context: Some(name),
            ..Kubeconfig::default()
        };
        Ok(Self { client: Client::try_from(Config::try_from(kubeconfig)?)?, token: token_named(bed, task, "mandate").await? })
    }

    /// Asks by AuthZEN whether the task may call a tool now.
    async fn ask(&self, tool: &str, arguments: Value) -> Result<Value> {
        let body = json!({
            "subject": {"type": "task", "id": "finance/invoices", "properties": {"token": self.token}},
            "action": {"name": "tools/call", "properties": arguments},
            "resource": {"type": "tool", "id": format!("{NAMESPACE}/{tool}")},
        });
        let request = axum::http::Request::post("/access/v1/evaluation")
            .header("content-type", "application/json")
            .body(serde_json::to_vec(&body)?)?;
        Ok(self.client.request(request).await?)
    }

    async fn permits(&self, tell: &Teller, tool: &str, arguments: Value) -> Result<()> {
        let shown = shown(tool, &arguments);
        let answer = self.ask(tool, arguments).await?;
        ensure!(answer["decision"] == true, "{shown} was refused: {answer}");
        let reuse = match answer["context"]["cache_for"].as_u64() {
            Some(0) => "for this once".to_owned(),
            seconds => format!("good for {} s", seconds.unwrap_or_default()),
        };
        tell.shown(format!("{shown}: permit, {reuse}"));
        Ok(())
    }

    async fn refuses(&self, tell: &Teller, tool: &str, arguments: Value, code: &str) -> Result<()> {
        let shown = shown(tool, &arguments);
        let answer = self.ask(tool, arguments).await?;
        ensure!(answer["decision"] == false, "{shown} was permitted");
        let reason = &answer["context"]["reasons"][0];
        ensure!(reason["code"] == code, "{shown} was refused for another reason: {answer}");
        tell.shown(format!("{shown}: deny, {code}"));
        tell.quote(answer["context"]["reason"].as_str().context("a refusal with a reason")?);
        Ok(())
    }
}

fn shown(tool: &str, arguments: &Value) -> String {
    match arguments.as_object().is_none_or(serde_json::Map::is_empty) {
        true => tool.to_owned(),
        false => format!("{tool} {arguments}"),
    }
}

/// The scene.
pub async fn decisions(bed: &Bed, tell: &Teller) -> Result<()> {
    tell.title("every action is decided when it happens: a gateway asks about the calls of one task");
    let authorizer = Authorizer::start(bed).await?;
    mandate::apply(&bed.admin(), include_str!("../manifests/tools.yaml")).await?;
    start(bed, "invoices", "reconcile-invoices", "10m").await?;
    let gateway = Gateway::of(bed, &authorizer, "invoices").await?;
    until("the task to be known to the authorizer", Instant::now(), || async {
        gateway.ask("ledger/read", json!({})).await.is_ok_and(|answer| answer["decision"] == true)
    })
    .await?;
    gateway.permits(tell, "ledger/read", json!({})).await?;
    gateway.permits(tell, "ledger/post", json!({"amount": 900})).await?;
    gateway.refuses(tell, "ledger/post", json!({"amount": 5000}), "OutOfScope").await?;
    gateway.refuses(tell, "ledger/delete", json!({}), "OutOfScope").await?;
    gateway.permits(tell, "mail/send", json!({"to": "supplier@example.com"})).await?;
    gateway.permits(tell, "ledger/payroll", json!({})).await?;
    gateway.refuses(tell, "mail/send", json!({"to": "supplier@example.com"}), "RuleDenied").await?;

    tell.title("the task ends: so do the answers, though its token is not dead yet");
    let ended = Instant::now();
    let tasks: Api<mandate_api::AgentTask> = Api::namespaced(bed.admin(), NAMESPACE);
    let end = Patch::Merge(json!({"spec": {"end": {"reason": "Completed"}}}));
    tasks.patch("invoices", &PatchParams::default(), &end).await?;
    let gone = until("the answers to end", ended, || async {
        gateway.ask("ledger/read", json!({})).await.is_ok_and(|answer| answer["decision"] == false)
    })
    .await?;
    ensure!(gone.as_secs_f64() < 1.0, "answers ended after {gone:?} only");
    tell.shown(format!("ledger/read: deny after {} ms", gone.as_millis()));

    tell.title("each decision is in the audit log, in a chain that shows tampering");
    let dir = authorizer.end().await?;
    let dir = dir.to_str().context("a path that is UTF-8")?;
    let verified = mandate::run(&["audit", "verify", "--dir", dir])?;
    ensure!(verified.status.success(), "the audit log is not whole: {}", String::from_utf8_lossy(&verified.stderr));
    tell.quote(&String::from_utf8_lossy(&verified.stdout));
    let denied = mandate::printed(&["audit", "query", "--dir", dir, "--outcome", "deny"])?;
    tell.quote(&denied.lines().take(5).collect::<Vec<_>>().join("\n"));
    Ok(())
}
