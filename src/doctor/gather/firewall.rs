//! The packet filters' rules, as their own tools print them. Looking loads no module and creates no
//! table: each tool runs only where the kernel has such rules already.

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::thread;

use super::DEADLINE;
use super::modules::Modules;
use crate::doctor::facts::{FirewallFacts, ModuleState, Observed};
use crate::doctor::firewall::Clock;
use crate::io::capability::{self, Capability};
use crate::io::command::{self, CommandError};

/// The two programs of each implementation, and how the kernel names the tables of legacy ones.
const PROGRAMS: [(&str, &str); 2] = [
    ("iptables", "/proc/net/ip_tables_names"),
    ("ip6tables", "/proc/net/ip6_tables_names"),
];

/// The rules of this network namespace.
pub(super) fn read(modules: &Modules) -> FirewallFacts {
    let nft = nft(modules);
    let iptables = iptables(&nft);
    FirewallFacts {
        ipsets: ipsets(&iptables),
        recent: recent(&iptables, Path::new("/proc/net/xt_recent")),
        clock: clock(&nft, &iptables),
        cpus: thread::available_parallelism()
            .ok()
            .and_then(|cpus| u32::try_from(cpus.get()).ok()),
        queues: queues(Path::new("/proc/net/netfilter/nfnetlink_queue")),
        iptables,
        nft_chains: chains(&nft),
        nft,
        conntrack: conntrack(Path::new("/proc/sys/net/netfilter/nf_conntrack_count")),
    }
}

/// The sets that rules of iptables ask for.
fn ipsets(iptables: &BTreeMap<String, Observed<String>>) -> Option<String> {
    any(iptables, "--match-set").then(|| run("ipset", &["save"]).ok())?
}

/// A file for each list, a line for each address: `src=10.0.0.1 ttl: 63 last_seen: …`.
fn recent(
    iptables: &BTreeMap<String, Observed<String>>,
    folder: &Path,
) -> BTreeMap<String, Vec<IpAddr>> {
    if !any(iptables, "-m recent") {
        return BTreeMap::new();
    }
    let files = fs::read_dir(folder).into_iter().flatten().flatten();
    let list = |file: fs::DirEntry| {
        let text = fs::read_to_string(file.path()).ok()?;
        let address = |line: &str| {
            line.strip_prefix("src=")?
                .split_whitespace()
                .next()?
                .parse()
                .ok()
        };
        let addresses = text.lines().filter_map(address).collect();
        Some((file.file_name().to_str()?.to_owned(), addresses))
    };
    files.filter_map(list).collect()
}

/// The time, where rules ask for it.
fn clock(nft: &Observed<String>, iptables: &BTreeMap<String, Observed<String>>) -> Option<Clock> {
    let keys = ["\"hour\"", "\"day\"", "\"time\""];
    let by_nft = nft
        .seen()
        .is_some_and(|text| keys.iter().any(|key| text.contains(key)));
    if !by_nft && !any(iptables, "-m time") {
        return None;
    }
    let text = command::output("date", &["+%s%z"], DEADLINE).ok()?;
    Clock::parse(&text)
}

fn any(iptables: &BTreeMap<String, Observed<String>>, words: &str) -> bool {
    let mut texts = iptables.values().filter_map(Observed::seen);
    texts.any(|text| text.contains(words))
}

/// The first column is the queue's number; where the kernel has no queues, no program reads one.
fn queues(path: &Path) -> Option<Vec<u16>> {
    match fs::read_to_string(path) {
        Ok(text) => {
            let lines = text.lines();
            let numbers = lines.filter_map(|line| line.split_whitespace().next()?.parse().ok());
            Some(numbers.collect())
        }
        Err(error) => (error.kind() == std::io::ErrorKind::NotFound).then(Vec::new),
    }
}

/// The heads of all chains, where some are of devices.
fn chains(nft: &Observed<String>) -> Option<String> {
    let text = nft.seen()?;
    let has_devices = ["\"ingress\"", "\"egress\""]
        .iter()
        .any(|hook| text.contains(hook));
    has_devices.then(|| run("nft", &["list", "chains"]).ok())?
}

fn nft(modules: &Modules) -> Observed<String> {
    if !may_have_nftables(modules) {
        return Observed::Seen(String::new());
    }
    match run("nft", &["--json", "list", "ruleset"]) {
        Err(error) if error.contains("Protocol not supported") => Observed::Seen(String::new()),
        result => result.into(),
    }
}

/// The module is there as soon as there is a table; `nft` itself would load it.
pub(super) fn may_have_nftables(modules: &Modules) -> bool {
    !matches!(
        modules.state("nf_tables"),
        Some(ModuleState::Available | ModuleState::Absent)
    )
}

/// What iptables keeps in nftables is there in its own words, too.
fn iptables(nft: &Observed<String>) -> BTreeMap<String, Observed<String>> {
    let has_tables = nft.seen().is_none_or(|text| text.contains("\"table\""));
    let mut saves = BTreeMap::new();
    for (family, tables) in PROGRAMS {
        if has_tables {
            let program = save_program(family, Variant::Nft);
            saves.extend(program.map(|(key, program)| (key, run(&program, &["-c"]).into())));
        }
        saves.extend(legacy(family, Path::new(tables)));
    }
    saves
}

/// The rules of the older implementation. Its program creates the tables that it asks for, so the
/// kernel is asked first which there are.
fn legacy(family: &str, tables: &Path) -> Option<(String, Observed<String>)> {
    let key = format!("{family}-legacy-save");
    let names = match fs::read_to_string(tables) {
        Ok(names) => names,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
        Err(error) => {
            let reason = format!("read {}: {error}; run as root", tables.display());
            return Some((key, Observed::Unseen(reason)));
        }
    };
    if names.trim().is_empty() {
        return None;
    }
    let Some((key, program)) = save_program(family, Variant::Legacy) else {
        let tables: Vec<_> = names.split_whitespace().collect();
        let reason = format!(
            "{key} is not installed, and the kernel has legacy tables: {}",
            tables.join(", ")
        );
        return Some((key, Observed::Unseen(reason)));
    };
    Some((key, run(&program, &["-c"]).into()))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Variant {
    Nft,
    Legacy,
}

/// The variant's name in full, and the program to run for it: `iptables-save` alone is one of the two.
fn save_program(family: &str, variant: Variant) -> Option<(String, String)> {
    let infix = match variant {
        Variant::Nft => "nft",
        Variant::Legacy => "legacy",
    };
    let full = format!("{family}-{infix}-save");
    if command::find(&full).is_some() {
        return Some((full.clone(), full));
    }
    let plain = format!("{family}-save");
    let version = command::output(&plain, &["-V"], DEADLINE).ok()?;
    (variant_of(&version) == variant).then_some((full, plain))
}

/// `iptables-save v1.8.9 (nf_tables)`; versions before 1.8 name no variant and are legacy.
fn variant_of(version: &str) -> Variant {
    if version.contains("nf_tables") {
        Variant::Nft
    } else {
        Variant::Legacy
    }
}

/// A tool's output, or why there is none.
fn run(program: &str, arguments: &[&str]) -> Result<String, String> {
    let missing = capability::missing(&[Capability::NetAdmin]).unwrap_or_default();
    if !missing.is_empty() && command::find(program).is_some() {
        return Err(format!("{program} needs CAP_NET_ADMIN; run as root"));
    }
    command::output(program, arguments, DEADLINE).map_err(|error: CommandError| error.to_string())
}

/// A missing file means that conntrack is not loaded.
fn conntrack(file: &Path) -> Observed<Option<u64>> {
    match fs::read_to_string(file) {
        Ok(text) => text.trim().parse().map(Some).into(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Observed::Seen(None),
        Err(error) => Observed::Unseen(format!("read {}: {error}", file.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_variant_is_told_by_the_version() {
        for (version, variant) in [
            ("iptables-save v1.8.9 (nf_tables)\n", Variant::Nft),
            ("iptables-save v1.8.9 (legacy)\n", Variant::Legacy),
            ("iptables-save v1.6.1\n", Variant::Legacy),
        ] {
            assert_eq!(variant_of(version), variant, "{version}");
        }
    }

    #[test]
    fn legacy_tables_decide_whether_the_program_runs() {
        let folder = tempfile::tempdir().unwrap();
        let tables = folder.path().join("ip_tables_names");
        assert_eq!(legacy("iptables", &tables), None);
        fs::write(&tables, "\n").unwrap();
        assert_eq!(legacy("iptables", &tables), None);
        fs::write(&tables, "filter\nnat\n").unwrap();
        let expected = Observed::Unseen(
            "no-such-legacy-save is not installed, and the kernel has legacy tables: filter, nat"
                .to_owned(),
        );
        assert_eq!(
            legacy("no-such", &tables),
            Some(("no-such-legacy-save".to_owned(), expected))
        );
    }

    #[test]
    fn conntrack_counts_where_it_is_loaded() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("nf_conntrack_count");
        assert_eq!(conntrack(&file), Observed::Seen(None));
        fs::write(&file, "17\n").unwrap();
        assert_eq!(conntrack(&file), Observed::Seen(Some(17)));
    }
}
