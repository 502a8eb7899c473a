//! Further modules of iptables: bounds, what is asked of IP and link headers, of sockets and devices. Each is in
//! iptables-extensions(8).

use super::iptables_match::{compare, one, range, ranged, value_and_mask};
use super::iptables_rule::Choice;
use super::model::{Bound, Field, ListenerField, Match, Only, Op, Operand, TcpOption, Value};
use super::nft_bound::{bytes_in, connections, packets_in};
use super::{Chance, clock, headers, names};

/// The conditions of a module; `None` where it is not known here.
pub(super) fn extension(module: &str, options: &[&Choice]) -> Option<Vec<Match>> {
    let each = |condition: &dyn Fn(&Choice) -> Match| {
        let conditions = options.iter().map(|option| condition(option));
        Some(conditions.collect::<Vec<_>>())
    };
    match module {
        "limit" | "hashlimit" | "connlimit" | "quota" => Some(vec![bound(options)]),
        "set" => Some(vec![ipset(options)]),
        "recent" => Some(vec![recent(options)]),
        "socket" => Some(listener(options)),
        "statistic" => Some(vec![statistic(options)]),
        "string" => Some(vec![Match::Chance(Chance::Content)]),
        "osf" => Some(vec![Match::Chance(Chance::Sender)]),
        "time" => Some(clock::conditions(options)),
        "cpu" => each(&|option| ranged(option, Operand::of(Field::Cpu))),
        "u32" => Some(vec![headers(options, "--u32", headers::numbers)]),
        "bpf" => Some(vec![headers(options, "--bytecode", |text| {
            Some(vec![headers::program(text)?])
        })]),
        "physdev" => Some(options.iter().map(|option| bridge_port(option)).collect()),
        "connbytes" => Some(vec![connection_bytes(options)]),
        "ttl" | "hl" => each(&|option| compared(option, Field::TimeToLive)),
        "dscp" | "tos" | "ecn" => each(&traffic_class),
        "mac" => each(&link_source),
        "owner" => each(&owner),
        "tcpmss" => each(&|option| {
            let size = Operand::of(Field::TcpOption(TcpOption::MssSize));
            ranged(option, size.only(Only::Protocol(6)))
        }),
        "policy" => Some(vec![ipsec(options)]),
        "devgroup" => each(&device_group),
        // Of the packets that are judged none has an extension header, a helper, or is one of these protocols.
        "frag" | "rt" | "hbh" | "ah" | "esp" | "ipv4options" | "helper" | "ipv6header" => {
            Some(vec![never()])
        }
        _ => None,
    }
}

/// `--tcp-option 5`
pub(super) fn tcp_option(option: &Choice) -> Match {
    let kind = match option.value() {
        "2" => TcpOption::Mss,
        "3" => TcpOption::WindowScale,
        "4" => TcpOption::SackPermitted,
        "8" => TcpOption::Timestamp,
        _ => TcpOption::Unusual,
    };
    let operand = Operand::of(Field::TcpOption(kind)).only(Only::Protocol(6));
    compare(operand, option, vec![vec![one(1_u8)]])
}

fn never() -> Match {
    let zero = [vec![one(0_u8)]].into();
    Match::Compare(vec![Operand::of(Field::Fixed(1))], Op::Is, zero)
}

fn always() -> Match {
    let one = [vec![one(1_u8)]].into();
    Match::Compare(vec![Operand::of(Field::Fixed(1))], Op::Is, one)
}

/// What bounds, and on which side of the bound the rule matches.
fn bound(options: &[&Choice]) -> Match {
    let Some(option) = options.iter().find(|option| is_bound(&option.name)) else {
        return Match::Undecidable;
    };
    let bound = match option.name.as_str() {
        "--connlimit-above" | "--connlimit-upto" => number(option.value()).map(connections),
        "--quota" => number(option.value()).map(Bound::Left),
        _ => rate(option.value()),
    };
    let above = option.name.ends_with("-above");
    match (bound, above != option.negated) {
        (Some(bound), false) => Match::Within(bound),
        (Some(bound), true) => Match::Beyond(bound),
        (None, _) => Match::Undecidable,
    }
}

/// `--match-set NAME src,dst`
fn ipset(options: &[&Choice]) -> Match {
    let asked = options.iter().find(|option| option.name == "--match-set");
    match asked.map(|option| (option.values.as_slice(), option.negated)) {
        Some(([name, dimensions], negated)) => Match::InIpset {
            name: name.clone(),
            by_source: dimensions.split(',').map(|by| by == "src").collect(),
            negated,
        },
        Some(_) | None => Match::Undecidable,
    }
}

/// A list of addresses seen of late: one that is put on it matches; one that has to be on it often does not.
fn recent(options: &[&Choice]) -> Match {
    let option = |name: &str| options.iter().find(|option| option.name == name);
    if option("--set").is_some() {
        return always();
    }
    if let Some(hits) = option("--hitcount").and_then(|hits| number(hits.value())) {
        return Match::Beyond(connections(hits));
    }
    let asked = ["--rcheck", "--update", "--remove"]
        .into_iter()
        .find_map(option);
    Match::Recent {
        name: option("--name")
            .map_or("DEFAULT", |name| name.value())
            .to_owned(),
        by_source: option("--rdest").is_none(),
        negated: asked.is_some_and(|asked| asked.negated),
    }
}

/// `--probability 0.5`, `--every 3`
fn statistic(options: &[&Choice]) -> Match {
    let value = |name: &str| {
        let option = options.iter().find(|option| option.name == name)?;
        option.value().parse::<f64>().ok()
    };
    match value("--probability") {
        Some(probability) if probability <= 0.0 => never(),
        Some(probability) if probability >= 1.0 => always(),
        _ if value("--every") == Some(1.0) => always(),
        _ => Match::Chance(Chance::Draw),
    }
}

/// The socket that a packet is for: listeners of all addresses do not count without `--nowildcard`
/// (`socket_match`, linux/net/netfilter/xt_socket.c).
fn listener(options: &[&Choice]) -> Vec<Match> {
    let has = |name: &str| options.iter().any(|option| option.name == name);
    let is = |field, value: u8| {
        let wanted = [vec![one(value)]].into();
        Match::Compare(vec![Operand::of(Field::Listener(field))], Op::Is, wanted)
    };
    let mut matches = Vec::new();
    if has("--transparent") {
        matches.push(is(ListenerField::Transparent, 1));
    }
    if !has("--nowildcard") {
        // A connection of such a listener has an address of its own.
        matches.push(Match::Either(vec![
            is(ListenerField::Wildcard, 0),
            opened(),
        ]));
    }
    matches
}

/// Not the first packet of a TCP connection.
fn opened() -> Match {
    const SYN: u8 = 2;
    let flags = Operand::of(Field::TcpFlags).only(Only::Protocol(6));
    Match::Compare(vec![flags], Op::IsNot, [vec![one(SYN)]].into())
}

fn headers(
    options: &[&Choice],
    name: &str,
    read: impl Fn(&str) -> Option<Vec<headers::Test>>,
) -> Match {
    let option = options
        .iter()
        .find(|option| option.name == name && !option.negated);
    match option.and_then(|option| read(option.value())) {
        Some(tests) => Match::Headers(tests.into()),
        None => Match::Undecidable,
    }
}

/// What came in by a bridge port is delivered here: it has no port to leave by (`physdev_mt`,
/// linux/net/netfilter/xt_physdev.c).
fn bridge_port(option: &Choice) -> Match {
    let port = Operand::of(Field::BridgePort);
    match option.name.as_str() {
        "--physdev-in" => {
            let name = option.value().strip_suffix('+');
            let name = name.map_or(option.value().to_owned(), |start| format!("{start}*"));
            let named = compare(port, &Choice::plain(), vec![vec![Value::Name(name)]]);
            negation(named, option.negated)
        }
        "--physdev-is-in" => {
            let any = compare(port, &Choice::plain(), vec![vec![Value::Any]]);
            negation(any, option.negated)
        }
        _ if option.negated => always(),
        _ => never(),
    }
}

/// A condition that holds where this one does not, also for packets that have no such property.
fn negation(condition: Match, negated: bool) -> Match {
    if negated {
        Match::Not(Box::new(condition))
    } else {
        condition
    }
}

/// `--connbytes FROM:TO`: what a connection has carried. That of one that begins is little.
fn connection_bytes(options: &[&Choice]) -> Match {
    const LITTLE: u64 = 100_000;
    let amounts = options.iter().find(|option| option.name == "--connbytes");
    let least = amounts.and_then(|option| {
        let (from, _) = option
            .value()
            .split_once(':')
            .unwrap_or((option.value(), ""));
        Some((number(from)?, option.negated))
    });
    match least {
        Some((from, negated)) if from > LITTLE => {
            if negated {
                always()
            } else {
                never()
            }
        }
        Some(_) | None => Match::Undecidable,
    }
}

fn is_bound(option: &str) -> bool {
    [
        "--limit",
        "--hashlimit",
        "--hashlimit-upto",
        "--hashlimit-above",
        "--connlimit-above",
        "--connlimit-upto",
        "--quota",
    ]
    .contains(&option)
}

fn number(text: &str) -> Option<u64> {
    names::integer(text)
}

/// `25/sec`, `3/min`, `512kb/s`
fn rate(text: &str) -> Option<Bound> {
    let (amount, per) = text.split_once('/')?;
    let seconds = match per.chars().next()? {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86_400,
        _ => return None,
    };
    let digits = amount.trim_end_matches(|letter: char| !letter.is_ascii_digit());
    let amount_number = number(digits)?;
    Some(match amount.get(digits.len()..)? {
        "" => packets_in(amount_number, seconds),
        "b" => bytes_in(amount_number, seconds),
        "kb" => bytes_in(amount_number << 10, seconds),
        "mb" => bytes_in(amount_number << 20, seconds),
        _ => return None,
    })
}

/// `--ttl-lt 5`
fn compared(option: &Choice, field: Field) -> Match {
    let Some(number) = number(option.value()).map(u128::from) else {
        return Match::Undecidable;
    };
    let range = match option.name.rsplit('-').next() {
        Some("eq") => Some((number, number)),
        Some("lt") => number.checked_sub(1).map(|below| (0, below)),
        Some("gt") => Some((number + 1, u128::MAX)),
        _ => return Match::Undecidable,
    };
    let values = range.map(|(from, to)| vec![Value::Range(from, to)]);
    compare(Operand::of(field), option, values.into_iter().collect())
}

/// No rule and no application of ours sets any of it.
fn traffic_class(option: &Choice) -> Match {
    let none = |mask: u128| Operand::of(Field::Fixed(0)).masked(mask);
    match option.name.as_str() {
        "--dscp" | "--ecn-ip-ect" => ranged(option, none(u128::MAX)),
        "--tos" => match value_and_mask(option.value()) {
            Some((value, mask)) => compare(none(mask.into()), option, vec![vec![one(value)]]),
            None => Match::Undecidable,
        },
        _ => Match::Undecidable,
    }
}

fn link_source(option: &Choice) -> Match {
    let address = names::link_address(option.value());
    let value = address.map_or(Value::Opaque, one);
    let operand = Operand::of(Field::LinkSource).only(Only::Ethernet);
    compare(operand, option, vec![vec![value]])
}

/// `--uid-owner 33`, `--gid-owner 0-99`, `--socket-exists`
fn owner(option: &Choice) -> Match {
    let field = match option.name.as_str() {
        "--uid-owner" => Field::SocketUser,
        "--gid-owner" => Field::SocketGroup,
        "--socket-exists" => {
            let any = vec![vec![Value::Any]];
            return compare(Operand::of(Field::SocketUser), option, any);
        }
        _ => return Match::Undecidable,
    };
    compare(
        Operand::of(field),
        option,
        vec![vec![range(option.value(), '-')]],
    )
}

/// No packet that is judged comes by IPsec or leaves by it; policies are looked at apart.
fn ipsec(options: &[&Choice]) -> Match {
    let policy = options.iter().find(|option| option.name == "--pol");
    match policy.map(|option| (option.value(), option.negated)) {
        Some(("none", false) | ("ipsec", true)) => always(),
        Some(("ipsec", false) | ("none", true)) => never(),
        Some(_) | None => Match::Undecidable,
    }
}

fn device_group(option: &Choice) -> Match {
    let field = match option.name.as_str() {
        "--src-group" => Field::InputGroup,
        "--dst-group" => Field::OutputGroup,
        _ => return Match::Undecidable,
    };
    match value_and_mask(option.value()) {
        Some((group, mask)) => {
            let operand = Operand::of(field).masked(mask.into());
            compare(operand, option, vec![vec![one(group)]])
        }
        None => Match::Undecidable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates() {
        for (text, expected) in [
            ("25/sec", Some(Bound::Ample)),
            ("60/min", Some(Bound::Ample)),
            ("3/min", Some(Bound::Tight)),
            ("1/day", Some(Bound::Tight)),
            ("512kb/s", Some(Bound::Ample)),
            ("10b/s", Some(Bound::Tight)),
            ("many", None),
            ("5/year", None),
        ] {
            assert_eq!(rate(text), expected, "{text}");
        }
    }
}
