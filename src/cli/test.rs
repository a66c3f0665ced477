//! `mandate test`: tests of policies, written beside them and run before they are merged.
//!
//! A file names manifests and cases; each case is one task and what it does, step by step, with
//! the answer that its author expects. Nothing is carried over from one case to the next.
//!
//! Exit status: 0 every case is as expected; 1 one is not; 2 a file or its manifests are not sound.

mod file;
mod report;

use std::path::{Path, PathBuf};

use clap::ValueEnum;
use jiff::Timestamp;

use super::Outcome;
use super::manifest::node::Position;
use super::scene::{Past, Scene, later};
use crate::decide::authorize::Decision;
use file::{Case, Expected, File, Step};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Files with test cases
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// How results are printed
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people
    #[default]
    Text,
    /// JUnit XML, for test reports
    Junit,
}

/// What became of one file.
#[derive(Debug)]
struct Tested {
    /// The file.
    file: String,
    /// Its cases, in their order.
    cases: Vec<Result_>,
    /// What keeps them from being run.
    problems: Vec<String>,
}

/// What became of one case.
#[derive(Debug)]
struct Result_ {
    name: String,
    at: Position,
    /// The first step that was answered otherwise; none where every one was as expected.
    failure: Option<Failure>,
}

/// A step that was answered otherwise than expected.
#[derive(Debug)]
struct Failure {
    /// Which, from 1.
    step: usize,
    at: Position,
    tool: String,
    /// What was expected and is not so, each in words.
    wrong: Vec<String>,
    decision: Decision,
}

pub(super) fn run(args: &Args) -> anyhow::Result<Outcome> {
    let tested: Vec<Tested> = args.files.iter().map(|file| test(file)).collect();
    let mut out = std::io::stdout().lock();
    match args.format {
        Format::Text => report::text(&tested, &mut out)?,
        Format::Junit => report::junit(&tested, &mut out)?,
    }
    let mut outcome = Outcome::Done;
    for Tested { cases, problems, .. } in &tested {
        if !problems.is_empty() {
            return Ok(Outcome::Incomplete);
        }
        if cases.iter().any(|case| case.failure.is_some()) {
            outcome = Outcome::No;
        }
    }
    Ok(outcome)
}

fn test(path: &Path) -> Tested {
    let mut tested = Tested { file: path.display().to_string(), cases: vec![], problems: vec![] };
    let File { manifests, namespace, at, cases } = match File::read(path) {
        Ok(file) => file,
        Err(problems) => {
            tested.problems = problems;
            return tested;
        }
    };
    let beside = path.parent().unwrap_or(Path::new(""));
    let manifests: Vec<PathBuf> = manifests.iter().map(|manifest| beside.join(manifest)).collect();
    let scene = match Scene::read(&manifests, &namespace, at) {
        Ok(scene) => scene,
        Err(problems) => {
            tested.problems = problems;
            return tested;
        }
    };
    for case in cases {
        match play(&scene, &case, at) {
            Ok(failure) => tested.cases.push(Result_ { name: case.name, at: case.at, failure }),
            Err(why) => tested.problems.push(format!("{}:{}: {why}", tested.file, case.at)),
        }
    }
    tested
}

/// Plays one case. The first answer that is not the expected one ends it.
fn play(scene: &Scene, case: &Case, begin: Timestamp) -> Result<Option<Failure>, String> {
    let subject = scene.task(&case.task)?;
    let (mut past, mut now) = (Past::default(), begin);
    for (index, step) in case.steps.iter().enumerate() {
        let Step { at, tool, when, after, reported, expected, wish } = step;
        now = when.unwrap_or(now);
        now = after.map_or(now, |after| later(now, after));
        let mut wish = wish.clone();
        (wish.server, wish.tool) = scene.tool(&subject.namespace, tool)?;
        let decision = scene.ask(subject, &wish, &mut past, now, *reported);
        let wrong = expected.wrong_with(&decision);
        if !wrong.is_empty() {
            return Ok(Some(Failure { step: index + 1, at: *at, tool: tool.clone(), wrong, decision }));
        }
    }
    Ok(None)
}

impl Expected {
    /// What a decision is otherwise. Of several reasons one is enough.
    fn wrong_with(&self, decision: &Decision) -> Vec<String> {
        let Self { outcome, code, rule, words, cache_for } = self;
        let mut wrong = vec![];
        if *outcome != decision.outcome {
            wrong.push(format!("expected `{}`, got `{}`", outcome.as_str(), decision.outcome.as_str()));
        }
        let reasons = &decision.reasons;
        if let Some(code) = code.as_ref().filter(|code| !reasons.iter().any(|reason| reason.code.as_str() == **code)) {
            wrong.push(format!("expected the code `{code}`"));
        }
        let named = |rule: &str, id: &str| id == rule || id.rsplit_once('#').is_some_and(|(_, name)| name == rule);
        let is_named = |rule: &&String| !reasons.iter().any(|reason| reason.rule.as_ref().is_some_and(|id| named(rule, id)));
        if let Some(rule) = rule.as_ref().filter(is_named) {
            wrong.push(format!("expected the rule `{rule}`"));
        }
        let said = |words: &str| reasons.iter().any(|reason| reason.message.contains(words) || reason.help.contains(words));
        if let Some(words) = words.as_ref().filter(|words| !said(words)) {
            wrong.push(format!("expected the words `{words}`"));
        }
        if let Some(seconds) = cache_for.filter(|seconds| *seconds != decision.cache_for) {
            wrong.push(format!("expected that it may be used again for {seconds} s, got {} s", decision.cache_for));
        }
        wrong
    }
}
