//! Mandate's main job on a real API server, from an empty cluster to the last token gone.
//!
//! `make demo` runs it; it needs nothing but the toolchains. It ends by itself, and its exit
//! status tells whether everything it claims was seen. `KEEP=1` leaves the cluster and
//! Mandate running and prints how to reach and how to stop them.

#[path = "../tests/bed/mod.rs"]
mod bed;
#[path = "demo/decisions.rs"]
mod decisions;

use std::future::Future;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use ::mandate::api as mandate_api;
use anyhow::{Context as _, Result, bail, ensure};
use bed::Bed;
use bed::mandate::{self, Mandate};
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use kube::api::{DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt as _};
use serde_json::{Value, json};

const NAMESPACE: &str = "finance";
const LIMIT: Duration = Duration::from_secs(30);

#[tokio::main]
async fn main() -> ExitCode {
    match demo().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nthe demo failed: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Tells what is shown, and how long it took.
struct Teller(Instant);

impl Teller {
    fn title(&self, text: &str) {
        println!("\n[{:6.2} s] {text}", self.0.elapsed().as_secs_f64());
    }

    fn shown(&self, text: impl AsRef<str>) {
        println!("            ✓ {}", text.as_ref());
    }

    fn quote(&self, text: &str) {
        for line in text.lines() {
            println!("              | {line}");
        }
    }
}

async fn demo() -> Result<()> {
    let tell = Teller(Instant::now());
    tell.title("a real control plane: etcd, kube-apiserver, kube-controller-manager");
    let bed = Bed::options("demo").progress(|line| println!("              {line}")).start().await?;
    let result = scenes(&bed, &tell).await;
    match result {
        Ok(mandate) if std::env::var_os("KEEP").is_some() => {
            let Mandate { controller, webhook, .. } = mandate;
            let (controller_id, webhook_id, dir) = (controller.id(), webhook.id(), bed.dir().to_owned());
            controller.keep()?;
            webhook.keep()?;
            let kubeconfig = bed.keep()?;
            println!("\nkept: export KUBECONFIG={}", kubeconfig.display());
            println!("stop: kill {controller_id} {webhook_id}; sh {}/stop", dir.display());
            Ok(())
        }
        Ok(_) => {
            tell.title("everything above was seen to happen");
            Ok(())
        }
        Err(error) => {
            bed.fail();
            Err(error)
        }
    }
}

async fn scenes<'a>(bed: &'a Bed, tell: &Teller) -> Result<Mandate<'a>> {
    let admin = bed.admin();
    tell.title("Mandate is installed: definitions, roles, policies, webhooks; each role runs as its own account");
    let mandate = Mandate::install(bed, &[NAMESPACE], include_str!("manifests/ceiling.yaml")).await?;
    mandate::apply(&admin, include_str!("manifests/cluster.yaml")).await?;
    mandate::apply(&admin, include_str!("manifests/finance.yaml")).await?;
    tell.shown("examples/manifests applied: one agent, two scopes, one policy");
    two_tasks(bed, tell).await?;
    refusals(bed, tell).await?;
    pods(bed, tell).await?;
    decisions::decisions(bed, tell).await?;
    ends(bed, tell).await?;
    Ok(mandate)
}

/// `mandate task start` as alice, of the group that may ask for tasks.
async fn start(bed: &Bed, name: &str, scope: &str, ttl: &str) -> Result<()> {
    let output = try_start(bed, name, scope, ttl, None).await?;
    ensure!(
        output.status.success(),
        "task start failed: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

async fn try_start(bed: &Bed, name: &str, scope: &str, ttl: &str, on_behalf_of: Option<&str>) -> Result<std::process::Output> {
    let alice = bed.user_kubeconfig("alice", &["finance"])?;
    let alice = alice.to_str().context("a path that is UTF-8")?.to_owned();
    let mut args = vec!["task", "start", "--kubeconfig", &alice, "-n", NAMESPACE, "--name", name, "--agent", "invoice-bot"];
    args.extend(["--scope", scope, "--ttl", ttl, "--objective", "Show what Mandate does"]);
    args.extend(on_behalf_of.into_iter().flat_map(|person| ["--for", person]));
    let args: Vec<String> = args.into_iter().map(str::to_owned).collect();
    tokio::task::spawn_blocking(move || mandate::run(&args.iter().map(String::as_str).collect::<Vec<_>>())).await?
}

/// The token for the API server.
async fn token(bed: &Bed, task: &str) -> Result<String> {
    token_named(bed, task, "kubernetes").await
}

/// A token out of a task's Secret, as a pod of the task would read it.
async fn token_named(bed: &Bed, task: &str, name: &str) -> Result<String> {
    let task: mandate_api::AgentTask = Api::namespaced(bed.admin(), NAMESPACE).get(task).await?;
    let secret = task.status.and_then(|status| status.secret).context("a task with a Secret")?;
    let secret: Secret = Api::namespaced(bed.admin(), NAMESPACE).get(&secret).await?;
    let token = secret.data.and_then(|mut data| data.remove(name)).with_context(|| format!("a token `{name}`"))?;
    Ok(String::from_utf8(token.0)?)
}

/// HTTP status of reading a ConfigMap with a token.
async fn read(client: &Client, name: &str) -> Result<u16> {
    code(Api::<ConfigMap>::namespaced(client.clone(), NAMESPACE).get(name).await)
}

async fn write(client: &Client, name: &str) -> Result<u16> {
    let patch = Patch::Merge(json!({"data": {"written": "yes"}}));
    code(Api::<ConfigMap>::namespaced(client.clone(), NAMESPACE).patch(name, &PatchParams::default(), &patch).await)
}

fn code<T>(answer: Result<T, kube::Error>) -> Result<u16> {
    match answer {
        Ok(_) => Ok(200),
        Err(kube::Error::Api(status)) => Ok(status.code),
        Err(error) => Err(error.into()),
    }
}

async fn two_tasks(bed: &Bed, tell: &Teller) -> Result<()> {
    tell.title("a task starts, and its token does exactly what its scope says");
    let asked = Instant::now();
    let output = try_start(bed, "reconcile", "read-ledger", "10m", Some("alice")).await?;
    ensure!(output.status.success(), "task start failed: {}", String::from_utf8_lossy(&output.stderr));
    tell.shown(format!(
        "`mandate task start` by alice, on her own behalf: Ready after {} ms, command included",
        asked.elapsed().as_millis()
    ));
    let reader = bed.token_client(&token(bed, "reconcile").await?)?;
    expect(tell, "get configmap ledger-config", read(&reader, "ledger-config").await?, 200)?;
    expect(tell, "get configmap report", read(&reader, "report").await?, 403)?;
    expect(tell, "patch configmap ledger-config", write(&reader, "ledger-config").await?, 403)?;
    let secrets = Api::<Secret>::namespaced(reader.clone(), NAMESPACE).list(&ListParams::default()).await;
    expect(tell, "list secrets", code(secrets)?, 403)?;
    tell.title("a second task of the same agent holds other rights");
    let output = try_start(bed, "report-for-alice", "write-report", "10m", Some("alice")).await?;
    ensure!(!output.status.success(), "a task for alice was given what alice may not do herself");
    tell.shown("on behalf of alice, who may not write the report herself, it is refused");
    tell.quote(
        String::from_utf8_lossy(&output.stderr)
            .lines()
            .find(|line| line.contains("`alice` may not"))
            .context("a refusal that says who may not do what")?,
    );
    start(bed, "report", "write-report", "10m").await?;
    let writer = bed.token_client(&token(bed, "report").await?)?;
    expect(tell, "task report: patch configmap report", write(&writer, "report").await?, 200)?;
    expect(tell, "task report: get configmap ledger-config", read(&writer, "ledger-config").await?, 403)?;
    expect(tell, "task reconcile: patch configmap report", write(&reader, "report").await?, 403)
}

fn expect(tell: &Teller, what: &str, code: u16, wanted: u16) -> Result<()> {
    ensure!(code == wanted, "{what}: {code} instead of {wanted}");
    tell.shown(format!("{what}: {code}"));
    Ok(())
}

/// Applies an object that must be refused, and gives back the words.
async fn refused(client: &Client, object: &Value) -> Result<String> {
    let object: DynamicObject = serde_json::from_value(object.clone())?;
    match mandate::api_of(client, &object).await?.create(&PostParams::default(), &object).await {
        Ok(_) => bail!("{} was let in", object.name_any()),
        Err(kube::Error::Api(status)) => Ok(status.message.clone()),
        Err(error) => Err(error.into()),
    }
}

async fn refusals(bed: &Bed, tell: &Teller) -> Result<()> {
    let scope = |name: &str, resource: &str, verb: &str| {
        json!({"apiVersion": "mandate.dev/v1alpha1", "kind": "TaskScope", "metadata": {"name": name, "namespace": NAMESPACE},
            "spec": {"intent": "Too much", "kubernetes": {"rules": [{"apiGroups": [""], "resources": [resource], "verbs": [verb]}]}}})
    };
    tell.title("a scope beyond the cluster's ceiling is refused, even from a cluster administrator");
    let words = refused(&bed.admin(), &scope("beyond-ceiling", "secrets", "get")).await?;
    ensure!(words.contains("ceiling"), "{words}");
    tell.quote(&words);
    tell.title("a scope beyond its author is refused");
    let alice = bed.user("alice", &["finance"])?;
    let words = refused(&alice, &scope("beyond-author", "configmaps", "update")).await?;
    ensure!(words.contains("`alice` may not grant"), "{words}");
    tell.quote(&words);
    Ok(())
}

async fn pods(bed: &Bed, tell: &Teller) -> Result<()> {
    let alice = bed.user("alice", &["finance"])?;
    tell.title("pods with a static secret are denied, in each of five forms");
    for pod in mandate::objects(include_str!("manifests/static-secrets.yaml"))? {
        let words = refused(&alice, &serde_json::to_value(&pod)?).await?;
        let finding = words.lines().find(|line| line.starts_with("- [")).context("a denial that names a rule")?;
        tell.shown(format!("{} denied", pod.name_any()));
        tell.quote(finding);
    }
    tell.title("the same agent's pod with its task's label is rewritten and admitted");
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"name": "agent", "labels": {"mandate.dev/task": "reconcile"}},
        "spec": {"containers": [{"name": "agent", "image": "registry.example.com/agent:1"}]},
    }))?;
    let pod =
        Api::<Pod>::namespaced(alice, NAMESPACE).create(&PostParams::default(), &pod).await.context("create the task's pod")?;
    let spec = serde_json::to_value(pod.spec)?;
    let account = spec["serviceAccountName"].as_str().unwrap_or_default();
    ensure!(account.starts_with("mandate-task-reconcile-"), "it runs as {account}");
    tell.shown(format!("serviceAccountName: {account}"));
    ensure!(spec["automountServiceAccountToken"] == json!(false), "its token is mounted by default");
    tell.shown("automountServiceAccountToken: false");
    let deadline = spec["activeDeadlineSeconds"].as_i64().context("a deadline that the kubelet keeps")?;
    ensure!((1..=600).contains(&deadline), "its deadline is {deadline} s");
    tell.shown(format!("activeDeadlineSeconds: {deadline}"));
    let mounts = spec["containers"][0]["volumeMounts"].as_array().cloned().unwrap_or_default();
    for path in [mandate_api::names::CREDENTIALS_DIR, mandate_api::names::KUBERNETES_DIR] {
        ensure!(mounts.iter().any(|mount| mount["mountPath"] == path), "nothing is mounted at {path}");
        tell.shown(format!("short-lived credentials at {path}"));
    }
    let seconds = spec["volumes"]
        .as_array()
        .into_iter()
        .flatten()
        .find_map(|volume| volume["projected"]["sources"][0]["serviceAccountToken"]["expirationSeconds"].as_i64());
    ensure!(seconds.is_some_and(|seconds| seconds <= 600), "the projected token lives {seconds:?} s");
    tell.shown(format!(
        "projected token: expirationSeconds {} (Kubernetes would have injected 3607, which means one year)",
        seconds.unwrap_or_default()
    ));
    Ok(())
}

/// How long until a look says so, from `since`.
async fn until<F: Future<Output = bool>>(what: &str, since: Instant, mut look: impl FnMut() -> F) -> Result<Duration> {
    bed::wait(what, LIMIT, || {
        let seen = look();
        async move { seen.await.then_some(()) }
    })
    .await?;
    Ok(since.elapsed())
}

async fn ends(bed: &Bed, tell: &Teller) -> Result<()> {
    let tasks: Api<mandate_api::AgentTask> = Api::namespaced(bed.admin(), NAMESPACE);
    tell.title("the task ends: authority first, then the token itself");
    let reader = bed.token_client(&token(bed, "reconcile").await?)?;
    ensure!(read(&reader, "ledger-config").await? == 200, "the token does not work before the end");
    let ended = Instant::now();
    tasks.patch("reconcile", &PatchParams::default(), &Patch::Merge(json!({"spec": {"end": {"reason": "Completed"}}}))).await?;
    let gone =
        until("the authority to be gone", ended, || async { read(&reader, "ledger-config").await.is_ok_and(|code| code != 200) })
            .await?;
    ensure!(gone < Duration::from_secs(1), "the authority was gone after {gone:?} only");
    tell.shown(format!("403 after {} ms", gone.as_millis()));
    let dead =
        until("the token to be dead", ended, || async { read(&reader, "ledger-config").await.is_ok_and(|code| code == 401) })
            .await?;
    ensure!(dead < Duration::from_secs(11), "the token was dead after {dead:?} only");
    tell.shown(format!("401 after {:.1} s (the API server's token cache holds up to 10 s)", dead.as_secs_f64()));

    tell.title("the agent is suspended: all its tasks end");
    start(bed, "third", "read-ledger", "10m").await?;
    let clients = [bed.token_client(&token(bed, "report").await?)?, bed.token_client(&token(bed, "third").await?)?];
    let suspended = Instant::now();
    let identities: Api<mandate_api::AgentIdentity> = Api::namespaced(bed.admin(), NAMESPACE);
    let suspend = |on: bool| Patch::Merge(json!({"spec": {"suspend": on}}));
    identities.patch("invoice-bot", &PatchParams::default(), &suspend(true)).await?;
    let gone = until("both tasks to lose their authority", suspended, || async {
        let (one, other) = (read(&clients[0], "report").await, read(&clients[1], "ledger-config").await);
        one.is_ok_and(|code| code != 200) && other.is_ok_and(|code| code != 200)
    })
    .await?;
    tell.shown(format!("2 of 2 tasks without authority after {} ms", gone.as_millis()));
    for name in ["report", "third"] {
        let reason = bed::wait("the task to say why it ended", LIMIT, || async {
            tasks.get(name).await.ok()?.status?.ended_at.as_ref()?;
            tasks.get(name).await.ok()?.status?.reason
        })
        .await?;
        ensure!(reason == "AgentSuspended", "task {name} ended with reason {reason}");
        tell.shown(format!("task {name}: Ended, reason {reason}"));
    }
    identities.patch("invoice-bot", &PatchParams::default(), &suspend(false)).await?;

    tell.title("a task whose time is up ends by itself");
    bed::wait("the agent to be ready again", LIMIT, || async {
        let status = identities.get("invoice-bot").await.ok()?.status?;
        status.conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True").then_some(())
    })
    .await?;
    start(bed, "short", "read-ledger", "5s").await?;
    let reader = bed.token_client(&token(bed, "short").await?)?;
    ensure!(read(&reader, "ledger-config").await? == 200, "the short task's token does not work");
    let created = tasks.get("short").await?.metadata.creation_timestamp.context("a time of creation")?.0;
    until("the short task to lose its authority", Instant::now(), || async {
        read(&reader, "ledger-config").await.is_ok_and(|code| code != 200)
    })
    .await?;
    let lived = jiff::Timestamp::now().duration_since(created);
    ensure!((4.0..8.0).contains(&lived.as_secs_f64()), "it lived {lived}");
    tell.shown(format!("ttl 5s: without authority {:.1} s after its creation", lived.as_secs_f64()));
    Ok(())
}
