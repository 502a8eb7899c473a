//! Policy rules (ip-rule(8)): which routing table is asked, and when.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    rule::{RuleAction, RuleAttribute, RuleFlags, RuleHeader, RuleMessage},
};

use super::{Netlink, NetlinkError, Operation};

/// A policy rule.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PolicyRule {
    /// Of the rules for IPv6 packets.
    pub ipv6: bool,
    /// Lower goes first.
    pub priority: u32,
    /// Selects what does *not* match.
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

impl Netlink {
    /// The policy rules for IPv4, then those for IPv6, each in the order in which they are tried.
    ///
    /// # Errors
    /// Any [`NetlinkError`].
    pub fn rules(&mut self) -> Result<Vec<PolicyRule>, NetlinkError> {
        let request = RouteNetlinkMessage::GetRule(RuleMessage::default());
        let answers = self.dump(&Operation::new("list", "policy rules"), &request)?;
        Ok(answers.into_iter().filter_map(rule_of).collect())
    }
}

pub(super) fn rule_of(message: RouteNetlinkMessage) -> Option<PolicyRule> {
    let RouteNetlinkMessage::NewRule(message) = message else {
        return None;
    };
    let header = &message.header;
    let ipv6 = header.family == AddressFamily::Inet6;
    if !ipv6 && header.family != AddressFamily::Inet {
        return None; // multicast routing has rules, too
    }
    let mut rule = PolicyRule {
        ipv6,
        inverted: header.flags.contains(RuleFlags::Invert),
        from: any_prefix(ipv6, header.src_len),
        to: any_prefix(ipv6, header.dst_len),
        table: Some(u32::from(header.table)),
        ..PolicyRule::default()
    };
    for attribute in &message.attributes {
        read_attribute(&mut rule, header, attribute);
    }
    if header.action != RuleAction::ToTable {
        rule.table = None;
    }
    rule.text = text_of(&rule, header, &message.attributes);
    Some(rule)
}

/// A prefix of zeros has no attribute of its own; of length 0 it selects nothing.
fn any_prefix(ipv6: bool, length: u8) -> Option<IpNet> {
    let zeros: IpAddr = if ipv6 {
        Ipv6Addr::UNSPECIFIED.into()
    } else {
        Ipv4Addr::UNSPECIFIED.into()
    };
    IpNet::new(zeros, length).ok().filter(|_| length > 0)
}

fn read_attribute(rule: &mut PolicyRule, header: &RuleHeader, attribute: &RuleAttribute) {
    if let RuleAttribute::Source(address) = attribute {
        rule.from = IpNet::new(*address, header.src_len).ok();
    } else if let RuleAttribute::Destination(address) = attribute {
        rule.to = IpNet::new(*address, header.dst_len).ok();
    } else if let RuleAttribute::Priority(priority) = attribute {
        rule.priority = *priority;
    } else if let RuleAttribute::Iifname(name) = attribute {
        rule.iif = Some(name.clone());
    } else if let RuleAttribute::Oifname(name) = attribute {
        rule.oif = Some(name.clone());
    } else if let RuleAttribute::FwMark(mark) = attribute {
        let mask = rule.mark.map_or(u32::MAX, |(_, mask)| mask);
        rule.mark = Some((*mark, mask));
    } else if let RuleAttribute::FwMask(mask) = attribute {
        let mark = rule.mark.map_or(0, |(mark, _)| mark);
        rule.mark = Some((mark, *mask)).filter(|_| *mask != 0);
    } else if let RuleAttribute::Table(table) = attribute {
        rule.table = Some(*table);
    }
}

/// In the order of ip-rule(8)'s own output, `print_rule` of iproute2.
fn text_of(rule: &PolicyRule, header: &RuleHeader, attributes: &[RuleAttribute]) -> String {
    let mut words = Vec::new();
    if rule.inverted {
        words.push("not".to_owned());
    }
    words.push(format!("from {}", net_text(rule.from)));
    if rule.to.is_some() {
        words.push(format!("to {}", net_text(rule.to)));
    }
    if header.tos != 0 {
        words.push(format!("tos {:#04x}", header.tos));
    }
    match rule.mark {
        Some((mark, u32::MAX)) => words.push(format!("fwmark {mark:#x}")),
        Some((mark, mask)) => words.push(format!("fwmark {mark:#x}/{mask:#x}")),
        None => {}
    }
    words.extend(rule.iif.as_ref().map(|name| format!("iif {name}")));
    words.extend(rule.oif.as_ref().map(|name| format!("oif {name}")));
    for condition in [uids, protocol, source_ports, destination_ports, tunnel_id] {
        words.extend(attributes.iter().find_map(condition));
    }
    words.extend(action_text(rule, header, attributes));
    words.extend(attributes.iter().filter_map(suppression));
    words.join(" ")
}

/// A host without its prefix length.
fn net_text(net: Option<IpNet>) -> String {
    match net {
        None => "all".to_owned(),
        Some(net) if net.prefix_len() == net.max_prefix_len() => net.addr().to_string(),
        Some(net) => net.to_string(),
    }
}

fn uids(attribute: &RuleAttribute) -> Option<String> {
    if let RuleAttribute::UidRange(range) = attribute {
        Some(format!("uidrange {}-{}", range.start, range.end))
    } else {
        None
    }
}

fn protocol(attribute: &RuleAttribute) -> Option<String> {
    let RuleAttribute::IpProtocol(protocol) = attribute else {
        return None;
    };
    Some(match u8::from(*protocol) {
        6 => "ipproto tcp".to_owned(),
        17 => "ipproto udp".to_owned(),
        number => format!("ipproto {number}"),
    })
}

fn source_ports(attribute: &RuleAttribute) -> Option<String> {
    if let RuleAttribute::SourcePortRange(range) = attribute {
        Some(format!("sport {}", ports_text(range.start, range.end)))
    } else {
        None
    }
}

fn destination_ports(attribute: &RuleAttribute) -> Option<String> {
    if let RuleAttribute::DestinationPortRange(range) = attribute {
        Some(format!("dport {}", ports_text(range.start, range.end)))
    } else {
        None
    }
}

fn tunnel_id(attribute: &RuleAttribute) -> Option<String> {
    if let RuleAttribute::TunId(id) = attribute {
        Some(format!("tun_id {id}"))
    } else {
        None
    }
}

fn ports_text(start: u16, end: u16) -> String {
    if start == end {
        start.to_string()
    } else {
        format!("{start}-{end}")
    }
}

fn action_text(
    rule: &PolicyRule,
    header: &RuleHeader,
    attributes: &[RuleAttribute],
) -> Option<String> {
    let l3mdev = |attribute: &RuleAttribute| matches!(attribute, RuleAttribute::L3MDev(true));
    if attributes.iter().any(l3mdev) {
        return Some("lookup [l3mdev-table]".to_owned());
    }
    match header.action {
        RuleAction::ToTable => rule
            .table
            .map(|table| format!("lookup {}", table_text(table))),
        RuleAction::Goto => attributes.iter().find_map(goto),
        RuleAction::Nop => Some("nop".to_owned()),
        RuleAction::Blackhole => Some("blackhole".to_owned()),
        RuleAction::Unreachable => Some("unreachable".to_owned()),
        RuleAction::Prohibit => Some("prohibit".to_owned()),
        RuleAction::Unspec | RuleAction::Other(_) | _ => {
            Some(format!("action {}", u8::from(header.action)))
        }
    }
}

fn goto(attribute: &RuleAttribute) -> Option<String> {
    if let RuleAttribute::Goto(priority) = attribute {
        Some(format!("goto {priority}"))
    } else {
        None
    }
}

fn suppression(attribute: &RuleAttribute) -> Option<String> {
    if let RuleAttribute::SuppressPrefixLen(length) = attribute {
        (*length != u32::MAX).then(|| format!("suppress_prefixlength {length}"))
    } else if let RuleAttribute::SuppressIfGroup(group) = attribute {
        (*group != u32::MAX).then(|| format!("suppress_ifgroup {group}"))
    } else {
        None
    }
}

/// The names that every system has (rt_tables of iproute2).
fn table_text(table: u32) -> String {
    match table {
        253 => "default".to_owned(),
        254 => "main".to_owned(),
        255 => "local".to_owned(),
        number => number.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use netlink_packet_route::rule::RulePortRange;

    fn message(attributes: Vec<RuleAttribute>) -> RuleMessage {
        let mut message = RuleMessage::default();
        message.header.family = AddressFamily::Inet;
        message.header.table = 254;
        message.header.action = RuleAction::ToTable;
        message.attributes = attributes;
        message
    }

    fn read(message: RuleMessage) -> PolicyRule {
        rule_of(RouteNetlinkMessage::NewRule(message)).unwrap()
    }

    #[test]
    fn a_message_becomes_a_rule() {
        let mut selective = message(vec![
            RuleAttribute::Priority(100),
            RuleAttribute::Source("10.0.0.100".parse().unwrap()),
            RuleAttribute::FwMask(0xff),
            RuleAttribute::FwMark(0x1),
            RuleAttribute::Iifname("eth0".into()),
            RuleAttribute::SourcePortRange(RulePortRange {
                start: 80,
                end: 443,
            }),
            RuleAttribute::Table(1000),
            RuleAttribute::SuppressPrefixLen(u32::MAX),
        ]);
        selective.header.src_len = 32;
        selective.header.flags = RuleFlags::Invert;
        let expected = PolicyRule {
            ipv6: false,
            priority: 100,
            inverted: true,
            from: Some("10.0.0.100/32".parse().unwrap()),
            iif: Some("eth0".into()),
            mark: Some((0x1, 0xff)),
            table: Some(1000),
            text: "not from 10.0.0.100 fwmark 0x1/0xff iif eth0 sport 80-443 lookup 1000".into(),
            ..PolicyRule::default()
        };
        assert_eq!(read(selective), expected);
    }

    #[test]
    fn rules_without_a_table_have_none() {
        let mut prohibit = message(vec![RuleAttribute::Priority(7)]);
        prohibit.header.action = RuleAction::Prohibit;
        let rule = read(prohibit);
        assert_eq!(
            (rule.table, rule.text.as_str()),
            (None, "from all prohibit")
        );
        let mut goto = message(vec![RuleAttribute::Goto(32766)]);
        goto.header.action = RuleAction::Goto;
        assert_eq!(read(goto).text, "from all goto 32766");
        assert_eq!(read(message(vec![])).text, "from all lookup main");
    }

    #[test]
    fn the_kernel_has_its_first_rules() {
        let rules = Netlink::open().unwrap().rules().unwrap();
        for ipv6 in [false, true] {
            let first = rules.iter().find(|rule| rule.ipv6 == ipv6).unwrap();
            assert_eq!(first.text, "from all lookup local", "{rules:?}");
        }
    }
}
