//! What this host's packet filters do to a tunnel's packets on their way out.
//!
//! A running director asks before it sends past the filters, the doctor where packets pass them.

use std::net::IpAddr;
use std::path::Path;

use super::facts::{Encap, FirewallFacts};
use super::firewall::{FilterPath, FilterVerdict, FilteredPacket, Firewall};
use super::gather;
use crate::packet::Version;

/// A tunnel whose packets leave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Departure {
    /// Name of the device that they leave by.
    pub device: Option<String>,
    /// Their source; none: not known.
    pub source: Option<IpAddr>,
    /// The tunnel's far end.
    pub destination: IpAddr,
    /// The tunnel's kind.
    pub encap: Encap,
    /// Of the packets in it.
    pub inner: Version,
}

impl Departure {
    /// The number of the outer packet's protocol.
    #[must_use]
    pub const fn protocol(&self) -> u8 {
        match (self.encap, self.inner) {
            (Encap::Ipip, Version::V4) => 4,
            (Encap::Ipip, Version::V6) => 41,
            (Encap::Gue(_), _) => 17,
        }
    }

    /// The outer packet as filters see it.
    #[must_use]
    pub fn packet(&self) -> FilteredPacket {
        let ports = match self.encap {
            Encap::Ipip => None,
            Encap::Gue(port) => Some((port, port)),
        };
        let source = self.source.unwrap_or(self.destination);
        FilteredPacket {
            oif: self.device.clone(),
            ports,
            source_is_local: Some(true),
            destination_is_local: Some(false),
            ..FilteredPacket::new(
                FilterPath::FromThisHost,
                source,
                self.destination,
                self.protocol(),
            )
        }
    }
}

/// The packet filters of this host as they were at one moment.
#[derive(Debug)]
pub struct DepartureFilters(Result<Firewall, String>);

impl DepartureFilters {
    /// Reads them: by `nft` and `iptables-save`, where the kernel has rules at all.
    #[must_use]
    pub fn read() -> Self {
        Self::of(&gather::packet_filters(Path::new("/")))
    }

    /// Those that were read.
    #[must_use]
    pub fn of(facts: &FirewallFacts) -> Self {
        Self(Firewall::parse(facts).map_err(|error| error.to_string()))
    }

    /// What may become of the packets other than that they pass unchanged; `None` where they do.
    #[must_use]
    pub fn obstacle(&self, departure: &Departure) -> Option<String> {
        let firewall = match &self.0 {
            Ok(firewall) => firewall,
            Err(why) => return Some(format!("packet filters cannot be read: {why}")),
        };
        match firewall.judge(&departure.packet()) {
            FilterVerdict::Accept => None,
            FilterVerdict::NotSeen(why) => Some(format!("packet filters cannot be read: {why}")),
            FilterVerdict::Drop(rule)
            | FilterVerdict::Rewritten(rule)
            | FilterVerdict::Diverted(rule, _)
            | FilterVerdict::Chance(rule, _)
            | FilterVerdict::Unknown(rule) => {
                Some(format!("{} {}: {}", rule.program, rule.place(), rule.rule))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::facts::Observed;

    fn filters(nft: &str) -> DepartureFilters {
        let facts = FirewallFacts {
            nft: Observed::Seen(nft.to_owned()),
            ..FirewallFacts::default()
        };
        DepartureFilters::of(&facts)
    }

    fn departure(encap: Encap, inner: Version) -> Departure {
        Departure {
            device: Some("eth0".into()),
            source: Some([10, 0, 1, 1].into()),
            destination: [10, 0, 1, 11].into(),
            encap,
            inner,
        }
    }

    /// An output chain with that policy and one rule on the protocol.
    fn output(policy: &str, protocol: u8, verdict: &str) -> String {
        format!(
            r#"{{"nftables":[{{"metainfo":{{"json_schema_version":1}}}},
            {{"table":{{"family":"inet","name":"t","handle":1}}}},
            {{"chain":{{"family":"inet","table":"t","name":"out","handle":1,"type":"filter","hook":"output","prio":0,"policy":"{policy}"}}}},
            {{"rule":{{"family":"inet","table":"t","chain":"out","handle":2,"expr":[
              {{"match":{{"op":"==","left":{{"meta":{{"key":"l4proto"}}}},"right":{protocol}}}}},{{"{verdict}":null}}]}}}}]}}"#
        )
    }

    #[test]
    fn what_keeps_a_tunnel_to_the_filters() {
        let (ipip, gue) = (Encap::Ipip, Encap::Gue(6080));
        for (description, rules, encap, inner, obstacle) in [
            ("no rules", String::new(), ipip, Version::V4, None),
            (
                "a chain that lets all pass",
                output("accept", 6, "drop"),
                ipip,
                Version::V4,
                None,
            ),
            (
                "its protocol is dropped",
                output("accept", 4, "drop"),
                ipip,
                Version::V4,
                Some("nft inet t out"),
            ),
            (
                "the protocol of other packets is",
                output("accept", 4, "drop"),
                ipip,
                Version::V6,
                None,
            ),
            (
                "UDP is",
                output("accept", 17, "drop"),
                gue,
                Version::V4,
                Some("nft inet t out"),
            ),
            (
                "all else is",
                output("drop", 4, "accept"),
                gue,
                Version::V4,
                Some("policy drop"),
            ),
            (
                "all else is, not this",
                output("drop", 4, "accept"),
                ipip,
                Version::V4,
                None,
            ),
            (
                "rules of no known form",
                "no JSON".to_owned(),
                ipip,
                Version::V4,
                Some("cannot be read"),
            ),
        ] {
            let said = filters(&rules).obstacle(&departure(encap, inner));
            match (said, obstacle) {
                (None, None) => {}
                (Some(said), Some(part)) => assert!(said.contains(part), "{description}: {said}"),
                (said, _) => panic!("{description}: {said:?}"),
            }
        }
    }
}
