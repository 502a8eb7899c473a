//! Packet filters, evaluated for one packet at a time: nftables and iptables, through chains, jumps
//! and policies. Pure: the rules come as the text that their own tools print.
//!
//! The readers (`nft`, `iptables`) make one model of both; `walk` takes a packet through it, `evaluate`
//! answers each match with no, perhaps or yes. Chains of the families bridge and arp are not looked at.

mod clock;
mod compare;
mod evaluate;
mod fields;
mod headers;
mod iptables;
mod iptables_match;
mod iptables_more;
mod iptables_rule;
mod model;
mod names;
mod nft;
mod nft_bound;
mod nft_chains;
mod nft_list;
mod nft_operand;
mod nft_rule;
mod nft_text;
mod nft_value;
mod pass;
mod queries;
mod settle;
#[cfg(test)]
mod tests;
mod walk;

use std::cell::Cell;
use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::doctor::facts::{Facts, FirewallFacts, Observed, Socket};
pub use clock::Clock;
use model::{Family, LONGEST_NAME, Room, Table};

/// A packet to be judged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilteredPacket {
    /// Where in the machine it is.
    pub path: FilterPath,
    /// Name of the device it came in by.
    pub iif: Option<String>,
    /// Name of the device it leaves by.
    pub oif: Option<String>,
    /// Its source.
    pub source: IpAddr,
    /// Its destination.
    pub destination: IpAddr,
    /// Its protocol: 4, 41, 6, 17.
    pub protocol: u8,
    /// Source and destination port of TCP and UDP; none: not known.
    pub ports: Option<(u16, u16)>,
    /// How conntrack sees it.
    pub state: ConntrackState,
    /// Its length in bytes, with the IP header.
    pub length: u16,
    /// Flags of TCP, the byte of its header (SYN is 2, SYN and ACK are 18); none: not known.
    pub tcp_flags: Option<u8>,
    /// Its mark before any rule; 0 where nothing but rules sets marks. None: not known.
    pub mark: Option<u32>,
    /// The FIB knows a way to its source by the device that it came in by.
    pub reverse_path_found: Option<bool>,
    /// The FIB knows any way to its source.
    pub source_is_routable: Option<bool>,
    /// Its source is an address of this machine.
    pub source_is_local: Option<bool>,
    /// Its destination is an address of this machine.
    pub destination_is_local: Option<bool>,
    /// Its destination is an address of the device that it came in by.
    pub destination_is_on_device: Option<bool>,
    /// It is an answer, in the sight of conntrack.
    pub answers: bool,
    /// The zone of conntrack that its connection is in.
    pub zone: Option<u32>,
    /// Least and most of its TTL or hop limit.
    pub ttl: (u8, u8),
    /// The mark of its connection; none: not known. That of a new one is 0.
    pub ct_mark: Option<u32>,
    /// What it came in by; none: not known.
    pub in_by: Option<DeviceKind>,
    /// What it leaves by.
    pub out_by: Option<DeviceKind>,
    /// Its link-layer source, where it came in by Ethernet and that is known.
    pub link_source: Option<u64>,
    /// Its link-layer destination, where it came in by Ethernet and that is known.
    pub link_destination: Option<u64>,
    /// The listening socket that it is for; none: there is none, or none is known.
    pub listener: Option<Listener>,
    /// Of what came in by a bridge whose frames iptables sees: the port, as far as it is known. None: no such packet.
    pub bridge_port: Option<Option<String>>,
    /// User and group of the socket that sends it, as far as they are known; none: no socket does.
    pub owner: Option<(Option<u32>, Option<u32>)>,
}

/// What rules can ask of a listening socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listener {
    /// It hears all addresses.
    pub wildcard: bool,
    /// `IP_TRANSPARENT`; none: not known.
    pub transparent: Option<bool>,
}

/// What rules can ask of a device beside its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceKind {
    /// ARPHRD_* (linux/if_arp.h): 1 is Ethernet, 65534 has no link layer.
    pub hardware: u16,
    /// Its group; 0 is the default one.
    pub group: u32,
}

impl DeviceKind {
    /// ARPHRD_ETHER.
    pub const ETHERNET: u16 = 1;
}

impl FilteredPacket {
    /// A first packet of a connection, of which only this much is known: 60 bytes, no mark.
    #[must_use]
    pub const fn new(path: FilterPath, source: IpAddr, destination: IpAddr, protocol: u8) -> Self {
        Self {
            path,
            iif: None,
            oif: None,
            source,
            destination,
            protocol,
            ports: None,
            state: ConntrackState::New,
            length: 60,
            tcp_flags: None,
            mark: Some(0),
            reverse_path_found: None,
            source_is_routable: None,
            source_is_local: None,
            destination_is_local: None,
            destination_is_on_device: None,
            answers: false,
            zone: Some(0),
            ttl: (LEAST_TTL, u8::MAX),
            ct_mark: None,
            in_by: None,
            out_by: None,
            link_source: None,
            link_destination: None,
            listener: None,
            bridge_port: None,
            owner: None,
        }
    }
}

/// What is left of a TTL of 64 after the longest ways through the Internet.
const LEAST_TTL: u8 = 16;

/// The hooks that a packet passes, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FilterPath {
    /// ingress, prerouting, input.
    ToThisHost,
    /// output, postrouting, egress.
    FromThisHost,
    /// ingress, prerouting, forward, postrouting, egress.
    Through,
    /// input, once more than its prerouting is known of a packet.
    Delivered,
    /// forward, postrouting, egress, likewise.
    Onward,
    /// ingress, prerouting: up to the routing.
    Arriving,
}

/// What conntrack makes of a packet (`ct state`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ConntrackState {
    /// The first of a connection.
    New,
    /// One of a connection that is known.
    Established,
    /// None of these: a way of which conntrack saw one direction only.
    Invalid,
    /// Conntrack was told to leave it alone (notrack).
    Untracked,
}

/// How conntrack keeps a packet's connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tracking {
    /// In a zone.
    InZone {
        /// Which.
        zone: u32,
        /// The mark that the packet leaves on its connection; none: not known.
        mark: Option<u32>,
    },
    /// Not at all (notrack).
    Untracked,
}

/// What becomes of a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FilterVerdict {
    /// Every chain lets it pass.
    Accept,
    /// A rule or a chain's policy drops or rejects it.
    Drop(RuleText),
    /// It passes, but its source is rewritten (snat, masquerade; by the latter to the address of its
    /// device, which may be the one that it has).
    Rewritten(RuleText),
    /// It passes so far, but goes elsewhere: its destination is rewritten (dnat, redirect), or another
    /// socket or device takes it. Later hooks are not judged.
    Diverted(RuleText, Diversion),
    /// Some packets of its kind are accepted and others are not: by this rule.
    Chance(RuleText, Chance),
    /// It cannot be told: the rule has a match that is not understood and would decide.
    Unknown(RuleText),
    /// What was seen lets it pass, but not all rules were: which and why.
    NotSeen(String),
}

/// On what it hangs whether a rule matches a packet of a kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Chance {
    /// How many came before (limit, quota, connlimit).
    Rate,
    /// A number that is drawn, or made of the flow's addresses and ports.
    Draw,
    /// The time of day, or the date.
    Time,
    /// What the packet carries.
    Content,
    /// What the sender's system is taken for.
    Sender,
}

/// Where a packet goes instead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Diversion {
    /// To another address or port, through conntrack or not (dnat, redirect, a rewritten header).
    Address(Destination),
    /// To the transparent socket that hears this address and port; the packet stays what it is (tproxy).
    Socket(Destination),
    /// To the kernel's own handshake in the service's place (SYNPROXY).
    Handshake,
    /// To another device (fwd).
    Elsewhere,
}

/// What dnat, redirect or a rewritten header make of a packet's destination.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Destination {
    /// Another address; none: the packet's own.
    pub address: Option<IpAddr>,
    /// The address of the device that it came in by (redirect).
    pub own: bool,
    /// Another port; none: the packet's own.
    pub port: Option<u16>,
}

/// A rule or policy, quoted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleText {
    /// `nft` or the name of the iptables program.
    pub program: String,
    /// `ip`, `ip6`, `inet` or `netdev`.
    pub family: &'static str,
    /// Its table.
    pub table: String,
    /// Its chain.
    pub chain: String,
    /// The chain that the kernel entered, from which others were jumped to; the rule's own, where it was entered itself.
    pub entered: String,
    /// The rule as its tool writes it, or `policy drop`.
    pub rule: String,
    /// Its handle or number in the chain, for a command that names it.
    pub handle: Option<u64>,
    /// Packets that it matched, where it counts.
    pub packets: Option<u64>,
}

impl RuleText {
    /// Family, table and chain: `inet filter input`.
    #[must_use]
    pub fn place(&self) -> String {
        format!("{} {} {}", self.family, self.table, self.chain)
    }
}

/// An Ethernet address in colon form as the number that [`FilteredPacket::link_source`] is.
#[must_use]
pub fn link_number(text: &str) -> Option<u64> {
    u64::try_from(names::link_address(text)?).ok()
}

/// Why rules cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{program}: {what}")]
pub struct FirewallError {
    /// Whose output.
    pub program: String,
    /// What is wrong with it.
    pub what: String,
}

/// Said where no more can be looked at.
const TOO_MANY: &str = "the packet filter has too many rules to be followed for this many VIPs";

/// What rules ask of the machine, whatever the packet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Machine {
    /// None: any time.
    clock: Option<Clock>,
    cpus: Option<u32>,
    /// Conntrack counts packets and bytes.
    counts: bool,
    /// Conntrack sees packets: some rule asks it to, or it has connections.
    tracks: bool,
}

/// All rules of a machine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Firewall {
    tables: Vec<Table>,
    machine: Machine,
    /// Rules that could not be looked at: whose packets they see, and why not.
    unseen: Vec<(Family, String)>,
    /// What looking at packets has cost so far.
    work: Work,
}

/// Work done; no part of what the rules are.
#[derive(Debug, Clone, Default)]
struct Work(Cell<usize>);

impl PartialEq for Work {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Work {}

impl Work {
    /// Rules and elements that are looked at for all packets of all VIPs: some seconds.
    const MOST: usize = 100_000_000;

    fn is_done(&self) -> bool {
        self.0.get() > Self::MOST
    }

    fn add(&self, cost: usize) {
        self.0.set(self.0.get().saturating_add(cost));
    }
}

impl Firewall {
    /// Reads what the tools printed.
    ///
    /// Tables of `iptables-nft` are nft tables as well; they are judged by the text of
    /// `iptables-nft-save`, which tells their matches, and not a second time.
    ///
    /// # Errors
    /// [`FirewallError`] for output that is none of theirs.
    pub fn parse(facts: &FirewallFacts) -> Result<Self, FirewallError> {
        Self::beside(facts, &[])
    }

    /// Reads what the tools printed on a machine of which more is known.
    ///
    /// # Errors
    /// [`FirewallError`] for output that is none of theirs.
    pub fn on(facts: &Facts) -> Result<Self, FirewallError> {
        let sockets = facts.sockets.seen().map_or(&[][..], Vec::as_slice);
        let mut firewall = Self::beside(&facts.firewall, sockets)?;
        firewall.machine.counts = facts.sysctls.get("net.netfilter.nf_conntrack_acct") != Some(&0);
        Ok(firewall)
    }

    fn beside(facts: &FirewallFacts, sockets: &[Socket]) -> Result<Self, FirewallError> {
        let mut firewall = Self::default();
        let mut owned = BTreeSet::new();
        let mut tables = Vec::new();
        let room = Room::new();
        for (program, output) in &facts.iptables {
            match output {
                Observed::Seen(text) if is_repeated(facts, program, text) => {}
                Observed::Seen(_) if program.len() > LONGEST_NAME => {}
                Observed::Seen(text) => {
                    let read = read_iptables(program, text, &room)?;
                    if iptables::is_nft(program, text) {
                        owned.extend(read.iter().map(|table| (table.family, table.name.clone())));
                    }
                    tables.extend(read);
                }
                // Its tables are in nft's list, too.
                Observed::Unseen(_) if program.contains("nft") && facts.nft.seen().is_some() => {}
                Observed::Unseen(why) => firewall.not_seen(iptables::family(program), program, why),
            }
        }
        match &facts.nft {
            Observed::Seen(text) => {
                let devices = facts.nft_chains.as_deref().map(nft_chains::devices);
                let mut read = nft::read(text, &room)?;
                name_devices(&mut read, &devices.unwrap_or_default());
                let read = read.into_iter();
                let is_own = |table: &Table| !owned.contains(&(table.family, table.name.clone()));
                firewall.tables.extend(read.filter(is_own));
            }
            Observed::Unseen(why) => firewall.not_seen(Family::Inet, "nft", why),
        }
        firewall.tables.extend(tables);
        settle::settle(&mut firewall.tables, facts, sockets);
        let known = facts.conntrack.seen().copied().flatten();
        firewall.machine = Machine {
            clock: facts.clock,
            cpus: facts.cpus,
            counts: true,
            tracks: known.is_some_and(|count| count > 0) || firewall.uses_conntrack(),
        };
        Ok(firewall)
    }

    /// What becomes of a packet; of one that passes now, whether it does at all times.
    #[must_use]
    pub fn judge(&self, packet: &FilteredPacket) -> FilterVerdict {
        let now = self.judge_at(packet, self.machine.clock);
        if now != FilterVerdict::Accept || self.machine.clock.is_none() {
            return now;
        }
        let any = self.judge_at(packet, None);
        if matches!(any, FilterVerdict::Chance(_, Chance::Time)) {
            any
        } else {
            now
        }
    }

    fn judge_at(&self, packet: &FilteredPacket, clock: Option<Clock>) -> FilterVerdict {
        let machine = Machine {
            clock,
            ..self.machine
        };
        let Some(walked) = self.walk_on(packet, machine) else {
            return FilterVerdict::NotSeen(TOO_MANY.to_owned());
        };
        let mut gaps = self.unseen.iter();
        let gap = gaps.find(|(family, _)| family.sees(packet.source));
        match (walked.verdict, gap) {
            (FilterVerdict::Accept, Some((_, why))) => FilterVerdict::NotSeen(why.clone()),
            (verdict, _) => verdict,
        }
    }

    /// What conntrack is told of a packet before it sees it: whether to leave it alone, and its zone. None where
    /// that hangs on something that is not known.
    #[must_use]
    pub fn tracking(&self, packet: &FilteredPacket) -> Option<Tracking> {
        self.walk(packet)?.tracking
    }

    /// The mark that a packet has in the end; none: not known.
    #[must_use]
    pub fn mark(&self, packet: &FilteredPacket) -> Option<u32> {
        self.walk(packet)?.mark
    }

    /// A packet's way past all tables, unless too much was looked at before.
    fn walk(&self, packet: &FilteredPacket) -> Option<walk::Walked> {
        self.walk_on(packet, self.machine)
    }

    fn walk_on(&self, packet: &FilteredPacket, machine: Machine) -> Option<walk::Walked> {
        if self.work.is_done() {
            return None;
        }
        let walked = walk::walk(&self.tables, packet, machine);
        self.work.add(walked.work);
        Some(walked)
    }

    fn not_seen(&mut self, family: Family, program: &str, why: &str) {
        self.unseen.push((family, format!("{program}: {why}")));
    }
}

/// Tells the chains of devices of which, where their own text does not.
fn name_devices(tables: &mut [Table], devices: &nft_chains::Devices) {
    for table in tables {
        for (name, chain) in &mut table.chains {
            let key = (
                table.family.name().to_owned(),
                table.name.clone(),
                name.clone(),
            );
            if let Some(base) = chain.base.as_mut().filter(|base| base.devices.is_none()) {
                base.devices = devices.get(&key).cloned();
            }
        }
    }
}

/// Whether the text of a plain `iptables-save` is that of a variant that was asked by its own name.
fn is_repeated(facts: &FirewallFacts, program: &str, text: &str) -> bool {
    let Some(family) = program.strip_suffix("tables-save") else {
        return false;
    };
    let variant = if iptables::is_nft(program, text) {
        "nft"
    } else {
        "legacy"
    };
    let named = facts
        .iptables
        .get(&format!("{family}tables-{variant}-save"));
    named.is_some_and(|output| output.seen().is_some())
}

/// Tables of an iptables-save; those that the nft variant cannot print, nft does.
fn read_iptables(program: &str, text: &str, room: &Room) -> Result<Vec<Table>, FirewallError> {
    let mut tables = iptables::read(program, text, room)?;
    if iptables::is_nft(program, text) {
        let unprintable = iptables::unprintable(text);
        tables.retain(|table| !unprintable.contains(&table.name.as_str()));
    }
    Ok(tables)
}
