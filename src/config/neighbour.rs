//! `director.neighbour`: whether, and on which device, the director answers ARP and neighbour discovery for
//! VIPs of its own subnets.

use std::fmt;

use super::problem::Fault;
use super::value::{self, Raw};

/// For which VIPs of its own subnets a director answers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Neighbour {
    /// With `--setup` for all of them, each on the device of its subnet; otherwise for none, with a warning.
    #[default]
    Auto,
    /// Always, for those in a subnet of this device.
    Device(String),
    /// For none, without a word.
    Off,
}

impl fmt::Display for Neighbour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Device(name) => name,
            Self::Off => "off",
        })
    }
}

pub(super) fn read(raw: Raw<'_>) -> Result<Neighbour, Fault> {
    const ACCEPTED: &str = "\"auto\", \"off\" or the name of a device such as \"eth0\"";
    match value::text(&raw, ACCEPTED)? {
        "auto" => Ok(Neighbour::Auto),
        "off" => Ok(Neighbour::Off),
        _ => value::device(raw)
            .map(Neighbour::Device)
            .map_err(|fault| Fault::new(fault.message, ACCEPTED)),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Config, ConfigError};
    use super::*;

    #[test]
    fn modes_are_read_and_written() {
        for (text, mode) in [
            ("auto", Neighbour::Auto),
            ("off", Neighbour::Off),
            ("eth0.7", Neighbour::Device("eth0.7".to_owned())),
        ] {
            assert_eq!(read(Raw::Text(text)), Ok(mode.clone()));
            assert_eq!(mode.to_string(), text);
        }
        for (raw, message) in [
            (Raw::Text(""), "empty"),
            (Raw::Text("lo"), "a name with another meaning"),
            (
                Raw::Text("eth 0"),
                "contains whitespace, or a control or other character that is not printable",
            ),
            (Raw::Whole(1), "wrong type (integer)"),
        ] {
            let fault = read(raw).unwrap_err();
            assert_eq!(fault.message, message);
            assert!(
                fault
                    .accepted
                    .is_some_and(|accepted| accepted.contains("\"auto\""))
            );
        }
    }

    #[test]
    fn the_tun_is_no_device_of_clients() {
        let parse = |director: &str| {
            let vip = "[[vip]]\naddress = \"10.0.0.100\"\nbackend = [{ address = \"10.0.1.11\" }]";
            Config::parse("f", &format!("[director]\n{director}\n{vip}\n"))
        };
        let config = parse("neighbour = \"eth0\"").unwrap();
        let eth0 = Neighbour::Device("eth0".to_owned());
        assert_eq!(config.director.neighbour, eth0);
        assert_eq!(parse("").unwrap().director.neighbour, Neighbour::Auto);
        for director in ["neighbour = \"tunlb0\"", "tun = \"t\"\nneighbour = \"t\""] {
            let Err(ConfigError::Invalid(problems)) = parse(director) else {
                panic!("{director}");
            };
            let text = problems.first()[0].to_string();
            assert!(text.contains("director.neighbour = "), "{text}");
            assert!(text.contains("no client is behind it"), "{text}");
        }
    }
}
