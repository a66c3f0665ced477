use cedar_policy::Schema;
use serde::de::DeserializeOwned;
use serde_json::json;

use super::compile::Place;
use super::history::History;
use super::snapshot::{Compiler, ServerSource, Sources, Trouble, Written};
use super::*;
use crate::decide::world::Loaded;

mod chain;

const FINANCE: &str = r#"
servers:
  ledger:
    owner: {team: ledger, contact: ledger@example.com}
    tools:
    - {name: read, effect: read, classification: internal, arguments: {account: {type: string}}}
    - {name: search, effect: read, classification: internal}
    - {name: post, effect: write, classification: internal, arguments: {amount: {type: decimal, required: true}, tags: {type: strings}}}
    - name: export
      effect: export
      classification: internal
      resource: path
      arguments: {path: {type: string, required: true}, rows: {type: integer}, gzip: {type: boolean}}
    resources:
    - {ids: ["ledger/payroll*"], classification: confidential}
  mail:
    owner: {team: mail, contact: mail@example.com}
    domain: internet
    tools:
    - {name: send, effect: write, classification: public}
    - {name: inbox, effect: read, classification: internal, untrusted: true}
scopes:
  reconcile:
    intent: Match invoices with the ledger
    tools:
    - {server: ledger, names: [read, search], classification: confidential}
    - {server: ledger, names: [export], resources: ["ledger/2026-*"], classification: confidential, arguments: {rows: {max: 1000}}}
    - {server: ledger, names: [post]}
    - {server: mail, names: [send, inbox]}
"#;

#[derive(serde::Deserialize, Default)]
#[serde(default)]
struct Sheet {
    servers: std::collections::BTreeMap<String, Value>,
    scopes: std::collections::BTreeMap<String, Value>,
    policies: std::collections::BTreeMap<String, Value>,
    cluster: std::collections::BTreeMap<String, Value>,
}

fn spec<T: DeserializeOwned>(value: &Value) -> T {
    serde_json::from_value(value.clone()).unwrap()
}

fn written<T>(value: &Value, spec: T) -> Written<T> {
    Written { version: value.to_string().into(), spec: Arc::new(Loaded::Readable(spec)) }
}

fn sources(texts: &[&str]) -> Sources {
    let mut sources = Sources::default();
    let here = sources.namespaces.entry("finance".into()).or_default();
    for text in texts {
        let sheet: Sheet = serde_yaml::from_str(text).unwrap();
        for (name, value) in &sheet.servers {
            here.servers.insert(name.clone(), written(value, ServerSource { spec: spec(value), stopped: vec![] }));
        }
        for (name, value) in &sheet.scopes {
            here.scopes.insert(name.clone(), written(value, spec(value)));
        }
        for (name, value) in &sheet.policies {
            here.policies.insert(name.clone(), written(value, policy(value)));
        }
        for (name, value) in &sheet.cluster {
            sources.cluster_policies.insert(name.clone(), written(value, policy(value)));
        }
    }
    sources
}

fn policy<T: DeserializeOwned>(rules: &Value) -> T {
    spec(&json!({"owner": {"team": "t", "contact": "c"}, "rules": rules}))
}

struct Scene {
    snapshot: Snapshot,
    trouble: Vec<Trouble>,
    subject: Subject,
    task: History,
    agent: History,
    /// The tasks above, the root first.
    above: Vec<(Subject, History)>,
    now: Timestamp,
}

fn scene(policies: &str) -> Scene {
    let (snapshot, trouble) = Compiler::default().compile(&sources(&[FINANCE, policies]));
    let subject = Subject {
        namespace: "finance".into(),
        name: "t".into(),
        key: "finance/t".into(),
        uid: "u".into(),
        agent: "bot".into(),
        agent_key: "finance/bot".into(),
        scope: "reconcile".into(),
        objective: "Reconcile October".into(),
        phase: Phase::Active,
        deadline: Timestamp::from_second(10_000).unwrap(),
        standing: Standing::Good,
        ..Subject::default()
    };
    Scene {
        snapshot,
        trouble,
        subject,
        task: History::default(),
        agent: History::default(),
        above: vec![],
        now: Timestamp::from_second(1_000).unwrap(),
    }
}

impl Scene {
    /// Puts tasks of these names above, the root first, each of the same scope and of the agent
    /// `lead`.
    fn stands_below(&mut self, names: &[&str]) {
        let link = |name: &&str| Link { task: (*name).to_owned(), uid: format!("uid-{name}"), agent: "lead".into() };
        let links: Vec<Link> = names.iter().map(link).collect();
        let parent = |place: usize| place.checked_sub(1).map(|place| names[place].to_owned());
        self.above = (0..names.len())
            .map(|place| {
                let subject = Subject {
                    name: names[place].into(),
                    key: format!("finance/{}", names[place]),
                    uid: links[place].uid.clone(),
                    agent: "lead".into(),
                    agent_key: "finance/lead".into(),
                    parent: parent(place),
                    above: links[..place].to_vec(),
                    ..self.subject.clone()
                };
                (subject, History::default())
            })
            .collect();
        self.subject.parent = parent(names.len());
        self.subject.above = links;
    }

    fn action(&mut self, tool: &str, arguments: &Value, change: impl FnOnce(&mut Action)) -> Decision {
        let (server, tool) = tool.rsplit_once('/').unwrap();
        let none = Map::new();
        let mut action = Action {
            server,
            tool,
            resource: None,
            arguments: arguments.as_object().unwrap(),
            subject_properties: &none,
            resource_properties: &none,
            intent: None,
            reports_outcome: false,
            kubernetes: None,
        };
        change(&mut action);
        let above = self.above.iter_mut().map(|(subject, history)| Ancestor { subject, history }).collect();
        let mut histories = Histories { task: &mut self.task, agent: &mut self.agent, above };
        authorize(&self.snapshot, self.now, &self.subject, &action, &mut histories, self.now)
    }

    fn call(&mut self, tool: &str, arguments: &Value) -> Decision {
        self.action(tool, arguments, |_| {})
    }

    /// The kinds of the reasons, and what follows.
    fn codes(&mut self, tool: &str, arguments: &Value) -> (Outcome, Vec<Code>) {
        let decision = self.call(tool, arguments);
        (decision.outcome, decision.reasons.iter().map(|reason| reason.code).collect())
    }

    fn allows(&mut self, tool: &str, arguments: &Value) {
        let decision = self.call(tool, arguments);
        assert_eq!(decision.outcome, Outcome::Permit, "{tool}: {:#?}", decision.reasons);
    }

    fn refuses(&mut self, tool: &str, arguments: &Value, code: Code, words: &str) {
        let decision = self.call(tool, arguments);
        assert_eq!(decision.outcome, Outcome::Deny, "{tool} is let through");
        let found = decision.reasons.iter().any(|reason| reason.code == code && reason.message.contains(words));
        assert!(found, "{tool}: {:#?}", decision.reasons);
    }
}

#[test]
fn the_published_schema_is_whole() {
    let (schema, warnings) = Schema::from_cedarschema_str(cedar::SCHEMA).unwrap();
    assert_eq!(warnings.count(), 0);
    assert_eq!(schema.request_envs().count(), 4);
}

#[test]
fn what_an_action_becomes_has_the_shape_of_the_schema() {
    let (schema, _) = Schema::from_cedarschema_str(cedar::SCHEMA).unwrap();
    for whole in [true, false] {
        let facts = cedar::Facts {
            task: "finance/t",
            agent: "finance/bot",
            namespace: "finance",
            scope: "reconcile",
            agent_name: "bot",
            server_name: "ledger",
            tool_name: "read",
            objective: "o",
            intent: whole.then_some("i"),
            on_behalf_of: whole.then_some("alice"),
            groups: &["g".to_owned()],
            depth: 0,
            tool: cedar::Kind::Tool.uid("finance/ledger/read"),
            server: cedar::Kind::Server.uid("finance/ledger"),
            effect: Effect::Read,
            resource: whole.then_some("r"),
            classification: 1,
            domain: "finance",
            cross_domain: false,
            highest_read: -1,
            untrusted: false,
            domains: vec!["finance"],
        };
        let request = facts.request(Looks::ALL).unwrap();
        let (principal, action, resource) =
            (request.principal().unwrap(), request.action().unwrap(), request.resource().unwrap());
        let context = request.context().unwrap().clone();
        Request::new(principal.clone(), action.clone(), resource.clone(), context, Some(&schema)).unwrap();
        let values = Values {
            texts: [("a".into(), "b".into())].into(),
            numbers: [("n".into(), "1.5".parse().unwrap())].into(),
            flags: [("f".into(), true)].into(),
            lists: [("l".into(), vec!["x".into()])].into(),
        };
        let entities = cedar::entities(&values, &Values::default(), &values).unwrap();
        Entities::from_entities(entities.iter().cloned(), Some(&schema)).unwrap();
    }
}

#[test]
fn a_scope_grants_what_it_names_and_nothing_else() {
    let mut scene = scene("{}");
    assert_eq!(scene.trouble, []);
    scene.allows("ledger/read", &json!({"account": "4711"}));
    scene.allows("ledger/search", &json!({"anything": {"goes": [1]}}));
    scene.allows("ledger/export", &json!({"path": "ledger/2026-10", "rows": 1000}));
    scene.refuses(
        "ledger/export",
        &json!({"path": "ledger/2026-10", "rows": 1001}),
        Code::OutOfScope,
        "argument `rows` must be given, and be 1000 at most",
    );
    scene.refuses("ledger/export", &json!({"path": "ledger/2026-10"}), Code::OutOfScope, "argument `rows` must be given");
    scene.refuses("ledger/export", &json!({"path": "ledger/2025-10", "rows": 1}), Code::OutOfScope, "not among ledger/2026-*");
    scene.refuses("ledger/export", &json!({"rows": 1}), Code::BadArguments, "argument `path` is missing");
    scene.refuses("ledger/read", &json!({"account": "1", "as": "root"}), Code::BadArguments, "argument `as` is not among");
    scene.refuses("ledger/Read", &json!({}), Code::UnknownTool, "letter for letter");
    scene.refuses("other/read", &json!({}), Code::UnknownServer, "no ToolServer `finance/other`");
}

#[test]
fn the_classification_of_a_resource_counts_for_the_call() {
    let mut scene = scene("{}");
    let decision = scene.action("ledger/post", &json!({"amount": 1}), |action| action.resource = Some("ledger/payroll-10"));
    assert_eq!(decision.reasons[0].code, Code::OutOfScope);
    assert!(decision.reasons[0].message.contains("the data is confidential, it covers internal at most"), "{decision:#?}");
    let mut light = |resource| scene.action("ledger/read", &json!({}), |action| action.resource = Some(resource)).cache_for;
    assert_eq!((light("ledger/10"), light("ledger/payroll-10")), (LONGEST_REUSE, 0));
}

#[test]
fn an_answer_is_used_again_for_the_same_scope_and_class_of_data_alone() {
    let mut scene = scene("{}");
    let mut outcome = |resource| scene.action("ledger/post", &json!({"amount": 1}), |action| action.resource = resource).outcome;
    for _ in 0..3 {
        assert_eq!((outcome(None), outcome(Some("ledger/payroll-10"))), (Outcome::Permit, Outcome::Deny));
    }
    let tools: Vec<crate::api::ToolGrant> = spec(&json!([{"server": "ledger", "names": ["search"]}]));
    let of = |scope| Some(Arc::new(compile::granted_at_start("finance", scope, &tools).unwrap()));
    for (scope, outcome) in [("reconcile", Outcome::Permit), ("another", Outcome::Deny)] {
        scene.subject.granted = of(scope);
        assert_eq!([0; 3].map(|_| scene.call("ledger/search", &json!({})).outcome), [outcome; 3], "{scope}");
    }
}

#[test]
fn request_and_arguments_must_name_one_resource() {
    let mut scene = scene("{}");
    let arguments = json!({"path": "ledger/2026-10", "rows": 1});
    let decision = scene.action("ledger/export", &arguments, |action| action.resource = Some("ledger/2026-11"));
    assert_eq!(decision.reasons[0].code, Code::BadArguments);
}

#[test]
fn only_light_reads_may_be_answered_from_a_cache_and_never_past_the_deadline() {
    let mut scene = scene("{}");
    assert_eq!(scene.call("ledger/read", &json!({})).cache_for, LONGEST_REUSE);
    for (tool, arguments) in [
        ("ledger/post", json!({"amount": 1})),
        ("ledger/export", json!({"path": "ledger/2026-1", "rows": 1})),
        ("mail/inbox", json!({})),
    ] {
        let decision = scene.call(tool, &arguments);
        assert_eq!((decision.outcome, decision.cache_for), (Outcome::Permit, 0), "{tool}");
    }
    scene.now = Timestamp::from_second(9_998).unwrap();
    assert_eq!(scene.call("ledger/read", &json!({})).cache_for, 2);
}

#[test]
fn a_task_that_is_over_or_whose_agent_may_not_work_does_nothing() {
    let mut scene = scene("{}");
    let at = |scene: &mut Scene, change: &dyn Fn(&mut Subject)| {
        let whole = scene.subject.clone();
        change(&mut scene.subject);
        let codes = scene.codes("ledger/read", &json!({}));
        scene.subject = whole;
        codes
    };
    type Change<'a> = &'a dyn Fn(&mut Subject);
    let cases: [(Change, Code); 6] = [
        (&|task| task.deadline = Timestamp::from_second(1_000).unwrap(), Code::TaskOver),
        (&|task| task.ending = true, Code::TaskOver),
        (&|task| task.phase = Phase::Ended, Code::TaskOver),
        (&|task| task.phase = Phase::Pending, Code::TaskNotReady),
        (&|task| task.standing = Standing::Suspended, Code::AgentSuspended),
        (&|task| task.standing = Standing::Gone, Code::AgentGone),
    ];
    for (change, code) in cases {
        assert_eq!(at(&mut scene, change), (Outcome::Deny, vec![code]));
    }
    scene.allows("ledger/read", &json!({}));
}

#[test]
fn what_is_known_must_be_fresh() {
    let mut scene = scene("{}");
    let (none, arguments) = (Map::new(), Map::new());
    let action = Action {
        server: "ledger",
        tool: "search",
        resource: None,
        arguments: &arguments,
        subject_properties: &none,
        resource_properties: &none,
        intent: None,
        reports_outcome: false,
        kubernetes: None,
    };
    let mut at = |age: i64| {
        let mut histories = Histories { task: &mut scene.task, agent: &mut scene.agent, above: vec![] };
        let known_at = scene.now.checked_sub(SignedDuration::from_secs(age)).unwrap();
        authorize(&scene.snapshot, known_at, &scene.subject, &action, &mut histories, scene.now).reasons[0].code
    };
    assert_eq!(at(STALE_AFTER.as_secs()), Code::Permitted);
    assert_eq!(at(STALE_AFTER.as_secs() + 1), Code::StalePolicy);
}

#[test]
fn no_egress_after_a_confidential_read() {
    let mut scene = scene(
        r#"
policies:
  agents:
  - name: no-egress-after-confidential-read
    deny: this task has read confidential data; it may not send data outside
    match: {effects: [write, export], crossDomain: true}
    when: {history: {readAtLeast: confidential}}
"#,
    );
    scene.allows("mail/send", &json!({}));
    scene.allows("ledger/read", &json!({}));
    scene.allows("mail/send", &json!({}));
    let read = scene.action("ledger/read", &json!({}), |action| action.resource = Some("ledger/payroll"));
    assert_eq!(read.outcome, Outcome::Permit);
    scene.refuses("mail/send", &json!({}), Code::RuleDenied, "it may not send data outside");
    scene.allows("ledger/post", &json!({"amount": "0.01"}));
}

#[test]
fn no_egress_after_untrusted_content_and_private_data() {
    let mut scene = scene(
        r#"
policies:
  agents:
  - name: trifecta
    deny: strangers' words and private data must not meet a way out
    match: {crossDomain: true, effects: [write, export]}
    when: {history: {untrustedContent: true, readAtLeast: internal}}
"#,
    );
    scene.allows("mail/send", &json!({}));
    scene.allows("mail/inbox", &json!({}));
    scene.refuses("mail/send", &json!({}), Code::RuleDenied, "strangers");
}

#[test]
fn at_most_so_many_in_a_window_and_denied_calls_are_free() {
    let mut scene = scene(
        r#"
policies:
  agents:
  - name: few-posts
    limit: {count: 2, per: 1m}
    match: {tools: [ledger/post]}
"#,
    );
    scene.refuses("ledger/post", &json!({"amount": "x"}), Code::BadArguments, "amount");
    scene.allows("ledger/post", &json!({"amount": 1}));
    scene.allows("ledger/post", &json!({"amount": 1}));
    scene.refuses(
        "ledger/post",
        &json!({"amount": 1}),
        Code::LimitReached,
        "`AgentPolicy finance/agents#few-posts` leaves it in 60 s",
    );
    scene.allows("ledger/read", &json!({}));
    scene.now = Timestamp::from_second(1_060).unwrap();
    scene.allows("ledger/post", &json!({"amount": 1}));
}

#[test]
fn one_thing_only_after_another() {
    let mut scene = scene(
        r#"
policies:
  agents:
  - name: look-before-you-post
    deny: read the account before you post
    match: {tools: [ledger/post]}
    when: {history: {notCalled: [ledger/read], within: 5m}}
"#,
    );
    scene.refuses("ledger/post", &json!({"amount": 1}), Code::RuleDenied, "read the account");
    scene.allows("ledger/read", &json!({}));
    scene.allows("ledger/post", &json!({"amount": 1}));
    scene.now = Timestamp::from_second(1_301).unwrap();
    scene.refuses("ledger/post", &json!({"amount": 1}), Code::RuleDenied, "read the account");
}

#[test]
fn a_prerequisite_under_way_has_not_happened() {
    let mut scene = scene(
        r#"
policies:
  agents:
  - {name: order, deny: read first, match: {tools: [ledger/post]}, when: {history: {notCalled: [ledger/*]}}}
"#,
    );
    let read = scene.action("ledger/read", &json!({}), |action| action.reports_outcome = true);
    scene.refuses("ledger/post", &json!({"amount": 1}), Code::RuleDenied, "read first");
    assert!(scene.task.settle(read.reservation.unwrap().task, history::Outcome::Completed, scene.now));
    scene.allows("ledger/post", &json!({"amount": 1}));
}

#[test]
fn a_person_is_asked_where_a_rule_says_so_and_a_deny_wins_over_it() {
    let ask = r#"
policies:
  agents:
  - {name: ask, requireApproval: {approvers: ["group:leads", "user:eve"], validFor: 5m}, match: {tools: [ledger/post]}}
  - {name: ask-more, requireApproval: {approvers: ["group:leads"]}, match: {arguments: {amount: {min: 1000}}, tools: [ledger/post]}}
"#;
    let mut asked = scene(ask);
    let decision = asked.call("ledger/post", &json!({"amount": 1000}));
    assert_eq!(decision.outcome, Outcome::NeedsApproval);
    let approval = decision.approval.unwrap();
    assert_eq!(approval.approvers, ["group:leads"]);
    assert_eq!(approval.valid_for, SignedDuration::from_mins(5));
    assert_eq!(asked.call("ledger/post", &json!({"amount": 999})).approval.unwrap().approvers.len(), 2);
    let mut denied = scene(&format!("{ask}  - {{name: never, deny: never, match: {{effects: [write]}}}}\n"));
    denied.refuses("ledger/post", &json!({"amount": 1}), Code::RuleDenied, "never");
}

#[test]
fn a_rule_on_an_argument_holds_where_the_argument_is_missing() {
    let mut scene = scene(
        r#"
policies:
  agents:
  - {name: no-gzip, deny: no gzip, match: {arguments: {gzip: {is: true}}, tools: [ledger/export]}}
  - {name: no-tag, deny: no such tag, match: {arguments: {tags: {oneOf: [secret]}}, tools: [ledger/post]}}
"#,
    );
    let export = |gzip: Option<bool>| {
        let mut arguments = json!({"path": "ledger/2026-10", "rows": 5});
        if let Some(gzip) = gzip {
            arguments["gzip"] = json!(gzip);
        }
        arguments
    };
    scene.allows("ledger/export", &export(Some(false)));
    scene.refuses("ledger/export", &export(Some(true)), Code::RuleDenied, "no gzip");
    scene.refuses("ledger/export", &export(None), Code::RuleDenied, "no gzip");
    scene.allows("ledger/post", &json!({"amount": 1, "tags": ["fine"]}));
    scene.allows("ledger/post", &json!({"amount": 1, "tags": []}));
    scene.refuses("ledger/post", &json!({"amount": 1, "tags": ["fine", "secret"]}), Code::RuleDenied, "no such tag");
    scene.refuses("ledger/post", &json!({"amount": 1}), Code::RuleDenied, "no such tag");
}

#[test]
fn an_expert_writes_cedar_in_a_cluster_policy_alone() {
    let rule = r#"
  - name: payroll
    deny: payroll is for people
    when: {cedar: 'context.objective like "*payroll*" || (context.arguments.texts.hasTag("account") && context.arguments.texts.getTag("account") == "99")'}
"#;
    let mut scene_ = scene(&format!("cluster:\n  experts:{rule}"));
    assert_eq!(scene_.trouble, []);
    scene_.allows("ledger/read", &json!({"account": "1"}));
    scene_.refuses("ledger/read", &json!({"account": "99"}), Code::RuleDenied, "payroll is for people");
    scene_.subject.objective = "Do the payroll".into();
    scene_.refuses("ledger/read", &json!({"account": "1"}), Code::RuleDenied, "payroll is for people");
    let mut scene = scene(&format!("policies:\n  agents:{rule}"));
    assert!(
        scene.trouble[0].problem.message.starts_with("only a ClusterAgentPolicy may hold an expression"),
        "{:?}",
        scene.trouble
    );
    scene.refuses("ledger/read", &json!({}), Code::Unreadable, "AgentPolicy finance/agents cannot be used");
}

#[test]
fn an_expression_is_one_expression_of_the_schema() {
    for (text, words) in [
        ("context.objectiv == \"x\"", "objectiv"),
        ("context.objective == 1", "types"),
        ("true };\npermit (principal, action, resource) when { true", "unexpected token `permit`"),
        ("true } unless { false", "must be one expression"),
        ("context.intent == \"x\"", "intent"),
        ("context.arguments.texts.getTag(\"a\") == \"x\"", "tag"),
        ("1 +", "unexpected"),
        ("principal.name == \"x\"", "name"),
    ] {
        let rules: Vec<ActionRule> = spec(&json!([{"name": "r", "deny": "d", "when": {"cedar": text}}]));
        let guardrails = crate::api::Guardrails { rules, ..policy::<crate::api::AgentPolicySpec>(&json!([])).guardrails };
        let problems = compile::policy(Place::Cluster, "p", &guardrails).unwrap_err();
        assert!(
            problems.iter().any(|problem| problem.message.contains(words) && problem.at == "spec.rules[0].when.cedar"),
            "{text}: {problems:?}"
        );
    }
}

use crate::api::ActionRule;

#[test]
fn a_policy_that_only_warns_or_records_lets_pass_and_says_so() {
    let mut sources = sources(&[FINANCE]);
    let value = json!({"owner": {"team": "t", "contact": "c"}, "mode": "warn", "rules": [{"name": "r", "deny": "better not"}]});
    sources.namespaces.get_mut("finance").unwrap().policies.insert("p".into(), written(&value, spec(&value)));
    let mut scene = scene("{}");
    scene.snapshot = Compiler::default().compile(&sources).0;
    let decision = scene.call("ledger/read", &json!({}));
    assert_eq!((decision.outcome, decision.notices.len()), (Outcome::Permit, 1));
}

#[test]
fn a_broken_policy_denies_its_namespace_and_replaces_its_old_version() {
    let mut compiler = Compiler::default();
    let good = sources(&[FINANCE, "policies: {agents: [{name: r, deny: no, match: {effects: [admin]}}]}"]);
    let mut scene = scene("{}");
    scene.snapshot = compiler.compile(&good).0;
    scene.allows("ledger/read", &json!({}));
    let mut bad = good;
    let broken = Written { version: "2".into(), spec: Arc::new(Loaded::Broken("spec.rules: unknown field".into())) };
    bad.namespaces.get_mut("finance").unwrap().policies.insert("agents".into(), broken);
    scene.snapshot = compiler.compile(&bad).0;
    scene.refuses("ledger/read", &json!({}), Code::Unreadable, "spec.rules: unknown field");
}

#[test]
fn hours_of_the_week_hold_in_their_time_zone_and_past_midnight() {
    let hours = |window: Value, at: &str| {
        let mut scene = scene(&format!("policies: {{agents: [{{name: r, deny: not now, when: {{time: {window}}}}}]}}"));
        assert_eq!(scene.trouble, []);
        scene.now = at.parse().unwrap();
        scene.subject.deadline = Timestamp::MAX;
        scene.codes("ledger/read", &json!({})).0 == Outcome::Deny
    };
    let office = json!({"days": ["mon", "tue", "wed", "thu", "fri"], "from": "08:00", "until": "18:00", "zone": "Europe/Berlin", "outside": true});
    assert!(!hours(office.clone(), "2026-11-24T07:00:00Z"), "Tuesday, 08:00 in Berlin");
    assert!(hours(office.clone(), "2026-11-24T06:59:59Z"));
    assert!(hours(office.clone(), "2026-11-24T17:00:00Z"));
    assert!(hours(office, "2026-11-28T10:00:00Z"), "Saturday");
    let night = json!({"days": ["fri"], "from": "22:00", "until": "06:00"});
    assert!(hours(night.clone(), "2026-11-27T23:00:00Z") && hours(night.clone(), "2026-11-28T05:59:00Z"));
    assert!(!hours(night.clone(), "2026-11-28T06:00:00Z") && !hours(night, "2026-11-27T05:00:00Z"));
}

#[test]
fn what_a_scope_bounds_must_be_there_to_be_bounded() {
    let scopes = r#"
scopes:
  other:
    intent: x
    tools:
    - {server: ledger, names: [read, nothing], arguments: {account: {max: 5}, page: {max: 1}}}
    - {server: nowhere, names: [x]}
"#;
    let scene = scene(scopes);
    let messages: Vec<String> = scene.trouble.iter().map(|trouble| trouble.problem.to_string()).collect();
    for words in [
        "spec.tools[0].names[1]: ToolServer `finance/ledger` lists no tool `nothing`",
        "spec.tools[0].arguments.account: argument `account` of tool `read` is of type `string`",
        "spec.tools[0].arguments.page: tool `read` declares no argument `page`",
        "spec.tools[1].server: there is no readable ToolServer `nowhere`",
    ] {
        assert!(messages.iter().any(|message| message.starts_with(words)), "{words}: {messages:#?}");
    }
}

#[test]
fn every_policy_that_is_compiled_is_strictly_valid() {
    // `compile` validates each; here the whole index of one of everything is validated once more.
    let everything = r#"
policies:
  agents:
  - name: everything
    deny: "no"
    match:
      agents: [bot, other]
      tools: [ledger/export, "mail/*", other/ns/tool]
      effects: [write, export]
      resources: ["a*b", c]
      classification: internal
      crossDomain: true
      principalGroups: [g]
      delegationDepth: 1
      arguments: {n: {min: -1, max: "2.5"}, t: {oneOf: ["a*"]}, u: {oneOf: [a]}, f: {is: false}}
    when:
      history: {readAtLeast: public, untrustedContent: true, domains: [d], called: [ledger/read], notCalled: ["ledger/*"], within: 1h}
cluster:
  experts:
  - {name: any, deny: "no", match: {tools: [ledger/export, "mail/*"], agents: [bot, finance/bot]}}
"#;
    let scene = scene(everything);
    assert_eq!(scene.trouble, []);
}

#[test]
fn what_a_task_was_granted_shrinks_with_its_scope_and_never_grows() {
    let mut scene = scene("{}");
    let granted = |grants: Value| {
        let tools: Vec<crate::api::ToolGrant> = spec(&grants);
        Some(Arc::new(compile::granted_at_start("finance", "reconcile", &tools).unwrap()))
    };
    scene.subject.granted = granted(json!([{"server": "ledger", "names": ["read"]}, {"server": "ledger", "names": ["gone"]}]));
    scene.allows("ledger/read", &json!({}));
    scene.refuses("ledger/search", &json!({}), Code::OutOfScope, "grants `search` now, but not when task `t` started");
    scene.refuses("ledger/gone", &json!({}), Code::UnknownTool, "");
    // What the scope now bounds more tightly, or less, the tighter bound holds.
    scene.subject.granted = granted(
        json!([{"server": "ledger", "names": ["export"], "classification": "confidential", "arguments": {"rows": {"max": 10}}}]),
    );
    scene.allows("ledger/export", &json!({"path": "ledger/2026-10", "rows": 10}));
    scene.refuses("ledger/export", &json!({"path": "ledger/2026-10", "rows": 11}), Code::OutOfScope, "not when task");
}

#[test]
fn a_policy_sees_every_attribute_that_it_looks_at() {
    let told = [
        r#"context.agent == Mandate::Agent::"finance/bot""#,
        r#"context.server == Mandate::Server::"finance/ledger""#,
        r#"context.namespace == "finance""#,
        r#"context.scope == "reconcile""#,
        r#"context.agentName == "bot""#,
        r#"context.serverName == "ledger""#,
        r#"context.toolName == "read""#,
        r#"context.objective == "Reconcile October""#,
        r#"context.principalGroups.contains("leads")"#,
        "context.delegationDepth == 2",
        "context.classification == 1",
        r#"context.domain == "finance""#,
        "context.crossDomain == false",
        "context.history.highestRead == -1",
        "context.history.untrusted == false",
        "context.history.domains.isEmpty()",
        r#"context.arguments.texts.hasTag("account")"#,
        r#"context.subjectProperties.texts.hasTag("role")"#,
        r#"context.resourceProperties.flags.hasTag("archived")"#,
        r#"context has intent && context.intent like "match*""#,
        r#"context has onBehalfOf && context.onBehalfOf == "alice""#,
        r#"context has resourceId && context.resourceId == "r""#,
        "[context.history.untrusted].contains(false)",
        r#"if context.crossDomain then false else context.agent == Mandate::Agent::"finance/bot""#,
    ];
    for condition in told {
        let rule = json!([{"name": "r", "deny": "seen", "when": {"cedar": condition}}]);
        let mut scene = scene(&json!({"cluster": {"p": rule}}).to_string());
        assert_eq!(scene.trouble, [], "{condition}");
        scene.stands_below(&["root", "lead"]);
        (scene.subject.groups, scene.subject.on_behalf_of) = (vec!["leads".into()], Some("alice".into()));
        static GIVEN: LazyLock<[Value; 2]> = LazyLock::new(|| [json!({"role": "clerk"}), json!({"archived": true})]);
        let [role, archived] = &*GIVEN;
        let decision = scene.action("ledger/read", &json!({"account": "1"}), |action| {
            action.subject_properties = role.as_object().unwrap();
            action.resource_properties = archived.as_object().unwrap();
            (action.intent, action.resource) = (Some("match an invoice"), Some("r"));
        });
        assert_eq!(decision.reasons.first().map(|reason| reason.code), Some(Code::RuleDenied), "{condition}: {decision:?}");
    }
}
