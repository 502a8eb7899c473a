//! What was seen of a machine, as plain values: the doctor's whole input, and the content of a bundle.

mod layers;
mod target;

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::firewall::Clock;
use super::watch::Observation;
pub use layers::{DeviceLayer, IpsecPolicy, Layers, Sees};
pub use target::{Onward, Target};

/// The version of the facts' serialised form; a bundle of another one is refused.
pub const SCHEMA: u32 = 1;

/// Something that was looked at: seen, or why not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Observed<T> {
    /// What was seen.
    Seen(T),
    /// Why it could not be: a missing privilege, program or file.
    Unseen(String),
}

impl<T> Observed<T> {
    /// What was seen, if anything.
    pub const fn seen(&self) -> Option<&T> {
        match self {
            Self::Seen(value) => Some(value),
            Self::Unseen(_) => None,
        }
    }

    /// Why it was not seen, if so.
    pub const fn unseen(&self) -> Option<&str> {
        match self {
            Self::Seen(_) => None,
            Self::Unseen(why) => Some(why.as_str()),
        }
    }
}

impl<T, E: fmt::Display> From<Result<T, E>> for Observed<T> {
    fn from(result: Result<T, E>) -> Self {
        match result {
            Ok(value) => Self::Seen(value),
            Err(error) => Self::Unseen(error.to_string()),
        }
    }
}

impl<T> Default for Observed<T> {
    fn default() -> Self {
        Self::Unseen("not looked at".to_owned())
    }
}

/// One look at a machine.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Facts {
    /// [`SCHEMA`] of the program that gathered it.
    pub schema: u32,
    /// The version of that program.
    pub version: String,
    /// The path of that program on the machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub program: Option<String>,
    /// Which side of the tunnel the machine was examined as.
    pub role: Role,
    /// `uname -r`.
    pub kernel: String,
    /// The effective capabilities that matter, by name (`CAP_NET_ADMIN`): held or not.
    pub capabilities: BTreeMap<String, bool>,
    /// Network devices.
    pub links: Observed<Vec<Link>>,
    /// Addresses on them.
    pub addresses: Observed<Vec<Address>>,
    /// Neighbour entries.
    pub neighbours: Observed<Vec<Neighbour>>,
    /// Policy rules (`ip rule`): those of IPv4, then those of IPv6, each in the order of their priority.
    pub rules: Observed<Vec<PolicyRule>>,
    /// Settings by dotted name, `/` in device names (`net.ipv4.conf.eth0.rp_filter`); of the names
    /// that checks ask for, those that exist.
    pub sysctls: BTreeMap<String, i64>,
    /// What configures settings at boot, in the order in which it is applied (sysctl.d(5)).
    pub sysctl_files: Observed<Vec<SysctlSetting>>,
    /// `/proc/net/snmp`, `netstat` and `snmp6`, as `nstat` names them (`IpInAddrErrors`, `Ip6InDiscards`).
    pub counters: BTreeMap<String, u64>,
    /// Sockets of this namespace that are bound: TCP that listen, UDP, raw.
    pub sockets: Observed<Vec<Socket>>,
    /// Packet filters.
    pub firewall: FirewallFacts,
    /// What sees packets beside packet filters, and is not evaluated but named.
    #[serde(default)]
    pub layers: Layers,
    /// Kernel modules that decapsulate, by name (`ipip`, `sit`, `ip6_tunnel`, `fou`, `tunnel4`); without
    /// those of which it cannot be told whether the kernel has them.
    pub modules: BTreeMap<String, ModuleState>,
    /// Running `tunlb decap` processes in this network namespace.
    pub decapsulators: Observed<Vec<Decapsulator>>,
    /// Offloads, by device name and feature as ethtool names them (`tx-checksumming`).
    pub offloads: BTreeMap<String, Observed<BTreeMap<String, bool>>>,
    /// What is examined.
    pub targets: Vec<Target>,
    /// Of a director; absent on a backend.
    pub director: Option<DirectorFacts>,
    /// What a watch saw of one of the targets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub watched: Option<Observation>,
}

/// A side of the tunnel.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Where the tunnel ends and the service runs.
    #[default]
    Backend,
    /// Where the tunnel begins.
    Director,
}

/// A network device.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// The kernel's number for it.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// In bytes.
    pub mtu: u32,
    /// Administratively up.
    pub up: bool,
    /// Speaks ARP.
    pub arp: bool,
    /// Its driver kind: `ipip`, `tun`, `veth`; none for hardware and loopback.
    pub kind: Option<String>,
    /// ARPHRD_* (linux/if_arp.h): 1 is Ethernet, 65534 none.
    #[serde(default = "ethernet")]
    pub hardware: u16,
    /// Its group (`ip link set … group`); 0 is the default one.
    #[serde(default)]
    pub group: u32,
    /// Index of the bridge that it is a port of.
    #[serde(default)]
    pub bridge: Option<u32>,
    /// Of an IP-in-IP tunnel device of the kernel.
    pub tunnel: Option<TunnelFacts>,
    /// Packets received, of all time.
    pub rx_packets: u64,
    /// Packets sent, of all time.
    pub tx_packets: u64,
}

/// Of devices in bundles that do not tell.
const fn ethernet() -> u16 {
    1
}

/// Which outer packets a tunnel device of the kernel takes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TunnelFacts {
    /// The only outer destination; none: any.
    pub local: Option<IpAddr>,
    /// The only outer source; none: any.
    pub remote: Option<IpAddr>,
    /// The only protocol, 4 or 41; none: all of its kind.
    pub protocol: Option<u8>,
    /// Collects metadata (`external`): takes what no other device takes.
    pub external: bool,
}

/// An address on a device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Address {
    /// Index of the device.
    pub link: u32,
    /// The address with its prefix length.
    pub net: IpNet,
}

/// A neighbour entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Neighbour {
    /// Index of the device.
    pub link: u32,
    /// Its address.
    pub address: IpAddr,
    /// As `ip neigh` writes it: `REACHABLE`, `STALE`, `FAILED`, `INCOMPLETE`, `PERMANENT`, …
    pub state: String,
    /// Its link-layer address, in colon form.
    pub lladdr: Option<String>,
}

/// A policy rule.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyRule {
    /// Of the rules for IPv6 packets.
    pub ipv6: bool,
    /// Lower goes first.
    pub priority: u32,
    /// Selects what does *not* match (`not`).
    pub inverted: bool,
    /// Selects by source.
    pub from: Option<IpNet>,
    /// Selects by destination.
    pub to: Option<IpNet>,
    /// Selects by input device.
    pub iif: Option<String>,
    /// Selects by output device.
    pub oif: Option<String>,
    /// Selects by mark and mask.
    pub mark: Option<(u32, u32)>,
    /// Table that it looks up; none for other actions.
    pub table: Option<u32>,
    /// As `ip rule` writes it, without the priority.
    pub text: String,
}

/// The kernel's answer to a route question (`ip route get`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RouteAnswer {
    /// What it would do.
    Route(Route),
    /// Refused: the errno (113 EHOSTUNREACH, 101 ENETUNREACH, 22 EINVAL, 18 EXDEV, …).
    Refused(i32),
    /// The question could not be asked.
    Unseen(String),
}

/// What the kernel would do with a packet.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// As `ip route` writes it: `unicast`, `local`, `unreachable`, `blackhole`, …
    pub kind: String,
    /// Name of the device it would leave by.
    pub device: Option<String>,
    /// The next hop where the destination is not on link.
    pub gateway: Option<IpAddr>,
    /// The source that the kernel would choose.
    pub source: Option<IpAddr>,
    /// In bytes; the route's own, not the device's.
    pub mtu: Option<u32>,
    /// In bytes; the route's own (`advmss`).
    pub advmss: Option<u32>,
    /// The table that it is from.
    pub table: Option<u32>,
}

/// A line of a file that sets a kernel setting at boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SysctlSetting {
    /// The file.
    pub file: String,
    /// Its line, from 1.
    pub line: usize,
    /// Dotted name, `/` in device names, globs kept (`net.ipv4.conf.*.rp_filter`). With `-` before it,
    /// and without a value: the globs of all files leave this name out (sysctl.d(5)).
    pub name: String,
    /// As written.
    pub value: String,
}

/// A bound socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Socket {
    /// `tcp`, `udp` or `raw`.
    pub protocol: String,
    /// The local address; unspecified: any.
    pub address: IpAddr,
    /// The local port; of a raw socket its protocol.
    pub port: u16,
    /// An IPv6 socket that takes no IPv4 (IPV6_V6ONLY). A kernel without tables for sock_diag(7) does
    /// not tell; it is false then, which is the default of sockets.
    pub v6_only: bool,
    /// Only of this device (SO_BINDTODEVICE), by name.
    pub device: Option<String>,
    /// TCP: connections that wait to be accepted; UDP: bytes that wait.
    pub queued: u32,
    /// TCP: the most that may wait; 0 where the kernel does not tell.
    pub queue_limit: u32,
    /// Bytes of memory that what waits may take (`SO_RCVBUF`), and that it takes; none: not known.
    #[serde(default)]
    pub memory: Option<(u32, u32)>,
    /// The program, where it could be found.
    pub program: Option<String>,
    /// Its user.
    #[serde(default)]
    pub user: Option<u32>,
    /// The group of the program.
    #[serde(default)]
    pub group: Option<u32>,
    /// The mark of what it sends (`SO_MARK`).
    #[serde(default)]
    pub mark: u32,
    /// It hears packets for any address (`IP_TRANSPARENT`); none: not known.
    #[serde(default)]
    pub transparent: Option<bool>,
    /// Peers that have to sign their segments (TCP-MD5).
    #[serde(default)]
    pub signed_peers: Vec<IpNet>,
    /// Every process that has it open is stopped (SIGSTOP, a debugger).
    #[serde(default)]
    pub stopped: bool,
}

/// Packet filters as their own tools print them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FirewallFacts {
    /// `nft --json list ruleset`; an empty text where the kernel has no nftables.
    pub nft: Observed<String>,
    /// `nft list chains`, where that JSON has chains of devices: it does not tell of which (nft 1.0.6).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nft_chains: Option<String>,
    /// The `iptables-save`s there are: `iptables-nft-save`, `iptables-legacy-save`, with `ip6tables-…`
    /// of each; by the program's name.
    pub iptables: BTreeMap<String, Observed<String>>,
    /// `ipset save`, where rules of iptables ask for sets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipsets: Option<String>,
    /// The lists of recent addresses (xt_recent) by name, where rules of iptables ask for them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub recent: BTreeMap<String, Vec<IpAddr>>,
    /// When the rules were read, where some hold at some times only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clock: Option<Clock>,
    /// CPUs that see packets; none: not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpus: Option<u32>,
    /// The queues to programs (NFQUEUE) that some program reads; none: not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queues: Option<Vec<u16>>,
    /// Connections that conntrack knows now; none where it is not loaded.
    pub conntrack: Observed<Option<u64>>,
}

/// A kernel module.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ModuleState {
    /// In the kernel, or built into it.
    Loaded,
    /// A file that `modprobe` would find.
    Available,
    /// Neither.
    Absent,
}

/// A running `tunlb decap`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decapsulator {
    /// Its process.
    pub pid: u32,
    /// Its TUN device.
    pub device: String,
    /// The VIPs it decapsulates for.
    pub vips: Vec<IpAddr>,
    /// The directors it takes packets from; empty: any.
    pub directors: Vec<IpNet>,
    /// `ipip`, or `gue` and its port.
    pub encap: Encap,
    /// Each time it starts it sets what its device needs (`--setup`).
    #[serde(default)]
    pub setup: bool,
    /// It is stopped (SIGSTOP, a debugger).
    #[serde(default)]
    pub stopped: bool,
    /// Its device was deleted under it.
    #[serde(default)]
    pub device_gone: bool,
}

/// A kind of tunnel.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Encap {
    /// Protocol 4 or 41.
    #[default]
    Ipip,
    /// UDP to this port.
    Gue(u16),
}

/// What only a director has.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DirectorFacts {
    /// The TUN's name.
    pub tun: String,
    /// Whether a process holds it open.
    pub tun_in_use: Observed<bool>,
    /// The client; none: any.
    #[serde(default)]
    pub client: Option<IpAddr>,
    /// The configuration says that others answer for the VIPs, or routers have routes to them
    /// (`director.neighbour = "off"`).
    #[serde(default)]
    pub neighbour_off: bool,
    /// Per VIP address what the kernel does with its packets.
    pub vips: BTreeMap<IpAddr, VipOnDirector>,
    /// Per backend the way to it.
    pub backends: BTreeMap<IpAddr, BackendOnDirector>,
}

/// A client of a VIP: the one that was named, else one anywhere on the Internet.
#[must_use]
pub fn client_of(named: Option<IpAddr>, vip: IpAddr) -> IpAddr {
    let named = named.filter(|client| client.is_ipv4() == vip.is_ipv4());
    named.unwrap_or(if vip.is_ipv4() {
        IpAddr::from([1, 1, 1, 1])
    } else {
        IpAddr::from([0x2606, 0x4700, 0, 0, 0, 0, 0, 0x1111])
    })
}

/// A VIP, seen from a director.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VipOnDirector {
    /// `ip route get V`.
    pub route: RouteAnswer,
    /// `ip route get D from V iif E`: what becomes of the answers to the director's own requests.
    pub own_answers: RouteAnswer,
    /// Where it is in a subnet of the director's Ethernet devices.
    #[serde(default)]
    pub on_link: Option<VipOnLink>,
    /// Protocol (6, 17) and port of what is balanced there; no port: any.
    #[serde(default)]
    pub services: Vec<(u8, Option<u16>)>,
    /// Name of the device by which its clients' packets come in: that of the way to them.
    #[serde(default)]
    pub clients_by: Option<String>,
}

/// A VIP in a subnet of the director, whose machines ask for it by ARP or neighbour discovery.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VipOnLink {
    /// The narrowest such subnet.
    pub subnet: IpNet,
    /// Name of its device.
    pub device: String,
    /// The device has a proxy entry for the VIP.
    pub entry: Observed<bool>,
    /// The link-layer addresses of other machines that answered for the VIP.
    pub others: Observed<Vec<String>>,
}

/// A backend, seen from a director.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackendOnDirector {
    /// `ip route get R`.
    pub route: RouteAnswer,
    /// Bytes that an outer packet may have.
    pub mtu: Option<u32>,
    /// An outer packet of no content, sent: nothing, or the errno.
    pub send: Observed<Option<i32>>,
    /// Its tunnel.
    pub encap: Encap,
    /// Whether packets for it leave past the filters of this host: by a packet or AF_XDP socket that the
    /// configuration asks for.
    #[serde(default)]
    pub past_filters: bool,
}
