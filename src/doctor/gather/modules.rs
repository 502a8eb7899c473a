//! Which parts of the kernel are loaded, built in, or at hand as modules.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use crate::doctor::facts::ModuleState;

/// The modules that take outer headers off.
const DECAPSULATING: [&str; 5] = ["fou", "ip6_tunnel", "ipip", "sit", "tunnel4"];

/// The modules of the running kernel.
#[derive(Debug)]
pub(super) struct Modules {
    /// `/sys/module`, with a folder for each that is loaded, and for those built in that have parameters.
    loaded: PathBuf,
    /// Whether the kernel loads modules at all.
    loads: bool,
    /// Names from `modules.builtin`; `None` without the file.
    built_in: Option<BTreeSet<String>>,
    /// Names from `modules.dep`; `None` without the file.
    files: Option<BTreeSet<String>>,
}

impl Modules {
    /// Reads the lists of the running kernel, whose `uname -r` is `kernel`.
    pub(super) fn read(root: &Path, kernel: &str) -> Self {
        let folder = root.join("lib/modules").join(kernel);
        let names = |file| {
            fs::read_to_string(folder.join(file))
                .ok()
                .map(|text| names(&text))
        };
        Self {
            loaded: root.join("sys/module"),
            loads: root.join("proc/modules").exists(),
            built_in: names("modules.builtin"),
            files: names("modules.dep"),
        }
    }

    /// What is known of a module; `None` where nothing tells whether the kernel has it.
    pub(super) fn state(&self, name: &str) -> Option<ModuleState> {
        let lists = |list: &Option<BTreeSet<String>>| {
            let list = list.as_ref();
            list.map(|names| names.contains(name))
        };
        if self.loaded.join(name).exists() || lists(&self.built_in) == Some(true) {
            return Some(ModuleState::Loaded);
        }
        match lists(&self.files) {
            Some(true) => Some(ModuleState::Available),
            Some(false) if self.built_in.is_some() => Some(ModuleState::Absent),
            // A container shows no modules of the host, and a kernel that loads none needs no list.
            Some(false) | None => self.without_lists(name),
        }
    }

    /// Tunnel drivers have a parameter (`log_ecn_error`), so that they show even where built in.
    fn without_lists(&self, name: &str) -> Option<ModuleState> {
        let shows = matches!(name, "ipip" | "sit" | "ip6_tunnel");
        (shows && !self.loads).then_some(ModuleState::Absent)
    }

    /// The state of each that decapsulates, where it is known.
    pub(super) fn decapsulating(&self) -> BTreeMap<String, ModuleState> {
        let known = |name: &str| Some((name.to_owned(), self.state(name)?));
        DECAPSULATING.into_iter().filter_map(known).collect()
    }
}

/// The names of modules in lines such as `kernel/net/ipv4/ipip.ko.xz: kernel/…`.
pub(super) fn names(text: &str) -> BTreeSet<String> {
    let name = |line: &str| {
        let path = line.split(':').next()?;
        let file = path.rsplit('/').next()?;
        Some(file.split_once(".ko")?.0.replace('-', "_"))
    };
    text.lines().filter_map(name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn modules(files: &[(&str, &str)]) -> (tempfile::TempDir, Modules) {
        let root = tempfile::tempdir().unwrap();
        for (file, text) in files {
            let path = root.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let modules = Modules::read(root.path(), "6.1.0");
        (root, modules)
    }

    #[test]
    fn a_distribution_kernel() {
        let (_root, modules) = modules(&[
            ("proc/modules", ""),
            ("sys/module/sit/refcnt", "0"),
            (
                "lib/modules/6.1.0/modules.builtin",
                "kernel/net/ipv4/tunnel4.ko\n",
            ),
            (
                "lib/modules/6.1.0/modules.dep",
                "kernel/net/ipv4/ipip.ko.xz: kernel/net/ipv4/ip_tunnel.ko.xz\n\
                 kernel/net/ipv6/sit.ko:\nkernel/net/ipv6/ip6-tunnel.ko.zst:\n",
            ),
        ]);
        let expected = [
            ("fou", ModuleState::Absent),
            ("ip6_tunnel", ModuleState::Available),
            ("ipip", ModuleState::Available),
            ("sit", ModuleState::Loaded),
            ("tunnel4", ModuleState::Loaded),
        ];
        let expected = expected.map(|(name, state)| (name.to_owned(), state));
        assert_eq!(modules.decapsulating(), BTreeMap::from(expected));
    }

    #[test]
    fn a_kernel_without_modules_shows_what_has_parameters() {
        let (_root, modules) = modules(&[("sys/module/sit/parameters/log_ecn_error", "Y")]);
        assert_eq!(modules.state("sit"), Some(ModuleState::Loaded));
        assert_eq!(modules.state("ipip"), Some(ModuleState::Absent));
        assert_eq!(modules.state("fou"), None);
    }

    #[test]
    fn a_container_does_not_know() {
        let (_root, modules) = modules(&[("proc/modules", "")]);
        assert_eq!(modules.state("ipip"), None);
    }
}
