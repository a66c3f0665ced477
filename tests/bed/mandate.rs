//! Mandate itself, installed on a bed as an administrator would: what the binary prints is
//! applied, and the roles run as their own restricted ServiceAccounts.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{DynamicObject, ListParams, Patch, PatchParams};
use kube::core::GroupVersionKind;
use kube::discovery::{ApiCapabilities, ApiResource, Scope, pinned_kind};
use kube::{Api, Client, ResourceExt as _};
use serde::Deserialize as _;

use super::{Bed, Process};

/// Namespace of Mandate on a bed.
pub const NAMESPACE: &str = "mandate-system";
/// How long a role may take until it is ready.
const READY: Duration = Duration::from_secs(60);

/// Mandate on a bed.
pub struct Mandate<'a> {
    bed: &'a Bed,
    guarded: Vec<String>,
    /// The controller; a test may end it and start it anew.
    pub controller: Process,
    /// The webhook.
    pub webhook: Process,
    controller_admin: u16,
    webhook_port: u16,
    webhook_admin: u16,
}

/// The binary: the one that cargo built for the tests, or the one beside the demo.
pub fn binary() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("MANDATE_BIN") {
        return Ok(path.into());
    }
    let own = std::env::current_exe().context("find out where this program lies")?;
    let found = own.ancestors().skip(1).take(3).map(|dir| dir.join("mandate")).find(|path| path.is_file());
    found.context("the binary `mandate` is not built; `make build` does it, or name it in MANDATE_BIN")
}

/// Runs the binary to its end.
pub fn run(args: &[&str]) -> Result<Output> {
    Command::new(binary()?).args(args).env("KUBECONFIG", "no-kubeconfig-was-given").output().context("run mandate")
}

/// What the binary prints on standard output, where it succeeds.
pub fn printed(args: &[&str]) -> Result<String> {
    let output = run(args)?;
    ensure!(output.status.success(), "mandate {args:?} failed: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

/// The objects in a stream of YAML documents.
pub fn objects(yaml: &str) -> Result<Vec<DynamicObject>> {
    let values = serde_yaml::Deserializer::from_str(yaml).map(serde_json::Value::deserialize);
    let values: Vec<serde_json::Value> = values.collect::<Result<_, _>>()?;
    values.into_iter().filter(|value| !value.is_null()).map(|value| Ok(serde_json::from_value(value)?)).collect()
}

/// Where an object belongs, by what the API server serves.
pub async fn api_of(client: &Client, object: &DynamicObject) -> Result<Api<DynamicObject>> {
    let types = object.types.clone().context("an object without apiVersion and kind")?;
    let (resource, capabilities): (ApiResource, ApiCapabilities) =
        pinned_kind(client, &GroupVersionKind::try_from(&types)?).await.with_context(|| format!("look up {types:?}"))?;
    Ok(match (capabilities.scope, object.namespace()) {
        (Scope::Namespaced, Some(namespace)) => Api::namespaced_with(client.clone(), &namespace, &resource),
        (Scope::Namespaced, None) => Api::default_namespaced_with(client.clone(), &resource),
        (Scope::Cluster, _) => Api::all_with(client.clone(), &resource),
    })
}

/// Server-side applies one object, as `kubectl apply --server-side` does.
pub async fn apply_one(client: &Client, object: &DynamicObject) -> Result<DynamicObject, kube::Error> {
    let api = api_of(client, object).await.map_err(|error| kube::Error::Service(error.into()))?;
    let params = PatchParams::apply("bed").force().validation_strict();
    api.patch(&object.name_any(), &params, &Patch::Apply(object)).await
}

/// Server-side applies every document of a YAML stream.
pub async fn apply(client: &Client, yaml: &str) -> Result<()> {
    for object in objects(yaml)? {
        apply_one(client, &object).await.with_context(|| format!("apply {:?} {}", object.types, object.name_any()))?;
    }
    Ok(())
}

impl<'a> Mandate<'a> {
    /// Installs Mandate, guarding these namespaces, which are made, and waits until it is
    /// ready. `ceiling` is a YAML list of RBAC rules.
    pub async fn install(bed: &'a Bed, guarded: &[&str], ceiling: &str) -> Result<Mandate<'a>> {
        Self::install_with(bed, guarded, ceiling, &[]).await
    }

    /// The same, with Secrets (`namespace/name`) that `secretKey` credentials may copy from.
    pub async fn install_with(bed: &'a Bed, guarded: &[&str], ceiling: &str, secret_keys: &[&str]) -> Result<Mandate<'a>> {
        let flags: Vec<&str> = secret_keys.iter().flat_map(|secret| ["--secret-key", secret]).collect();
        Self::install_as(bed, guarded, ceiling, &flags).await
    }

    /// The same, with more flags of `mandate rbac` and `mandate webhooks`.
    pub async fn install_as(bed: &'a Bed, guarded: &[&str], ceiling: &str, flags: &[&str]) -> Result<Mandate<'a>> {
        let client = bed.admin();
        for namespace in guarded.iter().chain([&NAMESPACE]) {
            apply(&client, &format!("{{apiVersion: v1, kind: Namespace, metadata: {{name: {namespace}}}}}")).await?;
        }
        kinds(bed).await?;
        let file = bed.dir().join("ceiling.yaml");
        std::fs::write(&file, ceiling)?;
        let [webhook_port, webhook_admin, controller_admin] = super::free_ports()?;
        let url = format!("https://127.0.0.1:{webhook_port}");
        let mut install = vec!["--namespace", NAMESPACE, "--ceiling", path(&file)?, "--webhook-url", &url];
        guarded.iter().for_each(|namespace| install.extend(["--guard", namespace]));
        install.extend(flags);
        let with = |command| [&[command], install.as_slice()].concat();
        apply(&client, &printed(&with("rbac"))?).await?;
        let guarded: Vec<String> = guarded.iter().map(|namespace| (*namespace).to_owned()).collect();
        let webhook = webhook(bed, &guarded, webhook_port, webhook_admin, &[]).await?;
        let controller = controller(bed, &guarded, controller_admin).await?;
        // The webhook publishes its authority in the configurations, so they come first.
        apply(&client, &printed(&with("webhooks"))?).await?;
        ready(bed, "webhook", webhook_admin).await?;
        ready(bed, "controller", controller_admin).await?;
        Ok(Mandate { bed, guarded, controller, webhook, controller_admin, webhook_port, webhook_admin })
    }

    /// Starts the controller anew, and waits until it works.
    pub async fn restart_controller(&mut self) -> Result<()> {
        self.controller = controller(self.bed, &self.guarded, self.controller_admin).await?;
        ready(self.bed, "controller", self.controller_admin).await
    }

    /// Starts the controller anew by another kubeconfig, and waits until it works.
    pub async fn restart_controller_by(&mut self, kubeconfig: &Path) -> Result<()> {
        self.controller = start_controller(self.bed, kubeconfig, &self.guarded, self.controller_admin)?;
        ready(self.bed, "controller", self.controller_admin).await
    }

    /// Starts a controller that is one of several: it works while it holds the Lease. Waits
    /// until it works or stands by.
    pub async fn start_replica(&self, kubeconfig: &Path) -> Result<Process> {
        let [admin] = super::free_ports()?;
        let replica = run_controller(self.bed, kubeconfig, &self.guarded, admin, &[])?;
        ready(self.bed, "replica", admin).await?;
        Ok(replica)
    }

    /// Ends the webhook and starts it anew by way of another program, such as `taskset -c 0`,
    /// and waits until it works.
    pub async fn restart_webhook(&mut self, by: &[&str]) -> Result<()> {
        self.webhook.kill9().await?;
        self.webhook = webhook(self.bed, &self.guarded, self.webhook_port, self.webhook_admin, by).await?;
        ready(self.bed, "webhook", self.webhook_admin).await
    }

    /// The bed it is on.
    pub fn bed(&self) -> &'a Bed {
        self.bed
    }

    /// Port of the webhook, on loopback.
    pub fn webhook_port(&self) -> u16 {
        self.webhook_port
    }

    /// A page of the controller's admin endpoints.
    pub fn controller_page(&self, page: &str) -> Option<String> {
        get(self.controller_admin, page)
    }

    /// Where the webhook answers.
    pub fn webhook_url(&self) -> String {
        format!("https://127.0.0.1:{}", self.webhook_port)
    }
}

/// The authorizer, with a serving certificate of its own and an audit log on the bed.
pub struct Authorizer {
    process: Process,
    port: u16,
    audit: PathBuf,
}

impl Authorizer {
    /// Secret of its certificate, in Mandate's namespace.
    pub const CERTIFICATE: &str = ::mandate::install::AUTHORIZER_CERTIFICATE;

    /// Starts it as its own ServiceAccount, and waits until it answers.
    pub async fn start(bed: &Bed) -> Result<Self> {
        let kubeconfig = bed.service_account_kubeconfig(NAMESPACE, "mandate-authorizer").await?;
        let [port, admin] = super::free_ports()?;
        let audit = bed.dir().join("audit");
        let [listen, probes] = [port, admin].map(|port| format!("127.0.0.1:{port}"));
        let mut args = vec!["run", "authorizer", "--mandate-namespace", NAMESPACE, "--listen", &listen, "--admin", &probes];
        args.extend(["--kubeconfig", path(&kubeconfig)?, "--audit-dir", path(&audit)?]);
        let process = bed.process("authorizer", binary()?, &args, &[])?;
        ready(bed, "authorizer", admin).await?;
        Ok(Self { process, port, audit })
    }

    /// Where it answers.
    pub fn url(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }

    /// Ends it, and says where its audit log lies.
    pub async fn end(mut self) -> Result<PathBuf> {
        self.process.stop().await?;
        Ok(self.audit)
    }
}

/// Installs Mandate's kinds, and waits until they are served.
pub async fn kinds(bed: &Bed) -> Result<()> {
    let client = bed.admin();
    apply(&client, &printed(&["crds"])?).await?;
    served(bed, &client).await
}

/// The webhook alone.
pub struct Webhook {
    /// The webhook.
    pub process: Process,
    /// Its registrations, as they were applied.
    pub registrations: Vec<serde_json::Value>,
}

/// Installs the webhook with its rights, the policies and its registrations, `edit`ed, and no
/// controller; waits until it is ready. The namespaces, and Mandate's own, are there already.
pub async fn install_webhook(bed: &Bed, guarded: &[&str], edit: impl Fn(&mut serde_json::Value)) -> Result<Webhook> {
    let client = bed.admin();
    let [port, admin] = super::free_ports()?;
    let url = format!("https://127.0.0.1:{port}");
    let mut install = vec!["--namespace", NAMESPACE, "--webhook-url", &url];
    guarded.iter().for_each(|namespace| install.extend(["--guard", namespace]));
    let with = |command| [&[command], install.as_slice()].concat();
    // In guarded namespaces only the controller has rights.
    let here = |object: &DynamicObject| object.namespace().is_none_or(|namespace| namespace == NAMESPACE);
    for object in objects(&printed(&with("rbac"))?)?.into_iter().filter(here) {
        apply_one(&client, &object).await.with_context(|| format!("apply {:?} {}", object.types, object.name_any()))?;
    }
    let guarded: Vec<String> = guarded.iter().map(|namespace| (*namespace).to_owned()).collect();
    let process = webhook(bed, &guarded, port, admin, &[]).await?;
    let mut registrations = vec![];
    for object in objects(&printed(&with("webhooks"))?)? {
        let mut object = serde_json::to_value(object)?;
        edit(&mut object);
        apply_one(&client, &serde_json::from_value(object.clone())?).await?;
        registrations.push(object);
    }
    ready(bed, "webhook", admin).await?;
    Ok(Webhook { process, registrations })
}

async fn controller(bed: &Bed, guarded: &[String], admin: u16) -> Result<Process> {
    let kubeconfig = bed.service_account_kubeconfig(NAMESPACE, "mandate-controller").await?;
    start_controller(bed, &kubeconfig, guarded, admin)
}

/// Starts a controller by a kubeconfig, without waiting for it. It is the only one.
pub fn start_controller(bed: &Bed, kubeconfig: &Path, guarded: &[String], admin: u16) -> Result<Process> {
    run_controller(bed, kubeconfig, guarded, admin, &["--leader-elect", "false"])
}

fn run_controller(bed: &Bed, kubeconfig: &Path, guarded: &[String], admin: u16, more: &[&str]) -> Result<Process> {
    let admin = format!("127.0.0.1:{admin}");
    let mut args = vec!["run", "controller", "--namespace", NAMESPACE, "--admin", &admin];
    args.extend(["--kubeconfig", path(kubeconfig)?]);
    args.extend(more);
    guarded.iter().for_each(|namespace| args.extend(["--guard", namespace]));
    bed.process("controller", binary()?, &args, &[("MANDATE_LOG", "info,mandate=debug")])
}

async fn webhook(bed: &Bed, guarded: &[String], port: u16, admin: u16, by: &[&str]) -> Result<Process> {
    let kubeconfig = bed.service_account_kubeconfig(NAMESPACE, "mandate-webhook").await?;
    let (listen, admin) = (format!("127.0.0.1:{port}"), format!("127.0.0.1:{admin}"));
    let binary = binary()?;
    let mut command = by.to_vec();
    command.extend([path(&binary)?, "run", "webhook", "--namespace", NAMESPACE, "--listen", &listen, "--admin", &admin]);
    command.extend(["--kubeconfig", path(&kubeconfig)?]);
    guarded.iter().for_each(|namespace| command.extend(["--guard", namespace]));
    // The second is the chart's.
    bed.process("webhook", command[0], &command[1..], &[("MANDATE_LOG", "info,mandate=debug"), ("MIMALLOC_PURGE_DELAY", "0")])
}

fn path(path: &Path) -> Result<&str> {
    path.to_str().context("a path that is not UTF-8")
}

/// Waits until the kinds are served. The API server holds the first creations of a kind back
/// for two seconds after it was established (apiextensions-apiserver,
/// customresource_handler.go), which no time that is measured later should hold.
async fn served(bed: &Bed, client: &Client) -> Result<()> {
    let kinds = ["AgentIdentity", "AgentPolicy", "AgentTask", "ClusterAgentPolicy", "PolicyWaiver", "TaskScope", "ToolServer"];
    for kind in kinds {
        let gvk = GroupVersionKind::gvk("mandate.dev", "v1alpha1", kind);
        bed.wait(&format!("kind {kind} to be served"), READY, || async { pinned_kind(client, &gvk).await.ok() }).await?;
    }
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    bed.wait("the kinds to have been served for two seconds", READY, || async {
        let all = definitions.list(&ListParams::default()).await.ok()?;
        let ours = all.items.iter().filter(|definition| definition.spec.group == "mandate.dev");
        let established =
            ours.flat_map(|definition| definition.status.iter().flat_map(|status| status.conditions.iter().flatten()));
        let settled = jiff::Timestamp::now() - jiff::SignedDuration::from_secs(3);
        established
            .filter(|c| c.type_ == "Established")
            .all(|c| c.last_transition_time.as_ref().is_some_and(|at| at.0 < settled))
            .then_some(())
    })
    .await
}

/// Waits until a role says that it is ready.
pub async fn ready(bed: &Bed, role: &str, admin: u16) -> Result<()> {
    bed.wait(&format!("the {role} to be ready (its log is in {})", bed.dir().display()), READY, || async {
        let page = tokio::task::spawn_blocking(move || get(admin, "/readyz")).await.ok()??;
        page.starts_with("HTTP/1.1 200").then_some(())
    })
    .await
}

/// A page of the admin endpoints, head and all; plain HTTP/1.1 needs no client.
pub fn get(port: u16, page: &str) -> Option<String> {
    use std::io::{Read as _, Write as _};
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    write!(stream, "GET {page} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
}
