//! A SYN flood from spoofed sources at full speed, while established streams go on: none breaks.
//!
//! The attacker sends to the very port of the streams, so its flows share everything with theirs: VIP,
//! ring, table, queue of the TUN. The backends answer with SYN cookies only, so that no queue of theirs is
//! what fills; the router discards those answers, whose addresses do not exist in the lab.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::enter::in_lab;
use crate::lab::{Lab, Node};
use crate::reloading::{Reloading, vip};
use crate::site::{BACKENDS, Site, VIP};
use crate::streams::{PORT, Streams, assert_no_resets, echo_streams};

/// So many SYNs are a flood; the director reads them in about two seconds.
pub(crate) const SYNS: u64 = 100_000;

#[test]
fn a_syn_flood_breaks_no_stream() {
    in_lab(|lab| assert_streams_outlive_flood(lab, ""));
}

/// The table is full of SYNs from the beginning, and each one needs the place of another.
#[test]
fn a_syn_flood_breaks_no_stream_of_a_small_table() {
    in_lab(|lab| assert_streams_outlive_flood(lab, "flows = 4096"));
}

fn assert_streams_outlive_flood(lab: &Lab, more: &str) {
    let site = Site::new(lab);
    let attacker = attacker(lab, &site);
    let _services = site.backends.each_ref().map(echo_streams);
    let mut director = Reloading::start(lab, &site, &config("00", more));
    let streams = Streams::open(&site.client, 50, 10_000);
    streams.wait_for_round();
    // With another key the ring has other backends for most streams: without the table they break.
    director.accept(&config("01", more));

    let echoed = streams.echoed();
    let flood = Flood::start(&attacker);
    site.wait_until_read(SYNS);
    let sent = flood.stop();
    let echoed = streams.echoed() - echoed;
    assert!(sent >= SYNS, "{sent} SYNs were sent");
    assert!(echoed > 0, "no byte came through the flood");

    site.get_in_parallel(60, 20_000);
    streams.wait_for_round();
    streams.finish();
    assert_no_resets([&site.client]);
    let totals = director.director.stop();
    assert!(totals.sent().packets > SYNS, "{totals:?}");
    assert_eq!(totals.dropped(), 0, "{totals:?}");
}

/// The director's file, with a byte of its hash key and more keys of its first section.
fn config(key: &str, more: &str) -> String {
    let director = format!("[director]\nhash_key = \"{}\"\n{more}\n", key.repeat(16));
    let web = ["web", VIP, "\"any\"", "tcp", ""];
    director + &vip(web, &BACKENDS.map(|(_, address)| (address, "")))
}

/// A host of its own beside the client.
pub(crate) fn attacker(lab: &Lab, site: &Site) -> Node {
    let attacker = lab.node("attacker");
    lab.cable((&attacker, "eth0"), (&site.router, "attacker"));
    attacker.sh("ip addr add 10.0.8.2/24 dev eth0; ip route add default via 10.0.8.1");
    site.router
        .sh("ip addr add 10.0.8.1/24 dev attacker; ip route add blackhole default");
    for backend in &site.backends {
        backend.node.set_sysctl("ipv4/tcp_syncookies", 2);
    }
    attacker
}

/// SYNs on their way, as many as one core makes.
pub(crate) struct Flood {
    shared: Arc<Shared>,
    thread: JoinHandle<()>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    sent: AtomicU64,
}

impl Flood {
    pub(crate) fn start(attacker: &Node) -> Self {
        let protocol = Protocol::from(255); // IPPROTO_RAW: the header is ours, and so its source
        let socket = attacker.within(|| Socket::new(Domain::IPV4, Type::RAW, Some(protocol)));
        let socket = socket.expect("a raw socket");
        let shared = Arc::new(Shared::default());
        let thread = thread::spawn({
            let shared = Arc::clone(&shared);
            move || send(&socket, &shared).expect("the attacker to send")
        });
        Self { shared, thread }
    }

    /// Returns how many SYNs were sent.
    pub(crate) fn stop(self) -> u64 {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the attacker's thread");
        self.shared.sent.load(Ordering::Relaxed)
    }
}

fn send(socket: &Socket, shared: &Shared) -> io::Result<()> {
    let address: Ipv4Addr = VIP.parse().expect("an address");
    let vip = SockAddr::from(SocketAddrV4::new(address, 0));
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    while !shared.stop.load(Ordering::Relaxed) {
        random = xorshift(random);
        socket.send_to(&syn(random, address.octets()), &vip)?;
        shared.sent.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

/// Marsaglia's xorshift64 with one of his triples.
fn xorshift(mut state: u64) -> u64 {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    state
}

/// A SYN from an address and a port that follow from `random`. The kernel fills in the lengths and
/// checksum of the IPv4 header (raw(7)).
fn syn(random: u64, vip: [u8; 4]) -> [u8; 40] {
    let [first, a, b, c, port, low, s1, s2] = random.to_be_bytes();
    let mut packet = [
        0x45,
        0,
        0,
        40,
        0,
        0,
        0,
        0,
        64,
        6,
        0,
        0, //
        11 + first % 89,
        a,
        b,
        c,
        vip[0],
        vip[1],
        vip[2],
        vip[3], //
        port | 4,
        low,
        0,
        0,
        s1,
        s2,
        low,
        c,
        0,
        0,
        0,
        0,
        0x50,
        0x02,
        0xff,
        0xff,
        0,
        0,
        0,
        0,
    ];
    packet[22..24].copy_from_slice(&PORT.to_be_bytes());
    let checksum = tcp_checksum(&packet);
    packet[36..38].copy_from_slice(&checksum.to_be_bytes());
    packet
}

/// RFC 9293 §3.1: over both addresses, the protocol, the segment's length, and the segment.
fn tcp_checksum(packet: &[u8; 40]) -> u16 {
    let words = packet[12..].chunks_exact(2);
    let sum: u32 = words
        .map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])))
        .sum();
    let sum = sum + 6 + 20;
    let folded = (sum & 0xffff) + (sum >> 16);
    !u16::try_from((folded & 0xffff) + (folded >> 16)).expect("two bytes")
}
