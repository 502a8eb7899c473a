//! How packets leave: what `auto` chooses, and that it follows what changes on the director's host.

use std::time::{Duration, Instant};

use crate::enter::in_lab;
use crate::lab::{Lab, wait_until};
use crate::site::{BACKENDS, Director, Site, URL, WEB};
use crate::wire::{Capture, Packet, census};

const B1: &str = "10.0.1.11";

/// A director for HTTP to b1.
fn run(site: &Site) -> Director {
    site.run(&["--vip", WEB, "--backend", B1])
}

/// How often a line was logged.
fn said(director: &Director, line: &str) -> usize {
    director.0.stderr().matches(line).count()
}

const DIRECT: &str = "1 backend (10.0.1.11) by AF_XDP socket";

#[test]
fn filters_are_not_passed_by() {
    in_lab(|lab| {
        let site = Site::new(lab);
        let mut director = run(&site);
        director.0.wait_for(DIRECT);
        assert_eq!(site.get(), "b1");
        // Rules that let the tunnel's packets pass keep nothing from leaving directly.
        site.director.sh("nft add table ip t
             nft add chain ip t out '{ type filter hook output priority 0; }'
             nft add rule ip t out tcp dport 25 drop");
        assert_eq!(site.get(), "b1");
        site.director
            .run("nft add rule ip t out ip protocol 4 counter drop");
        let filtered = "1 backend (10.0.1.11) by raw socket: so as not to pass by nft ip t out: ";
        director.0.wait_for(filtered);
        wait_until("a drop by the rule", || {
            site.client
                .sh(&format!("curl --silent --max-time 0.3 {URL} || true"));
            let rules = site.director.run("nft list chain ip t out");
            !rules.contains("counter packets 0")
        });
        assert_eq!(said(&director, filtered), 1);
        site.director.run("nft delete table ip t");
        wait_until("direct sending", || said(&director, DIRECT) == 2);
        assert_eq!(site.get(), "b1");
        // A shaper, and an IPsec policy.
        site.director
            .run("tc qdisc add dev eth0 root tbf rate 1gbit burst 1mb latency 50ms");
        director
            .0
            .wait_for("so as not to pass by queueing discipline tbf of eth0");
        assert_eq!(site.get(), "b1");
        site.director.run("tc qdisc del dev eth0 root");
        wait_until("direct sending", || said(&director, DIRECT) == 3);
        site.director
            .run("ip xfrm policy add dir out src 0.0.0.0/0 dst 10.9.9.0/24 action block");
        director.0.wait_for("so as not to pass by 1 IPsec policies");
        assert_eq!(site.get(), "b1");
        let totals = director.stop();
        assert!(totals.dropped["send_failed"] > 0, "{totals:?}");
    });
}

#[test]
fn a_backend_that_moves_is_served_at_once() {
    in_lab(|lab| {
        let site = Site::new(lab);
        let mut director = run(&site);
        director.0.wait_for(DIRECT);
        assert_eq!(site.get(), "b1");
        let b1 = &site.backends[0].node;
        b1.sh("ip link set eth0 down
             ip link set eth0 address 02:00:00:00:99:11
             ip link set eth0 up
             ip route add default via 10.0.1.1");
        site.router.run("ip neigh flush dev segment");
        let known = Instant::now();
        site.director
            .run("ip neigh replace 10.0.1.11 lladdr 02:00:00:00:99:11 dev eth0 nud reachable");
        wait_until("an answer", || {
            let curl = format!("curl --silent --max-time 0.2 {URL} || true");
            site.client.sh(&curl).trim() == "b1"
        });
        let took = known.elapsed();
        assert!(took < Duration::from_secs(1), "{took:?}");
        // The neighbour entry goes: by raw socket until the kernel has found it again, with no loss.
        site.director.run("ip neigh del 10.0.1.11 dev eth0");
        director
            .0
            .wait_for("by raw socket: no neighbour entry that holds for the next hop");
        assert_eq!(site.get(), "b1");
        wait_until("direct sending", || said(&director, DIRECT) >= 2);
        let totals = director.stop();
        assert_eq!(totals.dropped(), 0, "{totals:?}");
    });
}

/// A neighbour entry that an operator made stays what it is; any other one is confirmed before it goes stale.
#[test]
fn only_what_the_kernel_found_is_confirmed() {
    in_lab(|lab| {
        let site = Site::new(lab);
        let [b1, b2] = ["10.0.1.11", "10.0.1.12"];
        let entry = |address| {
            site.director
                .run(&format!("ip neigh show {address} dev eth0"))
        };
        for (address, state) in [(b1, "permanent"), (b2, "stale")] {
            let known = entry(address);
            let mac = known.split_whitespace().nth(2).unwrap();
            site.director.run(&format!(
                "ip neigh replace {address} lladdr {mac} dev eth0 nud {state}"
            ));
        }
        let director = site.run(&["--vip", WEB, "--backend", b1, "--backend", b2]);
        wait_until("the stale entry to be confirmed", || {
            entry(b2).contains("REACHABLE")
        });
        assert!(entry(b1).contains("PERMANENT"), "{}", entry(b1));
        director.stop();
    });
}

/// What each egress puts on the wire for the same packets, apart from what the kernel chooses.
#[test]
fn the_wire_is_the_same_by_every_egress() {
    in_lab(|lab| {
        let site = Site::new(lab);
        let wires =
            ["raw", "packet", "xsk", "auto"].map(|egress| (egress, wire(lab, &site, egress)));
        for (egress, packets) in &wires[1..] {
            assert_eq!(packets, &wires[0].1, "{egress}, raw");
        }
    });
}

/// The outer packets of UDP datagrams of all lengths at the backends.
fn wire(lab: &Lab, site: &Site, egress: &str) -> Vec<(Packet, u32)> {
    const SEND: &str = "import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(('10.0.9.2', 7000))
for length in range(0, 1400, 14):
    s.sendto(bytes([length % 256]) * length, ('10.0.0.100', 53))";
    const COUNT: u64 = 100;
    let file = lab.file(
        &format!("{egress}.toml"),
        format!(
            "[director]\negress = \"{egress}\"\n[[vip]]\naddress = \"10.0.0.100\"\nport = 53\nprotocol = \"udp\"\n\
             [[vip.backend]]\naddress = \"{B1}\"\n"
        ),
    );
    let director = site.run(&["-c", &file.display().to_string()]);
    let capture = Capture::start(&site.backends[0].node, "eth0");
    site.client.run_python(SEND, &[]);
    let tunnelled = |packet: &Packet| packet.protocol() == 4;
    let packets = capture.wait_for(COUNT, tunnelled);
    let totals = director.stop();
    assert_eq!((totals.sent().packets, totals.dropped()), (COUNT, 0));
    let comparable = packets.into_iter().map(|mut packet| {
        packet.0[4..6].fill(0); // the outer identification, and the inner one
        packet.0[10..12].fill(0);
        packet.0[24..26].fill(0);
        packet.0[30..32].fill(0);
        packet
    });
    census(comparable).into_iter().collect()
}

#[test]
fn more_workers_than_queues() {
    in_lab(|lab| {
        let site = Site::new(lab);
        let file = lab.file(
            "workers.toml",
            format!(
                "[director]\nworkers = 3\negress = \"xsk\"\n[[vip]]\naddress = \"10.0.0.100\"\nport = 80\n{}",
                BACKENDS.map(|(_, address)| format!("[[vip.backend]]\naddress = \"{address}\"\n")).concat()
            ),
        );
        let mut director = site.run(&["-c", &file.display().to_string()]);
        // A worker opens its sockets when its first packet comes.
        site.get_in_parallel(60, 20_000);
        director.0.wait_for("no AF_XDP socket on queue 2 of device");
        assert_eq!(said(&director, "no AF_XDP socket on queue 0"), 0);
        site.wait_until_read(site.sent_by_client());
        let totals = director.stop();
        assert_eq!(totals.dropped(), 0, "{totals:?}");
    });
}
