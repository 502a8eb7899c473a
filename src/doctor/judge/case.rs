//! One target with the facts about its machine: the questions that several checks ask.

use std::cell::OnceCell;
use std::net::IpAddr;

use crate::doctor::facts::{Facts, Link, Observed, Route, RouteAnswer, Target};
use crate::doctor::firewall::{
    ConntrackState, Diversion, FilterVerdict, Firewall, RuleText, Tracking,
};
use crate::doctor::lang::Lang;

use super::diversion::delivered_to;
use super::flow::{arriving_mark, inner_packet, mark_of_answer};
use super::outcome::Outcome;
use super::way_back::answers_are_marked;

/// What a check of a backend looks at.
pub(super) struct Case<'a> {
    pub(super) facts: &'a Facts,
    pub(super) target: &'a Target,
    pub(super) lang: Lang,
    /// The packet filters, or why they cannot be judged.
    pub(super) firewall: &'a Result<Firewall, String>,
    known: Known,
}

/// What many checks ask, once it was found out.
#[derive(Default)]
struct Known {
    diversion: OnceCell<Option<(RuleText, Diversion)>>,
    tracking: OnceCell<Option<Tracking>>,
}

impl<'a> Case<'a> {
    pub(super) fn new(
        facts: &'a Facts,
        target: &'a Target,
        lang: Lang,
        firewall: &'a Result<Firewall, String>,
    ) -> Self {
        Self {
            facts,
            target,
            lang,
            firewall,
            known: Known::default(),
        }
    }

    /// What sends the VIP's packets elsewhere than to a socket of its own address and port.
    pub(super) fn diversion(&self) -> Option<&(RuleText, Diversion)> {
        let found = || {
            let firewall = self.firewall.as_ref().ok()?;
            match firewall.judge(&inner_packet(self, ConntrackState::New)) {
                FilterVerdict::Diverted(rule, to) => Some((rule, to)),
                FilterVerdict::Drop(_)
                | FilterVerdict::Unknown(_)
                | FilterVerdict::Chance(..)
                | FilterVerdict::NotSeen(_)
                | FilterVerdict::Accept
                | FilterVerdict::Rewritten(_) => None,
            }
        };
        self.known.diversion.get_or_init(found).as_ref()
    }

    /// How conntrack keeps the connection of the VIP's packets.
    pub(super) fn tracking(&self) -> Option<Tracking> {
        let found = || {
            let firewall = self.firewall.as_ref().ok()?;
            firewall.tracking(&inner_packet(self, ConntrackState::New))
        };
        *self.known.tracking.get_or_init(found)
    }

    /// The device by which outer packets come in.
    pub(super) fn physical(&self) -> Option<&'a Link> {
        self.link(self.target.physical.as_deref()?)
    }

    /// The device out of which inner packets come.
    pub(super) fn tunnel(&self) -> Option<&'a Link> {
        self.link(self.target.tunnel.as_deref()?)
    }

    pub(super) fn link(&self, name: &str) -> Option<&'a Link> {
        let links = self.facts.links.seen()?;
        links.iter().find(|link| link.name == name)
    }

    /// Addresses on a device; nothing where they could not be read.
    pub(super) fn addresses_on(&self, link: &Link) -> Option<Vec<ipnet::IpNet>> {
        let addresses = self.facts.addresses.seen()?;
        let on_it = addresses
            .iter()
            .filter(|address| address.link == link.index);
        Some(on_it.map(|address| address.net).collect())
    }

    /// Whether the machine has that address on any device.
    pub(super) fn is_own(&self, address: IpAddr) -> bool {
        let addresses = self.facts.addresses.seen();
        addresses.is_some_and(|all| all.iter().any(|own| own.net.addr() == address))
    }

    /// Whether the machine has an address in that network.
    pub(super) fn is_own_within(&self, net: ipnet::IpNet) -> bool {
        let addresses = self.facts.addresses.seen();
        addresses.is_some_and(|all| all.iter().any(|own| net.contains(&own.net.addr())))
    }

    /// The machine's own address that outer packets go to (R), of the director's family.
    pub(super) fn backend_address(&self) -> Option<IpAddr> {
        let ipv4 = self.outer_is_ipv4();
        let addresses = self.addresses_on(self.physical()?)?;
        let mut addresses = addresses.iter().map(ipnet::IpNet::addr);
        addresses.find(|address| {
            let link_local = matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local());
            address.is_ipv4() == ipv4 && *address != self.target.vip && !link_local
        })
    }

    /// The family of the outer header: the director's; IPv4 where it is not known.
    pub(super) fn outer_is_ipv4(&self) -> bool {
        self.target
            .director
            .is_none_or(|director| director.is_ipv4())
    }

    pub(super) fn sysctl(&self, name: &str) -> Option<i64> {
        self.facts.sysctls.get(name).copied()
    }

    /// An IPv4 setting of which the larger one of `all` and the device counts.
    pub(super) fn effective(&self, device: &str, key: &str) -> Option<Effective> {
        let all_name = conf("all", key);
        let own_name = conf(device, key);
        Some(Effective {
            all: self.sysctl(&all_name)?,
            own: self.sysctl(&own_name)?,
            all_name,
            own_name,
        })
    }

    pub(super) fn counter(&self, name: &str) -> Option<u64> {
        self.facts.counters.get(name).copied()
    }

    /// Adds counters of all time to the evidence, those that the kernel has.
    pub(super) fn with_counters(&self, outcome: Outcome, names: &[&str]) -> Outcome {
        names
            .iter()
            .fold(outcome, |outcome, name| match self.counter(name) {
                Some(value) => outcome.evidence(*name, value),
                None => outcome,
            })
    }

    /// `VIP:PORT/PROTO` with `any` for no port.
    pub(super) fn service(&self) -> String {
        service_text(self.target)
    }

    /// Whether V is in a subnet of E, so that machines of that segment ask for it by ARP.
    pub(super) fn vip_is_on_link(&self) -> Option<bool> {
        let vip = self.target.vip;
        let addresses = self.addresses_on(self.physical()?)?;
        let mut subnets = addresses.iter().filter(|net| net.addr() != vip);
        Some(subnets.any(|net| net.contains(&vip)))
    }

    /// Whether the director is in a subnet of E.
    pub(super) fn director_is_on_link(&self) -> Option<bool> {
        let director = self.target.director?;
        let addresses = self.addresses_on(self.physical()?)?;
        Some(addresses.iter().any(|net| net.contains(&director)))
    }

    /// How answers go to the client.
    pub(super) fn way_back(&self) -> Option<&'a Route> {
        usable(self.answer_route())
    }

    /// `ip route get C from V`; where a rule sends requests to an address of this host's own, answers leave from
    /// that one, and conntrack puts V back behind the routing.
    pub(super) fn answer_route(&self) -> &'a RouteAnswer {
        let at = delivered_to(self);
        if at.is_some_and(|(address, _)| address != self.target.vip) {
            return &self.target.way_back_of_any;
        }
        let by_mark = &self.target.way_back_by_mark;
        if by_mark.is_empty() {
            return &self.target.way_back;
        }
        let mark = mark_of_answer(self, answers_are_marked(&self.facts.firewall));
        let marked = mark.and_then(|mark| by_mark.get(&mark));
        marked.unwrap_or(&self.target.way_back)
    }

    /// `ip route get V from C iif T`, with the mark that the filters give to the client's packets.
    pub(super) fn input(&self) -> &'a RouteAnswer {
        let target = self.target;
        if target.input_by_mark.is_empty() {
            return &target.input;
        }
        let marked = arriving_mark(self).and_then(|mark| target.input_by_mark.get(&mark));
        marked.unwrap_or(&target.input)
    }
}

/// An IPv4 setting of which the larger one of `all` and the device counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Effective {
    pub(super) all: i64,
    pub(super) own: i64,
    pub(super) all_name: String,
    pub(super) own_name: String,
}

impl Effective {
    pub(super) fn value(&self) -> i64 {
        self.all.max(self.own)
    }

    /// Adds both values to the evidence.
    pub(super) fn shown_in(&self, outcome: Outcome) -> Outcome {
        outcome
            .evidence(&self.all_name, self.all)
            .evidence(&self.own_name, self.own)
    }
}

/// The dotted name of an IPv4 device setting; dots of the device become slashes, as sysctl(8) has it.
pub(in crate::doctor) fn conf(device: &str, key: &str) -> String {
    format!("net.ipv4.conf.{}.{key}", device.replace('.', "/"))
}

pub(super) fn service_text(target: &Target) -> String {
    let port = target
        .port
        .map_or("any".to_owned(), |port| port.to_string());
    match target.vip {
        IpAddr::V4(vip) => format!("{vip}:{port}/{}", target.protocol),
        IpAddr::V6(vip) => format!("[{vip}]:{port}/{}", target.protocol),
    }
}

/// A route that delivers packets, to this machine or another one.
pub(super) fn usable(answer: &RouteAnswer) -> Option<&Route> {
    match answer {
        RouteAnswer::Route(route) if matches!(route.kind.as_str(), "unicast" | "local") => {
            Some(route)
        }
        RouteAnswer::Route(_) | RouteAnswer::Refused(_) | RouteAnswer::Unseen(_) => None,
    }
}

pub(super) fn is_local(answer: &RouteAnswer) -> bool {
    usable(answer).is_some_and(|route| route.kind == "local")
}

/// A route answer as evidence, in the words of `ip route`.
pub(super) fn route_text(answer: &RouteAnswer) -> String {
    match answer {
        RouteAnswer::Route(route) => {
            let mut text = route.kind.clone();
            for (word, value) in [
                ("via", route.gateway.map(|gateway| gateway.to_string())),
                ("dev", route.device.clone()),
                ("src", route.source.map(|source| source.to_string())),
                ("table", route.table.map(|table| table.to_string())),
            ] {
                if let Some(value) = value {
                    text += &format!(" {word} {value}");
                }
            }
            text
        }
        RouteAnswer::Refused(errno) => errno_text(*errno),
        RouteAnswer::Unseen(why) => why.clone(),
    }
}

/// An errno by its name.
pub(super) fn errno_text(errno: i32) -> String {
    match errno {
        libc::EPERM => "EPERM".to_owned(),
        libc::EACCES => "EACCES".to_owned(),
        libc::EXDEV => "EXDEV".to_owned(),
        libc::EINVAL => "EINVAL".to_owned(),
        libc::EMSGSIZE => "EMSGSIZE".to_owned(),
        libc::ENETUNREACH => "ENETUNREACH".to_owned(),
        libc::EHOSTUNREACH => "EHOSTUNREACH".to_owned(),
        libc::ENOBUFS => "ENOBUFS".to_owned(),
        libc::ENETDOWN => "ENETDOWN".to_owned(),
        libc::EADDRNOTAVAIL => "EADDRNOTAVAIL".to_owned(),
        other => format!("errno {other}"),
    }
}

/// Why something could not be seen; nothing where it was.
pub(super) fn unseen<T>(observed: &Observed<T>) -> Option<&str> {
    match observed {
        Observed::Seen(_) => None,
        Observed::Unseen(why) => Some(why),
    }
}
