//! The rows of the maps, as `bpf/layout.h` has them: what they hold, and their bytes.
//!
//! The header says what each field means. Numbers are in the machine's order, addresses and ports in the
//! network's.

use std::net::{IpAddr, Ipv6Addr};

use crate::packet::{Encap, FlowKey, Protocol};

/// Bytes of the key of a flow.
pub const FLOW_KEY: usize = 40;
/// Bytes of a flow's row.
pub const FLOW: usize = 24;
/// Bytes of the key of a service.
pub const SERVICE: usize = 24;
/// Bytes of a part of a ring.
pub const BLOCK: usize = 4096;
/// Classes of flows.
pub const CLASSES: usize = 6;
/// Devices that the program may be attached to.
pub const MOST_PORTS: usize = 8;

/// A tick is so many binary digits of a nanosecond of CLOCK_MONOTONIC.
const TICK_SHIFT: u32 = 26;

/// The tick of a moment of CLOCK_MONOTONIC.
#[must_use]
#[allow(
    clippy::cast_possible_truncation,
    reason = "ticks are compared modulo 2^32, by the program too"
)]
pub const fn tick_of(nanoseconds: u64) -> u32 {
    (nanoseconds >> TICK_SHIFT) as u32
}

/// The length of so many ticks in nanoseconds.
#[must_use]
pub const fn tick_ns(ticks: u32) -> u64 {
    (ticks as u64) << TICK_SHIFT
}

/// Puts fields one behind the other.
struct Row<const BYTES: usize> {
    bytes: [u8; BYTES],
    at: usize,
}

impl<const BYTES: usize> Row<BYTES> {
    const fn new() -> Self {
        Self {
            bytes: [0; BYTES],
            at: 0,
        }
    }

    fn put(mut self, field: &[u8]) -> Self {
        let end = self.at + field.len();
        self.bytes[self.at..end].copy_from_slice(field);
        self.at = end;
        self
    }
}

/// So many bytes of a row, from `at` on.
fn field<const LENGTH: usize>(row: &[u8], at: usize) -> [u8; LENGTH] {
    std::array::from_fn(|byte| row.get(at + byte).copied().unwrap_or(0))
}

fn address(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => {
            let mut bytes = [0; 16];
            bytes[..4].copy_from_slice(&v4.octets());
            bytes
        }
        IpAddr::V6(v6) => v6.octets(),
    }
}

const fn family(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => 4,
        IpAddr::V6(_) => 6,
    }
}

/// The key of a flow.
#[must_use]
pub fn flow_key(flow: &FlowKey) -> [u8; FLOW_KEY] {
    Row::new()
        .put(&address(flow.source))
        .put(&address(flow.destination))
        .put(&flow.source_port.to_be_bytes())
        .put(&flow.destination_port.to_be_bytes())
        .put(&[flow.protocol.number(), family(flow.destination)])
        .bytes
}

/// The flow of a key; `None` where no flow has it.
#[must_use]
pub fn flow_of(key: &[u8; FLOW_KEY]) -> Option<FlowKey> {
    let address = |at| match key[37] {
        4 => IpAddr::from(field::<4>(key, at)),
        _ => IpAddr::from(Ipv6Addr::from(field::<16>(key, at))),
    };
    let protocol = match key[36] {
        6 => Protocol::Tcp,
        17 => Protocol::Udp,
        _ => return None,
    };
    Some(FlowKey {
        source: address(0),
        destination: address(16),
        source_port: u16::from_be_bytes(field(key, 32)),
        destination_port: u16::from_be_bytes(field(key, 34)),
        protocol,
    })
}

/// A flow of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FlowRow {
    /// Of its 5-tuple.
    pub hash: u64,
    /// The backend's index.
    pub backend: u32,
    /// The [tick](tick_of) of its last packet.
    pub used: u32,
    /// Of the services by which its backend was found to be of its VIP.
    pub generation: u16,
    /// Below [`CLASSES`].
    pub class: u8,
}

impl FlowRow {
    /// As the map has it.
    #[must_use]
    pub fn bytes(&self) -> [u8; FLOW] {
        Row::new()
            .put(&self.hash.to_ne_bytes())
            .put(&self.backend.to_ne_bytes())
            .put(&self.used.to_ne_bytes())
            .put(&self.generation.to_ne_bytes())
            .put(&[self.class])
            .bytes
    }

    /// As the map has it.
    #[must_use]
    pub fn read(bytes: &[u8; FLOW]) -> Self {
        Self {
            hash: u64::from_ne_bytes(field(bytes, 0)),
            backend: u32::from_ne_bytes(field(bytes, 8)),
            used: u32::from_ne_bytes(field(bytes, 12)),
            generation: u16::from_ne_bytes(field(bytes, 16)),
            class: bytes[18],
        }
    }
}

/// The key of a service; `None` is any port.
#[must_use]
pub fn service_key(vip: IpAddr, port: Option<u16>, protocol: Protocol) -> [u8; SERVICE] {
    Row::new()
        .put(&address(vip))
        .put(&port.unwrap_or(0).to_be_bytes())
        .put(&[protocol.number(), family(vip)])
        .bytes
}

/// A VIP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[allow(missing_docs, reason = "bpf/layout.h has the meaning of each field")]
pub struct VipRow {
    pub cost_ns: u64,
    pub burst_ns: u64,
    pub slots: u32,
    pub ring: u32,
    pub members: u32,
    pub count: u32,
    pub seat: u32,
    pub fields: u8,
    pub is_wide: bool,
    pub clamps_mss: bool,
}

impl VipRow {
    /// As the map has it.
    #[must_use]
    pub fn bytes(&self) -> [u8; 64] {
        Row::new()
            .put(&self.cost_ns.to_ne_bytes())
            .put(&self.burst_ns.to_ne_bytes())
            .put(&self.slots.to_ne_bytes())
            .put(&self.ring.to_ne_bytes())
            .put(&self.members.to_ne_bytes())
            .put(&self.count.to_ne_bytes())
            .put(&self.seat.to_ne_bytes())
            .put(&[self.fields, self.is_wide.into(), self.clamps_mss.into()])
            .bytes
    }
}

/// A backend of one VIP, without the sequence number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LaneRow {
    /// Of its VIP; `None`: no VIP has it.
    pub seat: Option<u32>,
    /// The largest outer packet in bytes; `None`: no limit is known.
    pub mtu: Option<u16>,
    /// Which flows it takes: 0 none, 1 known ones, 2 new ones.
    pub takes: u8,
    header: [u8; 48],
    constant: u16,
    shape: u8,
    entropy_bits: u8,
    is_usable: bool,
}

impl LaneRow {
    /// Of a tunnel.
    #[must_use]
    pub fn new(encap: &Encap) -> Self {
        let template = encap.template();
        let mut header = [0; 48];
        header[..template.len()].copy_from_slice(template);
        let shape = match template.len() {
            20 => 0,
            28 => 1,
            40 => 2,
            _ => 3,
        };
        let words = header[..20].chunks_exact(2);
        let sum = words.map(|word| u32::from(u16::from_ne_bytes(field(word, 0))));
        Self {
            seat: None,
            mtu: None,
            takes: 0,
            header,
            constant: fold(sum.sum()),
            shape,
            entropy_bits: encap.entropy_bits(),
            is_usable: !encap.lacks_source(),
        }
    }

    /// The words after the first one, which has the sequence number and the seat.
    #[must_use]
    pub fn words(&self) -> [u64; 7] {
        let row = Row::<56>::new()
            .put(&self.mtu.unwrap_or(0).to_ne_bytes())
            .put(&self.constant.to_ne_bytes())
            .put(&[
                self.takes,
                self.shape,
                self.entropy_bits,
                self.is_usable.into(),
            ])
            .put(&self.header);
        std::array::from_fn(|word| u64::from_ne_bytes(field(&row.bytes, word * 8)))
    }

    /// The first word.
    #[must_use]
    pub fn first_word(&self, sequence: u32) -> u64 {
        let seat = self.seat.map_or(0, |seat| seat.wrapping_add(1));
        let row = Row::<8>::new()
            .put(&sequence.to_ne_bytes())
            .put(&seat.to_ne_bytes());
        u64::from_ne_bytes(row.bytes)
    }

    /// The sequence number of a first word.
    #[must_use]
    pub fn sequence(word: u64) -> u32 {
        u32::from_ne_bytes(field(&word.to_ne_bytes(), 0))
    }
}

#[allow(
    clippy::cast_possible_truncation,
    reason = "at most 16 bits are left after adding the carries"
)]
const fn fold(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// A device that the program is attached to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Port {
    /// Its index.
    pub index: u32,
    /// Its link address.
    pub address: [u8; 6],
    /// What leaves by it is redirected to it also where it came by it, which a veth needs.
    pub redirects: bool,
}

/// What holds for all packets.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[allow(missing_docs, reason = "bpf/layout.h has the meaning of each field")]
pub struct Settings {
    pub key: [u8; 16],
    pub is_ready: bool,
    pub generation: u16,
    pub has_any_port: bool,
    pub backends: u32,
    pub seats: u32,
    pub first_identification: u32,
    pub identification_stride: u32,
    pub timeouts: [u32; CLASSES],
    pub ports: Vec<Port>,
}

/// Words of the settings.
pub const SETTINGS_WORDS: usize = 21;

impl Settings {
    /// As the map has them.
    #[must_use]
    pub fn words(&self) -> [u64; SETTINGS_WORDS] {
        let mut row = Row::<{ SETTINGS_WORDS * 8 }>::new().put(&self.key);
        for number in [
            u32::from(self.is_ready),
            self.generation.into(),
            self.has_any_port.into(),
            self.backends,
            self.seats,
            self.first_identification,
            self.identification_stride,
        ] {
            row = row.put(&number.to_ne_bytes());
        }
        for timeout in self.timeouts {
            row = row.put(&timeout.to_ne_bytes());
        }
        for port in self.ports.iter().take(MOST_PORTS) {
            row = row
                .put(&port.index.to_ne_bytes())
                .put(&port.address)
                .put(&u16::from(port.redirects).to_ne_bytes());
        }
        std::array::from_fn(|word| u64::from_ne_bytes(field(&row.bytes, word * 8)))
    }
}

/// Why a packet went to the kernel, or how it left: `enum outcome` of `bpf/layout.h`, by number.
pub const OUTCOMES: [&str; 21] = [
    "sent_back",
    "redirected",
    "dropped",
    "not_ready",
    "not_ip",
    "not_to_us",
    "malformed",
    "options",
    "fragment",
    "other_protocol",
    "last_hop",
    "not_vip",
    "moved",
    "mss",
    "too_big",
    "no_source",
    "no_route",
    "no_neighbour",
    "no_port",
    "no_room",
    "changing",
];
