//! Who can one be on the bed? Clients and kubeconfigs for the admin, for users, for
//! tokens and for ServiceAccounts.
//!
//! Each is the admin's way to the cluster with another identity in it. Kubeconfigs are
//! written readable by their user only.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use kube::api::{ObjectMeta, PostParams};
use kube::config::{AuthInfo, Cluster, Context, Kubeconfig, NamedAuthInfo, NamedCluster, NamedContext};
use kube::{Api, Client, Config};
use secrecy::SecretString;

use super::Bed;
use super::dir::BedDir;
use super::pki::{Authority, Credential};

/// Long enough for any bench or a demo left open; it dies with the bed anyway.
const TOKEN_SECONDS: i64 = 12 * 60 * 60;

impl Bed {
    /// A new client with every right. A client belongs to the runtime it is made on, so
    /// each call makes one.
    pub fn admin(&self) -> Client {
        client(self.admin.clone()).expect("the start has made a client of this kubeconfig")
    }

    /// The admin's kubeconfig.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// The API server: `https://…`.
    pub fn server(&self) -> &str {
        &self.server
    }

    /// The authority that signs for the API server. None if a cluster that is not ours
    /// relies on the system's.
    pub fn ca_pem(&self) -> Option<&str> {
        self.ca_pem.as_deref()
    }

    /// A client for a user.
    ///
    /// With one group or none the user has a certificate. A certificate of rcgen holds
    /// a single group, so with more, and on a cluster whose CA key is not ours, the
    /// admin impersonates the user: for RBAC and webhooks that is the same.
    pub fn user(&self, name: &str, groups: &[&str]) -> Result<Client> {
        client(self.kubeconfig_of_user(name, groups)?)
    }

    /// The same, as a file for other programs.
    pub fn user_kubeconfig(&self, name: &str, groups: &[&str]) -> Result<PathBuf> {
        write(&self.dir, name, &self.kubeconfig_of_user(name, groups)?)
    }

    /// A client that shows this token and nothing else.
    pub fn token_client(&self, token: &str) -> Result<Client> {
        client(self.kubeconfig_as(with_token(token)))
    }

    /// The same, as a file for other programs.
    pub fn token_kubeconfig(&self, file_stem: &str, token: &str) -> Result<PathBuf> {
        write(&self.dir, file_stem, &self.kubeconfig_as(with_token(token)))
    }

    /// A kubeconfig with a fresh token of this ServiceAccount, which is created, with
    /// its namespace, if it is missing.
    pub async fn service_account_kubeconfig(&self, namespace: &str, name: &str) -> Result<PathBuf> {
        let token = self.service_account_token(namespace, name).await?;
        self.token_kubeconfig(&format!("{namespace}.{name}"), &token)
    }

    /// A token of this ServiceAccount for the API server, valid for hours. Creates what
    /// is missing.
    pub async fn service_account_token(&self, namespace: &str, name: &str) -> Result<String> {
        let client = self.admin();
        create_namespace(&Api::all(client.clone()), namespace).await?;
        let accounts = Api::<ServiceAccount>::namespaced(client, namespace);
        create_service_account(&accounts, name).await?;
        let request = TokenRequest {
            spec: Some(TokenRequestSpec { expiration_seconds: Some(TOKEN_SECONDS), ..TokenRequestSpec::default() }),
            ..TokenRequest::default()
        };
        let answer = accounts
            .create_token_request(name, &PostParams::default(), &request)
            .await
            .with_context(|| format!("request a token for ServiceAccount {namespace}/{name}"))?;
        answer.status.and_then(|status| status.token).with_context(|| format!("no token for ServiceAccount {namespace}/{name}"))
    }

    /// A bed on a cluster that someone else runs.
    pub(super) fn on_cluster_of(theirs: &Path, dir: BedDir) -> Result<Bed> {
        let full =
            Kubeconfig::read_from(theirs).with_context(|| format!("MANDATE_TEST_KUBECONFIG: read {}", theirs.display()))?;
        let (cluster, admin) = current(&full).with_context(|| format!("no current context in {}", theirs.display()))?;
        let server = cluster.server.clone().context("the cluster has no server")?;
        let ca_pem = ca_of(&cluster)?;
        let admin = kubeconfig(cluster, admin);
        client(admin.clone())?;
        Ok(Bed {
            processes: Vec::new(),
            kubeconfig: write(&dir, "admin", &admin)?,
            admin,
            server,
            ca_pem,
            authority: None,
            audit_log: None,
            has_controllers: true,
            dir,
        })
    }

    fn kubeconfig_of_user(&self, name: &str, groups: &[&str]) -> Result<Kubeconfig> {
        let auth = match (&self.authority, groups) {
            (Some(authority), [] | [_]) => with_certificate(&authority.client(name, groups.first().copied())?),
            _ => self.impersonating(name, groups),
        };
        Ok(self.kubeconfig_as(auth))
    }

    fn impersonating(&self, name: &str, groups: &[&str]) -> AuthInfo {
        let admin = self.admin.auth_infos.first().and_then(|named| named.auth_info.clone());
        AuthInfo {
            impersonate: Some(name.to_owned()),
            impersonate_groups: Some(groups.iter().map(|group| (*group).to_owned()).collect()),
            ..admin.unwrap_or_default()
        }
    }

    fn kubeconfig_as(&self, auth: AuthInfo) -> Kubeconfig {
        let cluster = self.admin.clusters.first().and_then(|named| named.cluster.clone());
        kubeconfig(cluster.unwrap_or_default(), auth)
    }
}

/// A kubeconfig for a user of a control plane of our own.
pub(super) fn own(server: &str, authority: &Authority, user: &str, group: Option<&str>) -> Result<Kubeconfig> {
    let cluster = Cluster {
        server: Some(server.to_owned()),
        certificate_authority_data: Some(STANDARD.encode(authority.certificate())),
        ..Cluster::default()
    };
    Ok(kubeconfig(cluster, with_certificate(&authority.client(user, group)?)))
}

/// Must be called on a tokio runtime.
pub(super) fn client(kubeconfig: Kubeconfig) -> Result<Client> {
    let config = Config::try_from(kubeconfig).context("read the kubeconfig")?;
    Client::try_from(config).context("make a client")
}

pub(super) fn write(dir: &BedDir, stem: &str, kubeconfig: &Kubeconfig) -> Result<PathBuf> {
    // Names of users and ServiceAccounts hold `:` and, if they like, `/`.
    let stem: String = stem.chars().map(|c| if c.is_alphanumeric() || c == '.' { c } else { '-' }).collect();
    dir.write(&format!("{stem}.kubeconfig"), &serde_yaml::to_string(kubeconfig)?)
}

pub(super) async fn create_service_account(accounts: &Api<ServiceAccount>, name: &str) -> Result<()> {
    let account = ServiceAccount { metadata: named(name), ..ServiceAccount::default() };
    unless_there(accounts.create(&PostParams::default(), &account).await).with_context(|| format!("create ServiceAccount {name}"))
}

async fn create_namespace(namespaces: &Api<Namespace>, name: &str) -> Result<()> {
    let namespace = Namespace { metadata: named(name), ..Namespace::default() };
    unless_there(namespaces.create(&PostParams::default(), &namespace).await).with_context(|| format!("create namespace {name}"))
}

fn unless_there<T>(created: kube::Result<T>) -> kube::Result<()> {
    match created {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(()),
        Err(error) => Err(error),
    }
}

fn named(name: &str) -> ObjectMeta {
    ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() }
}

fn with_certificate(credential: &Credential) -> AuthInfo {
    AuthInfo {
        client_certificate_data: Some(STANDARD.encode(&credential.certificate)),
        client_key_data: Some(SecretString::from(STANDARD.encode(&credential.key))),
        ..AuthInfo::default()
    }
}

fn with_token(token: &str) -> AuthInfo {
    AuthInfo { token: Some(SecretString::from(token)), ..AuthInfo::default() }
}

/// One cluster, one user, one context: no way to pick the wrong one.
fn kubeconfig(cluster: Cluster, auth: AuthInfo) -> Kubeconfig {
    let name = "bed".to_owned();
    let context = Context { cluster: name.clone(), user: Some(name.clone()), ..Context::default() };
    Kubeconfig {
        api_version: Some("v1".to_owned()),
        kind: Some("Config".to_owned()),
        clusters: vec![NamedCluster { name: name.clone(), cluster: Some(cluster), ..NamedCluster::default() }],
        auth_infos: vec![NamedAuthInfo { name: name.clone(), auth_info: Some(auth), ..NamedAuthInfo::default() }],
        contexts: vec![NamedContext { name: name.clone(), context: Some(context), ..NamedContext::default() }],
        current_context: Some(name),
        ..Kubeconfig::default()
    }
}

/// The cluster and the user of the current context.
fn current(full: &Kubeconfig) -> Option<(Cluster, AuthInfo)> {
    let wanted = full.current_context.as_ref()?;
    let context = full.contexts.iter().find(|named| named.name == *wanted)?.context.as_ref()?;
    let cluster = full.clusters.iter().find(|named| named.name == context.cluster)?;
    let user = full.auth_infos.iter().find(|named| Some(&named.name) == context.user.as_ref())?;
    Some((cluster.cluster.clone()?, user.auth_info.clone()?))
}

fn ca_of(cluster: &Cluster) -> Result<Option<String>> {
    if let Some(data) = &cluster.certificate_authority_data {
        let pem = STANDARD.decode(data).context("decode certificate-authority-data")?;
        return Ok(Some(String::from_utf8(pem).context("certificate-authority-data is not PEM")?));
    }
    cluster
        .certificate_authority
        .as_ref()
        .map(|path| std::fs::read_to_string(path).with_context(|| format!("read {path}")))
        .transpose()
}
