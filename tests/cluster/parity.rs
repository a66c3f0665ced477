//! Do the printed policies say the same as the webhook? The whole corpus, and pods that nobody
//! wrote, on a real API server.
//!
//! The corpus: that the webhook answers every case as the decision has it is
//! [`admission`](crate::admission)'s business. Here every case is sent to an API server that has
//! the policies of the case's world and no webhook, and has to come out alike but for what
//! [`seen`](crate::seen) lists.

mod random;

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, bail, ensure};
use futures::{StreamExt as _, stream};
use kube::Client;
use mandate::api::ClusterAgentPolicy;
use mandate::decide::admit;
use mandate::decide::cel::Extent;
use mandate::decide::finding::{Finding, Severity, Verdict};
use mandate::decide::world::{Account, Loaded, World};
use mandate::install::vap::{self, Guard, Kinds};
use serde_json::{Value, json};

use crate::admission::request::{Answer, account, annotation, make, object, path, plain, request};
use crate::admission::set::Set;
use crate::admission::{AT_ONCE, NOT_SENT, corpus, people};
use crate::bed::Bed;
use crate::bed::mandate::{self as installed, NAMESPACE, apply};
use crate::place::{Outcome, Reply, now, until};
use crate::seen::{self, Words};
use crate::vap::{told, warned};

#[tokio::test]
async fn the_policies_say_the_same_as_the_webhook_about_every_case() -> Outcome {
    let bed = start("parity").await?;
    let admin = bed.admin();
    make(&admin, &object("v1", "Namespace", NAMESPACE), None).await?;
    people(&admin).await?;
    let cases = corpus().into_iter().filter_map(|(name, case)| Some((name, seen::requested(case)?))).enumerate();
    let set_up = cases.map(|(number, (name, mut case))| {
        let admin = &admin;
        async move {
            let (decided, asked) =
                (seen::decided(&case), case.world().map(|world| world.asked_of_pods(seen::namespace(&case)).0));
            // No webhook looks at what is known.
            case.asked.world.clear();
            let set = Set::up(admin, &format!("case-{number:03}"), case).await;
            Ok::<_, String>((name, decided?, asked?, set))
        }
    });
    let standing: Vec<_> = stream::iter(set_up).buffered(AT_ONCE).collect().await;
    let standing: Vec<_> = standing.into_iter().collect::<Result<_, _>>()?;
    let mut guards: Vec<(Guard, BTreeSet<String>)> = vec![];
    for (_, _, asked, set) in &standing {
        let Ok(set) = set else { continue };
        let (namespace, resource) = (set.here(), set.resource());
        match guards.iter_mut().find(|(guard, _)| guard.asked == *asked) {
            Some((guard, resources)) => {
                guard.namespaces.push(namespace);
                resources.insert(resource);
            }
            None => guards.push((Guard { namespaces: vec![namespace], asked: asked.clone() }, [resource].into())),
        }
    }
    for (number, (guard, resources)) in guards.into_iter().enumerate() {
        for object in about(&resources, vap::objects(&format!("parity-{number}"), &[guard], Kinds::All)) {
            apply(&admin, &object.to_string()).await?;
        }
    }
    all_in_force(&admin).await?;
    let asked = standing.into_iter().map(|(name, decided, _, set)| {
        let (admin, bed) = (&admin, &bed);
        async move {
            let expected = seen::words(decided.iter().filter(|finding| seen::of_policies(finding).is_none()));
            let said = match set {
                Ok(set) => said(&set, admin, bed, expected.contains_key(&Severity::Audit)).await,
                Err(why) => Err(why),
            };
            (name, expected, said)
        }
    });
    let answers: Vec<_> = stream::iter(asked).buffer_unordered(AT_ONCE).collect().await;

    let not_sent: BTreeMap<&str, &str> = NOT_SENT.iter().copied().collect();
    let listed: BTreeMap<&str, &str> = seen::BY_POLICIES.iter().copied().collect();
    let (mut wrong, mut alike) = (vec![], 0);
    for (name, expected, said) in answers {
        match (said, not_sent.get(name.as_str())) {
            (Err(why), Some(words)) if format!("{why:#}").contains(words) => {}
            (Err(why), _) => wrong.push(format!("{name}: {why:#}")),
            (Ok(said), _) => match (said == expected, listed.contains_key(name.as_str())) {
                (true, false) => alike += 1,
                (false, true) => {}
                (true, true) => wrong.push(format!("{name}: take it out of BY_POLICIES")),
                (false, false) => wrong.push(format!("{name}: the webhook says {expected:#?}\nthe policies say {said:#?}")),
            },
        }
    }
    wrong.sort();
    assert!(wrong.is_empty(), "{} wrong, {alike} alike:\n{}", wrong.len(), wrong.join("\n"));
    Ok(())
}

/// A bed where nobody checks the types of policies, which takes long and is another test's
/// business.
async fn start(name: &str) -> Result<Bed> {
    Bed::options(name).controller_manager_flag("--controllers=*,-validatingadmissionpolicy-status-controller").start().await
}

/// The policies about these resources, with their bindings.
fn about(resources: &BTreeSet<String>, objects: Vec<Value>) -> Vec<Value> {
    let is_about = |policy: &Value| {
        let rules = policy["spec"]["matchConstraints"]["resourceRules"].as_array().into_iter().flatten();
        let mut named = rules.flat_map(|rule| rule["resources"].as_array().into_iter().flatten()).filter_map(Value::as_str);
        named.any(|resource| resources.contains(resource))
    };
    let pairs = objects.chunks(2).filter(|pair| pair.first().is_some_and(is_about));
    pairs.flatten().cloned().collect()
}

/// Waits until the API server has taken up every policy and binding: it does so in the order in
/// which they were made, and this one was made last.
async fn all_in_force(admin: &Client) -> Result<()> {
    let last = json!([
        {
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "ValidatingAdmissionPolicy",
            "metadata": {"name": "zz-last"},
            "spec": {
                "matchConstraints": {"resourceRules": [{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"]}]},
                "validations": [{"expression": "object.metadata.name != 'last'"}],
            },
        },
        {
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "ValidatingAdmissionPolicyBinding",
            "metadata": {"name": "zz-last"},
            "spec": {"policyName": "zz-last", "validationActions": ["Deny"]},
        },
    ]);
    for object in last.as_array().into_iter().flatten() {
        apply(admin, &object.to_string()).await?;
    }
    let path = format!("{}?dryRun=All", path("v1", "configmaps", Some("default")));
    until("the policies to be in force", || async {
        let answer = request(admin, "POST", &path, None, &object("v1", "ConfigMap", "last")).await.ok()?;
        (answer.reply.code == 422).then_some(())
    })
    .await
}

/// What the policies say of a case, in the case's own words.
async fn said(set: &Set, admin: &Client, bed: &Bed, recorded: bool) -> Result<Words> {
    let Answer { audit_id, reply } = set.send(admin).await?;
    let mut texts = vec![(Severity::Warn, warned(&reply))];
    if reply.code == 403 && reply.message().contains("ValidatingAdmissionPolicy '") {
        texts.push((Severity::Deny, told(reply.message())));
    } else if reply.code / 100 != 2 {
        bail!("{} {}", reply.code, reply.message());
    }
    if recorded {
        let failures: Value = serde_json::from_str(&annotation(bed, &audit_id, "/validation_failure").await?)?;
        let failures = failures.as_array().into_iter().flatten().filter_map(|failure| failure["message"].as_str());
        texts.push((Severity::Audit, failures.flat_map(told).collect()));
    }
    let texts = texts.into_iter().filter(|(_, texts)| !texts.is_empty());
    Ok(texts.map(|(severity, texts)| (severity, texts.iter().map(|text| set.written_text(text)).collect())).collect())
}

/// How many pods are made; about three of four can be mended until the API server takes them.
const MADE: u64 = 300;
/// A policy under which every rule looks, in the namespaces of the random pods.
const EVERYTHING: &str = "{apiVersion: mandate.dev/v1alpha1, kind: ClusterAgentPolicy, metadata: {name: all}, spec: {owner: {team: t, contact: c}, namespaces: [by-policies, by-webhook], workloads: {profile: restricted}}}";

#[tokio::test]
async fn pods_that_nobody_wrote_are_judged_alike_by_all_three() -> Outcome {
    let bed = start("random").await?;
    let admin = bed.admin();
    for namespace in [NAMESPACE, "open", "by-policies", "by-webhook"] {
        make(&admin, &object("v1", "Namespace", namespace), None).await?;
        account(&admin, namespace, "default").await?;
    }
    installed::kinds(&bed).await?;
    apply(&admin, EVERYTHING).await?;
    let file = bed.dir().join("everything.yaml");
    std::fs::write(&file, EVERYTHING)?;
    apply(&admin, &installed::printed(&["vap", "--guard", "by-policies", "--policy", file.to_str().unwrap_or_default()])?)
        .await?;
    // The pods are to be judged as they are, not as the webhook would mend them.
    let _webhook = installed::install_webhook(&bed, &["by-webhook"], |registration| {
        if registration["kind"] == "MutatingWebhookConfiguration" {
            registration["webhooks"] = json!([]);
        }
    })
    .await?;
    let pods = random::Pods::of(random::Schema::read(&admin).await?);
    let mended = stream::iter(0..MADE).map(|number| pods.taken(&admin, "open", number)).buffered(AT_ONCE);
    let mended: Vec<Result<Option<(Value, Value)>>> = mended.collect().await;
    let taken: Vec<(Value, Value)> = mended.into_iter().collect::<Result<Vec<_>>>()?.into_iter().flatten().collect();
    all_in_force(&admin).await?;
    until("the webhook to be asked", || async {
        let mut pod = object("v1", "Pod", "probe");
        pod["spec"] = json!({"containers": [{"name": "a", "image": "a", "envFrom": [{"secretRef": {"name": "a"}}]}]});
        create(&admin, "by-webhook", &pod).await.ok()?.message().contains("admission webhook").then_some(())
    })
    .await?;
    let judged = taken.iter().map(|(pod, stored)| {
        let admin = &admin;
        async move { three(admin, pod, stored).await.map_err(|why| format!("{why:#}\n{pod}")) }
    });
    let answers: Vec<Result<(BTreeSet<&str>, bool), String>> = stream::iter(judged).buffer_unordered(1).collect().await;
    let wrong: Vec<&String> = answers.iter().filter_map(|answer| answer.as_ref().err()).collect();
    let rules: BTreeSet<&str> = answers.iter().flatten().flat_map(|(rules, _)| rules).copied().collect();
    let told_all = answers.iter().flatten().filter(|(_, told_all)| *told_all).count();
    let shown: Vec<&&String> = wrong.iter().take(4).collect();
    assert!(wrong.is_empty(), "{} of {} pods are judged otherwise: {shown:#?}", wrong.len(), taken.len());
    println!("{} pods, of {told_all} every finding was told, by {} rules", taken.len(), rules.len());
    assert!(
        taken.len() > 150 && told_all > 100,
        "{} of {MADE} pods were taken, of {told_all} every finding was told",
        taken.len()
    );
    assert!(rules.len() > 15, "only these rules found something: {rules:?}");
    Ok(())
}

/// The rules that find something in a pod, where webhook, lint and policies agree on it, and
/// whether the policies could tell it all.
async fn three<'a>(admin: &Client, pod: &Value, stored: &Value) -> Result<(BTreeSet<&'a str>, bool)> {
    let world = world()?;
    let mut stored = stored.clone();
    stored["metadata"]["namespace"] = json!("by-webhook");
    let text = stored.to_string();
    let value = serde_json::from_str(&text)?;
    let t0 = std::time::Instant::now();
    let linted = admit::judge(&world, &value, now()).findings;
    let t1 = t0.elapsed();
    let by_lint = plain_words(&linted);

    let by_webhook = create(admin, "by-webhook", pod).await?;
    let t2 = t0.elapsed();
    let lines = by_webhook.message().split_once("denied the request: ").map_or("", |(_, lines)| lines);
    let denied: BTreeSet<String> = lines.split("\n- ").skip(1).map(nameless).collect();
    ensure!(
        denied == by_lint.get(&Severity::Deny).cloned().unwrap_or_default(),
        "the webhook refuses {denied:#?}\nlint says {by_lint:#?}"
    );
    let warned_of: BTreeSet<String> =
        by_webhook.warnings.iter().map(|text| nameless(&plain(text))).filter(|text| text.starts_with('[')).collect();
    let verdict = Verdict::new(linted.clone());
    let warnings: BTreeSet<String> = mandate::webhook::warnings(&verdict).iter().map(|text| nameless(text)).collect();
    ensure!(warned_of == warnings, "the webhook warns of {warned_of:#?}\nlint of {warnings:#?}");

    let by_policies = create(admin, "by-policies", pod).await?;
    println!("T judge {t1:?} webhook {:?} policies {:?}", t2 - t1, t0.elapsed() - t2);
    let message = by_policies.message();
    ensure!(by_policies.code / 100 == 2 || message.contains("' denied request: "), "{message}");
    ensure!(!message.contains("resulted in error"), "{message}");
    let expected: Vec<&Finding> = linted.iter().filter(|finding| seen::of_policies(finding).is_none()).collect();
    let in_part: BTreeSet<&str> = seen::gaps().iter().filter(|gap| gap.extent == Extent::Part).map(|gap| gap.rule.id).collect();
    let mut told_all = true;
    let of = |severity| expected.iter().filter(move |finding| finding.severity == severity);
    for (severity, told, is_cut) in [
        (Severity::Deny, told(message), message.ends_with(CUT)),
        (Severity::Warn, warned(&by_policies), by_policies.warnings.iter().any(|text| text.trim_end_matches('"').ends_with(CUT))),
    ] {
        told_all &= !is_cut;
        let told: BTreeSet<String> = told.iter().filter(|text| !text.ends_with(CUT)).map(|text| nameless(text)).collect();
        let expected: Vec<(&str, String)> = of(severity).map(|finding| (finding.rule, nameless(&finding.to_string()))).collect();
        let wrong: Vec<&String> = told.iter().filter(|text| !expected.iter().any(|(_, known)| known == *text)).collect();
        ensure!(wrong.is_empty(), "the policies also say {wrong:#?}\nlint says {expected:#?}");
        let missing = expected.iter().filter(|(rule, text)| !told.contains(text) && !in_part.contains(rule) && !is_cut);
        let missing: Vec<&(&str, String)> = missing.collect();
        ensure!(missing.is_empty(), "the policies do not say {missing:#?}\nthey say {told:#?}");
    }
    Ok((linted.iter().map(|finding| finding.rule).collect(), told_all))
}

/// How a text ends that did not fit.
const CUT: &str = " …";

/// What is known: the policy, and that ServiceAccounts mount no token by themselves.
fn world() -> Result<World> {
    let mut world = World::default();
    let policy: ClusterAgentPolicy = serde_yaml::from_str(EVERYTHING)?;
    world.cluster_policies.insert("all".to_owned(), Loaded::Readable(policy.spec));
    let account = Account { automount: Some(false), ..Account::default() };
    world.namespaces.entry("by-webhook".to_owned()).or_default().accounts.insert("default".to_owned(), account);
    Ok(world)
}

async fn create(admin: &Client, namespace: &str, pod: &Value) -> Result<Reply> {
    Ok(request(admin, "POST", &format!("{}?dryRun=All", path("v1", "pods", Some(namespace))), None, pod).await?.reply)
}

/// The text without what the API server makes up anew for each request: the end of the name of
/// the volume that it injects.
fn nameless(text: &str) -> String {
    let mut parts = text.split("kube-api-access-");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, part| format!("{text}kube-api-access-{}", part.get(5..).unwrap_or_default()))
}

fn plain_words(findings: &[Finding]) -> Words {
    let words = seen::words(findings).into_iter();
    words.map(|(severity, texts)| (severity, texts.iter().map(|text| nameless(text)).collect())).collect()
}
