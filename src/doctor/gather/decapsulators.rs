//! Running `tunlb decap` processes of this network namespace, by their arguments.

use crate::decap::{Arguments, Encapsulation, Host};
use crate::doctor::facts::{Decapsulator, Encap, Observed};
use crate::io::processes::{Process, Processes};

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

fn from_arguments(pid: u32, arguments: &[String]) -> Decapsulator {
    let arguments = Arguments::read(arguments);
    Decapsulator {
        pid,
        device: arguments.tun,
        vips: arguments.vips,
        directors: arguments.directors,
        encap: match arguments.encapsulation {
            Encapsulation::Ipip => Encap::Ipip,
            Encapsulation::Gue(port) => Encap::Gue(port.get()),
        },
        setup: arguments.host == Host::SetUp,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_become_facts() {
        let arguments = "--setup --vip 10.0.0.100 --director=10.0.2.1 --gue 6080 --tun=tun9";
        let words: Vec<_> = arguments.split(' ').map(str::to_owned).collect();
        let expected = Decapsulator {
            pid: 7,
            device: "tun9".into(),
            vips: vec![[10, 0, 0, 100].into()],
            directors: vec!["10.0.2.1/32".parse().unwrap()],
            encap: Encap::Gue(6080),
            setup: true,
        };
        assert_eq!(from_arguments(7, &words), expected);
    }
}
