//! Running `tunlb decap` processes of this network namespace, by their arguments and open devices.

use std::fs;
use std::path::Path;

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
        let named = from_arguments(process.pid, arguments.get(2..).unwrap_or_default());
        let named = Decapsulator {
            stopped: processes.is_stopped(process.pid),
            ..named
        };
        match device_of(&processes.folder(process.pid)) {
            Some(device) if device.is_empty() => Decapsulator {
                device_gone: true,
                ..named
            },
            Some(device) => Decapsulator { device, ..named },
            None => named,
        }
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
        stopped: false,
        device_gone: false,
    }
}

/// The TUN device that a process has open, by its present name (`tun_chr_show_fdinfo`,
/// linux/drivers/net/tun.c), which is empty once the device was deleted; `None` where that may not be seen.
fn device_of(folder: &Path) -> Option<String> {
    let entries = fs::read_dir(folder.join("fd")).ok()?.flatten();
    let mut tuns = entries.filter(|entry| {
        let target = fs::read_link(entry.path());
        target.is_ok_and(|target| target.ends_with("net/tun"))
    });
    let number = tuns.next()?.file_name();
    let text = fs::read_to_string(folder.join("fdinfo").join(number)).ok()?;
    let name = text.lines().find_map(|line| line.strip_prefix("iff:"))?;
    Some(name.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_device_by_its_present_name() {
        let folder = tempfile::tempdir().unwrap();
        for sub in ["fd", "fdinfo"] {
            fs::create_dir(folder.path().join(sub)).unwrap();
        }
        symlink("socket:[7]", folder.path().join("fd/3")).unwrap();
        assert_eq!(device_of(folder.path()), None);
        symlink("/dev/net/tun", folder.path().join("fd/4")).unwrap();
        assert_eq!(device_of(folder.path()), None);
        let info = "pos:\t0\nflags:\t0104002\nmnt_id:\t25\niff:\ttun77\n";
        fs::write(folder.path().join("fdinfo/4"), info).unwrap();
        assert_eq!(device_of(folder.path()).as_deref(), Some("tun77"));
    }

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
            stopped: false,
            device_gone: false,
        };
        assert_eq!(from_arguments(7, &words), expected);
    }
}
