//! What an enforcement point sees of `mandate run authorizer`: what gets a fresh decision, how soon
//! a change is in force, what several calls at once come to, and whose token counts.

use std::sync::Mutex;
use std::time::Duration;

use serde_json::{Value, json};

use crate::read;
use crate::running::{GATEWAY, HARNESS, Running, now, signed};

const EVALUATION: &str = "/access/v1/evaluation";

/// The example of the documentation.
fn finance(name: &str, flags: &[&str]) -> Running {
    let [tools, scope, policy] = ["tools", "scope", "policy"].map(|name| read(format!("examples/finance/{name}.yaml")));
    let manifests = [("tools.yaml", &*tools), ("scope.yaml", &*scope), ("policy.yaml", &*policy)];
    Running::start(name, &manifests, "finance", flags)
}

fn call(tool: &str, arguments: &Value) -> Value {
    json!({"subject": {"type": "user", "id": "october"}, "action": {"name": "tools/call", "properties": arguments},
        "resource": {"type": "tool", "id": tool}})
}

fn about(resource: &str) -> Value {
    let mut body = call("ledger/read", &json!({}));
    body["resource"]["properties"] = json!({"resource": resource});
    body
}

/// Outcome and code of the first reason.
fn told(answer: &Value) -> (&str, &str) {
    let context = &answer["context"];
    (context["outcome"].as_str().unwrap(), context["reasons"][0]["code"].as_str().unwrap())
}

fn mail() -> Value {
    call("mail/send", &json!({"to": "a@example.com"}))
}

#[test]
fn a_light_read_may_be_used_again_and_all_else_is_decided_afresh() {
    let scope = read("examples/finance/scope.yaml");
    let policy = read("examples/finance/policy.yaml")
        .replace("requireApproval: {approvers: [\"group:finance-leads\"], validFor: 10m}", "limit: {count: 9}");
    let tools = read("examples/finance/tools.yaml");
    let at = Running::start(
        "fresh-decisions",
        &[("tools.yaml", &tools), ("scope.yaml", &scope), ("policy.yaml", &policy.replace("outside: true", ""))],
        "finance",
        &[],
    );
    let cache = |body: &Value| {
        let answer = at.evaluate(body);
        assert_eq!(answer["decision"], true, "{answer}");
        answer["context"]["cache_for"].as_u64().unwrap()
    };
    for _ in 0..2 {
        assert_eq!(cache(&call("ledger/read", &json!({}))), 5);
        assert_eq!(cache(&call("ledger/search", &json!({"query": "4711"}))), 5);
    }
    let export = json!({"path": "reports/2026-10", "rows": 10});
    for (what, body) in [
        ("a write", call("ledger/post", &json!({"amount": 1}))),
        ("an export", call("ledger/export", &export)),
        ("a call into another domain", call("mail/inbox", &json!({}))),
        ("a read of confidential data", about("payroll-2026-10")),
    ] {
        assert_eq!(cache(&body), 0, "{what}");
    }
    // An administrator's action: by the clock of the policy denied or permitted, and never kept.
    let close = at.evaluate(&call("ledger/close-period", &json!({})));
    assert_eq!(close["context"]["cache_for"], 0, "{close}");
}

#[test]
fn a_task_that_read_confidential_data_sends_nothing_out() {
    let at = finance("no-egress", &[]);
    assert_eq!(at.evaluate(&mail())["decision"], true);
    assert_eq!(at.evaluate(&about("payroll-2026-10"))["decision"], true);
    let answer = at.evaluate(&mail());
    assert_eq!(told(&answer), ("deny", "RuleDenied"));
    let rule = "AgentPolicy finance/finance-agents#no-egress-after-confidential-read";
    assert_eq!(answer["context"]["reasons"][0]["rule"], rule);
}

#[test]
fn a_tool_off_the_scope_is_denied_with_what_the_scope_names() {
    let at = finance("off-scope", &[]);
    for (body, code, words) in [
        (call("ledger/delete", &json!({})), "UnknownTool", "it lists: close-period, export, post, read, search"),
        (call("payroll/read", &json!({})), "UnknownServer", "there is no ToolServer `finance/payroll`"),
        (call("ledger/post", &json!({"amount": "1000.01"})), "OutOfScope", "between 0 and 1000"),
        (call("ledger/post", &json!({"amount": 1, "note": "x"})), "BadArguments", "`note` is not among those"),
        (call("Ledger/read", &json!({})), "UnknownServer", "Ledger"),
        (call("ledger/Read", &json!({})), "UnknownTool", "letter for letter"),
        (call("ledger/r\u{435}ad", &json!({})), "UnknownTool", "letter for letter"),
        (call("ledger__read", &json!({})), "UnknownServer", "must be `server/tool`"),
    ] {
        let answer = at.evaluate(&body);
        assert_eq!(told(&answer), ("deny", code), "{answer}");
        assert!(answer["context"]["reason"].as_str().unwrap().contains(words), "{words:?} is not in {answer}");
    }
}

#[test]
fn what_is_known_grows_stale_where_it_cannot_be_read_and_then_everything_is_denied() {
    let at = finance("stale", &["--stale-after", "1s"]);
    let ask = call("ledger/read", &json!({}));
    assert_eq!(at.evaluate(&ask)["decision"], true);
    std::fs::rename(at.dir().join("m"), at.dir().join("gone")).unwrap();
    assert_eq!(at.evaluate(&ask)["decision"], true, "what was known stands for a while");
    at.until("it is stale", || at.evaluate(&ask)["decision"] == false);
    let answer = at.evaluate(&ask);
    assert_eq!(told(&answer), ("deny", "StalePolicy"));
    std::fs::rename(at.dir().join("gone"), at.dir().join("m")).unwrap();
    at.until("it is current again", || at.evaluate(&ask)["decision"] == true);
}

#[test]
fn a_change_is_in_force_in_under_a_second() {
    let at = finance("change", &[]);
    let ask = call("ledger/read", &json!({}));
    let scope = read("examples/finance/scope.yaml");
    let within = |what: &str, text: &str, file: &str, code: &str| {
        assert_eq!(at.evaluate(&ask)["decision"], true);
        at.edit(file, text);
        let took = at.until(what, || at.evaluate(&ask)["decision"] == false);
        assert!(took < Duration::from_secs(1), "{what} took {took:?}");
        assert_eq!(told(&at.evaluate(&ask)), ("deny", code), "{what}");
        at.edit(file, &read(format!("examples/finance/{file}")));
        at.until("it is as before", || at.evaluate(&ask)["decision"] == true);
    };
    let policy = read("examples/finance/policy.yaml");
    let deny = "  rules:\n  - {name: stop, deny: \"all of it stops\"}\n";
    within("an edit of a policy", &policy.replace("  rules:\n", deny), "policy.yaml", "RuleDenied");
    let suspended = scope.replace("  purpose: Reconciles", "  suspend: true\n  purpose: Reconciles");
    within("the suspension of an agent", &suspended, "scope.yaml", "AgentSuspended");
    let ended = scope.replace("  ttl: 8h", "  ttl: 8h\n  end: {reason: Revoked}");
    within("the end of a task", &ended, "scope.yaml", "TaskOver");
    within("a narrower scope", &scope.replace("names: [read, search]", "names: [search]"), "scope.yaml", "OutOfScope");
    let gone = scope.split("---").take(2).collect::<Vec<_>>().join("---");
    within("a task that is gone", &gone, "scope.yaml", "UnknownTask");
}

#[test]
fn a_manifest_that_no_longer_parses_denies_those_whom_it_speaks_of() {
    let other = read("examples/finance/scope.yaml").replace("namespace: finance", "namespace: sales");
    let other = other.replace("server: ledger", "server: finance/ledger").replace("server: mail", "server: finance/mail");
    let [tools, scope, policy] = ["tools", "scope", "policy"].map(|name| read(format!("examples/finance/{name}.yaml")));
    let tools = tools
        .replace("  audience:", "  usableFrom: [sales]\n  audience:")
        .replace("  domain:", "  usableFrom: [sales]\n  domain:");
    let manifests = [("tools.yaml", &*tools), ("scope.yaml", &*scope), ("policy.yaml", &*policy), ("sales.yaml", &*other)];
    let at = Running::start("broken", &manifests, "", &[]);
    let of = |namespace: &str| {
        let mut ask = call("finance/ledger/read", &json!({}));
        ask["subject"]["id"] = json!(format!("{namespace}/october"));
        at.evaluate(&ask)
    };
    for (what, file, text) in [
        ("no YAML", "policy.yaml", policy.replace("  mode: enforce", "  mode: \"enforce")),
        ("a field that there is not", "policy.yaml", policy.replace("  mode: enforce", "  modus: enforce")),
        ("a value that there is not", "policy.yaml", policy.replace("  mode: enforce", "  mode: perhaps")),
        ("a rule that cannot be compiled", "policy.yaml", policy.replace("zone: Europe/Berlin", "zone: Mars/Olympus")),
        ("a kind that there is not", "policy.yaml", policy.replace("kind: AgentPolicy", "kind: AgentPolcy")),
        ("a policy that stands there twice", "policy.yaml", format!("{policy}---\n{}", policy.split("  rules:").next().unwrap())),
        ("a scope with a field that there is not", "scope.yaml", scope.replace("  maxTTL: 8h", "  limit: {actions: 1}")),
    ] {
        at.until("both may read", || of("finance")["decision"] == true && of("sales")["decision"] == true);
        at.edit(file, &text);
        at.until(what, || of("finance")["decision"] == false);
        let answer = of("finance");
        assert_eq!(told(&answer), ("deny", "Unreadable"), "{what}: {answer}");
        assert_eq!(of("sales")["decision"], true, "{what}: others go on");
        at.edit(file, if file == "policy.yaml" { &policy } else { &scope });
    }
}

#[test]
fn manifests_that_cannot_be_read_whole_start_nothing() {
    let dir = crate::fresh("not-whole");
    std::fs::write(dir.join("a.yaml"), read("examples/finance/scope.yaml")).unwrap();
    std::fs::write(dir.join("b.yaml"), "apiVersion: mandate.dev/v1alpha1\nkind: AgentPolicy\nmetadata: {name: [\n").unwrap();
    for file in ["trust.yaml", "c.pem", "k.pem"] {
        std::fs::write(dir.join(file), "{}").unwrap();
    }
    let at = |name: &str| dir.join(name).to_str().unwrap().to_owned();
    let answer = crate::mandate(&[
        "run",
        "authorizer",
        "--manifests",
        dir.to_str().unwrap(),
        "--trust",
        &at("trust.yaml"),
        "--cert-file",
        &at("c.pem"),
        "--key-file",
        &at("k.pem"),
        "--audit-dir",
        &at("audit"),
        "--listen",
        "127.0.0.1:0",
        "--admin",
        "127.0.0.1:0",
    ]);
    assert_eq!(answer.status, 2);
    assert!(answer.err.contains("the manifests cannot be read whole") && answer.err.contains("b.yaml"), "{answer:?}");
}

/// As many calls at once as there are bodies; the answers.
fn at_once(at: &Running, bodies: &[Value]) -> Vec<Value> {
    let answers = Mutex::new(vec![]);
    std::thread::scope(|scope| {
        for body in bodies {
            scope.spawn(|| {
                let answer = at.evaluate(body);
                answers.lock().unwrap().push(answer);
            });
        }
    });
    answers.into_inner().unwrap()
}

fn permitted(answers: &[Value]) -> usize {
    answers.iter().filter(|answer| answer["decision"] == true).count()
}

#[test]
fn of_many_calls_at_once_exactly_as_many_are_permitted_as_the_limit_leaves() {
    let at = finance("at-once", &[]);
    let post = call("ledger/post", &json!({"amount": 1}));
    let answers = at_once(&at, &vec![post; 64]);
    assert_eq!(permitted(&answers), 3);
    let denied: Vec<_> = answers.iter().filter(|answer| answer["decision"] == false).map(told).collect();
    assert_eq!(denied, [("deny", "LimitReached"); 61]);
}

#[test]
fn a_limit_of_an_agent_holds_over_its_tasks() {
    let policy = read("examples/finance/policy.yaml").replace("{count: 3, per: 1h}", "{count: 5, per: 1h, by: agent}");
    let scope = read("examples/finance/scope.yaml");
    let second = scope.split("---\n").nth(2).unwrap().replace("name: october", "name: november");
    let scope = format!("{scope}---\n{second}");
    let tools = read("examples/finance/tools.yaml");
    let at =
        Running::start("by-agent", &[("tools.yaml", &tools), ("scope.yaml", &scope), ("policy.yaml", &policy)], "finance", &[]);
    let mut bodies = vec![call("ledger/post", &json!({"amount": 1})); 32];
    for body in bodies.iter_mut().skip(16) {
        body["subject"]["id"] = json!("november");
    }
    assert_eq!(permitted(&at_once(&at, &bodies)), 5);
}

/// October delegates to a writer: three children, and a fourth whose parent is not there.
pub fn with_children(limit: &str) -> [(&'static str, String); 3] {
    let scope = read("examples/finance/scope.yaml");
    let task = scope.split("---\n").nth(2).unwrap().to_owned();
    let agent = scope.split("---\n").next().unwrap().replace("invoice-bot", "writer");
    let scope = scope.replace("  maxTTL: 8h\n", &format!("  maxTTL: 8h\n  delegation: {{to: [writer]}}\n  {limit}\n"));
    let child = |name: &str, parent: &str| {
        let task = task.replace("name: october", &format!("name: {name}")).replace("agent: invoice-bot", "agent: writer");
        format!("---\n{task}  parent: {parent}\n")
    };
    let children =
        [("a", "october"), ("b", "october"), ("c", "october"), ("orphan", "nobody"), ("egg", "chicken"), ("chicken", "egg")];
    let children: String = children.iter().map(|(name, parent)| child(name, parent)).collect();
    let tools = read("examples/finance/tools.yaml");
    [
        ("tools.yaml", tools),
        ("scope.yaml", format!("{scope}---\n{agent}{children}")),
        ("policy.yaml", read("examples/finance/policy.yaml")),
    ]
}

fn of_task(mut body: Value, task: &str) -> Value {
    body["subject"]["id"] = json!(task);
    body
}

#[test]
fn of_many_calls_at_once_by_several_children_as_many_are_permitted_as_the_parent_has_left() {
    let files = with_children("limits: {actions: 9}");
    let files: Vec<(&str, &str)> = files.iter().map(|(name, text)| (*name, text.as_str())).collect();
    let at = Running::start("chain", &files, "finance", &[]);
    let search = call("ledger/search", &json!({"query": "4711"}));
    let bodies: Vec<Value> = (0..60).map(|n| of_task(search.clone(), ["a", "b", "c", "october"][n % 4])).collect();
    let answers = at_once(&at, &bodies);
    assert_eq!(permitted(&answers), 9, "{answers:?}");
    let denied = answers.iter().filter(|answer| answer["decision"] == false);
    let told: std::collections::BTreeSet<_> = denied.map(told).collect();
    assert_eq!(told, [("deny", "LimitReached")].into());
    let of_child = answers.iter().find(|answer| answer["context"]["chain"] == json!(["finance/october", "finance/a"]));
    assert!(of_child.is_some(), "{answers:?}");
}

#[test]
fn what_one_child_has_read_keeps_its_sibling_and_its_parent_from_sending() {
    let files = with_children("");
    let files: Vec<(&str, &str)> = files.iter().map(|(name, text)| (*name, text.as_str())).collect();
    let at = Running::start("chain-taint", &files, "finance", &[]);
    assert_eq!(at.evaluate(&of_task(mail(), "b"))["decision"], true);
    assert_eq!(at.evaluate(&of_task(about("payroll-2026-10"), "a"))["decision"], true);
    for task in ["a", "b", "october"] {
        assert_eq!(told(&at.evaluate(&of_task(mail(), task))), ("deny", "RuleDenied"), "{task}");
    }
}

#[test]
fn a_child_without_a_parent_that_can_be_told_is_denied_with_words() {
    let files = with_children("");
    let files: Vec<(&str, &str)> = files.iter().map(|(name, text)| (*name, text.as_str())).collect();
    let at = Running::start("chain-unsound", &files, "finance", &[]);
    for (task, words) in [
        ("orphan", "there is no AgentTask `nobody` to be the parent of `orphan`"),
        ("egg", "more than 8 tasks stand above one another, or one above itself"),
    ] {
        let answer = at.evaluate(&of_task(mail(), task));
        assert_eq!(told(&answer), ("deny", "UnknownParent"));
        assert!(answer["context"]["reason"].as_str().unwrap().contains(words), "{answer}");
    }
}

#[test]
fn what_is_denied_costs_nothing() {
    let at = finance("denied-is-free", &[]);
    for _ in 0..10 {
        assert_eq!(at.evaluate(&call("ledger/post", &json!({"amount": 5000})))["decision"], false);
        assert_eq!(at.evaluate(&call("ledger/post", &json!({"amount": "1e3"})))["decision"], false);
    }
    let post = call("ledger/post", &json!({"amount": 1}));
    let answers: Vec<_> = (0..4).map(|_| at.evaluate(&post)).collect();
    assert_eq!(permitted(&answers), 3, "a call that was denied has used up nothing");
}

#[test]
fn a_search_costs_nothing() {
    let at = finance("search-is-free", &[]);
    for _ in 0..10 {
        let body = json!({"subject": {"type": "user", "id": "october"}, "resource": {"type": "tool"},
            "action": {"name": "tools/call", "properties": {"amount": 1}}});
        let found = at.ask(HARNESS, "/access/v1/search/resource", &body).json();
        assert!(found["results"].as_array().unwrap().contains(&json!({"type": "tool", "id": "ledger/post"})), "{found}");
    }
    let post = call("ledger/post", &json!({"amount": 1}));
    assert_eq!(permitted(&(0..4).map(|_| at.evaluate(&post)).collect::<Vec<_>>()), 3);
}

#[test]
fn a_report_settles_what_was_reserved_once_and_for_who_was_answered() {
    let at = finance("outcomes", &[]);
    let mut post = call("ledger/post", &json!({"amount": 1}));
    post["context"] = json!({"outcome_reported": true});
    let asked = |body: &Value| {
        let answer = at.evaluate(body);
        (answer["decision"] == true, answer["context"]["evaluation_id"].as_str().unwrap().to_owned(), answer)
    };
    let report = |token: &str, id: &str, outcome: &str| {
        at.ask(token, "/access/v1/outcome", &json!({"evaluation_id": id, "outcome": outcome})).status
    };
    let held: Vec<_> = (0..3).map(|_| asked(&post)).collect();
    assert!(held.iter().all(|(yes, _, answer)| *yes && answer["context"]["outcome_awaited"] == true), "{held:?}");
    assert!(!asked(&post).0, "what is under way counts");
    assert_eq!(report(GATEWAY, &held[0].1, "failed"), 404, "another enforcement point's");
    assert_eq!(report(HARNESS, "no-such-decision", "failed"), 404);
    assert_eq!(report(HARNESS, &held[0].1, "perhaps"), 400);
    assert!(!asked(&post).0);
    assert_eq!(report(HARNESS, &held[0].1, "failed"), 204);
    assert_eq!(report(HARNESS, &held[0].1, "failed"), 404, "only once");
    assert_eq!(report(HARNESS, &held[1].1, "completed"), 204);
    assert!(asked(&post).0, "what failed was given back");
    assert!(!asked(&post).0, "and what was carried out was not");
}

#[test]
fn a_policy_that_goes_meanwhile_does_not_split_a_batch() {
    let at = finance("one-snapshot", &[]);
    let policy = read("examples/finance/policy.yaml");
    let deny =
        policy.replace("  rules:\n", "  rules:\n  - {name: stop, deny: \"all of it stops\", match: {tools: [ledger/read]}}\n");
    let each = vec![json!({"resource": {"type": "tool", "id": "ledger/read"}}); 400];
    let body = json!({"subject": {"type": "user", "id": "october"}, "action": {"name": "tools/call"}, "evaluations": each});
    let split = (0..6).map(|round| {
        at.edit("policy.yaml", if round % 2 == 0 { &deny } else { &policy });
        let answer = at.ask(HARNESS, "/access/v1/evaluations", &body).json();
        let answers = answer["evaluations"].as_array().unwrap().clone();
        assert_eq!(answers.len(), 400);
        let yes = permitted(&answers);
        std::thread::sleep(Duration::from_millis(150));
        yes
    });
    let split: Vec<usize> = split.collect();
    assert!(split.iter().all(|yes| [0, 400].contains(yes)), "{split:?}");
}

#[test]
fn figures_tell_how_it_was_decided_and_how_old_the_knowledge_is() {
    let at = finance("figures", &[]);
    at.evaluate(&call("ledger/read", &json!({})));
    at.evaluate(&call("ledger/delete", &json!({})));
    let page = at.probe("/metrics");
    for line in [
        r#"mandate_decisions_total{door="authzen",outcome="permit",code="Permitted"} 1"#,
        r#"mandate_decisions_total{door="authzen",outcome="deny",code="UnknownTool"} 1"#,
        "mandate_decision_duration_seconds_count 2",
        "mandate_tasks_known 1",
        "mandate_audit_broken 0",
    ] {
        assert!(page.lines().any(|known| known == line), "{line}\nis not in\n{page}");
    }
    let state = at.probe("/debug/state");
    let state: Value = serde_json::from_str(state.split_once("\r\n\r\n").unwrap().1).unwrap();
    assert_eq!((&state["tasks"], &state["audit"]["broken"], &state["staleAfterSeconds"]), (&json!(1), &Value::Null, &json!(180)));
}

#[test]
fn while_the_audit_log_cannot_be_written_everything_is_denied_and_the_process_stays_ready() {
    let at = finance("audit-broken", &[]);
    let (light, heavy) = (call("ledger/read", &json!({})), call("ledger/post", &json!({"amount": 1})));
    assert_eq!((&at.evaluate(&light)["decision"], &at.evaluate(&heavy)["decision"]), (&json!(true), &json!(true)));
    at.size_of_files("0");
    at.until("a write is denied", || told(&at.evaluate(&heavy)) == ("deny", "NotRecorded"));
    at.until("a light read too", || told(&at.evaluate(&light)) == ("deny", "NotRecorded"));
    at.until("it is shown", || at.probe("/metrics").contains("\nmandate_audit_broken 1\n"));
    assert!(at.probe("/readyz").starts_with("HTTP/1.1 200"));
    let state = at.probe("/debug/state");
    let state: Value = serde_json::from_str(state.split_once("\r\n\r\n").unwrap().1).unwrap();
    assert!(state["audit"]["broken"]["why"].is_string(), "{state}");
    at.size_of_files("unlimited");
    at.until("it is well again", || at.evaluate(&heavy)["decision"] == true);
    let left = (0..2).map(|_| at.evaluate(&heavy)).collect::<Vec<_>>();
    assert_eq!(permitted(&left), 1, "what was denied meanwhile took none of the three an hour");
}

/// A question of the gateway, which vouches for nobody.
fn with_token(token: &str) -> Value {
    json!({"subject": {"type": "task", "id": "finance/october", "properties": {"token": token}},
        "action": {"name": "tools/call"}, "resource": {"type": "tool", "id": "finance/ledger/read"}})
}

#[test]
fn a_token_counts_for_its_own_task_and_audience_while_it_lives() {
    let at = finance("tokens", &[]);
    let task = "task:finance/october";
    let account = account();
    let good = |token: &str| at.ask(GATEWAY, EVALUATION, &with_token(token)).json();
    for (what, token) in [
        ("of the task", at.token(task, |_| ())),
        ("of its ServiceAccount", at.token(&account, |_| ())),
        ("for the server that is called", at.token(task, |claims| claims["aud"] = json!("https://ledger.finance.svc"))),
        ("in a list of one audience", at.token(task, |claims| claims["aud"] = json!(["mandate"]))),
        ("whose clock is 4 s ahead", at.token(task, |claims| claims["nbf"] = json!(now() + 4))),
        ("that ran out 3 s ago by our clock", at.token(task, |claims| claims["exp"] = json!(now() - 3))),
    ] {
        let answer = good(&token);
        assert_eq!(answer["decision"], true, "a token {what}: {answer}");
    }
    let stranger = rcgen::KeyPair::generate().unwrap();
    let swapped = {
        let (one, other) = (at.token(task, |_| ()), at.token(task, |claims| claims["exp"] = json!(now() + 900)));
        let signature = one.rsplit_once('.').unwrap().1.to_owned();
        format!("{}.{signature}", other.rsplit_once('.').unwrap().0)
    };
    for (what, token, words) in [
        ("for another audience", at.token(task, |claims| claims["aud"] = json!("https://mail.example.com")), "another audience"),
        (
            "for two audiences",
            at.token(task, |claims| claims["aud"] = json!(["mandate", "https://ledger.finance.svc"])),
            "exactly one",
        ),
        ("for nobody", at.token(task, |claims| _ = claims.as_object_mut().unwrap().remove("aud")), "lacks"),
        ("for an empty list", at.token(task, |claims| claims["aud"] = json!([])), "exactly one"),
        ("that has expired", at.token(task, |claims| claims["exp"] = json!(now() - 30)), "expired"),
        ("that never expires", at.token(task, |claims| _ = claims.as_object_mut().unwrap().remove("exp")), "cannot be read"),
        ("whose time has not come", at.token(task, |claims| claims["nbf"] = json!(now() + 60)), "time has not come"),
        ("of an unknown key", signed(&stranger, "tests", task, |_| ()), "no key that is trusted"),
        ("of a key with another id", signed(at.key(), "other", task, |_| ()), "no key that is trusted"),
        ("with the signature of another", swapped, "no key that is trusted"),
        ("signed with the public key as a secret", hmac(at.key(), task), "no key that is trusted"),
        ("that says it needs no signature", unsigned(task, "none"), "no signed JWT"),
        ("that says so in capitals", unsigned(task, "NONE"), "no signed JWT"),
        ("that is none", "x".to_owned(), "no signed JWT"),
        ("of a subject that is no task", at.token("task:finance", |_| ()), "no `task:namespace/name`"),
        ("of a person", at.token("alice@example.com", |_| ()), "no running task"),
        ("of another ServiceAccount", at.token("system:serviceaccount:finance:default", |_| ()), "no running task"),
        ("of a task that has another name", at.token("task:finance/november", |_| ()), "no running task"),
        ("of a task made anew since", at.token(task, |claims| claims["task_uid"] = json!("u-0")), "no running task"),
    ] {
        let reply = at.ask(GATEWAY, EVALUATION, &with_token(&token));
        assert_eq!(reply.status, 200);
        let answer = reply.json();
        assert_eq!(answer["decision"], false, "a token {what} counts: {answer}");
        assert!(answer["context"]["reason"].as_str().unwrap().contains(words), "a token {what}: {answer}");
        assert!(!reply.body.contains(&token) || token.len() < 4, "it repeats the token: {reply:?}");
        assert!(!at.log().contains(&token) || token.len() < 4, "it logs the token");
    }
}

/// The user name of the task's ServiceAccount: its name leads to the task's UID, so that one made
/// anew under the same name has another.
fn account() -> String {
    format!("system:serviceaccount:finance:{}", mandate::api::names::of_task("october", ""))
}

fn hmac(key: &rcgen::KeyPair, sub: &str) -> String {
    let mut header = jsonwebtoken::Header::new(jsonwebtoken::Algorithm::HS256);
    header.kid = Some("tests".to_owned());
    let claims = json!({"sub": sub, "aud": "mandate", "exp": now() + 600});
    let public = key.public_key_pem();
    jsonwebtoken::encode(&header, &claims, &jsonwebtoken::EncodingKey::from_secret(public.as_bytes())).unwrap()
}

fn unsigned(sub: &str, algorithm: &str) -> String {
    use base64::Engine as _;
    let part = |value: Value| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(value.to_string());
    let claims = json!({"sub": sub, "aud": "mandate", "exp": now() + 600});
    format!("{}.{}.", part(json!({"alg": algorithm, "typ": "JWT"})), part(claims))
}

#[test]
fn a_body_that_contradicts_the_token_is_denied_and_in_the_audit_log_like_every_no() {
    let mut at = finance("contradiction", &[]);
    let token = at.token("task:finance/october", |_| ());
    for id in ["finance/november", "november", "finance/October", "user:alice"] {
        let mut body = with_token(&token);
        body["subject"]["id"] = json!(id);
        let answer = at.ask(GATEWAY, EVALUATION, &body).json();
        assert_eq!(told(&answer), ("deny", "NotAuthenticated"), "{id}");
    }
    for id in ["october", "task:finance/october"] {
        let mut body = with_token(&token);
        body["subject"]["id"] = json!(id);
        assert_eq!(at.ask(GATEWAY, EVALUATION, &body).json()["decision"], true, "{id}");
    }
    // Nor does the harness's word count beside a token that says otherwise, or that is none.
    let mut body = with_token("x");
    body["subject"]["type"] = json!("user");
    assert_eq!(told(&at.ask(HARNESS, EVALUATION, &body).json()), ("deny", "NotAuthenticated"));
    at.stop();
    let log = rusqlite::Connection::open(at.dir().join("audit/audit-00000001.db")).unwrap();
    let mut rows = log.prepare("SELECT outcome, token_id, body FROM entry WHERE kind = 'decision' ORDER BY seq").unwrap();
    let rows = rows.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).unwrap();
    let rows: Vec<(String, Option<String>, String)> = rows.map(Result::unwrap).collect();
    assert_eq!(rows.len(), 7);
    for (index, (outcome, token_id, body)) in rows.iter().enumerate() {
        let is_permitted = [4, 5].contains(&index);
        assert_eq!(outcome, if is_permitted { "permit" } else { "deny" });
        assert_eq!(body.contains("NotAuthenticated"), !is_permitted, "{body}");
        assert_eq!(token_id.as_deref(), (index < 6).then_some("t-1"), "what joins it with the API server's log");
        assert!(!body.contains(&token));
    }
}

#[test]
fn a_token_outlives_no_task() {
    let at = finance("token-of-the-dead", &[]);
    let token = at.token("task:finance/october", |_| ());
    let ask = || at.ask(GATEWAY, EVALUATION, &with_token(&token)).json();
    assert_eq!(ask()["decision"], true);
    let scope = read("examples/finance/scope.yaml");
    at.edit("scope.yaml", &scope.replace("  ttl: 8h", "  ttl: 8h\n  end: {reason: Revoked}"));
    at.until("the task is over", || ask()["decision"] == false);
    assert_eq!(told(&ask()), ("deny", "TaskOver"));
    // Made anew under the same name it is another task, with another ServiceAccount.
    at.edit("scope.yaml", &scope.replace("{name: october, namespace: finance}", "{name: october, namespace: finance, uid: u-2}"));
    at.until("the new task is known", || told(&ask()).1 == "UnknownTask");
    let old = at.token(&account(), |_| ());
    assert_eq!(told(&at.ask(GATEWAY, EVALUATION, &with_token(&old)).json()), ("deny", "UnknownTask"));
    let new = at.token("task:finance/october", |claims| claims["task_uid"] = json!("u-2"));
    assert_eq!(at.ask(GATEWAY, EVALUATION, &with_token(&new)).json()["decision"], true);
}

#[test]
fn amounts_that_a_float_cannot_hold_are_no_amounts() {
    let at = finance("amounts", &[]);
    let post = |amount: &str| {
        let body = call("ledger/post", &json!({"amount": "?"})).to_string().replace("\"?\"", amount);
        let headers = [("Authorization", &*format!("Bearer {HARNESS}")), ("Content-Type", "application/json")];
        let reply = at.send("POST", EVALUATION, &headers, body.as_bytes());
        (reply.status, if reply.status == 200 { told(&reply.json()).1.to_owned() } else { reply.body.clone() })
    };
    for (amount, code) in [
        ("0.1", "Permitted"),
        ("\"999.9999\"", "Permitted"),
        ("1e2", "Permitted"),
        ("1000.00001", "BadArguments"),
        ("0.00001", "BadArguments"),
        ("9223372036854775808", "BadArguments"),
        ("1e300", "BadArguments"),
        ("900719925474.1", "BadArguments"),
        ("-0.0001", "OutOfScope"),
        ("\"NaN\"", "BadArguments"),
        ("\"1e2\"", "BadArguments"),
        ("\"\\u0661\"", "BadArguments"),
        ("true", "BadArguments"),
        ("[1]", "BadArguments"),
        ("null", "BadArguments"),
    ] {
        assert_eq!(post(amount), (200, code.to_owned()), "{amount}");
    }
    for amount in ["NaN", "Infinity", "1e999", "01", "0x10", "1."] {
        assert_eq!(post(amount).0, 400, "{amount} is no JSON");
    }
}
