//! Tokens by TokenRequest. A token can be written into a Secret and nowhere else: its type
//! prints as nothing.

use jiff::Timestamp;
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::api::PostParams;
use kube::{Api, Client};
use secrecy::SecretString;
use serde::Deserialize;

use crate::api::{Subject, names};
use crate::decide::grant::Mint;

/// A token and what may be known of it.
#[derive(Debug)]
pub struct Minted {
    /// The token.
    pub token: SecretString,
    /// Its id (`jti`), which the API server's audit log calls credential-id.
    pub id: Option<String>,
    /// When it expires.
    pub expires_at: Timestamp,
}

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The API server refused or could not be reached.
    #[error("asking for token `{name}` of ServiceAccount `{account}`")]
    Request {
        /// Credential.
        name: String,
        /// ServiceAccount.
        account: String,
        /// Cause.
        source: kube::Error,
    },
    /// The API server answered without a token.
    #[error("the API server gave no token `{name}` for ServiceAccount `{account}`")]
    Empty {
        /// Credential.
        name: String,
        /// ServiceAccount.
        account: String,
    },
}

/// Mints one token, bound to the Secret that it will stand in.
///
/// # Errors
/// [`TokenError`] where the API server gives none.
pub async fn mint(
    client: &Client,
    namespace: &str,
    task: &str,
    agent: &str,
    secret_uid: &str,
    mint: &Mint,
) -> Result<Minted, TokenError> {
    let account = match mint.subject {
        Subject::Task => task.to_owned(),
        Subject::Identity => names::of_agent(agent),
    };
    let request = TokenRequest {
        spec: Some(TokenRequestSpec {
            audiences: Some(mint.audience.iter().cloned().collect()),
            bound_object_ref: Some(BoundObjectReference {
                api_version: Some("v1".into()),
                kind: Some("Secret".into()),
                name: Some(task.to_owned()),
                uid: Some(secret_uid.to_owned()),
            }),
            expiration_seconds: Some(mint.seconds),
            ..TokenRequestSpec::default()
        }),
        ..TokenRequest::default()
    };
    let api: Api<ServiceAccount> = Api::namespaced(client.clone(), namespace);
    let answer = api
        .create_token_request(&account, &PostParams::default(), &request)
        .await
        .map_err(|source| TokenError::Request { name: mint.name.clone(), account: account.clone(), source })?;
    let status = answer.status.unwrap_or_default();
    match (status.token, status.expiration_timestamp) {
        (Some(token), Some(expires)) if !token.is_empty() => {
            Ok(Minted { id: id(&token), token: token.into(), expires_at: expires.0 })
        }
        _ => Err(TokenError::Empty { name: mint.name.clone(), account }),
    }
}

/// The `jti` of a token that just came from the API server; it is not verified, for it is
/// only written down.
fn id(token: &str) -> Option<String> {
    use base64::Engine as _;
    #[derive(Deserialize)]
    struct Claims {
        jti: Option<String>,
    }
    let payload = token.split('.').nth(1)?;
    let claims = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(payload).ok()?;
    serde_json::from_slice::<Claims>(&claims).ok()?.jti
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_never_shows_when_printed() {
        let minted = Minted { token: "eyJ.secret".to_owned().into(), id: None, expires_at: Timestamp::UNIX_EPOCH };
        assert!(!format!("{minted:?}").contains("eyJ"), "{minted:?}");
    }

    #[test]
    fn garbage_has_no_id() {
        for garbage in ["", ".", "a.b.c", "a.e30.c", "....", "a.\u{1F600}.c"] {
            assert_eq!(id(garbage), None, "{garbage:?}");
        }
    }
}
