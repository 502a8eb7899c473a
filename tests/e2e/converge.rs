//! Others change the director's host while it runs: what is the VIPs' way is restored, what is a backend's way is
//! followed, and what cannot be mended by tunlb is said.

use crate::enter::in_lab;
use crate::lab::wait_until;
use crate::process::Signal;
use crate::site::{BACKENDS, Director, Site, URL, VIP};

/// A director that says each line once; `said` waits for one that was not there when it was made.
struct Watched {
    director: Director,
    read: usize,
}

impl Watched {
    fn start(site: &Site) -> Self {
        let director = site.run_http();
        Self { director, read: 0 }
    }

    /// Waits until the director says it, after what was waited for before.
    fn says(&mut self, words: &str) {
        let process = &mut self.director.0;
        let mut found = None;
        wait_until(&format!("the director to say {words:?}"), || {
            assert!(process.runs(), "the director ended: {}", process.stderr());
            found = process.stderr()[self.read..].find(words);
            found.is_some()
        });
        self.read += found.unwrap_or_default() + words.len();
    }
}

/// Whether a request through the VIP is answered at once.
fn is_served(site: &Site) -> bool {
    let curl = format!("curl --silent --output /dev/null --max-time 1 {URL} && echo yes || true");
    site.client.sh(&curl).contains("yes")
}

fn wait_until_served(site: &Site) {
    wait_until("an answer through the VIP", || is_served(site));
}

#[test]
fn a_vips_way_that_others_remove_is_restored() {
    in_lab(|lab| {
        let site = Site::new(lab);
        let mut director = Watched::start(&site);
        assert!(is_served(&site));

        site.director.run("ip route flush dev tunlb0");
        director
            .says("the route of vip 10.0.0.100 into tunlb0 had been removed, and is there again");
        wait_until_served(&site);

        site.director.run("ip link set tunlb0 down");
        director.says("tunlb0 had been set down, and is up again");
        wait_until_served(&site);
        site.director
            .sh("ip link set tunlb0 down; ip link set tunlb0 up");
        wait_until_served(&site);

        site.director.run("ip link set tunlb0 mtu 1300");
        director.says("tunlb0 had MTU 1300, and has 1500 again");

        let ended = director.director.0.stop(Signal::Term);
        assert!(ended.status.success(), "{ended:?}");
        let routes = site.director.run("ip route show table all");
        assert!(!routes.contains(VIP), "{routes}");
    });
}

#[test]
fn a_reload_restores_what_others_removed() {
    in_lab(|lab| {
        let site = Site::new(lab);
        let file = crate::reloading::vip(
            ["web", VIP, "80", "tcp", ""],
            &[(BACKENDS[0].1, ""), (BACKENDS[1].1, "")],
        );
        let mut director = crate::reloading::Reloading::start(lab, &site, &file);
        // Both in one go: whichever comes first, the route is there when the reload is answered.
        site.director.run("ip route flush dev tunlb0");
        director.accept(&file);
        let routes = site.director.run("ip route show dev tunlb0");
        assert!(routes.contains(VIP), "{routes}");
        assert!(is_served(&site));
    });
}

#[test]
fn the_way_to_a_backend_is_followed() {
    in_lab(|lab| {
        let site = Site::new(lab);
        let mut director = Watched::start(&site);
        site.director
            .run("ip route add 10.0.2.13/32 via 10.0.1.1 mtu 1400");
        director.says("backend 10.0.2.13: by eth0, MTU 1400");
        site.director.run("ip route del 10.0.2.13/32");
        director.says("backend 10.0.2.13: by eth0, MTU 1500");
        // Another address of its own, which the kernel prefers from now on.
        site.director
            .run("ip route change default via 10.0.1.1 src 10.0.1.2");
        site.director.sh(
            "ip addr add 10.0.1.3/24 dev eth0; ip route add 10.0.2.13/32 via 10.0.1.1 src 10.0.1.3",
        );
        director.says("outer source 10.0.1.3");
        wait_until_served(&site);
        // Into the TUN: said, and not followed.
        site.director
            .run("ip route replace 10.0.2.13/32 dev tunlb0");
        director.says("backend 10.0.2.13: its route leads into tunlb0");
        // By the two others: whatever goes to that one by raw socket comes back and is dropped.
        wait_until_served(&site);
        site.director
            .run("ip route replace 10.0.2.13/32 via 10.0.1.1");
        director.says("no problem any more");
    });
}

#[test]
fn what_keeps_packets_from_their_way_is_said() {
    in_lab(|lab| {
        let site = Site::new(lab);
        let mut director = Watched::start(&site);
        site.director.set_sysctl("ipv4/ip_forward", 0);
        director.says("net.ipv4.ip_forward is 0: packets of other hosts never reach the TUN");
        site.director.set_sysctl("ipv4/ip_forward", 1);
        director.says("net.ipv4.ip_forward: no problem any more");
        site.director.run(&format!("ip addr add {VIP}/32 dev lo"));
        director.says("10.0.0.100 is a local address of this host");
        site.director.run(&format!("ip addr del {VIP}/32 dev lo"));
        director.says("local_vip 10.0.0.100: no problem any more");
        wait_until_served(&site);
    });
}

/// What is no business of the director's changes nothing and is not said.
#[test]
fn other_changes_of_the_host_are_left_alone() {
    in_lab(|lab| {
        let site = Site::new(lab);
        let mut director = Watched::start(&site);
        director.says("forwarding");
        site.director.sh(
            "ip link add other type veth peer name rehto; ip link set other up; ip addr add 10.9.9.1/24 dev other; \
             ip route add 10.8.0.0/16 dev other; ip link del other",
        );
        // Something that is said, so that all before it has been seen.
        site.director.run("ip route flush dev tunlb0");
        director.says("had been removed");
        let log = director.director.0.stderr();
        let lines = log
            .lines()
            .filter(|line| line.contains("WARN") || line.contains("ERROR"));
        let lines: Vec<_> = lines
            .filter(|line| !line.contains("hash_key") && !line.contains("had been removed"))
            .collect();
        assert!(lines.is_empty(), "{lines:#?}");
    });
}
