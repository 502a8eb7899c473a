//! Counters before and after: those of the network namespace, and of the two devices.

use std::collections::BTreeMap;
use std::fs;

use super::Watched;
use crate::doctor::gather::counters;

/// Of a line of /proc/net/dev: how often packets came in, and why some did not get farther.
const COLUMNS: [(&str, usize); 4] = [
    ("rx_packets", 1),
    ("rx_errs", 2),
    ("rx_drop", 3),
    ("rx_frame", 5),
];

/// What moves with every look.
pub(super) fn read(watched: &Watched) -> BTreeMap<String, u64> {
    let mut all = counters::read();
    let devices = fs::read_to_string("/proc/net/dev").unwrap_or_default();
    for device in [&watched.physical, &watched.tunnel].into_iter().flatten() {
        all.extend(of_device(&devices, device));
    }
    all
}

fn of_device(text: &str, device: &str) -> Vec<(String, u64)> {
    let line = text
        .lines()
        .find_map(|line| line.trim_start().strip_prefix(device)?.strip_prefix(':'));
    let values: Vec<_> = line.unwrap_or_default().split_whitespace().collect();
    let named = COLUMNS.iter().filter_map(|(name, column)| {
        let value = values.get(*column)?.parse().ok()?;
        Some((format!("{device}.{name}"), value))
    });
    named.collect()
}

/// By how much each grew; those that did not are left out.
pub(super) fn growth(
    before: &BTreeMap<String, u64>,
    after: &BTreeMap<String, u64>,
) -> BTreeMap<String, u64> {
    let grown = after.iter().filter_map(|(name, now)| {
        let then = before.get(name).copied().unwrap_or_default();
        let by = now.checked_sub(then).filter(|by| *by > 0)?;
        Some((name.clone(), by))
    });
    grown.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEV: &str = "\
Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:     840       7    0    0    0     0          0         0      840       7    0    0    0     0       0          0
decap0: 1200 20 3 1 0 2 0 0 0 0 0 0 0 0 0 0
";

    #[test]
    fn counters_of_a_device() {
        let of = |device| {
            let all = of_device(DEV, device).into_iter();
            all.map(|(name, value)| format!("{name} {value}"))
                .collect::<Vec<_>>()
        };
        assert_eq!(
            of("decap0"),
            [
                "decap0.rx_packets 20",
                "decap0.rx_errs 3",
                "decap0.rx_drop 1",
                "decap0.rx_frame 2"
            ]
        );
        assert!(of("eth0").is_empty());
    }

    #[test]
    fn only_what_grew() {
        let map = |pairs: &[(&str, u64)]| {
            let pairs = pairs.iter();
            pairs
                .map(|(name, value)| ((*name).to_owned(), *value))
                .collect::<BTreeMap<_, _>>()
        };
        let before = map(&[("same", 7), ("grown", 7), ("made anew", 7)]);
        let after = map(&[("same", 7), ("grown", 9), ("made anew", 1), ("new", 2)]);
        assert_eq!(growth(&before, &after), map(&[("grown", 2), ("new", 2)]));
    }
}
