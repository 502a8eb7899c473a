//! For tests of the layers above: directors without a host.

use std::net::Ipv4Addr;
use std::num::NonZeroU8;
use std::sync::Arc;

use crate::config::{Config, Flags};
use crate::director::{Director, Seat, Snapshot, VipSpec};
use crate::packet::{Encap, SourceRule};

/// The configuration of these VIPs, each with these backends.
pub(crate) fn config(vips: &[&str], backends: &[&str]) -> Config {
    let owned = |texts: &[&str]| texts.iter().copied().map(Into::into).collect();
    Config::from_flags(&Flags {
        vips: owned(vips),
        backends: owned(backends),
        ..Flags::default()
    })
    .unwrap()
}

/// Its first snapshot; tunnels have the outer source 10.0.1.2.
pub(crate) fn snapshot(config: &Config) -> Arc<Snapshot> {
    let tunnel = |vip: &VipSpec, backend| {
        let source = SourceRule::Fixed(Ipv4Addr::new(10, 0, 1, 2).into());
        Encap::new(vip.encap, source, backend, NonZeroU8::MAX)
    };
    Arc::new(Snapshot::build(&config.plan(), tunnel).unwrap())
}

/// The director of one of `workers`.
pub(crate) fn director(config: &Config, worker: u16, workers: u16) -> Director {
    let seat = Seat {
        worker,
        workers,
        seed: [1, 2, 3, 4],
    };
    Director::new(snapshot(config), &seat)
}

/// A datagram from a port of 10.0.9.`client` to a port of 10.0.0.100.
pub(crate) fn udp(client: u8, from: u16, port: u8) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 28, 0, 1, 0x40, 0, 64, 17, 0, 0];
    packet.extend([10, 0, 9, client, 10, 0, 0, 100]);
    packet.extend(from.to_be_bytes());
    packet.extend([0, port, 0, 8, 0, 0]);
    packet
}
