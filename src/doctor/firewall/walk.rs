//! A packet's way past all tables: the hooks in their order, at each hook the base chains by priority.

use std::cmp::Reverse;

use super::evaluate::{Sight, Truth};
use super::model::{Base, Change, Family, Hook, Register, Table};
use super::pass::{Doubt, Kind, Pass, Place};
use super::{
    ConntrackState, FilterPath, FilterVerdict, FilteredPacket, Machine, RuleText, Tracking,
};

/// Rules looked at per packet. Rulesets that jump in cascades could hold a walk for hours; no sane one
/// comes near.
const MAX_RULES: usize = 200_000;
/// Elements of sets compared per packet, and more.
const MAX_ELEMENTS: usize = 8_000_000;
/// NF_IP_PRI_CONNTRACK: earlier chains at prerouting and output see no conntrack state.
const CONNTRACK_PRIORITY: i64 = -200;

/// What a packet's way past all tables comes to.
pub(super) struct Walked {
    pub(super) verdict: FilterVerdict,
    /// What conntrack is told of it; none: not known.
    pub(super) tracking: Option<Tracking>,
    /// Its mark behind all hooks; none: not known.
    pub(super) mark: Option<u32>,
    /// Rules and elements that were looked at.
    pub(super) work: usize,
}

/// Takes a packet past all tables.
pub(super) fn walk(tables: &[Table], packet: &FilteredPacket, machine: Machine) -> Walked {
    let mut walk = Walk::new(packet, machine);
    let verdict = walk.all(tables);
    Walked {
        verdict,
        tracking: walk.tracking(),
        mark: walk.mark,
        work: MAX_RULES - walk.rules_left + MAX_ELEMENTS - walk.elements_left,
    }
}

impl<'p> Walk<'p> {
    fn new(packet: &'p FilteredPacket, machine: Machine) -> Self {
        Self {
            packet,
            machine,
            mark: packet.mark,
            ct_mark: match packet.state {
                ConntrackState::New => Some(0),
                ConntrackState::Established => packet.ct_mark,
                ConntrackState::Invalid | ConntrackState::Untracked => None,
            },
            zone: packet.zone,
            notrack: Notrack::No,
            rules_left: MAX_RULES,
            elements_left: MAX_ELEMENTS,
        }
    }
}

impl Walk<'_> {
    const fn tracking(&self) -> Option<Tracking> {
        match (&self.notrack, self.zone) {
            (Notrack::Yes, _) => Some(Tracking::Untracked),
            (Notrack::Perhaps(_), _) | (Notrack::No, None) => None,
            (Notrack::No, Some(zone)) => Some(Tracking::InZone {
                zone,
                mark: self.ct_mark,
            }),
        }
    }

    fn all(&mut self, tables: &[Table]) -> FilterVerdict {
        let mut verdict = FilterVerdict::Accept;
        for hook in hooks(self.packet.path) {
            for entry in entries(tables, *hook, self.packet) {
                let now = self.base_chain(&entry);
                if matches!(now, FilterVerdict::Drop(_)) {
                    return now;
                }
                verdict = first(verdict, now);
            }
            // What follows would be judged for a packet that is no longer this one.
            if matches!(verdict, FilterVerdict::Diverted(..)) {
                return verdict;
            }
        }
        verdict
    }
}

/// What was found first stays, unless all was well until then.
fn first(before: FilterVerdict, now: FilterVerdict) -> FilterVerdict {
    if before == FilterVerdict::Accept {
        now
    } else {
        before
    }
}

const fn hooks(path: FilterPath) -> &'static [Hook] {
    match path {
        FilterPath::ToThisHost => &[Hook::Ingress, Hook::Prerouting, Hook::Input],
        FilterPath::FromThisHost => &[Hook::Output, Hook::Postrouting, Hook::Egress],
        FilterPath::Arriving => &[Hook::Ingress, Hook::Prerouting],
        FilterPath::Delivered => &[Hook::Input],
        FilterPath::Onward => &[Hook::Forward, Hook::Postrouting, Hook::Egress],
        FilterPath::Through => &[
            Hook::Ingress,
            Hook::Prerouting,
            Hook::Forward,
            Hook::Postrouting,
            Hook::Egress,
        ],
    }
}

/// A base chain that the packet passes.
struct Entry<'t> {
    table: &'t Table,
    chain: &'t str,
    base: &'t Base,
    /// Whether the chain is in use, and bound to the packet's device.
    bound: Truth,
}

impl Entry<'_> {
    fn policy(&self) -> RuleText {
        self.table.quote_policy(self.chain, &self.base.policy)
    }
}

/// The base chains at a hook, in the order in which the kernel enters them.
fn entries<'t>(tables: &'t [Table], hook: Hook, packet: &FilteredPacket) -> Vec<Entry<'t>> {
    let mut entries = Vec::new();
    for table in tables {
        if !table.family.sees(packet.source) {
            continue;
        }
        for (name, chain) in &table.chains {
            let Some(base) = chain.base.as_ref().filter(|base| base.hook == hook) else {
                continue;
            };
            let mut bound = is_bound(base, table.family, packet);
            if table.perhaps_dormant {
                bound = bound.min(Truth::Perhaps);
            }
            if bound != Truth::No {
                entries.push(Entry {
                    table,
                    chain: name,
                    base,
                    bound,
                });
            }
        }
    }
    entries.sort_by_key(|entry| (entry.base.priority, Reverse(entry.base.added)));
    entries
}

fn is_bound(base: &Base, family: Family, packet: &FilteredPacket) -> Truth {
    let device = match base.hook {
        Hook::Ingress => packet.iif.as_ref(),
        Hook::Egress => packet.oif.as_ref(),
        Hook::Prerouting | Hook::Input | Hook::Forward | Hook::Output | Hook::Postrouting => {
            return if family == Family::Netdev {
                Truth::No
            } else {
                Truth::Yes
            };
        }
    };
    match (&base.devices, device) {
        (Some(devices), Some(device)) if devices.contains(device) => Truth::Yes,
        (Some(_), Some(_)) => Truth::No,
        (None, _) | (_, None) => Truth::Perhaps,
    }
}
/// Whether a rule has taken the packet away from conntrack.
#[derive(Debug, Clone)]
pub(super) enum Notrack {
    No,
    /// This rule, if it matched.
    Perhaps(Doubt),
    Yes,
}

/// A packet on its way.
pub(super) struct Walk<'p> {
    pub(super) packet: &'p FilteredPacket,
    machine: Machine,
    mark: Option<u32>,
    ct_mark: Option<u32>,
    zone: Option<u32>,
    pub(super) notrack: Notrack,
    pub(super) rules_left: usize,
    pub(super) elements_left: usize,
}

impl Walk<'_> {
    /// What a base chain that is perhaps not in use would do, is not known to happen.
    fn base_chain(&mut self, entry: &Entry<'_>) -> FilterVerdict {
        if entry.bound == Truth::Yes {
            return self.enter(entry);
        }
        let (mark, ct_mark, notrack) = (self.mark, self.ct_mark, self.notrack.clone());
        let verdict = self.enter(entry);
        self.mark = self.mark.filter(|now| mark == Some(*now));
        self.ct_mark = self.ct_mark.filter(|now| ct_mark == Some(*now));
        if let (Notrack::Yes, Notrack::No | Notrack::Perhaps(_)) = (&self.notrack, &notrack) {
            self.notrack = Notrack::Perhaps(Doubt::of(entry.policy()));
        }
        match verdict {
            FilterVerdict::Drop(rule)
            | FilterVerdict::Rewritten(rule)
            | FilterVerdict::Diverted(rule, _)
            | FilterVerdict::Chance(rule, _)
            | FilterVerdict::Unknown(rule) => FilterVerdict::Unknown(rule),
            FilterVerdict::Accept | FilterVerdict::NotSeen(_) => verdict,
        }
    }

    fn enter(&mut self, entry: &Entry<'_>) -> FilterVerdict {
        let sight = self.sight(entry.base);
        let first = matches!(sight.state, None | Some(ConntrackState::New));
        if entry.base.nat && !(first && self.machine.tracks) {
            return FilterVerdict::Accept;
        }
        let notrack = self.notrack.clone();
        let mut pass = Pass::new(self, entry.table, entry.base);
        let mut place = Place::Here(None);
        if let (true, Notrack::Perhaps(doubt)) = (entry.base.nat, notrack) {
            pass.outcome(Kind::Accept, doubt.rule.clone(), Some(doubt.clone()));
            place = Place::Here(Some(doubt));
        }
        if let Place::Here(doubt) = pass.chain(entry.chain, place) {
            let kind = if entry.base.policy.drops {
                Kind::Drop
            } else {
                Kind::Accept
            };
            pass.outcome(kind, entry.policy(), doubt);
        }
        pass.verdict()
    }

    pub(super) fn sight(&self, base: &Base) -> Sight<'_> {
        let before_conntrack = match base.hook {
            Hook::Ingress => true,
            Hook::Prerouting | Hook::Output => base.priority <= CONNTRACK_PRIORITY,
            Hook::Input | Hook::Forward | Hook::Postrouting | Hook::Egress => false,
        };
        let state = match &self.notrack {
            Notrack::Yes => Some(ConntrackState::Untracked),
            Notrack::Perhaps(_) => None,
            // The kernel takes what has no conntrack entry for invalid.
            Notrack::No if before_conntrack => Some(ConntrackState::Invalid),
            Notrack::No => Some(self.packet.state),
        };
        Sight {
            packet: self.packet,
            machine: self.machine,
            hook: base.hook,
            state,
            before_conntrack,
            mark: self.mark,
            ct_mark: self.ct_mark,
            zone: self.zone,
        }
    }

    pub(super) const fn set(&mut self, register: Register, value: Option<u32>) {
        match register {
            Register::Mark => self.mark = value,
            Register::CtMark => self.ct_mark = value,
            Register::CtZone => self.zone = value,
        }
    }

    pub(super) fn changed(&self, change: Change) -> Option<u32> {
        match change {
            Change::Affine { from, and, xor } => {
                let from = match from {
                    Register::Mark => self.mark,
                    Register::CtMark => self.ct_mark,
                    Register::CtZone => self.zone,
                };
                if and == 0 {
                    return Some(xor);
                }
                from.map(|value| (value & and) ^ xor)
            }
            Change::Opaque => None,
        }
    }
}
