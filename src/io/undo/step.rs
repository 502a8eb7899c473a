//! One change to the host, with all that undoing it takes; what the journal's lines hold.
//!
//! This is the whole vocabulary of an undo: whatever a journal says, nothing but these steps, with these
//! values, is ever made of it.

use std::fmt;
use std::net::IpAddr;
use std::ops::RangeInclusive;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::io::netlink::ProbeRoute;
use crate::io::sysctl::{Sysctl, is_device_name};
use crate::packet::Version;
use crate::text::{plain::Plain, shell};

/// The metric of an `unreachable` route: the worst there is, so that every other route of the VIP is
/// better, an operator's own way for it in an emergency included.
pub const LAST_RESORT_METRIC: u32 = u32::MAX;

/// Numbers of tables that may hold copies of the main table's routes: none that has a name on any system
/// (`rt_tables` of iproute2).
pub const COPY_TABLES: RangeInclusive<u32> = 6080..=6095;

/// One change; as text, what it is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// A setting got another value.
    Sysctl {
        /// The setting itself.
        change: Change,
        /// Settings that the kernel changes along with it.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        dependents: Vec<Change>,
    },
    /// An address was added.
    Address {
        /// The device that has it.
        device: Device,
        /// The address.
        net: IpNet,
    },
    /// A route was added to the main table.
    Route {
        /// The device that it leads to.
        device: Device,
        /// What it leads to.
        net: IpNet,
    },
    /// A route for probes alone was added to the main table.
    ProbeRoute {
        /// The device that it leads to.
        device: Device,
        /// What it is for.
        route: ProbeRoute,
    },
    /// A proxy neighbour entry was added: the kernel answers on a device for an address of others.
    Neighbour {
        /// The device on which it answers.
        device: Device,
        /// The address.
        address: IpAddr,
    },
    /// An `unreachable` route was added to the main table, with the worst metric.
    Unreachable {
        /// What it is for.
        net: IpNet,
    },
    /// Routes were added to a table that had none of this family, as copies of the main table's.
    Table {
        /// Of which family.
        version: TableVersion,
        /// Its number, one of [`COPY_TABLES`].
        #[serde(deserialize_with = "copy_table")]
        table: u32,
    },
    /// A policy rule was added: what comes from an address asks a table first.
    Rule {
        /// The address.
        from: IpAddr,
        /// Number of the table, one of [`COPY_TABLES`].
        #[serde(deserialize_with = "copy_table")]
        table: u32,
        /// Lower goes first.
        priority: u32,
    },
    /// A device that was there got another MTU, queue length and state.
    Link {
        /// The device.
        device: Device,
        /// Its MTU before, in bytes.
        mtu: u32,
        /// How many packets its queue held before; none in a journal of an older version, which did not
        /// change it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        queue_length: Option<u32>,
        /// Whether it was up before.
        up: bool,
    },
}

/// The address family of a table's routes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TableVersion {
    /// IPv4.
    Ipv4,
    /// IPv6.
    Ipv6,
}

impl From<TableVersion> for Version {
    fn from(version: TableVersion) -> Self {
        match version {
            TableVersion::Ipv4 => Self::V4,
            TableVersion::Ipv6 => Self::V6,
        }
    }
}

impl From<Version> for TableVersion {
    fn from(version: Version) -> Self {
        match version {
            Version::V4 => Self::Ipv4,
            Version::V6 => Self::Ipv6,
        }
    }
}

/// A setting's value before and after.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Change {
    /// The setting.
    pub key: Sysctl,
    /// Index of the device that the setting belongs to; none for `all`, `default` and a whole host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<u32>,
    /// Its value before the change.
    pub before: i32,
    /// Its value after the change.
    pub after: i32,
}

/// A device; both must still fit when a step is undone, since either may be used again by another one.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Device {
    /// Its index.
    pub index: u32,
    /// Its name.
    #[serde(deserialize_with = "device_name")]
    pub name: String,
}

/// No other table is ever emptied.
fn copy_table<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    let table = u32::deserialize(deserializer)?;
    if COPY_TABLES.contains(&table) {
        Ok(table)
    } else {
        Err(serde::de::Error::custom("not a table of copies"))
    }
}

fn device_name<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let name = String::deserialize(deserializer)?;
    if is_device_name(&name) {
        Ok(name)
    } else {
        Err(serde::de::Error::custom("not a device name"))
    }
}

impl Step {
    /// Whether it is undone last, after every queue of the TUN is closed: the device itself, how it makes
    /// addresses, and the routes that keep packets from being sent back to the router meanwhile.
    #[must_use]
    pub fn outlasts_traffic(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Link { .. } => true,
            Self::Sysctl { change, .. } => change.key.makes_addresses_unless().is_some(),
            Self::Address { .. }
            | Self::Route { .. }
            | Self::ProbeRoute { .. }
            | Self::Neighbour { .. }
            | Self::Table { .. }
            | Self::Rule { .. } => false,
        }
    }

    /// A director has such a step for each of its VIPs, which may be thousands: too many lines for a log.
    #[must_use]
    pub const fn is_one_of_many(&self) -> bool {
        match self {
            Self::Route { .. }
            | Self::ProbeRoute { .. }
            | Self::Unreachable { .. }
            | Self::Neighbour { .. } => true,
            Self::Sysctl { .. }
            | Self::Address { .. }
            | Self::Table { .. }
            | Self::Rule { .. }
            | Self::Link { .. } => false,
        }
    }

    /// Whether other settings hang on it.
    pub(super) const fn has_dependents(&self) -> bool {
        match self {
            Self::Sysctl { dependents, .. } => !dependents.is_empty(),
            Self::Address { .. }
            | Self::Route { .. }
            | Self::ProbeRoute { .. }
            | Self::Neighbour { .. }
            | Self::Unreachable { .. }
            | Self::Table { .. }
            | Self::Rule { .. }
            | Self::Link { .. } => false,
        }
    }

    /// The change as it was made, a line for the log.
    #[must_use]
    pub fn made(&self) -> String {
        match self {
            Self::Sysctl { change, .. } => {
                let Change { before, after, .. } = change;
                format!("set {}: {before} -> {after}", Plain(change.key.to_string()))
            }
            Self::Address { .. }
            | Self::Route { .. }
            | Self::ProbeRoute { .. }
            | Self::Neighbour { .. }
            | Self::Unreachable { .. }
            | Self::Table { .. }
            | Self::Rule { .. } => {
                format!("added {self}")
            }
            Self::Link { .. } => format!("changed {self}"),
        }
    }

    /// The change as it was undone, a line for the log.
    #[must_use]
    pub fn undone(&self) -> String {
        match self {
            Self::Sysctl { change, .. } => {
                let Change { before, after, .. } = change;
                let key = change.key.to_string();
                format!("restored {}: {after} -> {before}", Plain(key))
            }
            Self::Address { .. }
            | Self::Route { .. }
            | Self::ProbeRoute { .. }
            | Self::Neighbour { .. }
            | Self::Unreachable { .. }
            | Self::Table { .. }
            | Self::Rule { .. } => {
                format!("removed {self}")
            }
            Self::Link { .. } => format!("restored {self}"),
        }
    }

    /// The command that undoes it, a line for a shell.
    #[must_use]
    pub fn by_hand(&self) -> String {
        match self {
            Self::Sysctl { change, .. } => {
                let assignment = format!("{}={}", change.key, change.before);
                shell::line(&["sysctl", "-w", &assignment])
            }
            Self::Address { device, net } => {
                shell::line(&["ip", "addr", "del", &net.to_string(), "dev", &device.name])
            }
            Self::Route { device, net } => {
                let net = net.to_string();
                shell::line(&["ip", "route", "del", &net, "dev", &device.name])
            }
            Self::ProbeRoute { device, route } => {
                let ProbeRoute {
                    vip,
                    source,
                    tos,
                    metric,
                } = route;
                let (net, metric) = (IpNet::from(*vip).to_string(), metric.to_string());
                let tos = (*tos != 0).then(|| format!("{tos:#x}"));
                let source = source.map(|source| source.to_string());
                let mut words = vec!["ip", "route", "del", &net];
                source
                    .iter()
                    .for_each(|source| words.extend(["from", source]));
                tos.iter().for_each(|tos| words.extend(["tos", tos]));
                words.extend(["dev", &device.name, "metric", &metric]);
                shell::line(&words)
            }
            Self::Neighbour { device, address } => {
                let address = address.to_string();
                shell::line(&["ip", "neigh", "del", "proxy", &address, "dev", &device.name])
            }
            Self::Unreachable { net } => {
                let (net, metric) = (net.to_string(), LAST_RESORT_METRIC.to_string());
                shell::line(&["ip", "route", "del", "unreachable", &net, "metric", &metric])
            }
            Self::Table { version, table } => {
                let table = table.to_string();
                shell::line(&["ip", flag(*version), "route", "flush", "table", &table])
            }
            Self::Rule {
                from,
                table,
                priority,
            } => {
                let version = if from.is_ipv4() {
                    TableVersion::Ipv4
                } else {
                    TableVersion::Ipv6
                };
                let words = [from.to_string(), table.to_string(), priority.to_string()];
                let [from, table, priority] = words.each_ref().map(String::as_str);
                let rule = ["from", from, "lookup", table, "priority", priority];
                shell::line(&[&["ip", flag(version), "rule", "del"], &rule[..]].concat())
            }
            Self::Link {
                device,
                mtu,
                queue_length,
                up,
            } => {
                let mut words = vec!["ip", "link", "set", &device.name];
                let (mtu, packets) = (mtu.to_string(), queue_length.map(|n| n.to_string()));
                words.extend(["mtu", &mtu]);
                if let Some(packets) = &packets {
                    words.extend(["txqueuelen", packets]);
                }
                words.push(if *up { "up" } else { "down" });
                shell::line(&words)
            }
        }
    }
}

/// By which ip(8) takes a family.
const fn flag(version: TableVersion) -> &'static str {
    match version {
        TableVersion::Ipv4 => "-4",
        TableVersion::Ipv6 => "-6",
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sysctl { change, .. } => {
                let Change {
                    key, before, after, ..
                } = change;
                write!(f, "{}: {before} -> {after}", Plain(key.to_string()))
            }
            Self::Address { device, net } => write!(f, "address {net} on {device}"),
            Self::Route { device, net } => write!(f, "route {net} to {device}"),
            Self::ProbeRoute { device, route } => write!(f, "route {route} to {device}"),
            Self::Neighbour { device, address } => {
                write!(f, "proxy neighbour {address} on {device}")
            }
            Self::Unreachable { net } => write!(f, "route unreachable {net}"),
            Self::Table { version, table } => {
                let family = match version {
                    TableVersion::Ipv4 => "IPv4",
                    TableVersion::Ipv6 => "IPv6",
                };
                write!(f, "{family} routes of table {table}")
            }
            Self::Rule {
                from,
                table,
                priority,
            } => write!(f, "rule {priority}: from {from} lookup {table}"),
            Self::Link { device, .. } => write!(f, "MTU, queue length and state of {device}"),
        }
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Plain(&self.name).fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(name: &str) -> Device {
        Device {
            index: 4,
            name: name.into(),
        }
    }

    fn sysctl() -> Step {
        let change = Change {
            key: Sysctl::ipv4_forward(),
            link: None,
            before: 0,
            after: 1,
        };
        let dependents = vec![Change {
            key: Sysctl::ipv4_conf("eth0.7", "forwarding").unwrap(),
            link: Some(4),
            before: 1,
            after: 1,
        }];
        Step::Sysctl { change, dependents }
    }

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    #[test]
    fn steps_as_text_and_as_shell() {
        for (step, made, undone, by_hand) in [
            (
                sysctl(),
                "set net.ipv4.ip_forward: 0 -> 1",
                "restored net.ipv4.ip_forward: 1 -> 0",
                "sysctl -w net.ipv4.ip_forward=0",
            ),
            (
                Step::Address {
                    device: device("lo"),
                    net: net("10.0.0.100/32"),
                },
                "added address 10.0.0.100/32 on lo",
                "removed address 10.0.0.100/32 on lo",
                "ip addr del 10.0.0.100/32 dev lo",
            ),
            (
                Step::Route {
                    device: device("$(id)"),
                    net: net("2001:db8::100/128"),
                },
                "added route 2001:db8::100/128 to $(id)",
                "removed route 2001:db8::100/128 to $(id)",
                "ip route del 2001:db8::100/128 dev '$(id)'",
            ),
            (
                Step::ProbeRoute {
                    device: device("$(id)"),
                    route: ProbeRoute {
                        vip: "2001:db8::100".parse().unwrap(),
                        source: Some("2001:db8::2".parse().unwrap()),
                        tos: 0,
                        metric: 7,
                    },
                },
                "added route 2001:db8::100/128 from 2001:db8::2 metric 7 to $(id)",
                "removed route 2001:db8::100/128 from 2001:db8::2 metric 7 to $(id)",
                "ip route del 2001:db8::100/128 from 2001:db8::2 dev '$(id)' metric 7",
            ),
            (
                Step::Neighbour {
                    device: device("$(id)"),
                    address: "2001:db8::100".parse().unwrap(),
                },
                "added proxy neighbour 2001:db8::100 on $(id)",
                "removed proxy neighbour 2001:db8::100 on $(id)",
                "ip neigh del proxy 2001:db8::100 dev '$(id)'",
            ),
            (
                Step::Unreachable {
                    net: net("10.0.0.100/32"),
                },
                "added route unreachable 10.0.0.100/32",
                "removed route unreachable 10.0.0.100/32",
                "ip route del unreachable 10.0.0.100/32 metric 4294967295",
            ),
            (
                Step::Table {
                    version: TableVersion::Ipv6,
                    table: 6080,
                },
                "added IPv6 routes of table 6080",
                "removed IPv6 routes of table 6080",
                "ip -6 route flush table 6080",
            ),
            (
                Step::Rule {
                    from: "10.0.0.100".parse().unwrap(),
                    table: 6080,
                    priority: 32765,
                },
                "added rule 32765: from 10.0.0.100 lookup 6080",
                "removed rule 32765: from 10.0.0.100 lookup 6080",
                "ip -4 rule del from 10.0.0.100 lookup 6080 priority 32765",
            ),
            (
                Step::Link {
                    device: device("tun\u{1b}0"),
                    mtu: 1404,
                    queue_length: Some(500),
                    up: false,
                },
                "changed MTU, queue length and state of tun\\u{1b}0",
                "restored MTU, queue length and state of tun\\u{1b}0",
                "ip link set \"$(printf 'tun\\0330')\" mtu 1404 txqueuelen 500 down",
            ),
        ] {
            assert_eq!(step.made(), made);
            assert_eq!(step.undone(), undone);
            assert_eq!(step.by_hand(), by_hand);
        }
    }

    #[test]
    fn steps_survive_the_journal() {
        let steps = [
            sysctl(),
            Step::Address {
                device: device("lo"),
                net: net("::1/128"),
            },
            Step::Neighbour {
                device: device("a.b"),
                address: "10.0.0.100".parse().unwrap(),
            },
            Step::Table {
                version: TableVersion::Ipv4,
                table: 6080,
            },
            Step::Rule {
                from: "2001:db8::100".parse().unwrap(),
                table: 6095,
                priority: 0,
            },
            Step::Link {
                device: device("a.b"),
                mtu: 1500,
                queue_length: None,
                up: true,
            },
            Step::Link {
                device: device("a.b"),
                mtu: 1500,
                queue_length: Some(500),
                up: true,
            },
        ];
        for step in steps {
            let text = serde_json::to_string(&step).unwrap();
            assert_eq!(serde_json::from_str::<Step>(&text).unwrap(), step, "{text}");
        }
    }

    #[test]
    fn what_no_step_can_be_is_refused() {
        for text in [
            r#"{"sysctl":{"change":{"key":"kernel.core_pattern","before":0,"after":1}}}"#,
            r#"{"sysctl":{"change":{"key":"net.ipv4.conf.../../x.rp_filter","before":0,"after":1}}}"#,
            r#"{"sysctl":{"change":{"key":"net.ipv4.conf.eth0.route_localnet","before":0,"after":1}}}"#,
            r#"{"sysctl":{"change":{"key":"net.ipv4.ip_forward","before":"0; id","after":1}}}"#,
            r#"{"address":{"device":{"index":1,"name":"a/b"},"net":"10.0.0.1/32"}}"#,
            r#"{"address":{"device":{"index":-1,"name":"lo"},"net":"10.0.0.1/32"}}"#,
            r#"{"route":{"device":{"index":1,"name":"lo"},"net":"10.0.0.1/33"}}"#,
            r#"{"table":{"version":"ipv4","table":254}}"#,
            r#"{"rule":{"from":"10.0.0.100","table":255,"priority":1}}"#,
            r#"{"run":{"command":"id"}}"#,
        ] {
            assert!(serde_json::from_str::<Step>(text).is_err(), "{text}");
        }
    }
}
