//! The authorizer in a cluster: beside RBAC in the API server itself, and by AuthZEN with the
//! tokens that tasks really hold.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::{ListParams, Patch, PatchParams};
use kube::{Api, Client};
use mandate::api::{AgentIdentity, AgentPolicy, AgentTask, Phase};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::bed::mandate::{self as install, Mandate, NAMESPACE};
use crate::bed::{Bed, Process, free_ports};
use crate::place::{Outcome, Place, code};

const LIMIT: Duration = Duration::from_secs(30);
const CEILING: &str = "[{apiGroups: [''], resources: [configmaps], verbs: [get, list, patch, delete]}]";
pub(crate) const OBJECTS: &str = r#"
apiVersion: v1
kind: ConfigMap
metadata: {name: ledger, namespace: finance}
---
apiVersion: mandate.dev/v1alpha1
kind: AgentIdentity
metadata: {name: bot, namespace: finance}
spec: {owner: {team: t, contact: c}, purpose: p, audiences: ["https://ledger.example"]}
---
apiVersion: mandate.dev/v1alpha1
kind: ToolServer
metadata: {name: ledger, namespace: finance}
spec:
  owner: {team: t, contact: c}
  audience: https://ledger.example
  tools:
  - {name: read, effect: read, classification: internal}
  - {name: export, effect: export, classification: internal}
---
apiVersion: mandate.dev/v1alpha1
kind: TaskScope
metadata: {name: keep, namespace: finance}
spec:
  intent: Keep the ledger
  kubernetes: {rules: [{apiGroups: [""], resources: [configmaps], verbs: [get, list, patch, delete]}]}
  tools: [{server: ledger, names: [read]}]
  delegation: {to: [bot]}
  credentials:
  - {name: kubernetes, serviceAccountToken: {}}
  - {name: ledger, serviceAccountToken: {audience: "https://ledger.example"}}
"#;

/// A control plane that asks the authorizer, with Mandate on it.
pub(crate) struct Scene<'a> {
    pub bed: &'a Bed,
    pub authorizer: Process,
    pub files: Files,
    _mandate: Mandate<'a>,
}

/// What the authorizer needs to run beside a bed.
pub(crate) struct Files {
    port: u16,
    admin: u16,
    dir: tempdir::Dir,
    /// Further flags of the authorizer.
    pub flags: Vec<String>,
}

/// A directory that goes with its owner.
mod tempdir {
    pub struct Dir(pub std::path::PathBuf);

    impl Drop for Dir {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }
}

/// The bearer tokens of the API server and of a gateway, which these tests make up.
const API_SERVER: &str = "token-of-the-api-server";
pub(crate) const GATEWAY: &str = "token-of-a-gateway";

impl Files {
    pub(crate) fn write(failure_policy: &str) -> Result<Self> {
        let [port, admin] = free_ports()?;
        let dir = tempdir::Dir(Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("authorizer-{port}")));
        std::fs::create_dir_all(&dir.0)?;
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned(), "127.0.0.1".to_owned()])?;
        let write = |name: &str, text: &str| std::fs::write(dir.0.join(name), text);
        write("tls.crt", &made.cert.pem())?;
        write("tls.key", &made.signing_key.serialize_pem())?;
        let digest = |token: &str| Sha256::digest(token).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let trust = json!({"enforcementPoints": [
            {"name": "api-server", "tokenSha256": digest(API_SERVER)},
            {"name": "gateway", "tokenSha256": digest(GATEWAY)},
        ]});
        write("trust.yaml", &trust.to_string())?;
        let file = |name: &str| dir.0.join(name).display().to_string();
        let kubeconfig = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "mandate",
            "clusters": [{"name": "mandate", "cluster": {
                "server": format!("https://127.0.0.1:{port}/kubernetes/authorize"), "certificate-authority": file("tls.crt"),
            }}],
            "users": [{"name": "api-server", "user": {"token": API_SERVER}}],
            "contexts": [{"name": "mandate", "context": {"cluster": "mandate", "user": "api-server"}}],
        });
        write("kubeconfig", &kubeconfig.to_string())?;
        let configuration = json!({
            "apiVersion": "apiserver.config.k8s.io/v1", "kind": "AuthorizationConfiguration",
            "authorizers": [
                {"type": "Webhook", "name": "mandate", "webhook": {
                    "timeout": "3s", "subjectAccessReviewVersion": "v1", "matchConditionSubjectAccessReviewVersion": "v1",
                    "authorizedTTL": "1s", "unauthorizedTTL": "1s",
                    "cacheAuthorizedRequests": false, "cacheUnauthorizedRequests": false,
                    "failurePolicy": failure_policy,
                    "connectionInfo": {"type": "KubeConfigFile", "kubeConfigFile": file("kubeconfig")},
                    "matchConditions": [
                        {"expression": "request.user.startsWith('system:serviceaccount:') && request.user.contains(':mandate-task-')"},
                    ],
                }},
                {"type": "Node", "name": "node"},
                {"type": "RBAC", "name": "rbac"},
            ],
        });
        write("authorization.yaml", &configuration.to_string())?;
        Ok(Self { port, admin, dir, flags: vec![] })
    }

    fn path(&self, name: &str) -> String {
        self.dir.0.join(name).display().to_string()
    }

    pub(crate) async fn bed(&self, name: &str) -> Result<Bed> {
        let flag = format!("--authorization-config={}", self.path("authorization.yaml"));
        Bed::options(name).apiserver_flag(flag).start().await
    }

    pub(crate) async fn start(&self, bed: &Bed) -> Result<Process> {
        let kubeconfig = bed.service_account_kubeconfig(NAMESPACE, "mandate-authorizer").await?;
        let (listen, admin) = (format!("127.0.0.1:{}", self.port), format!("127.0.0.1:{}", self.admin));
        let (cert, key, trust, audit) = (self.path("tls.crt"), self.path("tls.key"), self.path("trust.yaml"), self.path("audit"));
        let kubeconfig = kubeconfig.display().to_string();
        let args = [
            "run",
            "authorizer",
            "--kubeconfig",
            &kubeconfig,
            "--listen",
            &listen,
            "--admin",
            &admin,
            "--cert-file",
            &cert,
            "--key-file",
            &key,
            "--trust",
            &trust,
            "--audit-dir",
            &audit,
        ];
        let args: Vec<&str> = args.into_iter().chain(self.flags.iter().map(String::as_str)).collect();
        let authorizer = bed.process("authorizer", install::binary()?, &args, &[])?;
        install::ready(bed, "authorizer", self.admin).await?;
        Ok(authorizer)
    }

    /// Asks by AuthZEN, and gives back status and answer.
    pub(crate) fn ask(&self, bearer: &str, subject: &Value, tool: &str) -> Result<(String, Value)> {
        let body = json!({"subject": subject, "action": {"name": "tools/call"}, "resource": {"type": "tool", "id": tool}});
        let url = format!("https://127.0.0.1:{}/access/v1/evaluation", self.port);
        let output = std::process::Command::new("curl")
            .args([
                "--silent",
                "--show-error",
                "--cacert",
                &self.path("tls.crt"),
                "--write-out",
                "\n%{http_code}",
                "--data-binary",
                "@-",
            ])
            .args(["--header", "Content-Type: application/json", "--header", &format!("Authorization: Bearer {bearer}"), &url])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .and_then(|mut child| {
                use std::io::Write as _;
                child.stdin.take().unwrap().write_all(body.to_string().as_bytes())?;
                child.wait_with_output()
            })?;
        let text = String::from_utf8(output.stdout)?;
        let (answer, status) = text.rsplit_once('\n').context("curl wrote no status")?;
        Ok((status.to_owned(), serde_json::from_str(answer).unwrap_or(Value::Null)))
    }
}

impl<'a> Scene<'a> {
    pub(crate) async fn on(bed: &'a Bed, files: Files) -> Result<Self> {
        let mandate = Mandate::install(bed, &["finance"], CEILING).await?;
        let authorizer = files.start(bed).await?;
        install::apply(&bed.admin(), OBJECTS).await?;
        Ok(Self { bed, authorizer, files, _mandate: mandate })
    }

    /// Starts a task, and gives back one of its credentials.
    pub(crate) async fn start(&self, name: &str, credential: &str) -> Result<String> {
        self.start_below(&Value::Null, name, credential).await
    }

    /// The same below another task.
    async fn start_below(&self, parent: &Value, name: &str, credential: &str) -> Result<String> {
        let task = json!({
            "apiVersion": "mandate.dev/v1alpha1", "kind": "AgentTask", "metadata": {"name": name, "namespace": "finance"},
            "spec": {"agent": "bot", "scope": "keep", "objective": "Keep the ledger", "parent": parent},
        });
        install::apply(&self.bed.admin(), &task.to_string()).await?;
        let tasks: Api<AgentTask> = Api::namespaced(self.bed.admin(), "finance");
        let secret = self
            .bed
            .wait("the task to be active", LIMIT, || async {
                let status = tasks.get(name).await.ok()?.status?;
                status.secret.filter(|_| status.phase == Some(Phase::Active))
            })
            .await?;
        self.credential(&secret, credential).await
    }

    async fn credential(&self, secret: &str, name: &str) -> Result<String> {
        let secret = Api::<Secret>::namespaced(self.bed.admin(), "finance").get(secret).await?;
        let data = secret.data.context("the Secret is empty")?;
        Ok(String::from_utf8(data.get(name).with_context(|| format!("no credential `{name}`"))?.0.clone())?)
    }

    async fn policy(&self, rules: Value) -> Result<()> {
        policy(&self.bed.admin(), "finance", rules).await
    }
}

async fn policy(client: &Client, namespace: &str, rules: Value) -> Result<()> {
    let policy = json!({
        "apiVersion": "mandate.dev/v1alpha1", "kind": "AgentPolicy", "metadata": {"name": "agents", "namespace": namespace},
        "spec": {"owner": {"team": "t", "contact": "c"}, "rules": rules},
    });
    install::apply(client, &policy.to_string()).await
}

async fn get(client: &Client) -> u16 {
    code(Api::<ConfigMap>::namespaced(client.clone(), "finance").get("ledger").await)
}

async fn patch(client: &Client) -> u16 {
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), "finance");
    code(api.patch("ledger", &PatchParams::default(), &Patch::Merge(json!({"data": {"a": "b"}}))).await)
}

/// How long until a request is answered so.
async fn within(limit: Duration, wanted: u16, mut ask: impl AsyncFnMut() -> u16) -> Result<Duration> {
    let begun = Instant::now();
    while ask().await != wanted {
        ensure!(begun.elapsed() < limit, "no {wanted} within {limit:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(begun.elapsed())
}

#[tokio::test]
async fn a_rule_denies_a_tasks_token_what_rbac_allows() -> Outcome {
    let files = Files::write("Deny")?;
    let bed = files.bed("authorizer-deny").await?;
    let mut scene = Scene::on(&bed, files).await?;
    let token = scene.start("keeper", "kubernetes").await?;
    let task = scene.bed.token_client(&token)?;
    assert_eq!((get(&task).await, patch(&task).await), (200, 200), "RBAC allows both, and no rule forbids them");

    scene
        .policy(json!([{"name": "look-only", "deny": "this week the ledger is only looked at",
        "match": {"tools": ["kubernetes/patch"], "resources": ["configmaps/ledger"]}}]))
        .await?;
    let took = within(Duration::from_secs(2), 403, async || patch(&task).await).await?;
    assert!(took < Duration::from_secs(1), "a policy took {took:?}");
    let api: Api<ConfigMap> = Api::namespaced(task.clone(), "finance");
    let refused = api.patch("ledger", &PatchParams::default(), &Patch::Merge(json!({"data": {}}))).await.unwrap_err().to_string();
    assert!(refused.contains("this week the ledger is only looked at") && refused.contains("decision"), "{refused}");
    assert_eq!(get(&task).await, 200, "another verb");

    // After a read that a rule remembers, the same write is another matter.
    scene
        .policy(json!([{"name": "look-then-do", "deny": "not after you have looked",
        "match": {"effects": ["write"]}, "when": {"history": {"called": ["kubernetes/get"]}}}]))
        .await?;
    within(Duration::from_secs(2), 403, async || patch(&task).await).await?;

    // Suspension reaches the API server's answers before the controller has taken anything back.
    scene.policy(json!([])).await?;
    within(Duration::from_secs(2), 200, async || patch(&task).await).await?;
    let agents: Api<AgentIdentity> = Api::namespaced(scene.bed.admin(), "finance");
    agents.patch("bot", &PatchParams::default(), &Patch::Merge(json!({"spec": {"suspend": true}}))).await?;
    let took = within(Duration::from_secs(2), 403, async || get(&task).await).await?;
    assert!(took < Duration::from_secs(1), "a suspension took {took:?}");

    // The cluster goes on without the authorizer; tasks do not, as was configured.
    agents.patch("bot", &PatchParams::default(), &Patch::Merge(json!({"spec": {"suspend": false}}))).await?;
    let second = scene.bed.token_client(&scene.start("second", "kubernetes").await?)?;
    within(Duration::from_secs(2), 200, async || get(&second).await).await?;
    scene.authorizer.kill9().await?;
    let answer = get(&second).await;
    // The API server calls it an internal error that its authorizer is gone.
    assert!([403, 500].contains(&answer), "failurePolicy Deny: {answer}");
    let configs: Api<ConfigMap> = Api::namespaced(scene.bed.admin(), "finance");
    configs.list(&ListParams::default()).await?;
    let user = scene.bed.user("eve", &[])?;
    assert_eq!(get(&user).await, 403, "RBAC answers for everybody else");
    scene.authorizer = scene.files.start(scene.bed).await?;
    within(Duration::from_secs(2), 200, async || get(&second).await).await?;
    Ok(())
}

#[tokio::test]
async fn without_the_authorizer_rbac_decides_where_that_was_configured() -> Outcome {
    let files = Files::write("NoOpinion")?;
    let bed = files.bed("authorizer-open").await?;
    let mut scene = Scene::on(&bed, files).await?;
    let task = scene.bed.token_client(&scene.start("keeper", "kubernetes").await?)?;
    scene.policy(json!([{"name": "no", "deny": "no", "match": {"tools": ["kubernetes/*"]}}])).await?;
    within(Duration::from_secs(2), 403, async || get(&task).await).await?;
    scene.authorizer.kill9().await?;
    assert_eq!(get(&task).await, 200, "failurePolicy NoOpinion");
    Ok(())
}

#[tokio::test]
async fn a_tool_is_called_by_the_tasks_own_token_and_no_other() -> Outcome {
    let files = Files::write("Deny")?;
    let bed = files.bed("authorizer-authzen").await?;
    let scene = Scene::on(&bed, files).await?;
    let token = scene.start("keeper", "ledger").await?;
    let kubernetes = {
        let tasks: Api<AgentTask> = Api::namespaced(scene.bed.admin(), "finance");
        let secret = tasks.get("keeper").await?.status.and_then(|status| status.secret).context("no secret")?;
        scene.credential(&secret, "kubernetes").await?
    };
    let by = |token: &str| json!({"type": "task", "id": "finance/keeper", "properties": {"token": token}});
    let ask = |bearer: &str, subject: &Value, tool: &str| scene.files.ask(bearer, subject, tool);
    let answer = scene.bed.wait("the server, whose audience the token has, and the task to be known", LIMIT, || async {
        let (status, answer) = ask(GATEWAY, &by(&token), "finance/ledger/read").ok()?;
        (answer["decision"] == true).then_some(status)
    });
    assert_eq!(answer.await?, "200");
    let (_, answer) = ask(GATEWAY, &by(&token), "finance/ledger/export")?;
    assert_eq!(answer["context"]["reasons"][0]["code"], "OutOfScope", "{answer}");

    // A token for the API server is none for a tool, ids prove nothing, and strangers may not ask.
    let (_, answer) = ask(GATEWAY, &by(&kubernetes), "finance/ledger/read")?;
    assert_eq!(answer["decision"], json!(false), "{answer}");
    let (_, answer) = ask(GATEWAY, &json!({"type": "task", "id": "finance/keeper"}), "finance/ledger/read")?;
    assert_eq!(answer["decision"], json!(false), "{answer}");
    assert_eq!(ask("somebody", &by(&token), "finance/ledger/read")?.0, "401");

    // An enforcement point that the API server knows, and that may ask by RBAC.
    install::apply(
        &scene.bed.admin(),
        r"
{apiVersion: v1, kind: Namespace, metadata: {name: gateways}}
---
{apiVersion: v1, kind: ServiceAccount, metadata: {name: gateway, namespace: gateways}}
---
{apiVersion: v1, kind: ServiceAccount, metadata: {name: stranger, namespace: gateways}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: gateway-may-ask}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: mandate-enforcement-point}
subjects: [{kind: ServiceAccount, name: gateway, namespace: gateways}]
",
    )
    .await?;
    let gateway = audience_token(&scene, "gateway", "mandate").await?;
    assert_eq!(ask(&gateway, &by(&token), "finance/ledger/read")?.1["decision"], json!(true));
    let stranger = audience_token(&scene, "stranger", "mandate").await?;
    assert_eq!(ask(&stranger, &by(&token), "finance/ledger/read")?.0, "401", "RBAC gives it no `evaluate`");

    // A task below it is decided for both, and the audit log says so.
    let child = scene.start_below(&json!("keeper"), "helper", "ledger").await?;
    let by_child = |token: &str| json!({"type": "task", "id": "finance/helper", "properties": {"token": token}});
    let answer = scene.bed.wait("the child to be known", LIMIT, || async {
        let answer = ask(GATEWAY, &by_child(&child), "finance/ledger/read").ok()?.1;
        (answer["decision"] == json!(true)).then_some(answer)
    });
    let answer = answer.await?;
    assert_eq!(answer["context"]["chain"], json!(["finance/keeper", "finance/helper"]));

    // A scope that grows gives nothing to tasks that run.
    install::apply(&scene.bed.admin(), &OBJECTS.replace("names: [read]", "names: [read, export]")).await?;
    scene
        .bed
        .wait("the wider scope to be known", LIMIT, || async {
            let answer = ask(GATEWAY, &by(&token), "finance/ledger/export").ok()?.1;
            answer["context"]["reason"].as_str()?.contains("but not when task `keeper` started").then_some(())
        })
        .await?;

    // The end of the task is the end of its answers, long before the token dies.
    let tasks: Api<AgentTask> = Api::namespaced(scene.bed.admin(), "finance");
    tasks.patch("keeper", &PatchParams::default(), &Patch::Merge(json!({"spec": {"end": {"reason": "Completed"}}}))).await?;
    let begun = Instant::now();
    while ask(GATEWAY, &by(&token), "finance/ledger/read")?.1["decision"] == json!(true) {
        assert!(begun.elapsed() < Duration::from_secs(1), "a task that ended is still answered");
    }
    let (_, answer) = ask(GATEWAY, &by_child(&child), "finance/ledger/read")?;
    assert_eq!(answer["decision"], json!(false), "a task below one that ended is still answered: {answer}");
    Ok(())
}

#[tokio::test]
async fn a_policy_that_the_authorizer_could_not_use_is_not_let_in() -> Outcome {
    let place = Place::fresh().await?;
    let refused = |rules: Value| async {
        let error = policy(&place.bed.admin(), &place.namespace, rules).await.unwrap_err();
        format!("{error:#}")
    };
    let said = refused(json!([{"name": "r", "deny": "d", "when": {"cedar": "true"}}])).await;
    assert!(
        said.contains("only a ClusterAgentPolicy may hold an expression") && said.contains("spec.rules[0].when.cedar"),
        "{said}"
    );
    let said = refused(json!([{"name": "r", "deny": "d", "when": {"time": {"zone": "Mars/Olympus"}}}])).await;
    assert!(said.contains("`Mars/Olympus` is no time zone"), "{said}");
    let said = refused(json!([{"name": "r", "deny": "d", "limit": {"count": 1}}])).await;
    assert!(said.contains("exactly one of"), "{said}");
    let policies: Api<AgentPolicy> = Api::namespaced(place.bed.admin(), &place.namespace);
    assert!(policies.get_opt("agents").await?.is_none());
    Ok(())
}

async fn audience_token(scene: &Scene<'_>, account: &str, audience: &str) -> Result<String> {
    use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
    use k8s_openapi::api::core::v1::ServiceAccount;
    let accounts: Api<ServiceAccount> = Api::namespaced(scene.bed.admin(), "gateways");
    let request = TokenRequest {
        spec: Some(TokenRequestSpec { audiences: Some(vec![audience.to_owned()]), ..TokenRequestSpec::default() }),
        ..TokenRequest::default()
    };
    let answer = accounts.create_token_request(account, &kube::api::PostParams::default(), &request).await?;
    Ok(answer.status.and_then(|status| status.token).unwrap_or_default())
}
