//! Which one of several replicas acts? The one that holds the Lease.
//!
//! A name and an identity go in; out comes, when it is our turn, a [`Held`] that says when the
//! Lease is lost. Whoever loses it ends the process: what a former holder still has in flight
//! cannot be called back otherwise. It never compares a clock of ours with one of another
//! machine: times in the record are for people to read.
//!
//! # Guarantees
//! The holder believes it holds for at most [`Timings::deadline`] after it *sent* the last
//! renewal that succeeded. Others wait [`Timings::duration`], which is longer, after they *saw*
//! that renewal. So two never act at once, as long as their clocks run equally fast. A holder
//! that was suspended whole, clock and all, learns of its loss at its next renewal only; what
//! it writes until then has to be stopped by resource versions. Every write of the Lease carries
//! the version that was read, so of two that try one succeeds.
//!
//! # Rights it needs
//! | group | resource | names | verbs | where |
//! |---|---|---|---|---|
//! | `coordination.k8s.io` | `leases` | the name | `get`, `update` | the namespace |
//! | `coordination.k8s.io` | `leases` | (RBAC cannot name what does not exist) | `create` | the namespace |

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::MicroTime,
};
use kube::{
    Api, Client,
    api::{ObjectMeta, PostParams},
};
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};
use tracing::{info, warn};

use super::pace::{jittered, random};
use crate::{
    api::names::MANAGER,
    serve::{Stop, stop::Trigger},
};

/// How fast a Lease passes on.
#[derive(Clone, Copy, Debug)]
pub struct Timings {
    /// How long others wait after they saw the holder's last renewal. Whole seconds.
    pub duration: Duration,
    /// How long the holder goes on without a renewal that succeeded; shorter than `duration`.
    pub deadline: Duration,
    /// Time between two attempts, less a quarter at most.
    pub retry: Duration,
}

impl Default for Timings {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self { duration: seconds(15), deadline: seconds(10), retry: seconds(2) }
    }
}

/// A name for this process that no other has, not even the next one in the same pod: a record
/// with it was written by us.
#[must_use]
pub fn identity(pod: &str) -> String {
    format!("{pod}_{:016x}", random())
}

/// The Lease is ours. Dropping it without [`Held::release`] lets it run out.
#[derive(Debug)]
#[must_use = "the Lease is renewed only as long as this lives"]
pub struct Held {
    lost: Stop,
    release: Option<Trigger>,
    renewal: JoinHandle<()>,
}

impl Held {
    /// Waits until the Lease is lost. Then the process has to end at once.
    pub async fn lost(&self) {
        self.lost.requested().await;
    }

    /// Gives the Lease back, so that a successor need not wait for it to run out. Everything
    /// that acts has to have ended before.
    pub async fn release(mut self) {
        drop(self.release.take());
        if timeout(RELEASE, &mut self.renewal).await.is_err() {
            warn!("lease not given back in time, it runs out");
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.renewal.abort();
    }
}

/// Giving back is one request.
const RELEASE: Duration = Duration::from_secs(3);
/// Longest promise of another holder that is honoured: a record with a century in it would
/// otherwise keep everybody out.
const LONGEST: i32 = 600;

/// Waits until the Lease is held by `identity` (see [`identity()`]), or until `stop`: then
/// nothing is held. Errors of the cluster are logged and retried.
pub async fn hold(client: Client, namespace: &str, name: &str, identity: &str, timings: Timings, stop: Stop) -> Option<Held> {
    let candidate =
        Candidate { leases: Api::namespaced(client, namespace), name: name.to_owned(), identity: identity.to_owned(), timings };
    let mut seen = None;
    loop {
        tokio::select! {
            biased;
            () = stop.requested() => return None,
            attempt = timeout(timings.deadline, candidate.attempt(&mut seen)) => match attempt {
                Ok(Ok(Some((lease, since)))) => {
                    info!(lease = name, identity, "lease acquired");
                    return Some(candidate.keep(lease, since));
                }
                Ok(Ok(None)) => {}
                Ok(Err(error)) => {
                    warn!(lease = name, error = &error as &dyn std::error::Error, "could not acquire the lease, trying again");
                }
                Err(_) => warn!(lease = name, "acquiring the lease took too long, trying again"),
            },
        }
        tokio::select! {
            biased;
            () = stop.requested() => return None,
            () = sleep(jittered(timings.retry)) => {}
        }
    }
}

/// What another holder's record looked like, and since when on our own clock.
#[derive(Clone, Debug)]
struct Seen {
    spec: LeaseSpec,
    at: Instant,
}

impl Seen {
    /// The record was read now. Only a change of it proves that its holder lives.
    fn note(seen: Option<Self>, spec: &LeaseSpec, now: Instant) -> Self {
        seen.filter(|seen| seen.spec == *spec).unwrap_or_else(|| Self { spec: spec.clone(), at: now })
    }
}

/// Whose turn it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    /// Ours: nobody holds it, or the holder has been silent for as long as it promised.
    Ours,
    /// Somebody else's.
    Theirs,
}

fn turn(seen: &Seen, identity: &str, ours: Duration, now: Instant) -> Turn {
    let holder = seen.spec.holder_identity.as_deref().unwrap_or_default();
    // A record with our identity is an answer of the server that we never heard.
    if holder.is_empty() || holder == identity {
        return Turn::Ours;
    }
    let promised = seen
        .spec
        .lease_duration_seconds
        .map_or(ours, |seconds| Duration::from_secs(u64::from(seconds.clamp(1, LONGEST).unsigned_abs())));
    if now.saturating_duration_since(seen.at) >= promised { Turn::Ours } else { Turn::Theirs }
}

/// The record after `identity` has taken or renewed the Lease.
fn taken(before: &LeaseSpec, identity: &str, duration: Duration, now: Timestamp) -> LeaseSpec {
    let renews = before.holder_identity.as_deref() == Some(identity);
    LeaseSpec {
        holder_identity: Some(identity.to_owned()),
        lease_duration_seconds: Some(i32::try_from(duration.as_secs()).unwrap_or(LONGEST).max(1)),
        renew_time: Some(MicroTime(now)),
        acquire_time: before.acquire_time.clone().filter(|_| renews).or(Some(MicroTime(now))),
        lease_transitions: Some(before.lease_transitions.unwrap_or(0).saturating_add(i32::from(!renews))),
        ..before.clone()
    }
}

/// The record after its holder has given the Lease back.
fn given_back(before: &LeaseSpec, now: Timestamp) -> LeaseSpec {
    LeaseSpec { holder_identity: None, renew_time: Some(MicroTime(now)), acquire_time: None, ..before.clone() }
}

struct Candidate {
    leases: Api<Lease>,
    name: String,
    identity: String,
    timings: Timings,
}

/// What a renewal came to.
enum Renewal {
    Renewed(Box<Lease>),
    Lost(&'static str),
}

impl Candidate {
    /// Tries once. What is held counts from before the request was sent.
    async fn attempt(&self, seen: &mut Option<Seen>) -> Result<Option<(Lease, Instant)>, kube::Error> {
        let since = Instant::now();
        let written = match self.leases.get_opt(&self.name).await? {
            None => {
                let metadata = ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() };
                let lease = Lease { metadata, spec: None };
                let spec = taken(&LeaseSpec::default(), &self.identity, self.timings.duration, Timestamp::now());
                self.leases.create(&params(), &Lease { spec: Some(spec), ..lease }).await
            }
            Some(lease) => {
                let now = Instant::now();
                let spec = lease.spec.clone().unwrap_or_default();
                let noted = Seen::note(seen.take(), &spec, now);
                if turn(seen.insert(noted), &self.identity, self.timings.duration, now) == Turn::Theirs {
                    return Ok(None);
                }
                self.write(lease, taken(&spec, &self.identity, self.timings.duration, Timestamp::now())).await
            }
        };
        match written {
            Ok(lease) => Ok(Some((lease, since))),
            // Somebody was faster: see who at the next attempt.
            Err(kube::Error::Api(status)) if status.is_conflict() || status.is_already_exists() || status.is_not_found() => {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Renews from now on, in a task that the answer owns.
    fn keep(self, lease: Lease, since: Instant) -> Held {
        let (gone, lost) = Stop::new();
        let (release, released) = Stop::new();
        let renewal = tokio::spawn(async move {
            if let Some(lease) = self.renew(lease, since, &released).await {
                // It is given back, not lost, and nobody listens any more.
                self.give_back(lease).await;
            }
            drop(gone);
        });
        Held { lost, release: Some(release), renewal }
    }

    /// Renews until told to release: then the record as last written; none if the Lease is lost.
    async fn renew(&self, mut lease: Lease, mut since: Instant, released: &Stop) -> Option<Lease> {
        let Timings { duration: _, deadline, retry } = self.timings;
        loop {
            let left = deadline.saturating_sub(since.elapsed());
            tokio::select! {
                biased;
                () = released.requested() => return Some(lease),
                // Not later than the deadline, so that the loss is known when it happens.
                () = sleep(jittered(retry).min(left)) => {}
            }
            let left = deadline.saturating_sub(since.elapsed());
            if left.is_zero() {
                warn!(lease = self.name, "lease lost: not renewed in time");
                return None;
            }
            let sent = Instant::now();
            // A request that hangs must leave time for another one.
            match timeout(left.min(deadline / 2), self.renew_once(&lease)).await {
                Ok(Ok(Renewal::Renewed(renewed))) => (lease, since) = (*renewed, sent),
                Ok(Ok(Renewal::Lost(why))) => {
                    warn!(lease = self.name, why, "lease lost");
                    return None;
                }
                Ok(Err(error)) => {
                    warn!(lease = self.name, error = &error as &dyn std::error::Error, "could not renew the lease, trying again");
                }
                Err(_) => warn!(lease = self.name, "renewing the lease took too long, trying again"),
            }
        }
    }

    async fn renew_once(&self, lease: &Lease) -> Result<Renewal, kube::Error> {
        let mut lease = lease.clone();
        // A second try only where the record is still ours but was written since, be it by a
        // renewal of ours whose answer was lost or by somebody who labelled it.
        for _ in 0..2 {
            let spec = lease.spec.clone().unwrap_or_default();
            let renewed = taken(&spec, &self.identity, self.timings.duration, Timestamp::now());
            match self.write(lease, renewed).await {
                Ok(written) => return Ok(Renewal::Renewed(Box::new(written))),
                Err(kube::Error::Api(status)) if status.is_conflict() || status.is_not_found() => {}
                Err(error) => return Err(error),
            }
            let Some(found) = self.leases.get_opt(&self.name).await? else { return Ok(Renewal::Lost("it was deleted")) };
            if found.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref()) != Some(&self.identity) {
                return Ok(Renewal::Lost("somebody else holds it"));
            }
            lease = found;
        }
        Err(kube::Error::Service("the record keeps changing".into()))
    }

    async fn give_back(&self, lease: Lease) {
        let spec = given_back(&lease.spec.clone().unwrap_or_default(), Timestamp::now());
        match self.write(lease, spec).await {
            Ok(_) => info!(lease = self.name, "lease given back"),
            Err(error) => {
                warn!(lease = self.name, error = &error as &dyn std::error::Error, "lease not given back, it runs out");
            }
        }
    }

    /// Writes `spec` over `lease` as it was read.
    async fn write(&self, lease: Lease, spec: LeaseSpec) -> Result<Lease, kube::Error> {
        self.leases.replace(&self.name, &params(), &Lease { spec: Some(spec), ..lease }).await
    }
}

fn params() -> PostParams {
    PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: Duration = Duration::from_secs(15);

    fn record(holder: &str, seconds: Option<i32>, renewed: i64) -> LeaseSpec {
        LeaseSpec {
            holder_identity: Some(holder.to_owned()),
            lease_duration_seconds: seconds,
            renew_time: Some(MicroTime(Timestamp::from_second(renewed).unwrap())),
            ..LeaseSpec::default()
        }
    }

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_lease_that_nobody_holds_is_taken_at_once() {
        let now = Instant::now();
        for spec in [LeaseSpec::default(), record("", Some(15), 0), given_back(&record("other", Some(15), 0), Timestamp::now())] {
            assert_eq!(turn(&Seen { spec, at: now }, "me", OURS, now), Turn::Ours);
        }
    }

    #[test]
    fn another_holder_is_waited_for_as_long_as_it_promised_since_we_saw_it() {
        let at = Instant::now();
        for (promised, waits) in [(Some(15), 15), (Some(60), 60), (None, 15), (Some(i32::MAX), 600), (Some(-5), 1)] {
            let seen = Seen { spec: record("other", promised, 0), at };
            assert_eq!(turn(&seen, "me", OURS, at + seconds(waits) - Duration::from_millis(1)), Turn::Theirs, "{promised:?}");
            assert_eq!(turn(&seen, "me", OURS, at + seconds(waits)), Turn::Ours, "{promised:?}");
        }
    }

    #[test]
    fn times_in_the_record_do_not_matter_but_its_changes_do() {
        let start = Instant::now();
        // Long over, or far in the future, by the clock of whoever wrote it.
        for written in [0, 4_000_000_000] {
            let first = Seen::note(None, &record("other", Some(15), written), start);
            assert_eq!(turn(&first, "me", OURS, start + seconds(14)), Turn::Theirs);
            let same = Seen::note(Some(first.clone()), &record("other", Some(15), written), start + seconds(14));
            assert_eq!(same.at, start);
            let renewed = Seen::note(Some(first), &record("other", Some(15), written + 1), start + seconds(14));
            assert_eq!(turn(&renewed, "me", OURS, start + seconds(16)), Turn::Theirs);
        }
    }

    #[test]
    fn an_answer_that_was_lost_does_not_lock_us_out() {
        let now = Instant::now();
        assert_eq!(turn(&Seen { spec: record("me", Some(15), 0), at: now }, "me", OURS, now), Turn::Ours);
    }

    #[test]
    fn taking_counts_a_transition_and_renewing_does_not() {
        let now = Timestamp::from_second(100).unwrap();
        let first = taken(&record("other", Some(15), 50), "me", OURS, now);
        assert_eq!((first.lease_transitions, first.acquire_time.as_ref()), (Some(1), Some(&MicroTime(now))));
        let later = Timestamp::from_second(102).unwrap();
        let second = taken(&first, "me", OURS, later);
        assert_eq!((second.lease_transitions, second.acquire_time), (Some(1), Some(MicroTime(now))));
        assert_eq!(second.renew_time, Some(MicroTime(later)));
        assert_eq!(second.lease_duration_seconds, Some(15));
    }

    #[test]
    fn no_two_processes_share_an_identity() {
        assert_ne!(identity("controller-0"), identity("controller-0"));
        assert!(identity("controller-0").starts_with("controller-0_"));
    }
}
