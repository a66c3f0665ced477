//! What has to happen to the certificates now? Stored state and a clock go in, one step comes
//! out. It reads no clock and no network, and the same step comes out in every replica.
//!
//! INVARIANT: an authority signs nothing before every client trusts it. A new authority is
//! first only announced: it enters the bundle, and the old one goes on signing. It is adopted
//! when the bundle with it has stood in every webhook configuration for [`Lives::settle`]. An
//! old authority stays in the bundle until its own end, so that whatever it signed is trusted
//! wherever it is still served. Only where nothing trusted can sign any more, which includes
//! the very first start, does a new authority sign at once: nobody could be served otherwise.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::stored::{Authority, IssueError, Stored, Validity};

/// How long certificates count.
#[derive(Clone, Copy, Debug)]
pub struct Lives {
    /// Life of a serving certificate; it is renewed at two thirds.
    pub serving: Duration,
    /// Life of an authority; the next one is announced at two thirds.
    pub authority: Duration,
    /// How far in the past a certificate begins, for clients whose clocks are behind.
    pub backdate: Duration,
    /// How long a new authority stands in the webhook configurations before it signs; more
    /// than the time in which every API server has seen them.
    pub settle: Duration,
}

impl Default for Lives {
    fn default() -> Self {
        let day = Duration::from_secs(86_400);
        Self { serving: 30 * day, authority: 365 * day, backdate: Duration::from_secs(300), settle: Duration::from_secs(30) }
    }
}

/// What certificates are wanted.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    /// Names and addresses by which clients call.
    pub names: Vec<String>,
    pub lives: Lives,
}

/// What to do. Everything but [`Step::Keep`] writes the Secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing; look again then.
    Keep(Timestamp),
    /// Nothing can sign: a new authority, trusted and signing at once.
    Begin,
    /// The authority ends in a while: make the next one known.
    Announce,
    /// Every client trusts the next authority: it signs from now on.
    Adopt,
    /// Another serving certificate by the same authority.
    Reissue,
    /// The bundle lacks an authority of ours or holds one that is over.
    Tidy,
}

/// Longest time until the next look. A clock that was set is noticed after this time.
const LONGEST: SignedDuration = SignedDuration::from_mins(10);

/// The step to take now. `published` says for how long the bundle as it is stored has stood in
/// every webhook configuration; none if it does not.
pub(super) fn plan(stored: &Stored, wanted: &Wanted, published: Option<Duration>, now: Timestamp) -> Step {
    let next = stored.next.as_ref().map(|authority| authority.trusted.validity).filter(|next| next.holds(now));
    let Some(current) = stored.current.as_ref().map(|authority| authority.trusted.validity).filter(|it| it.holds(now)) else {
        return if next.is_some() { Step::Adopt } else { Step::Begin };
    };
    let settled = published.filter(|_| next.is_some()).map(|stood| wanted.lives.settle.saturating_sub(stood));
    if now >= current.due() {
        match (next, settled) {
            (None, _) => return Step::Announce,
            (Some(_), Some(Duration::ZERO)) => return Step::Adopt,
            (Some(_), _) => {}
        }
    }
    let Some(leaf) = &stored.serving else { return Step::Reissue };
    let reissue = leaf_due(leaf.validity, current);
    if !leaf.validity.holds(now)
        || reissue.is_some_and(|due| now >= due)
        || !leaf.covers(&wanted.names)
        || !stored.serving_is_signed_by_current()
    {
        return Step::Reissue;
    }
    if stored.bundle != stored.tidy_bundle(now) {
        return Step::Tidy;
    }
    let over = stored.bundle.iter().map(|trusted| trusted.validity.not_after);
    let adopt = settled.map(|left| now.saturating_add(left).unwrap_or(Timestamp::MAX));
    let changes = over.chain([leaf.validity.not_after, current.due()]).chain(reissue).chain(adopt);
    let longest = now.saturating_add(LONGEST).unwrap_or(Timestamp::MAX);
    Step::Keep(changes.filter(|change| *change > now).min().unwrap_or(longest).min(longest))
}

/// When a serving certificate is to be renewed; never, if another one could not live longer
/// because its authority ends as soon.
fn leaf_due(leaf: Validity, authority: Validity) -> Option<Timestamp> {
    (leaf.not_after < authority.not_after).then(|| leaf.due())
}

impl Step {
    /// What is to be stored once the step is taken.
    pub(super) fn take(self, stored: &Stored, wanted: &Wanted, now: Timestamp) -> Result<Stored, IssueError> {
        let Lives { authority: life, backdate, .. } = wanted.lives;
        let mut then = stored.clone();
        match self {
            Self::Keep(_) => return Ok(then),
            Self::Tidy | Self::Reissue => {}
            Self::Announce => then.next = Some(Authority::issue(life, backdate, now)?),
            Self::Begin => {
                then.current = Some(Authority::issue(life, backdate, now)?);
                then.next = None;
                then.serving = None;
            }
            Self::Adopt => {
                then.current = then.next.take();
                then.serving = None;
            }
        }
        if let (Self::Begin | Self::Adopt | Self::Reissue, Some(current)) = (self, &then.current) {
            let names = match &stored.serving {
                Some(leaf) if !leaf.covers(&wanted.names) && stored.serving_is_signed_by_current() => {
                    leaf.names_and(&wanted.names)
                }
                _ => wanted.names.clone(),
            };
            then.serving = Some(current.sign(names, wanted, now)?);
        }
        then.bundle = then.tidy_bundle(now);
        Ok(then)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);

    fn wanted() -> Wanted {
        Wanted { names: vec!["hook.mandate.svc".into(), "127.0.0.1".into()], lives: Lives::default() }
    }

    fn at(time: Duration) -> Timestamp {
        Timestamp::from_second(1_800_000_000).unwrap() + SignedDuration::try_from(time).unwrap()
    }

    /// One replica and its Secret: takes steps until there is nothing to do. The bundle that is
    /// stored counts as published for `published`, and one that changes as published just now.
    struct Bed {
        stored: Stored,
        wanted: Wanted,
        published: Option<Duration>,
    }

    impl Bed {
        fn new() -> Self {
            Self { stored: Stored::default(), wanted: wanted(), published: Some(DAY) }
        }

        fn plan(&self, now: Timestamp) -> Step {
            plan(&self.stored, &self.wanted, self.published, now)
        }

        fn bundle(&self) -> String {
            self.stored.bundle_pem()
        }

        fn steps(&mut self, now: Timestamp) -> Vec<Step> {
            let (mut steps, bundle) = (Vec::new(), self.bundle());
            loop {
                let published = if self.bundle() == bundle { self.published } else { self.published.and(Some(Duration::ZERO)) };
                match plan(&self.stored, &self.wanted, published, now) {
                    Step::Keep(look) => {
                        assert!(look > now, "the next look lies ahead");
                        return steps;
                    }
                    step => {
                        let then = step.take(&self.stored, &self.wanted, now).unwrap();
                        // As the Secret keeps it.
                        self.stored = Stored::read(&then.write());
                        steps.push(step);
                    }
                }
                assert!(steps.len() < 5, "no end: {steps:?}");
            }
        }

        fn serving(&self) -> Validity {
            self.stored.serving.as_ref().unwrap().validity
        }

        /// Whether the serving certificate would pass in a client that trusts the bundle.
        fn is_trusted(&self, now: Timestamp) -> bool {
            let current = &self.stored.current.as_ref().unwrap().trusted;
            let bundled = self.stored.bundle.contains(current) && current.validity.holds(now);
            bundled && self.stored.serving_is_signed_by_current() && self.serving().holds(now)
        }
    }

    #[test]
    fn an_empty_secret_gets_an_authority_and_a_certificate_in_one_step() {
        let mut bed = Bed::new();
        bed.published = None;
        assert_eq!(bed.steps(at(DAY)), [Step::Begin]);
        assert!(bed.is_trusted(at(DAY)));
        assert_eq!(bed.stored.serving.as_ref().unwrap().names, bed.wanted.names);
    }

    #[test]
    fn every_certificate_has_an_end_and_begins_a_little_before_it_is_made() {
        let mut bed = Bed::new();
        bed.steps(at(DAY));
        let lives = bed.wanted.lives;
        let authority = bed.stored.current.as_ref().unwrap().trusted.validity;
        for (found, life) in [(bed.serving(), lives.serving), (authority, lives.authority)] {
            assert_eq!(found.not_before, at(DAY) - SignedDuration::try_from(lives.backdate).unwrap());
            assert_eq!(found.not_after, at(DAY + life));
        }
    }

    #[test]
    fn the_serving_certificate_is_renewed_at_two_thirds_of_its_life() {
        let mut bed = Bed::new();
        bed.steps(at(DAY));
        let first = bed.serving();
        assert_eq!(bed.steps(at(20 * DAY)), []);
        assert_eq!(bed.steps(at(21 * DAY + DAY / 10)), [Step::Reissue]);
        assert!(bed.serving().not_after > first.not_after);
    }

    #[test]
    fn the_next_look_comes_soon_enough_to_notice_a_clock_that_was_set() {
        let mut bed = Bed::new();
        bed.steps(at(DAY));
        assert_eq!(bed.plan(at(DAY)), Step::Keep(at(DAY + Duration::from_secs(600))));
        let due = bed.serving().due();
        let before = due - SignedDuration::from_secs(5);
        assert_eq!(bed.plan(before), Step::Keep(due));
    }

    #[test]
    fn a_new_authority_signs_only_after_every_client_has_trusted_it_for_a_while() {
        let mut bed = Bed::new();
        bed.steps(at(DAY));
        let time = at(246 * DAY);
        bed.published = None;
        assert_eq!(bed.steps(time), [Step::Announce, Step::Reissue]);
        let (old, next) = (bed.stored.current.clone().unwrap().trusted, bed.stored.next.clone().unwrap().trusted);
        assert!(bed.stored.bundle == [old.clone(), next.clone()]);
        assert!(bed.is_trusted(time), "the old authority signs");
        for published in [None, Some(Duration::ZERO), Some(Duration::from_secs(29))] {
            bed.published = published;
            assert_eq!(bed.steps(time), []);
        }
        let bundle = bed.stored.bundle_pem();
        bed.published = Some(Duration::from_secs(30));
        assert_eq!(bed.steps(time), [Step::Adopt]);
        assert!(bed.stored.current.as_ref().unwrap().trusted == next && bed.is_trusted(time));
        assert_eq!(bed.stored.bundle_pem(), bundle, "adopting changes nothing for clients");
        assert!(!bed.stored.write().contains_key("next-authority.key"));
    }

    #[test]
    fn an_old_authority_leaves_the_bundle_when_it_is_over_and_not_before() {
        let mut bed = Bed::new();
        bed.steps(at(DAY));
        let old = bed.stored.current.clone().unwrap().trusted;
        bed.steps(at(246 * DAY));
        assert_eq!(bed.steps(at(247 * DAY)), [Step::Adopt]);
        assert!(bed.stored.current.as_ref().unwrap().trusted != old);
        let before = old.validity.not_after - SignedDuration::from_secs(1);
        bed.steps(before);
        assert!(bed.stored.bundle.contains(&old));
        assert_eq!(bed.steps(old.validity.not_after), [Step::Tidy]);
        assert!(!bed.stored.bundle.contains(&old));
    }

    #[test]
    fn ten_years_pass_without_a_moment_in_which_clients_do_not_trust_what_is_served() {
        let mut bed = Bed::new();
        let mut written = 0;
        for day in 0..3650 {
            let now = at(day * DAY);
            let (before, trusted) = (bed.stored.serving.clone(), bed.stored.bundle.clone());
            written += bed.steps(now).len();
            assert!(bed.is_trusted(now), "day {day}");
            assert!(bed.stored.bundle.len() <= 3);
            let Some(before) = before else { continue };
            let signer = &bed.stored.current.as_ref().unwrap().trusted;
            assert!(trusted.contains(signer), "day {day}: the bundle of yesterday trusts what is served today");
            let still = bed.stored.bundle.iter().any(|trusted| before.is_signed_by(trusted));
            assert!(still, "day {day}: the bundle of today trusts what was served yesterday");
        }
        assert!((180..250).contains(&written), "{written} writes");
    }

    #[test]
    fn an_authority_that_nobody_publishes_is_used_when_the_old_one_is_over() {
        let mut bed = Bed::new();
        bed.steps(at(DAY));
        bed.published = None;
        let mut writes = 0;
        for hour in (246 * 24)..(366 * 24) {
            writes += bed.steps(at(hour * DAY / 24)).len();
        }
        assert!(writes < 20, "{writes} writes");
        assert!(bed.stored.next.is_some() && bed.is_trusted(at(365 * DAY)));
        assert_eq!(bed.steps(at(366 * DAY)), [Step::Adopt]);
        assert!(bed.is_trusted(at(366 * DAY)));
    }

    #[test]
    fn a_clock_that_steps_back_costs_one_certificate_and_no_loop() {
        let mut bed = Bed::new();
        bed.steps(at(10 * DAY));
        bed.steps(at(31 * DAY));
        assert_eq!(bed.steps(at(31 * DAY) - SignedDuration::from_mins(1)), [], "within the backdating");
        assert_eq!(bed.steps(at(30 * DAY)), [Step::Reissue], "the certificate is from the future");
        assert!(bed.is_trusted(at(30 * DAY)));
        assert_eq!(bed.steps(at(31 * DAY)), [], "a replica whose clock is right agrees");
        let before = bed.stored.bundle.len();
        assert_eq!(bed.steps(at(DAY)), [Step::Begin], "the authority is from the future");
        assert_eq!(bed.stored.bundle.len(), before + 1, "it stays trusted");
        assert_eq!(bed.steps(at(31 * DAY)), [Step::Reissue]);
    }

    #[test]
    fn garbage_in_the_secret_is_replaced() {
        for name in ["authority.crt", "authority.key", "tls.crt", "tls.key", "ca.crt", "next-authority.crt"] {
            for garbage in ["", "garbage", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
                let mut bed = Bed::new();
                bed.steps(at(DAY));
                let bundle = bed.stored.bundle_pem();
                let mut data = bed.stored.write();
                data.insert(name.into(), k8s_openapi::ByteString(garbage.into()));
                bed.stored = Stored::read(&data);
                let steps = bed.steps(at(DAY));
                assert!(bed.is_trusted(at(DAY)), "{name}");
                let expected: &[Step] = match name {
                    "ca.crt" => &[Step::Tidy],
                    "tls.crt" | "tls.key" => &[Step::Reissue],
                    "next-authority.crt" => &[],
                    _ => &[Step::Begin],
                };
                assert_eq!(steps, expected, "{name}");
                assert!(bed.stored.bundle_pem().starts_with(&bundle), "what was trusted stays trusted");
            }
        }
        let binary = BTreeMap::from([("ca.crt".to_owned(), k8s_openapi::ByteString(vec![0xff; 4096]))]);
        let mut bed = Bed { stored: Stored::read(&binary), ..Bed::new() };
        assert_eq!(bed.steps(at(DAY)), [Step::Begin]);
    }

    #[test]
    fn a_key_of_another_certificate_counts_as_none() {
        let (mut one, mut other) = (Bed::new(), Bed::new());
        one.steps(at(DAY));
        other.steps(at(DAY));
        for (name, step) in [("authority.key", Step::Begin), ("tls.key", Step::Reissue), ("authority.crt", Step::Begin)] {
            let mut data = one.stored.write();
            data.insert(name.into(), other.stored.write()[name].clone());
            let bed = Bed { stored: Stored::read(&data), ..Bed::new() };
            assert_eq!(bed.plan(at(DAY)), step, "{name}");
        }
    }

    #[test]
    fn a_serving_certificate_by_another_authority_is_reissued() {
        let (mut one, mut other) = (Bed::new(), Bed::new());
        one.steps(at(DAY));
        other.steps(at(DAY));
        one.stored.serving = other.stored.serving;
        assert_eq!(one.plan(at(DAY)), Step::Reissue);
    }

    #[test]
    fn a_serving_certificate_passed_off_as_an_authority_is_not_taken() {
        let mut bed = Bed::new();
        bed.steps(at(DAY));
        let mut data = bed.stored.write();
        for (from, to) in [("tls.crt", "authority.crt"), ("tls.key", "authority.key"), ("tls.crt", "ca.crt")] {
            data.insert(to.into(), data[from].clone());
        }
        let read = Stored::read(&data);
        assert!(read.current.is_none() && read.bundle.is_empty());
    }

    #[test]
    fn a_name_that_is_missing_is_added_and_two_versions_agree() {
        let mut bed = Bed::new();
        bed.steps(at(DAY));
        let (old, new) = (bed.wanted.names.clone(), vec!["other.mandate.svc".to_owned()]);
        bed.wanted.names.clone_from(&new);
        assert_eq!(bed.steps(at(DAY)), [Step::Reissue]);
        bed.wanted.names = old;
        assert_eq!(bed.steps(at(DAY)), [], "the version with the old names is content");
        bed.wanted.names.clone_from(&new);
        bed.steps(at(25 * DAY));
        assert_eq!(bed.stored.serving.as_ref().unwrap().names, new, "a renewal leaves out what nobody wants");
    }

    #[test]
    fn lives_of_seconds_work_too() {
        let mut bed = Bed::new();
        let seconds = Duration::from_secs;
        bed.wanted.lives = Lives { serving: seconds(3), authority: seconds(9), backdate: seconds(0), settle: seconds(1) };
        let mut reissued = 0;
        for second in 0..60 {
            reissued += bed.steps(at(seconds(second))).len();
            assert!(bed.is_trusted(at(seconds(second))), "second {second}");
        }
        assert!((20..60).contains(&reissued), "{reissued}");
    }
}
