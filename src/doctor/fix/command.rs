//! A finding's command, read: what it changes, and where to look up how that is now.
//!
//! Only commands of which the undo is known are read; everything else is a [`Refusal`].

use std::net::IpAddr;

use ipnet::IpNet;

use super::Refusal;
use crate::doctor::lines::FixLine;

/// A command that can be run and taken back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    /// The program and its arguments.
    pub words: Vec<String>,
    /// What it changes.
    pub change: Change,
}

/// What a command changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A kernel setting, by dotted name.
    Setting {
        /// `net.ipv4.conf.eth0.rp_filter`, `/` for dots in device names.
        name: String,
        /// Its value afterwards.
        value: String,
    },
    /// An address comes.
    AddAddress {
        /// It, with its prefix length.
        net: IpNet,
        /// On this device.
        device: String,
    },
    /// An address goes.
    RemoveAddress {
        /// It, with its prefix length.
        net: IpNet,
        /// From this device.
        device: String,
    },
    /// A route comes, or takes the place of one.
    Route {
        /// What follows `ip route add` or `replace`: the prefix first.
        words: Vec<String>,
        /// `replace`.
        replaces: bool,
    },
    /// The kernel answers on a device for an address of others.
    ProxyNeighbour {
        /// The address.
        address: IpAddr,
        /// The device.
        device: String,
    },
    /// A policy rule comes; what follows `ip rule add`.
    Rule(Vec<String>),
    /// A device is brought up.
    LinkUp(String),
    /// A device gets another MTU.
    LinkMtu(String),
    /// A device comes.
    AddLink(String),
    /// A tunnel device gets other ends.
    TunnelEnds(String),
    /// A port of FOU or GUE is bound.
    BindPort(u16),
    /// Neighbour entries are asked for anew, which needs no undo.
    Neighbours,
    /// A kernel module is loaded.
    Module(String),
    /// A rule comes to the beginning of an nftables chain: its family, table and name.
    NftRule([String; 3]),
    /// A rule comes to the beginning of an iptables chain.
    IptablesRule,
    /// Transmit checksums of a device are turned off.
    TransmitChecksums(String),
}

/// Where to look something up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Question {
    /// What a program prints.
    Program(Vec<String>),
    /// What a file holds.
    File(&'static str),
}

impl Command {
    /// Reads a finding's command.
    ///
    /// # Errors
    /// Why it is left to the user.
    pub fn of(line: &FixLine) -> Result<Self, Refusal> {
        let words = line.words().ok_or(Refusal::Advice)?;
        if let Some(word) = words.iter().find(|word| is_placeholder(word)) {
            return Err(Refusal::Placeholder(word.clone()));
        }
        let parts: Vec<_> = words.iter().map(String::as_str).collect();
        let change = change(&parts).ok_or(Refusal::NotUndoable)?;
        Ok(Self {
            words: words.to_vec(),
            change,
        })
    }
}

/// What findings write for what only the user knows.
pub(super) fn is_placeholder(word: &str) -> bool {
    matches!(word, "GATEWAY" | "TABLE" | "FILE" | "DEVICE" | "E" | "T")
}

fn change(words: &[&str]) -> Option<Change> {
    match words {
        ["sysctl", "-w", setting] => {
            let (name, value) = setting.split_once('=')?;
            Some(Change::Setting {
                name: name.to_owned(),
                value: value.to_owned(),
            })
        }
        ["ip", rest @ ..] => ip_change(rest),
        ["modprobe", module] => Some(Change::Module((*module).to_owned())),
        ["nft", "insert", "rule", rest @ ..] => nft_change(rest),
        [program, rest @ ..] if is_iptables(program) => {
            rest.contains(&"-I").then_some(Change::IptablesRule)
        }
        ["ethtool", "-K", device, "tx", "off"] => {
            Some(Change::TransmitChecksums((*device).to_owned()))
        }
        _ => None,
    }
}

/// Words of nft's own language: none of them ends the rule and begins another.
fn nft_change(words: &[&str]) -> Option<Change> {
    let is_quoted = |word: &str| {
        let inner = word
            .strip_prefix('"')
            .and_then(|rest| rest.strip_suffix('"'));
        inner.is_some_and(|inner| !inner.contains('"'))
    };
    let is_plain = |word: &str| !word.is_empty() && !word.contains(foreign_to_nft);
    let [family, table, chain, _, ..] = words else {
        return None;
    };
    let is_one_rule = words.iter().all(|word| is_plain(word) || is_quoted(word));
    is_one_rule.then(|| Change::NftRule([family, table, chain].map(|word| (*word).to_owned())))
}

fn foreign_to_nft(letter: char) -> bool {
    letter.is_whitespace() || letter.is_control() || "\"'`$;|&<>()\\*?!{}#".contains(letter)
}

fn is_iptables(program: &str) -> bool {
    let variant = program
        .strip_prefix("iptables")
        .or(program.strip_prefix("ip6tables"));
    matches!(variant, Some("" | "-nft" | "-legacy"))
}

fn ip_change(words: &[&str]) -> Option<Change> {
    let owned = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
    let change = match words {
        ["addr", "add", net, "dev", device] => Change::AddAddress {
            net: network(net)?,
            device: (*device).to_owned(),
        },
        ["addr", "del", net, "dev", device] => Change::RemoveAddress {
            net: network(net)?,
            device: (*device).to_owned(),
        },
        ["route", verb @ ("add" | "replace"), prefix, rest @ ..] => {
            prefix_of_route(prefix)?;
            Change::Route {
                words: owned(&[&[*prefix], rest].concat()),
                replaces: *verb == "replace",
            }
        }
        ["rule", "add", rest @ ..] => Change::Rule(owned(rest)),
        ["link", "set", "dev", device, "up"] | ["link", "set", device, "up"] => {
            Change::LinkUp((*device).to_owned())
        }
        ["link", "set", "dev", device, "mtu", _] | ["link", "set", device, "mtu", _] => {
            Change::LinkMtu((*device).to_owned())
        }
        ["link", "add", device, "type", ..] => Change::AddLink((*device).to_owned()),
        ["tunnel", "change", "name", device, ..] | ["tunnel", "change", device, ..] => {
            Change::TunnelEnds((*device).to_owned())
        }
        ["fou", "add", "port", port, "gue"] => Change::BindPort(port.parse().ok()?),
        ["neigh", "add", "proxy", address, "dev", device] => Change::ProxyNeighbour {
            address: address.parse().ok()?,
            device: (*device).to_owned(),
        },
        ["neigh", "flush", ..] => Change::Neighbours,
        _ => return None,
    };
    Some(change)
}

fn network(text: &str) -> Option<IpNet> {
    let host = || text.parse::<IpAddr>().map(IpNet::from);
    text.parse().or_else(|_| host()).ok()
}

fn prefix_of_route(text: &str) -> Option<()> {
    (text == "default" || network(text).is_some()).then_some(())
}

impl Change {
    /// The settings that have to be known before: dotted names, `*` for every device.
    #[must_use]
    pub fn settings(&self) -> Vec<String> {
        let Self::Setting { name, .. } = self else {
            return Vec::new();
        };
        let mut names = vec![name.clone()];
        let more: &[&str] = match name.as_str() {
            "net.ipv4.ip_forward" => &[
                "net.ipv4.conf.*.forwarding",
                "net.ipv4.conf.all.accept_redirects",
            ],
            "net.ipv6.conf.all.forwarding" => &[
                "net.ipv6.conf.*.forwarding",
                "net.ipv6.conf.*.force_forwarding",
            ],
            "net.ipv4.conf.all.rp_filter" => &["net.ipv4.conf.*.rp_filter"],
            _ => &[],
        };
        names.extend(more.iter().map(|name| (*name).to_owned()));
        names
    }

    /// What else has to be known before, in the order in which `plan` takes the answers.
    #[must_use]
    pub fn questions(&self) -> Vec<Question> {
        match self {
            Self::AddAddress { device, .. } => {
                vec![ask(&["ip", "-o", "addr", "show", "dev", device])]
            }
            Self::RemoveAddress { net, device } => vec![
                ask(&["ip", "-o", "addr", "show", "dev", device]),
                ask(&["ip", "-o", family(*net), "route", "show", "table", "all"]),
            ],
            Self::Route { words, .. } => vec![routes(words)],
            Self::Rule(words) => vec![ask(&["ip", family_of_rule(words), "rule", "show"])],
            Self::LinkUp(_) | Self::LinkMtu(_) | Self::AddLink(_) => {
                vec![ask(&["ip", "-o", "link", "show"])]
            }
            Self::TunnelEnds(device) => {
                vec![ask(&["ip", "-o", "-d", "link", "show", "dev", device])]
            }
            Self::ProxyNeighbour { .. } => vec![ask(&["ip", "neigh", "show", "proxy"])],
            Self::BindPort(_) => vec![ask(&["ip", "fou", "show"])],
            Self::Module(_) => vec![Question::File("/proc/modules")],
            Self::TransmitChecksums(device) => vec![ask(&["ethtool", "-k", device])],
            Self::Setting { .. } | Self::Neighbours | Self::NftRule(_) | Self::IptablesRule => {
                Vec::new()
            }
        }
    }
}

/// The routes with exactly that prefix in the table that is meant.
fn routes(words: &[String]) -> Question {
    let prefix = words.first().map_or("default", String::as_str);
    let table = after(words, "table").unwrap_or("main");
    let via = after(words, "via").unwrap_or_default();
    let family = if prefix.contains(':') || via.contains(':') {
        "-6"
    } else {
        "-4"
    };
    ask(&[
        "ip", "-o", family, "route", "show", "to", "exact", prefix, "table", table,
    ])
}

/// The word that follows a keyword.
pub(super) fn after<'a>(words: &'a [String], keyword: &str) -> Option<&'a str> {
    let position = words.iter().position(|word| word == keyword)?;
    words.get(position + 1).map(String::as_str)
}

fn family(net: IpNet) -> &'static str {
    match net {
        IpNet::V4(_) => "-4",
        IpNet::V6(_) => "-6",
    }
}

fn family_of_rule(words: &[String]) -> &'static str {
    if words.iter().any(|word| word.contains(':')) {
        "-6"
    } else {
        "-4"
    }
}

fn ask(words: &[&str]) -> Question {
    Question::Program(words.iter().map(|word| (*word).to_owned()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Command, Refusal> {
        Command::of(&FixLine::from(text))
    }

    fn change_of(text: &str) -> Change {
        parse(text).unwrap().change
    }

    #[test]
    fn commands_are_read() {
        assert_eq!(
            change_of("sysctl -w net.ipv4.conf.eth0/100.rp_filter=0"),
            Change::Setting {
                name: "net.ipv4.conf.eth0/100.rp_filter".to_owned(),
                value: "0".to_owned()
            }
        );
        assert_eq!(
            change_of("ip addr add 2001:db8::1/128 dev lo"),
            Change::AddAddress {
                net: "2001:db8::1/128".parse().unwrap(),
                device: "lo".to_owned()
            }
        );
        let command = parse("nft insert rule inet f in iifname '\"decap0\"' accept").unwrap();
        assert_eq!(
            command.change,
            Change::NftRule(["inet", "f", "in"].map(str::to_owned))
        );
        assert_eq!(command.words[7], "\"decap0\"");
        assert_eq!(
            change_of("iptables-legacy -t filter -I INPUT -s 10.0.0.1 -j ACCEPT"),
            Change::IptablesRule
        );
        assert_eq!(
            change_of("ip route replace 10.0.0.100 dev tunlb0"),
            Change::Route {
                words: ["10.0.0.100", "dev", "tunlb0"].map(str::to_owned).to_vec(),
                replaces: true
            }
        );
        assert_eq!(
            change_of("ip neigh add proxy 10.0.0.100 dev eth0"),
            Change::ProxyNeighbour {
                address: "10.0.0.100".parse().unwrap(),
                device: "eth0".to_owned()
            }
        );
        assert_eq!(
            change_of("modprobe ipip"),
            Change::Module("ipip".to_owned())
        );
        assert_eq!(
            change_of("ethtool -K tunl0 tx off"),
            Change::TransmitChecksums("tunl0".to_owned())
        );
    }

    #[test]
    fn what_is_left_to_the_user() {
        for (text, refusal) in [
            ("# bind the service to 10.0.0.100", Refusal::Advice),
            (
                "ip route add default via GATEWAY dev eth0",
                Refusal::Placeholder("GATEWAY".to_owned()),
            ),
            ("tunlb run -c FILE", Refusal::Placeholder("FILE".to_owned())),
            ("tunlb decap --vip 10.0.0.100 --setup", Refusal::NotUndoable),
            (
                "nsenter --net=/proc/7/ns/net tunlb doctor",
                Refusal::NotUndoable,
            ),
            ("iptables -F INPUT", Refusal::NotUndoable),
            ("iptables -D INPUT 1", Refusal::NotUndoable),
            ("nft flush ruleset", Refusal::NotUndoable),
            ("nft delete rule inet f in handle 4", Refusal::NotUndoable),
            ("sysctl -w net.core.somaxconn=1; reboot", Refusal::Advice),
            ("ip link set $(id) up", Refusal::Advice),
            (
                "nft insert rule inet f in iifname 'x;' accept",
                Refusal::NotUndoable,
            ),
            (
                "nft insert rule inet f in iifname '\"x\" accept; flush ruleset #\"' accept",
                Refusal::NotUndoable,
            ),
            (
                "ip neigh add 10.0.0.100 lladdr 02:00:00:00:00:01 dev eth0",
                Refusal::NotUndoable,
            ),
            (
                "ip neigh add proxy 10.0.0.0/24 dev eth0",
                Refusal::NotUndoable,
            ),
            ("ip route add fe80::%lo dev lo", Refusal::NotUndoable),
        ] {
            assert_eq!(parse(text), Err(refusal), "{text}");
        }
    }

    #[test]
    fn what_hangs_on_a_setting_is_asked_for() {
        let settings = |text| change_of(text).settings();
        assert_eq!(
            settings("sysctl -w net.ipv4.conf.decap0.rp_filter=0"),
            ["net.ipv4.conf.decap0.rp_filter"]
        );
        assert_eq!(
            settings("sysctl -w net.ipv4.ip_forward=1"),
            [
                "net.ipv4.ip_forward",
                "net.ipv4.conf.*.forwarding",
                "net.ipv4.conf.all.accept_redirects"
            ]
        );
    }
}
