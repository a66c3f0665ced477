//! A client for the API server, from where the process runs.

use std::path::PathBuf;

use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The file named on the command line cannot be used.
    #[error("reading kubeconfig `{path}`")]
    File {
        /// The file.
        path: String,
        /// Cause.
        source: kube::config::KubeconfigError,
    },
    /// Neither a pod's ServiceAccount nor a kubeconfig leads to a cluster.
    #[error("finding a cluster: in no pod, and no kubeconfig leads to one (give --kubeconfig)")]
    Nowhere(#[source] Box<kube::config::InferConfigError>),
    /// The configuration makes no client.
    #[error("making a client")]
    Client(#[source] Box<kube::Error>),
}

/// Which cluster is meant, where not the one that is found by itself.
#[derive(Clone, Debug, Default)]
pub struct Target {
    /// kubeconfig file.
    pub kubeconfig: Option<PathBuf>,
    /// Context in it.
    pub context: Option<String>,
    /// User to act as (impersonation), instead of the one that the kubeconfig gives.
    pub act_as: Option<String>,
}

/// A client: from the kubeconfig or context that is named, else from the pod's
/// ServiceAccount, else from the user's kubeconfig. In a pod a stray `KUBECONFIG` cannot
/// send Mandate elsewhere.
///
/// # Errors
/// [`ConnectError`].
pub async fn connect(target: &Target) -> Result<Client, ConnectError> {
    let options = KubeConfigOptions { context: target.context.clone(), ..KubeConfigOptions::default() };
    let mut config = match target {
        Target { kubeconfig: Some(path), .. } => {
            let named = |source| ConnectError::File { path: path.display().to_string(), source };
            let file = Kubeconfig::read_from(path).map_err(named)?;
            Config::from_custom_kubeconfig(file, &options).await.map_err(named)?
        }
        Target { context: Some(context), .. } => {
            let named = |source| ConnectError::File { path: format!("context {context}"), source };
            Config::from_kubeconfig(&options).await.map_err(named)?
        }
        Target { .. } => match Config::incluster() {
            Ok(config) => config,
            Err(_) => Config::infer().await.map_err(|error| ConnectError::Nowhere(Box::new(error)))?,
        },
    };
    if let Some(user) = &target.act_as {
        // Of a ServiceAccount the API server adds the groups by itself.
        config.auth_info.impersonate = Some(user.clone());
    }
    config.connect_timeout = Some(std::time::Duration::from_secs(10));
    // A watch hears at least a bookmark a minute. One that hears nothing for longer has lost its
    // API server without being told, and what is known grows old unnoticed.
    config.read_timeout = Some(std::time::Duration::from_secs(150));
    Client::try_from(config).map_err(|error| ConnectError::Client(Box::new(error)))
}
