//! `mandate run`: the long-lived roles.

use super::Outcome;

#[derive(Debug, clap::Subcommand)]
pub(super) enum Role {
    /// Turn tasks into authority and take it back
    Controller,
}

pub(super) fn run(_: Role) -> anyhow::Result<Outcome> {
    Ok(Outcome::Done)
}
