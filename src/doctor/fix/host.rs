//! What configures this machine's network at boot, and what the files in question hold.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// As far as files to be written depend on it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Host {
    /// systemd-networkd is in use.
    pub networkd: bool,
    /// By device the file from which networkd configures it.
    pub network_files: BTreeMap<String, String>,
    /// ifupdown is in use and reads `interfaces.d`.
    pub ifupdown: bool,
    /// What the files hold that may be written, by path; those that exist.
    pub files: BTreeMap<String, String>,
}

/// Folders whose files may be written.
const FOLDERS: [&str; 4] = [
    "/etc/sysctl.d",
    "/etc/modules-load.d",
    "/etc/systemd/network",
    "/etc/network/interfaces.d",
];

impl Host {
    /// Looks it up; `root` is `/`.
    #[must_use]
    pub fn read(root: &Path) -> Self {
        let networks = below(root, "/etc/systemd/network");
        let is_network = |path: &PathBuf| path.extension().is_some_and(|kind| kind == "network");
        // The folder /run/systemd/netif is there without networkd, its state is not.
        let running = at(root, "/run/systemd/netif/state").exists();
        let interfaces = fs::read_to_string(at(root, "/etc/network/interfaces"));
        Self {
            networkd: running || networks.iter().any(is_network),
            network_files: network_files(root),
            ifupdown: interfaces.is_ok_and(|text| text.contains("interfaces.d")),
            files: FOLDERS
                .iter()
                .flat_map(|folder| contents(root, folder))
                .collect(),
        }
    }
}

fn at(root: &Path, path: &str) -> PathBuf {
    root.join(path.trim_start_matches('/'))
}

fn below(root: &Path, folder: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(at(root, folder)).into_iter().flatten();
    entries.flatten().map(|entry| entry.path()).collect()
}

/// The files of a folder and of the drop-in folders in it, by their path from the root.
fn contents(root: &Path, folder: &str) -> Vec<(String, String)> {
    let mut files = Vec::new();
    for path in below(root, folder) {
        let Some(name) = path.file_name().map(|name| name.to_string_lossy()) else {
            continue;
        };
        let name = format!("{folder}/{name}");
        if path.is_dir() && name.ends_with(".network.d") {
            files.extend(contents(root, &name));
        } else if let Ok(text) = fs::read_to_string(&path) {
            files.push((name, text));
        }
    }
    files
}

/// networkd tells by the index of a device from which file it configures it.
fn network_files(root: &Path) -> BTreeMap<String, String> {
    let devices = below(root, "/sys/class/net");
    let file = |device: PathBuf| {
        let name = device.file_name()?.to_string_lossy().into_owned();
        let index = fs::read_to_string(device.join("ifindex")).ok()?;
        let state = format!("/run/systemd/netif/links/{}", index.trim());
        let state = fs::read_to_string(at(root, &state)).ok()?;
        let mut lines = state.lines();
        let file = lines.find_map(|line| line.strip_prefix("NETWORK_FILE="))?;
        Some((name, file.to_owned()))
    };
    devices.into_iter().filter_map(file).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (file, text) in files {
            let path = at(root.path(), file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    #[test]
    fn a_machine_of_networkd() {
        let root = root(&[
            ("/sys/class/net/eth0/ifindex", "2\n"),
            ("/sys/class/net/lo/ifindex", "1\n"),
            ("/run/systemd/netif/state", "OPER_STATE=routable\n"),
            (
                "/run/systemd/netif/links/2",
                "ADMIN_STATE=configured\nNETWORK_FILE=/run/systemd/network/10-netplan-eth0.network\n",
            ),
            ("/run/systemd/netif/links/1", "ADMIN_STATE=unmanaged\n"),
            ("/etc/systemd/network/a.network.d/tunlb.conf", "[Network]\n"),
        ]);
        let files = [(
            "/etc/systemd/network/a.network.d/tunlb.conf".to_owned(),
            "[Network]\n".to_owned(),
        )];
        let expected = Host {
            networkd: true,
            network_files: BTreeMap::from([(
                "eth0".to_owned(),
                "/run/systemd/network/10-netplan-eth0.network".to_owned(),
            )]),
            ifupdown: false,
            files: BTreeMap::from(files),
        };
        assert_eq!(Host::read(root.path()), expected);
    }

    #[test]
    fn a_machine_of_ifupdown() {
        let root = root(&[
            ("/run/systemd/netif/links/1", ""),
            (
                "/etc/network/interfaces",
                "source /etc/network/interfaces.d/*\n",
            ),
            ("/etc/sysctl.d/99-tunlb.conf", "a = 1\n"),
        ]);
        let host = Host::read(root.path());
        assert_eq!((host.networkd, host.ifupdown), (false, true));
        assert_eq!(host.files["/etc/sysctl.d/99-tunlb.conf"], "a = 1\n");
    }
}
