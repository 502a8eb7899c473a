//! What the fuzz targets share: a site with every kind of VIP, streams of packets with times, and what must
//! hold of all that the doctor prints.

use std::net::IpAddr;
use std::num::{NonZeroU8, NonZeroU16, NonZeroU32, NonZeroUsize};
use std::sync::Arc;
use std::time::Duration;

use tunlb::daemon::pipeline::MemoryPipeline;
use tunlb::director::{
    AllDown, BackendSpec, BackendState, Director, DropReason, Echo, FlowLimits, FlowTimeouts,
    HashFields, HashKey, Health, Mss, Plan, PortMatch, Protocol, RingSize, Roster, Seat,
    Snapshot, Timestamp, Verdict, VipSpec,
};
use tunlb::doctor::Lang;
use tunlb::doctor::finding::Diagnosis;
use tunlb::doctor::fix::command::Command;
use tunlb::doctor::lines::FixLine;
use tunlb::doctor::report::Style;
use tunlb::doctor::report::json::Document;
use tunlb::doctor::report::text::{Detail, fixes, report};
use tunlb::io::packet_socket::Instruction;
use tunlb::packet::{
    Encap, EncapKind, EntropyPrefix, FamilyMismatch, Packet, SourceRule,
};
use tunlb::text::plain::is_plain;

/// The VIPs' addresses, one of each family; a stream's packets are for one of them half of the time.
pub const VIP4: [u8; 4] = [203, 0, 113, 10];
/// 2001:db8::10.
pub const VIP6: [u8; 16] = [0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10];

/// The bound of the fuzzed directors' flow tables: small, so that a short stream fills it.
pub const FLOWS: usize = 16;

/// A director and the control behind it, which reloads.
#[derive(Debug)]
pub struct Site {
    pipeline: MemoryPipeline,
    roster: Roster,
    reloads: usize,
}

impl Default for Site {
    fn default() -> Self {
        let mut roster = Roster::default();
        let snapshot = snapshot(&mut roster, 0);
        let seat = Seat {
            worker: 0,
            workers: 1,
            seed: [1, 2, 3, 4],
        };
        let director = Director::new(snapshot, &seat);
        roster.attach(Arc::clone(director.counters()));
        Self {
            pipeline: MemoryPipeline::in_memory(director),
            roster,
            reloads: 0,
        }
    }
}

impl Site {
    /// The next of a few configurations; every flow in the table is one of a backend.
    fn reload(&mut self) {
        self.reloads += 1;
        let next = snapshot(&mut self.roster, self.reloads);
        self.pipeline.adopt(next, 0);
        let flows = self.roster.counters().all_traffic().flows;
        assert_eq!(flows, self.pipeline.director().flows().len() as u64);
    }
}

/// The backends of every VIP.
pub const BACKENDS: [&str; 4] = ["10.0.1.11", "2001:db8:1::11", "10.0.1.12", "2001:db8:1::12"];

/// The first snapshot of a [`Site`].
#[must_use]
pub fn first_snapshot() -> Arc<Snapshot> {
    snapshot(&mut Roster::default(), 0)
}

/// TCP port 80, UDP port 53 (GUE), and any UDP port, at both addresses; with reloads, VIPs and
/// backends leave and return, drain, get other weights and health.
fn snapshot(roster: &mut Roster, reloads: usize) -> Arc<Snapshot> {
    let mut vips = Vec::new();
    for address in [IpAddr::from(VIP4), IpAddr::from(VIP6)] {
        let gue = EncapKind::Gue {
            port: NonZeroU16::new(6080).expect("not 0"),
        };
        vips.push(vip(address, 80, Protocol::Tcp, EncapKind::Ipip));
        vips.push(vip(address, 53, Protocol::Udp, gue));
        vips.push(vip(address, 0, Protocol::Udp, EncapKind::Ipip));
    }
    match reloads % 4 {
        1 => vips.retain(|vip| vip.port != PortMatch::Any),
        2 => vips.iter_mut().for_each(|vip| {
            vip.backends.remove(0);
            vip.backends[0].state = BackendState::Draining;
            vip.new_flows_per_second = NonZeroU32::new(1);
        }),
        3 => vips.iter_mut().for_each(|vip| {
            vip.backends.truncate(2);
            vip.backends[0].state = BackendState::Disabled;
            vip.all_down = AllDown::Drop;
        }),
        _ => {}
    }
    let flows = FLOWS >> (reloads % 3);
    let plan = Plan {
        vips: &vips,
        hash_key: HashKey::DEFAULT,
        ring_size: RingSize::new(251).expect("a prime"),
        flows: FlowLimits {
            bound: NonZeroUsize::new(flows).expect("not 0"),
            timeouts: FlowTimeouts::default(),
        },
    };
    let health = |_: &VipSpec, _| match reloads % 5 {
        4 => Health::Unhealthy,
        _ => Health::Healthy,
    };
    Arc::new(roster.build(&plan, health, tunnel).expect("a valid site"))
}

fn vip(address: IpAddr, port: u16, protocol: Protocol, encap: EncapKind) -> VipSpec {
    VipSpec {
        name: format!("{address} {port}/{protocol}"),
        address,
        port: NonZeroU16::new(port).map_or(PortMatch::Any, PortMatch::Exact),
        protocol,
        hash: if port == 53 {
            HashFields::SourceAddress
        } else {
            HashFields::FiveTuple
        },
        echo: if address.is_ipv4() {
            Echo::Reply
        } else {
            Echo::Forward
        },
        mss: if protocol == Protocol::Tcp {
            Mss::Clamp
        } else {
            Mss::Keep
        },
        all_down: AllDown::Forward,
        min_healthy: 0,
        probing: None,
        new_flows_per_second: None,
        encap,
        backends: BACKENDS
            .into_iter()
            .map(|backend| BackendSpec {
                address: backend.parse().expect("an address"),
                weight: 1,
                state: BackendState::Active,
            })
            .collect(),
    }
}

fn tunnel(vip: &VipSpec, backend: IpAddr) -> Result<Encap, FamilyMismatch> {
    let prefix = if backend.is_ipv4() {
        "172.16.0.0/16"
    } else {
        "100::/64"
    };
    let prefix = EntropyPrefix::new(prefix.parse().expect("a prefix")).expect("free bits");
    let ttl = NonZeroU8::new(64).expect("not 0");
    Encap::new(vip.encap, SourceRule::Entropy(prefix), backend, ttl)
}

/// A stream of packets: per packet a byte of time, two of length (big-endian), and the packet.
#[derive(Debug, Clone, Copy)]
pub struct Stream<'a>(pub &'a [u8]);

impl<'a> Iterator for Stream<'a> {
    type Item = (Duration, &'a [u8]);

    /// The time since the packet before: 0 to 50 s, in steps that meet every timeout of the core.
    fn next(&mut self) -> Option<Self::Item> {
        let ([time, high, low], rest) = self.0.split_first_chunk()?;
        let length = usize::from(u16::from_be_bytes([*high, *low])).min(rest.len());
        let (packet, rest) = rest.split_at(length);
        self.0 = rest;
        let pause = match time {
            0..128 => Duration::ZERO,
            128..192 => Duration::from_millis(u64::from(time - 128) * 20),
            192..=255 => Duration::from_millis(u64::from(time - 192) * 800),
        };
        Some((pause, packet))
    }
}

/// The longest pause of a stream stands for a reload as well.
const RELOAD: Duration = Duration::from_millis(63 * 800);

/// Feeds a director a stream, and checks after every packet that it was accounted for.
///
/// # Panics
/// When it was not: that is what the fuzzer looks for.
pub fn drive(site: &mut Site, stream: Stream<'_>) {
    let mut now = Duration::ZERO;
    let (mut seen, mut forwarded) = (0, 0);
    for (pause, bytes) in stream {
        now += pause;
        seen += 1;
        if pause == RELOAD {
            site.reload();
        }
        let passed = site.pipeline.pass(bytes, Timestamp::after(now));
        let mut left = passed.emitted.as_slice();
        match (passed.verdict, left) {
            (Verdict::Forward(_), [outer, held @ ..]) => {
                check_outer(outer);
                forwarded += 1;
                left = held;
            }
            (Verdict::Reply(_), replies) => {
                for bytes in replies {
                    let reply = Packet::parse(bytes).expect("our own answer");
                    let later = reply.fragment().is_some_and(|piece| piece.offset > 0);
                    assert!(later || reply.transport().is_ok());
                }
                left = &[];
            }
            (Verdict::Forward(_), []) => panic!("{passed:?} left no packet"),
            (Verdict::Hold | Verdict::Drop(_), _) => {}
        }
        for outer in left {
            check_outer(outer);
            forwarded += 1;
        }
        let director = site.pipeline.director();
        assert!(director.flows().len() <= FLOWS);
        let accounted = director.counters().replied() + forwarded + dropped(director);
        // What waits is answered, forwarded or dropped in the end, so the sums meet once nothing waits.
        let waiting = director.is_holding();
        assert!(seen == accounted || waiting && seen > accounted);
    }
}

fn dropped(director: &Director) -> u64 {
    let counters = director.counters();
    DropReason::ALL
        .iter()
        .map(|&reason| counters.dropped(reason))
        .sum()
}

/// What leaves is a packet of its own.
fn check_outer(outer: &[u8]) {
    let packet = Packet::parse(outer).expect("our own header");
    assert_eq!(usize::from(packet.meta().length), outer.len());
}

/// Prints findings in every form, and checks what must hold of each: a terminal obeys nothing in it, and a
/// command is one line that stands for its words and for nothing else.
///
/// # Panics
/// Where it does not: that is what the fuzzer looks for.
pub fn printed(diagnoses: &[Diagnosis], lang: Lang) {
    for detail in [Detail::Notable, Detail::All] {
        let text = report(
            diagnoses,
            Style {
                width: 80,
                detail,
                lang,
            },
        );
        assert!(
            text.lines().all(|line| is_plain(&without_colours(line))),
            "{text:?}"
        );
    }
    let fixes = fixes(diagnoses);
    assert!(fixes.lines().all(is_plain), "{fixes:?}");
    if let Some(document) = Document::new(diagnoses) {
        let json = document.text().expect("JSON");
        assert!(
            json.lines().all(is_plain) && json.lines().count() == 1,
            "{json:?}"
        );
        let read = Document::parse(&json).expect("what was printed");
        let again: Vec<_> = read
            .diagnoses()
            .flat_map(|diagnosis| &diagnosis.checks)
            .collect();
        let checks: Vec<_> = diagnoses
            .iter()
            .flat_map(|diagnosis| &diagnosis.checks)
            .collect();
        for (check, again) in checks.iter().zip(again) {
            for (line, again) in check.fix.iter().zip(&again.fix) {
                assert_eq!(line.words(), again.words());
            }
        }
        for line in checks
            .iter()
            .flat_map(|check| check.fix.iter().chain(&check.verify))
        {
            pasted(line);
        }
    }
}

fn pasted(line: &FixLine) {
    let text = line.to_string();
    assert!(is_plain(&text), "{text:?}");
    match line.words() {
        Some(words) => assert_eq!(tunlb::text::shell::words(&text).as_deref(), Some(words)),
        None => assert!(text.starts_with('#'), "{text:?}"),
    }
    // Whatever the doctor would run, it would run as words.
    if let Ok(command) = Command::of(line) {
        assert_eq!(Some(command.words.as_slice()), line.words());
    }
}

/// A report's own colours: ESC `[`, digits and `;`, `m`.
fn without_colours(line: &str) -> String {
    let mut plain = String::new();
    let mut rest = line;
    while let Some((before, after)) = rest.split_once("\u{1b}[") {
        plain.push_str(before);
        let end = after.find(|letter: char| !letter.is_ascii_digit() && letter != ';');
        let end = end
            .filter(|end| after[*end..].starts_with('m'))
            .expect("a colour");
        rest = &after[end + 1..];
    }
    plain + rest
}

/// Ancillary data of a packet filter (SKF_AD_OFF of linux/filter.h): EtherType, kind of packet, device.
const ANCILLARY: u32 = 0xffff_f000;

/// Runs a packet filter as the kernel does, and checks what the kernel checks of it first: jumps lead into
/// the program, and the last instruction ends it.
///
/// # Panics
/// Where it would be refused.
pub fn filter_ends(program: &[Instruction], bytes: &[u8], around: u8) {
    assert!(program.len() <= 4096 && program.last().is_some_and(|last| last.code == 0x06));
    let (mut a, mut x, mut at) = (0_u32, 0_u32, 0_usize);
    for _ in 0..program.len() {
        let Instruction {
            code,
            jump_true,
            jump_false,
            operand: k,
        } = program[at];
        at += 1;
        let branch = |holds: bool| usize::from(if holds { jump_true } else { jump_false });
        let load = |from: u32, width: usize| {
            let from = usize::try_from(from).ok()?;
            let field = bytes.get(from..from.checked_add(width)?)?;
            Some(
                field
                    .iter()
                    .fold(0, |all, byte| all << 8 | u32::from(*byte)),
            )
        };
        let loaded = match code {
            0x20 if k == ANCILLARY => Some(if around & 8 == 0 { 0x0800 } else { 0x86dd }),
            0x20 if k == ANCILLARY + 4 => Some(u32::from(around & 4)),
            0x20 if k == ANCILLARY + 8 => Some(u32::from(around % 4)),
            0x20 => load(k, 4),
            0x30 => load(k, 1),
            0x40 => load(x.wrapping_add(k), 4),
            0x48 => load(x.wrapping_add(k), 2),
            0x50 => load(x.wrapping_add(k), 1),
            _ => None,
        };
        match code {
            0x20 | 0x30 | 0x40 | 0x48 | 0x50 => match loaded {
                Some(value) => a = value,
                None => return, // past the packet's end: refused
            },
            0x01 => x = k,
            0x07 => x = a,
            0x87 => a = x,
            0x54 => a &= k,
            0x64 => a <<= k,
            0x04 => a = a.wrapping_add(k),
            0x0c => a = a.wrapping_add(x),
            0x05 => at += usize::try_from(k).expect("32 bits"),
            0x15 => at += branch(a == k),
            0x45 => at += branch(a & k != 0),
            0x06 => return,
            other => panic!("instruction {other:#x}"),
        }
    }
    panic!("a filter without end");
}
