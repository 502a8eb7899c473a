//! `datapath = "xsk"`: packets for VIPs come from the driver into the director; the rest by the TUN, as ever.
//! Needs root of the first user namespace, as BPF does.

use std::path::PathBuf;

use crate::enter::in_lab;
use crate::lab::{Lab, Node, wait_until};
use crate::process::Signal;
use crate::site::{BACKENDS, Director, Site, VIP};
use crate::totals::Totals;
use crate::traffic::{UDP_ASK, echo_datagrams, noise, upload};
use crate::wire::Capture;

/// A configuration for HTTP and DNS to all backends.
fn file(lab: &Lab, director: &str, ports: &[u16]) -> PathBuf {
    let backends: Vec<_> = BACKENDS
        .iter()
        .map(|(_, address)| format!("{{ address = \"{address}\" }}"))
        .collect();
    let backends = backends.join(", ");
    let mut text = format!(
        "[director]\ndatapath = \"xsk\"\ninterface = \"eth0\"\n{director}\n[[vip]]\nname = \"dns\"\n\
         address = \"{VIP}\"\nport = 53\nprotocol = \"udp\"\nbackend = [{backends}]\n"
    );
    for port in ports {
        text += &format!(
            "[[vip]]\nname = \"web{port}\"\naddress = \"{VIP}\"\nport = {port}\nbackend = [{backends}]\n"
        );
    }
    lab.file("tunlb.toml", text)
}

fn run(site: &Site, file: &std::path::Path) -> Director {
    site.run(&["-c", file.to_str().expect("a path")])
}

/// Where an XDP program of the device runs: 1 native, 2 generic.
fn program(node: &Node, device: &str) -> Option<u64> {
    node.link(device).get("xdp")?.get("mode")?.as_u64()
}

/// Packets that came by the TUN.
fn by_tun(site: &Site) -> u64 {
    site.director.device_counter("tunlb0", "tx_packets")
}

fn forwarded(totals: &Totals) -> u64 {
    totals.sent().packets
}

#[test]
fn packets_come_from_the_driver() {
    in_lab(|lab| {
        let site = Site::new(lab);
        let offloads = site.client.run("ethtool -k eth0");
        assert!(offloads.contains("tx-checksumming: on"), "{offloads}");
        let director = run(&site, &file(lab, "", &[80]));
        assert_eq!(program(&site.director, "eth0"), Some(1), "native");
        let log = director.0.stderr();
        assert!(
            log.contains("interface eth0: packets for VIPs by AF_XDP sockets, in native mode"),
            "{log}"
        );
        let (expected, path) = noise(lab, 20_000_000);
        assert_eq!(upload(&site, &path), expected);
        let at_backends = site
            .backends
            .each_ref()
            .map(|backend| Capture::start(&backend.node, "decap0"));
        site.get_in_parallel(30, 20_000);
        site.sent_by_client();
        let tun = by_tun(&site);
        let totals = director.stop();
        assert_eq!(totals.busy("web80"), 3, "{totals:?}");
        // Neighbour discovery and the like are not there; single packets may be.
        assert!(tun < 10, "{tun} packets by the TUN: {totals:?}");
        assert!(forwarded(&totals) > 5000, "{totals:?}");
        for capture in at_backends {
            let delivered = capture.wait_for(10, |packet| packet.destination() == [10, 0, 0, 100]);
            for packet in delivered {
                assert!(packet.has_right_tcp_checksum(), "TCP checksum: {packet:?}");
                // 64, less one for the router; the director's kernel has not seen it.
                assert_eq!(packet.time_to_live(), 63, "{packet:?}");
            }
        }
        assert_eq!(program(&site.director, "eth0"), None, "detached");
    });
}

#[test]
fn generic_mode_and_two_workers() {
    in_lab(|lab| {
        let site = Site::new(lab);
        let director = run(
            &site,
            &file(lab, "xdp_mode = \"generic\"\nworkers = 2", &[80]),
        );
        assert_eq!(program(&site.director, "eth0"), Some(2), "generic");
        site.get_in_parallel(30, 20_000);
        site.sent_by_client();
        let tun = by_tun(&site);
        let totals = director.stop();
        assert_eq!(
            (totals.busy("web80"), totals.dropped()),
            (3, 0),
            "{totals:?}"
        );
        assert!(tun < 10, "{tun} packets by the TUN: {totals:?}");
    });
}

/// What the program does not take comes by the TUN, and flows keep their backends.
#[test]
fn fragments_and_pings_come_by_the_tun() {
    in_lab(|lab| {
        let site = Site::new(lab);
        let _echoes = echo_datagrams(&site);
        let director = run(&site, &file(lab, "", &[80]));
        let asked = |length: &str| {
            let asked = [VIP, "53", "60", "30000", length];
            let replies = site.client.run_python(UDP_ASK, &asked);
            let lines: Vec<_> = replies.lines().map(str::to_owned).collect();
            assert_eq!(lines.len(), 60, "{replies}");
            let name = |line: &String| line.split(' ').nth(3).unwrap_or_default().to_owned();
            lines.iter().map(name).collect::<Vec<_>>()
        };
        let small = asked("40");
        let before = by_tun(&site);
        let large = asked("4000");
        assert!(by_tun(&site) >= before + 180, "fragments by the TUN");
        assert_eq!(small, large, "the same backends");
        site.client.run(&format!("ping -c 3 -W 5 {VIP}"));
        let totals = director.stop();
        assert_eq!((totals.busy("dns"), totals.dropped()), (3, 0), "{totals:?}");
        assert_eq!(totals.answered, 3, "{totals:?}");
    });
}

/// No MTU of the kernel is between the client and the director: the director says what fits.
#[test]
fn the_vip_says_what_fits() {
    in_lab(|lab| {
        let site = Site::new(lab);
        site.announce_too_much();
        let director = run(&site, &file(lab, "", &[80]));
        let (expected, path) = noise(lab, 1_000_000);
        assert_eq!(upload(&site, &path), expected);
        let route = site.client.run(&format!("ip route get {VIP}"));
        assert!(route.contains("mtu 1480"), "{route}");
        let totals = director.stop();
        assert!(totals.answered > 0, "{totals:?}");
    });
}

#[test]
fn vips_come_and_go_by_reloads() {
    in_lab(|lab| {
        let site = Site::new(lab);
        let path = file(lab, "", &[81]);
        let director = run(&site, &path);
        file(lab, "", &[80]);
        director.0.signal(Signal::Hup);
        let curl = "curl --silent --max-time 1 http://10.0.0.100/ || true";
        wait_until("the new VIP", || !site.client.sh(curl).trim().is_empty());
        let before = by_tun(&site);
        site.get_in_parallel(20, 20_000);
        assert!(by_tun(&site) < before + 5, "a new VIP is redirected, too");
        director.stop();
    });
}

#[test]
fn a_killed_director_leaves_no_program() {
    in_lab(|lab| {
        let site = Site::new(lab);
        let path = file(lab, "", &[80]);
        let director = run(&site, &path);
        assert_eq!(program(&site.director, "eth0"), Some(1));
        director.0.signal(Signal::Kill);
        director.0.wait();
        wait_until("the program to go", || {
            program(&site.director, "eth0").is_none()
        });
        let director = run(&site, &path);
        assert_eq!(program(&site.director, "eth0"), Some(1));
        site.get();
        director.stop();
    });
}

#[test]
fn what_cannot_be_is_refused() {
    in_lab(|lab| {
        let site = Site::new(lab);
        let path = file(lab, "", &[80]);
        let first = run(&site, &path);
        // Another director of the same host, and a device that is none.
        for (device, expected) in [
            ("eth0", "AF_XDP socket on queue 0: Device or resource busy"),
            ("eth7", "interface eth7: no such device"),
            ("tunlb0", "interface tunlb0: not an Ethernet device"),
        ] {
            let text = std::fs::read_to_string(&path).expect("the file");
            let text = text
                .replace("\"eth0\"", &format!("\"{device}\""))
                .replace("[director]", "[director]\ntun = \"other\"\napi = \"off\"");
            let other = lab.file("other.toml", text);
            let mut command = site.director.command(crate::enter::tunlb());
            command.arg("run").arg("-c").arg(other);
            let ended = site.director.spawn("other", command).wait();
            assert!(
                ended.stderr.contains(expected),
                "{device}: {}",
                ended.stderr
            );
            assert_eq!(ended.status.code(), Some(2), "{device}: {}", ended.stderr);
        }
        assert_eq!(program(&site.director, "eth0"), Some(1), "left as it is");
        site.get();
        first.stop();
    });
}
