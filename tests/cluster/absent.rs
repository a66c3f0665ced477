//! What holds while a part of Mandate is not there? Authority still runs out where the
//! controller is gone for good; guarded namespaces are closed where the webhook is down, and
//! everything else goes on; and the webhook mends its own certificate.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::{MutatingWebhookConfiguration, ValidatingWebhookConfiguration};
use k8s_openapi::api::authentication::v1::TokenRequest;
use k8s_openapi::api::core::v1::{Node, Pod, Secret, ServiceAccount};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt as _};
use mandate::api::{AgentIdentity, AgentTask, Phase};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, date_time_ymd};
use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject as _};
use serde_json::{Value, json};
use tokio::net::TcpStream;

use crate::bed::mandate::{Mandate, NAMESPACE};
use crate::bed::{self, Bed};
use crate::crash::alone;
use crate::place::{CEILING, Outcome, Place, code, now, refusal, rule, send, status, until};

/// The API server issues no token that lives shorter.
const TOKEN_LIFE: i64 = 600;
/// The API server lets an expired token pass for so long, for clocks that are behind
/// (go-jose, `DefaultLeeway`), and remembers a good one for ten seconds.
const LEEWAY: i64 = 75;

/// A pod that nothing is wrong with.
fn pod(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"automountServiceAccountToken": false, "containers": [{"name": "agent", "image": "registry.example.com/agent:1"}]},
    })
}

fn pod_of(task: &str) -> Value {
    let mut pod = pod(task);
    pod["metadata"]["labels"] = json!({"mandate.dev/task": task});
    pod
}

/// Until when a token counts, as it says itself.
fn expiry(token: &str) -> Result<i64> {
    let payload = URL_SAFE_NO_PAD.decode(token.split('.').nth(1).context("no token")?)?;
    serde_json::from_slice::<Value>(&payload)?["exp"].as_i64().context("a token without an end")
}

/// A node, for the API server: what the kubelet of a node may ask for.
struct Kubelet {
    accounts: Api<ServiceAccount>,
}

impl Kubelet {
    async fn on(place: &Place<'_>, node: &str) -> Result<Self> {
        let object: Node = serde_json::from_value(json!({"metadata": {"name": node}}))?;
        Api::<Node>::all(place.admin.clone()).create(&PostParams::default(), &object).await?;
        let client = place.bed.user(&format!("system:node:{node}"), &["system:nodes"])?;
        Ok(Self { accounts: Api::namespaced(client, &place.namespace) })
    }

    /// A token for the API server as the pod's ServiceAccount, bound to the pod.
    async fn token(&self, pod: &Pod, seconds: i64) -> Result<String, kube::Error> {
        let account = pod.spec.as_ref().and_then(|spec| spec.service_account_name.clone()).unwrap_or_default();
        let bound = json!({"apiVersion": "v1", "kind": "Pod", "name": pod.name_any(), "uid": pod.uid()});
        let request = json!({"spec": {"audiences": [], "expirationSeconds": seconds, "boundObjectRef": bound}});
        let request: TokenRequest = serde_json::from_value(request).map_err(kube::Error::SerdeError)?;
        let answer = self.accounts.create_token_request(&account, &PostParams::default(), &request).await?;
        Ok(answer.status.unwrap_or_default().token.unwrap_or_default())
    }
}

/// The dead man's switch. It waits for a token to run out, which takes eleven minutes.
#[tokio::test]
async fn a_task_whose_controller_is_gone_for_good_holds_nothing_one_token_life_after_its_deadline() -> Outcome {
    let bed = Bed::start("absent").await?;
    let mut mandate = Mandate::install(&bed, &["live"], CEILING).await?;
    let place = Place::on(&bed, "live").await?;
    place.agent(json!({"audiences": ["https://ledger"]})).await?;
    let credentials = json!([{"name": "ledger", "serviceAccountToken": {"audience": "https://ledger"}}]);
    let kubernetes = json!({"rules": [rule("get", "configmaps", &["ledger"])]});
    place.scope("both", json!({"kubernetes": kubernetes, "credentials": credentials})).await?;
    let kubelet = Kubelet::on(&place, "n1").await?;
    let task = place.start("task", "both", json!({"ttl": "40s"})).await?;
    let deadline = status(&task).expires_at.context("a deadline")?.0;
    mandate.controller.kill9().await?;

    // Until then it works as if nothing had happened, and new pods end with the task.
    let bearer = place.bearer(&task).await?;
    assert_eq!(bearer.get("ledger").await, 200);
    let pods: Api<Pod> = Api::namespaced(place.alice(), &place.namespace);
    let mut worker = pod_of("task");
    worker["spec"]["nodeName"] = json!("n1");
    let worker = pods.create(&PostParams::default(), &serde_json::from_value(worker)?).await?;
    let left = worker.spec.as_ref().and_then(|spec| spec.active_deadline_seconds).context("a pod that the kubelet ends")?;
    let ends = worker.creation_timestamp().context("a time of creation")?.0.as_second() + left;
    assert!(ends <= deadline.as_second() + 1, "the pod may run until {ends}, its task until {deadline}");
    // The API server's authorizer of nodes learns of the pod by a watch.
    let by_kubelet = until("the kubelet to get a token", || async { kubelet.token(&worker, TOKEN_LIFE).await.ok() }).await?;
    let by_kubelet = bed.token_client(&by_kubelet).map(|client| (client, by_kubelet))?;
    let ledger = place.credential(&task, "ledger").await?;

    bed::wait("the deadline to pass", Duration::from_secs(60), || async { (now() >= deadline).then_some(()) }).await?;
    let passed = "task `task` passed its deadline";
    let said = refusal(kubelet.token(&worker, TOKEN_LIFE).await)?;
    assert!(said.code == 403 && said.message.contains(passed), "the kubelet's renewal: {}", said.message);
    let mut late = pod_of("task");
    late["metadata"]["name"] = json!("late");
    let said = refusal(pods.create(&PostParams::default(), &serde_json::from_value(late)?).await)?;
    assert!(said.code == 403 && said.message.contains(passed), "a new pod: {}", said.message);
    // What is left is what was issued before, and it is not renewed.
    let after = place.active("task").await?;
    assert_eq!(status(&after).credentials, status(&task).credentials, "somebody renewed");
    let tokens = [&bearer.token, &by_kubelet.1, &ledger];
    for token in tokens {
        let longest = deadline.as_second() + TOKEN_LIFE;
        assert!(expiry(token)? <= longest, "a token lives until {}, past {longest}", expiry(token)?);
    }

    let last = tokens.into_iter().map(|token| expiry(token)).collect::<Result<Vec<_>>>()?.into_iter().max().unwrap_or_default();
    assert_eq!(bearer.get("ledger").await, 200, "it ended by something else than its token");
    let left = Duration::from_secs(u64::try_from(last - now().as_second()).unwrap_or_default());
    bed::wait("the tokens to run out", left + Duration::from_secs(5), || async { (now().as_second() > last).then_some(()) })
        .await?;
    let leeway = Duration::from_secs(LEEWAY.unsigned_abs());
    for (what, client) in [("the task's token", &bearer.client), ("the kubelet's token", &by_kubelet.0)] {
        bed::wait(&format!("{what} to be dead"), leeway, || async {
            (code(client.apiserver_version().await) == 401).then_some(())
        })
        .await?;
    }
    assert_eq!(bearer.get("ledger").await, 401);

    // And whoever comes back takes away what is left.
    mandate.restart_controller().await?;
    let task = place.in_phase("task", Phase::Ended).await?;
    assert_eq!(status(&task).reason.as_deref(), Some("Expired"));
    place.nothing_left().await?;
    Ok(())
}

/// A namespace where nothing is missing, yet.
async fn whole(mandate: &mut Mandate<'static>) -> Result<Place<'static>> {
    mandate.controller.kill9().await?;
    mandate.restart_controller().await?;
    let place = Place::on(mandate.bed(), "webhook").await?;
    place.agent(json!({})).await?;
    place.scope_to_read("read").await?;
    Ok(place)
}

/// Waits until the API server lets a pod into the namespace, for which it has to reach the
/// webhook and to trust it.
async fn lets_pods_in(place: &Place<'_>) -> Result<()> {
    let path = format!("{}?dryRun=All", place.path("v1", "pods"));
    until("a pod to be let in", || async {
        let reply = send(&place.admin, "POST", &path, &pod("probe")).await.ok()?;
        (reply.code == 201).then_some(())
    })
    .await
}

#[tokio::test]
async fn with_the_webhook_down_nothing_gets_into_guarded_namespaces_unseen_and_all_else_goes_on() -> Outcome {
    let mut mandate = alone().await?;
    let place = whole(&mut mandate).await?;
    place.put_agent("other", json!({})).await?;
    place.agent_ready("other").await?;
    let tasks = [("ended", "bot"), ("deleted", "bot"), ("suspended", "other")];
    let mut bearers = vec![];
    for (name, agent) in tasks {
        bearers.push(place.bearer(&place.start(name, "read", json!({"agent": agent})).await?).await?);
    }
    let mut old = pod("old");
    old["metadata"]["finalizers"] = json!(["example.com/kept"]);
    let (pods, secrets) = (place.path("v1", "pods"), place.path("v1", "secrets"));
    let made = send(&place.admin, "POST", &pods, &old).await?;
    assert_eq!(made.code, 201, "{}", made.message());
    mandate.webhook.kill9().await?;

    let closed = |what: &'static str, method: &'static str, path: String, body: Value| {
        let admin = place.admin.clone();
        async move {
            let reply = send(&admin, method, &path, &body).await?;
            let text = reply.message();
            ensure!(reply.code == 500 && text.contains("failed calling webhook"), "{what}: {} {text}", reply.code);
            Ok::<_, anyhow::Error>(())
        }
    };
    let legacy = json!({"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/service-account-token",
        "metadata": {"name": "legacy", "annotations": {"kubernetes.io/service-account.name": "default"}}});
    let token = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"audiences": []}});
    let debugger = json!({"spec": {"ephemeralContainers": [{"name": "debug", "image": "registry.example.com/debug:1"}]}});
    let scope = json!({"apiVersion": "mandate.dev/v1alpha1", "kind": "TaskScope", "metadata": {"name": "late"}, "spec": {"intent": "Is late"}});
    closed("a pod", "POST", pods.clone(), pod("new")).await?;
    closed("a pod of a task", "POST", pods.clone(), pod_of("ended")).await?;
    closed("a debugging container", "PATCH", format!("{pods}/old/ephemeralcontainers"), debugger).await?;
    closed("a token", "POST", place.path("v1", "serviceaccounts/default/token"), token).await?;
    closed("a Secret with a token", "POST", secrets.clone(), legacy).await?;
    closed("a scope", "POST", place.path("mandate.dev/v1alpha1", "taskscopes"), scope).await?;
    let task = refusal(place.ask("late", "read", json!({})).await)?;
    assert!(task.code == 500 && task.message.contains("failed calling webhook"), "{}", task.message);

    let open = |what: &'static str, method: &'static str, path: String, body: Value| {
        let admin = place.admin.clone();
        async move {
            let reply = send(&admin, method, &path, &body).await?;
            ensure!(reply.code / 100 == 2, "{what}: {} {}", reply.code, reply.message());
            Ok::<_, anyhow::Error>(())
        }
    };
    for namespace in ["default", "kube-system", NAMESPACE] {
        let path = format!("/api/v1/namespaces/{namespace}/pods?dryRun=All");
        open("a pod elsewhere", "POST", path, pod("elsewhere")).await?;
    }
    let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "some"}, "spec": {}});
    open("a Lease", "POST", "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases?dryRun=All".into(), lease).await?;
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n9"}});
    open("a Node", "POST", "/api/v1/nodes?dryRun=All".into(), node).await?;
    let opaque = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "opaque"}, "stringData": {"a": "b"}});
    open("an ordinary Secret", "POST", secrets, opaque).await?;
    let template = json!({"metadata": {"labels": {"app": "web"}}, "spec": pod("web")["spec"]});
    let deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
        "spec": {"replicas": 0, "selector": {"matchLabels": {"app": "web"}}, "template": template}});
    open("a Deployment", "POST", place.path("apps/v1", "deployments"), deployment).await?;
    let running = json!({"status": {"phase": "Running"}});
    open("the status of a pod", "PATCH", format!("{pods}/old/status"), running).await?;
    open("a label of a pod", "PATCH", format!("{pods}/old"), json!({"metadata": {"labels": {"seen": "yes"}}})).await?;
    open("a deletion", "DELETE", format!("{pods}/old?gracePeriodSeconds=0"), Value::Null).await?;
    open("a finalizer", "PATCH", format!("{pods}/old"), json!({"metadata": {"finalizers": null}})).await?;
    until("the pod to be gone", || async { place.api::<Pod>().get_opt("old").await.ok()?.is_none().then_some(()) }).await?;

    place.end("ended", "Revoked").await?;
    place.change::<AgentIdentity>("other", json!({"spec": {"suspend": true}})).await?;
    Api::<AgentTask>::namespaced(place.alice(), &place.namespace).delete("deleted", &DeleteParams::background()).await?;
    for bearer in &bearers {
        bearer.loses("ledger").await?;
    }
    for (name, reason) in [("ended", "Revoked"), ("suspended", "AgentSuspended")] {
        let task = place.in_phase(name, Phase::Ended).await?;
        assert_eq!(status(&task).reason.as_deref(), Some(reason), "{name}");
    }
    place.nothing_left().await?;

    mandate.restart_webhook(&[]).await?;
    lets_pods_in(&place).await?;
    place.start("again", "read", json!({})).await?;
    place.end("again", "Completed").await?;
    Ok(())
}

/// What the webhook's Secret holds.
async fn certificate(place: &Place<'_>) -> Result<BTreeMap<String, String>> {
    let secrets: Api<Secret> = Api::namespaced(place.admin.clone(), NAMESPACE);
    let data = secrets.get("mandate-webhook-tls").await?.data.unwrap_or_default();
    data.into_iter().map(|(name, ByteString(bytes))| Ok((name, String::from_utf8(bytes)?))).collect()
}

/// Changes what the webhook's Secret holds; nothing takes an entry away.
async fn spoil(place: &Place<'_>, change: &BTreeMap<String, Option<String>>) -> Result<()> {
    let secrets: Api<Secret> = Api::namespaced(place.admin.clone(), NAMESPACE);
    let data: BTreeMap<&String, Option<ByteString>> =
        change.iter().map(|(name, text)| (name, text.clone().map(|text| ByteString(text.into_bytes())))).collect();
    secrets.patch("mandate-webhook-tls", &PatchParams::default(), &Patch::Merge(json!({"data": data}))).await?;
    Ok(())
}

/// Whom the API server trusts, in every registration.
async fn trusted(place: &Place<'_>) -> Result<Vec<String>> {
    let validating = Api::<ValidatingWebhookConfiguration>::all(place.admin.clone()).get("mandate").await?;
    let mutating = Api::<MutatingWebhookConfiguration>::all(place.admin.clone()).get("mandate").await?;
    let validating = validating.webhooks.into_iter().flatten().map(|webhook| webhook.client_config);
    let all = validating.chain(mutating.webhooks.into_iter().flatten().map(|webhook| webhook.client_config));
    let mut bundles =
        all.map(|config| Ok(String::from_utf8(config.ca_bundle.unwrap_or_default().0)?)).collect::<Result<Vec<_>>>()?;
    bundles.dedup();
    Ok(bundles)
}

/// The certificate that is served to whoever trusts this bundle.
async fn served(port: u16, bundle: &str) -> Result<CertificateDer<'static>> {
    let mut roots = RootCertStore::empty();
    for authority in CertificateDer::pem_slice_iter(bundle.as_bytes()) {
        roots.add(authority?)?;
    }
    let config = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(config));
    let stream = connector.connect(ServerName::try_from("127.0.0.1")?, TcpStream::connect(("127.0.0.1", port)).await?).await?;
    let chain = stream.get_ref().1.peer_certificates().context("a certificate")?;
    Ok(chain.first().context("a certificate")?.clone().into_owned())
}

#[tokio::test]
async fn a_webhook_that_comes_back_serves_the_certificate_that_is_stored() -> Outcome {
    let mut mandate = alone().await?;
    let place = whole(&mut mandate).await?;
    let before = certificate(&place).await?;
    let bundle = before["ca.crt"].clone();
    mandate.restart_webhook(&[]).await?;
    lets_pods_in(&place).await?;
    assert!(certificate(&place).await? == before, "the Secret changed");
    assert_eq!(trusted(&place).await?, [bundle.as_str()]);
    let stored = CertificateDer::from_pem_slice(before["tls.crt"].as_bytes())?;
    assert!(served(mandate.webhook_port(), &bundle).await? == stored, "another certificate is served");
    Ok(())
}

/// A serving certificate for the webhook's names by its own authority, which was over in 2020.
fn over(stored: &BTreeMap<String, String>) -> Result<BTreeMap<String, Option<String>>> {
    let key = KeyPair::from_pem(&stored["authority.key"])?;
    let issuer = Issuer::from_ca_cert_pem(&stored["authority.crt"], key)?;
    let names = ["mandate-webhook.mandate-system", "mandate-webhook.mandate-system.svc", "localhost", "127.0.0.1"];
    let mut params = CertificateParams::new(names.map(str::to_owned).to_vec())?;
    (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2020, 2, 1));
    let key = KeyPair::generate()?;
    let certificate = params.signed_by(&key, &issuer)?;
    Ok([("tls.crt".into(), Some(certificate.pem())), ("tls.key".into(), Some(key.serialize_pem()))].into())
}

/// An authority that was over in 2020.
fn authority_over() -> Result<BTreeMap<String, Option<String>>> {
    let mut params = CertificateParams::default();
    (params.not_before, params.not_after) = (date_time_ymd(2019, 1, 1), date_time_ymd(2020, 1, 1));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    let key = KeyPair::generate()?;
    let certificate = params.self_signed(&key)?.pem();
    let entries = [("authority.crt", certificate.clone()), ("authority.key", key.serialize_pem()), ("ca.crt", certificate)];
    Ok(entries.into_iter().map(|(name, text)| (name.to_owned(), Some(text))).collect())
}

#[tokio::test]
async fn a_webhook_certificate_that_is_corrupt_or_over_is_replaced_and_trusted() -> Outcome {
    let mut mandate = alone().await?;
    let place = whole(&mut mandate).await?;
    let whole = certificate(&place).await?;
    let all = |text: Option<&str>| whole.keys().map(|name| (name.clone(), text.map(str::to_owned))).collect::<BTreeMap<_, _>>();
    let only = |name: &str, text: &str| BTreeMap::from([(name.to_owned(), Some(text.to_owned()))]);
    // In the last two nobody is there when it happens.
    let spoiled = [
        ("a serving certificate that is none", only("tls.crt", "none"), true),
        ("a key of another certificate", only("tls.key", &KeyPair::generate()?.serialize_pem()), true),
        ("nothing but garbage", all(Some("garbage")), true),
        ("nothing at all", all(None), true),
        ("an authority that is over", authority_over()?, true),
        ("a serving certificate that is over", BTreeMap::new(), false),
        ("nothing but garbage, found at the start", all(Some("garbage")), false),
    ];
    for (what, mut change, is_running) in spoiled {
        if change.is_empty() {
            change = over(&certificate(&place).await?)?;
        }
        if !is_running {
            mandate.webhook.kill9().await?;
        }
        spoil(&place, &change).await?;
        if !is_running {
            mandate.restart_webhook(&[]).await?;
        }
        let port = mandate.webhook_port();
        until(&format!("{what} to be replaced"), || async {
            let stored = certificate(&place).await.ok()?;
            let spoiled = change.iter().any(|(name, text)| stored.get(name) == text.as_ref());
            let is_trusted = trusted(&place).await.ok()? == [stored.get("ca.crt")?.as_str()];
            let is_served = served(port, stored.get("ca.crt")?).await.is_ok();
            (!spoiled && is_trusted && is_served).then_some(())
        })
        .await?;
        lets_pods_in(&place).await.with_context(|| format!("after {what}"))?;
    }
    Ok(())
}
