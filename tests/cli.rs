//! The binary as people run it: what it prints, where, and with which exit status; and what a
//! checkout promises: generated files are current, links lead somewhere, examples can be read,
//! and each part of the source imports only what it may.
//!
//! No cluster, no network.
#![allow(clippy::unwrap_used, clippy::panic, reason = "in a test a panic is the answer")]

#[path = "cli/audit.rs"]
mod audit;
#[path = "cli/audit_faults.rs"]
mod audit_faults;
#[path = "cli/audit_tamper.rs"]
mod audit_tamper;
#[path = "cli/authorizer.rs"]
mod authorizer;
#[path = "cli/authzen.rs"]
mod authzen;
#[path = "cli/checkout.rs"]
mod checkout;
#[path = "cli/decide.rs"]
mod decide;
#[path = "cli/docs.rs"]
mod docs;
#[path = "cli/layers.rs"]
mod layers;
#[path = "cli/lint.rs"]
mod lint;
#[path = "cli/otlp.rs"]
mod otlp;
#[path = "cli/running.rs"]
mod running;
#[path = "cli/waivers.rs"]
mod waivers;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use mandate::decide::rule::RULES;

/// What a command answered.
#[derive(Debug, PartialEq, Eq)]
struct Answer {
    status: i32,
    out: String,
    err: String,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A new directory for one test.
fn fresh(name: &str) -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    if dir.exists() {
        std::fs::remove_dir_all(&dir).unwrap();
    }
    std::fs::create_dir_all(&dir).unwrap();
    dir
}

/// The binary in the checkout, without the settings of whoever runs the tests.
fn command(args: &[&str]) -> Command {
    command_of(env!("CARGO_BIN_EXE_mandate"), args)
}

fn command_of(program: &str, args: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(args).current_dir(root()).stdin(Stdio::null());
    for variable in ["MANDATE_LOG", "MANDATE_LOG_FORMAT", "MANDATE_NAMESPACE", "KUBECONFIG"] {
        command.env_remove(variable);
    }
    for (variable, _) in std::env::vars().filter(|(variable, _)| variable.starts_with("OTEL_")) {
        command.env_remove(variable);
    }
    command
}

fn answer(command: &mut Command) -> Answer {
    let output = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Answer { status: output.status.code().unwrap_or(-1), out: text(output.stdout), err: text(output.stderr) }
}

fn mandate(args: &[&str]) -> Answer {
    answer(&mut command(args))
}

/// What is printed where nothing goes wrong.
fn printed(args: &[&str]) -> String {
    let Answer { status, out, err } = mandate(args);
    assert_eq!((status, err.as_str()), (0, ""), "mandate {}", args.join(" "));
    out
}

/// What is said where it cannot be done; nothing is printed then.
fn said(args: &[&str]) -> String {
    let Answer { status, out, err } = mandate(args);
    assert_eq!((status, out.as_str()), (2, ""), "mandate {}: {err}", args.join(" "));
    err
}

#[test]
fn lint_refuses_the_five_static_secrets_of_the_readme() {
    let Answer { status, out, err } = mandate(&["lint", "examples/manifests/static-secrets.yaml"]);
    assert_eq!((status, err.as_str()), (1, ""));
    for rule in ["secret-env", "secret-env-from", "secret-volume", "secret-projection", "csi-secret"] {
        assert!(out.contains(rule), "{rule} is not in\n{out}");
    }
}

#[test]
fn lint_is_content_with_what_holds_no_secret() {
    assert_eq!(mandate(&["lint", "examples/manifests/finance.yaml"]).status, 0);
}

#[test]
fn explain_lists_every_rule_and_tells_all_about_one() {
    let list = printed(&["explain"]);
    let ids: Vec<&str> = list.lines().filter_map(|line| line.split_whitespace().next()).collect();
    assert_eq!(ids, RULES.iter().map(|rule| rule.id).collect::<Vec<_>>());
    for rule in RULES {
        let text = printed(&["explain", rule.id]);
        for part in [rule.id, rule.what, rule.why, rule.fix, rule.allows].into_iter().chain(rule.references.iter().copied()) {
            assert!(text.contains(part), "`mandate explain {}` does not say {part:?}", rule.id);
        }
    }
}

#[test]
fn explain_says_how_to_find_a_rule() {
    assert_eq!(said(&["explain", "secret-enf"]), "mandate: there is no rule `secret-enf`; `mandate explain` lists them\n");
}

#[test]
fn a_namespace_of_kubernetes_is_never_guarded() {
    let err = said(&["webhooks", "--guard", "kube-system"]);
    assert!(err.starts_with("mandate: namespace `kube-system` belongs to Kubernetes and cannot be guarded"), "{err}");
}

#[test]
fn a_ceiling_that_cannot_be_used_is_refused_with_the_reason() {
    let file = fresh("ceiling").join("ceiling.yaml");
    let ceiling = |rules: &str| {
        std::fs::write(&file, rules).unwrap();
        said(&["rbac", "--guard", "finance", "--ceiling", file.to_str().unwrap()])
    };
    let err = ceiling("- {apiGroups: ['*'], resources: [pods], verbs: [get]}");
    assert_eq!(err, "mandate: the ceiling holds `*`; name groups, resources and verbs, so that it can be reviewed\n");
    let err = ceiling("rules: []");
    assert!(err.contains("reading the list of rules in `") && err.contains("ceiling.yaml`"), "{err}");
}

#[test]
fn a_cluster_that_is_not_there_is_named() {
    let err = said(&["task", "get", "--kubeconfig", "no/such/kubeconfig"]);
    assert!(err.starts_with("mandate: ") && err.contains("no/such/kubeconfig"), "{err}");
    assert_eq!(err.lines().count(), 1, "{err}");
}

#[test]
fn wrong_usage_ends_with_2_and_says_what_is_wrong() {
    for (args, part) in [
        (&["lint", "--colour", "x"][..], "unexpected argument '--colour'"),
        (&["lint"], "<PATH>"),
        (&["lnit", "x"], "unrecognized subcommand 'lnit'"),
        (&["task", "start", "--agent", "a"], "--objective"),
        (&["task", "start", "--ttl", "1d"], "`1d` is not a duration: write whole units, largest first"),
        (&["run", "webhook", "--cert-file", "c.pem"], "--key-file"),
        (&["completion", "tcsh"], "[possible values: bash"),
        (&["--log", "mandate=loud", "explain"], "read the log filter `mandate=loud`"),
    ] {
        let err = said(args);
        assert!(err.contains(part), "mandate {}: {err}", args.join(" "));
    }
    assert!(said(&[]).contains("Usage:"), "help where nothing is asked for");
}

#[test]
fn completions_know_every_command() {
    for (shell, mark) in [("bash", "complete -F _mandate"), ("zsh", "#compdef mandate"), ("fish", "complete -c mandate")] {
        let script = printed(&["completion", shell]);
        assert!(script.contains(mark), "{shell}");
        for command in ["run", "task", "lint", "explain", "crds", "rbac", "webhooks", "completion"] {
            assert!(script.contains(command), "{shell} does not know `{command}`");
        }
    }
    let bash = fresh("completion").join("mandate.bash");
    std::fs::write(&bash, printed(&["completion", "bash"])).unwrap();
    assert!(Command::new("bash").arg("-n").arg(&bash).status().unwrap().success());
}

#[test]
fn as_kubectl_mandate_it_is_the_same() {
    let plugin = fresh("plugin").join("kubectl-mandate");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_mandate"), &plugin).unwrap();
    let plugin = |args: &[&str]| answer(Command::new(&plugin).args(args).current_dir(root()));
    assert_eq!(plugin(&["explain", "secret-env"]), mandate(&["explain", "secret-env"]));
    assert_eq!(plugin(&["--version"]).out, concat!("mandate ", env!("CARGO_PKG_VERSION"), "\n"));
    assert_eq!(plugin(&["lint", "examples/manifests/static-secrets.yaml"]).status, 1);
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let mut child = command(&["crds"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), String::from_utf8(output.stderr).unwrap().as_str()), (Some(0), ""));
}
