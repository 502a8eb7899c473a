//! Workers: one queue of the TUN and one thread each, how long the queue is, where they run, how they wait.

use std::fs;

use crate::enter::{in_lab, tunlb};
use crate::lab::wait_until;
use crate::reloading::{Reloading, vip};
use crate::site::{BACKENDS, Director, Site, VIP};

#[test]
fn two_workers_share_the_flows() {
    in_lab(|lab| {
        let site = Site::new(lab);
        let Reloading { director, .. } = Reloading::start(lab, &site, &config("workers = 2"));
        let mut before = Vec::new();
        wait_until("two worker threads", || {
            before = wakeups_of_workers(&director);
            before.len() == 2
        });
        let queues = &site.director.link("tunlb0")["linkinfo"]["info_data"]["numqueues"];
        assert_eq!(queues.as_u64(), Some(2), "queues of tunlb0");

        site.get_in_parallel(200, 20_000);
        let after = wakeups_of_workers(&director);
        assert!(
            before
                .iter()
                .zip(&after)
                .all(|(before, after)| *after > before + 10),
            "a worker saw no packets: how often each has slept, before {before:?}, after {after:?}"
        );
        let sent = site.sent_by_client();
        site.wait_until_read(sent);
        let totals = director.stop();
        assert_eq!(
            (totals.sent().packets, totals.dropped()),
            (sent, 0),
            "{totals:?}"
        );
        assert_eq!(totals.busy("web"), 3, "{totals:?}");
    });
}

/// The director's file, with more keys of its first section.
fn config(director: &str) -> String {
    let web = ["web", VIP, "80", "tcp", ""];
    let backends = BACKENDS.map(|(_, address)| (address, ""));
    format!("[director]\n{director}\n") + &vip(web, &backends)
}

/// A director that is stopped for a while finds as many packets as its queue holds, and no more.
#[test]
fn a_queue_holds_as_many_packets_as_configured() {
    in_lab(|lab| {
        let site = Site::new(lab);
        site.director.run("ip tuntap add dev tunlb0 mode tun");
        let length = || site.director.link("tunlb0")["txqlen"].as_u64();
        assert_eq!(length(), Some(500));
        let Reloading { director, .. } = Reloading::start(lab, &site, &config(""));
        assert_eq!(length(), Some(4096));
        let port = "import socket, sys\n\
                    s = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)\n\
                    packet = bytes.fromhex(sys.argv[1])\n\
                    for _ in range(5000): s.sendto(packet, (sys.argv[2], 0))\n";
        director.0.signal_named("STOP");
        let arrived = |name| site.director.device_counter("tunlb0", name);
        site.client.run_python(port, &[ACK, VIP]);
        wait_until("all packets at the TUN", || {
            arrived("tx_packets") + arrived("tx_dropped") >= 5000 || arrived("tx_dropped") >= 904
        });
        director.0.signal_named("CONT");
        site.wait_until_read(4096);
        let lost = arrived("tx_dropped");
        assert_eq!((arrived("tx_packets"), lost), (4096, 904));
        let totals = director.stop();
        assert_eq!(
            (totals.sent().packets, totals.dropped()),
            (4096, 0),
            "{totals:?}"
        );
        assert_eq!(length(), Some(500), "the operator's");
    });
}

/// 10.0.9.2:4000 to the VIP's port 80, of no connection, with a wrong checksum.
const ACK: &str =
    "4500002800000000400600000a0009020a0000640fa0005000000001000000015010020000000000";

#[test]
fn workers_run_on_their_cpus() {
    in_lab(|lab| {
        let site = Site::new(lab);
        let usable = cpus_of("/proc/self/status");
        let listed: Vec<_> = usable.iter().rev().take(2).collect();
        let lines = format!("workers = \"auto\"\ncpus = {listed:?}");
        let Reloading { director, .. } = Reloading::start(lab, &site, &config(&lines));
        let pinned = || {
            let threads = threads_of_workers(&director);
            threads.iter().map(|path| cpus_of(path)).collect::<Vec<_>>()
        };
        let mut expected: Vec<_> = listed.iter().map(|cpu| vec![**cpu]).collect();
        expected.sort_unstable();
        wait_until("pinned workers", || {
            let mut found = pinned();
            found.sort_unstable();
            found == expected
        });
        site.get_in_parallel(50, 20_000);
        assert_eq!(director.stop().dropped(), 0);
    });
}

#[test]
fn a_cpu_that_cannot_be_used_is_refused() {
    in_lab(|lab| {
        let site = Site::new(lab);
        let path = lab.file("tunlb.toml", config("cpus = [1023]"));
        for (arguments, code) in [(["run", "-c"], 2), (["check", "-c"], 1)] {
            let mut command = site.director.command(tunlb());
            command.args(arguments).arg(&path);
            let ended = site.director.spawn("refused", command).wait();
            assert_eq!(ended.status.code(), Some(code), "{}", ended.stderr);
            for word in ["director.cpus [1023]", "CPU 1023", "accepted: some of [0"] {
                assert!(ended.stderr.contains(word), "{}", ended.stderr);
            }
        }
        assert!(!site.director.has_device("tunlb0"));
    });
}

/// A worker that polls forwards, adopts what is published and stops, and sleeps when nothing comes.
#[test]
fn a_worker_that_polls_busily() {
    in_lab(|lab| {
        let site = Site::new(lab);
        let lines = "workers = 2\nbusy_poll = \"10ms\"\n";
        let mut director = Reloading::start(lab, &site, &config(lines));
        site.get_in_parallel(100, 20_000);
        director.accept(&config(lines).replacen("11\"", "11\"\nstate = \"disabled\"", 1));
        let answers = site.get_in_parallel(100, 21_000);
        assert!(answers.values().all(|name| name != "b1"), "{answers:?}");
        let states = || {
            let threads = threads_of_workers(&director.director);
            threads
                .iter()
                .map(|path| value_of(path, "State:"))
                .collect::<Vec<_>>()
        };
        wait_until("workers that sleep", || {
            states().iter().all(|state| state.starts_with('S'))
        });
        let sent = site.sent_by_client();
        site.wait_until_read(sent);
        let totals = director.director.stop();
        assert_eq!(
            (totals.sent().packets, totals.dropped()),
            (sent, 0),
            "{totals:?}"
        );
    });
}

/// The status of each worker's thread in /proc.
fn threads_of_workers(director: &Director) -> Vec<String> {
    let folder = format!("/proc/{}/task", director.0.id());
    let tasks = fs::read_dir(folder).expect("the director's threads");
    let statuses = tasks.map(|task| {
        let path = task.expect("a thread").path().join("status");
        path.display().to_string()
    });
    let is_worker = |path: &String| value_of(path, "Name:").starts_with("tunlb-worker");
    statuses.filter(is_worker).collect()
}

/// How often each worker of a director has gone to sleep, which it does when its queue is empty.
fn wakeups_of_workers(director: &Director) -> Vec<u64> {
    let threads = threads_of_workers(director);
    let slept = |path: &String| value_of(path, "voluntary_ctxt_switches:").parse();
    threads
        .iter()
        .map(|path| slept(path).expect("a count"))
        .collect()
}

/// A value in a status file of /proc.
fn value_of(path: &str, key: &str) -> String {
    let status = fs::read_to_string(path).expect("the state of a thread");
    let mut lines = status.lines();
    let value = lines.find_map(|line| line.strip_prefix(key));
    value.unwrap_or_default().trim().to_owned()
}

/// The CPUs that a thread may use.
fn cpus_of(status: &str) -> Vec<u16> {
    let number = |text: &str| text.parse::<u16>().expect("a CPU");
    let list = value_of(status, "Cpus_allowed_list:");
    let ranges = list.split(',').map(|range| match range.split_once('-') {
        Some((first, last)) => number(first)..=number(last),
        None => number(range)..=number(range),
    });
    ranges.flatten().collect()
}
