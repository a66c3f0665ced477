//! Questions that only the API server can answer: may this user do that?
//! (`SubjectAccessReview`, authorization.k8s.io/v1.)

use futures::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use kube::api::PostParams;
use kube::{Api, Client};

use crate::decide::check::{Because, Question};

/// How many questions are under way at once.
const AT_ONCE: usize = 8;

/// Puts questions and gives back what the first "no" means, in the order asked.
///
/// # Errors
/// The API server could not answer; nobody may take that for a yes.
pub async fn ask(client: &Client, questions: &[Question]) -> Result<Result<(), Because>, kube::Error> {
    Ok(match ask_all(client, questions).await?.into_iter().next() {
        Some(because) => Err(because),
        None => Ok(()),
    })
}

/// Puts questions and gives back what every "no" means, in the order asked.
///
/// # Errors
/// The API server could not answer; nobody may take that for a yes.
pub async fn ask_all(client: &Client, questions: &[Question]) -> Result<Vec<Because>, kube::Error> {
    let api: Api<SubjectAccessReview> = Api::all(client.clone());
    let put: Vec<_> = questions.iter().cloned().map(|question| put(api.clone(), question)).collect();
    let answers: Vec<Option<Because>> = stream::iter(put).buffered(AT_ONCE).try_collect().await?;
    Ok(answers.into_iter().flatten().collect())
}

/// Puts one question and gives back what a "no" means.
async fn put(api: Api<SubjectAccessReview>, question: Question) -> Result<Option<Because>, kube::Error> {
    let answer = api.create(&PostParams::default(), &review(&question)).await?;
    let allowed = answer.status.is_some_and(|status| status.allowed && status.denied != Some(true));
    Ok((!allowed).then_some(question.otherwise))
}

fn review(Question { who, namespace, permission, otherwise: _ }: &Question) -> SubjectAccessReview {
    let (resource, subresource) = match permission.resource.split_once('/') {
        Some((resource, subresource)) => (resource, Some(subresource.to_owned())),
        None => (permission.resource.as_str(), None),
    };
    SubjectAccessReview {
        spec: SubjectAccessReviewSpec {
            user: Some(who.username.clone()),
            uid: Some(who.uid.clone()).filter(|uid| !uid.is_empty()),
            groups: Some(who.groups.clone()),
            extra: Some(who.extra.clone()).filter(|extra| !extra.is_empty()),
            resource_attributes: Some(ResourceAttributes {
                namespace: Some(namespace.clone()),
                group: Some(permission.group.clone()),
                resource: Some(resource.to_owned()),
                subresource,
                name: permission.name.clone(),
                verb: Some(permission.verb.clone()),
                ..ResourceAttributes::default()
            }),
            ..SubjectAccessReviewSpec::default()
        },
        ..SubjectAccessReview::default()
    }
}
