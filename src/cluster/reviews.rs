//! Whose token is it, and may they ask? The API server is asked: TokenReview and
//! SubjectAccessReview. Tokens are sent there and nowhere else.

use async_trait::async_trait;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use kube::api::PostParams;
use kube::{Api, Client};

use crate::api::GROUP;
use crate::authorizer::trust::{Reviewed, Reviews};

/// Name under which the API server tells the id of a token.
const CREDENTIAL_ID: &str = "authentication.kubernetes.io/credential-id";

/// Asks the API server.
pub struct Asking(pub Client);

#[async_trait]
impl Reviews for Asking {
    async fn whose(&self, token: &str, audiences: &[String]) -> Result<Option<Reviewed>, String> {
        let review = TokenReview {
            spec: TokenReviewSpec { token: token.to_owned(), audiences: Some(audiences.to_vec()) },
            ..TokenReview::default()
        };
        let api: Api<TokenReview> = Api::all(self.0.clone());
        let answer = api.create(&PostParams::default(), &review).await.map_err(|error| unasked(&error))?;
        let Some(status) = answer.status.filter(|status| status.authenticated == Some(true)) else { return Ok(None) };
        let user = status.user.unwrap_or_default();
        let token_id = user.extra.as_ref().and_then(|extra| extra.get(CREDENTIAL_ID)?.first().cloned());
        Ok(Some(Reviewed {
            user: user.username.unwrap_or_default(),
            uid: user.uid.unwrap_or_default(),
            groups: user.groups.unwrap_or_default(),
            audiences: status.audiences.unwrap_or_default(),
            token_id: token_id.map(|id| id.strip_prefix("JTI=").unwrap_or(&id).to_owned()),
        }))
    }

    async fn may_ask(&self, user: &Reviewed) -> Result<bool, String> {
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: Some(user.user.clone()),
                uid: Some(user.uid.clone()),
                groups: Some(user.groups.clone()),
                resource_attributes: Some(ResourceAttributes {
                    group: Some(GROUP.to_owned()),
                    resource: Some("agenttasks".to_owned()),
                    verb: Some("evaluate".to_owned()),
                    ..ResourceAttributes::default()
                }),
                ..SubjectAccessReviewSpec::default()
            },
            ..SubjectAccessReview::default()
        };
        let api: Api<SubjectAccessReview> = Api::all(self.0.clone());
        let answer = api.create(&PostParams::default(), &review).await.map_err(|error| unasked(&error))?;
        Ok(answer.status.is_some_and(|status| status.allowed))
    }
}

/// The kind of failure alone: what the API server says of a request may repeat it.
fn unasked(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => format!("the API server answered {} {}", status.code, status.reason),
        _ => "the API server could not be reached".to_owned(),
    }
}
