//! `tunlb probe`: from this host through the tunnels to the backends, stage by stage: where does a packet die?

mod report;

use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, bail};

use super::source::ConfigSource;
use super::{BAD_NEWS, print};
use crate::config::Config;
use crate::health::{Asking, look};
use crate::io::capability::{self, Capability};
use crate::io::netlink::Netlink;
use crate::io::{signals, undo};
use report::Report;

/// The device that packets of probes come out of.
const DEVICE: &str = "tlprobe0";

/// Arguments of `tunlb probe`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Configuration file (docs/config.md names every key); - is standard input
    #[arg(short, long, value_name = "FILE")]
    pub config: PathBuf,

    /// Only this backend
    #[arg(long, value_name = "ADDR")]
    pub backend: Option<IpAddr>,

    /// Probe as the client with this address, which this host has; connects to the VIP as clients do, too
    #[arg(long, value_name = "ADDR")]
    pub as_client: Option<IpAddr>,

    /// One JSON document on stdout for each look (described in docs/health.md)
    #[arg(long)]
    pub json: bool,

    /// Look again and again, with so many seconds in between, until SIGINT or SIGTERM
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "5")]
    pub watch: Option<u32>,
}

/// Looks: 0 where every backend answers, 1 where one does not.
///
/// # Errors
/// The configuration names no such backend; privileges are missing; the kernel refuses a device, a route or a socket.
pub fn run(args: &Args) -> Result<ExitCode> {
    let source = ConfigSource {
        config: Some(args.config.clone()),
        vip: Vec::new(),
        backend: Vec::new(),
        tun: None,
        workers: None,
        encap: None,
    };
    let Some(config) = source.load_or_complain(None)? else {
        return Ok(ExitCode::from(BAD_NEWS));
    };
    refuse_unknown(&config, args.backend)?;
    refuse_foreign(args.as_client)?;
    capability::require(&[Capability::NetAdmin, Capability::NetRaw])?;
    capability::require_tun()?;
    undo::recover();
    let mut signals = signal_hook::iterator::Signals::new(signals::heard())?;
    loop {
        let asking = Asking {
            backend: args.backend,
            as_client: args.as_client,
        };
        let looks = look(&config, asking, DEVICE)?;
        let report = Report::new(&looks);
        print(&if args.json {
            report.to_json()?
        } else {
            report.to_text(is_utf8())
        })?;
        let Some(seconds) = args.watch else {
            return Ok(if report.is_good() {
                ExitCode::SUCCESS
            } else {
                ExitCode::from(BAD_NEWS)
            });
        };
        if stopped_within(&mut signals, Duration::from_secs(seconds.into())) {
            return Ok(ExitCode::SUCCESS);
        }
    }
}

fn refuse_unknown(config: &Config, backend: Option<IpAddr>) -> Result<()> {
    let Some(address) = backend else {
        return Ok(());
    };
    let mut backends = config.vips.iter().flat_map(|vip| &vip.backends);
    if !backends.any(|known| known.address == address) {
        bail!("--backend {address}: no VIP has that backend");
    }
    Ok(())
}

/// Answers go to the client's address: to be seen, they have to come to this host.
fn refuse_foreign(client: Option<IpAddr>) -> Result<()> {
    let Some(client) = client else { return Ok(()) };
    let held = Netlink::open()?.addresses()?;
    if !held.iter().any(|held| held.net.addr() == client) {
        bail!(
            "--as-client {client}: no address of this host, so answers would go elsewhere; run it on that client"
        );
    }
    Ok(())
}

/// Whether a signal that means to stop came, or comes within that time.
fn stopped_within(signals: &mut signal_hook::iterator::Signals, time: Duration) -> bool {
    let end = std::time::Instant::now() + time;
    loop {
        if signals
            .pending()
            .any(|signal| signals::meaning(signal) == signals::Meaning::Stop)
        {
            return true;
        }
        let left = end.saturating_duration_since(std::time::Instant::now());
        if left.is_zero() {
            return false;
        }
        std::thread::sleep(left.min(Duration::from_millis(100)));
    }
}

/// Whether the locale's characters are UTF-8 (locale(7)).
fn is_utf8() -> bool {
    let of = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
    let locale = of("LC_ALL")
        .or_else(|| of("LC_CTYPE"))
        .or_else(|| of("LANG"));
    locale.is_some_and(|locale| {
        let locale = locale.to_ascii_lowercase();
        locale.contains("utf-8") || locale.contains("utf8")
    })
}
