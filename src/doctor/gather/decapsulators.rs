//! Running `tunlb decap` processes of this network namespace, by their arguments.

use std::net::IpAddr;

use ipnet::IpNet;

use super::processes::{Process, Processes};
use crate::decap::DEFAULT_TUN;
use crate::doctor::facts::{Decapsulator, Encap, Observed};

/// All of them; unseen where there is one that may be of this namespace or of another.
pub(super) fn read(processes: &Processes) -> Observed<Vec<Decapsulator>> {
    let found = processes.tunlbs("decap");
    let hidden = |(process, _): &&(&Process, _)| process.namespace.is_none();
    if let Some((process, _)) = found.iter().find(hidden) {
        return Observed::Unseen(format!(
            "the network namespace of process {} (tunlb decap): needs CAP_SYS_PTRACE; run as root",
            process.pid
        ));
    }
    let read = |(process, arguments): &(&Process, Vec<String>)| {
        from_arguments(process.pid, arguments.get(2..).unwrap_or_default())
    };
    Observed::Seen(found.iter().map(read).collect())
}

/// Reads what follows the subcommand. The process took these arguments, so they are right; what
/// cannot be read here is of another version.
fn from_arguments(pid: u32, arguments: &[String]) -> Decapsulator {
    let mut decapsulator = Decapsulator {
        pid,
        device: DEFAULT_TUN.to_owned(),
        vips: Vec::new(),
        directors: Vec::new(),
        encap: Encap::Ipip,
        setup: arguments.iter().any(|argument| argument == "--setup"),
    };
    let mut words = arguments.iter().map(String::as_str);
    while let Some(word) = words.next() {
        match word.split_once('=') {
            Some((option, value)) => apply(&mut decapsulator, option, value),
            None if takes_value(word) => {
                apply(&mut decapsulator, word, words.next().unwrap_or_default());
            }
            None => {}
        }
    }
    decapsulator
}

fn takes_value(option: &str) -> bool {
    matches!(option, "--vip" | "--director" | "--gue" | "--tun")
}

fn apply(decapsulator: &mut Decapsulator, option: &str, value: &str) {
    match option {
        "--vip" => decapsulator.vips.extend(value.parse::<IpAddr>()),
        "--director" => decapsulator.directors.extend(net(value)),
        "--gue" => {
            if let Ok(port) = value.parse() {
                decapsulator.encap = Encap::Gue(port);
            }
        }
        "--tun" => value.clone_into(&mut decapsulator.device),
        _ => {}
    }
}

/// A network, or an address alone.
fn net(text: &str) -> Option<IpNet> {
    let address = || text.parse::<IpAddr>().map(IpNet::from);
    text.parse().or_else(|_| address()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(arguments: &str) -> Decapsulator {
        let words: Vec<_> = arguments.split(' ').map(str::to_owned).collect();
        from_arguments(7, &words)
    }

    #[test]
    fn arguments_in_both_forms() {
        let expected = Decapsulator {
            pid: 7,
            device: "tun9".into(),
            vips: vec![[10, 0, 0, 100].into(), [10, 0, 0, 101].into()],
            directors: vec![
                "10.0.1.0/24".parse().unwrap(),
                "10.0.2.1/32".parse().unwrap(),
            ],
            encap: Encap::Gue(6080),
            setup: true,
        };
        assert_eq!(
            read(
                "--setup --vip 10.0.0.100 --vip=10.0.0.101 --director 10.0.1.0/24 \
                 --director=10.0.2.1 --gue 6080 --tun=tun9"
            ),
            expected
        );
    }

    #[test]
    fn what_is_not_given_has_its_default() {
        let decapsulator = read("--vip 10.0.0.100 --new-option x --director");
        assert_eq!(decapsulator.device, "decap0");
        assert_eq!(decapsulator.encap, Encap::Ipip);
        assert_eq!(decapsulator.directors, []);
        assert!(!decapsulator.setup);
    }
}
