//! A Kubernetes webhook authorizer (`SubjectAccessReview`, authorization.k8s.io/v1), beside RBAC.
//!
//! It speaks of the ServiceAccounts of tasks alone, and never says yes: what no rule forbids is
//! left to RBAC. It has to stand before RBAC in the API server's `AuthorizationConfiguration`,
//! since RBAC cannot say no, and with `matchConditions` that send it nothing else, so that the
//! rest of the cluster never depends on it.
//!
//! To rules a request is a call of server `kubernetes`: the tool is the verb, the resource is
//! `configmaps/name`, `deployments.apps/name` or `pods/name/exec`.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Extension, Router};
use k8s_openapi::api::authorization::v1::{
    NonResourceAttributes, ResourceAttributes, SubjectAccessReview, SubjectAccessReviewStatus,
};
use serde_json::Map;

use crate::api::names;
use crate::authorizer::trust::{Caller, Named, TrustError};
use crate::authorizer::{Authorizer, Question};
use crate::decide::authorize::snapshot::KUBERNETES;
use crate::decide::authorize::{Action, KubernetesRequest};
use crate::serve::ClientName;
use crate::telemetry::otlp::Parent;

/// Largest body, in bytes: attributes and no objects.
const LARGEST_BODY: usize = 1 << 20;
/// The extra attribute by which the API server tells the id of a token.
const CREDENTIAL_ID: &str = "authentication.kubernetes.io/credential-id";

/// The route `/kubernetes/authorize`.
pub fn router(authorizer: Arc<Authorizer>) -> Router {
    Router::new().route("/kubernetes/authorize", post(review)).layer(DefaultBodyLimit::max(LARGEST_BODY)).with_state(authorizer)
}

async fn review(
    State(authorizer): State<Arc<Authorizer>>,
    peer: Option<Extension<ClientName>>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let token =
        headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()).and_then(|text| text.strip_prefix("Bearer "));
    let asker = match authorizer.trust.asker(peer.as_ref().map(|Extension(name)| name), token).await {
        Ok(asker) => asker,
        Err(error @ TrustError::Unchecked(_)) => return (StatusCode::SERVICE_UNAVAILABLE, error.to_string()).into_response(),
        Err(error) => return (StatusCode::UNAUTHORIZED, error.to_string()).into_response(),
    };
    let Ok(mut review) = serde_json::from_slice::<SubjectAccessReview>(&body) else {
        return (StatusCode::BAD_REQUEST, "the body is no SubjectAccessReview of authorization.k8s.io/v1").into_response();
    };
    let user = review.spec.user.clone().unwrap_or_default();
    let status = if is_task(&user) {
        let token_id = review.spec.extra.as_ref().and_then(|extra| extra.get(CREDENTIAL_ID)?.first().cloned());
        let token_id = token_id.map(|id| id.strip_prefix("JTI=").unwrap_or(&id).to_owned());
        // The API server has authenticated the user, and it is the API server that asks.
        let caller = Caller { named: Named::Account(user), task_uid: None, token_id, audiences: vec![] };
        let resource = review.spec.resource_attributes.as_ref();
        match (resource, &review.spec.non_resource_attributes) {
            (Some(attributes), _) => decide(&authorizer, &asker, caller, &Request::of(attributes), Parent::of(&headers)).await,
            (None, Some(attributes)) => {
                decide(&authorizer, &asker, caller, &Request::of_path(attributes), Parent::of(&headers)).await
            }
            (None, None) => denied("the review names neither a resource nor a path".to_owned()),
        }
    } else {
        no_opinion()
    };
    review.status = Some(status);
    axum::Json(review).into_response()
}

/// Whether a user is the ServiceAccount of a task.
fn is_task(user: &str) -> bool {
    let name = user.strip_prefix("system:serviceaccount:").and_then(|rest| rest.split_once(':'));
    name.is_some_and(|(_, name)| name.starts_with(names::TASK_PREFIX))
}

/// A request to the API server, in the words of rules.
struct Request {
    verb: String,
    id: String,
    namespace: String,
    resource: String,
    subresource: String,
}

impl Request {
    fn of(attributes: &ResourceAttributes) -> Self {
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        let (resource, subresource, group) = (text(&attributes.resource), text(&attributes.subresource), text(&attributes.group));
        let kind = if group.is_empty() { resource.clone() } else { format!("{resource}.{group}") };
        let name = text(&attributes.name);
        let id = if subresource.is_empty() { format!("{kind}/{name}") } else { format!("{kind}/{name}/{subresource}") };
        Self { verb: text(&attributes.verb), id, namespace: text(&attributes.namespace), resource, subresource }
    }

    fn of_path(attributes: &NonResourceAttributes) -> Self {
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        Self {
            verb: text(&attributes.verb),
            id: text(&attributes.path),
            namespace: String::new(),
            resource: String::new(),
            subresource: String::new(),
        }
    }
}

async fn decide(
    authorizer: &Authorizer,
    asker: &crate::authorizer::trust::Asker,
    caller: Caller,
    request: &Request,
    parent: Option<Parent>,
) -> SubjectAccessReviewStatus {
    let none = Map::new();
    let Request { verb, id, namespace, resource, subresource } = request;
    let question = Question {
        door: "kubernetes",
        asker,
        actor: authorizer.state.actor(caller),
        action: Action {
            server: KUBERNETES,
            tool: verb,
            resource: Some(id),
            arguments: &none,
            subject_properties: &none,
            resource_properties: &none,
            intent: None,
            reports_outcome: false,
            kubernetes: Some(KubernetesRequest { namespace, resource, subresource }),
        },
        parent,
        link: None,
    };
    let answer = authorizer.decide(&question).await;
    if answer.is_yes() { no_opinion() } else { denied(format!("mandate: {} (decision {})", answer.words(), answer.id)) }
}

fn denied(reason: String) -> SubjectAccessReviewStatus {
    SubjectAccessReviewStatus { allowed: false, denied: Some(true), reason: Some(reason), ..SubjectAccessReviewStatus::default() }
}

fn no_opinion() -> SubjectAccessReviewStatus {
    SubjectAccessReviewStatus { allowed: false, ..SubjectAccessReviewStatus::default() }
}
