//! Are the tools of an MCP server what was reviewed, and what is to be said of it?
//!
//! In: the pins of a ToolServer, what its server listed and when, and the time. Out: the tools
//! that are not called for now, and the status that people read. Of what a server says nothing
//! goes into a status but digests, and names that a ToolServer could bear: a description is
//! written by who wants to be believed, and a status is read by models too.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::authorize::snapshot::{Stopped, Why};
use crate::api::{ChangedTool, Conditions, Drift, ToolServerSpec, ToolServerStatus};

/// A status is not written for `lastCheckedAt` alone more often than this: of a thousand servers
/// that would be a steady stream of writes.
const TOLD_EVERY: SignedDuration = SignedDuration::from_mins(5);
/// Clocks of two processes may differ by so much.
const LEEWAY: SignedDuration = SignedDuration::from_secs(5);
/// Most names of tools that nobody has reviewed.
const MOST_NOT_REVIEWED: usize = 64;
/// Longest name of a tool.
const LONGEST_NAME: usize = 128;
/// Most tools that a message speaks of.
const MOST_TOLD: usize = 3;

/// How old what was compared may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Until this process has asked, what a status says counts for so long.
    pub fresh: SignedDuration,
    /// Where a server does not answer, what it last said counts for so long.
    pub kept: SignedDuration,
}

/// What a server listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing {
    /// When it was asked.
    pub at: Timestamp,
    /// Digests by tool.
    pub tools: BTreeMap<String, String>,
}

/// What came of asking last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Asked {
    /// This process has not asked yet.
    #[default]
    NotYet,
    /// It answered.
    Answered,
    /// It did not.
    Failed(Failure),
}

/// Why a server did not say what its tools are. The words of the server, and what the network
/// said, are in no status: who writes ToolServers would read there what the authorizer can reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Nobody answers there, or not in time, or with no certificate that counts.
    Unreachable,
    /// It wants a token, or another one.
    Unauthorized,
    /// What it answers is no list of tools.
    NotListed,
    /// It may not be asked there.
    UnsafeAddress,
    /// The file with its token cannot be read.
    NoToken,
}

impl Failure {
    /// The word, as conditions carry it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unreachable => "Unreachable",
            Self::Unauthorized => "Unauthorized",
            Self::NotListed => "NotListed",
            Self::UnsafeAddress => "UnsafeAddress",
            Self::NoToken => "NoToken",
        }
    }

    /// What is wrong, and what to do about it.
    fn words(self) -> &'static str {
        match self {
            Self::Unreachable => {
                "its MCP server does not answer at `mcp.url`, or not in time, or with a certificate that does not count: the \
                 authorizer's log says which; it is asked again"
            }
            Self::Unauthorized => {
                "its MCP server wants a valid token to list its tools: the operator gives the authorizer one by `--tools-token`"
            }
            Self::NotListed => {
                "what answers at `mcp.url` does not list tools as an MCP server does, or redirects: the authorizer's log has \
                 more; write the endpoint itself"
            }
            Self::UnsafeAddress => {
                "its MCP server may not be asked at `mcp.url`: write an `https` URL of an address that is neither link-local \
                 nor loopback, or ask the operator for `--tools-address` or `--tools-http`"
            }
            Self::NoToken => "the file of its `--tools-token` cannot be read: the authorizer's log says why",
        }
    }

    /// Whether asking again helps.
    fn passes(self) -> bool {
        self == Self::Unreachable
    }
}

/// What is known of the tools of one server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// What was reviewed: digests by tool.
    pub pins: BTreeMap<String, String>,
    /// What it listed last, as far as that is known.
    pub listed: Option<Listing>,
    /// Pins that it was once seen to meet, by tool.
    pub met: BTreeMap<String, String>,
    /// What came of asking last.
    pub asked: Asked,
}

impl Known {
    /// The tools that are not called at a time.
    #[must_use]
    pub fn stopped(&self, now: Timestamp, bounds: Bounds) -> Vec<Stopped> {
        let unknown = match self.asked {
            Asked::NotYet => Why::NotLookedAt,
            Asked::Answered | Asked::Failed(_) => Why::NotReachable,
        };
        let is_known = self.counts_until(bounds).is_some_and(|until| now <= until);
        let why = |tool: &str, pin: &str| match &self.listed {
            None => Some(unknown),
            Some(listed) => match listed.tools.get(tool) {
                None => Some(Why::Missing),
                Some(now) if now != pin => Some(Why::Changed),
                Some(_) => (!is_known).then_some(unknown),
            },
        };
        self.pins.iter().filter_map(|(tool, pin)| Some(Stopped { tool: tool.clone(), why: why(tool, pin)? })).collect()
    }

    /// How long what it listed last counts, where it does not answer again.
    #[must_use]
    pub fn counts_until(&self, bounds: Bounds) -> Option<Timestamp> {
        let bound = if self.asked == Asked::NotYet { bounds.fresh } else { bounds.kept };
        Some(self.listed.as_ref()?.at.checked_add(bound).unwrap_or(Timestamp::MAX))
    }

    /// What it answered.
    pub fn answered(&mut self, listing: Listing) {
        let meets = |(tool, pin): &(&String, &String)| listing.tools.get(*tool) == Some(*pin);
        let met: Vec<_> = self.pins.iter().filter(meets).map(|(tool, pin)| (tool.clone(), pin.clone())).collect();
        self.met.extend(met);
        self.listed = Some(listing);
        self.asked = Asked::Answered;
    }

    /// Other pins than before.
    pub fn pin(&mut self, pins: BTreeMap<String, String>) {
        self.met.retain(|tool, pin| pins.get(tool) == Some(pin));
        self.pins = pins;
        if let Some(listed) = &self.listed {
            let listed = listed.clone();
            let asked = std::mem::take(&mut self.asked);
            self.answered(listed);
            self.asked = asked;
        }
    }

    /// What a status of the very same pins says, from another process or from before a restart. It
    /// is believed whole where nothing else is known, and else only where it stops a tool.
    ///
    /// Returns whether that changed anything.
    pub fn recall(&mut self, status: &ToolServerStatus, now: Timestamp) -> bool {
        let Some(at) = status.last_checked_at.as_ref().map(|at| at.0).filter(|at| now.duration_since(*at) >= -LEEWAY) else {
            return false;
        };
        if self.listed.as_ref().is_some_and(|listed| listed.at >= at) {
            return false;
        }
        let before = self.listed.clone();
        let mut listed = self.listed.take().unwrap_or_else(|| {
            self.met = self.pins.clone();
            Listing { at, tools: self.pins.clone() }
        });
        for ChangedTool { tool, now, reason } in &status.changed {
            listed.tools.insert(tool.clone(), now.clone());
            if *reason == Drift::PinMismatch {
                self.met.remove(tool);
            }
        }
        for tool in &status.missing {
            listed.tools.remove(tool);
        }
        self.listed = Some(listed);
        self.listed != before
    }
}

/// The status of a ToolServer. `known` is none where there is nothing to compare.
#[must_use]
pub fn status(
    spec: &ToolServerSpec,
    generation: Option<i64>,
    known: Option<&Known>,
    old: &ToolServerStatus,
    bounds: Bounds,
    now: Timestamp,
) -> ToolServerStatus {
    let stopped = known.map(|known| known.stopped(now, bounds)).unwrap_or_default();
    let listed = known.and_then(|known| known.listed.as_ref());
    let of = |why: Why| stopped.iter().filter(move |stopped| stopped.why == why).map(|stopped| stopped.tool.clone());
    let changed: Vec<ChangedTool> = known.zip(listed).map_or_else(Vec::new, |(known, listed)| {
        let reason = |tool: &str| if known.met.contains_key(tool) { Drift::ToolChanged } else { Drift::PinMismatch };
        let now = |tool: &str| listed.tools.get(tool).cloned().unwrap_or_default();
        of(Why::Changed).map(|tool| ChangedTool { now: now(&tool), reason: reason(&tool), tool }).collect()
    });
    let missing: Vec<String> = of(Why::Missing).collect();
    let unpinned: Vec<String> = match known {
        Some(_) => spec.tools.iter().filter(|tool| tool.pin.is_none()).map(|tool| tool.name.clone()).collect(),
        None => vec![],
    };
    let is_listed_here = |name: &str| spec.tools.iter().any(|tool| tool.name == name);
    let not_reviewed = listed.into_iter().flat_map(|listed| listed.tools.keys());
    let not_reviewed = not_reviewed.filter(|name| may_be_shown(name) && !is_listed_here(name)).take(MOST_NOT_REVIEWED);
    let mut status = ToolServerStatus {
        observed_generation: generation,
        tools: Some(count(spec.tools.len() - stopped.len().min(spec.tools.len()))),
        stopped: Some(count(stopped.len())),
        seen: listed.map(|listed| count(listed.tools.len())),
        not_reviewed: not_reviewed.cloned().collect(),
        changed,
        missing,
        unpinned,
        last_checked_at: listed.map(|listed| Time(listed.at)),
        conditions: vec![],
    };
    let mut conditions = Conditions::from(&old.conditions);
    judge(spec, known, &status, bounds, &stopped, &mut |type_, says| match says {
        Some((is, reason, message)) => conditions.set(type_, is, reason, message, generation, now),
        None => conditions.remove(type_),
    });
    status.conditions = conditions.into_vec();
    status
}

fn count(of: usize) -> i64 {
    i64::try_from(of).unwrap_or(i64::MAX)
}

/// What a condition says: whether it holds, by which word, and in words.
type Says<'a> = Option<(bool, &'a str, &'a str)>;

fn judge(
    spec: &ToolServerSpec,
    known: Option<&Known>,
    status: &ToolServerStatus,
    bounds: Bounds,
    stopped: &[Stopped],
    set: &mut dyn FnMut(&str, Says),
) {
    let Some(known) = known else {
        let (reason, message) = match spec.mcp {
            None => ("NotWatched", "it names no MCP server to ask: its tools are taken as they are written"),
            Some(_) => (
                "NotPinned",
                "no tool has a pin, and nothing holds its MCP server to what was reviewed: `mandate tools import` writes pins",
            ),
        };
        set("Ready", Some((true, reason, message)));
        ["Drifted", "Reconciling", "Stalled"].iter().for_each(|type_| set(type_, None));
        return;
    };
    let drift = drift(status);
    match (&drift, status.seen) {
        (Some((reason, message)), _) => set("Drifted", Some((true, reason, message))),
        (None, Some(_)) => set("Drifted", Some((false, "AsReviewed", "every tool with a pin is what was reviewed"))),
        (None, None) => set("Drifted", None),
    }
    let failure = match known.asked {
        Asked::Failed(failure) => Some(failure),
        Asked::NotYet | Asked::Answered => None,
    };
    let failed = failure.map(|failure| {
        let words = failure.words();
        match known.counts_until(bounds) {
            Some(until) if stopped.iter().all(|stopped| stopped.why != Why::NotReachable) => {
                format!("{words}; its tools stay as they were until {}", until.strftime("%Y-%m-%dT%H:%M:%SZ"))
            }
            _ => format!("{words}; until then its tools with a pin are denied"),
        }
    });
    let failed = failure.zip(failed.as_deref()).map(|(failure, words)| (failure, failure.as_str(), words));
    let is_unknown = stopped.iter().any(|stopped| matches!(stopped.why, Why::NotReachable | Why::NotLookedAt));
    let verified = match status.unpinned.len() {
        0 => "every tool is what was reviewed".to_owned(),
        many => format!("every tool with a pin is what was reviewed; {many} of {} have none", spec.tools.len()),
    };
    match (&drift, failed) {
        (Some((reason, message)), _) => set("Ready", Some((false, reason, message))),
        (None, Some((_, reason, message))) if is_unknown => set("Ready", Some((false, reason, message))),
        (None, None) if is_unknown => set("Ready", Some((false, "NotLookedAt", "its MCP server was not asked for too long"))),
        (None, _) => set("Ready", Some((true, "Verified", &verified))),
    }
    set("Reconciling", failed.filter(|(failure, ..)| failure.passes()).map(|(_, reason, message)| (true, reason, message)));
    let stalled = failed.filter(|(failure, ..)| !failure.passes()).map(|(_, reason, message)| (true, reason, message));
    set("Stalled", drift.as_ref().map(|(reason, message)| (true, *reason, message.as_str())).or(stalled));
}

/// What is not as its pin says: the word for all of it, and in words.
fn drift(status: &ToolServerStatus) -> Option<(&'static str, String)> {
    let ToolServerStatus { changed, missing, .. } = status;
    let is = |reason: Drift| changed.iter().any(|tool| tool.reason == reason);
    let reason = match () {
        () if is(Drift::ToolChanged) => "ToolChanged",
        () if is(Drift::PinMismatch) => "PinMismatch",
        () if !missing.is_empty() => "ToolMissing",
        () => return None,
    };
    Some((reason, words(changed, missing)))
}

/// What became of some tools, and what to do about it. Names and digests are those of the schema,
/// so that it is bounded.
fn words(changed: &[ChangedTool], missing: &[String]) -> String {
    let changed = changed.iter().map(|ChangedTool { tool, now, reason }| match reason {
        Drift::ToolChanged => format!(
            "tool `{tool}` now describes itself otherwise: review it and write `pin: {now}`, or run `mandate tools import`"
        ),
        Drift::PinMismatch => {
            format!("tool `{tool}` was never seen to be what its pin says: review it and write `pin: {now}`, or run `mandate tools import`")
        }
    });
    let missing =
        missing.iter().map(|tool| format!("tool `{tool}` is not listed by its server: take it out, or have the server list it"));
    let mut all = changed.chain(missing);
    let mut text = all.by_ref().take(MOST_TOLD).collect::<Vec<_>>().join("; ");
    // INVARIANT: writing to a String cannot fail.
    match all.count() {
        0 => {}
        more => {
            let _ = write!(text, "; and {more} more");
        }
    }
    text
}

/// Whether a name that a server made up may stand in a status: it is one that a ToolServer could
/// bear, and so holds no words, no control characters and nothing that looks like another letter.
fn may_be_shown(name: &str) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    name.starts_with(word)
        && name.ends_with(word)
        && name.len() <= LONGEST_NAME
        && name.chars().all(|c| word(c) || "-./".contains(c))
}

/// Whether a status is worth writing in the place of another.
#[must_use]
pub fn is_news(old: &ToolServerStatus, new: &ToolServerStatus) -> bool {
    let at = |status: &ToolServerStatus| status.last_checked_at.as_ref().map(|at| at.0);
    let timeless = |status: &ToolServerStatus| ToolServerStatus { last_checked_at: None, ..status.clone() };
    match (at(old), at(new)) {
        (Some(old), Some(new)) if new.duration_since(old) >= TOLD_EVERY => true,
        (None, Some(_)) | (Some(_), None) => true,
        _ => timeless(old) != timeless(new),
    }
}

/// Something that people are told in an Event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// Whether somebody should look.
    pub warning: bool,
    /// The word for it.
    pub reason: &'static str,
    /// In words.
    pub message: String,
}

/// What has become of tools between two statuses.
#[must_use]
pub fn events(old: &ToolServerStatus, new: &ToolServerStatus, known: &Known) -> Vec<Told> {
    let drifted = |status: &ToolServerStatus, tool: &str| {
        status.changed.iter().any(|changed| changed.tool == tool) || status.missing.iter().any(|missing| missing == tool)
    };
    let fresh = ToolServerStatus {
        changed: new.changed.iter().filter(|changed| !drifted(old, &changed.tool)).cloned().collect(),
        missing: new.missing.iter().filter(|tool| !drifted(old, tool)).cloned().collect(),
        ..ToolServerStatus::default()
    };
    let before = old.changed.iter().map(|changed| &changed.tool).chain(&old.missing);
    let back: Vec<String> =
        before.filter(|tool| known.pins.contains_key(*tool) && !drifted(new, tool)).map(|tool| format!("`{tool}`")).collect();
    let mut told = vec![];
    if let Some((reason, message)) = drift(&fresh) {
        told.push(Told { warning: true, reason, message });
    }
    if !back.is_empty() {
        let more = back.len().saturating_sub(MOST_TOLD);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        let names = back.iter().take(MOST_TOLD).cloned().collect::<Vec<_>>().join(", ");
        let message = format!("what was reviewed is again what the server lists of {names}{more}: it may be called");
        told.push(Told { warning: false, reason: "AsReviewed", message });
    }
    told
}

#[cfg(test)]
mod tests;
