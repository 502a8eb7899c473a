//! The TUN device is deleted, moved, renamed or taken down by another program.

use super::{assert_failed, pair, start, warnings};
use crate::enter::in_lab;
use crate::lab::wait_until;
use crate::leftovers::{assert_same, dump};
use crate::process::Signal;
use crate::site::{Site, WEB, succeeded};

#[test]
fn a_device_that_is_lost_ends_it() {
    in_lab(|lab| {
        let (backend, peer) = pair(lab);
        let before = dump(&backend);
        let there = peer.python(
            "print('there', flush=True); __import__('time').sleep(1000)",
            &[],
        );
        let there = peer.start("there", there, "there");
        let elsewhere = format!("ip link set decap0 netns {}", there.id());
        for (make, words) in [
            (
                "ip link del decap0",
                ["decap0", "was deleted", "start tunlb decap again"],
            ),
            (
                &elsewhere,
                ["decap0", "moved to another network namespace", "Restart="],
            ),
        ] {
            let decap = start(&backend, &["--setup"]);
            backend.sh(make);
            let ended = decap.wait();
            assert_failed(&ended, &words);
            assert!(ended.stderr.contains("received 0 injected 0"), "{ended:?}");
            assert_same(&before, &dump(&backend), make);
        }
        assert!(!peer.has_device("decap0"), "it went with its process");
    });
}

/// Under traffic the next write to the device fails, before or after the kernel's message comes.
#[test]
fn a_device_that_is_lost_under_traffic() {
    in_lab(|lab| {
        let site = Site::new(lab);
        let director = site.run(&["--vip", WEB, "--backend", "10.0.1.11"]);
        let mut flood = site.client.command("sh");
        flood.args(["-c", "while :; do curl -s -m 1 http://10.0.0.100/; done"]);
        let flood = site.client.spawn("flood", flood);
        let [first, ..] = site.backends;
        wait_until("traffic", || {
            first.node.device_counter("decap0", "rx_packets") > 20
        });
        first.node.run("ip link del decap0");
        assert_failed(&first.decap.wait(), &["decap0", "was deleted"]);
        drop(flood);
        drop(director);
    });
}

#[test]
fn a_device_that_is_down_is_brought_up() {
    in_lab(|lab| {
        let (backend, _peer) = pair(lab);
        for setup in [&["--setup"][..], &[]] {
            let decap = start(&backend, setup);
            backend.run("ip link set decap0 down");
            wait_until("decap0 to be up", || {
                !backend.run("ip link show dev decap0 up").is_empty()
            });
            let told = warnings(&decap);
            let told = told
                .iter()
                .any(|line| line.contains("decap0 was taken down"));
            assert!(told, "{}", decap.stderr());
            succeeded(decap.stop(Signal::Term));
        }
    });
}

/// Something does not want it up: that is for an operator to see.
#[test]
fn a_device_that_is_taken_down_time_after_time_ends_it() {
    in_lab(|lab| {
        let (backend, _peer) = pair(lab);
        let decap = start(&backend, &["--setup"]);
        let mut others = backend.command("sh");
        others.args(["-c", "while ip link set decap0 down; do sleep 0.05; done"]);
        let _others = backend.spawn("others", others);
        assert_failed(&decap.wait(), &["decap0", "was taken down", "times"]);
    });
}

#[test]
fn a_device_with_another_name_goes_on() {
    in_lab(|lab| {
        let site = Site::new(lab);
        let director = site.run(&["--vip", WEB, "--backend", "10.0.1.11"]);
        let backend = &site.backends[0];
        assert_eq!(site.get(), "b1");
        // A name that means something to a shell, and one with a dot.
        for (former, name) in [("decap0", "$(id)"), ("$(id)", "tun.7")] {
            let node = &backend.node;
            node.sh(&format!("ip link set '{former}' name '{name}'"));
            let key = format!("/proc/sys/net/ipv4/conf/{name}/rp_filter");
            node.sh(&format!("echo 1 >'{key}'"));
            wait_until("rp_filter under the new name", || {
                node.sh(&format!("cat '{key}'")).trim() == "0"
            });
            assert_eq!(site.get(), "b1");
        }
        director.stop();
    });
}
