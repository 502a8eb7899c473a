//! What this process may do: capabilities(7), and access to the TUN driver; with the mend in each error.

use std::{fmt, fs, io, path::Path};

const TUN_NODE: &str = "/dev/net/tun";

/// A capability that tunlb may make use of; the number is its bit (linux/capability.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Capability {
    /// Configure devices, routes and addresses; create TUN devices.
    NetAdmin = 12,
    /// Open raw sockets.
    NetRaw = 13,
    /// Look into processes of other users.
    SysPtrace = 19,
    /// Load BPF programs; since Linux 5.8, and only of the first user namespace.
    Bpf = 39,
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NetAdmin => "CAP_NET_ADMIN",
            Self::NetRaw => "CAP_NET_RAW",
            Self::SysPtrace => "CAP_SYS_PTRACE",
            Self::Bpf => "CAP_BPF",
        })
    }
}

/// Why the process cannot do its work.
#[derive(Debug, thiserror::Error)]
pub enum PrivilegeError {
    /// The status file could not be read or understood.
    #[error("read the capabilities of this process from /proc/self/status: {0}")]
    Status(io::Error),
    /// A capability is missing from the effective set.
    #[error(
        "missing {}; run as root, or grant: sudo setcap {}+ep {program}{}",
        join(.missing), to_grant(.missing), or_try(.missing)
    )]
    Missing {
        /// Those that are missing; never empty.
        missing: Vec<Capability>,
        /// Path of this program.
        program: String,
    },
    /// The TUN driver's device node is not there.
    #[error(
        "{TUN_NODE} does not exist; as root: modprobe tun, or where it is built in: \
         mkdir -p /dev/net && mknod -m 666 {TUN_NODE} c 10 200"
    )]
    NoTunNode,
    /// The device node is there but the driver is not.
    #[error("{TUN_NODE} has no driver behind it; as root: modprobe tun")]
    NoTunDriver,
    /// The device node may not be opened.
    #[error(
        "{TUN_NODE} may not be opened ({0}); as root: chmod 666 {TUN_NODE} \
         (udev's default mode; creating devices needs CAP_NET_ADMIN all the same); \
         in a container, allow the device c 10:200"
    )]
    TunNodeRefused(io::Error),
    /// Opening the device node failed otherwise.
    #[error("open {TUN_NODE}: {0}")]
    TunNode(io::Error),
}

/// Checks that the effective set holds all of `needed`.
///
/// # Errors
/// [`PrivilegeError::Missing`], which names every one that is missing; [`PrivilegeError::Status`].
pub fn require(needed: &[Capability]) -> Result<(), PrivilegeError> {
    let missing = missing(needed)?;
    if missing.is_empty() {
        return Ok(());
    }
    let program = std::env::current_exe().map_or_else(
        |_| "tunlb".to_owned(),
        |path| path.to_string_lossy().into_owned(),
    );
    Err(PrivilegeError::Missing { missing, program })
}

/// Those of `needed` that the effective set does not hold.
///
/// # Errors
/// [`PrivilegeError::Status`].
pub fn missing(needed: &[Capability]) -> Result<Vec<Capability>, PrivilegeError> {
    let status = fs::read_to_string("/proc/self/status").map_err(PrivilegeError::Status)?;
    let effective = effective_set(&status).ok_or_else(|| {
        PrivilegeError::Status(io::Error::new(io::ErrorKind::InvalidData, "no line CapEff"))
    })?;
    Ok(missing_from(effective, needed))
}

/// Checks that the TUN driver is there and may be opened.
///
/// # Errors
/// Any of the variants about the device node.
pub fn require_tun() -> Result<(), PrivilegeError> {
    check_node(Path::new(TUN_NODE))
}

fn check_node(path: &Path) -> Result<(), PrivilegeError> {
    // A node without a queue attached: opening and closing it has no effect.
    let Err(error) = fs::OpenOptions::new().read(true).write(true).open(path) else {
        return Ok(());
    };
    Err(match error.raw_os_error() {
        Some(libc::ENOENT | libc::ENOTDIR) => PrivilegeError::NoTunNode,
        Some(libc::ENODEV | libc::ENXIO) => PrivilegeError::NoTunDriver,
        Some(libc::EACCES | libc::EPERM) => PrivilegeError::TunNodeRefused(error),
        _ => PrivilegeError::TunNode(error),
    })
}

fn effective_set(status: &str) -> Option<u64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

fn missing_from(effective: u64, needed: &[Capability]) -> Vec<Capability> {
    let lacks = |capability: &Capability| effective & (1 << (*capability as u32)) == 0;
    needed.iter().copied().filter(lacks).collect()
}

/// What tunlb needs in any case, and of the rest what is missing.
fn to_grant(missing: &[Capability]) -> String {
    let always = [Capability::NetAdmin, Capability::NetRaw];
    let more = missing.iter().filter(|one| !always.contains(one));
    let all: Vec<_> = always
        .iter()
        .chain(more)
        .map(Capability::to_string)
        .collect();
    all.join(",").to_lowercase()
}

/// BPF is refused to the root of a user namespace.
fn or_try(missing: &[Capability]) -> &'static str {
    if missing.contains(&Capability::Bpf) {
        return "";
    }
    ", or try it in a namespace of your own: unshare -Urnm"
}

fn join(capabilities: &[Capability]) -> String {
    let names: Vec<_> = capabilities.iter().map(Capability::to_string).collect();
    names.join(" and ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOTH: [Capability; 2] = [Capability::NetAdmin, Capability::NetRaw];

    #[test]
    fn the_effective_set_is_read() {
        let status = "Name:\ttunlb\nCapPrm:\t000001ffffffffff\nCapEff:\t0000000000001000\n";
        assert_eq!(effective_set(status), Some(0x1000));
        assert_eq!(effective_set("CapEff:\tx\n"), None);
        assert_eq!(effective_set(""), None);
    }

    #[test]
    fn every_missing_one_is_named() {
        assert_eq!(missing_from(0x3000, &BOTH), []);
        assert_eq!(missing_from(0x1000, &BOTH), [Capability::NetRaw]);
        let error = PrivilegeError::Missing {
            missing: missing_from(0, &BOTH),
            program: "/usr/bin/tunlb".into(),
        };
        assert_eq!(
            error.to_string(),
            "missing CAP_NET_ADMIN and CAP_NET_RAW; run as root, or grant: \
             sudo setcap cap_net_admin,cap_net_raw+ep /usr/bin/tunlb, \
             or try it in a namespace of your own: unshare -Urnm"
        );
    }

    #[test]
    fn bpf_is_granted_beside_the_rest() {
        let error = PrivilegeError::Missing {
            missing: vec![Capability::Bpf],
            program: "tunlb".into(),
        };
        assert_eq!(
            error.to_string(),
            "missing CAP_BPF; run as root, or grant: sudo setcap cap_net_admin,cap_net_raw,cap_bpf+ep tunlb"
        );
    }

    #[test]
    fn a_missing_node_is_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let node = folder.path().join("tun");
        assert!(matches!(check_node(&node), Err(PrivilegeError::NoTunNode)));
        fs::write(&node, "").unwrap();
        assert!(check_node(&node).is_ok());
        assert!(matches!(
            check_node(folder.path()),
            Err(PrivilegeError::TunNode(_))
        ));
    }
}
