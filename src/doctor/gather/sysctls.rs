//! The running values of the settings that checks ask for.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// Settings of the whole machine or namespace, as path components.
const GLOBAL: [&[&str]; 13] = [
    &["net", "ipv4", "ip_forward"],
    &["net", "ipv4", "tcp_mtu_probing"],
    &["net", "ipv4", "tcp_syncookies"],
    &["net", "ipv4", "tcp_fwmark_accept"],
    &["net", "ipv4", "fib_multipath_hash_policy"],
    &["net", "bridge", "bridge-nf-call-iptables"],
    &["net", "bridge", "bridge-nf-call-ip6tables"],
    &["net", "netfilter", "nf_conntrack_acct"],
    &["net", "core", "fb_tunnels_only_for_init_net"],
    &["net", "core", "somaxconn"],
    &["net", "netfilter", "nf_conntrack_max"],
    &["net", "netfilter", "nf_conntrack_tcp_be_liberal"],
    &["net", "netfilter", "nf_conntrack_tcp_loose"],
];

/// Settings of each device, of `all` and of `default`.
const IPV4_CONF: [&str; 9] = [
    "accept_local",
    "arp_announce",
    "arp_ignore",
    "forwarding",
    "log_martians",
    "proxy_arp",
    "route_localnet",
    "rp_filter",
    "src_valid_mark",
];
const IPV6_CONF: [&str; 5] = [
    "accept_ra",
    "disable_ipv6",
    "force_forwarding",
    "forwarding",
    "proxy_ndp",
];

/// Of the settings that exist, the values, by dotted name.
pub(super) fn read(root: &Path) -> BTreeMap<String, i64> {
    let mut values: BTreeMap<_, _> = GLOBAL
        .iter()
        .filter_map(|components| value(root, components))
        .collect();
    for (family, names) in [("ipv4", IPV4_CONF.as_slice()), ("ipv6", &IPV6_CONF)] {
        for device in devices(root, family) {
            let of_device = |name| value(root, &["net", family, "conf", &device, name]);
            values.extend(names.iter().copied().filter_map(of_device));
        }
    }
    values
}

fn devices(root: &Path, family: &str) -> Vec<String> {
    let entries = fs::read_dir(root.join("net").join(family).join("conf"));
    let entries = entries.into_iter().flatten().flatten();
    entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}

fn value(root: &Path, components: &[&str]) -> Option<(String, i64)> {
    let mut path = root.to_owned();
    path.extend(components);
    let value = fs::read_to_string(path).ok()?.trim().parse().ok()?;
    Some((dotted(components), value))
}

/// As sysctl(8) takes it: a dot inside a component, which only device names have, is a slash.
fn dotted(components: &[&str]) -> String {
    let parts: Vec<_> = components
        .iter()
        .map(|part| part.replace('.', "/"))
        .collect();
    parts.join(".")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_read_by_name() {
        let folder = tempfile::tempdir().unwrap();
        for (file, text) in [
            ("net/ipv4/ip_forward", "1\n"),
            ("net/ipv4/tcp_syncookies", "no number\n"),
            ("net/ipv4/conf/eth0.100/rp_filter", "2\n"),
            ("net/ipv4/conf/all/arp_ignore", "-1\n"),
            ("net/ipv4/conf/all/mc_forwarding", "0\n"),
            ("net/ipv6/conf/lo/disable_ipv6", "0\n"),
        ] {
            let path = folder.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let expected = [
            ("net.ipv4.conf.all.arp_ignore", -1),
            ("net.ipv4.conf.eth0/100.rp_filter", 2),
            ("net.ipv4.ip_forward", 1),
            ("net.ipv6.conf.lo.disable_ipv6", 0),
        ];
        let expected = expected.map(|(name, value)| (name.to_owned(), value));
        assert_eq!(read(folder.path()), BTreeMap::from(expected));
    }
}
