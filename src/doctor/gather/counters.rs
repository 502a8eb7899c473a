//! The kernel's counters, named as nstat(8) names them.

use std::collections::BTreeMap;
use std::fs;

/// The counters of this network namespace; without those of a file that cannot be read.
pub(in crate::doctor) fn read() -> BTreeMap<String, u64> {
    let text = |file: &str| fs::read_to_string(format!("/proc/net/{file}")).unwrap_or_default();
    let mut counters = in_tables(&text("snmp"));
    counters.extend(in_tables(&text("netstat")));
    counters.extend(in_lines(&text("snmp6")));
    counters
}

/// `Ip: InReceives InHdrErrors` over `Ip: 17 0`: two lines for each group.
pub(super) fn in_tables(text: &str) -> BTreeMap<String, u64> {
    let mut counters = BTreeMap::new();
    let mut lines = text.lines();
    while let (Some(names), Some(values)) = (lines.next(), lines.next()) {
        let mut names = names.split_whitespace();
        let group = names.next().unwrap_or_default().trim_end_matches(':');
        for (name, value) in names.zip(values.split_whitespace().skip(1)) {
            if let Ok(value) = value.parse() {
                counters.insert(format!("{group}{name}"), value);
            }
        }
    }
    counters
}

/// `Ip6InReceives 17`: one line for each.
pub(super) fn in_lines(text: &str) -> BTreeMap<String, u64> {
    text.lines()
        .filter_map(|line| {
            let (name, value) = line.split_once(char::is_whitespace)?;
            Some((name.to_owned(), value.trim().parse().ok()?))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_have_names_over_values() {
        let text = "Ip: Forwarding DefaultTTL InReceives\nIp: 1 64 18446744073709551615\n\
                    Tcp: MaxConn InSegs\nTcp: -1 7\nTcpExt:\n";
        let expected = [
            ("IpDefaultTTL", 64),
            ("IpForwarding", 1),
            ("IpInReceives", u64::MAX),
            ("TcpInSegs", 7),
        ];
        let expected = expected.map(|(name, value)| (name.to_owned(), value));
        assert_eq!(in_tables(text), BTreeMap::from(expected));
    }

    #[test]
    fn lines_have_one_counter_each() {
        let counters = in_lines("Ip6InReceives                   \t12\nnothing\n");
        assert_eq!(counters, BTreeMap::from([("Ip6InReceives".to_owned(), 12)]));
    }

    #[test]
    fn this_kernel_counts() {
        let counters = read();
        for name in [
            "IpInAddrErrors",
            "TcpExtListenOverflows",
            "IpExtInNoRoutes",
            "UdpNoPorts",
        ] {
            assert!(counters.contains_key(name), "{name}");
        }
    }
}
