//! Another program changes what the tunnel needs, as udev, networkd and sysctl(8) do.

use std::thread;
use std::time::Duration;

use super::{pair, start, warnings};
use crate::enter::in_lab;
use crate::lab::{Node, wait_until};
use crate::leftovers::{assert_same, dump};
use crate::process::Signal;
use crate::site::{Site, succeeded};

/// What another program does on a backend, while clients are served.
const CHANGES: &[(&str, &str)] = &[
    (
        "udev, some 40 ms after the device was made",
        "echo 2 >/proc/sys/net/ipv4/conf/decap0/rp_filter",
    ),
    (
        "sysctl --system with strict source validation",
        "for device in all default decap0 eth0; do
             echo 1 >/proc/sys/net/ipv4/conf/$device/rp_filter
         done",
    ),
    (
        "only conf.all, afterwards",
        "echo 0 >/proc/sys/net/ipv4/conf/decap0/rp_filter
         echo 0 >/proc/sys/net/ipv4/conf/all/rp_filter
         echo 1 >/proc/sys/net/ipv4/conf/all/rp_filter",
    ),
    (
        "networkd takes away addresses that it does not know",
        "ip -4 addr flush dev decap0; ip addr del 10.0.0.100/32 dev lo",
    ),
    ("networkd takes its device down", "ip link set decap0 down"),
    (
        "all at once",
        "ip link set decap0 down; ip -4 addr flush dev decap0
         echo 2 >/proc/sys/net/ipv4/conf/decap0/rp_filter
         ip addr flush dev lo scope global",
    ),
];

#[test]
fn clients_are_served_whatever_others_set() {
    in_lab(|lab| {
        let site = Site::new(lab);
        let director = site.run(&["--vip", crate::site::WEB, "--backend", "10.0.1.11"]);
        let backend = &site.backends[0].node;
        assert_eq!(site.get(), "b1");
        for (who, change) in CHANGES {
            backend.sh(change);
            wait_until(&format!("{who}: all is right again"), || {
                let all = backend.sysctl("ipv4/conf/all/rp_filter");
                let own = backend.sysctl("ipv4/conf/decap0/rp_filter");
                backend
                    .run("ip -4 addr show dev decap0")
                    .contains("127.0.0.42/32")
                    && backend.run("ip addr show dev lo").contains("10.0.0.100/32")
                    && !backend.run("ip link show dev decap0 up").is_empty()
                    && (own == "2" || (own, all) == ("0".to_owned(), "0".to_owned()))
            });
            assert_eq!(site.get(), "b1", "{who}");
        }
        director.stop();
    });
}

/// Loose rp_filter loses no packet at any time, because the device had its address before.
#[test]
fn udev_is_not_even_noticed() {
    in_lab(|lab| {
        let (backend, _peer) = pair(lab);
        backend.set_sysctl("ipv4/conf/default/rp_filter", 2);
        let decap = start(&backend, &["--setup"]);
        backend.set_sysctl("ipv4/conf/decap0/rp_filter", 0);
        backend.set_sysctl("ipv4/conf/decap0/rp_filter", 2);
        let address = backend.run("ip -4 addr show dev decap0");
        assert!(address.contains("127.0.0.42/32"), "{address}");
        // A change that is set right shows that the one before was seen.
        backend.set_sysctl("ipv4/conf/decap0/rp_filter", 1);
        wait_for_value(&backend, "ipv4/conf/decap0/rp_filter", "0");
        let warnings = warnings(&decap);
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        assert!(
            warnings[0].contains("rp_filter of decap0 is 1"),
            "{warnings:?}"
        );
    });
}

/// The kernel tells nothing of ARP settings; they are looked at every few seconds.
#[test]
fn arp_and_devices_that_come_later() {
    in_lab(|lab| {
        let (backend, _peer) = pair(lab);
        let before = dump(&backend);
        let decap = start(&backend, &["--setup"]);
        backend.set_sysctl("ipv4/conf/eth0/arp_ignore", 0);
        backend.set_sysctl("ipv4/conf/eth0/arp_announce", 0);
        wait_for_value(&backend, "ipv4/conf/eth0/arp_ignore", "1");
        wait_for_value(&backend, "ipv4/conf/eth0/arp_announce", "2");
        backend.sh("ip link add eth1 type veth peer name eth1-peer");
        wait_for_value(&backend, "ipv4/conf/eth1/arp_ignore", "1");
        wait_for_value(&backend, "ipv4/conf/eth1/arp_announce", "2");
        backend.run("ip link del eth1");
        succeeded(decap.stop(Signal::Term));
        assert_same(&before, &dump(&backend), "set again and again");
    });
}

/// The kernel takes IPv6 off a device whose MTU is too small for it.
#[test]
fn ipv6_stays_on() {
    in_lab(|lab| {
        let (backend, _peer) = pair(lab);
        backend.set_sysctl("ipv6/conf/all/disable_ipv6", 0);
        backend.set_sysctl("ipv6/conf/default/disable_ipv6", 0);
        let decap = start(&backend, &["--vip", "2001:db8::100", "--setup"]);
        backend.run("ip link set decap0 mtu 1279");
        wait_until("the MTU", || backend.mtu("decap0") == 65_535);
        for device in ["decap0", "lo"] {
            let key = format!("ipv6/conf/{device}/disable_ipv6");
            backend.set_sysctl(&key, 1);
            wait_for_value(&backend, &key, "0");
        }
        wait_until("the VIP", || {
            backend
                .run("ip addr show dev lo")
                .contains("2001:db8::100/128")
        });
        succeeded(decap.stop(Signal::Term));
    });
}

/// What another program set in between is there in the end, not what was there before it.
#[test]
fn what_others_set_is_left_behind() {
    in_lab(|lab| {
        let (backend, _peer) = pair(lab);
        backend.run("ip tuntap add dev decap0 mode tun");
        let decap = start(&backend, &["--setup"]);
        for value in [1, 1, 1] {
            backend.set_sysctl("ipv4/conf/decap0/rp_filter", value);
            wait_for_value(&backend, "ipv4/conf/decap0/rp_filter", "0");
        }
        succeeded(decap.stop(Signal::Term));
        assert_eq!(backend.sysctl("ipv4/conf/decap0/rp_filter"), "1");
        let addresses = backend.run("ip -4 addr show dev decap0");
        assert!(!addresses.contains("127.0.0.42"), "{addresses}");
    });
}

/// Two programs that each set the same value are no loop: the second one does it less and less often.
#[test]
fn no_fight() {
    in_lab(|lab| {
        let (backend, _peer) = pair(lab);
        let decap = start(&backend, &["--setup"]);
        let mut others = backend.command("sh");
        others.args([
            "-c",
            "while echo 1 >/proc/sys/net/ipv4/conf/decap0/rp_filter; do sleep 0.01; done",
        ]);
        let others = backend.spawn("others", others);
        wait_until("a word about the other program", || {
            decap.stderr().contains("another program changes it back")
        });
        let so_far = warnings(&decap).len();
        assert!(so_far <= 4, "{:?}", warnings(&decap));
        thread::sleep(Duration::from_secs(2)); // how often it writes is what is tested
        let later = warnings(&decap).len() - so_far;
        assert!(later <= 2, "{:?}", warnings(&decap));
        drop(others);
        wait_for_value(&backend, "ipv4/conf/decap0/rp_filter", "0");
    });
}

#[test]
fn without_setup_the_line_of_a_shell_is_told() {
    in_lab(|lab| {
        let (backend, _peer) = pair(lab);
        backend.run("ip addr add 10.0.0.100/32 dev lo");
        backend.set_sysctl("ipv4/conf/eth0/arp_ignore", 1);
        backend.set_sysctl("ipv4/conf/eth0/arp_announce", 2);
        let decap = start(&backend, &[]);
        assert_eq!(warnings(&decap), [""; 0]);
        for (change, fault, fix) in [
            (
                "echo 2 >/proc/sys/net/ipv4/conf/decap0/rp_filter",
                "effective rp_filter of decap0 is 2",
                "sysctl -w net.ipv4.conf.decap0.rp_filter=0",
            ),
            (
                "echo 1 >/proc/sys/net/ipv4/conf/all/rp_filter",
                "decap0 has no address",
                "ip addr add 127.0.0.42/32 dev decap0",
            ),
            (
                "ip addr del 10.0.0.100/32 dev lo",
                "10.0.0.100 is no address of this machine",
                "ip addr add 10.0.0.100/32 dev lo",
            ),
            (
                "echo 0 >/proc/sys/net/ipv4/conf/eth0/arp_ignore",
                "eth0 answers ARP for the VIP",
                "sysctl -w net.ipv4.conf.eth0.arp_ignore=1",
            ),
        ] {
            let before = warnings(&decap).len();
            backend.sh(change);
            let mut new = Vec::new();
            wait_until(fault, || {
                new = warnings(&decap).split_off(before);
                new.iter().any(|line| line.contains(fault))
            });
            let line = new.iter().find(|line| line.contains(fault));
            assert!(line.is_some_and(|line| line.contains(fix)), "{new:?}");
            // What it says is right: the warning is taken back.
            backend.sh(fix);
            let gone = format!("no longer: {fault}");
            wait_until(&gone, || decap.stderr().contains(&gone));
        }
        assert_eq!(backend.sysctl("ipv4/conf/all/rp_filter"), "1");
        succeeded(decap.stop(Signal::Term));
    });
}

fn wait_for_value(node: &Node, key: &str, value: &str) {
    wait_until(&format!("{key}={value}"), || node.sysctl(key) == value);
}
