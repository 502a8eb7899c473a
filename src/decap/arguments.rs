//! The arguments of a running `tunlb decap`, as `/proc` shows them.
//!
//! The process took these arguments, so they are right; what cannot be read here is of another version.

use std::net::IpAddr;

use ipnet::IpNet;

use super::{
    DEFAULT_TUN, Encapsulation, Host,
    settings::{parse_gue, parse_network, parse_vip},
};

/// What a `tunlb decap` was started with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arguments {
    /// The VIPs it decapsulates for.
    pub vips: Vec<IpAddr>,
    /// The directors it takes packets from; empty: any.
    pub directors: Vec<IpNet>,
    /// What its tunnel packets look like.
    pub encapsulation: Encapsulation,
    /// Its TUN device, by the name that it was opened with.
    pub tun: String,
    /// Whether it sets what it needs.
    pub host: Host,
}

impl Arguments {
    /// Reads what follows the subcommand.
    #[must_use]
    pub fn read(words: &[String]) -> Self {
        let setup = words.iter().any(|word| word == "--setup");
        let mut arguments = Self {
            vips: Vec::new(),
            directors: Vec::new(),
            encapsulation: Encapsulation::Ipip,
            tun: DEFAULT_TUN.to_owned(),
            host: if setup { Host::SetUp } else { Host::Check },
        };
        let mut words = words.iter().map(String::as_str);
        while let Some(word) = words.next() {
            match word.split_once('=') {
                Some((option, value)) => arguments.apply(option, value),
                None if takes_value(word) => {
                    arguments.apply(word, words.next().unwrap_or_default());
                }
                None => {}
            }
        }
        arguments
    }

    fn apply(&mut self, option: &str, value: &str) {
        match option {
            "--vip" => self.vips.extend(parse_vip(value)),
            "--director" => self.directors.extend(parse_network(value)),
            "--gue" => {
                if let Ok(port) = parse_gue(value) {
                    self.encapsulation = Encapsulation::Gue(port);
                }
            }
            "--tun" => value.clone_into(&mut self.tun),
            _ => {}
        }
    }
}

fn takes_value(option: &str) -> bool {
    matches!(
        option,
        "--vip" | "--director" | "--gue" | "--tun" | "--workers" | "--xdp"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(arguments: &str) -> Arguments {
        let words: Vec<_> = arguments.split(' ').map(str::to_owned).collect();
        Arguments::read(&words)
    }

    #[test]
    fn arguments_in_both_forms() {
        let expected = Arguments {
            vips: vec![[10, 0, 0, 100].into(), [10, 0, 0, 101].into()],
            directors: vec![
                "10.0.1.0/24".parse().unwrap(),
                "10.0.2.1/32".parse().unwrap(),
            ],
            encapsulation: Encapsulation::Gue(6080.try_into().unwrap()),
            tun: "tun9".into(),
            host: Host::SetUp,
        };
        assert_eq!(
            read(
                "--setup --workers 2 --vip 10.0.0.100 --vip=10.0.0.101 --director 10.0.1.0/24 \
                 --director=10.0.2.1 --gue 6080 --tun=tun9"
            ),
            expected
        );
    }

    #[test]
    fn what_is_not_given_has_its_default() {
        let arguments = read("--vip 10.0.0.100 --new-option x --director");
        assert_eq!(arguments.tun, "decap0");
        assert_eq!(arguments.encapsulation, Encapsulation::Ipip);
        assert_eq!(arguments.directors, []);
        assert_eq!(arguments.host, Host::Check);
    }
}
