//! Which packets a capture is asked for: `vip=NAME`, `drop=REASON`, `backend=ADDRESS`.

use std::net::IpAddr;

use crate::config::Config;
use crate::director::DropReason;
use crate::text::plain::plain;

/// What stands for every reason.
const ANY: &str = "any";

/// More values than this are counted in an error, not named.
const NAMED: usize = 12;

/// Characters of a term or a name that an error repeats.
const SHOWN: usize = 80;

/// Selects packets. Terms with one key are alternatives; every key that occurs must be satisfied.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    vips: Vec<WantedVip>,
    backends: Vec<IpAddr>,
    drops: Vec<DropReason>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct WantedVip {
    name: String,
    address: IpAddr,
}

/// Why a filter makes no sense for a configuration. Terms and names are printable and cut to a bound.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    /// No key, or one that there is not.
    #[error(
        "capture filter \"{term}\": not a filter; write vip=NAME, drop=REASON or backend=ADDRESS, \
         several separated by commas"
    )]
    Key {
        /// The term as given.
        term: String,
    },
    /// A value that would never match.
    #[error("capture filter \"{term}\": no such {what}; accepted: {accepted}")]
    Value {
        /// The term as given.
        term: String,
        /// What the value should name.
        what: &'static str,
        /// The values that could match; of many the first.
        accepted: String,
    },
}

/// What is known of where a packet was to go.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Destination<'a> {
    /// Where it was addressed to; `None` where its network header cannot be read.
    pub address: Option<IpAddr>,
    /// The VIP, where its port or its flow tells.
    pub vip: Option<&'a str>,
    /// The backend that was chosen.
    pub backend: Option<IpAddr>,
}

impl Filter {
    /// Reads terms such as `vip=web`; without any, every packet is selected.
    ///
    /// # Errors
    /// [`FilterError`] for the first term that names nothing in `config`.
    pub fn parse(terms: &[String], config: &Config) -> Result<Self, FilterError> {
        let mut filter = Self::default();
        for term in terms {
            match term.split_once('=') {
                Some(("vip", name)) => filter.vips.push(vip(term, name, config)?),
                Some(("backend", address)) => {
                    filter.backends.push(backend(term, address, config)?);
                }
                Some(("drop", ANY)) => filter.drops.extend(DropReason::ALL),
                Some(("drop", name)) => filter.drops.push(reason(term, name)?),
                _ => return Err(FilterError::Key { term: shown(term) }),
            }
        }
        Ok(filter)
    }

    /// Whether a packet is selected that was dropped for `drop`, or was not dropped.
    #[must_use]
    pub fn selects(&self, destination: &Destination<'_>, drop: Option<DropReason>) -> bool {
        let dropped = drop.is_some_and(|reason| self.drops.contains(&reason));
        (self.drops.is_empty() || dropped)
            && (self.vips.is_empty() || self.selects_vip(destination))
            && (self.backends.is_empty()
                || destination
                    .backend
                    .is_some_and(|backend| self.backends.contains(&backend)))
    }

    /// What has no VIP of its own (a fragment, an echo request, a port that nobody serves) is
    /// selected by the address.
    fn selects_vip(&self, destination: &Destination<'_>) -> bool {
        self.vips.iter().any(|wanted| match destination.vip {
            Some(name) => wanted.name == name,
            None => Some(wanted.address) == destination.address,
        })
    }
}

fn vip(term: &str, name: &str, config: &Config) -> Result<WantedVip, FilterError> {
    let found = config.vips.iter().find(|vip| vip.name == name);
    let found = found.map(|vip| WantedVip {
        name: name.to_owned(),
        address: vip.address,
    });
    found.ok_or_else(|| {
        let names = config.vips.iter().map(|vip| vip.name.as_str());
        no_such(term, "VIP", names)
    })
}

fn backend(term: &str, address: &str, config: &Config) -> Result<IpAddr, FilterError> {
    let all = config.vips.iter().flat_map(|vip| &vip.backends);
    let mut addresses: Vec<_> = all.map(|backend| backend.address).collect();
    addresses.sort_unstable();
    addresses.dedup();
    let wanted = address.parse().ok();
    wanted
        .filter(|address| addresses.contains(address))
        .ok_or_else(|| {
            let accepted: Vec<_> = addresses.iter().map(ToString::to_string).collect();
            no_such(term, "backend", accepted.iter().map(String::as_str))
        })
}

fn reason(term: &str, name: &str) -> Result<DropReason, FilterError> {
    let all = DropReason::ALL.into_iter().filter(is_seen);
    let found = all.clone().find(|reason| reason.name() == name);
    found.ok_or_else(|| {
        let names = [ANY].into_iter().chain(all.map(DropReason::name));
        no_such(term, "drop reason", names)
    })
}

/// A fragment that waits in vain was written when it came, as `hold`: it is gone when it is given
/// up.
fn is_seen(reason: &DropReason) -> bool {
    *reason != DropReason::FragmentTimeout
}

fn no_such<'a>(
    term: &str,
    what: &'static str,
    accepted: impl Iterator<Item = &'a str> + Clone,
) -> FilterError {
    let mut named: Vec<_> = accepted.clone().take(NAMED).map(shown).collect();
    let more = accepted.skip(NAMED).count();
    if more > 0 {
        named.push(format!("and {more} more"));
    }
    FilterError::Value {
        term: shown(term),
        what,
        accepted: named.join(", "),
    }
}

/// What an operator gave or configured, printable and of a bounded length.
fn shown(text: &str) -> String {
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => plain(&text[..end]) + "…",
        None => plain(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Flags;

    const WEB: &str = "10.0.0.100:80/tcp";

    fn config() -> Config {
        Config::from_flags(&Flags {
            encap: None,
            vips: vec![WEB.into(), "10.0.0.100:53/udp".into()],
            backends: vec!["10.0.1.11".into(), "10.0.1.12".into()],
            tun: None,
            workers: None,
        })
        .unwrap()
    }

    fn parse(text: &str) -> Result<Filter, FilterError> {
        let terms: Vec<_> = text.split_terminator(',').map(str::to_owned).collect();
        Filter::parse(&terms, &config())
    }

    #[test]
    fn terms_select() {
        let address = Some("10.0.0.100".parse().unwrap());
        let to = |vip, backend: Option<&str>| Destination {
            address,
            vip,
            backend: backend.map(|address| address.parse().unwrap()),
        };
        let web = to(Some(WEB), Some("10.0.1.11"));
        let dns = to(Some("10.0.0.100:53/udp"), Some("10.0.1.12"));
        let port_81 = to(None, None);
        let unreadable = Destination::default();
        let both = "backend=10.0.1.11,backend=10.0.1.12";
        let web_drops = "vip=10.0.0.100:80/tcp,drop=any";
        for (text, destination, drop, expected) in [
            ("", web, None, true),
            ("", unreadable, Some(DropReason::Malformed), true),
            ("vip=10.0.0.100:80/tcp", web, None, true),
            ("vip=10.0.0.100:80/tcp", dns, None, false),
            ("vip=10.0.0.100:80/tcp", port_81, None, true),
            (
                "vip=10.0.0.100:80/tcp",
                unreadable,
                Some(DropReason::Malformed),
                false,
            ),
            ("backend=10.0.1.11", web, None, true),
            ("backend=10.0.1.11", dns, None, false),
            ("backend=10.0.1.11", port_81, None, false),
            (both, dns, None, true),
            ("drop=any", web, None, false),
            ("drop=any", web, Some(DropReason::SendFailed), true),
            ("drop=no_vip", port_81, Some(DropReason::NoVip), true),
            ("drop=no_vip", web, Some(DropReason::NoBackend), false),
            (
                "drop=no_vip,drop=no_backend",
                web,
                Some(DropReason::NoBackend),
                true,
            ),
            (web_drops, web, Some(DropReason::NoBackend), true),
            (web_drops, dns, Some(DropReason::NoBackend), false),
            (web_drops, web, None, false),
        ] {
            let selected = parse(text).unwrap().selects(&destination, drop);
            assert_eq!(selected, expected, "{text}: {destination:?} {drop:?}");
        }
    }

    #[test]
    fn an_error_is_printable_and_short() {
        let hostile = format!("vip=\u{1b}[2J\u{202e}{}", "x".repeat(100_000));
        let message = parse(&hostile).unwrap_err().to_string();
        let start = "capture filter \"vip=\\u{1b}[2J\\u{202e}xxx";
        assert!(message.starts_with(start), "{message}");
        assert!(message.len() < 300, "{message}");
        let backends: Vec<_> = (1..=200).map(|last| format!("10.0.1.{last}")).collect();
        let many = Config::from_flags(&Flags {
            backends,
            encap: None,
            vips: vec![WEB.into()],
            tun: None,
            workers: None,
        })
        .unwrap();
        let error = Filter::parse(&["backend=10.0.2.1".into()], &many).unwrap_err();
        let message = error.to_string();
        assert!(message.ends_with("10.0.1.12, and 188 more"), "{message}");
    }

    #[test]
    fn a_term_that_names_nothing_is_refused() {
        for (text, message) in [
            (
                "web",
                "capture filter \"web\": not a filter; write vip=NAME, drop=REASON or \
                 backend=ADDRESS, several separated by commas",
            ),
            (
                "drop=any,port=80",
                "capture filter \"port=80\": not a filter; write vip=NAME, drop=REASON or \
                 backend=ADDRESS, several separated by commas",
            ),
            (
                "vip=web",
                "capture filter \"vip=web\": no such VIP; accepted: 10.0.0.100:80/tcp, \
                 10.0.0.100:53/udp",
            ),
            (
                "backend=10.0.1.13",
                "capture filter \"backend=10.0.1.13\": no such backend; accepted: 10.0.1.11, \
                 10.0.1.12",
            ),
        ] {
            assert_eq!(parse(text).unwrap_err().to_string(), message);
        }
        for name in ["fragment_timeout", "NO_VIP", ""] {
            let message = parse(&format!("drop={name}")).unwrap_err().to_string();
            let accepted = "accepted: any, malformed, no_vip, no_backend, unsupported_protocol, \
                            fragment_table_full, icmp_no_flow, too_big, rate_limited, send_failed, probe_reset";
            assert!(message.ends_with(accepted), "{message}");
        }
    }
}
