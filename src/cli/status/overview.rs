//! The table of `tunlb status`: the director in a line, VIPs, their backends, what was dropped.

use anstyle::{AnsiColor, Style};

use super::{backend, service};
use crate::api::model::{Author, Backend, Cause, Director, Health, Override, Status, Vip, Xdp};
use crate::cli::amount::{between, count, lasting, rate};
use crate::cli::columns::{Align, Cell, Screen, Table};
use crate::text::plain::plain;

const BAD: Style = AnsiColor::Red.on_default().bold();
const NOTABLE: Style = AnsiColor::Yellow.on_default();
const GOOD: Style = AnsiColor::Green.on_default();
const HEAD: Style = Style::new().bold();

/// VIPs that are named for a reason of drops.
const NAMED: usize = 3;

const BITS: f64 = 8.0;

/// What is said of a VIP whose backends' health is passed by.
pub(super) const FAIL_OPEN: &str =
    "too little is healthy: flows go to all backends (all_down, min_healthy)";

pub(super) fn lines(status: &Status, screen: Screen) -> Vec<String> {
    let mut lines = vec![screen.cut(&head(&status.director, screen))];
    lines.extend(complaints(status).iter().map(|line| screen.cut(line)));
    lines.extend(table(status).lines(screen));
    lines.push(screen.cut(&dropped(status)));
    if let Some(xdp) = &status.director.xdp {
        lines.push(screen.cut(&by_xdp(xdp)));
    }
    lines
}

/// How packets left, or why they went on to the kernel.
fn by_xdp(xdp: &Xdp) -> String {
    let interfaces = xdp.interfaces.iter();
    let interfaces = interfaces.map(|one| format!("{} ({})", one.name, one.mode));
    let interfaces: Vec<_> = interfaces.collect();
    let packets = xdp.packets.iter().filter(|(_, number)| **number > 0);
    let packets = packets.map(|(way, number)| format!("{way} {}", count(*number)));
    let packets: Vec<_> = packets.collect();
    plain(&format!(
        "XDP on {}: {}",
        interfaces.join(", "),
        packets.join("  ")
    ))
}

fn head(director: &Director, screen: Screen) -> String {
    let workers = crate::text::count(director.workers.len(), "worker");
    let up = lasting(std::time::Duration::from_secs(director.uptime_seconds));
    let version = director.version.split(' ').next().unwrap_or_default(); // without the commit
    let process = format!(
        "tunlb {version} on {}, {}, {workers}, up {up}",
        director.host, director.tun
    );
    let file = director.config.file.as_ref();
    let file = file.map_or_else(
        || "no file".to_owned(),
        |file| format!("file {}", file.display()),
    );
    let file = match director.config.overrides {
        0 => file,
        overrides => format!("{file} + {}", crate::text::count(overrides, "override")),
    };
    let (style, ready) = if director.ready.ok {
        (GOOD, "ready")
    } else {
        (BAD, "NOT READY")
    };
    let dot = screen.dot();
    format!(
        "{}{dot}{}{dot}{style}{ready}{style:#}",
        plain(&process),
        plain(&file)
    )
}

/// What needs an eye before the table does.
fn complaints(status: &Status) -> Vec<String> {
    let director = &status.director;
    let reasons = director.ready.reasons.iter();
    let mut texts: Vec<_> = reasons
        .map(|reason| format!("Not ready: {reason}"))
        .collect();
    if let Some(reload) = director.config.last_reload.as_ref().filter(|last| !last.ok) {
        let ago = between(&reload.at, &status.at).map(|ago| format!(" {} ago", lasting(ago)));
        let problem = reload.problems.first().map_or("", String::as_str);
        let more = match reload.problems.len() {
            0 | 1 => String::new(),
            many => format!(" (and {} more; tunlb reload --dry-run)", many - 1),
        };
        let ago = ago.unwrap_or_default();
        texts.push(format!("Last reload failed{ago}: {problem}{more}"));
    }
    let red = |text: &String| format!("{BAD}{}{BAD:#}", plain(text));
    texts.iter().map(red).collect()
}

fn table(status: &Status) -> Table {
    use Align::{Left, Right};
    let mut table = Table::new(&[Left, Left, Right, Right, Right, Right, Right, Right, Left]);
    let heads = [
        "Prot", "VIP", "Healthy", "Takes", "New/s", "Pkt/s", "Bit/s", "Flows", "Announce",
    ];
    table.row(heads.iter().map(|head| Cell::styled(head, HEAD)).collect());
    for vip in &status.vips {
        table.row(vip_row(vip));
        for backend in &vip.backends {
            table.row(backend_row(backend, &status.at));
        }
    }
    table
}

fn vip_row(vip: &Vip) -> Vec<Cell> {
    let healthy = format!("{}/{}", vip.healthy, vip.backends.len());
    let is_whole = vip.healthy == vip.backends.len();
    let flows = vip.backends.iter().map(|backend| backend.flows).sum();
    let mut row = service(vip).to_vec();
    row.push(Cell::styled(healthy, if is_whole { GOOD } else { NOTABLE }));
    row.push(Cell::styled(
        vip.takes_new.to_string(),
        if vip.takes_new == 0 {
            BAD
        } else {
            Style::new()
        },
    ));
    row.extend(rates(&vip.rates.ten_seconds));
    row.push(Cell::new(count(flows)));
    row.push(announce(vip));
    row
}

/// What routers are to be told of its address, why that is not "up", and what else is wrong.
fn announce(vip: &Vip) -> Cell {
    let announce = vip.announce.as_ref();
    let state = announce.map_or("-", |announce| announce.state.as_str());
    let note = if vip.fail_open {
        Some(FAIL_OPEN)
    } else if vip.takes_new == 0 {
        Some("no backend takes new flows")
    } else {
        None
    };
    let why = announce.and_then(|announce| announce.why.as_deref());
    let parts = [Some(state), why, note].into_iter().flatten();
    let style = match (state, note) {
        ("up", None) => GOOD,
        ("drain", None) => NOTABLE,
        _ => BAD,
    };
    Cell::styled(parts.collect::<Vec<_>>().join("; "), style)
}

fn rates(rates: &crate::api::model::Rate) -> [Cell; 3] {
    [rates.new_flows, rates.packets, rates.bytes * BITS].map(|number| Cell::new(rate(number)))
}

fn backend_row(of: &Backend, at: &str) -> Vec<Cell> {
    let (health, style) = match of.health.status.as_str() {
        "unhealthy" => ("DOWN", BAD),
        "healthy" => ("healthy", GOOD),
        other => (other, Style::new()),
    };
    let takes = match of.takes.as_str() {
        "nothing" => "-",
        other => other,
    };
    let mut row = backend(of).to_vec();
    row.push(Cell::styled(health, style));
    row.push(Cell::new(takes));
    row.extend(rates(&of.rates.ten_seconds));
    row.push(Cell::new(count(of.flows)));
    let is_notable = of.takes != "new" || of.overridden.is_some();
    let style = if is_notable { NOTABLE } else { Style::new() };
    row.push(Cell::styled(notes(of, at).join(", "), style));
    row
}

/// What else there is to say: the weight always, the rest where it is not the usual.
pub(in crate::cli) fn notes(of: &Backend, at: &str) -> Vec<String> {
    let mut notes = vec![weight(of)];
    if of.weight.configured.is_none() {
        notes.push("not in the file".to_owned());
    }
    let says = |word: &str| of.why.as_deref().is_some_and(|why| why.contains(word));
    let state = &of.state.effective;
    if state != "active" && !says(state) {
        notes.push(state.clone());
    }
    notes.extend(of.why.clone());
    if let Some(health) = of.health.overridden.as_ref().filter(|health| !says(health)) {
        notes.push(format!("taken for {health}"));
    }
    notes.extend(measured(&of.health, at));
    if of.health.via.as_deref() == Some("direct") {
        notes.push("probed past the tunnel".to_owned());
    }
    let percent = of.health.slow_start_percent;
    notes.extend(percent.map(|percent| format!("slow start: {percent} % of its weight")));
    if of.path.device.is_none() {
        notes.push("no route".to_owned());
    }
    if let Some(overridden) = &of.overridden {
        notes.push(made(overridden, at));
    }
    notes
}

/// What probes found, where it is not that all is well: since when, and the cause.
fn measured(health: &Health, at: &str) -> Option<String> {
    if !matches!(health.status.as_str(), "unhealthy" | "unknown") {
        let hole = health.mtu.as_ref()?.cause.as_ref()?;
        return Some(explained(hole));
    }
    let since = health.since.as_deref();
    let since = since
        .and_then(|since| between(since, at))
        .map(|since| format!("for {}", lasting(since)));
    let cause = health.cause.as_ref().map(explained);
    let parts: Vec<_> = since.into_iter().chain(cause).collect();
    (!parts.is_empty()).then(|| parts.join(", "))
}

fn explained(cause: &Cause) -> String {
    let codes = cause.codes.join(" ");
    let end = if codes.is_empty() {
        String::new()
    } else {
        format!(": {codes}")
    };
    format!("{}{end}", cause.text)
}

fn weight(of: &Backend) -> String {
    let weight = of.weight.effective;
    match of.weight.configured {
        Some(configured) if configured != weight => format!("w {weight} (file: {configured})"),
        Some(_) | None => format!("w {weight}"),
    }
}

/// Who overrides, since when, for how long, and why.
fn made(overridden: &Override, at: &str) -> String {
    let mut text = format!("by {}", author(&overridden.by));
    if let Some(ago) = between(&overridden.made, at) {
        text += &format!(" {} ago", lasting(ago));
    }
    if let Some(seconds) = overridden.expires_in_seconds {
        let left = lasting(std::time::Duration::from_secs(seconds));
        text += &format!(", for another {left}");
    }
    if let Some(reason) = &overridden.reason {
        text += &format!(": {reason}");
    }
    text
}

/// Who did something.
pub(in crate::cli) fn author(by: &Author) -> String {
    let user = by.user.as_ref().map(|user| format!(" ({user})"));
    format!("uid {}{}", by.uid, user.unwrap_or_default())
}

/// By reason, with the VIPs that they were for.
fn dropped(status: &Status) -> String {
    let director = &status.director;
    let mut parts: Vec<_> = director
        .drops
        .iter()
        .map(|(reason, number)| format!("{reason} {}{}", count(*number), vips(status, reason)))
        .collect();
    let errors = director.send_errors.iter();
    parts.extend(errors.map(|(error, number)| format!("{error} on sending {}", count(*number))));
    let devices = director.device_drops.iter();
    parts.extend(
        devices.map(|(device, number)| format!("on the way out by {device} {}", count(*number))),
    );
    parts.push(format!("by the TUN's queue {}", count(director.tun_drops)));
    plain(&format!("Dropped: {}", parts.join("  ")))
}

fn vips(status: &Status, reason: &str) -> String {
    let dropped = |vip: &&Vip| vip.drops.get(reason).is_some_and(|number| *number > 0);
    let names: Vec<_> = status
        .vips
        .iter()
        .filter(dropped)
        .map(|vip| vip.name.as_str())
        .collect();
    let named = names
        .iter()
        .take(NAMED)
        .copied()
        .collect::<Vec<_>>()
        .join(", ");
    match names.len() {
        0 => String::new(),
        few if few <= NAMED => format!(" ({named})"),
        many => format!(" ({named} and {} more)", many - NAMED),
    }
}
