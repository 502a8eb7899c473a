//! What rules leave to others is settled before packets are judged: members of ipsets, and queues to programs, of
//! which some have none that reads them.

use std::collections::HashMap;
use std::net::IpAddr;

use super::model::{Element, Field, Match, Op, Operand, Step, Table, Value, Verdict};
use super::{Destination, Diversion, names};
use crate::doctor::facts::{FirewallFacts, Socket};

/// A set as `ipset save` prints it: its dimensions (`ip`, `net`, `port`, `mac`, …) and its members.
struct Ipset {
    dimensions: Vec<String>,
    members: Vec<Vec<String>>,
}

/// Puts what is known in the place of what rules refer to.
pub(super) fn settle(tables: &mut [Table], facts: &FirewallFacts, sockets: &[Socket]) {
    let sets = facts.ipsets.as_deref().map(ipsets).unwrap_or_default();
    let chains = tables
        .iter_mut()
        .flat_map(|table| table.chains.values_mut());
    let rules = chains.flat_map(|chain| chain.rules.iter_mut());
    for step in rules.flat_map(|rule| rule.steps.iter_mut()) {
        match step {
            Step::Match(Match::InIpset {
                name,
                by_source,
                negated,
            }) => {
                let set = sets.get(name);
                let members = set.and_then(|set| set.condition(by_source, *negated));
                *step = Step::Match(members.unwrap_or(Match::Undecidable));
            }
            Step::Match(Match::Recent {
                name,
                by_source,
                negated,
            }) => *step = Step::Match(recent(facts.recent.get(name), *by_source, *negated)),
            Step::End(Verdict::Queue { number, bypass }) => {
                *step = Step::End(queued(*number, *bypass, facts.queues.as_deref()));
            }
            Step::End(Verdict::Socket { to, drops_without }) => {
                *step = Step::End(proxied(*to, *drops_without, sockets));
            }
            Step::Match(_) | Step::Set(..) | Step::Notrack | Step::Dispatch(..) | Step::End(_) => {}
        }
    }
}

/// Whether an address is on a list; that changes with each packet, and is as it was when it was read.
fn recent(list: Option<&Vec<IpAddr>>, by_source: bool, negated: bool) -> Match {
    let Some(list) = list else {
        return Match::Undecidable;
    };
    let field = if by_source {
        Field::Source
    } else {
        Field::Destination
    };
    let element = |address: &IpAddr| {
        let number = names::address_number(*address);
        vec![Value::Range(number, number)]
    };
    let op = if negated { Op::IsNot } else { Op::Is };
    Match::Compare(
        vec![Operand::of(field)],
        op,
        list.iter().map(element).collect(),
    )
}

/// A packet goes to the transparent socket that hears that address and port. Without one, nft goes on with the next
/// rule (`nft_tproxy_eval_v4`, linux/net/netfilter/nft_tproxy.c), iptables drops it (`tproxy_tg4`, xt_TPROXY.c).
fn proxied(to: Destination, drops_without: bool, sockets: &[Socket]) -> Verdict {
    let hears = |socket: &&Socket| {
        let address =
            socket.address.is_unspecified() || to.address.is_none_or(|to| to == socket.address);
        address && to.port.is_none_or(|port| port == socket.port) && socket.protocol != "raw"
    };
    let mut heard = sockets.iter().filter(hears);
    match heard.find(|socket| socket.transparent != Some(false)) {
        Some(_) => Verdict::Divert(Diversion::Socket(to)),
        None if drops_without => Verdict::Drop,
        None => Verdict::Continue,
    }
}

/// What no program reads is dropped, unless the rule says to go on then (`nf_queue`, linux/net/netfilter/nf_queue.c).
fn queued(number: Option<u16>, bypass: bool, read: Option<&[u16]>) -> Verdict {
    match (number, read) {
        (Some(number), Some(read)) if !read.contains(&number) => {
            if bypass {
                Verdict::Accept
            } else {
                Verdict::Drop
            }
        }
        _ => Verdict::Opaque,
    }
}

/// `create NAME hash:net,port …` and `add NAME 10.0.0.0/8,tcp:80 …`, a line each.
fn ipsets(text: &str) -> HashMap<String, Ipset> {
    let mut sets = HashMap::<String, Ipset>::new();
    for line in text.lines() {
        let words: Vec<_> = line.split_whitespace().collect();
        match words.as_slice() {
            ["create", name, kind, ..] => {
                let dimensions = kind
                    .split_once(':')
                    .map_or("", |(_, dimensions)| dimensions);
                let set = Ipset {
                    dimensions: dimensions.split(',').map(str::to_owned).collect(),
                    members: Vec::new(),
                };
                sets.insert((*name).to_owned(), set);
            }
            // `nomatch` is an exception, which only the order of prefixes decides.
            ["add", name, member, rest @ ..] => {
                if let Some(set) = sets.get_mut(*name) {
                    if rest.contains(&"nomatch") {
                        set.dimensions = vec!["nomatch".to_owned()];
                    }
                    set.members
                        .push(member.split(',').map(str::to_owned).collect());
                }
            }
            _ => {}
        }
    }
    sets
}

impl Ipset {
    /// As a comparison; none where it has dimensions that are not known here.
    fn condition(&self, by_source: &[bool], negated: bool) -> Option<Match> {
        let mut operands = Vec::new();
        for (dimension, &source) in self.dimensions.iter().zip(by_source) {
            match dimension.as_str() {
                "ip" | "net" => operands.push(Operand::of(if source {
                    Field::Source
                } else {
                    Field::Destination
                })),
                "port" => operands.extend([
                    Operand::of(Field::Protocol),
                    Operand::of(if source {
                        Field::SourcePort
                    } else {
                        Field::DestinationPort
                    }),
                ]),
                _ => return None,
            }
        }
        if self.dimensions.len() != by_source.len() {
            return None;
        }
        let elements: Option<Vec<Element>> = self
            .members
            .iter()
            .map(|member| self.element(member))
            .collect();
        let op = if negated { Op::IsNot } else { Op::Is };
        Some(Match::Compare(operands, op, elements?.into()))
    }

    fn element(&self, member: &[String]) -> Option<Element> {
        let mut element = Vec::new();
        for (dimension, part) in self.dimensions.iter().zip(member) {
            if dimension == "port" {
                element.extend(port(part)?);
            } else {
                element.push(addresses(part)?);
            }
        }
        (member.len() == self.dimensions.len()).then_some(element)
    }
}

/// `10.0.0.1`, `10.0.0.0/8`
fn addresses(text: &str) -> Option<Value> {
    let (address, length) = match text.split_once('/') {
        Some((address, length)) => (address, Some(length.parse().ok()?)),
        None => (text, None),
    };
    let address: IpAddr = address.parse().ok()?;
    let whole = if address.is_ipv4() { 32 } else { 128 };
    let (from, to) = names::prefix(address, length.unwrap_or(whole))?;
    Some(Value::Range(from, to))
}

/// `tcp:80`, protocol and port.
fn port(text: &str) -> Option<[Value; 2]> {
    let (protocol, port) = text.split_once(':').unwrap_or(("tcp", text));
    let protocol = u128::from(names::protocol(protocol)?);
    let port = u128::from(names::integer(port)?);
    Some([Value::Range(protocol, protocol), Value::Range(port, port)])
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAVED: &str = "create bad hash:net family inet hashsize 1024\nadd bad 192.0.2.0/24\nadd bad 203.0.113.7\n\
        create web hash:ip,port family inet\nadd web 10.0.0.100,tcp:80\ncreate macs hash:mac\n";

    #[test]
    fn sets_become_comparisons() {
        let sets = ipsets(SAVED);
        let condition = |name: &str, by: &[bool]| sets[name].condition(by, false);
        let Some(Match::Compare(operands, Op::Is, elements)) = condition("bad", &[true]) else {
            panic!("a set of networks");
        };
        assert_eq!((operands[0].field, elements.len()), (Field::Source, 2));
        let Some(Match::Compare(operands, _, elements)) = condition("web", &[false, false]) else {
            panic!("a set of services");
        };
        assert_eq!((operands.len(), elements[0].len()), (3, 3));
        assert_eq!(elements[0][2], Value::Range(80, 80));
        assert_eq!(condition("macs", &[true]), None);
        assert_eq!(
            condition("bad", &[true, false]),
            None,
            "another number of dimensions"
        );
    }

    #[test]
    fn what_no_program_reads() {
        for (number, bypass, read, expected) in [
            (Some(3), false, Some(&[][..]), Verdict::Drop),
            (Some(3), true, Some(&[]), Verdict::Accept),
            (Some(3), false, Some(&[3]), Verdict::Opaque),
            (None, false, Some(&[]), Verdict::Opaque),
            (Some(3), false, None, Verdict::Opaque),
        ] {
            assert_eq!(queued(number, bypass, read), expected);
        }
    }
}
