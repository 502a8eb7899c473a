//! What `tunlb probe` found, as a table and as JSON.

use std::fmt::Write as _;
use std::net::SocketAddr;

use anyhow::Result;
use serde::Serialize;

use crate::health::Look;
use crate::probe::{Answer, Cause, Detour, Evidence, ProbeResult, SizeFound};
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
    /// Rows of `docs/doctor.md`, where it is the one that fails.
    codes: Vec<&'static str>,
    /// What to run next.
    hint: Option<String>,
}

impl Stage {
    fn new(stage: &'static str, ok: Option<bool>, evidence: String) -> Self {
        Self {
            stage,
            ok,
            evidence,
            codes: Vec::new(),
            hint: None,
        }
    }
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
        let Evidence {
            address,
            probe,
            size,
            ..
        } = look.evidence;
        let cause = look.evidence.cause();
        let too_long = size.and_then(|size| size.cause());
        let ok = probe == ProbeResult::Ok && too_long.is_none();
        let cause = cause.or(too_long);
        let hint = cause
            .as_ref()
            .filter(|cause| !cause.codes.is_empty())
            .map(|cause| next_step(look, cause));
        let (verdict, codes) = match cause {
            Some(cause) => (cause.text, cause.codes),
            None if ok => ("it answers through the tunnel".to_owned(), Vec::new()),
            None => (
                format!("nothing is known of it: {probe}, a fault of this host"),
                Vec::new(),
            ),
        };
        let mut stages = stages(look);
        if let Some(blamed) = blamed(&mut stages, &codes) {
            blamed.codes.clone_from(&codes);
            blamed.hint.clone_from(&hint);
        }
        Self {
            vip: look.probed.target.vip.to_string(),
            service: look.service.clone(),
            backend: address.to_string(),
            ok,
            verdict,
            codes,
            hint,
            stages,
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

/// The command that tells more.
fn next_step(look: &Look, cause: &Cause) -> String {
    let service = &look.service;
    if cause.is_here() {
        return format!("on this host: tunlb doctor --role director --vip {service}");
    }
    let address = look.evidence.address;
    let client = look
        .probed
        .source
        .map(|source| format!(" --client {source}"));
    format!(
        "on {address}: tunlb doctor --role backend --vip {service}{}",
        client.unwrap_or_default()
    )
}

/// The stage that a verdict speaks of: the one that its first row belongs to, else the first that fails.
fn blamed<'a>(stages: &'a mut [Stage], codes: &[&'static str]) -> Option<&'a mut Stage> {
    let stage = match *codes.first()? {
        "D38" => "route",
        "D36" | "B22" | "B31" | "B6" => "way back",
        "B24" => "full size",
        _ => "",
    };
    let fails = |found: &Stage| found.ok == Some(false);
    let named = stages
        .iter()
        .position(|found| found.stage == stage && fails(found));
    let position = named.or_else(|| stages.iter().position(fails))?;
    stages.get_mut(position)
}

fn found(result: Option<ProbeResult>) -> &'static str {
    result.map_or("not asked", ProbeResult::name)
}

fn passed(result: Option<ProbeResult>) -> Option<bool> {
    result.map(|result| result == ProbeResult::Ok)
}

/// In the order of a packet's way.
fn stages(look: &Look) -> Vec<Stage> {
    let evidence = &look.evidence;
    let address = evidence.address;
    let own = SocketAddr::new(address, evidence.port);
    let check = &look.probed.check;
    let destination = look.probed.destination;
    let source = look
        .probed
        .source
        .map_or("no address".to_owned(), |source| source.to_string());
    let mut stages = vec![
        route(look),
        Stage::new(
            "ping",
            passed(evidence.direct_ping),
            format!("{address}: {}", found(evidence.direct_ping)),
        ),
        Stage::new(
            "direct",
            // A service that listens at the VIP alone refuses there, and is right.
            evidence
                .direct
                .filter(|result| *result == ProbeResult::Ok)
                .map(|_| true),
            format!("{own}/tcp, without the tunnel: {}", found(evidence.direct)),
        ),
        Stage::new(
            "tunnel",
            passed(evidence.tunnel_ping),
            format!(
                "ping of the VIP from {source}: {}",
                found(evidence.tunnel_ping)
            ),
        ),
        full_size(evidence.size.as_ref()),
        Stage::new(
            check.kind.name(),
            Some(evidence.probe == ProbeResult::Ok),
            format!("{destination} through the tunnel: {}", evidence.probe),
        ),
        way_back(evidence),
    ];
    if let Some(result) = look.as_client {
        stages.push(Stage::new(
            "as client",
            Some(result == ProbeResult::Ok),
            format!("{destination} from {source}, by the way of any client: {result}"),
        ));
    }
    stages
}

fn route(look: &Look) -> Stage {
    let mut evidence = look.way.clone();
    let mut ok = look.has_route;
    if let Some((hop, state)) = &look.neighbour {
        write!(evidence, ", next hop {hop} {state}").unwrap_or_default();
        ok &= state != "FAILED" && state != "INCOMPLETE";
    }
    Stage::new("route", Some(ok), evidence)
}

fn full_size(size: Option<&SizeFound>) -> Stage {
    let Some(size) = size else {
        return Stage::new("full size", None, "not asked".to_owned());
    };
    let mut evidence = format!("ping of {} bytes: {}", size.wanted, size.full);
    if let Some(fits) = size.fits {
        write!(evidence, "; {fits} bytes get through").unwrap_or_default();
    }
    match size.told {
        Some((Some(router), mtu)) => {
            write!(evidence, "; {router} says by ICMP: MTU {mtu}").unwrap_or_default();
        }
        Some((None, mtu)) => {
            write!(evidence, "; this host has learnt: MTU {mtu}").unwrap_or_default();
        }
        None => {}
    }
    Stage::new("full size", passed(Some(size.full)), evidence)
}

/// What was seen on the devices.
fn way_back(evidence: &Evidence) -> Stage {
    let seen = evidence.answer.as_ref().or(evidence.pong.as_ref());
    let stage = |ok, evidence| Stage::new("way back", ok, evidence);
    match (seen, evidence.kept_by, &evidence.detour) {
        (_, _, Some(Detour::Masqueraded(source))) => stage(
            Some(false),
            format!("the probe left with source {source}: its answer does not come here"),
        ),
        (_, _, Some(Detour::Device(device))) => stage(
            Some(false),
            format!("the probe left by {device}, past the probe device"),
        ),
        (_, _, Some(Detour::Nowhere)) => {
            stage(Some(false), "the probe left by no device".to_owned())
        }
        (Some(seen), ..) if matches!(seen.what, Answer::Error(..)) => stage(
            Some(false),
            format!("{seen}, about the packet from the tunnel"),
        ),
        (Some(seen), Some(keeper), _) => {
            stage(Some(false), format!("{seen}: dropped by {keeper} there"))
        }
        (Some(seen), None, _) if seen.from != evidence.vip => {
            stage(Some(false), format!("{seen}, which is not the VIP"))
        }
        (Some(seen), None, _) => stage(Some(true), seen.to_string()),
        (None, ..) if evidence.returned => stage(
            Some(false),
            "the probe itself came back out of the tunnel".to_owned(),
        ),
        (None, ..) => match evidence.inner_error {
            Some(error) => stage(
                Some(false),
                format!("{error}, about the packet from the tunnel"),
            ),
            None => stage(None, "nothing came".to_owned()),
        },
    }
}
