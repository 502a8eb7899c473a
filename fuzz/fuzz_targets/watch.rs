//! Any packets as what a watch sees: the filter of the kernel ends for each, and what the packets come to is
//! printable. A byte before each packet tells its device and way, two its length.
#![no_main]

use std::net::IpAddr;

use libfuzzer_sys::fuzz_target;
use tunlb::doctor::facts::{Encap, Role};
use tunlb::doctor::finding::{Diagnosis, SCHEMA, Verdict};
use tunlb::doctor::watch::{Observation, Sighting, Watched, Way, apply, capture_filter, seen_in};
use tunlb::doctor::{Lang, Observed, Status};
use tunlb::packet::Protocol;
use tunlb_fuzz::{VIP4, VIP6, filter_ends, printed};

/// Names as a machine may have them.
const DEVICES: [&str; 4] = ["eth0", "decap0", "lo", "\u{1b}[2J$(id)"];

fuzz_target!(|data: &[u8]| {
    let Some((&[kind, port], mut rest)) = data.split_first_chunk() else {
        return;
    };
    let watched = watched(kind, port);
    let mut seen = Vec::new();
    while let Some(([around, high, low], after)) = rest.split_first_chunk() {
        let length = usize::from(u16::from_be_bytes([*high, *low])).min(after.len());
        let (bytes, after) = after.split_at(length);
        rest = after;
        for client in [None, watched.client] {
            filter_ends(&capture_filter(&watched, client), bytes, *around);
        }
        let Some((outer, packet)) = seen_in(bytes, watched.encap) else {
            continue;
        };
        seen.push(Sighting {
            microseconds: u64::from(*around) << 20,
            device: DEVICES[usize::from(around % 4)].to_owned(),
            way: if around & 4 == 0 { Way::In } else { Way::Out },
            outer,
            packet,
        });
    }
    judge(&watched, seen, kind);
});

fn watched(kind: u8, port: u8) -> Watched {
    let vip = if kind & 1 == 0 {
        IpAddr::from(VIP4)
    } else {
        IpAddr::from(VIP6)
    };
    Watched {
        vip,
        port: (port != 0).then_some(u16::from(port)),
        protocol: if kind & 2 == 0 {
            Protocol::Tcp
        } else {
            Protocol::Udp
        },
        client: (kind & 4 == 0).then(|| "192.0.2.7".parse().expect("an address")),
        encap: if kind & 8 == 0 {
            Encap::Ipip
        } else {
            Encap::Gue(6080)
        },
        physical: Some(DEVICES[0].to_owned()),
        tunnel: Some(DEVICES[usize::from(kind >> 4) % 4].to_owned()),
    }
}

fn judge(watched: &Watched, seen: Vec<Sighting>, kind: u8) {
    let vip = watched.vip;
    let observation = Observation {
        vip,
        port: watched.port,
        protocol: if watched.protocol == Protocol::Tcp {
            "tcp"
        } else {
            "udp"
        }
        .to_owned(),
        physical: watched.physical.clone(),
        tunnel: watched.tunnel.clone(),
        milliseconds: 7,
        interrupted: false,
        flow: seen.first().map(|first| (first.packet.source, 40_000)),
        established: [None, Some(false), Some(true)][usize::from(kind >> 5) % 3],
        seen,
        lost: u32::from(kind >> 6),
        deltas: [("IpInReceives".to_owned(), 3)].into(),
        counts_transmits: kind & 16 != 0,
        drop_reasons: Observed::Unseen("\u{1b}[2J".to_owned()),
    };
    let port = watched
        .port
        .map_or("any".to_owned(), |port| port.to_string());
    let service = if vip.is_ipv4() {
        format!("{vip}:{port}")
    } else {
        format!("[{vip}]:{port}")
    };
    for lang in [Lang::En, Lang::Zh] {
        let at_rest = Diagnosis {
            schema: SCHEMA,
            role: Role::Backend,
            vip: Some(format!("{service}/{}", observation.protocol)),
            client: None,
            verdict: Verdict {
                status: Status::Pass,
                code: None,
                summary: String::new(),
            },
            path: Vec::new(),
            checks: Vec::new(),
        };
        printed(&[apply(at_rest, &observation, lang)], lang);
    }
}
