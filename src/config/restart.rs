//! What separates two configurations and a running director cannot change.
//!
//! All else - VIPs, backends, tunnels, the hash key, rings, the flow table's bound and timeouts - is
//! in what a reload swaps.

use std::fmt;

use super::{Config, DirectorConfig, busy_poll_text};

/// A key whose new value takes effect only in a new process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestartNeeded {
    /// The key, such as `director.tun`.
    pub key: &'static str,
    /// The value that the running director has.
    pub old: String,
    /// The value that the new configuration asks for.
    pub new: String,
}

impl fmt::Display for RestartNeeded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, old, new } = self;
        write!(f, "{key}: {old} -> {new} needs a restart")
    }
}

impl Config {
    /// Why a director that runs this configuration cannot take over `new` while it runs: each key
    /// that differs and is fixed at start; empty where it can.
    #[must_use]
    pub fn restart_needed(&self, new: &Self) -> Vec<RestartNeeded> {
        let (old, new) = (&self.director, &new.director);
        [
            differs("director.tun", &old.tun, &new.tun),
            differs("director.workers", old.workers, new.workers),
            differs("director.cpus", &old.cpus, &new.cpus),
            differs("director.busy_poll", polls(old), polls(new)),
            differs("director.queue_length", old.queue_length, new.queue_length),
            differs("director.datapath", old.datapath, new.datapath),
            differs("director.interface", &old.interfaces, &new.interfaces),
            differs("director.xdp_mode", old.xdp_mode, new.xdp_mode),
            differs("director.egress", old.egress, new.egress),
            differs("director.api", &old.api, &new.api),
            differs("director.api_group", group(old), group(new)),
            differs("director.metrics", old.metrics, new.metrics),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}

fn group(director: &DirectorConfig) -> String {
    let group = director.api_group.as_ref();
    group.map_or_else(|| "none".to_owned(), ToString::to_string)
}

fn polls(director: &DirectorConfig) -> String {
    busy_poll_text(director.busy_poll)
}

fn differs<T: fmt::Display + PartialEq>(
    key: &'static str,
    old: T,
    new: T,
) -> Option<RestartNeeded> {
    (old != new).then(|| RestartNeeded {
        key,
        old: old.to_string(),
        new: new.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(director: &str, vip: &str) -> Config {
        let text = format!(
            "[director]\n{director}\n[[vip]]\n{vip}\nbackend = [{{ address = \"10.0.1.11\" }}]\n"
        );
        Config::parse("f", &text).unwrap()
    }

    fn texts(old: &Config, new: &Config) -> Vec<String> {
        let needed = old.restart_needed(new);
        needed.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_is_fixed_at_start() {
        let old = config("", "address = \"10.0.0.100\"");
        let new = config(
            "tun = \"tunlb1\"\nworkers = 2\ncpus = [3, 1]\nbusy_poll = \"50us\"\nqueue_length = 500\n\
             egress = \"raw\"\napi = \"/run/a.sock\"\napi_group = \"adm\"\nmetrics = \"[::1]:9810\"",
            "address = \"10.0.0.100\"",
        );
        assert_eq!(
            texts(&old, &new),
            [
                "director.tun: tunlb0 -> tunlb1 needs a restart",
                "director.workers: 1 -> 2 needs a restart",
                "director.cpus: [] -> [3, 1] needs a restart",
                "director.busy_poll: off -> 50us needs a restart",
                "director.queue_length: 4096 -> 500 needs a restart",
                "director.egress: auto -> raw needs a restart",
                "director.api: auto -> /run/a.sock needs a restart",
                "director.api_group: none -> adm needs a restart",
                "director.metrics: off -> [::1]:9810 needs a restart",
            ]
        );
        assert_eq!(texts(&old, &old), [] as [String; 0]);
    }

    #[test]
    fn what_a_reload_can_change() {
        let old = config("", "address = \"10.0.0.100\"");
        let new = config(
            "hash_key = \"00112233445566778899aabbccddeeff\"\nring_size = 251\nflows = 2048\n\
             neighbour = \"eth0\"\n\
             timeouts.udp = \"2m\"\nencap = { kind = \"gue\", source = \"10.0.0.2\", ttl = 3 }",
            "address = \"2001:db8::100\"\nnew_flows_per_second = 5",
        );
        assert_eq!(texts(&old, &new), [] as [String; 0]);
    }
}
