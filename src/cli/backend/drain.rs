//! `tunlb backend drain --wait`: until the last flow has ended.

use std::net::IpAddr;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::look;
use crate::api::model::Backend;
use crate::cli::amount::lasting;
use crate::cli::{BAD_NEWS, complain};
use crate::client::Client;
use crate::text::{Plain, count};

/// Between two looks.
const INTERVAL: Duration = Duration::from_millis(500);

/// Between two lines about it.
const TOLD_EVERY: Duration = Duration::from_secs(10);

/// How far it is.
#[derive(Debug, PartialEq, Eq)]
enum Progress {
    Drained,
    /// It is no backend any more.
    Gone,
    /// It is no longer draining: an operator changed its state.
    CalledOff(String),
    /// Flows that are left.
    Left(u64),
}

impl Progress {
    fn of(backend: Option<&Backend>) -> Self {
        let Some(backend) = backend else {
            return Self::Gone;
        };
        match (backend.state.effective.as_str(), backend.flows) {
            ("active", _) => Self::CalledOff("active".to_owned()),
            (_, 0) => Self::Drained,
            (_, flows) => Self::Left(flows),
        }
    }
}

/// Waits: 0 once no flow is left, 1 where some are at the deadline.
///
/// # Errors
/// The director ends meanwhile.
pub(super) fn wait(
    client: &Client,
    vip: &str,
    address: IpAddr,
    patience: Duration,
) -> Result<ExitCode> {
    let name = format!("vip {}: backend {address}", Plain(vip));
    let begun = Instant::now();
    let mut told = begun;
    loop {
        let backend = look(client, vip, address)?;
        let waited = begun.elapsed();
        match Progress::of(backend.as_ref()) {
            Progress::Drained => {
                complain(&format!("{name}: drained after {}", lasting(waited)));
                return Ok(ExitCode::SUCCESS);
            }
            Progress::Gone => {
                complain(&format!("{name}: removed meanwhile"));
                return Ok(ExitCode::SUCCESS);
            }
            Progress::CalledOff(state) => {
                complain(&format!("{name}: it is {state} again; it was not drained"));
                return Ok(ExitCode::from(BAD_NEWS));
            }
            Progress::Left(flows) if waited >= patience => {
                let flows = count(flows, "flow");
                let waited = lasting(waited);
                complain(&format!(
                    "{name}: {flows} left after {waited}; it goes on draining"
                ));
                return Ok(ExitCode::from(BAD_NEWS));
            }
            Progress::Left(flows) => {
                if told.elapsed() >= TOLD_EVERY {
                    told = Instant::now();
                    let rest = lasting(patience.saturating_sub(waited));
                    let flows = count(flows, "flow");
                    complain(&format!("{name}: {flows} left, {rest} until the deadline"));
                }
            }
        }
        thread::sleep(INTERVAL.min(patience.saturating_sub(waited)));
    }
}
