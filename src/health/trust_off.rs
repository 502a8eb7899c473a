//! In place of `trust` where this build has no TLS: the configuration refuses the kind "https" before it comes here.

use std::net::SocketAddr;

use anyhow::Result;

use super::plan::Plan;
use super::talk::Talk;
use crate::config::Config;
use crate::probe::ProbeResult;
use crate::probe::check::Https;

/// Nothing to go by.
#[derive(Debug, Default)]
pub(super) struct Trusts {}

/// Finds nothing.
///
/// # Errors
/// None.
pub const fn refuse_unusable(_: &Config) -> Result<()> {
    Ok(())
}

impl Trusts {
    pub(super) const fn follow(&self, _: &Plan) {}

    pub(super) const fn talk(&self, _: &Https, _: SocketAddr) -> Result<Talk, ProbeResult> {
        Err(ProbeResult::NotSent)
    }
}
