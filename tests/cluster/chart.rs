//! Does the chart install what the binary says, and does Helm install it, upgrade it and
//! take it away again on a real API server?

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use k8s_openapi::api::admissionregistration::v1::ValidatingWebhookConfiguration;
use k8s_openapi::api::authentication::v1::TokenRequest;
use k8s_openapi::api::core::v1::{Namespace, Pod, Secret, ServiceAccount};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{DeleteParams, DynamicObject, ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt as _};
use mandate::api::KubernetesRule;
use mandate::install::{Certificates, Endpoint, Install, NAMESPACE, SecretSource};
use serde_json::{Value, json};

use crate::bed::Bed;
use crate::bed::mandate::{api_of, objects};

const CHART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/charts/mandate");

/// Kinds of which the chart renders what [`Install::objects`] holds and nothing else.
const INSTALLED: &[&str] = &[
    "ServiceAccount",
    "Secret",
    "ClusterRole",
    "ClusterRoleBinding",
    "Role",
    "RoleBinding",
    "ValidatingAdmissionPolicy",
    "ValidatingAdmissionPolicyBinding",
    "MutatingWebhookConfiguration",
    "ValidatingWebhookConfiguration",
];

/// A helm of version 4; built at the first call ever, unless HELM names one.
fn helm() -> &'static Path {
    static HELM: OnceLock<PathBuf> = OnceLock::new();
    HELM.get_or_init(|| {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/helm.sh");
        let output = Command::new(script).stderr(std::process::Stdio::inherit()).output().expect("tests/helm.sh runs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "tests/helm.sh failed: {text}");
        PathBuf::from(text.lines().last().expect("tests/helm.sh prints a path"))
    })
}

/// Runs helm on the chart, in a world without repositories, plugins or clusters of its own.
fn run(dir: &Path, args: &[&str]) -> Result<Output> {
    let own = |name: &str| dir.join("helm").join(name);
    Command::new(helm())
        .args(args)
        .env("HELM_CONFIG_HOME", own("config"))
        .env("HELM_CACHE_HOME", own("cache"))
        .env("HELM_DATA_HOME", own("data"))
        .env("KUBECONFIG", own("no-kubeconfig-was-given"))
        .output()
        .context("run helm")
}

fn succeeded(output: Output) -> Result<String> {
    ensure!(output.status.success(), "helm: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

fn template(values: &Value) -> Result<Vec<DynamicObject>> {
    let values = values.to_string();
    let args = ["template", "release", CHART, "--namespace", NAMESPACE, "--set-json", &values];
    objects(&succeeded(run(&std::env::temp_dir(), &args)?)?)
}

/// Objects by kind, namespace and name, without what Helm adds.
fn by_name(objects: impl IntoIterator<Item = Value>) -> BTreeMap<String, Value> {
    let helms = ["app.kubernetes.io/instance", "app.kubernetes.io/version", "app.kubernetes.io/managed-by", "helm.sh/chart"];
    let mut all = BTreeMap::new();
    for mut object in objects {
        let name =
            format!("{} {}/{}", object["kind"], object["metadata"]["namespace"], object["metadata"]["name"]).replace('"', "");
        for label in helms {
            if let Some(labels) = object["metadata"]["labels"].as_object_mut() {
                labels.remove(label);
            }
        }
        assert!(all.insert(name.clone(), object).is_none(), "{name} is there twice");
    }
    all
}

#[track_caller]
fn agree(values: &Value, install: &Install) {
    let rendered = template(values).unwrap();
    let rendered = rendered.iter().filter(|object| INSTALLED.contains(&object.types.as_ref().unwrap().kind.as_str()));
    let mut rendered = by_name(rendered.map(|object| serde_json::to_value(object).unwrap()));
    for (name, printed) in by_name(install.objects()) {
        let Some(object) = rendered.remove(&name) else { panic!("the chart lacks {name}") };
        assert_eq!(object, printed, "{name}: left is the chart's");
    }
    assert!(rendered.is_empty(), "only the chart has {:?}", rendered.keys());
}

fn values() -> Value {
    json!({
        "guardedNamespaces": ["research", "finance"],
        "ceiling": {"rules": [
            {"apiGroups": [""], "resources": ["configmaps", "pods/log"], "verbs": ["get", "list"]},
            {"apiGroups": ["apps"], "resources": ["deployments"], "resourceNames": ["web"], "verbs": ["get"]},
        ]},
        "secretKeys": [
            {"namespace": "finance", "secretName": "crm-api"},
            {"namespace": "research", "secretName": "b"},
            {"namespace": "finance", "secretName": "a"},
        ],
    })
}

fn install() -> Install {
    let ceiling: Vec<KubernetesRule> = serde_json::from_value(values()["ceiling"]["rules"].clone()).unwrap();
    let source = |(namespace, secret): (&str, &str)| SecretSource { namespace: namespace.into(), secret_name: secret.into() };
    Install::new(NAMESPACE, ["finance", "research"], Endpoint::Service)
        .and_then(|install| install.ceiling(ceiling))
        .and_then(|install| install.secret_keys([("finance", "crm-api"), ("research", "b"), ("finance", "a")].map(source)))
        .unwrap()
}

#[test]
fn the_chart_installs_what_the_binary_prints() {
    agree(&values(), &install());
}

#[test]
fn the_chart_as_it_comes_guards_nothing_and_gives_nothing() {
    agree(&json!({}), &Install::new(NAMESPACE, Vec::<String>::new(), Endpoint::Service).unwrap());
}

#[test]
fn the_chart_with_cert_manager_installs_what_the_binary_prints() {
    let mut values = values();
    values["certificates"] = json!({"mode": "certManager"});
    agree(&values, &install().certificates(Certificates::CertManager));
}

#[test]
fn the_chart_with_further_workloads_installs_what_the_binary_prints() {
    let mut values = values();
    let kinds = ["serving.knative.dev/services", "a.b/z", "a.b-c/a", "argoproj.io/rollouts"];
    values["workloads"] = json!(kinds);
    agree(&values, &install().workloads(kinds).unwrap());
}

#[test]
fn the_chart_refuses_what_the_binary_refuses() {
    let ceiling = |group: &str, resource: &str, verb: &str| json!({"ceiling": {"rules": [{"apiGroups": [group], "resources": [resource], "verbs": [verb]}]}});
    let refused = [
        (json!({"guardedNamespaces": ["kube-system"]}), "`kube-system` belongs to Kubernetes"),
        (json!({"guardedNamespaces": [NAMESPACE]}), "own namespace and cannot be guarded"),
        (json!({"guardedNamespaces": ["Finance"]}), "/guardedNamespaces/0"),
        (json!({"guardedNamespaces": ["a.b"]}), "/guardedNamespaces/0"),
        (json!({"guardedNamespaces": ["a", "a"]}), "/guardedNamespaces"),
        (json!({"guardedNamespaces": "finance"}), "/guardedNamespaces"),
        (json!({"secretKeys": [{"namespace": "finance", "secretName": "a"}]}), "`finance`, which is not guarded"),
        (json!({"secretKeys": [{"namespace": "finance"}]}), "/secretKeys/0"),
        (ceiling("", "pods", "*"), "/ceiling/rules/0/verbs/0"),
        (ceiling("", "*", "get"), "/ceiling/rules/0/resources/0"),
        (ceiling("*", "pods", "get"), "/ceiling/rules/0/apiGroups/0"),
        (ceiling("rbac.authorization.k8s.io", "roles", "escalate"), "/ceiling/rules/0/verbs/0"),
        (ceiling("rbac.authorization.k8s.io", "roles", "bind"), "/ceiling/rules/0/verbs/0"),
        (ceiling("", "users", "impersonate"), "/ceiling/rules/0/verbs/0"),
        (ceiling("", "secrets", "list"), "missing property 'resourceNames'"),
        (ceiling("", "serviceaccounts/token", "create"), "/ceiling/rules/0"),
        (json!({"ceiling": {"rules": [{"resources": ["pods"], "verbs": ["get"]}]}}), "/ceiling/rules/0"),
        (json!({"workloads": ["rollouts"]}), "/workloads/0"),
        (json!({"workloads": ["argoproj.io/*"]}), "/workloads/0"),
        (json!({"workloads": ["apps/deployments"]}), "/workloads/0"),
        (json!({"workloads": ["mandate.dev/agenttasks"]}), "/workloads/0"),
        (json!({"webhook": {"replicas": 0}}), "/webhook/replicas"),
        (json!({"certificates": {"mode": "none"}}), "/certificates/mode"),
        (json!({"telemetry": {"otlp": {"endpoint": "collector:4317"}}}), "/telemetry/otlp/endpoint"),
        (json!({"telemetry": {"otlp": {"endpoint": "http://me:secret@collector:4317"}}}), "/telemetry/otlp/endpoint"),
        (json!({"telemetry": {"otlp": {"headers": "authorization=x"}}}), "/telemetry/otlp"),
        (json!({"telemetry": {"otlp": {"sampler": "sometimes"}}}), "/telemetry/otlp/sampler"),
        (json!({"guardedNamespace": ["finance"]}), "guardedNamespace"),
    ];
    for (values, fragment) in refused {
        let text = values.to_string();
        let args = ["template", "release", CHART, "--namespace", NAMESPACE, "--set-json", &text];
        let output = run(&std::env::temp_dir(), &args).unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "{values} was taken");
        assert!(said.contains(fragment), "{values}: {said}");
    }
}

#[test]
fn the_example_values_guard_what_they_say() {
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/manifests/values.yaml");
    let values: Value = serde_yaml::from_str(&std::fs::read_to_string(example).unwrap()).unwrap();
    let ceiling: Vec<KubernetesRule> = serde_json::from_value(values["ceiling"]["rules"].clone()).unwrap();
    let install = Install::new(NAMESPACE, ["finance"], Endpoint::Service).unwrap().ceiling(ceiling).unwrap();
    agree(&values, &install);
}

#[test]
fn the_chart_says_where_mcp_servers_may_be_asked() {
    let authorizer = |tools: Value| -> Vec<String> {
        let rendered = template(&json!({"authorizer": {"tools": tools}})).unwrap();
        let is_it = |object: &&DynamicObject| {
            object.name_any() == "mandate-authorizer" && object.types.as_ref().is_some_and(|types| types.kind == "Deployment")
        };
        let args = &rendered.iter().find(is_it).unwrap().data["spec"]["template"]["spec"]["containers"][0]["args"];
        let args = args.as_array().unwrap().iter().map(|arg| arg.as_str().unwrap().to_owned());
        args.filter(|arg| arg.starts_with("--tools-")).collect()
    };
    assert_eq!(authorizer(json!({})), ["--tools-every=30s", "--tools-keep=15m"]);
    let named = authorizer(json!({"keep": "1h", "addresses": ["10.0.0.0/8", "fd00::/8"], "http": ["10.96.0.0/12"]}));
    let expected = [
        "--tools-every=30s",
        "--tools-keep=1h",
        "--tools-address=10.0.0.0/8",
        "--tools-address=fd00::/8",
        "--tools-http=10.96.0.0/12",
    ];
    assert_eq!(named, expected);
    assert!(template(&json!({"authorizer": {"tools": {"addresses": ["10.0.0.0/8 --trust=x"]}}})).is_err());
}

#[test]
fn the_chart_passes_helms_own_check() {
    let values = values().to_string();
    let args = ["lint", "--strict", CHART, "--namespace", NAMESPACE, "--set-json", &values];
    succeeded(run(&std::env::temp_dir(), &args).unwrap()).unwrap();
}

#[test]
fn the_chart_holds_the_definitions_of_this_version() {
    let wanted = mandate::api::crds().into_iter().map(|crd| (format!("{}.yaml", crd.spec.names.plural), crd));
    let wanted: BTreeMap<String, CustomResourceDefinition> = wanted.collect();
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(format!("{CHART}/files/crds")).unwrap() {
        let path = entry.unwrap().path();
        let crd = serde_yaml::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        found.insert(path.file_name().unwrap().to_string_lossy().into_owned(), crd);
    }
    assert!(found == wanted, "charts/mandate/files/crds is not what `mandate crds` prints: `make generate` writes it");
}

/// Helm, on a cluster of its own: the registrations it installs would refuse what other
/// tests do, since no webhook runs behind them.
#[tokio::test]
async fn helm_installs_upgrades_without_a_change_and_uninstalls() {
    let bed = Bed::start("chart").await.unwrap();
    let result = life(&bed).await;
    if result.is_err() {
        bed.fail();
    }
    result.unwrap();
    bed.stop().await.unwrap();
}

async fn life(bed: &Bed) -> Result<()> {
    let client = bed.admin();
    for namespace in ["finance", "research", "elsewhere"] {
        make_namespace(&client, namespace, &[]).await?;
    }
    for namespace in ["finance", "elsewhere"] {
        let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), namespace);
        let look = || async { accounts.get_opt("default").await.ok().flatten() };
        bed.wait("the default ServiceAccount", Duration::from_secs(30), look).await?;
    }
    // Pods that are not restricted are refused there.
    make_namespace(&client, NAMESPACE, &[("pod-security.kubernetes.io/enforce", "restricted")]).await?;
    upgrade(bed, &values(), &[])?;
    let rendered = template(&values())?;
    closed(bed, &client).await?;
    fill(&client).await?;
    let before = states(&client, &rendered).await?;
    ensure!(before.len() > 40, "{before:?}");

    upgrade(bed, &values(), &[])?;
    let after = states(&client, &rendered).await?;
    let changed: Vec<_> = before.iter().filter(|(name, state)| after.get(*name) != Some(*state)).collect();
    ensure!(changed.is_empty(), "a second time changed {changed:?}");
    filled(&client).await.context("after an upgrade")?;
    upgrade(bed, &json!({"guardedNamespaces": ["finance"]}), &["--server-side=false"])?;
    filled(&client).await.context("after an upgrade by a three-way merge")?;

    for name in ["mandate-controller", "mandate-webhook"] {
        accepts_pod_of(&client, name, &rendered).await?;
    }
    let kubeconfig = path(bed.kubeconfig())?;
    succeeded(run(bed.dir(), &["uninstall", "release", "--namespace", NAMESPACE, "--kubeconfig", kubeconfig])?)?;
    for object in &rendered {
        let stays = object.types.as_ref().is_some_and(|types| types.kind == "CustomResourceDefinition");
        let api = api_of(&client, object).await?;
        let gone = || async { (api.get_metadata_opt(&object.name_any()).await.ok()?.is_some() == stays).then_some(()) };
        let what = format!("{} to {}", object.name_any(), if stays { "stay" } else { "go" });
        bed.wait(&what, Duration::from_secs(30), gone).await?;
    }
    Ok(())
}

/// With no webhook behind them, the registrations refuse what they are about and nothing else.
async fn closed(bed: &Bed, client: &Client) -> Result<()> {
    let pod = json!({"metadata": {"name": "any"}, "spec": {"containers": [{"name": "any", "image": "any"}]}});
    let pod: Pod = serde_json::from_value(pod)?;
    let legacy = json!({"metadata": {"name": "legacy", "annotations": {"kubernetes.io/service-account.name": "default"}}, "type": "kubernetes.io/service-account-token"});
    let legacy: Secret = serde_json::from_value(legacy)?;
    let opaque: Secret = serde_json::from_value(json!({"metadata": {"name": "opaque"}, "stringData": {"a": "b"}}))?;
    let create = PostParams::default();
    let pods = |namespace| Api::<Pod>::namespaced(client.clone(), namespace);
    let secrets = |namespace| Api::<Secret>::namespaced(client.clone(), namespace);
    // The API server takes up a registration a moment after it is written.
    let dry_run = PostParams { dry_run: true, ..PostParams::default() };
    let unanswered =
        |answer: Option<kube::Error>| answer.filter(|error| error.to_string().contains("failed calling webhook")).map(|_| ());
    let limit = Duration::from_secs(30);
    bed.wait("a pod to be refused", limit, || async { unanswered(pods("finance").create(&dry_run, &pod).await.err()) }).await?;
    bed.wait("a token Secret to be refused", limit, || async {
        unanswered(secrets("finance").create(&dry_run, &legacy).await.err())
    })
    .await?;
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), "finance");
    let token = TokenRequest::default();
    bed.wait("a token to be refused", limit, || async {
        unanswered(accounts.create_token_request("default", &dry_run, &token).await.err())
    })
    .await?;
    // Other Secrets are never sent, so that nobody waits for an answer about them.
    secrets("finance").create(&create, &opaque).await.context("an ordinary Secret in a guarded namespace")?;
    secrets("finance").delete("opaque", &DeleteParams::default()).await?;
    pods("elsewhere").create(&create, &pod).await.context("a pod where nothing is guarded")?;
    secrets("elsewhere").create(&create, &legacy).await.context("a token Secret where nothing is guarded")?;
    Ok(())
}

/// What the webhook does once it runs: its certificate and its authority.
async fn fill(client: &Client) -> Result<()> {
    let configurations: Api<ValidatingWebhookConfiguration> = Api::all(client.clone());
    let authority = json!([{"op": "add", "path": "/webhooks/0/clientConfig/caBundle", "value": AUTHORITY}]);
    let patch: Patch<()> = Patch::Json(serde_json::from_value(authority)?);
    configurations.patch("mandate", &webhook(), &patch).await?;
    let secrets: Api<Secret> = Api::namespaced(client.clone(), NAMESPACE);
    secrets.patch("mandate-webhook-tls", &webhook(), &Patch::Merge(json!({"stringData": {"kept": "yes"}}))).await?;
    Ok(())
}

/// Whether what the webhook has written is still there.
async fn filled(client: &Client) -> Result<()> {
    let configuration = Api::<ValidatingWebhookConfiguration>::all(client.clone()).get("mandate").await?;
    let webhook = configuration.webhooks.iter().flatten().next().context("a webhook")?;
    ensure!(webhook.client_config.ca_bundle.is_some(), "caBundle is gone");
    let secret = Api::<Secret>::namespaced(client.clone(), NAMESPACE).get("mandate-webhook-tls").await?;
    ensure!(secret.data.is_some_and(|data| data.contains_key("kept")), "the certificate is gone");
    Ok(())
}

/// Base64 of a PEM block; the API server checks that it is one.
const AUTHORITY: &str = "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURS0tLS0tCk1JSUJmakNDQVNTZ0F3SUJBZ0lCQVRBS0JnZ3Foa2pPUFFRREFqQUEKLS0tLS1FTkQgQ0VSVElGSUNBVEUtLS0tLQo=";

fn webhook() -> PatchParams {
    PatchParams { field_manager: Some("mandate".into()), ..PatchParams::default() }
}

fn upgrade(bed: &Bed, values: &Value, more: &[&str]) -> Result<()> {
    let values = values.to_string();
    let kubeconfig = path(bed.kubeconfig())?;
    let args =
        ["upgrade", "--install", "release", CHART, "--namespace", NAMESPACE, "--kubeconfig", kubeconfig, "--set-json", &values];
    succeeded(run(bed.dir(), &[&args, more].concat())?).map(|_| ())
}

fn path(path: &Path) -> Result<&str> {
    path.to_str().context("a path that is text")
}

/// What counts of each object: its generation, which its status does not move, or where it
/// has none, its resourceVersion.
async fn states(client: &Client, objects: &[DynamicObject]) -> Result<BTreeMap<String, String>> {
    let mut states = BTreeMap::new();
    for object in objects {
        let kind = &object.types.as_ref().context("a kind")?.kind;
        let live = api_of(client, object).await?.get(&object.name_any()).await?;
        let state = match live.metadata.generation {
            Some(generation) => format!("generation {generation}"),
            None => format!("version {}", live.resource_version().unwrap_or_default()),
        };
        states.insert(format!("{kind} {:?}/{}", object.namespace(), object.name_any()), state);
    }
    Ok(states)
}

/// Whether a pod of a Deployment passes the `restricted` Pod Security Standard.
async fn accepts_pod_of(client: &Client, deployment: &str, rendered: &[DynamicObject]) -> Result<()> {
    let found = rendered.iter().find(|object| object.name_any() == deployment && object.data["spec"]["template"].is_object());
    let spec = found.context("a Deployment")?.data["spec"]["template"]["spec"].clone();
    let pod: Pod = serde_json::from_value(json!({"metadata": {"name": deployment}, "spec": spec}))?;
    let dry_run = PostParams { dry_run: true, ..PostParams::default() };
    Api::<Pod>::namespaced(client.clone(), NAMESPACE)
        .create(&dry_run, &pod)
        .await
        .with_context(|| format!("a pod of {deployment}"))?;
    let mut loose = pod;
    match loose.spec.as_mut() {
        Some(spec) => spec.host_network = Some(true),
        None => bail!("a pod without a spec"),
    }
    let refused = Api::<Pod>::namespaced(client.clone(), NAMESPACE).create(&dry_run, &loose).await;
    ensure!(refused.is_err(), "Pod Security is not enforced, so that the check above says nothing");
    Ok(())
}

async fn make_namespace(client: &Client, name: &str, labels: &[(&str, &str)]) -> Result<()> {
    let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    let metadata = ObjectMeta { name: Some(name.to_owned()), labels: Some(labels), ..ObjectMeta::default() };
    Api::<Namespace>::all(client.clone()).create(&PostParams::default(), &Namespace { metadata, ..Namespace::default() }).await?;
    Ok(())
}
