//! What does the webhook say about what is no pod: templates of every kind, accounts, bindings,
//! and whoever connects to a pod of a task? And what does it leave alone?

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use kube::Client;
use mandate::api::Requester;
use mandate::decide::admit::TO_COME;
use serde_json::{Value, json};

use crate::admission::request::{audited, plain, request};
use crate::bed::Bed;
use crate::bed::mandate::Mandate;
use crate::place::{CEILING, FLEETS, Outcome, Place, Reply, merge, send, until};

/// What is wrong with every template here.
const WRONG: &str = "container `agent` takes an environment variable from Secret `crm-api`, which never expires";

/// The template of a pod that reaches a static secret.
fn template() -> Value {
    let variable = json!({"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "crm-api", "key": "token"}}});
    json!({
        "metadata": {"labels": {"app": "agent"}},
        "spec": {
            "automountServiceAccountToken": false,
            "containers": [{"name": "agent", "image": "registry.example.com/agent:1", "env": [variable]}],
        },
    })
}

/// A template whose pods do not stay.
fn once() -> Value {
    let mut template = template();
    template["spec"]["restartPolicy"] = json!("Never");
    template
}

/// A workload of every kind that Kubernetes has, with its API, its resource and the path of its
/// template.
fn workloads(name: &str) -> Vec<(&'static str, &'static str, &'static str, Value)> {
    let selector = json!({"matchLabels": {"app": "agent"}});
    let apps = |kind: &str, more: Value| {
        let mut spec = json!({"selector": selector, "template": template()});
        merge(&mut spec, more);
        json!({"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": name}, "spec": spec})
    };
    let batch =
        |kind: &str, spec: Value| json!({"apiVersion": "batch/v1", "kind": kind, "metadata": {"name": name}, "spec": spec});
    let cron = json!({"schedule": "0 3 * * *", "jobTemplate": {"spec": {"template": once()}}});
    let of = "spec.template";
    vec![
        ("apps/v1", "deployments", of, apps("Deployment", json!({"replicas": 1}))),
        ("apps/v1", "replicasets", of, apps("ReplicaSet", json!({"replicas": 0}))),
        ("apps/v1", "daemonsets", of, apps("DaemonSet", json!({}))),
        ("apps/v1", "statefulsets", of, apps("StatefulSet", json!({"serviceName": "agent", "replicas": 0}))),
        ("batch/v1", "jobs", of, batch("Job", json!({"template": once()}))),
        ("batch/v1", "cronjobs", "spec.jobTemplate.spec.template", batch("CronJob", cron)),
        (
            "v1",
            "replicationcontrollers",
            of,
            json!({"apiVersion": "v1", "kind": "ReplicationController", "metadata": {"name": name}, "spec": {"replicas": 0, "selector": {"app": "agent"}, "template": template()}}),
        ),
        (
            "v1",
            "podtemplates",
            "template",
            json!({"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": name}, "template": template()}),
        ),
    ]
}

/// The warnings of Mandate in an answer.
fn told(reply: &Reply) -> Vec<String> {
    reply.warnings.iter().map(|text| plain(text)).filter(|text| text.starts_with('[')).collect()
}

#[track_caller]
fn taken(reply: &Reply) {
    assert!(reply.code / 100 == 2, "{} {}", reply.code, reply.message());
}

/// Waits until the webhook is asked about a kind in a namespace.
async fn asked(place: &Place<'_>, path: &str, object: &Value) -> Result<()> {
    let dry = format!("{path}?dryRun=All");
    until(&format!("the webhook to be asked at {path}"), || async {
        let reply = send(&place.admin, "POST", &dry, object).await.ok()?;
        (!told(&reply).is_empty()).then_some(())
    })
    .await
}

#[tokio::test]
async fn a_workload_of_every_kind_is_let_in_with_the_denial_that_its_pods_meet() -> Outcome {
    let place = Place::fresh().await?;
    // The denial of such a pod, behind its path.
    let mut pod = template();
    merge(&mut pod, json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "agent"}}));
    let reply = send(&place.admin, "POST", &place.path("v1", "pods"), &pod).await?;
    assert_eq!(reply.code, 403, "{}", reply.message());
    let (_, denial) = reply.message().split_once("valueFrom.secretKeyRef: ").context("a denial with a path")?;
    let denial = denial.to_owned();
    assert!(denial.starts_with(WRONG), "{denial}");

    for (version, resource, at, workload) in workloads("agent") {
        let reply = send(&place.admin, "POST", &place.path(version, resource), &workload).await?;
        assert_eq!(reply.code, 201, "{resource}: {}", reply.message());
        let wanted = format!("[secret-env] {at}.spec.containers[0].env[0].valueFrom.secretKeyRef: {TO_COME}{denial}");
        assert_eq!(told(&reply), [wanted], "{resource}");
    }
    // And so it comes, said by whoever makes the pods.
    let sets = place.path("apps/v1", "replicasets");
    until("the Deployment's pods to be refused", || async {
        let all = send(&place.admin, "GET", &sets, &Value::Null).await.ok()?.body;
        let conditions =
            all["items"].as_array()?.iter().flat_map(|set| set["status"]["conditions"].as_array().into_iter().flatten());
        conditions.filter_map(|condition| condition["message"].as_str()).any(|text| text.contains(WRONG)).then_some(())
    })
    .await?;
    Ok(())
}

/// A custom resource of two served versions that holds templates where it likes.
async fn fleets(admin: &Client) -> Result<()> {
    let (group, plural) = FLEETS.split_once('/').context("GROUP/RESOURCE")?.to_owned();
    let anything = json!({"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}});
    let version = |name: &str, storage: bool| json!({"name": name, "served": true, "storage": storage, "schema": anything, "subresources": {"status": {}}});
    let definition = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{plural}.{group}")},
        "spec": {
            "group": group, "scope": "Namespaced",
            "names": {"plural": plural, "singular": "fleet", "kind": "Fleet"},
            "versions": [version("v1", true), version("v2alpha1", false)],
        },
    });
    let reply = send(admin, "POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", &definition).await?;
    ensure!(reply.code / 100 == 2, "{}", reply.message());
    Ok(())
}

#[tokio::test]
async fn a_kind_that_nobody_knows_is_warned_about_in_every_version_once_it_is_registered() -> Outcome {
    let place = Place::fresh().await?;
    fleets(&place.admin).await?;
    let fleet = |version: &str, name: &str, template: Value| {
        let version = format!("test.mandate.example/{version}");
        let spec = json!({"size": 1, "groups": [{"name": "a", "pod": template}]});
        json!({"apiVersion": version, "kind": "Fleet", "metadata": {"name": name}, "spec": spec})
    };
    for version in ["v1", "v2alpha1"] {
        let path = place.path(&format!("test.mandate.example/{version}"), "fleets");
        asked(&place, &path, &fleet(version, version, template())).await?;
        let reply = send(&place.admin, "POST", &path, &fleet(version, version, template())).await?;
        assert_eq!(reply.code, 201, "{}", reply.message());
        let at = "spec.groups[0].pod.spec.containers[0].env[0].valueFrom.secretKeyRef";
        assert!(told(&reply)[0].starts_with(&format!("[secret-env] {at}: {TO_COME}{WRONG}")), "{:?}", told(&reply));
        // Of an update what it adds, and nothing of metadata and status.
        let one = format!("{path}/{version}");
        for change in [
            json!({"metadata": {"finalizers": ["example.com/kept"]}}),
            json!({"metadata": {"finalizers": []}}),
            json!({"spec": {"size": 2}}),
        ] {
            let reply = send(&place.admin, "PATCH", &one, &change).await?;
            taken(&reply);
            assert_eq!(told(&reply), Vec::<String>::new(), "{change}");
        }
        let more = json!({"spec": {"sidecar": {"image": "a", "args": [], "envFrom": [{"secretRef": {"name": "other"}}]}}});
        let reply = send(&place.admin, "PATCH", &one, &more).await?;
        taken(&reply);
        assert!(told(&reply)[0].starts_with("[secret-env-from] spec.sidecar.envFrom[0].secretRef: "), "{:?}", told(&reply));
        taken(&send(&place.admin, "PATCH", &format!("{one}/status"), &json!({"status": {"template": template()}})).await?);
    }
    Ok(())
}

/// What may be done to what was there before, whatever Mandate says or whether it is there.
async fn left_alone(place: &Place<'_>, name: &str) -> Result<()> {
    let admin = &place.admin;
    let silent = async |method: &str, path: &str, change: Value| -> Result<()> {
        let reply = send(admin, method, path, &change).await?;
        ensure!(reply.code / 100 == 2, "{method} {path} {change}: {} {}", reply.code, reply.message());
        ensure!(told(&reply).is_empty(), "{method} {path} {change}: {:?}", told(&reply));
        Ok(())
    };
    for (version, resource, _, _) in workloads(name) {
        let one = format!("{}/{name}", place.path(version, resource));
        silent("PATCH", &one, json!({"metadata": {"labels": {"touched": "yes"}, "finalizers": ["example.com/kept"]}})).await?;
        silent("PATCH", &one, json!({"metadata": {"finalizers": []}})).await?;
        if resource != "podtemplates" {
            silent("PATCH", &format!("{one}/status"), json!({"status": {"observedGeneration": 1}})).await?;
        }
        if ["deployments", "replicasets", "statefulsets", "replicationcontrollers"].contains(&resource) {
            silent("PATCH", &format!("{one}/scale"), json!({"spec": {"replicas": 0}})).await?;
            silent("PATCH", &one, json!({"spec": {"replicas": 0}})).await?;
        }
        silent("DELETE", &one, json!({"propagationPolicy": "Background"})).await?;
    }
    // A pod and an account with all that is refused today.
    let pod = format!("{}/{name}", place.path("v1", "pods"));
    silent("PATCH", &pod, json!({"metadata": {"finalizers": ["example.com/kept"]}})).await?;
    silent("PATCH", &pod, json!({"metadata": {"finalizers": []}})).await?;
    silent("PATCH", &format!("{pod}/status"), json!({"status": {"message": "still here"}})).await?;
    silent("DELETE", &pod, json!({"gracePeriodSeconds": 0})).await?;
    let account = format!("{}/{name}", place.path("v1", "serviceaccounts"));
    silent("PATCH", &account, json!({"metadata": {"annotations": {"touched": "yes"}, "finalizers": ["example.com/kept"]}}))
        .await?;
    silent("PATCH", &account, json!({"metadata": {"finalizers": []}})).await?;
    silent("DELETE", &account, json!({})).await?;
    let secret = format!("{}/{name}", place.path("v1", "secrets"));
    silent("PATCH", &secret, json!({"metadata": {"finalizers": ["example.com/kept"]}})).await?;
    silent("PATCH", &secret, json!({"metadata": {"finalizers": []}})).await?;
    silent("DELETE", &secret, json!({})).await
}

/// Everything that is refused or warned about today, as somebody made it before Mandate came.
async fn before(admin: &Client, namespace: &str, name: &str) -> Result<()> {
    let place = |version: &str, resource: &str| {
        let root = if version == "v1" { "/api/v1".to_owned() } else { format!("/apis/{version}") };
        format!("{root}/namespaces/{namespace}/{resource}")
    };
    let mut objects: Vec<(String, Value)> =
        workloads(name).into_iter().map(|(version, resource, _, workload)| (place(version, resource), workload)).collect();
    let mut pod = template();
    merge(&mut pod, json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}}));
    pod["metadata"]["labels"] = json!({});
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}, "secrets": [{"name": "old"}], "imagePullSecrets": [{"name": "old"}]});
    let token = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "annotations": {"kubernetes.io/service-account.name": "default"}}, "type": "kubernetes.io/service-account-token"});
    objects.extend([(place("v1", "pods"), pod), (place("v1", "serviceaccounts"), account), (place("v1", "secrets"), token)]);
    for (path, object) in objects {
        let reply = send(admin, "POST", &path, &object).await?;
        ensure!(reply.code / 100 == 2, "{path}: {}", reply.message());
    }
    Ok(())
}

#[tokio::test]
async fn what_was_there_before_can_be_changed_and_goes_with_the_webhook_and_without() -> Outcome {
    let bed = Bed::start("workloads").await?;
    let admin = bed.admin();
    let namespace = "live";
    let made = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}});
    taken(&send(&admin, "POST", "/api/v1/namespaces", &made).await?);
    until("the default ServiceAccount", || async {
        let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/default");
        send(&admin, "GET", &path, &Value::Null).await.ok().filter(|reply| reply.code == 200)
    })
    .await?;
    for name in ["one", "two"] {
        before(&admin, namespace, name).await?;
    }
    let mut mandate = Mandate::install(&bed, &[namespace], CEILING).await?;
    let place = Place::on(&bed, namespace).await?;
    let (_, _, _, deployment) = workloads("new").remove(0);
    let deployments = place.path("apps/v1", "deployments");
    asked(&place, &deployments, &deployment).await?;
    left_alone(&place, "one").await?;

    mandate.webhook.kill9().await?;
    left_alone(&place, "two").await?;
    // What is only warned about is taken, and what it makes is refused until somebody looks.
    for (version, resource, _, workload) in workloads("new") {
        let reply = send(&admin, "POST", &place.path(version, resource), &workload).await?;
        assert_eq!(reply.code, 201, "{resource}: {}", reply.message());
    }
    let closed = "failed calling webhook";
    let mut pod = template();
    merge(&mut pod, json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "new"}}));
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "new"}, "secrets": [{"name": "a"}]});
    for (resource, object) in [("pods", &pod), ("serviceaccounts", &account)] {
        let reply = send(&admin, "POST", &place.path("v1", resource), object).await?;
        assert!(reply.code == 500 && reply.message().contains(closed), "{resource}: {} {}", reply.code, reply.message());
    }
    let plain = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "plain"}});
    taken(&send(&admin, "POST", &place.path("v1", "serviceaccounts"), &plain).await?);
    bed.stop().await?;
    Ok(())
}

#[tokio::test]
async fn an_account_that_lists_secrets_is_warned_about_and_refused_under_restricted() -> Outcome {
    let place = Place::fresh().await?;
    let path = place.path("v1", "serviceaccounts");
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "builder"}, "secrets": [{"name": "old"}], "imagePullSecrets": [{"name": "registry"}]});
    let reply = send(&place.admin, "POST", &path, &account).await?;
    taken(&reply);
    let said = told(&reply);
    assert!(
        said.len() == 2 && said[0].starts_with("[image-pull-secret] imagePullSecrets[0].name: ServiceAccount `builder`"),
        "{said:?}"
    );
    assert!(
        said[1].starts_with("[service-account-secret] secrets[0].name: ServiceAccount `builder` lists Secret `old`"),
        "{said:?}"
    );
    restricted(&place, json!([{"name": "image-pull-secret", "allow": ["registry"]}])).await?;
    let more = json!({"secrets": [{"name": "old"}, {"name": "new"}]});
    let dry = format!("{path}/builder?dryRun=All");
    let reply = until("the policy to hold", || async {
        send(&place.admin, "PATCH", &dry, &more).await.ok().filter(|reply| reply.code == 403)
    })
    .await?;
    assert!(reply.message().contains("1 finding\n- [service-account-secret] secrets[1].name: "), "{}", reply.message());
    Ok(())
}

/// An AgentPolicy of profile `restricted` that departs from it in these rules.
async fn restricted(place: &Place<'_>, rules: Value) -> Result<()> {
    let spec =
        json!({"owner": {"team": "team", "contact": "team@example.com"}, "workloads": {"profile": "restricted", "rules": rules}});
    place.put("mandate.dev/v1alpha1", "AgentPolicy", "restricted", json!({"spec": spec})).await.map(|_| ())
}

#[tokio::test]
async fn a_binding_brings_a_pod_neither_a_task_nor_a_credential_by_either_resource() -> Outcome {
    let place = Place::fresh().await?;
    let pods = place.path("v1", "pods");
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "agent"}, "spec": {"automountServiceAccountToken": false, "containers": [{"name": "agent", "image": "a"}]}});
    taken(&send(&place.admin, "POST", &pods, &pod).await?);
    let binding = |metadata: Value| {
        let mut binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "agent"}, "target": {"kind": "Node", "name": "nowhere"}});
        merge(&mut binding["metadata"], metadata);
        binding
    };
    let ours = binding(json!({"labels": {"mandate.dev/task": "another"}}));
    let injected = binding(json!({"annotations": {"vault.hashicorp.com/agent-inject-secret-db": "database/creds/app"}}));
    for path in [format!("{pods}/agent/binding"), place.path("v1", "bindings")] {
        let dry = format!("{path}?dryRun=All");
        let reply = until("a binding to be refused", || async {
            send(&place.admin, "POST", &dry, &ours).await.ok().filter(|reply| reply.code == 403)
        })
        .await?;
        assert!(reply.message().contains("[binding-of-a-task] metadata.labels['mandate.dev/task']: "), "{}", reply.message());
        let reply = send(&place.admin, "POST", &dry, &injected).await?;
        taken(&reply);
        assert!(told(&reply)[0].starts_with("[binding-credential] metadata.annotations["), "{:?}", told(&reply));
    }
    // As the scheduler does it.
    let reply = send(&place.admin, "POST", &format!("{pods}/agent/binding"), &binding(json!({}))).await?;
    taken(&reply);
    assert_eq!(told(&reply), Vec::<String>::new());
    Ok(())
}

/// Somebody of one group.
fn person(username: &str, group: &str) -> Requester {
    Requester {
        username: username.to_owned(),
        groups: vec![group.to_owned(), "system:authenticated".to_owned()],
        ..Requester::default()
    }
}

#[tokio::test]
async fn whoever_opens_a_way_into_a_pod_of_a_task_is_recorded_and_under_restricted_refused() -> Outcome {
    let place = Place::fresh().await?;
    place.agent(json!({})).await?;
    place.scope_to_read("read").await?;
    place.start("task", "read", json!({})).await?;
    let ways = json!([
        {"apiGroups": [""], "resources": ["pods/exec", "pods/attach", "pods/portforward", "pods/proxy"], "verbs": ["get", "create"]},
    ]);
    place
        .bind("ways", json!([{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": "system:authenticated"}]), &ways)
        .await?;
    let pods = place.path("v1", "pods");
    for (name, labels) in [("worker", json!({"mandate.dev/task": "task"})), ("web", json!({}))] {
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": labels}, "spec": {"automountServiceAccountToken": false, "containers": [{"name": "a", "image": "a"}]}});
        taken(&send(&place.admin, "POST", &pods, &pod).await?);
    }
    let bob = person("bob", "developers");
    let open = |user: Requester, pod: &'static str, way: &'static str| {
        let (admin, path) = (place.admin.clone(), format!("{pods}/{pod}/{way}"));
        async move { request(&admin, "POST", &path, Some(&user), &Value::Null).await }
    };
    // No pod runs here: whoever is let through hears that it has no node.
    let nowhere = |reply: &Reply| reply.code != 403 && reply.code != 404 && reply.code != 503;
    let answer = until("bob to be let through", || async {
        open(bob.clone(), "worker", "exec?command=id&stdout=true").await.ok().filter(|answer| nowhere(&answer.reply))
    })
    .await?;
    let said = audited(place.bed, &answer.audit_id).await?;
    let words = "[access-to-task-pod] `exec` opens a way into pod `worker`, which holds the credentials of task `task`";
    assert!(said.starts_with(words), "{said}");

    restricted(&place, json!([{"name": "access-to-task-pod", "allow": ["group:sre"]}])).await?;
    until("bob to be refused", || async {
        open(bob.clone(), "worker", "exec?command=id&stdout=true").await.ok().filter(|answer| answer.reply.code == 403)
    })
    .await?;
    for way in ["exec?command=id&stdout=true", "attach?stdout=true", "portforward?ports=80", "proxy"] {
        let reply = open(bob.clone(), "worker", way).await?.reply;
        let verb = way.split('?').next().unwrap_or_default();
        assert_eq!(reply.code, 403, "{way}: {}", reply.message());
        assert!(
            reply.message().contains(&format!("[access-to-task-pod] `{verb}` opens a way into pod `worker`")),
            "{}",
            reply.message()
        );
        let reply = open(person("ann", "sre"), "worker", way).await?.reply;
        assert!(nowhere(&reply), "{way}, by the group that may: {} {}", reply.code, reply.message());
        let reply = open(bob.clone(), "web", way).await?.reply;
        assert!(nowhere(&reply), "{way}, into a pod of no task: {} {}", reply.code, reply.message());
    }
    let reply = open(bob.clone(), "nobody", "exec?command=id").await?.reply;
    assert!(reply.code == 404 && reply.message().contains("there is no pod `nobody`"), "{} {}", reply.code, reply.message());
    Ok(())
}

#[tokio::test]
async fn a_pod_that_cannot_be_looked_up_lets_nobody_in() -> Outcome {
    let bed = Bed::start("connections").await?;
    let _mandate = Mandate::install(&bed, &["live"], CEILING).await?;
    let place = Place::on(&bed, "live").await?;
    let pods = place.path("v1", "pods");
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web"}, "spec": {"automountServiceAccountToken": false, "containers": [{"name": "a", "image": "a"}]}});
    taken(&send(&place.admin, "POST", &pods, &pod).await?);
    let binding = "/apis/rbac.authorization.k8s.io/v1/namespaces/live/rolebindings/mandate-webhook";
    taken(&send(&place.admin, "DELETE", binding, &json!({})).await?);
    let log = bed.audit_log().context("an audit log")?;
    let way = format!("{pods}/web/exec?command=id&stdout=true");
    let refused = "Mandate could not look up whether pod `web` works for a task; try again";
    until("the look-up to fail and nobody to be let in", || async {
        // The client tries again for a while where it is told that a service is not there.
        let open = send(&place.admin, "POST", &way, &Value::Null);
        let _ = tokio::time::timeout(Duration::from_secs(1), open).await;
        let calls = std::fs::read_to_string(log).ok()?;
        calls.lines().rfind(|call| call.contains("/pods/web/exec")).filter(|call| call.contains(refused)).map(|_| ())
    })
    .await?;
    bed.stop().await?;
    Ok(())
}
