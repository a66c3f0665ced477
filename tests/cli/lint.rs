//! `mandate lint` on files as people have them: places, exit statuses, what documents know of
//! each other, and formats as the programs that read them see them.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use clap::Parser as _;
use mandate::cli::Cli;
use serde_json::Value;

use crate::docs::{commands, words};
use crate::{Answer, answer, command, fresh, mandate, read, root};

/// A directory with these files.
fn files(name: &str, files: &[(&str, &str)]) -> PathBuf {
    let dir = fresh(&format!("lint-{name}"));
    for (file, text) in files {
        std::fs::write(dir.join(file), text).unwrap();
    }
    dir
}

/// Runs it in a directory.
fn lint(dir: &PathBuf, args: &[&str]) -> Answer {
    answer(command(&["lint"]).args(args).current_dir(dir))
}

/// The findings and the status, each as `file:line:column severity rule path`.
fn findings(dir: &PathBuf, args: &[&str]) -> (i32, Vec<String>) {
    let Answer { status, out, err } = lint(dir, &[args, &["--format", "json"]].concat());
    let report: Value = serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}{err}"));
    let text = |finding: &Value, key: &str| finding[key].as_str().unwrap().to_owned();
    let line = |finding: &Value| {
        let place = format!("{}:{}:{}", text(finding, "file"), finding["line"], finding["column"]);
        format!("{place} {} {} {}", text(finding, "severity"), text(finding, "rule"), text(finding, "path"))
    };
    (status, report["findings"].as_array().unwrap().iter().map(line).collect())
}

const SECRET: &str = "\
apiVersion: v1
kind: Pod
metadata: {name: app, namespace: finance}
spec:
  automountServiceAccountToken: false
  containers:
  - name: app
    env:
    - name: TOKEN
      valueFrom:
        secretKeyRef: {name: db, key: token}
";
const CLEAN: &str = "{apiVersion: v1, kind: Pod, metadata: {name: clean}, spec: {automountServiceAccountToken: false, containers: [{name: a}]}}\n";

/// A policy of this kind, mode and profile.
fn policy(kind: &str, mode: &str, profile: &str) -> String {
    format!(
        "---\n{{apiVersion: mandate.dev/v1alpha1, kind: {kind}, metadata: {{name: p, namespace: finance}}, \
         spec: {{owner: {{team: t, contact: c}}, mode: {mode}, workloads: {{profile: {profile}}}}}}}\n"
    )
}

#[test]
fn every_form_of_file_has_the_place_of_the_field() {
    let json = r#"{"apiVersion": "v1", "kind": "List", "items": [
  {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "spec": {"automountServiceAccountToken": false, "volumes": [
    {"name": "ä€😀", "secret": {"secretName": "db"}}]}}]}"#;
    let anchors = "base: &base\n  secret: {secretName: db}\n---\napiVersion: v1\nkind: Pod\nmetadata: {name: b}\nspec:\n  automountServiceAccountToken: no\n  volumes:\n  - &v\n    name: v\n    secret:\n      secretName: db\n  - <<: *v\n    name: w\n";
    let dir = files("places", &[("a.yaml", SECRET), ("b.json", json), ("c.yml", anchors), ("d.txt", SECRET)]);
    let (status, found) = findings(&dir, &["."]);
    assert_eq!(status, 1);
    let places: Vec<_> = found.iter().map(|line| line.rsplit_once(' ').unwrap()).collect();
    assert_eq!(
        places,
        [
            ("./a.yaml:11:9 deny secret-env", "spec.containers[0].env[0].valueFrom.secretKeyRef"),
            ("./b.json:3:32 deny secret-volume", "spec.volumes[0].secret.secretName"),
            // The second volume is written where the first one is.
            ("./c.yml:13:7 deny secret-volume", "spec.volumes[0].secret.secretName"),
            ("./c.yml:13:7 deny secret-volume", "spec.volumes[1].secret.secretName"),
        ]
    );
}

#[test]
fn a_template_in_any_kind_has_its_own_place() {
    let template = "apiVersion: example.com/v1\nkind: Robot\nmetadata: {name: r}\nspec:\n  worker:\n    template:\n      spec:\n        containers:\n        - name: a\n          image: i\n          envFrom:\n          - secretRef: {name: db}\n";
    let dir = files("template", &[("r.yaml", template)]);
    let (status, found) = findings(&dir, &["r.yaml"]);
    assert_eq!(status, 1);
    assert!(
        found.contains(
            &"r.yaml:12:13 deny secret-env-from spec.worker.template.spec.containers[0].envFrom[0].secretRef".to_owned()
        ),
        "{found:?}"
    );
}

#[test]
fn a_missing_field_is_placed_at_the_nearest_above() {
    let dir = files(
        "missing",
        &[("p.yaml", "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec:\n  containers:\n  - name: a\n    image: i\n")],
    );
    let (_, found) = findings(&dir, &["p.yaml"]);
    assert!(found.iter().any(|line| line.starts_with("p.yaml:4:1 deny automounted-token")), "{found:?}");
}

#[test]
fn the_status_says_whether_all_was_read_before_it_says_what_was_found() {
    let dir =
        files("status", &[("clean.yaml", CLEAN), ("secret.yaml", SECRET), ("broken.yaml", &format!("kind: [\n---\n{SECRET}"))]);
    assert_eq!(findings(&dir, &["clean.yaml"]), (0, vec![]));
    assert_eq!(findings(&dir, &["clean.yaml", "secret.yaml"]).0, 1);
    let (status, found) = findings(&dir, &["."]);
    assert_eq!((status, found.len()), (2, 2), "the rest is still checked: {found:?}");
    assert_eq!(findings(&dir, &["missing.yaml", "secret.yaml"]), (2, findings(&dir, &["secret.yaml"]).1));
    let Answer { status, out, err } = lint(&dir, &["missing.yaml"]);
    assert_eq!((status, err.as_str()), (2, ""));
    assert!(out.starts_with("missing.yaml: problem: the file cannot be read"), "{out}");
    let Answer { out, .. } = lint(&dir, &["broken.yaml", "--format", "concise"]);
    assert!(out.contains("broken.yaml:1:7: problem: this is no YAML"), "{out}");
}

#[test]
fn policies_among_the_manifests_decide_what_a_finding_weighs() {
    let word = |name: &str, text: &str, args: &[&str]| {
        let dir = files(name, &[("all.yaml", &format!("{SECRET}{text}"))]);
        let (status, found) = findings(&dir, &[&["all.yaml"], args].concat());
        (status, found.iter().map(|line| line.split(' ').nth(1).unwrap().to_owned()).collect::<Vec<_>>().join(" "))
    };
    assert_eq!(word("no-policy", "", &[]), (1, "deny".to_owned()));
    assert_eq!(word("mode-warn", &policy("ClusterAgentPolicy", "warn", "baseline"), &[]), (0, "warn".to_owned()));
    assert_eq!(word("mode-audit", &policy("ClusterAgentPolicy", "audit", "restricted"), &[]), (0, "warn".to_owned()));
    assert_eq!(word("mode-enforce", &policy("ClusterAgentPolicy", "enforce", "baseline"), &[]), (1, "deny".to_owned()));
    // A namespace's own policy only adds to what must hold.
    assert_eq!(word("namespaced", &policy("AgentPolicy", "warn", "baseline"), &[]), (1, "deny".to_owned()));
    assert_eq!(
        word("and-profile", &policy("ClusterAgentPolicy", "warn", "baseline"), &["--profile", "baseline"]),
        (1, "deny".to_owned())
    );
}

#[test]
fn a_policy_is_read_from_elsewhere() {
    let dir = files(
        "policy",
        &[
            ("pod.yaml", SECRET),
            ("policy.yaml", &policy("ClusterAgentPolicy", "warn", "restricted")),
            ("not.yaml", CLEAN),
            ("bad.yaml", "apiVersion: mandate.dev/v1alpha1\nkind: AgentPolicy\nmetadata: {name: p}\nspec: {mode: loud}\n"),
        ],
    );
    assert_eq!(findings(&dir, &["pod.yaml", "--policy", "policy.yaml"]).0, 0);
    assert_eq!(findings(&dir, &["pod.yaml", "--policy", "not.yaml"]).0, 2);
    let Answer { status, out, .. } = lint(&dir, &["pod.yaml", "--policy", "bad.yaml"]);
    assert_eq!(status, 2);
    assert!(out.contains("bad.yaml:1:1: problem: AgentPolicy `p` cannot be read"), "{out}");
}

#[test]
fn documents_know_each_other() {
    let pod = "{apiVersion: v1, kind: Pod, metadata: {name: a, namespace: finance}, spec: {serviceAccountName: quiet, containers: [{name: a}]}}\n";
    let account = "{apiVersion: v1, kind: ServiceAccount, metadata: {name: quiet, namespace: finance}, automountServiceAccountToken: false}\n";
    let dir = files("account", &[("pod.yaml", pod), ("account.yaml", account)]);
    assert_eq!(findings(&dir, &["pod.yaml"]).0, 1);
    assert_eq!(findings(&dir, &["."]), (0, vec![]));
}

#[test]
fn a_pod_is_judged_by_what_its_documents_tell_of_the_objects_it_uses() {
    let pod = "\
apiVersion: v1
kind: Pod
metadata: {name: a}
spec:
  automountServiceAccountToken: false
  serviceAccountName: builder
  containers:
  - name: a
    env:
    - {name: K, valueFrom: {configMapKeyRef: {name: tls, key: tls.key}}}
  volumes:
  - name: data
    persistentVolumeClaim: {claimName: data}
";
    let others = "\
{apiVersion: v1, kind: ServiceAccount, metadata: {name: builder, namespace: finance}, imagePullSecrets: [{name: registry}]}
---
{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: data, namespace: finance}, spec: {volumeName: disk}}
---
{apiVersion: v1, kind: PersistentVolume, metadata: {name: disk}, spec: {hostPath: {path: /etc/kubernetes}}}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: tls, namespace: finance}
data:
  tls.key: |
    -----BEGIN PRIVATE KEY-----
    bm90IGEga2V5LCBub3IgYW55dGhpbmcgdGhhdCBvcGVucyBhbnl0aGluZw==
    -----END PRIVATE KEY-----
";
    let dir = files("related", &[("pod.yaml", pod), ("others.yaml", others)]);
    assert_eq!(findings(&dir, &["pod.yaml", "-n", "finance"]), (0, vec![]));
    // In another namespace nothing of that is known; a volume is of the whole cluster.
    assert_eq!(findings(&dir, &["pod.yaml", "others.yaml"]).1.iter().filter(|found| found.starts_with("pod.yaml")).count(), 0);
    let (status, found) = findings(&dir, &["pod.yaml", "others.yaml", "-n", "finance"]);
    let of_pod: Vec<&str> = found.iter().map(String::as_str).filter(|found| found.starts_with("pod.yaml")).collect();
    assert_eq!(status, 1);
    assert_eq!(
        of_pod,
        [
            "pod.yaml:6:3 deny image-pull-secret spec.serviceAccountName",
            "pod.yaml:10:29 deny config-map-credential spec.containers[0].env[0].valueFrom.configMapKeyRef",
            "pod.yaml:13:29 deny host-credential-path spec.volumes[0].persistentVolumeClaim.claimName",
        ]
    );
    assert!(!lint(&dir, &[".", "-n", "finance"]).out.contains("bm90IGEg"));
}

#[test]
fn a_task_is_dead_only_where_that_is_certain() {
    let pod = "apiVersion: v1\nkind: Pod\nmetadata:\n  name: a\n  namespace: finance\n  labels:\n    mandate.dev/task: t\nspec: {containers: [{name: a}]}\n";
    let task = |spec: &str| {
        format!(
            "{{apiVersion: mandate.dev/v1alpha1, kind: AgentTask, metadata: {{name: t, namespace: finance}}, spec: {{agent: a, scope: s, objective: o o o o o o{spec}}}}}\n"
        )
    };
    let dir = files("task", &[("pod.yaml", pod), ("task.yaml", &task("")), ("ended.yaml", &task(", end: {reason: Revoked}"))]);
    assert_eq!(findings(&dir, &["pod.yaml"]), (0, vec![]));
    assert_eq!(findings(&dir, &["pod.yaml", "task.yaml"]), (0, vec![]));
    assert_eq!(
        findings(&dir, &["pod.yaml", "ended.yaml"]),
        (1, vec!["pod.yaml:7:5 deny dead-task metadata.labels['mandate.dev/task']".to_owned()])
    );
}

#[test]
fn an_object_without_a_namespace_is_in_the_one_that_is_given() {
    let pod = SECRET.replace(", namespace: finance", "");
    let policies =
        format!("{}{}", policy("AgentPolicy", "enforce", "baseline"), policy("ClusterAgentPolicy", "warn", "baseline"));
    let dir = files("namespace", &[("pod.yaml", &pod), ("policies.yaml", &policies)]);
    assert_eq!(findings(&dir, &["."]).0, 0);
    assert_eq!(findings(&dir, &[".", "--namespace", "finance"]).0, 1);
    assert!(lint(&dir, &["pod.yaml", "-n", "research"]).out.contains("Pod research/app"));
}

#[test]
fn standard_input_is_a_file_too() {
    let mut child = command(&["lint", "-", "--format", "concise"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(SECRET.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stdout.starts_with(b"-:11:9: deny: [secret-env] Pod finance/app: "));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "mandate: 1 document read, 1 denied, 0 warned\n");
}

#[test]
fn a_reader_that_goes_away_changes_no_verdict() {
    let many = format!("---\n{SECRET}").repeat(2000);
    let dir = files("pipe", &[("many.yaml", &many)]);
    let mut child =
        command(&["lint", "many.yaml"]).current_dir(&dir).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), String::from_utf8_lossy(&output.stderr).as_ref()), (Some(1), ""));
}

#[test]
fn no_format_shows_a_value() {
    let pod = SECRET.replace("    - name: TOKEN\n", "    - {name: PASSWORD, value: hunter2}\n    - name: TOKEN # hunter2\n");
    let secret = "---\napiVersion: v1\nkind: Secret\nmetadata: {name: s, annotations: {kubernetes.io/service-account.name: a}}\ntype: kubernetes.io/service-account-token\nstringData: {token: hunter2}\n---\nstringData: {a: hunter2, a: hunter2}\n---\nhunter2: [hunter2: {\n";
    let dir = files("values", &[("a.yaml", &format!("{pod}{secret}"))]);
    for format in FORMATS {
        let Answer { status, out, err } = lint(&dir, &["a.yaml", "--format", format]);
        assert_eq!(status, 2);
        assert!(!out.contains("hunter2") && !err.contains("hunter2"), "{format}: {out}{err}");
        assert!(!out.contains('\u{1b}'), "{format}: no colour where no terminal is");
    }
}

const FORMATS: [&str; 6] = ["text", "concise", "json", "sarif", "junit", "github"];

/// Something of everything: findings, warnings, problems with and without a place.
fn mixture(name: &str) -> PathBuf {
    files(
        name,
        &[
            ("a b.yaml", SECRET),
            ("broken.yaml", "kind: [\n"),
            ("policy.yaml", &policy("ClusterAgentPolicy", "warn", "restricted")),
        ],
    )
}

/// The official schema, out of the crate that generates its types from it.
fn sarif_schema() -> Value {
    // Of this platform: on a machine that is new, packages of others are not there.
    let host = Command::new("rustc").args(["--print", "host-tuple"]).output().unwrap().stdout;
    let metadata = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked", "--offline", "--filter-platform"])
        .arg(String::from_utf8(host).unwrap().trim())
        .current_dir(root())
        .output()
        .unwrap();
    let metadata: Value = serde_json::from_slice(&metadata.stdout).unwrap();
    let package = metadata["packages"].as_array().unwrap().iter().find(|package| package["name"] == "serde-sarif").unwrap();
    let schema = PathBuf::from(package["manifest_path"].as_str().unwrap()).with_file_name("src").join("schema.json");
    serde_json::from_str(&read(schema)).unwrap()
}

#[test]
fn sarif_is_what_its_schema_says() {
    let validator = jsonschema::validator_for(&sarif_schema()).unwrap();
    let dir = mixture("sarif");
    for args in [&["a b.yaml"][..], &["."], &["gone.yaml", "."], &["policy.yaml"]] {
        let Answer { out, .. } = lint(&dir, &[args, &["--format", "sarif"]].concat());
        let log: Value = serde_json::from_str(&out).unwrap();
        let errors: Vec<String> =
            validator.iter_errors(&log).map(|error| format!("{}: {error}", error.instance_path())).collect();
        assert!(errors.is_empty(), "{args:?}: {errors:#?}");
    }
    // The schema is the real one: it refuses.
    assert!(!validator.is_valid(&serde_json::json!({"version": "2.1.0", "runs": [{}]})));
}

#[test]
fn fingerprints_stay_where_lines_move() {
    let prints = |text: &str| {
        let dir = files("prints", &[("a.yaml", text)]);
        let log: Value = serde_json::from_str(&lint(&dir, &["a.yaml", "--format", "sarif"]).out).unwrap();
        log["runs"][0]["results"][0]["partialFingerprints"].clone()
    };
    assert_eq!(prints(SECRET), prints(&format!("# a comment\n{SECRET}")));
    assert_ne!(prints(SECRET), prints(&SECRET.replace("name: app,", "name: other,")));
}

#[test]
fn junit_is_read_by_another_program() {
    let dir = mixture("junit");
    let report = quick_junit::Report::deserialize_from_str(&lint(&dir, &[".", "gone.yaml", "--format", "junit"]).out).unwrap();
    assert_eq!((report.tests, report.failures, report.errors), (4, 0, 2));
}

#[test]
fn the_action_runs_what_it_says() {
    let action: Value = serde_yaml::from_str(&read("action.yml")).unwrap();
    let steps = action["runs"]["steps"].as_array().unwrap();
    let step = steps.iter().find(|step| step["id"] == "lint").unwrap();
    let dir = mixture("action");
    let run = |inputs: &[(&str, &str)]| {
        let mut values: BTreeMap<&str, &str> = action["inputs"]
            .as_object()
            .unwrap()
            .iter()
            .map(|(name, input)| (name.as_str(), input["default"].as_str().unwrap()))
            .collect();
        for (name, value) in inputs {
            assert!(values.insert(name, value).is_some(), "the action has no input `{name}`");
        }
        let mut bash = Command::new("bash");
        bash.args(["--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"].as_str().unwrap()]).current_dir(&dir);
        for (variable, expression) in step["env"].as_object().unwrap() {
            let input = expression.as_str().unwrap().trim_start_matches("${{ inputs.").split([' ', '}']).next().unwrap();
            bash.env(variable, if variable == "MANDATE" { env!("CARGO_BIN_EXE_mandate") } else { values[input] });
        }
        answer(&mut bash)
    };
    let Answer { status, out, .. } = run(&[("paths", "policy.yaml\n  broken.yaml")]);
    assert_eq!(status, 2);
    assert!(out.starts_with("::error file=broken.yaml,line=1,col=7,"), "{out}");
    let Answer { status, out, .. } = run(&[
        ("profile", "restricted"),
        ("policy", "policy.yaml"),
        ("format", "sarif"),
        ("output", "out.sarif"),
        ("paths", "policy.yaml"),
    ]);
    assert_eq!((status, out.as_str()), (0, ""));
    assert!(dir.join("out.sarif").exists());
    let Answer { out, .. } = run(&[("paths", "$(touch hacked); `touch hacked`")]);
    assert!(!dir.join("hacked").exists(), "{out}");
    // What the documentation writes are inputs of it.
    let text = read("docs/lint.md");
    for block in text
        .split("```yaml\n")
        .skip(1)
        .filter_map(|rest| Some(rest.split_once("```")?.0))
        .filter(|block| block.contains("OWNER/mandate@"))
    {
        let workflow: Value = serde_yaml::from_str(block).unwrap();
        let uses = workflow["steps"]
            .as_array()
            .unwrap()
            .iter()
            .find(|step| step["uses"].as_str().unwrap().starts_with("OWNER/"))
            .unwrap();
        for input in uses["with"].as_object().unwrap().keys() {
            assert!(action["inputs"].get(input).is_some(), "docs/lint.md: the action has no input `{input}`");
        }
    }
}

#[test]
fn the_hook_for_pre_commit_is_a_command() {
    let hooks: Value = serde_yaml::from_str(&read(".pre-commit-hooks.yaml")).unwrap();
    let hook = &hooks[0];
    let text = read("docs/lint.md");
    let block = text
        .split("```yaml\n")
        .filter_map(|rest| Some(rest.split_once("```")?.0))
        .find(|block| block.starts_with("repos:"))
        .unwrap();
    let config: Value = serde_yaml::from_str(block).unwrap();
    let used = &config["repos"][0]["hooks"][0];
    assert_eq!(used["id"], hook["id"]);
    let mut line: Vec<String> = hook["entry"].as_str().unwrap().split(' ').map(str::to_owned).collect();
    line.extend(used["args"].as_array().unwrap().iter().map(|arg| arg.as_str().unwrap().to_owned()));
    line.push("pod.yaml".to_owned());
    assert!(Cli::try_parse_from(&line).is_ok(), "{line:?}");
    assert_eq!(mandate(&["lint", "--format", "concise", "examples/manifests/static-secrets.yaml"]).status, 1);
}

#[test]
fn every_command_of_its_documentation_runs() {
    let mut run = 0;
    for command in commands("docs/lint.md").iter().flat_map(|line| words(line)).filter(|command| command[0] == "mandate") {
        let args: Vec<&str> = command[1..].iter().map(String::as_str).collect();
        let Answer { status, err, .. } = mandate(&args);
        assert!(status < 2, "{}: {err}", command.join(" "));
        run += 1;
    }
    assert!(run >= 4);
}

#[test]
fn every_format_is_documented() {
    let text = read("docs/lint.md");
    let mut missing = String::new();
    for format in FORMATS {
        if !text.contains(&format!("| `{format}` |")) {
            writeln!(missing, "{format}").unwrap();
        }
    }
    assert_eq!(missing, "");
}
