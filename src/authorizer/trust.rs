//! Who may ask, and who acts.
//!
//! An enforcement point authenticates itself; an agent is authenticated by its own token. What a
//! body says of either proves nothing.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use jsonwebtoken::jwk::{AlgorithmParameters, JwkSet};
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use moka::sync::Cache;
use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::serve::ClientName;

/// An enforcement point that was authenticated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asker {
    /// Its name, for the audit log.
    pub name: Arc<str>,
    /// Types of subjects that it may name without their token, and the namespace whose tasks
    /// such ids name. It vouches for them.
    pub vouches_for: BTreeMap<String, String>,
}

/// Who acts, as far as it was proved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// By what it is known.
    pub named: Named,
    /// UID of the task, where a token names the task: one that was made anew under the same name
    /// is another. Empty where the token tells none.
    pub task_uid: Option<String>,
    /// Id of the token that proved it (`jti`).
    pub token_id: Option<String>,
    /// Audiences of that token.
    pub audiences: Vec<String>,
}

/// By what a caller is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Named {
    /// A task: `namespace/name`.
    Task(String),
    /// A ServiceAccount by its user name.
    Account(String),
    /// Nothing was proved.
    Nobody,
}

impl Caller {
    /// A task that an enforcement point vouches for.
    #[must_use]
    pub fn vouched(key: String) -> Self {
        Self { named: Named::Task(key), task_uid: None, token_id: None, audiences: vec![] }
    }

    /// Somebody who could prove nothing.
    #[must_use]
    pub fn nobody() -> Self {
        Self { named: Named::Nobody, task_uid: None, token_id: None, audiences: vec![] }
    }
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.named {
            Named::Task(key) => write!(f, "task `{key}`"),
            Named::Account(user) => write!(f, "`{user}`"),
            Named::Nobody => f.write_str("nobody that is known"),
        }
    }
}

/// Why a token proves nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TrustError {
    /// There is none.
    #[error("there is no bearer token")]
    Missing,
    /// It is not valid here.
    #[error("the token is not valid here: {0}")]
    Invalid(&'static str),
    /// Nobody could be asked.
    #[error("the token could not be checked: {0}")]
    Unchecked(String),
}

/// The API server's word on tokens and rights, where there is a cluster.
#[async_trait::async_trait]
pub trait Reviews: Send + Sync {
    /// Whose token it is, and for which of these audiences; none where it is nobody's.
    ///
    /// # Errors
    /// The API server could not be asked.
    async fn whose(&self, token: &str, audiences: &[String]) -> Result<Option<Reviewed>, String>;

    /// Whether a user may ask for decisions.
    ///
    /// # Errors
    /// The API server could not be asked.
    async fn may_ask(&self, user: &Reviewed) -> Result<bool, String>;
}

/// Whose a token is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reviewed {
    /// User name.
    pub user: String,
    /// UID of the user.
    pub uid: String,
    /// Groups.
    pub groups: Vec<String>,
    /// Those of the audiences asked for that the token is meant for.
    pub audiences: Vec<String>,
    /// Id of the token (`jti`), where the API server tells it.
    pub token_id: Option<String>,
}

/// Who is trusted, and how.
pub struct Trust {
    askers: Vec<(AskerProof, Asker)>,
    keys: Vec<(Option<String>, Algorithms, DecodingKey)>,
    reviews: Option<Box<dyn Reviews>>,
    /// Audiences that mean this authorizer itself.
    audience: String,
    /// Tokens of agents that were verified, by digest of token and audience.
    verified: Cache<[u8; 32], Arc<Caller>>,
    /// Enforcement points whose token was reviewed, by its digest.
    reviewed: Cache<[u8; 32], Asker>,
}

type Algorithms = Vec<Algorithm>;

/// What an enforcement point shows.
#[derive(Clone, Debug, PartialEq, Eq)]
enum AskerProof {
    /// A bearer token with this SHA-256.
    Token([u8; 32]),
    /// A client certificate with this name.
    Certificate(String),
}

/// Who is trusted without a cluster: the file of `--trust`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TrustFile {
    /// Who may ask.
    #[serde(default)]
    enforcement_points: Vec<AskerEntry>,
    /// Public keys that tokens of agents are signed with (RFC 7517).
    #[serde(default)]
    jwks: Option<JwkSet>,
    /// What tokens of agents name as their audience, beside that of the called server. Default
    /// `mandate`.
    #[serde(default)]
    audience: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct AskerEntry {
    name: String,
    /// SHA-256 of its bearer token, in hexadecimal digits.
    #[serde(default)]
    token_sha256: Option<String>,
    /// Name in its client certificate: the first URI of its alternative names, else the common
    /// name of its subject.
    #[serde(default)]
    certificate: Option<String>,
    /// Types of subjects it vouches for, and the namespace of their tasks.
    #[serde(default)]
    vouches_for: BTreeMap<String, String>,
}

/// How long a verified token is believed without another look, at most.
const BELIEVED: Duration = Duration::from_secs(30);
/// Most verified tokens that are kept.
const MOST_TOKENS: u64 = 100_000;
/// Most enforcement points that are kept.
const MOST_ASKERS: u64 = 10_000;

impl Trust {
    /// Trust as a file tells it, and beyond the file as the API server does.
    ///
    /// # Errors
    /// What cannot be used of the file.
    pub fn of(file: TrustFile, reviews: Option<Box<dyn Reviews>>) -> Result<Self, String> {
        let mut askers = vec![];
        for AskerEntry { name, token_sha256, certificate, vouches_for } in file.enforcement_points {
            let proof = match (token_sha256, certificate) {
                (Some(digest), None) => AskerProof::Token(hex(&digest).ok_or_else(|| {
                    format!("enforcement point `{name}`: tokenSha256 must be the 64 hexadecimal digits of a SHA-256")
                })?),
                (None, Some(certified)) => AskerProof::Certificate(certified),
                _ => return Err(format!("enforcement point `{name}`: give one of `tokenSha256` and `certificate`")),
            };
            askers.push((proof, Asker { name: name.into(), vouches_for }));
        }
        let mut keys = vec![];
        for key in file.jwks.into_iter().flat_map(|set| set.keys) {
            let id = key.common.key_id.clone();
            let name = id.clone().unwrap_or_else(|| "without `kid`".to_owned());
            let algorithms = match &key.algorithm {
                AlgorithmParameters::RSA(_) => vec![Algorithm::RS256, Algorithm::PS256],
                AlgorithmParameters::EllipticCurve(_) => vec![Algorithm::ES256],
                AlgorithmParameters::OctetKeyPair(_) => vec![Algorithm::EdDSA],
                _ => return Err(format!("key {name}: a shared secret is no public key")),
            };
            let key = DecodingKey::from_jwk(&key).map_err(|error| format!("key {name}: {error}"))?;
            keys.push((id, algorithms, key));
        }
        Ok(Self {
            askers,
            keys,
            reviews,
            audience: file.audience.unwrap_or_else(|| "mandate".to_owned()),
            verified: Cache::builder().max_capacity(MOST_TOKENS).time_to_live(BELIEVED).build(),
            reviewed: Cache::builder().max_capacity(MOST_ASKERS).time_to_live(BELIEVED).build(),
        })
    }

    /// The enforcement point that a client certificate or a bearer token belongs to.
    ///
    /// # Errors
    /// [`TrustError`].
    pub async fn asker(&self, certified: Option<&ClientName>, token: Option<&str>) -> Result<Asker, TrustError> {
        if let Some(ClientName(name)) = certified {
            let known =
                self.askers.iter().find(|(proof, _)| matches!(proof, AskerProof::Certificate(known) if **known == **name));
            if let Some((_, asker)) = known {
                return Ok(asker.clone());
            }
        }
        let token = token.ok_or(TrustError::Missing)?;
        let digest: [u8; 32] = Sha256::digest(token).into();
        // Digests are compared, not tokens: how long it takes tells nothing of the token.
        let known = self.askers.iter().find(|(proof, _)| *proof == AskerProof::Token(digest));
        if let Some((_, asker)) = known {
            return Ok(asker.clone());
        }
        let Some(reviews) = &self.reviews else { return Err(TrustError::Invalid("no enforcement point has it")) };
        if let Some(asker) = self.reviewed.get(&digest) {
            return Ok(asker);
        }
        let audience = std::slice::from_ref(&self.audience);
        let user = reviews.whose(token, audience).await.map_err(TrustError::Unchecked)?;
        let user = user.ok_or(TrustError::Invalid("the API server does not know it, or it is meant for others"))?;
        if !reviews.may_ask(&user).await.map_err(TrustError::Unchecked)? {
            return Err(TrustError::Invalid("its user may not ask: RBAC verb `evaluate` on `agenttasks.mandate.dev`"));
        }
        let asker = Asker { name: user.user.into(), vouches_for: BTreeMap::new() };
        self.reviewed.insert(digest, asker.clone());
        Ok(asker)
    }

    /// The task that a token belongs to. It must be meant for this authorizer or for the server
    /// that is called, and for nobody beside.
    ///
    /// # Errors
    /// [`TrustError`].
    pub async fn caller(&self, token: &str, server_audience: Option<&str>) -> Result<Arc<Caller>, TrustError> {
        let mut hash = Sha256::new_with_prefix(token);
        hash.update([0]);
        hash.update(server_audience.unwrap_or_default());
        let digest: [u8; 32] = hash.finalize().into();
        let caller = match self.verified.get(&digest) {
            Some(caller) => caller,
            None => {
                let (caller, life) = match &self.reviews {
                    Some(reviews) => self.review(reviews.as_ref(), token, server_audience).await?,
                    None => self.verify(token)?,
                };
                let caller = Arc::new(caller);
                if life >= BELIEVED {
                    self.verified.insert(digest, caller.clone());
                }
                caller
            }
        };
        let [audience] = caller.audiences.as_slice() else {
            return Err(TrustError::Invalid("it must be meant for exactly one audience"));
        };
        if *audience != self.audience && Some(audience.as_str()) != server_audience {
            return Err(TrustError::Invalid("it is meant for another audience"));
        }
        Ok(caller)
    }

    async fn review(
        &self,
        reviews: &dyn Reviews,
        token: &str,
        server_audience: Option<&str>,
    ) -> Result<(Caller, Duration), TrustError> {
        let (claims, life) = unverified(token)?;
        // What it is meant for beside is not told by a review, which names those asked for alone.
        if claims.len() != 1 {
            return Err(TrustError::Invalid("it must be meant for exactly one audience"));
        }
        let mut audiences = vec![self.audience.clone()];
        audiences.extend(server_audience.map(str::to_owned));
        let user = reviews.whose(token, &audiences).await.map_err(TrustError::Unchecked)?;
        let Reviewed { user, audiences, token_id, .. } =
            user.ok_or(TrustError::Invalid("the API server does not know it, or it is meant for others"))?;
        Ok((Caller { named: Named::Account(user), task_uid: None, token_id, audiences }, life))
    }

    fn verify(&self, token: &str) -> Result<(Caller, Duration), TrustError> {
        let header = jsonwebtoken::decode_header(token).map_err(|_| TrustError::Invalid("it is no signed JWT"))?;
        let fits = |(id, algorithms, _): &&(Option<String>, Algorithms, DecodingKey)| {
            algorithms.contains(&header.alg) && (header.kid.is_none() || id.is_none() || *id == header.kid)
        };
        let mut last = TrustError::Invalid("no key that is trusted has signed it");
        for (_, _, key) in self.keys.iter().filter(fits) {
            let mut validation = Validation::new(header.alg);
            validation.set_required_spec_claims(&["exp", "sub", "aud"]);
            validation.validate_nbf = true;
            validation.validate_aud = false; // here, against the server that is called
            validation.leeway = 5;
            match jsonwebtoken::decode::<Claims>(token, key, &validation) {
                Ok(data) => return data.claims.caller(),
                Err(error) => {
                    last = TrustError::Invalid(match error.kind() {
                        jsonwebtoken::errors::ErrorKind::ExpiredSignature => "it has expired",
                        jsonwebtoken::errors::ErrorKind::ImmatureSignature => "its time has not come",
                        jsonwebtoken::errors::ErrorKind::InvalidSignature => continue,
                        jsonwebtoken::errors::ErrorKind::MissingRequiredClaim(_) => "it lacks `exp`, `sub` or `aud`",
                        _ => "its claims cannot be read",
                    });
                }
            }
        }
        Err(last)
    }
}

/// Audiences of a token and how long it lives, before anybody has verified it: enough to say no.
fn unverified(token: &str) -> Result<(Vec<String>, Duration), TrustError> {
    let data =
        jsonwebtoken::dangerous::insecure_decode::<Claims>(token).map_err(|_| TrustError::Invalid("it is no signed JWT"))?;
    let (caller, life) = data.claims.caller()?;
    Ok((caller.audiences, life))
}

#[derive(Deserialize)]
struct Claims {
    sub: String,
    exp: i64,
    #[serde(default)]
    jti: Option<String>,
    /// UID of the task, beside a subject `task:namespace/name`.
    #[serde(default)]
    task_uid: Option<String>,
    #[serde(default)]
    aud: Audiences,
}

#[derive(Deserialize, Default)]
#[serde(untagged)]
enum Audiences {
    One(String),
    Many(Vec<String>),
    #[default]
    None,
}

impl Claims {
    fn caller(self) -> Result<(Caller, Duration), TrustError> {
        let (named, task_uid) = match self.sub.strip_prefix("task:") {
            Some(key) if key.split('/').filter(|part| !part.is_empty()).count() == 2 => {
                (Named::Task(key.to_owned()), Some(self.task_uid.unwrap_or_default()))
            }
            Some(_) => return Err(TrustError::Invalid("its subject is no `task:namespace/name`")),
            None => (Named::Account(self.sub), None),
        };
        let audiences = match self.aud {
            Audiences::One(one) => vec![one],
            Audiences::Many(many) => many,
            Audiences::None => vec![],
        };
        let left = self.exp.saturating_sub(jiff::Timestamp::now().as_second());
        Ok((Caller { named, task_uid, token_id: self.jti, audiences }, Duration::from_secs(u64::try_from(left).unwrap_or(0))))
    }
}

fn hex(text: &str) -> Option<[u8; 32]> {
    let digits: Vec<u8> =
        text.chars().map(|c| c.to_digit(16).and_then(|digit| u8::try_from(digit).ok())).collect::<Option<_>>()?;
    let bytes: Vec<u8> = digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect();
    (digits.len() == 64).then(|| bytes.try_into().ok()).flatten()
}
