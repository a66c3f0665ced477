//! What the documentation says can be done: links lead somewhere, commands exist with the flags
//! that are written, and those that need no cluster are run.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use clap::Parser as _;
use mandate::cli::Cli;

use crate::{mandate, read, root};

/// Every Markdown file of the project.
fn documents() -> Vec<PathBuf> {
    fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(root().join(dir)).unwrap() {
            let path = dir.join(entry.unwrap().file_name());
            if root().join(&path).is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|ending| ending == "md") {
                found.push(path);
            }
        }
    }
    let mut found: Vec<PathBuf> = ["README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"].map(PathBuf::from).into();
    walk(Path::new("docs"), &mut found);
    found.sort();
    found
}

/// The text without what stands in code.
fn prose(text: &str) -> String {
    let outside = text.split("\n```").step_by(2).collect::<Vec<_>>().join("\n");
    outside.split('`').step_by(2).collect()
}

/// The name by which a heading is linked to.
fn anchor(heading: &str) -> String {
    let kept = heading.trim_start_matches('#').trim().chars().filter(|c| c.is_alphanumeric() || [' ', '-', '_'].contains(c));
    kept.collect::<String>().to_lowercase().replace(' ', "-")
}

#[test]
fn every_link_leads_somewhere() {
    let mut links = 0;
    for document in documents() {
        let text = read(&document);
        for target in text.split("](").skip(1).filter_map(|rest| Some(rest.split_once(')')?.0)) {
            if !prose(&text).contains(&format!("]({target})")) || target.starts_with("https://") {
                continue;
            }
            links += 1;
            let (path, heading) = target.split_once('#').unwrap_or((target, ""));
            let file = if path.is_empty() { document.clone() } else { document.parent().unwrap().join(path) };
            assert!(root().join(&file).exists(), "{}: there is no `{target}`", document.display());
            if !heading.is_empty() {
                let found = read(&file).lines().any(|line| line.starts_with('#') && anchor(line) == heading);
                assert!(found, "{}: there is no heading for `{target}`", document.display());
            }
        }
    }
    assert!(links > 10, "{links} links");
}

/// The lines of the `console` blocks of a document, long ones put together.
pub fn commands(document: &str) -> Vec<String> {
    let text = read(document).replace("\\\n", " ");
    let blocks = text.split("```console\n").skip(1).filter_map(|rest| rest.split_once("```"));
    blocks.flat_map(|(block, _)| block.lines()).filter(|line| !line.trim().is_empty()).map(str::to_owned).collect()
}

/// The commands of a line, each as its words; what a shell leaves out is left out.
pub fn words(line: &str) -> Vec<Vec<String>> {
    let (mut commands, mut word, mut quote) = (vec![vec![]], None::<String>, None);
    for c in line.chars() {
        match (quote, c) {
            (Some(end), c) if c == end => quote = None,
            (None, '"' | '\'') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, '#') if word.is_none() => break,
            (None, ' ' | '|' | ';') => {
                commands.last_mut().unwrap().extend(word.take());
                if c != ' ' {
                    commands.push(vec![]);
                }
            }
            _ => word.get_or_insert_default().push(c),
        }
    }
    commands.last_mut().unwrap().extend(word);
    commands.retain(|command| !command.is_empty());
    commands
}

#[test]
fn every_command_of_the_readme_exists_and_what_needs_no_cluster_runs() {
    let (mut parsed, mut run) = (0, 0);
    for command in commands("README.md").iter().flat_map(|line| words(line)).filter(|command| command[0] == "mandate") {
        let line = command.join(" ");
        let told = Cli::try_parse_from(&command).map_err(|error| error.to_string());
        assert!(told.is_ok(), "{line}\n{}", told.unwrap_err());
        parsed += 1;
        if ["run", "task"].contains(&command[1].as_str()) {
            continue;
        }
        let args: Vec<String> = command[1..].iter().map(|word| word.replace("ADDRESS", "127.0.0.1")).collect();
        let answer = mandate(&args.iter().map(String::as_str).collect::<Vec<_>>());
        // The README says so of this one.
        let wanted = i32::from(line.contains("static-secrets.yaml"));
        assert_eq!((answer.status, answer.err.as_str()), (wanted, ""), "{line}");
        run += 1;
    }
    assert!(parsed >= 8 && run >= 5, "{parsed} commands, of which {run} were run");
}

#[test]
fn five_pods_are_five_denials_as_the_readme_says() {
    let text = read("README.md");
    assert!(text.contains("five pods, five denials, exit status 1"));
    let pods = crate::checkout::documents(&read("examples/manifests/static-secrets.yaml"));
    assert_eq!(pods.iter().filter(|pod| pod["kind"] == "Pod").count(), 5);
    let answer = mandate(&["lint", "examples/manifests/static-secrets.yaml"]);
    for pod in &pods {
        let name = pod["metadata"]["name"].as_str().unwrap();
        assert!(answer.out.contains(name), "`{name}` is not in\n{}", answer.out);
    }
}

#[test]
fn every_file_that_a_command_names_is_there() {
    for document in ["README.md", "CONTRIBUTING.md"] {
        for word in commands(document).iter().flat_map(|line| words(line)).flatten() {
            let is_ours = ["examples/", "charts/", "docs/", "tests/", "crds/"].iter().any(|start| word.starts_with(start));
            assert!(!is_ours || root().join(&word).exists(), "{document}: there is no `{word}`");
        }
    }
}

#[test]
fn every_target_of_make_that_is_named_exists_and_the_other_way_round() {
    let makefile = read("Makefile");
    let targets: BTreeSet<&str> = makefile
        .lines()
        .filter_map(|line| {
            line.split_once(": ")
                .filter(|(name, rest)| rest.contains("## ") && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'-'))
        })
        .map(|(name, _)| name)
        .collect();
    for document in documents() {
        let text = read(&document);
        for (at, _) in text.match_indices("make ").filter(|(at, _)| text[..*at].ends_with(['`', '\n', ' '])) {
            // Only as code: "make a task" is no command.
            let is_code = text[..at].ends_with('`') || text[..at].ends_with("=1 ") || text[..at].ends_with("console\n");
            let target = text[at + 5..].split(|c: char| !c.is_ascii_lowercase() && c != '-').next().unwrap_or_default();
            assert!(!is_code || targets.contains(target), "{}: there is no `make {target}`", document.display());
        }
    }
    let contributing = read("CONTRIBUTING.md");
    for target in ["check", "test", "cluster-test", "demo", "generate", "verify", "bench"] {
        assert!(targets.contains(target) && contributing.contains(&format!("`make {target}`")), "`make {target}`");
    }
}

#[test]
fn every_reason_that_the_readme_explains_is_one_that_is_given() {
    let readme = read("README.md");
    let reasons = read("src/decide/check.rs");
    let table = readme.split("| reason | what to do |").nth(1).unwrap().split("\n\n").next().unwrap();
    let named: Vec<&str> =
        table.lines().flat_map(|line| line.split(" | ").next().unwrap_or_default().split('`').skip(1).step_by(2)).collect();
    assert!(named.len() >= 10, "{named:?}");
    for reason in named {
        assert!(reasons.contains(&format!("\n    {reason},\n")), "no task is ever `{reason}`");
    }
}

#[test]
fn lines_are_split_as_a_shell_splits_them() {
    let split = |line| words(line).iter().map(|command| command.join("·")).collect::<Vec<_>>();
    assert_eq!(split("a \"b c\" --d='e f' # g"), ["a·b c·--d=e f"]);
    assert_eq!(split("a b | c -; d"), ["a·b", "c·-", "d"]);
}
