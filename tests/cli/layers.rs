//! Who may import what. Lints hold `src/decide` off clocks and files; here it is held off the
//! rest of Mandate, and each power is held to where it belongs.

use std::path::{Path, PathBuf};

use crate::root;

/// Every source file below a directory of `src`, or the whole of it: its path from `src` and
/// its text without comments.
fn sources(of: &str) -> Vec<(String, String)> {
    fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|ending| ending == "rs") {
                found.push(path);
            }
        }
    }
    let src = root().join("src");
    let mut files = vec![];
    walk(&src, &mut files);
    files.sort();
    let name = |file: &PathBuf| file.strip_prefix(&src).unwrap().to_str().unwrap().to_owned();
    let all = files.iter().map(|file| (name(file), code(&std::fs::read_to_string(file).unwrap())));
    let found: Vec<_> = all.filter(|(name, _)| of.is_empty() || belongs(name, of)).collect();
    assert!(!found.is_empty(), "there is nothing in src/{of}");
    found
}

/// Whether a file belongs to a module: is it, or lies below it.
fn belongs(file: &str, module: &str) -> bool {
    file == format!("{module}.rs") || file.starts_with(&format!("{module}/"))
}

fn code(text: &str) -> String {
    text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

/// The words that follow a path such as `crate::`, also those of a list in braces.
fn after<'a>(code: &'a str, path: &str) -> Vec<&'a str> {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let word = |text: &'a str| text.split(|c| !is_word(c)).next().unwrap_or_default();
    let mut words = vec![];
    for (at, _) in code.match_indices(path).filter(|(at, _)| !code[..*at].ends_with(is_word)) {
        let rest = &code[at + path.len()..];
        let Some(list) = rest.strip_prefix('{') else {
            words.push(word(rest));
            continue;
        };
        let mut depth = 0;
        let end = list.find(|c| {
            depth += i32::from(c == '{') - i32::from(c == '}');
            depth < 0
        });
        words.extend(list[..end.unwrap_or(list.len())].split(|c| !is_word(c)).filter(|word| !word.is_empty()));
    }
    words
}

/// Every module below `src`.
const MODULES: &[&str] = &[
    "api",
    "audit",
    "authorizer",
    "cli",
    "clock",
    "cluster",
    "controller",
    "decide",
    "install",
    "metrics",
    "serve",
    "telemetry",
    "webhook",
];

#[test]
fn what_decides_imports_nothing_of_ours_but_the_api_and_audit_log_and_authorizer_no_cluster() {
    let authorizer = &["api", "audit", "authorizer", "clock", "decide", "metrics", "serve", "telemetry"];
    for (module, may) in [
        ("api", &["api"][..]),
        ("decide", &["api", "decide"]),
        ("audit", &["audit", "clock", "decide"]),
        // It knows no cluster: what is known and whose a token is, it is told.
        ("authorizer", authorizer),
        ("telemetry/otlp", &["metrics", "serve", "telemetry"]),
    ] {
        for (file, code) in sources(module) {
            let words = after(&code, "crate::");
            let wrong: Vec<_> = words.iter().filter(|word| MODULES.contains(word) && !may.contains(word)).collect();
            assert!(wrong.is_empty(), "src/{file} imports {wrong:?}, and src/{module} may import {may:?} alone");
            let depth = file.matches('/').count() + 1;
            let out = "super::".repeat(depth + usize::from(code.contains("mod tests {")));
            assert!(!code.contains(&out), "src/{file} reaches out of src/{module} by `{out}`");
            assert!(!code.contains("mandate::"), "src/{file} goes by the name of its own crate");
        }
    }
}

#[test]
fn only_those_who_speak_to_a_cluster_hold_a_client() {
    let may = ["cluster", "controller", "webhook", "cli"];
    for (file, code) in sources("").iter().filter(|(file, _)| !may.iter().any(|module| belongs(file, module))) {
        let words = after(code, "kube::");
        let wrong = words.iter().find(|word| ["Client", "Api", "client", "Config", "runtime"].contains(word));
        assert_eq!(wrong, None, "src/{file} holds a client of the API server; that is for {may:?}");
    }
}

#[test]
fn what_reads_a_request_knows_neither_tasks_nor_the_network() {
    for (file, code) in sources("authorizer/mcp") {
        // Where a name may be seen is no import.
        let code = code.replace("in crate::authorizer", "");
        let wrong: Vec<_> =
            after(&code, "crate::").into_iter().filter(|word| MODULES.contains(word) && *word != "decide").collect();
        assert!(wrong.is_empty(), "src/{file} imports {wrong:?}");
        for word in ["tokio::", "hyper", "axum::", "State", "Trust", "Snapshot", "async fn"] {
            assert!(!code.contains(word), "src/{file} must know nothing of `{word}`");
        }
    }
}

#[test]
fn servers_are_asked_by_one_file_alone() {
    for (file, code) in sources("").iter().filter(|(file, _)| file != "authorizer/tools/client.rs") {
        assert!(!code.contains("hyper_util::client") && !code.contains("hyper_rustls"), "src/{file} holds an HTTP client");
    }
}

#[test]
fn telemetry_leaves_by_one_file_alone() {
    for (file, code) in sources("").iter().filter(|(file, _)| file != "telemetry/otlp/send.rs") {
        assert!(!code.contains("tonic::transport"), "src/{file} holds a gRPC client");
    }
}

#[test]
fn bytes_of_tokens_are_seen_in_the_cluster_module_alone() {
    for (file, code) in sources("").iter().filter(|(file, _)| !belongs(file, "cluster")) {
        // The key of the webhook's certificate, from a file; no token comes there.
        if file == "serve/files.rs" {
            assert!(!code.contains("Token"), "src/{file} reads keys and no tokens");
            continue;
        }
        assert!(!code.contains("ExposeSecret") && !code.contains("expose_secret"), "src/{file} looks into a secret");
    }
}

#[test]
fn nobody_prints_a_debug_form_of_what_holds_a_secret() {
    for (file, code) in sources("cluster") {
        for line in code.lines().filter(|line| line.contains("expose_secret")) {
            let prints =
                ["format!", "info!", "debug!", "warn!", "error!", "trace!", "println!"].iter().any(|word| line.contains(word));
            assert!(!prints, "src/{file} writes a secret into a text: {line}");
        }
    }
}

#[test]
fn every_module_says_what_it_is_for() {
    for (file, _) in sources("").iter().filter(|(file, _)| !file.ends_with("tests.rs")) {
        let text = std::fs::read_to_string(root().join("src").join(file)).unwrap();
        assert!(text.starts_with("//! "), "src/{file} begins with no `//!` paragraph");
    }
}

#[test]
fn imports_are_read_as_the_compiler_reads_them() {
    assert_eq!(after("use crate::api::{A, names}; crate::cluster::x()", "crate::"), ["api", "cluster"]);
    assert_eq!(after("use kube::{Api, runtime::{watcher, x}};", "kube::"), ["Api", "runtime", "watcher", "x"]);
    assert_eq!(after("mykube::Api", "kube::"), Vec::<&str>::new());
}
