//! The packet's way as a picture: which stages it passes and where it ends.

use super::Placed;
use super::case::Case;
use crate::doctor::finding::{Code, Stage, StageState, Status};

/// A place on the packet's way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// How the packet is drawn past the director.
    Arp,
    /// Packet filters, for the outer packet.
    OuterFirewall,
    /// The tunnel device.
    Tunnel,
    /// Delivery to the VIP.
    Vip,
    /// Source validation.
    SourceValidation,
    /// Packet filters, for the inner packet.
    InnerFirewall,
    /// The service.
    Socket,
    /// The route of the answer.
    WayBack,
    /// Packet filters, for the answer.
    OutputFirewall,
    /// The device by which the answer leaves.
    Out,
    /// How packets for a VIP in a director's own subnet find it.
    Segment,
    /// A director's route to its TUN.
    Route,
    /// A director's tunnel to its backends.
    Backends,
    /// Beside the way: a fault of some packets, or a risk.
    Aside,
}

/// When a stage is drawn.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Drawn {
    Always,
    /// Only where the packet may not get past.
    WhenNotOk,
}

/// Stages of a backend's picture.
pub(super) fn of_backend(case: &Case<'_>, placed: &[Placed], verdict: Option<Code>) -> Vec<Stage> {
    let target = case.target;
    let name = |device: &Option<String>, unknown: &str| {
        device.clone().unwrap_or_else(|| unknown.to_owned())
    };
    let physical = name(&target.physical, "E");
    let out = case.way_back().and_then(|route| route.device.clone());
    let wanted = |condition| {
        if condition {
            Drawn::Always
        } else {
            Drawn::WhenNotOk
        }
    };
    let stages = [
        ("arp".to_owned(), Place::Arp, Drawn::WhenNotOk),
        (
            "firewall".to_owned(),
            Place::OuterFirewall,
            Drawn::WhenNotOk,
        ),
        (name(&target.tunnel, "tunnel"), Place::Tunnel, Drawn::Always),
        ("vip".to_owned(), Place::Vip, Drawn::WhenNotOk),
        (
            "rp_filter".to_owned(),
            Place::SourceValidation,
            wanted(target.vip.is_ipv4()),
        ),
        (
            "firewall".to_owned(),
            Place::InnerFirewall,
            Drawn::WhenNotOk,
        ),
        ("socket".to_owned(), Place::Socket, Drawn::Always),
        ("route".to_owned(), Place::WayBack, Drawn::Always),
        (
            "firewall".to_owned(),
            Place::OutputFirewall,
            Drawn::WhenNotOk,
        ),
        (
            out.unwrap_or_else(|| physical.clone()),
            Place::Out,
            Drawn::Always,
        ),
    ];
    let mut picture = draw(&stages, placed, verdict);
    let arrives = case.physical().is_some_and(|link| link.up);
    let arrival = Stage {
        stage: physical,
        state: if arrives {
            StageState::Ok
        } else {
            StageState::Unknown
        },
    };
    let after_arp = usize::from(picture.first().is_some_and(|first| first.stage == "arp"));
    picture.insert(after_arp, arrival);
    picture
}

/// Stages of a director's picture.
pub(super) fn of_director(tun: &str, placed: &[Placed], verdict: Option<Code>) -> Vec<Stage> {
    let stages = [
        ("segment".to_owned(), Place::Segment, Drawn::WhenNotOk),
        ("route".to_owned(), Place::Route, Drawn::Always),
        (tun.to_owned(), Place::Tunnel, Drawn::Always),
        (
            "rp_filter".to_owned(),
            Place::SourceValidation,
            Drawn::WhenNotOk,
        ),
        ("backends".to_owned(), Place::Backends, Drawn::Always),
    ];
    draw(&stages, placed, verdict)
}

fn draw(stages: &[(String, Place, Drawn)], placed: &[Placed], verdict: Option<Code>) -> Vec<Stage> {
    let failed = placed
        .iter()
        .find(|placed| {
            placed.listed
                && Some(placed.finding.code) == verdict
                && placed.finding.status == Status::Fail
        })
        .map(|placed| placed.place);
    let mut picture = Vec::new();
    let mut ended = false;
    for (name, place, drawn) in stages {
        let state = if ended {
            StageState::Skipped
        } else {
            state(placed, *place)
        };
        // ARP draws some packets past the director; the others go their way.
        ended |= failed == Some(*place) && *place != Place::Arp;
        let notable =
            matches!(state, StageState::Fail | StageState::Unknown) && has_checks(placed, *place);
        if *drawn == Drawn::Always || notable {
            picture.push(Stage {
                stage: name.clone(),
                state,
            });
        }
    }
    picture
}

fn has_checks(placed: &[Placed], place: Place) -> bool {
    placed.iter().any(|placed| {
        placed.place == place && matches!(placed.finding.status, Status::Fail | Status::Unknown)
    })
}

fn state(placed: &[Placed], place: Place) -> StageState {
    let here = || {
        placed
            .iter()
            .filter(move |placed| placed.place == place)
            .map(|placed| &placed.finding)
    };
    let any = |status| here().any(|finding| finding.status == status);
    if any(Status::Fail) {
        StageState::Fail
    } else if any(Status::Unknown) {
        StageState::Unknown
    } else if any(Status::Pass) || any(Status::Warn) {
        StageState::Ok
    } else if here().any(|finding| finding.blocked_by.is_some()) {
        StageState::Skipped
    } else {
        StageState::Unknown
    }
}
