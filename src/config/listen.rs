//! Where a running director can be watched and changed: `director.api`, `director.api_group` and
//! `director.metrics`; and what its metrics hold: `[metrics]`.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

use super::problem::Fault;
use super::value::{self, Choice, Raw};
use crate::text::plain::is_plain;

/// Above so many backends, metrics of each one are to be asked for: about 14 series a backend.
pub const MAX_BACKENDS_WITH_METRICS: usize = 20_000;

/// The longest path of a unix socket in bytes (`sun_path` without its end, unix(7)).
const LONGEST_SOCKET_PATH: usize = 107;

/// `director.api`
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum ApiSocket {
    /// One for each network namespace: `api.sock` or `api-NAMESPACE.sock` in `/run/tunlb` or
    /// `$XDG_RUNTIME_DIR/tunlb`.
    #[default]
    Default,
    /// An absolute path of at most 107 bytes.
    At(PathBuf),
    /// There is none.
    Off,
}

impl fmt::Display for ApiSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("auto"),
            Self::At(path) => path.display().fmt(f),
            Self::Off => f.write_str("off"),
        }
    }
}

/// `director.api_group`: a group of this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Group {
    /// By the name in `/etc/group`.
    Name(String),
    /// By its number.
    Number(u32),
}

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Number(number) => number.fmt(f),
        }
    }
}

/// `director.metrics`
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MetricsListener(pub Option<SocketAddr>);

impl fmt::Display for MetricsListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(address) => address.fmt(f),
            None => f.write_str("off"),
        }
    }
}

/// `[metrics]`
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MetricsConfig {
    /// Whether each backend has metrics of its own; `None`: up to [`MAX_BACKENDS_WITH_METRICS`] backends.
    pub per_backend: Option<bool>,
    /// Names of other programs under which the same numbers are told, too.
    pub compat: Vec<Compat>,
}

/// A program whose metrics others' dashboards read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Compat {
    /// The collector "ipvs" of Prometheus' node_exporter.
    NodeIpvs,
}

impl fmt::Display for Compat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NodeIpvs => "node_ipvs",
        })
    }
}

impl Choice for Compat {
    const NAMES: &'static [(&'static str, Self)] = &[("node_ipvs", Self::NodeIpvs)];
}

pub(super) fn api(raw: Raw<'_>) -> Result<ApiSocket, Fault> {
    const ACCEPTED: &str = "an absolute path of at most 107 bytes such as \"/run/tunlb/api.sock\", \"auto\" or \"off\"";
    let path = match value::text(&raw, ACCEPTED)? {
        "auto" => return Ok(ApiSocket::Default),
        "off" => return Ok(ApiSocket::Off),
        path => path,
    };
    let message = match path {
        _ if !path.starts_with('/') => "not a path that begins with '/'",
        _ if path.ends_with('/') => "a folder, not a file in one",
        _ if path.len() > LONGEST_SOCKET_PATH => "longer than 107 bytes",
        _ if !is_plain(path) => "contains a control or other character that is not printable",
        _ => return Ok(ApiSocket::At(path.into())),
    };
    Err(Fault::new(message, ACCEPTED))
}

pub(super) fn group(raw: Raw<'_>) -> Result<Group, Fault> {
    const ACCEPTED: &str = "the name or number of a group such as \"adm\"";
    if let Raw::Whole(number) = raw {
        return u32::try_from(number)
            .ok()
            .filter(|number| *number < u32::MAX)
            .map(Group::Number)
            .ok_or_else(|| Fault::new("out of range", "a number from 0 to 4294967294"));
    }
    let name = value::text(&raw, ACCEPTED)?;
    let message = match name {
        "" => "empty",
        _ if name.bytes().all(|byte| byte.is_ascii_digit()) => {
            "a number in quotes; without them it is one"
        }
        _ if name.len() > 64 => "longer than 64 bytes",
        _ if name.contains([':', ',']) || name.contains(char::is_whitespace) || !is_plain(name) => {
            "contains what no name of a group has"
        }
        _ => return Ok(Group::Name(name.to_owned())),
    };
    Err(Fault::new(message, ACCEPTED))
}

pub(super) fn metrics(raw: Raw<'_>) -> Result<MetricsListener, Fault> {
    const ACCEPTED: &str =
        "an address and port such as \"127.0.0.1:9810\" or \"[::1]:9810\", or \"off\"";
    let text = value::text(&raw, ACCEPTED)?;
    if text == "off" {
        return Ok(MetricsListener(None));
    }
    let address: SocketAddr = text
        .parse()
        .map_err(|_| Fault::new("not an address and port", ACCEPTED))?;
    if address.port() == 0 {
        return Err(Fault::new("port 0 is none", ACCEPTED));
    }
    Ok(MetricsListener(Some(address)))
}

pub(super) fn compat(raw: Raw<'_>) -> Result<Vec<Compat>, Fault> {
    let accepted = || format!("an array of {}", Compat::accepted());
    let Raw::List(entries) = raw else {
        return Err(value::wrong_type(&raw, &accepted()));
    };
    let mut all = Vec::new();
    for entry in entries {
        let compat = value::choice(entry)?;
        if all.contains(&compat) {
            return Err(Fault::new(format!("{compat} is named twice"), accepted()));
        }
        all.push(compat);
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::super::{Config, Warning};
    use super::*;

    #[test]
    fn sockets_and_groups() {
        for (text, socket) in [
            ("auto", ApiSocket::Default),
            ("off", ApiSocket::Off),
            ("/run/a b.sock", ApiSocket::At("/run/a b.sock".into())),
        ] {
            assert_eq!(api(Raw::Text(text)), Ok(socket.clone()));
            assert_eq!(socket.to_string(), text);
        }
        let longest = format!("/{}", "x".repeat(106));
        assert!(api(Raw::Text(&longest)).is_ok());
        for (path, message) in [
            ("", "begins with"),
            ("api.sock", "begins with"),
            ("/run/", "a folder"),
            ("/run/\u{1b}", "not printable"),
            (&*format!("{longest}x"), "longer than 107 bytes"),
        ] {
            let fault = api(Raw::Text(path)).unwrap_err();
            assert!(fault.message.contains(message), "{path}: {fault:?}");
        }
        assert_eq!(group(Raw::Text("adm")), Ok(Group::Name("adm".into())));
        assert_eq!(group(Raw::Whole(4)), Ok(Group::Number(4)));
        for bad in ["", "4", "a:b", "a b", "a\n", &"x".repeat(65)] {
            assert!(group(Raw::Text(bad)).is_err(), "{bad:?}");
        }
        for number in [-1, i128::from(u32::MAX), i128::MAX] {
            assert!(group(Raw::Whole(number)).is_err(), "{number}");
        }
    }

    #[test]
    fn listeners() {
        for text in ["127.0.0.1:9810", "[::1]:9810", "[::]:1", "off"] {
            assert_eq!(
                metrics(Raw::Text(text)).map(|m| m.to_string()),
                Ok(text.to_owned())
            );
        }
        for bad in [
            "",
            "9810",
            "127.0.0.1",
            "::1:9810",
            "localhost:9810",
            "127.0.0.1:0",
        ] {
            assert!(metrics(Raw::Text(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_metrics_hold() {
        assert_eq!(value::boolean(Raw::Switch(false)), Ok(false));
        assert!(
            value::boolean(Raw::Text("true"))
                .unwrap_err()
                .message
                .contains("quotes")
        );
        assert!(value::boolean(Raw::Whole(1)).is_err());
        let name = || Raw::Text("node_ipvs");
        assert_eq!(compat(Raw::List(vec![name()])), Ok(vec![Compat::NodeIpvs]));
        assert_eq!(compat(Raw::List(vec![])), Ok(vec![]));
        for bad in [
            name(),
            Raw::List(vec![name(), name()]),
            Raw::List(vec![Raw::Text("x")]),
        ] {
            assert!(compat(bad).is_err());
        }
    }

    #[test]
    fn each_backend_has_metrics_unless_there_are_too_many() {
        let parse = |more: &str, backends: usize| {
            let backend = |n: usize| {
                let n = u32::try_from(n).unwrap();
                let address = std::net::Ipv4Addr::from_bits(0x0a01_0000 + n);
                format!("{{ address = \"{address}\" }},")
            };
            let backends: String = (1..=backends).map(backend).collect();
            let vip = format!("[[vip]]\naddress = \"192.0.2.1\"\nbackend = [{backends}]\n");
            let director = "[director]\nring_size = 65537\nmetrics = \"127.0.0.1:9810\"\n";
            Config::parse("f", &format!("{director}{more}\n{vip}")).unwrap()
        };
        let off = |config: &Config| {
            let is_that = |w: &Warning| matches!(w, Warning::NoBackendMetrics { .. });
            config.warnings().iter().any(is_that)
        };
        let few = parse("", MAX_BACKENDS_WITH_METRICS);
        assert!(few.has_backend_metrics() && !off(&few));
        let many = parse("", MAX_BACKENDS_WITH_METRICS + 1);
        assert!(!many.has_backend_metrics() && off(&many));
        let asked_for = parse(
            "[metrics]\nper_backend = true",
            MAX_BACKENDS_WITH_METRICS + 1,
        );
        assert!(asked_for.has_backend_metrics() && !off(&asked_for));
        let refused = parse("[metrics]\nper_backend = false", 1);
        assert!(!refused.has_backend_metrics() && !off(&refused));
    }
}
