//! Readers of single values: text or number in, a typed value or a [`Fault`] out.
//!
//! A file and the command line use the same readers. None of them knows where the value was
//! written, nor what else is in the configuration.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::{NonZeroU8, NonZeroU16, NonZeroU32, NonZeroUsize};
use std::ops::RangeInclusive;
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::duration;
use super::problem::Fault;
use super::unsupported::Supported;
use crate::director::{FlowTimeouts, HashKey, PortMatch, Protocol, RingSize, RingSizeError};
use crate::text::plain::is_plain;

/// A value before it has a meaning.
#[derive(Debug, Clone)]
pub(super) enum Raw<'a> {
    /// A string.
    Text(&'a str),
    /// A whole number; one too large for 128 bits is `i128::MAX`.
    Whole(i128),
    /// An array.
    List(Vec<Self>),
    /// A boolean.
    Switch(bool),
    /// Any other type of value, by its name in TOML.
    Other(&'static str),
}

impl Raw<'_> {
    fn type_name(&self) -> &'static str {
        match self {
            Self::Text(_) => "string",
            Self::Whole(_) => "integer",
            Self::List(_) => "array",
            Self::Switch(_) => "boolean",
            Self::Other(name) => name,
        }
    }
}

/// The most TUN queues one device can have (`MAX_TAP_QUEUES` of Linux).
pub const MAX_WORKERS: usize = 256;
/// The smallest flow table.
pub const MIN_FLOWS: u64 = 1024;
/// The largest flow table, 2²⁸: beyond it the table no longer fits the memory of such hosts.
pub const MAX_FLOWS: u64 = 1 << 28;

/// The port of a VIP that names none.
pub(super) const DEFAULT_PORT: PortMatch =
    PortMatch::Exact(const { NonZeroU16::new(80).expect("not 0") });
/// The protocol of a VIP that names none.
pub(super) const DEFAULT_PROTOCOL: Protocol = Protocol::Tcp;
/// The GUE port where none is named: the one that IANA assigned.
pub(super) const DEFAULT_GUE_PORT: NonZeroU16 = const { NonZeroU16::new(6080).expect("not 0") };
/// The weight of a backend that names none.
pub const DEFAULT_WEIGHT: u16 = 1;

/// What is accepted where no value is.
pub(super) const LEFT_OUT: &str = "the key left out";

/// A value that is one of a few names.
pub(super) trait Choice: Supported + Copy + 'static {
    /// Every name of the schema, those that are not supported yet included.
    const NAMES: &'static [(&'static str, Self)];

    /// The names that work, for messages: `"a" or "b"`.
    fn accepted() -> String {
        let names: Vec<_> = Self::NAMES
            .iter()
            .filter(|(_, choice)| choice.is_supported())
            .map(|(name, _)| format!("\"{name}\""))
            .collect();
        names.join(" or ")
    }
}

pub(super) fn choice<T: Choice>(raw: Raw<'_>) -> Result<T, Fault> {
    let text = text(&raw, &T::accepted())?;
    T::NAMES
        .iter()
        .find(|(name, _)| *name == text)
        .map(|(_, choice)| *choice)
        .ok_or_else(|| Fault::new("unknown choice", T::accepted()))
}

pub(super) fn text<'a>(raw: &Raw<'a>, accepted: &str) -> Result<&'a str, Fault> {
    match raw {
        Raw::Text(text) => Ok(text),
        Raw::Whole(_) | Raw::List(_) | Raw::Switch(_) | Raw::Other(_) => {
            Err(wrong_type(raw, accepted))
        }
    }
}

/// A whole number in `range`; `also` names what else the key takes, such as `"auto"`.
pub(super) fn whole(raw: Raw<'_>, range: RangeInclusive<u64>, also: &str) -> Result<u64, Fault> {
    let (low, high) = (range.start(), range.end());
    let accepted = format!("a whole number from {low} to {high}{also}");
    let number = match raw {
        Raw::Whole(number) => number,
        Raw::Text(text) if is_number(text) => {
            return Err(Fault::new(
                "a number in quotes; without them it is one",
                accepted,
            ));
        }
        Raw::Text(_) | Raw::List(_) | Raw::Switch(_) | Raw::Other(_) => {
            return Err(wrong_type(&raw, &accepted));
        }
    };
    u64::try_from(number)
        .ok()
        .filter(|number| range.contains(number))
        .ok_or_else(|| Fault::new("out of range", accepted))
}

pub(super) fn boolean(raw: Raw<'_>) -> Result<bool, Fault> {
    match raw {
        Raw::Switch(on) => Ok(on),
        Raw::Text("true" | "false") => Err(Fault::new(
            "in quotes; without them it is a boolean",
            "true or false",
        )),
        Raw::Text(_) | Raw::Whole(_) | Raw::List(_) | Raw::Other(_) => {
            Err(wrong_type(&raw, "true or false"))
        }
    }
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

pub(super) fn wrong_type(raw: &Raw<'_>, accepted: &str) -> Fault {
    Fault::new(format!("wrong type ({})", raw.type_name()), accepted)
}

const ADDRESS: &str = "an address such as \"10.0.1.11\"";

/// An address that a packet can be sent to.
pub(super) fn address(raw: Raw<'_>) -> Result<IpAddr, Fault> {
    let text = text(&raw, ADDRESS)?;
    let address = text
        .parse()
        .map_err(|_| Fault::new(why_not_an_address(text), ADDRESS))?;
    usable(address)
}

fn why_not_an_address(text: &str) -> &'static str {
    if text.parse::<IpNet>().is_ok() {
        return "a prefix, not a single address";
    }
    if text.parse::<SocketAddr>().is_ok() {
        return "an address with a port, where only an address belongs";
    }
    let in_brackets = text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    if in_brackets.is_some_and(|inner| inner.parse::<IpAddr>().is_ok()) {
        return "an address in brackets; without them it is one";
    }
    if text.contains('%') {
        return "an address with a zone, which is not a unicast address of the network";
    }
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    if text.split('.').count() == 4 && text.split('.').all(digits) {
        return if text
            .split('.')
            .any(|part| part.len() > 1 && part.starts_with('0'))
        {
            "not an IPv4 or IPv6 address (a number with a leading 0 can be read as octal)"
        } else {
            "not an IPv4 or IPv6 address (a number above 255)"
        };
    }
    let name = |letter: char| letter.is_ascii_alphanumeric() || "-_.".contains(letter);
    if text.contains(|letter: char| letter.is_ascii_alphabetic()) && text.chars().all(name) {
        return "not an IPv4 or IPv6 address (host names are not looked up)";
    }
    "not an IPv4 or IPv6 address"
}

fn usable(address: IpAddr) -> Result<IpAddr, Fault> {
    match why_unusable(address.into()) {
        Some(why) => Err(Fault::new(why, "a unicast address such as \"10.0.1.11\"")),
        None => Ok(address),
    }
}

/// Why no packet can be sent to an address, such as "a multicast address"; `None` where one can.
#[must_use]
pub fn unusable_address(address: IpAddr) -> Option<&'static str> {
    why_unusable(address.into())
}

/// What no packet of the network is from or to, by the registries of RFC 6890; of overlapping
/// ones the narrowest first.
const UNUSABLE: [(IpNet, &str); 10] = [
    (v4([0, 0, 0, 0], 32), "the unspecified address"),
    (v6([0; 8], 128), "the unspecified address"),
    (v4([255; 4], 32), "the broadcast address"),
    (v4([0; 4], 8), "an address of \"this network\", 0.0.0.0/8"),
    (v4([127, 0, 0, 0], 8), LOOPBACK),
    (v6([0, 0, 0, 0, 0, 0, 0, 1], 128), LOOPBACK),
    (
        v6([0, 0, 0, 0, 0, 0xffff, 0, 0], 96),
        "an IPv4 address written as IPv6",
    ),
    (
        v6([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10),
        "a link-local address",
    ),
    (v4([224, 0, 0, 0], 4), "a multicast address"),
    (v6([0xff00, 0, 0, 0, 0, 0, 0, 0], 8), "a multicast address"),
];

const LOOPBACK: &str = "a loopback address, which never leaves a host";

const fn v4([a, b, c, d]: [u8; 4], length: u8) -> IpNet {
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), length))
}

const fn v6([a, b, c, d, e, f, g, h]: [u16; 8], length: u8) -> IpNet {
    IpNet::V6(Ipv6Net::new_assert(
        Ipv6Addr::new(a, b, c, d, e, f, g, h),
        length,
    ))
}

/// Why not every address of `net` can be a packet's.
pub(super) fn why_unusable(net: IpNet) -> Option<&'static str> {
    let overlaps = |other: &IpNet| net.contains(other) || other.contains(&net);
    UNUSABLE
        .iter()
        .find(|(other, _)| overlaps(other))
        .map(|(_, why)| *why)
}

/// A device name, by the rules of Linux (`dev_valid_name`).
pub(super) fn device(raw: Raw<'_>) -> Result<String, Fault> {
    const ACCEPTED: &str = "a device name of 1 to 15 bytes such as \"tunlb0\"";
    let text = text(&raw, ACCEPTED)?;
    let message = match text {
        "" => "empty",
        "." | ".." => "not a name",
        // `net.ipv4.conf.all` and `.default` are not devices, but would be set as if they were.
        "all" | "default" | "lo" => "a name with another meaning",
        _ if text.len() > 15 => "longer than 15 bytes",
        _ if text.contains(['/', ':']) => "contains '/' or ':'",
        _ if text.contains('%') => "contains '%', from which the kernel makes another name",
        _ if text.contains(char::is_whitespace) || !is_plain(text) => {
            "contains whitespace, or a control or other character that is not printable"
        }
        _ => return Ok(text.to_owned()),
    };
    Err(Fault::new(message, ACCEPTED))
}

pub(super) fn flows(raw: Raw<'_>) -> Result<NonZeroUsize, Fault> {
    whole(raw, MIN_FLOWS..=MAX_FLOWS, "").map(non_zero)
}

/// `number` is known to be from 1 to 2²⁸ here.
pub(super) fn non_zero(number: u64) -> NonZeroUsize {
    usize::try_from(number)
        .ok()
        .and_then(NonZeroUsize::new)
        .unwrap_or(NonZeroUsize::MIN)
}

pub(super) fn ring_size(raw: Raw<'_>) -> Result<RingSize, Fault> {
    let bounds = u64::from(RingSize::MIN)..=u64::from(RingSize::MAX);
    let number = whole(raw, bounds, " that is prime")?;
    RingSize::new(number).map_err(|error| {
        let accepted = match error {
            RingSizeError::NotPrime { nearest } => nearest.to_string(),
            RingSizeError::OutOfRange => RingSize::DEFAULT.slots().to_string(),
        };
        Fault::new(error.to_string(), accepted)
    })
}

pub(super) fn hash_key(raw: Raw<'_>) -> Result<HashKey, Fault> {
    const ACCEPTED: &str = "32 hexadecimal digits, such as `openssl rand -hex 16` prints";
    text(&raw, ACCEPTED)?
        .parse()
        .map_err(|_| Fault::new("not 32 hexadecimal digits (128 bits)", ACCEPTED))
}

pub(super) fn ttl(raw: Raw<'_>) -> Result<NonZeroU8, Fault> {
    let number = whole(raw, 1..=u64::from(u8::MAX), "")?;
    let ttl = u8::try_from(number).ok().and_then(NonZeroU8::new);
    Ok(ttl.unwrap_or(NonZeroU8::MIN))
}

pub(super) fn port(raw: Raw<'_>) -> Result<NonZeroU16, Fault> {
    let number = whole(raw, 1..=u64::from(u16::MAX), "")?;
    let port = u16::try_from(number).ok().and_then(NonZeroU16::new);
    Ok(port.unwrap_or(NonZeroU16::MIN))
}

pub(super) fn port_match(raw: Raw<'_>) -> Result<PortMatch, Fault> {
    if matches!(raw, Raw::Text("any")) {
        return Ok(PortMatch::Any);
    }
    port(raw).map(PortMatch::Exact)
}

pub(super) fn new_flows_per_second(raw: Raw<'_>) -> Result<NonZeroU32, Fault> {
    let number = whole(raw, 1..=u64::from(u32::MAX), "")?;
    let limit = u32::try_from(number).ok().and_then(NonZeroU32::new);
    Ok(limit.unwrap_or(NonZeroU32::MIN))
}

pub(super) fn weight(raw: Raw<'_>) -> Result<u16, Fault> {
    let number = whole(raw, 0..=u64::from(u16::MAX), "")?;
    Ok(u16::try_from(number).unwrap_or(u16::MAX))
}

/// A name for outputs: short, and a terminal shows it as it is.
pub(super) fn name(raw: Raw<'_>) -> Result<String, Fault> {
    const ACCEPTED: &str = "a name of 1 to 64 bytes such as \"web\"";
    let text = text(&raw, ACCEPTED)?;
    let message = match text {
        "" => "empty",
        _ if text.len() > 64 => "longer than 64 bytes",
        _ if !is_plain(text) => "contains a control or other character that is not printable",
        _ if text.trim() != text => "begins or ends with whitespace",
        _ => return Ok(text.to_owned()),
    };
    Err(Fault::new(message, ACCEPTED))
}

/// How long a flow is remembered.
pub(super) fn flow_timeout(raw: Raw<'_>) -> Result<Duration, Fault> {
    duration::read(raw, FlowTimeouts::MIN..=FlowTimeouts::MAX, "30s")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::director::{BackendState, Echo};

    fn message<T: std::fmt::Debug>(outcome: Result<T, Fault>) -> String {
        outcome.unwrap_err().message
    }

    #[test]
    fn addresses() {
        for text in [
            "10.0.1.11",
            "169.254.3.4",
            "240.0.0.1",
            "2001:db8::1",
            "fd00::1",
        ] {
            assert_eq!(
                address(Raw::Text(text)),
                Ok(text.parse().unwrap()),
                "{text}"
            );
        }
        for (text, expected) in [
            ("10.0.0.300", "above 255"),
            ("10.0.0.010", "leading 0"),
            ("", "not an IPv4 or IPv6"),
            ("10.0.0", "not an IPv4 or IPv6"),
            ("backend1.example", "host names are not looked up"),
            ("[2001:db8::1]", "in brackets; without them"),
            ("[10.0.0.1]", "in brackets; without them"),
            ("10.0.0.1/24", "a prefix"),
            ("2001:db8::/32", "a prefix"),
            ("10.0.0.1:80", "with a port"),
            ("[2001:db8::1]:80", "with a port"),
            ("fe80::1%eth0", "with a zone"),
            ("fe80::1", "link-local"),
            ("0.0.0.0", "unspecified"),
            ("0.1.2.3", "this network"),
            ("::", "unspecified"),
            ("127.0.0.1", "loopback"),
            ("::1", "loopback"),
            ("224.0.0.1", "multicast"),
            ("ff02::1", "multicast"),
            ("255.255.255.255", "broadcast"),
            ("::ffff:10.0.0.1", "IPv4 address written as IPv6"),
        ] {
            let message = message(address(Raw::Text(text)));
            assert!(message.contains(expected), "{text}: {message}");
        }
        assert_eq!(message(address(Raw::Whole(10))), "wrong type (integer)");
    }

    #[test]
    fn devices() {
        for name in ["tunlb0", "a", "fifteen-bytes-x", "t.1"] {
            assert_eq!(device(Raw::Text(name)), Ok(name.to_owned()));
        }
        for (name, expected) in [
            ("", "empty"),
            ("..", "not a name"),
            ("all", "another meaning"),
            ("sixteen-bytes-xy", "longer"),
            ("a/b", "'/'"),
            ("a:b", "':'"),
            ("tun%d", "'%'"),
            ("a b", "whitespace"),
            ("a\0b", "control"),
            ("a\u{202e}b", "not printable"),
        ] {
            let message = message(device(Raw::Text(name)));
            assert!(message.contains(expected), "{name:?}: {message}");
        }
    }

    #[test]
    fn numbers() {
        assert_eq!(weight(Raw::Whole(0)), Ok(0));
        assert_eq!(weight(Raw::Whole(65_535)), Ok(65_535));
        assert_eq!(message(weight(Raw::Whole(65_536))), "out of range");
        assert_eq!(message(weight(Raw::Whole(-1))), "out of range");
        assert_eq!(message(weight(Raw::Whole(i128::MAX))), "out of range");
        assert!(message(weight(Raw::Text("1"))).starts_with("a number in quotes"));
        assert_eq!(message(weight(Raw::Other("float"))), "wrong type (float)");
        assert_eq!(ttl(Raw::Whole(255)).map(NonZeroU8::get), Ok(255));
        assert_eq!(message(ttl(Raw::Whole(0))), "out of range");
        assert_eq!(flows(Raw::Whole(1024)).map(NonZeroUsize::get), Ok(1024));
        assert_eq!(message(flows(Raw::Whole(1023))), "out of range");
        let limit = |number| new_flows_per_second(Raw::Whole(number));
        assert_eq!(limit(4_294_967_295), Ok(NonZeroU32::MAX));
        assert_eq!(message(limit(0)), "out of range");
        assert_eq!(message(limit(4_294_967_296)), "out of range");
        assert_eq!(port_match(Raw::Text("any")), Ok(PortMatch::Any));
        assert_eq!(message(port_match(Raw::Whole(0))), "out of range");
        assert_eq!(ring_size(Raw::Whole(65_537)), Ok(RingSize::DEFAULT));
        let fault = ring_size(Raw::Whole(65_536)).unwrap_err();
        assert_eq!(fault.accepted.as_deref(), Some("65537"));
    }

    #[test]
    fn bounds_of_durations() {
        for (text, seconds) in [("1s", 1), ("1000ms", 1), ("7d", 604_800)] {
            let expected = Ok(Duration::from_secs(seconds));
            assert_eq!(flow_timeout(Raw::Text(text)), expected, "{text}");
        }
        for text in ["999ms", "169h", "8d"] {
            assert_eq!(message(flow_timeout(Raw::Text(text))), "out of range");
        }
    }

    #[test]
    fn choices_offer_only_what_works() {
        assert_eq!(choice(Raw::Text("draining")), Ok(BackendState::Draining));
        let fault = choice::<super::super::Datapath>(Raw::Text("xpd")).unwrap_err();
        let accepted = "\"tun\" or \"xsk\" or \"xdp\" or \"auto\"";
        assert_eq!(fault, Fault::new("unknown choice", accepted));
        let fault = choice::<Echo>(Raw::Text("maybe")).unwrap_err();
        let accepted = "\"reply\" or \"forward\" or \"drop\"";
        assert_eq!(fault, Fault::new("unknown choice", accepted));
    }

    #[test]
    fn names_and_endpoints() {
        for good in ["web 1", "café", "后端", "it's \"web\""] {
            assert_eq!(name(Raw::Text(good)), Ok(good.to_owned()));
        }
        let hostile = [
            "a\nb",
            "a\u{1b}[2Jb",
            "a\u{9b}b",
            "a\u{202e}b",
            "a\u{200b}b",
            "a\u{2028}b",
        ];
        for bad in ["", " web", &"x".repeat(65)].into_iter().chain(hostile) {
            assert!(name(Raw::Text(bad)).is_err(), "{bad:?}");
        }
        assert!(hash_key(Raw::Text("00")).is_err());
    }
}
