//! What `tunlb probe` found, as a table and as JSON.

use std::fmt::Write as _;
use std::net::SocketAddr;

use anyhow::Result;
use serde::Serialize;

use crate::health::Look;
use crate::probe::{Evidence, ProbeResult};
use crate::text::Plain;

/// The version of the JSON document; a change that breaks a reader raises it.
const SCHEMA: u32 = 1;

/// All that was found.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    schema: u32,
    /// Whether every backend answers.
    ok: bool,
    backends: Vec<Found>,
}

/// Of one backend of one VIP.
#[derive(Debug, Serialize)]
struct Found {
    vip: String,
    service: String,
    backend: String,
    ok: bool,
    verdict: String,
    /// Rows of `docs/doctor.md`.
    codes: Vec<&'static str>,
    /// What to run next.
    hint: Option<String>,
    stages: Vec<Stage>,
}

/// One stage of a packet's way.
#[derive(Debug, Serialize)]
struct Stage {
    stage: &'static str,
    /// Absent where it proves nothing.
    ok: Option<bool>,
    evidence: String,
}

impl Report {
    pub(super) fn new(looks: &[Look]) -> Self {
        let backends: Vec<_> = looks.iter().map(Found::new).collect();
        Self {
            schema: SCHEMA,
            ok: backends.iter().all(|found| found.ok),
            backends,
        }
    }

    pub(super) const fn is_good(&self) -> bool {
        self.ok
    }

    pub(super) fn to_json(&self) -> Result<String> {
        Ok(serde_json::to_string(self)? + "\n")
    }

    pub(super) fn to_text(&self, utf8: bool) -> String {
        let mut text = String::new();
        for found in &self.backends {
            found.write(utf8, &mut text);
        }
        let bad = self.backends.iter().filter(|found| !found.ok).count();
        let all = self.backends.len();
        writeln!(text, "{} of {all} answer", all - bad).unwrap_or_default();
        text
    }
}

impl Found {
    fn new(look: &Look) -> Self {
        let Evidence { address, probe, .. } = look.evidence;
        let cause = look.evidence.cause();
        let is_small = look.full_ping != Some(ProbeResult::Ok)
            && look.evidence.tunnel_ping == Some(ProbeResult::Ok);
        let ok = probe == ProbeResult::Ok && !is_small;
        let (verdict, codes) = match &cause {
            Some(cause) => (cause.text.clone(), cause.codes.clone()),
            None if probe == ProbeResult::Ok && is_small => (
                format!(
                    "packets of {} bytes do not get through the tunnel, smaller ones do: an MTU on the way",
                    look.probed.longest
                ),
                vec!["B24"],
            ),
            None if probe == ProbeResult::Ok => {
                ("it answers through the tunnel".to_owned(), Vec::new())
            }
            None => (
                format!("nothing is known of it: {probe}, a fault of this host"),
                Vec::new(),
            ),
        };
        let vip = look
            .service
            .rsplit_once(':')
            .map_or("", |(address, _)| address);
        let hint = cause.map(|_| {
            format!(
                "on {address}: tunlb doctor --role backend --vip {}",
                look.service
            )
        });
        Self {
            vip: look.probed.target.vip.to_string(),
            service: look.service.clone(),
            backend: address.to_string(),
            ok,
            verdict,
            codes,
            hint: hint.filter(|_| !vip.is_empty()),
            stages: stages(look),
        }
    }

    fn write(&self, utf8: bool, text: &mut String) {
        let Self {
            service, backend, ..
        } = self;
        writeln!(
            text,
            "vip {} ({service}), backend {backend}",
            Plain(&self.vip)
        )
        .unwrap_or_default();
        for stage in &self.stages {
            let mark = match (stage.ok, utf8) {
                (Some(true), true) => "\u{2713}",
                (Some(false), true) => "\u{2717}",
                (None, true) => "\u{b7}",
                (Some(true), false) => "ok  ",
                (Some(false), false) => "FAIL",
                (None, false) => "-   ",
            };
            writeln!(text, "  {mark} {:<12}  {}", stage.stage, stage.evidence).unwrap_or_default();
        }
        let codes = if self.codes.is_empty() {
            String::new()
        } else {
            format!(" ({})", self.codes.join(", "))
        };
        writeln!(text, "  => {}{codes}", self.verdict).unwrap_or_default();
        self.hint
            .iter()
            .for_each(|hint| writeln!(text, "     next: {hint}").unwrap_or_default());
        text.push('\n');
    }
}

/// In the order of a packet's way.
fn stages(look: &Look) -> Vec<Stage> {
    let Evidence {
        address,
        port,
        probe,
        direct,
        direct_ping,
        tunnel_ping,
    } = look.evidence;
    let own = SocketAddr::new(address, port);
    let check = &look.probed.check;
    let source = look
        .probed
        .source
        .map_or("no address".to_owned(), |source| source.to_string());
    let found = |result: Option<ProbeResult>| result.map_or("not asked", ProbeResult::name);
    let passed = |result: Option<ProbeResult>| result.map(|result| result == ProbeResult::Ok);
    vec![
        Stage {
            stage: "route",
            ok: Some(look.has_route),
            evidence: look.way.clone(),
        },
        Stage {
            stage: "ping",
            ok: passed(direct_ping),
            evidence: format!("{address}: {}", found(direct_ping)),
        },
        Stage {
            stage: "direct",
            // A service that listens at the VIP alone refuses there, and is right.
            ok: direct
                .filter(|result| *result == ProbeResult::Ok)
                .map(|_| true),
            evidence: format!("{own}/tcp, without the tunnel: {}", found(direct)),
        },
        Stage {
            stage: "tunnel",
            ok: passed(tunnel_ping),
            evidence: format!("ping of the VIP from {source}: {}", found(tunnel_ping)),
        },
        Stage {
            stage: "full size",
            ok: passed(look.full_ping),
            evidence: format!(
                "the same with {} bytes: {}",
                look.probed.longest,
                found(look.full_ping)
            ),
        },
        Stage {
            stage: check.kind.name(),
            ok: Some(probe == ProbeResult::Ok),
            evidence: format!("{} through the tunnel: {probe}", look.probed.destination),
        },
    ]
}
