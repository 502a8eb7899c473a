//! The offloads of a device, as ethtool(8) shows them.

use std::collections::BTreeMap;

use super::DEADLINE;
use crate::doctor::facts::Observed;
use crate::io::command;

/// The features of a device; needs no privileges.
pub(super) fn read(device: &str) -> Observed<BTreeMap<String, bool>> {
    let output = command::output("ethtool", &["--show-features", device], DEADLINE);
    output.map(|text| parse(&text)).into()
}

/// Lines such as `tx-checksumming: on` and `\ttx-checksum-ipv4: off [fixed]`.
pub(super) fn parse(text: &str) -> BTreeMap<String, bool> {
    let feature = |line: &str| {
        let (name, rest) = line.split_once(':')?;
        let on = match rest.split_whitespace().next()? {
            "on" => true,
            "off" => false,
            _ => return None,
        };
        Some((name.trim().to_owned(), on))
    };
    text.lines().filter_map(feature).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_are_on_or_off() {
        let text = "Features for eth0:\nrx-checksumming: off [fixed]\ntx-checksumming: on\n\
                    \ttx-checksum-ipv4: off [requested on]\n";
        let expected = [
            ("rx-checksumming", false),
            ("tx-checksum-ipv4", false),
            ("tx-checksumming", true),
        ];
        let expected = expected.map(|(name, on)| (name.to_owned(), on));
        assert_eq!(parse(text), BTreeMap::from(expected));
    }
}
