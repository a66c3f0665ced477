//! Which traces are kept.

use super::context::Parent;

/// Keeps a share of all traces.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampler {
    share: f64,
    follows: bool,
}

impl Sampler {
    /// Of all traces this share, whatever the caller does with them.
    #[must_use]
    pub const fn of_each(share: f64) -> Self {
        Self { share, follows: false }
    }

    /// What the caller keeps of its traces; of those that begin here, this share.
    #[must_use]
    pub const fn following_parents(share: f64) -> Self {
        Self { share, follows: true }
    }

    /// Whether a trace is kept.
    #[must_use]
    pub fn keeps(&self, parent: Option<&Parent>, trace: u128) -> bool {
        match parent {
            Some(parent) if self.follows => parent.sampled,
            _ => self.draws(trace),
        }
    }

    /// By the lower half of the id, so that everybody who keeps this share keeps the same traces.
    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        reason = "as the SDKs of OpenTelemetry do it: 63 of the random bits against a share of them"
    )]
    fn draws(&self, trace: u128) -> bool {
        let drawn = (trace as u64 >> 1) as f64;
        self.share >= 1.0 || drawn < self.share * (1_u64 << 63) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parent(sampled: bool) -> Parent {
        Parent { trace: 1, span: 1, sampled }
    }

    #[test]
    fn a_caller_decides_for_its_traces_where_it_is_followed() {
        for share in [0.0, 0.5, 1.0] {
            let following = Sampler::following_parents(share);
            assert!(following.keeps(Some(&parent(true)), u128::MAX));
            assert!(!following.keeps(Some(&parent(false)), 0));
        }
        assert!(!Sampler::of_each(0.0).keeps(Some(&parent(true)), 0));
        assert!(Sampler::of_each(1.0).keeps(Some(&parent(false)), u128::MAX));
    }

    #[test]
    fn a_share_is_that_share_of_the_ids() {
        let kept = |share: f64| (0..1000_u128).filter(|n| Sampler::following_parents(share).keeps(None, n << 54)).count();
        assert_eq!((kept(0.0), kept(0.25), kept(0.5), kept(1.0)), (0, 256, 512, 1000));
    }
}
