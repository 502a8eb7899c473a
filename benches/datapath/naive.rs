//! The yardstick: what one writes first. Blocking `read` of one packet, one `sendto`.
//!
//! No VIP table, no flows, no ring, no counters: only the outer header, so that all of the difference
//! to it is in how packets are read and sent. It runs as a process of its own in the director's
//! namespace.

use std::net::SocketAddrV4;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use tun_rs::DeviceBuilder;

use crate::lab::{BACKEND, VIP};

const DEVICE: &str = "naive0";
const OUTER_BYTES: usize = 20;

/// Forwards until it is ended by a signal.
///
/// # Errors
/// The device or the socket cannot be opened, or the device fails.
pub(crate) fn run() -> Result<()> {
    let tun = DeviceBuilder::new()
        .name(DEVICE)
        .mtu(1480)
        .build_sync()
        .context("cannot open a TUN")?;
    let route = [&format!("{VIP}/32"), "dev", DEVICE];
    let status = Command::new("ip")
        .args(["route", "add"])
        .args(route)
        .status()?;
    ensure!(status.success(), "cannot route the VIP");
    let socket = Socket::new(
        Domain::IPV4,
        Type::RAW,
        Some(Protocol::from(libc::IPPROTO_RAW)),
    )
    .context("cannot open a raw socket")?;
    let backend = SockAddr::from(SocketAddrV4::new(BACKEND, 0));
    eprintln!("forwarding");
    let mut packet = [0_u8; 2048];
    loop {
        let inner_bytes = tun.recv(&mut packet[OUTER_BYTES..])?;
        let whole = &mut packet[..OUTER_BYTES + inner_bytes];
        write_outer(whole);
        // A full queue loses packets, as on any router; what arrives is what is counted.
        socket.send_to(whole, &backend).ok();
    }
}

/// The outer header (RFC 2003 §3.1). Length, checksum and source are left to the kernel, which writes
/// them for every packet of a raw socket (raw(7)).
fn write_outer(packet: &mut [u8]) {
    packet[..OUTER_BYTES].fill(0);
    packet[0] = 0x45;
    packet[1] = packet[OUTER_BYTES + 1];
    packet[6] = packet[OUTER_BYTES + 6] & 0x40;
    packet[8] = 64;
    packet[9] = 4;
    packet[16..20].copy_from_slice(&BACKEND.octets());
}
