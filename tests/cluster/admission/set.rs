//! A case that stands in a cluster: what it knows of is made there, its request is sent there,
//! and the answer is put in the case's own words.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};
use jiff::Timestamp;
use kube::Client;
use mandate::api::{AgentTask, names};
use mandate::decide::admit;
use mandate::decide::finding::{Finding, Severity, Verdict};
use mandate::decide::world::deadline;
use serde_json::{Value, json};

use super::request::{self, Answer, account, audited, make, object, path, plain, plural, taken};
use crate::bed::Bed;
use crate::case::{self, Case, Decided, Verb};
use crate::place::{Reply, now, until};

/// A case that stands in the cluster, ready to be sent.
pub struct Set {
    case: Case,
    /// Namespace that stands for the case's own.
    namespace: String,
    /// Names in the case, and what stands for them.
    names: Vec<(String, String)>,
    /// Seconds that tasks have left, in the case.
    left: Vec<i64>,
    /// Since when they have less.
    since: Instant,
    uid_of_bound: Option<String>,
    /// UIDs of tasks in the case, and what stands for them.
    uids: BTreeMap<String, String>,
    /// Ends of waivers in the case, and what stands for them.
    ends: Vec<(String, String)>,
}

impl Set {
    /// Makes what the case knows of.
    pub async fn up(admin: &Client, namespace: &str, mut case: Case) -> Result<Self> {
        // The API server adds this group to everybody.
        let mut user = case.asked.request.user();
        if !user.groups.iter().any(|group| group == "system:authenticated") {
            user.groups.push("system:authenticated".to_owned());
        }
        case.asked.request.user = Some(user);
        // The longest first: the prefix stands before names that are unique in the cluster.
        let names = vec![(String::new(), format!("{namespace}-")), (case::NAMESPACE.to_owned(), namespace.to_owned())];
        let mut set = Self {
            case,
            namespace: namespace.to_owned(),
            names,
            left: vec![],
            since: Instant::now(),
            uid_of_bound: None,
            uids: BTreeMap::new(),
            ends: vec![],
        };
        let Case { asked, .. } = &set.case;
        let elsewhere = asked.world.iter().map(|manifest| &manifest["metadata"]["namespace"]).filter_map(Value::as_str);
        let mut all: BTreeSet<&str> = elsewhere.chain(asked.request.namespace.as_deref()).collect();
        all.insert(case::NAMESPACE);
        for here in all {
            make(admin, &object("v1", "Namespace", &set.real_namespace(here)), None).await?;
            account(admin, &set.real_namespace(here), "default").await?;
        }
        // Policies come last: they might be in the way of the object as it was.
        let is_policy = |manifest: &Value| manifest["kind"] == "ClusterAgentPolicy";
        let (policies, others): (Vec<Value>, Vec<Value>) = asked.world.iter().cloned().partition(is_policy);
        for manifest in others {
            set.know(admin, manifest).await?;
        }
        for object in [Some(set.case.asked.request.object.clone()), set.case.asked.request.old_object.clone()] {
            set.end(object.as_ref().unwrap_or(&Value::Null))?;
        }
        set.accounts(admin).await?;
        set.bound(admin).await?;
        set.old(admin).await?;
        for manifest in policies {
            set.know(admin, manifest).await?;
        }
        Ok(set)
    }

    fn real_namespace(&self, namespace: &str) -> String {
        if namespace == case::NAMESPACE { self.namespace.clone() } else { format!("{}-{namespace}", self.namespace) }
    }

    /// Namespace of the request.
    pub fn here(&self) -> String {
        self.real_namespace(self.case.asked.request.namespace.as_deref().unwrap_or(case::NAMESPACE))
    }

    /// The resource of the request, with its subresource.
    pub fn resource(&self) -> String {
        match self.case.asked.request.resource() {
            (_, resource, "") => resource.to_owned(),
            (_, resource, subresource) => format!("{resource}/{subresource}"),
        }
    }

    /// One object of the case's world.
    async fn know(&mut self, admin: &Client, mut manifest: Value) -> Result<()> {
        let kind = manifest["kind"].as_str().unwrap_or_default().to_owned();
        manifest["apiVersion"] = json!("mandate.dev/v1alpha1");
        let namespace = self.real_namespace(manifest["metadata"]["namespace"].as_str().unwrap_or(case::NAMESPACE));
        if kind == "ClusterAgentPolicy" {
            manifest["metadata"]["name"] =
                json!(format!("{}-{}", self.namespace, manifest["metadata"]["name"].as_str().unwrap_or_default()));
            let chosen = manifest["spec"]["namespaces"].as_array().map(|all| all.iter().filter_map(Value::as_str).collect());
            let namespaces: Vec<String> =
                chosen.unwrap_or_else(|| vec![case::NAMESPACE]).into_iter().map(|one| self.real_namespace(one)).collect();
            manifest["spec"]["namespaces"] = json!(namespaces);
            return make(admin, &manifest, None).await.map(|_| ());
        }
        manifest["metadata"]["namespace"] = json!(namespace);
        let written: Option<AgentTask> = if kind == "AgentTask" { serde_json::from_value(manifest.clone()).ok() } else { None };
        if let Some(task) = &written {
            let left = deadline(task).duration_since(self.case.now().map_err(anyhow::Error::msg)?).as_secs();
            manifest["spec"]["ttl"] = json!(format!("{}s", left.max(1)));
            self.left.extend(Some(left).filter(|left| *left > 0));
        }
        self.end(&manifest)?;
        manifest = self.real(&manifest);
        let mut status = manifest.as_object_mut().and_then(|members| members.remove("status"));
        let links = status.as_mut().and_then(|status| status.get_mut("chain")?.as_array_mut());
        for link in links.into_iter().flatten() {
            if let Some(real) = link["uid"].as_str().and_then(|uid| self.uids.get(uid)) {
                link["uid"] = json!(real);
            }
        }
        if let Some(metadata) = manifest["metadata"].as_object_mut() {
            metadata.retain(|member, _| !matches!(member.as_str(), "uid" | "creationTimestamp" | "deletionTimestamp"));
        }
        let made = make(admin, &manifest, Some(&namespace)).await?;
        let name = made["metadata"]["name"].as_str().unwrap_or_default();
        if let Some(status) = status {
            let path = format!("{}/{name}/status", path("mandate.dev/v1alpha1", &plural(&kind), Some(&namespace)));
            taken(request::request(admin, "PATCH", &path, None, &json!({"status": status})).await)?;
        }
        if let Some(written) = written {
            let real: AgentTask = serde_json::from_value(made.clone())?;
            let uid = |task: &AgentTask| task.metadata.uid.clone().unwrap_or_default();
            self.names.insert(0, (names::of_task(name, &uid(&written)), names::of_task(name, &uid(&real))));
            self.uids.insert(uid(&written), uid(&real));
            self.names.insert(0, (deadline(&written).to_string(), deadline(&real).to_string()));
        }
        Ok(())
    }

    /// The end of a waiver, as far from now as it is from the time of the case; one that is close
    /// by lies further off, so that the case is over before it.
    fn end(&mut self, manifest: &Value) -> Result<()> {
        let end = manifest["spec"]["expiresAt"].as_str().filter(|_| manifest["kind"] == "PolicyWaiver");
        let Some(end) = end else { return Ok(()) };
        let left = end.parse::<Timestamp>()?.duration_since(self.case.now().map_err(anyhow::Error::msg)?).as_secs();
        let left = if left > 0 { left.max(3600) } else { left };
        let real = Timestamp::from_second(now().as_second() + left)?;
        self.ends.push((end.to_owned(), real.to_string()));
        Ok(())
    }

    /// Every ServiceAccount that the case speaks of.
    async fn accounts(&self, admin: &Client) -> Result<()> {
        let request = &self.case.asked.request;
        let mut accounts: BTreeSet<String> = BTreeSet::new();
        for object in [Some(&request.object), request.old_object.as_ref()].into_iter().flatten() {
            let object = self.real(object);
            for path in
                ["/spec/serviceAccountName", "/spec/serviceAccount", "/metadata/annotations/kubernetes.io~1service-account.name"]
            {
                accounts.extend(object.pointer(path).and_then(Value::as_str).map(str::to_owned));
            }
        }
        if request.resource().2 == "token" {
            accounts.extend(request.name.as_deref().map(|name| self.real_text(name)));
        }
        accounts.extend(self.names.iter().map(|(_, real)| real.clone()).filter(|real| real.starts_with("mandate-task-")));
        for name in accounts.iter().filter(|name| !name.is_empty()) {
            account(admin, &self.here(), name).await?;
        }
        Ok(())
    }

    /// The pod or Secret to which a token is to be bound, and for a pod its node; or the pod that
    /// is to be bound to one.
    async fn bound(&mut self, admin: &Client) -> Result<()> {
        let asked = &self.case.asked.request;
        let object = self.real(&asked.object);
        if object["kind"] == "Binding" {
            let mut pod = request::object("v1", "Pod", object["metadata"]["name"].as_str().unwrap_or_default());
            pod["spec"] = json!({"automountServiceAccountToken": false, "containers": [{"name": "a", "image": "a"}]});
            make(admin, &pod, Some(&self.here())).await?;
        }
        let reference = &object["spec"]["boundObjectRef"];
        let (Some(kind), Some(name)) = (reference["kind"].as_str(), reference["name"].as_str()) else { return Ok(()) };
        let mut bound = request::object("v1", kind, name);
        if kind == "Pod" {
            let audiences: Vec<&str> =
                object["spec"]["audiences"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
            let audiences = if audiences.is_empty() { vec![""] } else { audiences };
            let sources: Vec<Value> = audiences
                .iter()
                .enumerate()
                .map(|(n, audience)| json!({"serviceAccountToken": {"audience": audience, "path": n.to_string()}}))
                .collect();
            bound["spec"] = json!({
                "serviceAccountName": self.real_text(asked.name.as_deref().unwrap_or_default()),
                "containers": [{"name": "a", "image": "a"}],
                "volumes": [{"name": "tokens", "projected": {"sources": sources}}],
            });
            if let Some(node) = asked.user().username.strip_prefix("system:node:") {
                bound["spec"]["nodeName"] = json!(node);
                make(admin, &request::object("v1", "Node", node), None).await?;
            }
        }
        let made = make(admin, &bound, Some(&self.here())).await?;
        self.uid_of_bound = made["metadata"]["uid"].as_str().map(str::to_owned);
        Ok(())
    }

    /// The object as it was before the request.
    async fn old(&self, admin: &Client) -> Result<()> {
        let request = &self.case.asked.request;
        let Some(old) = &request.old_object else { return Ok(()) };
        let mut old = self.complete(old);
        // A pod gets its debugging containers only later.
        let debuggers = old.get_mut("spec").and_then(Value::as_object_mut).and_then(|spec| spec.remove("ephemeralContainers"));
        make(admin, &old, Some(&self.here())).await?;
        if let Some(debuggers) = debuggers {
            let pod = old["metadata"]["name"].as_str().unwrap_or_default();
            let path = format!("{}/{pod}/ephemeralcontainers", path("v1", "pods", Some(&self.here())));
            taken(request::request(admin, "PATCH", &path, None, &json!({"spec": {"ephemeralContainers": debuggers}})).await)?;
        }
        Ok(())
    }

    /// A text of the case with the names that stand in the cluster.
    fn real_text(&self, text: &str) -> String {
        let owned = self.names.iter().filter(|(written, _)| written.starts_with("mandate-task-"));
        let text = owned.fold(text.to_owned(), |text, (written, real)| text.replace(written, real));
        self.ends.iter().fold(text, |text, (written, real)| text.replace(written, real))
    }

    fn real(&self, object: &Value) -> Value {
        serde_json::from_str(&self.real_text(&object.to_string())).unwrap_or_default()
    }

    /// A text of the API server with the names that stand in the case.
    pub fn written_text(&self, text: &str) -> String {
        let mut text =
            self.names.iter().filter(|(written, _)| !written.is_empty()).fold(text.to_owned(), |text, (written, real)| {
                if *real == self.namespace { text } else { text.replace(real, written) }
            });
        text = self.ends.iter().fold(text, |text, (written, real)| text.replace(real, written));
        text = text.replace(&format!("{}-", self.namespace), "").replace(&self.namespace, case::NAMESPACE);
        for left in &self.left {
            for passed in 1..=self.passed() {
                text = text.replace(&format!("{} s", left - passed), &format!("{left} s"));
            }
        }
        text
    }

    /// Seconds that have passed since the tasks of the case were made, rounded up.
    fn passed(&self) -> i64 {
        i64::try_from(self.since.elapsed().as_secs()).unwrap_or_default() + 2
    }

    /// An object of the case with what an API server wants to be there and the case leaves out,
    /// since it changes nothing: images, and volumes for what is mounted.
    fn complete(&self, object: &Value) -> Value {
        let mut object = self.real(object);
        if object["metadata"]["namespace"].is_string() {
            object["metadata"]["namespace"] = json!(self.here());
        }
        complete(&mut object);
        object
    }

    /// Sends the request and compares the answer with the decision.
    pub async fn is_answered_as_written(&self, admin: &Client, registrations: &[Value], bed: &Bed) -> Result<()> {
        let request = &self.case.asked.request;
        if !self.is_asked_about(registrations) {
            bail!("the API server does not ask the webhook about this");
        }
        let Decided { verdict, changes, object } = self.case.decided().map_err(anyhow::Error::msg)?;
        let last = self.names.iter().filter_map(|(_, real)| real.parse::<Timestamp>().ok()).min();
        let is_over = last.filter(|_| self.left.is_empty());
        if let Some(over) = is_over {
            until("the task of the case to be over", || async { (now() > over).then_some(()) }).await?;
        }
        let answer = self.send(admin).await?;
        let verdict = if verdict.is_denied() || verdict.questions.is_empty() { verdict } else { self.all_no(&verdict) };
        self.same_verdict(&verdict, &answer)?;
        if verdict.of(Severity::Audit).next().is_some() {
            let wanted = verdict.of(Severity::Audit).map(Finding::to_string).collect::<Vec<_>>().join("\n");
            let found = audited(bed, &answer.audit_id).await?;
            same("entry of the audit log", &wanted, &self.written_text(&found))?;
        }
        if self.case.is_about_changes() && !verdict.is_denied() {
            let body: Value = serde_json::from_str(&self.written_text(&answer.reply.body.to_string()))?;
            // Of a token only its life: the API server fills in the rest.
            let is_token = request.resource().2 == "token";
            let part =
                if is_token { json!({"spec": {"expirationSeconds": object["spec"]["expirationSeconds"]}}) } else { object };
            self.holds(&body, &part, "")?;
        }
        let told: Vec<String> = answer.reply.warnings.iter().map(|text| self.written_text(&plain(text))).collect();
        match changes.warnings.iter().find(|wanted| self.case.is_about_changes() && !told.contains(wanted)) {
            Some(wanted) => bail!("no warning `{wanted}` in {told:#?}"),
            None => Ok(()),
        }
    }

    /// Whether a webhook is registered for the request.
    fn is_asked_about(&self, registrations: &[Value]) -> bool {
        let request = &self.case.asked.request;
        let (group, resource, subresource) = request.resource();
        let whole = if subresource.is_empty() { resource.to_owned() } else { format!("{resource}/{subresource}") };
        let operation = if request.operation == Verb::Create { "CREATE" } else { "UPDATE" };
        let has =
            |list: &Value, wanted: &str| list.as_array().is_some_and(|list| list.iter().any(|one| one == wanted || one == "*"));
        let webhooks = registrations.iter().flat_map(|registration| registration["webhooks"].as_array().into_iter().flatten());
        webhooks.into_iter().any(|webhook| {
            let place = webhook.pointer("/namespaceSelector/matchExpressions/0/values");
            place.is_none_or(|values| has(values, &self.here()))
                && webhook["rules"].as_array().into_iter().flatten().any(|rule| {
                    has(&rule["apiGroups"], group) && has(&rule["resources"], &whole) && has(&rule["operations"], operation)
                })
        })
    }

    /// The verdict where every question is answered with no: nobody here holds anything.
    fn all_no(&self, verdict: &Verdict) -> Verdict {
        let request = &self.case.asked.request;
        let refused = verdict
            .questions
            .iter()
            .map(|question| request.with(&request.object, |review| admit::refused(review, &question.otherwise)));
        Verdict::new(verdict.findings.iter().cloned().chain(refused).collect())
    }

    /// Sends the request, as a dry run.
    pub async fn send(&self, admin: &Client) -> Result<Answer> {
        let request = &self.case.asked.request;
        let (_, resource, subresource) = request.resource();
        let object = self.complete(&request.object);
        let version = object["apiVersion"].as_str().unwrap_or_default();
        let name = self.real_text(request.name.as_deref().or(object["metadata"]["name"].as_str()).unwrap_or_default());
        let user = request.user();
        let query = "dryRun=All&fieldValidation=Strict";
        match (&request.old_object, subresource) {
            (None, "token") => {
                let mut object = object;
                if let Some(uid) = &self.uid_of_bound {
                    object["spec"]["boundObjectRef"]["uid"] = json!(uid);
                }
                object["spec"].as_object_mut().context("a spec")?.entry("audiences").or_insert(json!([]));
                let path = format!("{}/{name}/token?{query}", path("v1", resource, Some(&self.here())));
                request::request(admin, "POST", &path, Some(&user), &object).await
            }
            (None, "binding") => {
                let path = format!("{}/{name}/binding?{query}", path("v1", resource, Some(&self.here())));
                request::request(admin, "POST", &path, Some(&user), &object).await
            }
            (None, _) => {
                request::request(
                    admin,
                    "POST",
                    &format!("{}?{query}", path(version, resource, Some(&self.here()))),
                    Some(&user),
                    &object,
                )
                .await
            }
            (Some(old), subresource) => {
                let below = if subresource.is_empty() { String::new() } else { format!("/{subresource}") };
                let path = format!("{}/{name}{below}?{query}", path(version, resource, Some(&self.here())));
                let change = difference(&self.complete(old), &object);
                request::request(admin, "PATCH", &path, Some(&user), &change).await
            }
        }
    }

    fn same_verdict(&self, verdict: &Verdict, answer: &Answer) -> Result<()> {
        let Reply { code, warnings, .. } = &answer.reply;
        let said = self.written_text(answer.reply.message());
        if verdict.is_denied() {
            let Some((_, text)) = said.split_once("denied the request: ").filter(|(by, _)| by.contains(".mandate.dev\"")) else {
                bail!("{code} {said}");
            };
            same("refusal", &verdict.denial(), text)?;
        } else if code / 100 != 2 {
            bail!("{code} {said}");
        }
        let wanted = mandate::webhook::warnings(verdict);
        let told: Vec<String> = warnings
            .iter()
            .map(|text| plain(text))
            .filter(|text| text.starts_with('['))
            .map(|text| self.written_text(&text))
            .collect();
        let same_words = wanted.len() == told.len()
            && wanted
                .iter()
                .zip(&told)
                .all(|(wanted, told)| wanted == told || (told.len() > 200 && wanted.starts_with(&told[..200])));
        ensure!(same_words, "warnings should be\n{wanted:#?}\nand are\n{told:#?}");
        Ok(())
    }

    /// Whether an object of the API server holds everything that the case's does; of what
    /// counts down, what is left by now.
    fn holds(&self, whole: &Value, part: &Value, at: &str) -> Result<()> {
        match (whole, part) {
            // A member that is null is not there, and an API server leaves out an empty list.
            (Value::Object(whole), Value::Object(part)) => {
                part.iter().filter(|(_, part)| !part.is_null() && **part != json!([])).try_for_each(|(key, part)| {
                    let whole = whole.get(key).with_context(|| format!("{at}.{key} is missing"))?;
                    self.holds(whole, part, &format!("{at}.{key}"))
                })
            }
            (Value::Array(whole), Value::Array(part)) if whole.len() == part.len() => whole
                .iter()
                .zip(part)
                .enumerate()
                .try_for_each(|(n, (whole, part))| self.holds(whole, part, &format!("{at}[{n}]"))),
            (Value::Number(whole), Value::Number(part)) if self.left.iter().any(|left| part.as_i64() == Some(*left)) => {
                let gone = part.as_i64().unwrap_or_default() - whole.as_i64().unwrap_or_default();
                ensure!((0..=self.passed()).contains(&gone), "{at} should be {part} or a little less and is {whole}");
                Ok(())
            }
            _ if whole == part => Ok(()),
            _ => bail!("{at} should be {part} and is {whole}"),
        }
    }
}

fn same(what: &str, wanted: &str, found: &str) -> Result<()> {
    ensure!(wanted == found, "the {what} should be\n{wanted}\nand is\n{found}");
    Ok(())
}

/// Images for every container, and volumes for everything that is mounted.
fn complete(value: &mut Value) {
    const LISTS: [&str; 3] = ["containers", "initContainers", "ephemeralContainers"];
    if value["containers"].is_array() {
        let mut mounted = vec![];
        for container in LISTS.iter().flat_map(|list| value[list].as_array().cloned().unwrap_or_default()) {
            mounted.extend(
                container["volumeMounts"].as_array().cloned().unwrap_or_default().into_iter().map(|mount| mount["name"].clone()),
            );
        }
        for container in
            LISTS.iter().filter_map(|list| value.get(list).and_then(Value::as_array).map(|_| *list)).collect::<Vec<_>>()
        {
            for container in value[container].as_array_mut().into_iter().flatten().filter_map(Value::as_object_mut) {
                container.entry("image").or_insert(json!("registry.example.com/agent:1"));
            }
        }
        for name in mounted {
            let volumes = value["volumes"].as_array().cloned().unwrap_or_default();
            if !volumes.iter().any(|volume| volume["name"] == name) {
                value["volumes"] = json!([volumes, vec![json!({"name": name, "emptyDir": {}})]].concat());
            }
        }
    }
    match value {
        Value::Object(members) => {
            // Indexing has made members that were not there.
            members.retain(|name, member| !(member.is_null() && (LISTS.contains(&name.as_str()) || name == "volumes")));
            members.values_mut().for_each(complete);
        }
        Value::Array(items) => items.iter_mut().for_each(complete),
        _ => {}
    }
}

/// The JSON merge patch (RFC 7396) that makes one object of another.
fn difference(old: &Value, new: &Value) -> Value {
    let (Some(old), Some(new)) = (old.as_object(), new.as_object()) else { return new.clone() };
    let mut change = serde_json::Map::new();
    for (key, value) in new {
        match old.get(key) {
            Some(before) if before == value => {}
            Some(before) if before.is_object() => _ = change.insert(key.clone(), difference(before, value)),
            _ => _ = change.insert(key.clone(), value.clone()),
        }
    }
    change.extend(old.keys().filter(|key| !new.contains_key(*key)).map(|key| (key.clone(), Value::Null)));
    Value::Object(change)
}
