//! `director.encap.source`: where the source address of the outer header comes from.
//!
//! The value and its reader. What it must be to backends and VIPs is judged in
//! [`relations`](super::relations).

use std::net::IpAddr;

use ipnet::IpNet;

use super::problem::{Fault, excerpt};
use super::value::{self, Raw};
use crate::packet::{EntropyPrefix, SourceRule};

/// Where the source address of the outer header comes from: at most one rule for each address
/// family of backends. The default is none, "auto".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OuterSource {
    v4: Option<SourceRule>,
    v6: Option<SourceRule>,
}

impl OuterSource {
    /// The rule for tunnels to that backend; `None` leaves it to the kernel's routes.
    #[must_use]
    pub const fn rule_for(&self, backend: IpAddr) -> Option<SourceRule> {
        match backend {
            IpAddr::V4(_) => self.v4,
            IpAddr::V6(_) => self.v6,
        }
    }

    /// The rules as the file writes them, IPv4 first; none where every source is "auto".
    #[must_use]
    pub fn entries(&self) -> Vec<String> {
        self.rules().map(text).collect()
    }

    pub(super) fn rules(&self) -> impl Iterator<Item = SourceRule> {
        [self.v4, self.v6].into_iter().flatten()
    }

    /// Sets the rule for the backends of its family; returns the one that was there.
    pub(super) fn insert(&mut self, rule: SourceRule) -> Option<SourceRule> {
        if is_ipv4(rule) {
            self.v4.replace(rule)
        } else {
            self.v6.replace(rule)
        }
    }
}

pub(super) fn is_ipv4(rule: SourceRule) -> bool {
    match rule {
        SourceRule::Fixed(address) => address.is_ipv4(),
        SourceRule::Entropy(prefix) => prefix.net().addr().is_ipv4(),
    }
}

/// A rule as the file writes it.
pub(super) fn text(rule: SourceRule) -> String {
    match rule {
        SourceRule::Fixed(address) => address.to_string(),
        SourceRule::Entropy(prefix) => prefix.net().to_string(),
    }
}

/// The source as it was written: only an array leaves the family that it does not name to "auto".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SourceChoice {
    Auto,
    One(SourceRule),
    Each(OuterSource),
}

impl SourceChoice {
    pub(super) fn source(self) -> OuterSource {
        match self {
            Self::Auto => OuterSource::default(),
            Self::One(rule) => {
                let mut source = OuterSource::default();
                source.insert(rule);
                source
            }
            Self::Each(source) => source,
        }
    }
}

const ACCEPTED: &str = "\"auto\", an address of this host such as \"10.0.1.1\", a prefix such as \
                        \"172.16.0.0/16\", or an array with one of these for each address family";

pub(super) fn read(raw: Raw<'_>) -> Result<SourceChoice, Fault> {
    match raw {
        Raw::List(entries) => each(entries).map(SourceChoice::Each),
        Raw::Text("auto") => Ok(SourceChoice::Auto),
        Raw::Text(_) | Raw::Whole(_) | Raw::Switch(_) | Raw::Other(_) => {
            rule(value::text(&raw, ACCEPTED)?).map(SourceChoice::One)
        }
    }
}

fn each(entries: Vec<Raw<'_>>) -> Result<OuterSource, Fault> {
    const ONE_EACH: &str =
        "at most one address or prefix of IPv4 and one of IPv6; a family left out is \"auto\"";
    let mut source = OuterSource::default();
    for entry in entries {
        let written = value::text(&entry, ONE_EACH)?;
        let rule = rule(written).map_err(|fault| {
            let message = format!("\"{}\": {}", excerpt(written), fault.message);
            Fault::new(message, ONE_EACH)
        })?;
        if let Some(other) = source.insert(rule) {
            let family = if is_ipv4(rule) { "IPv4" } else { "IPv6" };
            let message = format!("two sources of {family}: {} and {written}", text(other));
            return Err(Fault::new(message, ONE_EACH));
        }
    }
    Ok(source)
}

fn rule(written: &str) -> Result<SourceRule, Fault> {
    let outcome = match written.parse::<IpNet>() {
        Ok(prefix) => entropy(prefix).map(SourceRule::Entropy),
        Err(_) => value::address(Raw::Text(written)).map(SourceRule::Fixed),
    };
    outcome.map_err(|fault| Fault::new(fault.message, ACCEPTED))
}

fn entropy(prefix: IpNet) -> Result<EntropyPrefix, Fault> {
    let fault = |message: String| Fault::new(message, ACCEPTED);
    if prefix.prefix_len() == 0 {
        return Err(fault("a prefix of all addresses".to_owned()));
    }
    let entropy = EntropyPrefix::new(prefix).map_err(|error| fault(error.to_string()))?;
    if prefix != prefix.trunc() {
        return Err(fault("a prefix with host bits set".to_owned()));
    }
    match value::why_unusable(prefix) {
        Some(why) => Err(fault(format!("a prefix that has {why}"))),
        None => Ok(entropy),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fixed(text: &str) -> SourceRule {
        SourceRule::Fixed(text.parse().unwrap())
    }

    fn prefix(text: &str) -> SourceRule {
        SourceRule::Entropy(EntropyPrefix::new(text.parse().unwrap()).unwrap())
    }

    fn list<'a>(texts: &[&'a str]) -> Raw<'a> {
        Raw::List(texts.iter().map(|text| Raw::Text(text)).collect())
    }

    #[test]
    fn single_sources() {
        for (text, expected) in [
            ("auto", SourceChoice::Auto),
            ("10.0.1.1", SourceChoice::One(fixed("10.0.1.1"))),
            ("172.16.0.0/16", SourceChoice::One(prefix("172.16.0.0/16"))),
            (
                "2001:db8:e::/64",
                SourceChoice::One(prefix("2001:db8:e::/64")),
            ),
            ("100::/64", SourceChoice::One(prefix("100::/64"))),
        ] {
            assert_eq!(read(Raw::Text(text)), Ok(expected), "{text}");
        }
    }

    #[test]
    fn one_for_each_family() {
        let source = |texts: &[&str]| match read(list(texts)) {
            Ok(SourceChoice::Each(source)) => source,
            other => panic!("{other:?}"),
        };
        assert_eq!(source(&[]), OuterSource::default());
        let both = source(&["2001:db8:e::/64", "10.0.1.1"]);
        let (v4, v6) = ([10, 0, 1, 11].into(), "2001:db8::11".parse().unwrap());
        assert_eq!(both.rule_for(v4), Some(fixed("10.0.1.1")));
        assert_eq!(both.rule_for(v6), Some(prefix("2001:db8:e::/64")));
        assert_eq!(both.entries(), ["10.0.1.1", "2001:db8:e::/64"]);
        let one = source(&["10.0.1.1"]);
        assert_eq!(one.rule_for(v6), None);
    }

    #[test]
    fn sources_that_are_not() {
        for (raw, expected) in [
            (Raw::Text("172.16.0.1/16"), "host bits"),
            (Raw::Text("10.0.1.1/32"), "no room for entropy"),
            (Raw::Text("2001:db8::1/128"), "no room for entropy"),
            (Raw::Text("0.0.0.0/0"), "all addresses"),
            (Raw::Text("::/0"), "all addresses"),
            (Raw::Text("224.0.0.0/8"), "multicast"),
            (Raw::Text("126.0.0.0/7"), "loopback"),
            (Raw::Text("8000::/1"), "link-local"),
            (Raw::Text("eth0"), "not an IPv4"),
            (Raw::Text("10.0.1.1:80"), "with a port"),
            (Raw::Whole(1), "wrong type (integer)"),
            (list(&["auto"]), "\"auto\": not an IPv4"),
            (list(&["10.0.1.1", "172.16.0.0/16"]), "two sources of IPv4"),
            (list(&["fd00::1", "fd00::2"]), "two sources of IPv6"),
            (list(&["172.16.0.1/16"]), "\"172.16.0.1/16\": a prefix with"),
            (Raw::List(vec![Raw::Whole(1)]), "wrong type (integer)"),
        ] {
            let fault = read(raw.clone()).unwrap_err();
            assert!(fault.message.contains(expected), "{raw:?}: {fault:?}");
        }
    }
}
