//! The certification scenario of AuthZEN's Authorization API 1.0, test by test, against the
//! process over HTTPS. The ids are the scenario's own; the fixture is tests/authzen/records.yaml.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use serde_json::{Value, json};

use crate::read;
use crate::running::{GATEWAY, HARNESS, Reply, Running};

static RECORDS: LazyLock<Running> =
    LazyLock::new(|| Running::start("authzen", &[("records.yaml", &read("tests/authzen/records.yaml"))], "records", &[]));

const EVALUATION: &str = "/access/v1/evaluation";
const EVALUATIONS: &str = "/access/v1/evaluations";
const SUBJECTS: &str = "/access/v1/search/subject";
const RESOURCES: &str = "/access/v1/search/resource";
const ACTIONS: &str = "/access/v1/search/action";

fn ask(path: &str, body: &Value) -> Reply {
    RECORDS.ask(HARNESS, path, body)
}

fn user(id: &str) -> Value {
    json!({"type": "user", "id": id})
}

fn admin(id: &str) -> Value {
    json!({"type": "user", "id": id, "properties": {"role": "admin"}})
}

fn record(id: &str) -> Value {
    json!({"type": "record", "id": id})
}

fn kept(id: &str, status: &str) -> Value {
    json!({"type": "record", "id": id, "properties": {"status": status}})
}

fn name(name: &str) -> Value {
    json!({"name": name})
}

fn delete(soft: bool) -> Value {
    json!({"name": "delete", "properties": {"soft": soft}})
}

fn question(subject: Value, action: Value, resource: Value) -> Value {
    json!({"subject": subject, "action": action, "resource": resource})
}

fn with(mut body: Value, more: &Value) -> Value {
    for (name, value) in more.as_object().unwrap() {
        body[name] = value.clone();
    }
    body
}

fn without(mut body: Value, path: &str) -> Value {
    let (of, name) = path.rsplit_once('/').unwrap();
    body.pointer_mut(of).unwrap().as_object_mut().unwrap().remove(name);
    body
}

fn context() -> Value {
    json!({"context": {"time": "2025-06-27T18:03-07:00", "ip": "192.168.1.1"}})
}

/// What every answer is that is no error.
fn fine(reply: &Reply) -> Value {
    assert_eq!(reply.status, 200, "{reply:?}");
    assert_eq!(reply.header("content-type"), Some("application/json"), "{reply:?}");
    assert_eq!(reply.header("cache-control"), Some("no-store"));
    reply.json()
}

/// The form of one decision.
fn decision(value: &Value) -> bool {
    let members = value.as_object().unwrap();
    assert!(members.get("context").is_none_or(Value::is_object), "{value}");
    assert!(members.keys().all(|name| ["decision", "context"].contains(&name.as_str())), "{value}");
    members["decision"].as_bool().unwrap()
}

fn evaluates(body: &Value) -> bool {
    decision(&fine(&ask(EVALUATION, body)))
}

fn evaluate_all(body: &Value) -> Vec<bool> {
    let answer = fine(&ask(EVALUATIONS, body));
    assert!(answer.get("decision").is_none(), "{answer}");
    let several = answer["evaluations"].as_array().unwrap();
    assert_eq!(several.len(), body["evaluations"].as_array().unwrap().len(), "{answer}");
    several.iter().map(decision).collect()
}

/// The entities found, in the form in which they are asked for again.
fn found(path: &str, body: &Value) -> BTreeSet<String> {
    let answer = fine(&ask(path, body));
    let page = answer["page"].as_object().unwrap();
    assert!(page["next_token"].is_string(), "{answer}");
    let results = answer["results"].as_array().unwrap();
    let shown = |entity: &Value| {
        let members = entity.as_object().unwrap();
        match path {
            ACTIONS => entity["name"].as_str().unwrap().to_owned(),
            _ => {
                let sought = if path == SUBJECTS { "subject" } else { "resource" };
                assert_eq!(entity["type"], body[sought]["type"], "{answer}");
                assert_eq!(members.len(), 2, "{entity}");
                entity["id"].as_str().unwrap().to_owned()
            }
        }
    };
    results.iter().map(shown).collect()
}

fn holds(all: &BTreeSet<String>, wanted: &[&str]) {
    assert!(wanted.iter().all(|one| all.contains(*one)), "{wanted:?} are not among {all:?}");
}

/// An error: its status, and one text as its body.
fn refuses(path: &str, body: &Value, words: &str) {
    error(&ask(path, body), 400, words);
}

fn error(reply: &Reply, status: u16, words: &str) {
    assert_eq!(reply.status, status, "{reply:?}");
    let told = reply.json();
    assert!(told.as_str().is_some_and(|text| text.contains(words)), "{words:?} is not in {reply:?}");
}

fn read_by(who: Value) -> Value {
    question(who, name("read"), record("record-1"))
}

/// Every test of the scenario by its id.
const SCENARIO: &[(&str, fn())] = &[
    ("2.2.1", || assert!(evaluates(&read_by(user("alice"))))),
    ("2.2.2", || assert!(!evaluates(&question(user("bob"), name("write"), record("record-1"))))),
    ("2.2.3", || assert!(evaluates(&with(read_by(user("alice")), &context())))),
    ("2.2.4", || assert!(!evaluates(&question(user("alice"), name("write"), kept("record-2", "archived"))))),
    ("2.2.5", || assert!(evaluates(&question(admin("bob"), name("write"), kept("record-2", "archived"))))),
    ("2.2.6", || assert!(evaluates(&question(user("alice"), delete(true), record("record-1"))))),
    ("2.2.7", || assert!(!evaluates(&question(user("alice"), delete(false), record("record-1"))))),
    ("2.2.8", || {
        let alice = json!({"type": "user", "id": "alice", "properties": {"department": "Sales", "role": "manager"}});
        let action = json!({"name": "read", "properties": {"method": "GET"}});
        let resource = json!({"type": "record", "id": "record-1", "properties": {"status": "active", "owner": "bob"}});
        assert!(evaluates(&question(alice, action, resource)));
    }),
    ("2.2.9", || {
        assert!(evaluates(&with(read_by(user("alice")), &json!({"foo": "bar", "futureField": {"nested": true}}))));
    }),
    ("2.3", || {
        let answer = fine(&ask(EVALUATION, &read_by(user("alice"))));
        assert!(answer["decision"].is_boolean() && answer["context"].is_object());
    }),
    ("2.4.1", || {
        for member in ["subject", "action", "resource"] {
            refuses(EVALUATION, &without(read_by(user("alice")), &format!("/{member}")), member);
        }
    }),
    ("2.4.2", || {
        for member in ["/subject/type", "/subject/id", "/action/name", "/resource/type", "/resource/id"] {
            refuses(EVALUATION, &without(read_by(user("alice")), member), &member[1..].replace('/', "."));
        }
    }),
    ("2.4.3", || {
        let body = read_by(user("alice")).to_string();
        let bearer = format!("Bearer {HARNESS}");
        for kind in [None, Some("text/plain"), Some("application/jsonx"), Some("application/x-www-form-urlencoded")] {
            let mut headers = vec![("Authorization", bearer.as_str())];
            headers.extend(kind.map(|kind| ("Content-Type", kind)));
            error(&RECORDS.send("POST", EVALUATION, &headers, body.as_bytes()), 400, "Content-Type");
        }
        let headers = [("Authorization", bearer.as_str()), ("Content-Type", "Application/JSON; charset=utf-8")];
        fine(&RECORDS.send("POST", EVALUATION, &headers, body.as_bytes()));
    }),
    ("2.4.4", || {
        for text in ["{\"subject\":", "nonsense", "{} {}", "{\"subject\": {\"type\": \"user\", \"id\": \"\\ud800\"}}", "\u{0}"] {
            error(&raw(text), 400, "no JSON of one meaning");
        }
    }),
    ("2.4.5", || error(&raw(""), 400, "no JSON")),
    ("2.4.6", || {
        refuses(EVALUATION, &with(read_by(user("alice")), &json!({"subject": "alice"})), "`subject` must be an object");
        refuses(EVALUATION, &with(read_by(user("alice")), &json!({"action": {"name": 123}})), "`action.name` must be a text");
    }),
    ("2.5.1", || {
        let bearer = format!("Bearer {HARNESS}");
        for (body, status) in [(read_by(user("alice")).to_string(), 200), ("{".to_owned(), 400)] {
            let headers = [
                ("Authorization", bearer.as_str()),
                ("Content-Type", "application/json"),
                ("X-Request-ID", "bfe9eb29-ab87-4ca3-be83-a1d5d8305716"),
            ];
            let reply = RECORDS.send("POST", EVALUATION, &headers, body.as_bytes());
            assert_eq!((reply.status, reply.header("x-request-id")), (status, Some("bfe9eb29-ab87-4ca3-be83-a1d5d8305716")));
        }
    }),
    ("2.5.2", || assert_eq!(ask(EVALUATION, &read_by(user("alice"))).header("x-request-id"), None)),
    ("2.6", || {
        let all = (0..5).map(|_| evaluates(&question(user("bob"), name("write"), record("record-1"))));
        assert_eq!(all.collect::<Vec<_>>(), [false; 5]);
    }),
    ("3.2.1", || {
        let body = json!({"subject": user("alice"), "action": name("read"),
            "evaluations": [{"resource": record("record-1")}, {"resource": record("record-2")}]});
        assert_eq!(evaluate_all(&body).len(), 2);
    }),
    ("3.2.2", || {
        let body = json!({"subject": user("bob"), "resource": record("record-1"),
            "evaluations": [{"action": name("read")}, {"action": name("write")}]});
        assert_eq!(evaluate_all(&body), [true, false]);
    }),
    ("3.2.3", || {
        let body = json!({"subject": user("alice"), "action": name("write"),
            "evaluations": [{"resource": kept("record-1", "active")}, {"resource": kept("record-2", "archived")}]});
        assert_eq!(evaluate_all(&body), [true, false]);
    }),
    ("3.2.4", || {
        let body = json!({"action": name("write"), "resource": kept("record-2", "archived"),
            "evaluations": [{"subject": user("alice")}, {"subject": admin("bob")}]});
        assert_eq!(evaluate_all(&body), [false, true]);
    }),
    ("3.2.5", || {
        let write = question(user("bob"), name("write"), record("record-1"));
        assert_eq!(evaluate_all(&json!({"evaluations": [read_by(user("alice")), write]})), [true, false]);
    }),
    ("3.2.6", || {
        let own = json!({"time": "2025-06-27T19:00-07:00", "source": "batch-override"});
        let body = json!({"subject": user("alice"), "action": name("read"), "context": {"time": "2025-06-27T18:03-07:00"},
            "evaluations": [{"resource": record("record-1")}, {"resource": record("record-2"), "context": own}]});
        assert_eq!(evaluate_all(&body).len(), 2);
    }),
    ("3.2.7", || {
        let body = with(
            question(user("alice"), name("write"), kept("record-1", "active")),
            &json!({"evaluations": [{}, {"resource": kept("record-2", "archived")}]}),
        );
        assert_eq!(evaluate_all(&body), [true, false]);
    }),
    ("3.3", || {
        let each = ["read", "write", "read"].map(|action| json!({"action": name(action)}));
        let body = json!({"subject": user("bob"), "resource": record("record-1"), "evaluations": each});
        assert_eq!(evaluate_all(&body), [true, false, true]);
    }),
    ("3.4.1", || {
        let body = json!({"subject": user("alice"), "action": name("read"),
            "options": {"evaluations_semantic": "execute_all"}, "evaluations": [{"resource": record("record-1")}, {}]});
        assert_eq!(evaluate_all(&body), [true, false]);
        let failed = fine(&ask(EVALUATIONS, &body))["evaluations"][1]["context"]["error"].clone();
        assert_eq!(failed, json!({"status": 400, "message": "`resource` is missing"}));
    }),
    ("3.4.2", || assert!(decision(&fine(&ask(EVALUATIONS, &read_by(user("alice"))))))),
    ("3.4.3", || {
        assert!(decision(&fine(&ask(EVALUATIONS, &with(read_by(user("alice")), &json!({"evaluations": []}))))));
    }),
    ("4.2.1", || holds(&found(SUBJECTS, &read_by(json!({"type": "user"}))), &["alice", "bob"])),
    ("4.2.2", || holds(&found(SUBJECTS, &with(read_by(json!({"type": "user"})), &context())), &["alice", "bob"])),
    ("4.2.3", || {
        let all = found(SUBJECTS, &read_by(json!({"type": "user"})));
        for id in [json!("alice"), json!("nobody"), json!(7), json!("")] {
            assert_eq!(found(SUBJECTS, &read_by(json!({"type": "user", "id": id}))), all);
        }
    }),
    ("4.2.4", || {
        let body = question(json!({"type": "user"}), name("write"), kept("record-2", "archived"));
        holds(&found(SUBJECTS, &body), &["bob"]);
    }),
    ("4.3.1", || {
        holds(&found(RESOURCES, &question(user("alice"), name("read"), json!({"type": "record"}))), &["record-1"]);
    }),
    ("4.3.2", || {
        let body = question(user("alice"), name("read"), json!({"type": "record"}));
        holds(&found(RESOURCES, &with(body, &context())), &["record-1"]);
    }),
    ("4.3.3", || {
        let of = |resource| found(RESOURCES, &question(user("alice"), name("read"), resource));
        assert_eq!(of(record("record-1")), of(json!({"type": "record"})));
        assert_eq!(of(json!({"type": "record", "id": 1})), of(json!({"type": "record"})));
    }),
    ("4.3.4", || {
        holds(&found(RESOURCES, &question(admin("bob"), name("write"), json!({"type": "record"}))), &["record-2"]);
    }),
    ("4.4.1", || {
        holds(&found(ACTIONS, &json!({"subject": user("alice"), "resource": record("record-1")})), &["read", "write"]);
    }),
    ("4.4.2", || {
        let body = json!({"subject": user("alice"), "resource": record("record-1")});
        assert_eq!(found(ACTIONS, &with(body.clone(), &context())), found(ACTIONS, &body));
    }),
    ("4.4.3", || {
        holds(&found(ACTIONS, &json!({"subject": admin("bob"), "resource": kept("record-2", "archived")})), &["write"]);
    }),
    ("4.5.1", || {
        let body = read_by(json!({"type": "user"}));
        let first = fine(&ask(SUBJECTS, &with(body, &json!({"page": {"limit": 1}}))));
        assert_eq!((&first["page"]["count"], &first["page"]["total"]), (&json!(1), &json!(2)));
    }),
    ("4.5.2", || {
        let body = read_by(json!({"type": "user"}));
        let first = fine(&ask(SUBJECTS, &with(body.clone(), &json!({"page": {"limit": 1}}))));
        let token = first["page"]["next_token"].as_str().unwrap();
        assert_ne!(token, "");
        let second = fine(&ask(SUBJECTS, &with(body, &json!({"page": {"token": token}}))));
        assert_eq!((&second["results"], &second["page"]["next_token"]), (&json!([user("bob")]), &json!("")));
    }),
    ("4.5.3", || {
        let answer = fine(&ask(SUBJECTS, &read_by(json!({"type": "user"}))));
        assert_eq!(answer["page"], json!({"next_token": "", "count": 2, "total": 2}));
    }),
    ("4.6.1", || {
        let nobody = user("nonexistent-user");
        for (path, body) in [
            (ACTIONS, json!({"subject": nobody, "resource": record("record-1")})),
            (RESOURCES, question(nobody.clone(), name("read"), json!({"type": "record"}))),
            (SUBJECTS, question(json!({"type": "user"}), name("fly"), record("record-1"))),
        ] {
            assert_eq!(fine(&ask(path, &body))["results"], json!([]), "{path}");
        }
    }),
    ("4.6.2", || {
        let ship = json!({"type": "spaceship"});
        for (path, body) in [
            (SUBJECTS, read_by(ship.clone())),
            (RESOURCES, question(user("alice"), name("read"), ship)),
            (ACTIONS, json!({"subject": user("alice"), "resource": {"type": "spaceship", "id": "1"}})),
            (ACTIONS, json!({"subject": {"type": "spaceship", "id": "1"}, "resource": record("record-1")})),
        ] {
            assert_eq!(fine(&ask(path, &body))["results"], json!([]), "{path}");
        }
    }),
    ("4.7.1", || {
        refuses(SUBJECTS, &json!({"subject": {"type": "user"}, "resource": record("record-1")}), "`action` is missing");
        refuses(RESOURCES, &json!({"action": name("read"), "resource": {"type": "record"}}), "`subject` is missing");
        refuses(ACTIONS, &json!({"subject": user("alice")}), "`resource` is missing");
    }),
    ("4.7.2", || {
        let neither = question(json!({"type": "user"}), name("read"), json!({"type": "record"}));
        refuses(SUBJECTS, &neither, "`resource.id` is missing");
        refuses(RESOURCES, &neither, "`subject.id` is missing");
        refuses(ACTIONS, &json!({"subject": {"type": "user"}, "resource": record("record-1")}), "`subject.id` is missing");
    }),
    ("6", || {
        let reply = RECORDS.send("GET", "/.well-known/authzen-configuration", &[], b"");
        let (answer, base) = (fine(&reply), RECORDS.url());
        assert_eq!(answer["policy_decision_point"], base);
        for (member, path) in [
            ("access_evaluation_endpoint", EVALUATION),
            ("access_evaluations_endpoint", EVALUATIONS),
            ("search_subject_endpoint", SUBJECTS),
            ("search_resource_endpoint", RESOURCES),
            ("search_action_endpoint", ACTIONS),
        ] {
            assert_eq!(answer[member], format!("{base}{path}"));
        }
        assert_eq!(answer.as_object().unwrap().len(), 6, "nothing is said that is not so: {answer}");
    }),
];

fn raw(text: &str) -> Reply {
    let bearer = format!("Bearer {HARNESS}");
    let headers = [("Authorization", bearer.as_str()), ("Content-Type", "application/json")];
    RECORDS.send("POST", EVALUATION, &headers, text.as_bytes())
}

#[test]
fn the_certification_scenario_of_authzen_holds_test_by_test() {
    let failed: Vec<_> = SCENARIO.iter().filter(|(_, test)| std::panic::catch_unwind(test).is_err()).map(|(id, _)| id).collect();
    assert!(failed.is_empty(), "not as the scenario says: {failed:?}");
    let levels: BTreeSet<&str> = SCENARIO.iter().filter_map(|(id, _)| id.split('.').next()).collect();
    assert_eq!(levels, ["2", "3", "4", "6"].into(), "Basic, Batch, Search and Discovery");
}

#[test]
fn an_answer_names_what_decided_and_what_would_have_to_hold() {
    let answer = RECORDS.evaluate(&question(user("bob"), name("write"), record("record-1")));
    let context = &answer["context"];
    assert_eq!((&context["outcome"], &context["cache_for"]), (&json!("deny"), &json!(0)));
    assert_eq!(context["reasons"][0]["rule"], "AgentPolicy records/bob#bob-leaves-the-first-record");
    assert!(context["reason"].as_str().unwrap().starts_with("bob does not write the first record"), "{answer}");
    assert!(context["evaluation_id"].is_string() && context["evaluated_at"].is_string());
}

#[test]
fn several_evaluations_stop_where_they_are_told_to() {
    let each = ["read", "write", "read"].map(|action| json!({"action": name(action)}));
    let several = |semantic: Value| {
        let body = json!({"subject": user("bob"), "resource": record("record-1"), "evaluations": each,
            "options": {"evaluations_semantic": semantic}});
        let reply = ask(EVALUATIONS, &body);
        if reply.status != 200 {
            return Err(reply.json());
        }
        Ok(reply.json()["evaluations"].as_array().unwrap().iter().map(decision).collect::<Vec<_>>())
    };
    assert_eq!(several(json!("deny_on_first_deny")), Ok(vec![true, false]));
    assert_eq!(several(json!("permit_on_first_permit")), Ok(vec![true]));
    assert_eq!(several(Value::Null), Ok(vec![true, false, true]));
    assert!(several(json!("at_random")).is_err() && several(json!(1)).is_err());
}

#[test]
fn what_may_stand_in_a_body_only_once_is_refused_twice() {
    for text in [
        r#"{"subject": {"type": "user", "id": "bob", "id": "alice"}, "action": {"name": "read"}, "resource": {"type": "record", "id": "record-1"}}"#,
        r#"{"subject": {"type": "user", "id": "alice"}, "subject": {"type": "user", "id": "bob"}, "action": {"name": "read"}, "resource": {"type": "record", "id": "record-1"}}"#,
        r#"{"subject": {"type": "user", "id": "alice"}, "action": {"name": "delete", "properties": {"soft": true, "soft": false}}, "resource": {"type": "record", "id": "record-1"}}"#,
    ] {
        error(&raw(text), 400, "twice");
    }
    error(&raw(&format!("{}{}", "[".repeat(5000), "]".repeat(5000))), 400, "nested");
    error(&raw("[]"), 400, "must be an object");
}

#[test]
fn an_empty_member_is_no_member() {
    let body = with(read_by(user("alice")), &json!({"context": null, "evaluations": null, "options": null}));
    assert!(decision(&fine(&ask(EVALUATIONS, &body))));
    refuses(EVALUATION, &with(read_by(user("alice")), &json!({"subject": null})), "`subject` is missing");
    refuses(EVALUATION, &with(read_by(user("alice")), &json!({"context": "now"})), "`context` must be an object");
    refuses(SUBJECTS, &with(read_by(json!({"type": "user"})), &json!({"page": 1})), "`page` must be an object");
    refuses(SUBJECTS, &with(read_by(json!({"type": "user"})), &json!({"page": {"limit": 0}})), "page.limit");
}

#[test]
fn a_page_belongs_to_its_search() {
    let first = fine(&ask(SUBJECTS, &with(read_by(json!({"type": "user"})), &json!({"page": {"limit": 1}}))));
    let token = first["page"]["next_token"].clone();
    let other = question(json!({"type": "user"}), name("write"), record("record-1"));
    refuses(SUBJECTS, &with(other, &json!({"page": {"token": token}})), "page.token");
    refuses(SUBJECTS, &with(read_by(json!({"type": "user"})), &json!({"page": {"token": "1"}})), "page.token");
}

#[test]
fn too_much_at_once_is_refused_with_the_bound() {
    let each = vec![json!({"resource": record("record-1")}); 10_000];
    refuses(EVALUATIONS, &json!({"subject": user("alice"), "action": name("read"), "evaluations": each}), "1000 entries at most");
    let long = "x".repeat(2 << 20);
    let reply = ask(EVALUATION, &with(read_by(user("alice")), &json!({"foo": long})));
    error(&reply, 413, "1048576 bytes at most");
}

#[test]
fn who_is_no_enforcement_point_is_asked_to_authenticate_itself() {
    let body = read_by(user("alice"));
    for token in ["", "x", HARNESS.trim_end_matches('h'), "Bearer"] {
        let reply = RECORDS.ask(token, EVALUATION, &body);
        error(&reply, 401, "must authenticate itself");
        assert_eq!(reply.header("www-authenticate"), Some("Bearer realm=\"mandate\""));
    }
    let json = [("Content-Type", "application/json")];
    error(&RECORDS.send("POST", EVALUATION, &json, body.to_string().as_bytes()), 401, "no bearer token");
    let basic = [("Content-Type", "application/json"), ("Authorization", "Basic aGFybmVzczp4")];
    error(&RECORDS.send("POST", SUBJECTS, &basic, body.to_string().as_bytes()), 401, "no bearer token");
}

#[test]
fn another_method_or_path_is_told_what_there_is() {
    error(&RECORDS.send("GET", EVALUATION, &[], b""), 405, "ask by POST");
    error(&RECORDS.send("OPTIONS", EVALUATION, &[("Origin", "https://evil.example")], b""), 405, "ask by POST");
    error(&RECORDS.send("POST", "/.well-known/authzen-configuration", &[], b""), 405, "metadata by GET");
    error(&RECORDS.send("GET", "/.well-known/authzen-configuration/tenant", &[], b""), 404, "nothing here");
    let head = RECORDS.send("HEAD", "/.well-known/authzen-configuration", &[], b"");
    assert_eq!((head.status, head.body.as_str()), (200, ""));
    // No page of a browser may ask.
    let page = RECORDS.send("GET", "/.well-known/authzen-configuration", &[("Origin", "https://evil.example")], b"");
    assert_eq!(page.header("access-control-allow-origin"), None);
}

#[test]
fn behind_a_proxy_the_operator_says_by_which_url_it_is_known() {
    let manifests = [("records.yaml", &*read("tests/authzen/records.yaml"))];
    let at = Running::start("authzen-url", &manifests, "records", &["--url", "https://pdp.example.com/"]);
    let told = fine(&at.send("GET", "/.well-known/authzen-configuration", &[], b""));
    assert_eq!(told["policy_decision_point"], "https://pdp.example.com");
    assert_eq!(told["access_evaluation_endpoint"], "https://pdp.example.com/access/v1/evaluation");
    let odd = crate::said(&["run", "authorizer", "--audit-dir", "x", "--url", "http://pdp.example.com"]);
    assert!(odd.contains("must be an `https://` URL"), "{odd}");
}

#[test]
fn who_vouches_for_one_namespace_names_no_task_of_another() {
    let answer = RECORDS.evaluate(&read_by(user("other/alice")));
    assert_eq!((&answer["decision"], &answer["context"]["reasons"][0]["code"]), (&json!(false), &json!("UnknownTask")));
    assert!(evaluates(&read_by(user("records/alice"))), "its own, by its full name");
    // And who vouches for nobody has to show a token.
    let reply = fine(&RECORDS.ask(GATEWAY, EVALUATION, &read_by(user("alice"))));
    assert_eq!((&reply["decision"], &reply["context"]["error"]["status"]), (&json!(false), &json!(401)));
}

#[test]
fn a_request_id_comes_back_letter_for_letter_and_a_line_break_in_it_ends_the_request() {
    let bearer = format!("Bearer {HARNESS}");
    let body = read_by(user("alice")).to_string();
    let send = |id: &str| {
        let headers = [("Authorization", bearer.as_str()), ("Content-Type", "application/json"), ("X-Request-ID", id)];
        RECORDS.send("POST", EVALUATION, &headers, body.as_bytes())
    };
    let odd = "a \"b\" <c>; d=%0d%0aX-Evil: 1";
    let reply = send(odd);
    assert_eq!((reply.status, reply.header("x-request-id"), reply.header("x-evil")), (200, Some(odd), None));
    assert_eq!(send("a\rb").status, 400);
}
