//! The matches of an iptables rule, from options to the model.

use std::net::IpAddr;

use super::iptables_more;
use super::iptables_rule::Choice;
use super::model::{Element, Family, Field, Match, Only, Op, Operand, Register, Value};
use super::names;

/// The conditions of a rule; all must hold.
pub(super) fn matches(choices: &[Choice], family: Family) -> Vec<Match> {
    let mut matches = Vec::new();
    let mut protocol = None;
    // A module's options follow its `-m`.
    let is_module = |choice: &Choice| choice.name == "-m" || choice.name == "--match";
    let first = choices.iter().position(is_module).unwrap_or(choices.len());
    for choice in &choices[..first] {
        matches.push(general(choice, family, &mut protocol));
    }
    for module in choices[first..].chunk_by(|_, next| !is_module(next)) {
        let Some((name, options)) = module.split_first() else {
            continue;
        };
        // `-p` and others may stand behind modules, too.
        let is_general = |choice: &&Choice| !choice.name.starts_with("--");
        for choice in options.iter().filter(is_general) {
            matches.push(general(choice, family, &mut protocol));
        }
        let options: Vec<_> = options.iter().filter(|each| !is_general(each)).collect();
        matches.extend(extension(name.value(), &options, protocol));
    }
    matches
}

fn general(choice: &Choice, family: Family, protocol: &mut Option<u8>) -> Match {
    let value = choice.value();
    let (field, element) = match choice.name.as_str() {
        "-s" => (Field::Source, net(value)),
        "-d" => (Field::Destination, net(value)),
        "-i" => (Field::InputDevice, device(value)),
        "-o" => (Field::OutputDevice, device(value)),
        "-p" => {
            let number = names::protocol(value);
            *protocol = number.filter(|_| !choice.negated);
            (Field::Protocol, number.map_or(Value::Opaque, one))
        }
        "-f" if family == Family::Ip => {
            let offset = Operand::of(Field::FragmentBits).masked(0x1fff);
            let op = if choice.negated { Op::Is } else { Op::IsNot };
            return Match::Compare(vec![offset], op, [vec![one(0_u8)]].into());
        }
        _ => return Match::Undecidable,
    };
    compare(Operand::of(field), choice, vec![vec![element]])
}

pub(super) fn compare(operand: Operand, choice: &Choice, elements: Vec<Element>) -> Match {
    let op = if choice.negated { Op::IsNot } else { Op::Is };
    Match::Compare(vec![operand], op, elements.into())
}

pub(super) fn one(number: impl Into<u128>) -> Value {
    let number = number.into();
    Value::Range(number, number)
}

fn net(text: &str) -> Value {
    let ends = || {
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address, length.parse().ok()?),
            None if text.contains(':') => (text, 128),
            None => (text, 32),
        };
        names::prefix(address.parse::<IpAddr>().ok()?, length)
    };
    ends().map_or(Value::Opaque, |(from, to)| Value::Range(from, to))
}

/// iptables writes `eth+` for what nft writes as `eth*`.
fn device(text: &str) -> Value {
    Value::Name(match text.strip_suffix('+') {
        Some(start) => format!("{start}*"),
        None => text.to_owned(),
    })
}

/// The conditions of a module.
fn extension(module: &str, options: &[&Choice], protocol: Option<u8>) -> Vec<Match> {
    let each = |condition: &dyn Fn(&Choice) -> Match| {
        let conditions = options.iter().map(|option| condition(option));
        conditions.collect::<Vec<_>>()
    };
    match module {
        "comment" => Vec::new(),
        "tcp" | "udp" | "udplite" | "sctp" | "dccp" => {
            let only = names::protocol(module).map_or(Only::None, Only::Protocol);
            each(&|option| transport(option, only))
        }
        "multiport" => {
            let only = protocol.map_or(Only::All, Only::Protocol);
            options
                .iter()
                .flat_map(|option| multiport(option, only))
                .collect()
        }
        "conntrack" | "state" => each(&conntrack),
        "mark" => each(&|option| mark(option, Operand::of(Field::Register(Register::Mark)))),
        "connmark" => {
            let operand = Operand::of(Field::Register(Register::CtMark)).only(Only::Tracked);
            each(&|option| mark(option, operand.clone()))
        }
        "length" => each(&|option| ranged(option, Operand::of(Field::Length))),
        "pkttype" => each(&|option| named(option, Operand::of(Field::PacketType))),
        "iprange" => each(&address_range),
        "addrtype" => address_types(options),
        "rpfilter" => vec![reverse_path(options)],
        _ => iptables_more::extension(module, options).unwrap_or_else(|| vec![Match::Undecidable]),
    }
}

fn transport(option: &Choice, only: Only) -> Match {
    match option.name.as_str() {
        "--sport" => ranged(option, Operand::of(Field::SourcePort).only(only)),
        "--dport" => ranged(option, Operand::of(Field::DestinationPort).only(only)),
        "--tcp-flags" => tcp_flags(option).unwrap_or(Match::Undecidable),
        "--tcp-option" => iptables_more::tcp_option(option),
        _ => Match::Undecidable,
    }
}

/// `--tcp-flags MASK FLAGS`
fn tcp_flags(option: &Choice) -> Option<Match> {
    let [mask, flags] = option.values.as_slice() else {
        return None;
    };
    let mask = bits(Field::TcpFlags, mask)?;
    let flags = bits(Field::TcpFlags, flags)?;
    let operand = Operand::of(Field::TcpFlags)
        .only(Only::Protocol(6))
        .masked(mask);
    Some(compare(operand, option, vec![vec![one(flags)]]))
}

fn bits(field: Field, list: &str) -> Option<u128> {
    list.split(',')
        .try_fold(0, |sum, name| Some(sum | names::number(field, name)?))
}

/// `22`, `1024:65535`, `:1023`
pub(super) fn range(text: &str, separator: char) -> Value {
    let ends = || {
        let (from, to) = text.split_once(separator).unwrap_or((text, text));
        let from = if from.is_empty() {
            0
        } else {
            names::integer(from)?
        };
        let to = if to.is_empty() {
            u64::from(u16::MAX)
        } else {
            names::integer(to)?
        };
        Some(Value::Range(from.into(), to.into()))
    };
    ends().unwrap_or(Value::Opaque)
}

pub(super) fn ranged(option: &Choice, operand: Operand) -> Match {
    compare(operand, option, vec![vec![range(option.value(), ':')]])
}

fn multiport(option: &Choice, only: Only) -> Vec<Match> {
    let list = option.value().split(',');
    let elements: Vec<Element> = list.map(|ports| vec![range(ports, ':')]).collect();
    let side = |field| compare(Operand::of(field).only(only), option, elements.clone());
    let both = || [side(Field::SourcePort), side(Field::DestinationPort)];
    match option.name.as_str() {
        "--sports" => vec![side(Field::SourcePort)],
        "--dports" => vec![side(Field::DestinationPort)],
        "--ports" if option.negated => both().into(),
        "--ports" => vec![Match::Either(both().into())],
        _ => vec![Match::Undecidable],
    }
}

fn conntrack(option: &Choice) -> Match {
    match option.name.as_str() {
        "--ctstate" | "--state" => {
            let Some(states) = bits(Field::CtState, option.value()) else {
                return Match::Undecidable;
            };
            let op = if option.negated {
                Op::HasNoBit
            } else {
                Op::HasBit
            };
            Match::Compare(
                vec![Operand::of(Field::CtState)],
                op,
                [vec![one(states)]].into(),
            )
        }
        "--ctdir" => named(option, Operand::of(Field::CtDirection).only(Only::Tracked)),
        name => match tuple_field(name) {
            Some((field, is_address)) => {
                let value = if is_address {
                    net(option.value())
                } else {
                    range(option.value(), ':')
                };
                let operand = Operand::of(field).only(Only::Tracked);
                compare(operand, option, vec![vec![value]])
            }
            None => Match::Undecidable,
        },
    }
}

/// What conntrack has of the connection, by the name of the option that asks for it; and whether that is an address.
fn tuple_field(option: &str) -> Option<(Field, bool)> {
    let (direction, of) = option.strip_prefix("--ct")?.split_at_checked(4)?;
    let reply = match direction {
        "orig" => false,
        "repl" => true,
        _ => return None,
    };
    match of {
        "src" => Some((Field::CtSource { reply }, true)),
        "dst" => Some((Field::CtDestination { reply }, true)),
        "srcport" => Some((Field::CtSourcePort { reply }, false)),
        "dstport" => Some((Field::CtDestinationPort { reply }, false)),
        _ => None,
    }
}

fn named(option: &Choice, operand: Operand) -> Match {
    let number = names::number(operand.field, option.value());
    let element = number.map_or(Value::Opaque, one);
    compare(operand, option, vec![vec![element]])
}

fn mark(option: &Choice, operand: Operand) -> Match {
    match value_and_mask(option.value()) {
        Some((value, mask)) => {
            let operand = operand.masked(mask.into());
            compare(operand, option, vec![vec![one(value)]])
        }
        None => Match::Undecidable,
    }
}

/// `0x10/0xff`; without a mask all bits count.
pub(super) fn value_and_mask(text: &str) -> Option<(u32, u32)> {
    let (value, mask) = text.split_once('/').unwrap_or((text, "0xffffffff"));
    let number = |text| u32::try_from(names::integer(text)?).ok();
    Some((number(value)?, number(mask)?))
}

fn address_range(option: &Choice) -> Match {
    let field = match option.name.as_str() {
        "--src-range" => Field::Source,
        "--dst-range" => Field::Destination,
        _ => return Match::Undecidable,
    };
    let ends = option.value().split_once('-').and_then(|(from, to)| {
        Some(Value::Range(
            names::number(field, from)?,
            names::number(field, to)?,
        ))
    });
    let element = ends.unwrap_or(Value::Opaque);
    compare(Operand::of(field), option, vec![vec![element]])
}

fn address_types(options: &[&Choice]) -> Vec<Match> {
    let on_its_device = options
        .iter()
        .any(|option| option.name.starts_with("--limit-iface"));
    let types = |option: &&Choice| {
        let of_source = match option.name.as_str() {
            "--src-type" => true,
            "--dst-type" => false,
            _ => return None,
        };
        let field = Field::AddressType {
            of_source,
            on_its_device,
        };
        let names = option.value().split(',');
        let numbers = names.map(|name| names::number(field, name));
        let elements = numbers.map(|number| vec![number.map_or(Value::Opaque, one)]);
        Some(compare(Operand::of(field), option, elements.collect()))
    };
    options.iter().filter_map(types).collect()
}

/// Matches what has a way back; `--invert` what has none.
fn reverse_path(options: &[&Choice]) -> Match {
    let has = |name: &str| options.iter().any(|option| option.name == name);
    let field = Field::ReversePath {
        by_its_device: !has("--loose"),
    };
    let found = u8::from(!has("--invert"));
    Match::Compare(vec![Operand::of(field)], Op::Is, [vec![one(found)]].into())
}
