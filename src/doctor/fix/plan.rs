//! From a command and the machine's state before it to steps with their undo. Pure.

use std::net::IpAddr;

use ipnet::IpNet;

use super::Refusal;
use super::before::Before;
use super::command::{Change, Command, after};
use crate::text::shell;

/// What a command comes to on a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Plan {
    /// The machine is so already: nothing to run.
    AlreadySo,
    /// To be run in this order.
    Steps(Vec<Step>),
}

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// The program and its arguments, run without a shell.
    pub command: Vec<String>,
    /// Lines of a shell that take it back, in the order in which they are to run; none where nothing
    /// stays of it.
    pub undo: Vec<String>,
}

/// What a plan depends on beside the machine.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    /// Settings that the finding changes by name.
    pub own_settings: &'a [String],
    /// By what a firewall rule of the doctor is known again: letters, digits and dashes.
    pub mark: &'a str,
}

/// Plans a command.
///
/// # Errors
/// Why it is left to the user.
pub fn plan(command: &Command, before: &Before, context: Context<'_>) -> Result<Plan, Refusal> {
    let words = &command.words;
    let first = before.listings.first().map_or("", String::as_str);
    match &command.change {
        Change::Setting { name, value } => setting(words, (name, value), before, context),
        Change::AddAddress { net, device } => Ok(add_address(words, *net, device, first)),
        Change::RemoveAddress { net, device } => remove_address(words, *net, device, before),
        Change::Route {
            words: route,
            replaces,
        } => Ok(one(words, vec![route_undo(route, *replaces, first)])),
        Change::Rule(rule) => Ok(add_rule(words, rule, first)),
        Change::LinkUp(device) => link_up(words, device, first),
        Change::LinkMtu(device) => link_mtu(words, device, first),
        Change::AddLink(device) => Ok(add_link(words, device, first)),
        Change::TunnelEnds(device) => tunnel_ends(words, device, first),
        Change::BindPort(port) => Ok(bind_port(words, *port, first)),
        Change::ProxyNeighbour { address, device } => {
            Ok(proxy_neighbour(words, *address, device, first))
        }
        Change::Neighbours => Ok(one(words, Vec::new())),
        Change::Module(module) => Ok(load(words, module, first)),
        Change::NftRule(chain) => Ok(nft_rule(words, chain, context.mark)),
        Change::IptablesRule => Ok(one(words, vec![iptables_undo(words)])),
        Change::TransmitChecksums(device) => Ok(checksums_off(words, device, first)),
    }
}

fn one(command: &[String], undo: Vec<String>) -> Plan {
    Plan::Steps(vec![Step {
        command: command.to_vec(),
        undo,
    }])
}

/// A line of a shell from words; what a user reads as well.
fn line<const N: usize>(words: [&str; N]) -> String {
    shell::line(&words.map(str::to_owned))
}

fn setting(
    words: &[String],
    (name, value): (&String, &String),
    before: &Before,
    context: Context<'_>,
) -> Result<Plan, Refusal> {
    let Some(old) = before.settings.get(name) else {
        return Err(Refusal::Unseen(format!("sysctl {name}")));
    };
    if old == value {
        return Ok(Plan::AlreadySo);
    }
    let mut changes = vec![(name.clone(), old.clone())];
    changes.extend(moved_along(name, old, before));
    let undo = changes
        .iter()
        .map(|(name, value)| line(["sysctl", "-w", &format!("{name}={value}")]))
        .collect();
    let keepers = keepers(name, (old, value), before, context);
    let change = Step {
        command: words.to_vec(),
        undo,
    };
    Ok(Plan::Steps(keepers.into_iter().chain([change]).collect()))
}

/// Settings to which the kernel gives other values than they have now when `name` gets its old value
/// back (`inet_forward_change`, `addrconf_fixup_forwarding`), with their values now. IPv6's 0 also clears
/// `force_forwarding` of every device.
fn moved_along(name: &str, old: &str, before: &Before) -> Vec<(String, String)> {
    let per_device = match name {
        "net.ipv4.ip_forward" => "net.ipv4.conf.",
        "net.ipv6.conf.all.forwarding" => "net.ipv6.conf.",
        _ => return Vec::new(),
    };
    let others = before.settings.iter().filter(|(other, _)| {
        let same = *other == name || *other == "net.ipv4.conf.all.forwarding";
        other.starts_with(per_device) && !same
    });
    let moved = others.filter(|(other, value)| {
        let back = if other.ends_with(".accept_redirects") {
            if old == "0" { "1" } else { "0" }
        } else if other.ends_with(".force_forwarding") && old != "0" {
            value.as_str() // stays
        } else {
            old
        };
        *value != back
    });
    moved
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

/// The larger one of `all` and a device's own rp_filter counts: where `all` gets smaller, every device
/// that the finding is not about keeps its strictness by its own setting.
fn keepers(
    name: &str,
    (old, new): (&str, &str),
    before: &Before,
    context: Context<'_>,
) -> Option<Step> {
    let number = |text: &str| text.parse::<i64>().ok();
    if name != "net.ipv4.conf.all.rp_filter" || number(new)? >= number(old)? {
        return None;
    }
    let weaker = before.settings.iter().filter(|(other, value)| {
        let concerned = *other == name || context.own_settings.contains(other);
        !concerned && number(value) < number(old)
    });
    let (keep, back): (Vec<_>, Vec<_>) = weaker
        .map(|(other, value)| (format!("{other}={old}"), format!("{other}={value}")))
        .unzip();
    let sysctl = |settings: Vec<String>| {
        let start = ["sysctl", "-w"].map(str::to_owned);
        start.into_iter().chain(settings).collect::<Vec<_>>()
    };
    (!keep.is_empty()).then(|| Step {
        command: sysctl(keep),
        undo: vec![shell::line(&sysctl(back))],
    })
}

fn add_address(words: &[String], net: IpNet, device: &str, addresses: &str) -> Plan {
    if addresses.lines().any(|entry| is_address(entry, net)) {
        return Plan::AlreadySo;
    }
    one(
        words,
        vec![line(["ip", "addr", "del", &net.to_string(), "dev", device])],
    )
}

/// Whether a line of `ip -o addr show` is about that address: `3: eth0    inet 10.0.1.11/24 brd …`.
fn is_address(entry: &str, net: IpNet) -> bool {
    address_of(entry) == Some(net)
}

fn address_of(entry: &str) -> Option<IpNet> {
    let mut words = entry
        .split_whitespace()
        .skip_while(|word| !word.starts_with("inet"));
    words.nth(1)?.parse().ok()
}

fn remove_address(
    words: &[String],
    net: IpNet,
    device: &str,
    before: &Before,
) -> Result<Plan, Refusal> {
    let [addresses, routes] = before.listings.as_slice() else {
        return Err(Refusal::Unseen(format!("ip addr show dev {device}")));
    };
    let Some(entry) = addresses.lines().find(|entry| is_address(entry, net)) else {
        return Ok(Plan::AlreadySo);
    };
    if entry.contains(" dynamic ") {
        return Err(Refusal::NotUndoable);
    }
    let same_family = |other: IpNet| other.addr().is_ipv4() == net.addr().is_ipv4();
    let others: Vec<_> = addresses
        .lines()
        .filter(|other| address_of(other).is_some_and(|other| other != net && same_family(other)))
        .collect();
    // With the first address of a subnet the kernel removes the further ones.
    let secondaries: Vec<_> = others
        .iter()
        .filter(|other| other.contains(" secondary "))
        .filter_map(|other| address_of(other))
        .filter(|other| other.trunc() == net.trunc())
        .map(|other| other.to_string())
        .collect();
    if !entry.contains(" secondary ") && !secondaries.is_empty() {
        return Err(Refusal::Entangled(secondaries.join(", ")));
    }
    let mut undo = vec![add_again(entry, net, device)];
    let is_last = others.is_empty();
    let lost = routes
        .lines()
        .filter(|route| goes_with(route, net.addr(), device, is_last));
    undo.extend(lost.map(|route| route_again(route, None)));
    Ok(one(words, undo))
}

/// The command that puts back an address as a line of `ip -o addr show` tells it.
fn add_again(entry: &str, net: IpNet, device: &str) -> String {
    let entry = entry.split('\\').next().unwrap_or_default();
    let words: Vec<_> = entry.split_whitespace().map(str::to_owned).collect();
    let mut command = ["ip", "addr", "add", &net.to_string()]
        .map(str::to_owned)
        .to_vec();
    for (keyword, option) in [("brd", "brd"), ("scope", "scope")] {
        if let Some(value) = after(&words, keyword) {
            command.extend([option, value].map(str::to_owned));
        }
    }
    command.extend(["dev", device].map(str::to_owned));
    let label = words
        .last()
        .filter(|label| label.starts_with(&format!("{device}:")));
    command.extend(
        label
            .into_iter()
            .flat_map(|label| ["label".to_owned(), label.clone()]),
    );
    shell::line(&command)
}

/// Whether a route goes with the address (`fib_sync_down_addr`), or with the last one of its device
/// (`fib_disable_ip`). Routes of the kernel's own come back with the address.
fn goes_with(route: &str, address: IpAddr, device: &str, is_last: bool) -> bool {
    let words: Vec<_> = route.split_whitespace().map(str::to_owned).collect();
    if after(&words, "proto") == Some("kernel") || address.is_ipv6() {
        return false;
    }
    let of_address = after(&words, "src").and_then(|source| source.parse().ok()) == Some(address);
    of_address || is_last && after(&words, "dev") == Some(device)
}

/// The command that puts back a route as a line of `ip -o route show` tells it.
fn route_again(route: &str, table: Option<&str>) -> String {
    // What the kernel says of a route and does not take.
    const STATE: [&str; 7] = [
        "linkdown",
        "dead",
        "offload",
        "trap",
        "rt_offload",
        "rt_trap",
        "\\",
    ];
    let words = route
        .split_whitespace()
        .filter(|word| !STATE.contains(word));
    let start = ["ip", "route", "replace"];
    let end = table.map(|table| ["table", table]);
    let words: Vec<_> = start
        .into_iter()
        .chain(words)
        .chain(end.into_iter().flatten())
        .map(str::to_owned)
        .collect();
    shell::line(&words)
}

/// A route that was not there is deleted again; one that is replaced comes back.
fn route_undo(route: &[String], replaces: bool, routes: &str) -> String {
    let is_ipv6 = route.iter().any(|word| word.contains(':'));
    let unnamed = if is_ipv6 { "1024" } else { "0" };
    let metric = |words: &[String]| after(words, "metric").unwrap_or(unnamed).to_owned();
    let old = routes.lines().filter(|_| replaces).find(|old| {
        let words: Vec<_> = old.split_whitespace().map(str::to_owned).collect();
        metric(&words) == metric(route)
    });
    match old {
        Some(old) => route_again(old, after(route, "table")),
        None => {
            let start = ["ip", "route", "del"].map(str::to_owned);
            shell::line(&[start.as_slice(), route].concat())
        }
    }
}

/// Without an identical rule before, deleting by what it selects takes the doctor's own.
fn add_rule(words: &[String], rule: &[String], rules: &str) -> Plan {
    let text = rule.join(" ");
    let selectors = |entry: &str| entry.split_once(':').map(|(_, rule)| rule.trim() == text);
    if rules.lines().any(|entry| selectors(entry) == Some(true)) {
        return Plan::AlreadySo;
    }
    let start = ["ip", "rule", "del"].map(str::to_owned);
    one(words, vec![shell::line(&[start.as_slice(), rule].concat())])
}

/// The line of `ip -o link show` about a device: `3: eth0@if4: <BROADCAST,UP> mtu 1500 …`.
fn link<'a>(links: &'a str, device: &str) -> Option<&'a str> {
    links.lines().find(|entry| {
        let name = entry
            .split_whitespace()
            .nth(1)
            .map(|name| name.trim_end_matches(':'));
        name.and_then(|name| name.split('@').next()) == Some(device)
    })
}

fn known_link<'a>(links: &'a str, device: &str) -> Result<&'a str, Refusal> {
    link(links, device).ok_or_else(|| Refusal::Unseen(format!("ip link show dev {device}")))
}

fn link_up(words: &[String], device: &str, links: &str) -> Result<Plan, Refusal> {
    let entry = known_link(links, device)?;
    let flags = entry.split(['<', '>']).nth(1).unwrap_or_default();
    if flags.split(',').any(|flag| flag == "UP") {
        return Ok(Plan::AlreadySo);
    }
    Ok(one(
        words,
        vec![line(["ip", "link", "set", "dev", device, "down"])],
    ))
}

fn link_mtu(words: &[String], device: &str, links: &str) -> Result<Plan, Refusal> {
    let entry: Vec<_> = known_link(links, device)?
        .split_whitespace()
        .map(str::to_owned)
        .collect();
    let Some(mtu) = after(&entry, "mtu") else {
        return Err(Refusal::Unseen(format!("ip link show dev {device}")));
    };
    if words.last().map(String::as_str) == Some(mtu) {
        return Ok(Plan::AlreadySo);
    }
    Ok(one(
        words,
        vec![line(["ip", "link", "set", "dev", device, "mtu", mtu])],
    ))
}

fn add_link(words: &[String], device: &str, links: &str) -> Plan {
    if link(links, device).is_some() {
        return Plan::AlreadySo;
    }
    one(words, vec![line(["ip", "link", "del", "dev", device])])
}

fn tunnel_ends(words: &[String], device: &str, link: &str) -> Result<Plan, Refusal> {
    let entry: Vec<_> = link.split_whitespace().map(str::to_owned).collect();
    let ends = after(&entry, "remote").zip(after(&entry, "local"));
    let Some((remote, local)) = ends else {
        return Err(Refusal::Unseen(format!("ip -d link show dev {device}")));
    };
    let undo = line([
        "ip", "tunnel", "change", "name", device, "remote", remote, "local", local,
    ]);
    Ok(one(words, vec![undo]))
}

fn bind_port(words: &[String], port: u16, ports: &str) -> Plan {
    let port = port.to_string();
    let is_bound = ports.lines().any(|entry| {
        let entry: Vec<_> = entry.split_whitespace().map(str::to_owned).collect();
        after(&entry, "port") == Some(port.as_str())
    });
    if is_bound {
        return Plan::AlreadySo;
    }
    one(words, vec![line(["ip", "fou", "del", "port", &port])])
}

/// The kernel takes an entry that is there already without a word; that one is not the doctor's.
fn proxy_neighbour(words: &[String], address: IpAddr, device: &str, entries: &str) -> Plan {
    let is_there = entries.lines().any(|entry| {
        let entry: Vec<_> = entry.split_whitespace().map(str::to_owned).collect();
        let listed = entry.first().and_then(|listed| listed.parse().ok());
        listed == Some(address) && after(&entry, "dev") == Some(device)
    });
    if is_there {
        return Plan::AlreadySo;
    }
    let address = address.to_string();
    let undo = line(["ip", "neigh", "del", "proxy", &address, "dev", device]);
    one(words, vec![undo])
}

fn load(words: &[String], module: &str, modules: &str) -> Plan {
    let is_loaded = modules
        .lines()
        .any(|entry| entry.split(' ').next() == Some(module));
    if is_loaded {
        return Plan::AlreadySo;
    }
    one(words, vec![line(["modprobe", "-r", module])])
}

/// nftables gives a rule its handle when it is there; its comment is known before.
fn nft_rule(words: &[String], chain: &[String; 3], mark: &str) -> Plan {
    let command = [words, ["comment", mark].map(str::to_owned).as_slice()].concat();
    let chain = shell::line(chain);
    let undo = format!(
        "nft --handle list chain {chain} | sed -n 's/.* comment \"{mark}\" # handle \\([0-9]*\\)$/\\1/p' | \
         xargs -r -n 1 nft delete rule {chain} handle"
    );
    one(&command, vec![undo])
}

/// `-D` with a rule's own words deletes the first such rule, and `-I` has put the doctor's first.
fn iptables_undo(words: &[String]) -> String {
    let words: Vec<_> = words
        .iter()
        .map(|word| if word == "-I" { "-D" } else { word })
        .map(str::to_owned)
        .collect();
    shell::line(&words)
}

/// `tx off` turns off every checksum feature; segmentation, which needs one, comes back with it.
fn checksums_off(words: &[String], device: &str, features: &str) -> Plan {
    let on = features.lines().filter_map(|entry| {
        let (name, state) = entry.trim().split_once(": ")?;
        (name.starts_with("tx-checksum-") && state == "on").then_some(name)
    });
    let on: Vec<_> = on
        .flat_map(|name| [name, "on"])
        .map(str::to_owned)
        .collect();
    if on.is_empty() {
        return Plan::AlreadySo;
    }
    let start = ["ethtool", "-K", device].map(str::to_owned);
    one(words, vec![shell::line(&[start.as_slice(), &on].concat())])
}

#[cfg(test)]
mod tests;
