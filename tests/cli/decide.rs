//! `mandate decide` and `mandate test`: decisions by manifests alone.

use quick_junit::{NonSuccessKind, Report, TestCaseStatus};
use serde_json::{Value, json};

use crate::{Answer, fresh, mandate, read};

const AT: &str = "2026-10-05T09:00:00Z";

fn decide(args: &[&str]) -> Answer {
    mandate(&[&["decide", "-f", "examples/finance", "-n", "finance", "--at", AT], args].concat())
}

#[test]
fn decide_says_what_decided_and_what_would_have_to_hold() {
    let yes = decide(&["--task", "october", "--tool", "ledger/read"]);
    assert_eq!((yes.status, yes.err.as_str()), (0, ""), "{yes:?}");
    assert_eq!(
        yes.out,
        "permit\n  Permitted [TaskScope finance/reconcile-invoices#tools[0].read]: \
         `TaskScope finance/reconcile-invoices#tools[0].read` grants it\n  \
         an enforcement point may use this answer again for 5 s\n"
    );
    for (args, status, words) in [
        (&["--tool", "ledger/post", "--arg", "amount=1000.01"][..], 1, "OutOfScope: scope `reconcile-invoices` names tool"),
        (&["--tool", "ledger/post", "--arg", "amount=1000"], 0, "permit\n"),
        (&["--tool", "ledger/post"], 1, "BadArguments: argument `amount` is missing"),
        (&["--tool", "mail/send", "--arg", "to=a@example.com"], 0, "permit\n"),
        (
            &["--tool", "mail/send", "--arg", "to=a@example.com", "--after", "ledger/read@payroll-2026-10"],
            1,
            "RuleDenied [AgentPolicy finance/finance-agents#no-egress-after-confidential-read]: this task has read confidential data",
        ),
        (&["--tool", "ledger/read", "--resource", "payroll-1", "--intent", "look"], 0, "permit\n"),
        (&["--tool", "ledger/export", "--arg", "path=reports/2026-10", "--arg", "rows=5"], 1, "needs-approval\n"),
        (
            &[
                "--tool",
                "ledger/post",
                "--arg",
                "amount=1",
                "--after",
                "ledger/post?amount=1",
                "--after",
                "ledger/post?amount=1",
                "--after",
                "ledger/post?amount=1",
            ],
            1,
            "LimitReached",
        ),
    ] {
        let answer = decide(&[&["--task", "october"], args].concat());
        assert_eq!((answer.status, answer.err.as_str()), (status, ""), "{args:?}: {answer:?}");
        assert!(answer.out.contains(words), "{args:?}: {answer:?}");
    }
}

#[test]
fn decide_looks_at_the_whole_chain_and_names_it() {
    let dir = fresh("decide-chain");
    let text = |delegation: &str| {
        for (name, text) in crate::authorizer::with_children("limits: {actions: 2}") {
            std::fs::write(dir.join(name), text.replace("delegation: {to: [writer]}", delegation)).unwrap();
        }
    };
    let ask = |task: &str, more: &[&str]| {
        let asked = ["decide", "-f", dir.to_str().unwrap(), "-n", "finance", "--at", AT, "--task", task, "--tool", "ledger/read"];
        mandate(&[&asked, more].concat())
    };
    text("delegation: {to: [writer]}");
    let yes = ask("a", &[]);
    assert_eq!(yes.status, 0, "{yes:?}");
    assert!(yes.out.starts_with("permit\n  chain: finance/october > finance/a\n"), "{yes:?}");
    let spent = ask("a", &["--after", "ledger/read", "--after", "ledger/read"]);
    assert_eq!(spent.status, 1);
    assert!(spent.out.contains("LimitReached") && spent.out.contains("task `october`, with those below it,"), "{spent:?}");
    let orphan = ask("orphan", &[]);
    assert!(orphan.status == 1 && orphan.out.contains("UnknownParent: there is no AgentTask `nobody`"), "{orphan:?}");
    for (delegation, words) in [
        ("delegation: {to: [other]}", "TaskScope `reconcile-invoices` delegates to other, not to `writer`"),
        ("keepPods: false", "TaskScope `reconcile-invoices` delegates to nobody"),
    ] {
        text(delegation);
        let no = ask("a", &[]);
        assert!(no.status == 1 && no.out.contains("UnknownParent") && no.out.contains(words), "{no:?}");
    }
}

#[test]
fn decide_takes_a_request_of_authzen_and_answers_as_the_api_does() {
    let file = fresh("decide").join("request.json");
    let ask = |body: &Value| {
        std::fs::write(&file, body.to_string()).unwrap();
        decide(&["--request", file.to_str().unwrap(), "--output", "json"])
    };
    let mut body = json!({"subject": {"type": "task", "id": "finance/october"}, "action": {"name": "read"},
        "resource": {"type": "account", "id": "supplier-4711"}});
    let answer = ask(&body);
    let told: Value = serde_json::from_str(&answer.out).unwrap();
    assert_eq!((answer.status, &told["decision"]), (0, &json!(true)));
    assert_eq!(told["context"]["evaluated_at"], AT);
    assert_eq!(told["context"].get("evaluation_id"), None, "nothing was recorded");
    body["resource"] = json!({"type": "tool", "id": "ledger/read", "properties": {"resource": "payroll-1"}});
    assert_eq!(serde_json::from_str::<Value>(&ask(&body).out).unwrap()["context"]["cache_for"], 0);
    body["action"] = json!({});
    let error = ask(&body);
    assert_eq!(error.status, 2);
    assert!(error.err.contains("`action.name` is missing"), "{error:?}");
}

#[test]
fn decide_ends_with_2_where_it_cannot_be_decided() {
    for (args, words) in [
        (
            &["--task", "november", "--tool", "ledger/read"][..],
            "there is no AgentTask `finance/november` in the manifests; there are: finance/october",
        ),
        (&["--task", "october", "--tool", "ledger"], "--tool `ledger`: the id of a `tool` must be `server/tool`"),
        (&["--task", "october", "--tool", "ledger/post", "--arg", "amount"], "`amount` is not NAME=VALUE"),
        (&["--task", "october", "--tool", "ledger/read", "--after", "ledger/post"], "would not have been permitted itself"),
        (&["--task", "october"], "--tool"),
    ] {
        let answer = decide(args);
        assert_eq!((answer.status, answer.out.as_str()), (2, ""), "{args:?}: {answer:?}");
        assert!(answer.err.contains(words), "{args:?}: {}", answer.err);
    }
    let dir = fresh("unsound");
    std::fs::write(dir.join("scope.yaml"), read("examples/finance/scope.yaml").replace("server: mail", "server: post")).unwrap();
    std::fs::write(dir.join("tools.yaml"), read("examples/finance/tools.yaml")).unwrap();
    let answer = mandate(&["decide", "-f", dir.to_str().unwrap(), "-n", "finance", "--task", "october", "--tool", "ledger/read"]);
    assert_eq!((answer.status, answer.out.as_str()), (2, ""));
    assert!(answer.err.contains("TaskScope finance/reconcile-invoices: spec.tools[4].server: there is no"), "{}", answer.err);
}

#[test]
fn the_test_file_of_the_examples_is_as_expected() {
    let answer = mandate(&["test", "examples/finance/finance.test.yaml"]);
    assert_eq!((answer.status, answer.err.as_str()), (0, ""), "{}", answer.out);
    assert!(answer.out.ends_with("\n10 as expected, 0 not\n"), "{}", answer.out);
    let report = mandate(&["test", "--format", "junit", "examples/finance/finance.test.yaml"]);
    let report = Report::deserialize_from_str(&report.out).unwrap();
    assert_eq!((report.tests, report.failures, report.errors), (10, 0, 0));
}

/// A test file beside the manifests of the example.
fn tests(name: &str, change: impl Fn(String) -> String) -> (Answer, Report) {
    let dir = fresh(name);
    for file in ["tools.yaml", "scope.yaml", "policy.yaml"] {
        std::fs::write(dir.join(file), read(format!("examples/finance/{file}"))).unwrap();
    }
    let text = "\
manifests: [tools.yaml, scope.yaml, policy.yaml]
namespace: finance
at: 2026-10-05T09:00:00Z
cases:
- name: reads <are> permitted
  task: october
  steps:
  - {tool: ledger/read, expect: permit, cacheFor: 5}
";
    let file = dir.join("x.test.yaml");
    std::fs::write(&file, change(text.to_owned())).unwrap();
    let file = file.to_str().unwrap();
    let junit = mandate(&["test", "--format", "junit", file]);
    let answer = mandate(&["test", file]);
    assert_eq!(junit.status, answer.status);
    (answer, Report::deserialize_from_str(&junit.out).unwrap())
}

#[test]
fn a_case_that_is_answered_otherwise_says_what_was_expected_and_why_not() {
    let (answer, report) =
        tests("unexpected", |text| text.replace("expect: permit, cacheFor: 5", "expect: deny, code: OutOfScope"));
    assert_eq!(answer.status, 1, "{answer:?}");
    for words in [
        "FAILED  reads <are> permitted",
        "x.test.yaml:8:5: step 1, ledger/read: expected `deny`, got `permit`; expected the code `OutOfScope`",
        "Permitted [TaskScope finance/reconcile-invoices#tools[0].read]",
        "0 as expected, 1 not",
    ] {
        assert!(answer.out.contains(words), "{words:?} is not in\n{}", answer.out);
    }
    assert_eq!((report.tests, report.failures, report.errors), (1, 1, 0));
    let case = &report.test_suites[0].test_cases[0];
    assert_eq!(case.name.as_str(), "reads <are> permitted (line 5)");
    let TestCaseStatus::NonSuccess { kind, message, description, .. } = &case.status else { panic!("{case:?}") };
    assert_eq!(*kind, NonSuccessKind::Failure);
    assert!(message.as_deref().unwrap().starts_with("expected `deny`, got `permit`"));
    assert!(description.as_deref().unwrap().contains("grants it"));
}

#[test]
fn a_test_file_is_read_to_its_last_field() {
    type Change = fn(String) -> String;
    let cases: &[(&str, Change, &str)] = &[
        ("step", |text| text.replace("expect: permit", "expects: permit"), "x.test.yaml:8:25: a step has no field `expects`"),
        ("needed", |text| text.replace("tool: ledger/read, ", ""), "x.test.yaml:8:5: a step needs `tool`"),
        ("word", |text| text.replace("expect: permit", "expect: allow"), "`expect` must be `permit`, `deny` or `needs-approval`"),
        ("case", |text| text.replace("  task:", "  tasks:"), "x.test.yaml:6:3: a case has no field `tasks`"),
        ("file", |text| text.replace("namespace:", "namespaces:"), "x.test.yaml:2:1: a test file has no field `namespaces`"),
        ("time", |text| text.replace("2026-10-05T09:00:00Z", "yesterday"), "x.test.yaml:3:1: `at`: "),
        ("steps", |text| text.split("  steps:").next().unwrap().to_owned() + "  steps: []\n", "needs a list `steps`"),
        ("nobody", |text| text.replace("task: october", "task: may"), "x.test.yaml:5:3: there is no AgentTask `finance/may`"),
        ("gone", |text| text.replace("policy.yaml", "no.yaml"), "no.yaml: the file cannot be read"),
        ("yaml", |text| text.replace("cases:", "cases: ["), "x.test.yaml:"),
    ];
    for (name, change, words) in cases {
        let (answer, report) = tests(&format!("test-file-{name}"), change);
        assert_eq!(answer.status, 2, "{name}: {answer:?}");
        assert!(answer.out.contains(words), "{name}: {words:?} is not in\n{}", answer.out);
        assert!(report.errors > 0, "{name}");
    }
}

#[test]
fn manifests_that_do_not_compile_are_told_with_the_field() {
    let dir = fresh("test-trouble");
    for file in ["tools.yaml", "scope.yaml", "finance.test.yaml"] {
        std::fs::write(dir.join(file), read(format!("examples/finance/{file}"))).unwrap();
    }
    let policy = read("examples/finance/policy.yaml");
    for (text, words) in [
        (
            policy.replace("zone: Europe/Berlin", "zone: Mars/Olympus"),
            "policy.yaml: AgentPolicy finance/finance-agents: spec.rules[4].when.time: `Mars/Olympus`",
        ),
        (policy.replace("history: {readAtLeast", "histroy: {readAtLeast"), "has no field `spec.rules[0].when.histroy`"),
        (
            policy.replace("name: exports-need-a-human", "name: three-postings-an-hour"),
            "spec.rules[3].name: another rule is called",
        ),
    ] {
        std::fs::write(dir.join("policy.yaml"), text).unwrap();
        let answer = mandate(&["test", dir.join("finance.test.yaml").to_str().unwrap()]);
        assert_eq!(answer.status, 2, "{answer:?}");
        assert!(answer.out.contains(words), "{words:?} is not in\n{}", answer.out);
    }
}

#[test]
fn the_commands_of_the_documentation_answer_as_it_says() {
    let commands = crate::docs::commands("docs/authorizer.md");
    let answers: Vec<_> = commands
        .iter()
        .flat_map(|line| crate::docs::words(line))
        .map(|words| mandate(&words[1..].iter().map(String::as_str).collect::<Vec<_>>()))
        .collect();
    assert_eq!(answers.iter().map(|answer| answer.status).collect::<Vec<_>>(), [0, 1, 1, 0], "{answers:?}");
    assert!(read("README.md").contains("# ten cases, all as expected"));
}

#[test]
fn the_schema_of_expressions_can_be_printed() {
    assert_eq!(crate::printed(&["schema", "cedar"]), read("src/decide/authorize/schema.cedarschema"));
}
