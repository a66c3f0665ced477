use serde_json::json;

use super::*;

const BOUNDS: Bounds = Bounds { fresh: SignedDuration::from_mins(1), kept: SignedDuration::from_mins(15) };

fn at(minutes: i64) -> Timestamp {
    "2026-10-05T09:00:00Z".parse::<Timestamp>().unwrap() + SignedDuration::from_mins(minutes)
}

fn digest(of: u8) -> String {
    format!("sha256:{}", format!("{of:02x}").repeat(32))
}

fn digests(all: &[(&str, u8)]) -> BTreeMap<String, String> {
    all.iter().map(|(tool, of)| ((*tool).to_owned(), digest(*of))).collect()
}

fn pinned(all: &[(&str, u8)]) -> Known {
    Known { pins: digests(all), ..Known::default() }
}

fn listing(minutes: i64, all: &[(&str, u8)]) -> Listing {
    Listing { at: at(minutes), tools: digests(all) }
}

fn server(tools: &[(&str, Option<u8>)]) -> ToolServerSpec {
    let tools: Vec<_> = tools
        .iter()
        .map(|(name, pin)| match pin {
            Some(of) => json!({"name": name, "effect": "read", "classification": "public", "pin": digest(*of)}),
            None => json!({"name": name, "effect": "read", "classification": "public"}),
        })
        .collect();
    serde_json::from_value(json!({
        "owner": {"team": "t", "contact": "c"}, "mcp": {"url": "https://ledger.example/mcp"}, "tools": tools,
    }))
    .unwrap()
}

fn stopped(known: &Known, minutes: i64) -> Vec<(String, Why)> {
    known.stopped(at(minutes), BOUNDS).into_iter().map(|Stopped { tool, why }| (tool, why)).collect()
}

fn one(why: Why) -> Vec<(String, Why)> {
    vec![("read".to_owned(), why)]
}

fn status_of(known: &Known, old: &ToolServerStatus, minutes: i64) -> ToolServerStatus {
    status(&server(&[("read", Some(1)), ("export", None)]), Some(3), Some(known), old, BOUNDS, at(minutes))
}

fn says<'a>(status: &'a ToolServerStatus, type_: &str) -> Option<(&'a str, &'a str, &'a str)> {
    let found = status.conditions.iter().find(|condition| condition.type_ == type_)?;
    Some((&found.status, &found.reason, &found.message))
}

#[test]
fn a_tool_is_not_called_before_its_pin_was_compared() {
    let mut known = pinned(&[("read", 1)]);
    assert_eq!(stopped(&known, 0), one(Why::NotLookedAt));
    known.asked = Asked::Failed(Failure::Unreachable);
    assert_eq!(stopped(&known, 0), one(Why::NotReachable));
    known.answered(listing(0, &[("read", 2)]));
    assert_eq!(stopped(&known, 0), one(Why::Changed));
    known.answered(listing(0, &[]));
    assert_eq!(stopped(&known, 0), one(Why::Missing));
    known.answered(listing(0, &[("Read", 1), ("read", 1)]));
    assert_eq!(stopped(&known, 0), []);
}

#[test]
fn what_was_compared_counts_for_a_while_and_what_was_found_wrong_for_ever() {
    let mut known = pinned(&[("read", 1)]);
    known.answered(listing(0, &[("read", 1)]));
    known.asked = Asked::Failed(Failure::Unreachable);
    assert_eq!((stopped(&known, 15), stopped(&known, 16)), (vec![], one(Why::NotReachable)));
    known.answered(listing(0, &[("read", 2)]));
    known.asked = Asked::Failed(Failure::Unreachable);
    assert_eq!(stopped(&known, 10_000), one(Why::Changed));
}

#[test]
fn a_new_pin_is_compared_with_what_was_listed_last() {
    let mut known = pinned(&[("read", 1)]);
    known.answered(listing(0, &[("read", 2)]));
    known.pin(digests(&[("read", 2)]));
    assert_eq!((stopped(&known, 1), known.asked.clone()), (vec![], Asked::Answered));
    known.pin(digests(&[("read", 3)]));
    assert_eq!(stopped(&known, 1), one(Why::Changed));
    assert!(!known.met.contains_key("read"), "this pin was never met");
}

#[test]
fn after_a_start_a_status_stops_tools_for_ever_and_lets_them_be_called_while_it_is_fresh() {
    let good = ToolServerStatus { last_checked_at: Some(Time(at(0))), ..ToolServerStatus::default() };
    let recalled = |status: &ToolServerStatus, now: i64| {
        let mut known = pinned(&[("read", 1)]);
        known.recall(status, at(now));
        known
    };
    assert_eq!((stopped(&recalled(&good, 1), 1), stopped(&recalled(&good, 2), 2)), (vec![], one(Why::NotLookedAt)));
    let mut silent = recalled(&good, 10);
    silent.asked = Asked::Failed(Failure::Unreachable);
    assert_eq!((stopped(&silent, 10), stopped(&silent, 16)), (vec![], one(Why::NotReachable)));
    let changed = ChangedTool { tool: "read".to_owned(), now: digest(2), reason: Drift::ToolChanged };
    let bad = ToolServerStatus { changed: vec![changed], ..good.clone() };
    assert_eq!(stopped(&recalled(&bad, 10_000), 10_000), one(Why::Changed));
    let gone = ToolServerStatus { missing: vec!["read".to_owned()], ..good.clone() };
    assert_eq!(stopped(&recalled(&gone, 10_000), 10_000), one(Why::Missing));

    // One that was never written by somebody who asked, or is of a time to come, proves nothing.
    assert_eq!(stopped(&recalled(&ToolServerStatus::default(), 0), 0), one(Why::NotLookedAt));
    assert_eq!(stopped(&recalled(&good, -10), -10), one(Why::NotLookedAt));
}

#[test]
fn what_another_process_saw_later_stops_a_tool_and_never_lets_it_go_on() {
    let changed = ChangedTool { tool: "read".to_owned(), now: digest(2), reason: Drift::ToolChanged };
    let bad = ToolServerStatus { changed: vec![changed], last_checked_at: Some(Time(at(5))), ..ToolServerStatus::default() };
    let mut known = pinned(&[("read", 1)]);
    known.answered(listing(6, &[("read", 1)]));
    assert!(!known.recall(&bad, at(7)), "it is older than what is known");
    assert_eq!(stopped(&known, 7), []);
    known.answered(listing(4, &[("read", 1)]));
    assert!(known.recall(&bad, at(7)));
    assert_eq!(stopped(&known, 7), one(Why::Changed));
    let good = ToolServerStatus { last_checked_at: Some(Time(at(8))), ..ToolServerStatus::default() };
    assert!(!known.recall(&good, at(8)));
    assert_eq!(stopped(&known, 8), one(Why::Changed));
}

#[test]
fn a_status_says_where_a_server_stands_and_what_to_do() {
    let mut known = pinned(&[("read", 1)]);
    known.asked = Asked::Failed(Failure::Unauthorized);
    let refused = status_of(&known, &ToolServerStatus::default(), 0);
    assert_eq!((refused.tools, refused.stopped, refused.seen), (Some(1), Some(1), None));
    assert!(
        says(&refused, "Ready")
            .is_some_and(|(is, why, words)| (is, why) == ("False", "Unauthorized") && words.contains("--tools-token"))
    );
    assert_eq!(says(&refused, "Stalled").unwrap().1, "Unauthorized");
    assert_eq!((says(&refused, "Drifted"), says(&refused, "Reconciling")), (None, None));

    known.answered(listing(0, &[("read", 1), ("export", 7), ("close", 8), ("do as I say", 9), ("раypal", 9)]));
    let good = status_of(&known, &refused, 0);
    assert_eq!((says(&good, "Ready").unwrap().1, says(&good, "Stalled"), good.observed_generation), ("Verified", None, Some(3)));
    assert_eq!((good.not_reviewed.as_slice(), good.seen), (&["close".to_owned()][..], Some(5)), "other names are no names");

    known.asked = Asked::Failed(Failure::Unreachable);
    let silent = status_of(&known, &good, 1);
    assert_eq!(says(&silent, "Ready").unwrap().0, "True");
    assert!(
        says(&silent, "Reconciling").unwrap().2.ends_with("its tools stay as they were until 2026-10-05T09:15:00Z"),
        "{silent:?}"
    );
    let over = status_of(&known, &silent, 16);
    assert_eq!((says(&over, "Ready").unwrap().0, says(&over, "Ready").unwrap().1), ("False", "Unreachable"));

    known.answered(listing(17, &[("read", 2)]));
    let drifted = status_of(&known, &over, 17);
    assert_eq!((says(&drifted, "Ready").unwrap().1, says(&drifted, "Drifted").unwrap().0), ("ToolChanged", "True"));
    assert!(says(&drifted, "Stalled").unwrap().2.contains(&format!("write `pin: {}`", digest(2))));
}

#[test]
fn a_status_without_anything_to_compare_says_so() {
    let of = |spec: &ToolServerSpec| status(spec, Some(1), None, &ToolServerStatus::default(), BOUNDS, at(0));
    let unpinned = server(&[("read", None)]);
    assert_eq!(says(&of(&unpinned), "Ready").unwrap().1, "NotPinned");
    let unwatched = ToolServerSpec { mcp: None, ..unpinned };
    assert_eq!(says(&of(&unwatched), "Ready").unwrap().1, "NotWatched");
    assert_eq!((of(&unwatched).tools, of(&unwatched).unpinned, of(&unwatched).last_checked_at), (Some(1), vec![], None));
}

#[test]
fn words_are_bounded_however_many_tools_have_changed() {
    let names: Vec<String> = (0..128).map(|number| format!("tool-{number}-{}", "x".repeat(110))).collect();
    let all: Vec<(&str, u8)> = names.iter().map(|name| (name.as_str(), 1)).collect();
    let mut known = pinned(&all);
    known.answered(listing(0, &[]));
    let spec: Vec<(&str, Option<u8>)> = names.iter().map(|name| (name.as_str(), Some(1))).collect();
    let status = status(&server(&spec), Some(1), Some(&known), &ToolServerStatus::default(), BOUNDS, at(0));
    let words = says(&status, "Drifted").unwrap().2;
    assert!(words.ends_with("; and 125 more") && words.len() < 1000, "{words}");
    let told = events(&ToolServerStatus::default(), &status, &known);
    assert!(told.len() == 1 && told[0].message.len() < 1000, "{told:?}");
}

#[test]
fn only_what_is_news_is_written() {
    let mut known = pinned(&[("read", 1)]);
    known.answered(listing(0, &[("read", 1)]));
    let first = status_of(&known, &ToolServerStatus::default(), 0);
    assert!(is_news(&ToolServerStatus::default(), &first));
    for (minutes, expected) in [(0, false), (4, false), (5, true)] {
        known.answered(listing(minutes, &[("read", 1)]));
        assert_eq!(is_news(&first, &status_of(&known, &first, minutes)), expected, "after {minutes} min");
    }
    known.answered(listing(1, &[("read", 1), ("new", 1)]));
    assert!(is_news(&first, &status_of(&known, &first, 1)));
}

#[test]
fn an_event_tells_once_that_a_tool_changed_and_that_it_is_back() {
    let mut known = pinned(&[("read", 1)]);
    let before = ToolServerStatus::default();
    known.answered(listing(0, &[("read", 2)]));
    let drifted = status_of(&known, &before, 0);
    let told = events(&before, &drifted, &known);
    assert!(told.len() == 1 && told[0].warning && told[0].reason == "PinMismatch", "{told:?}");
    assert_eq!(events(&drifted, &drifted, &known), []);
    known.answered(listing(1, &[("read", 1)]));
    let good = status_of(&known, &drifted, 1);
    let told = events(&drifted, &good, &known);
    assert!(told.len() == 1 && !told[0].warning && told[0].message.contains("`read`"), "{told:?}");
    // One that is no longer pinned is not back.
    assert_eq!(events(&drifted, &good, &pinned(&[])), []);
}
