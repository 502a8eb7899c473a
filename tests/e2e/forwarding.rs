//! A director's forwarding: turned on with the least change, without losing what came by router
//! advertisement; and packets for a VIP whose director was killed do not circle.

use std::process::Command;

use crate::enter::{in_lab, tunlb};
use crate::lab::{Lab, Node, wait_until};
use crate::leftovers::{assert_same, difference, dump};
use crate::process::{Process, Signal};
use crate::site::succeeded;

const VIP: &str = "10.0.0.100";
const VIP6: &str = "2001:db8::100";

const ADVERTISE: &str = include_str!("tools/advertise.py");

/// ```text
/// client ── 10.0.9.0/24, 2001:db8:9::/64 ── router ── 10.0.1.0/24, 2001:db8:1::/64 ── director
///  .2, ::2                          .1, ::1        .1, ::1                      .2, ::2
/// ```
///
/// The router sends both VIPs to the director, whose default routes lead back to it. The backend's address
/// is nowhere.
struct Line {
    client: Node,
    router: Node,
    director: Node,
}

impl Line {
    fn new(lab: &Lab) -> Self {
        let [client, router, director] =
            ["client", "router", "director"].map(|name| lab.node(name));
        for node in [&client, &router, &director] {
            node.set_sysctl("ipv6/conf/default/disable_ipv6", 0);
            node.set_sysctl("ipv6/conf/all/disable_ipv6", 0);
            node.set_sysctl("ipv6/conf/default/accept_dad", 0);
            node.set_sysctl("ipv6/conf/default/accept_ra", 0);
        }
        lab.cable((&client, "eth0"), (&router, "clients"));
        lab.cable((&router, "servers"), (&director, "eth0"));
        client.sh(
            "ip addr add 10.0.9.2/24 dev eth0; ip route add default via 10.0.9.1
             ip addr add 2001:db8:9::2/64 dev eth0 nodad; ip route add default via 2001:db8:9::1",
        );
        router.sh("ip addr add 10.0.9.1/24 dev clients; ip addr add 10.0.1.1/24 dev servers
             ip addr add 2001:db8:9::1/64 dev clients nodad; ip addr add 2001:db8:1::1/64 dev servers nodad
             ip route add 10.0.0.100 via 10.0.1.2; ip route add 2001:db8::100 via 2001:db8:1::2");
        for (key, value) in [("ipv4/ip_forward", 1), ("ipv6/conf/all/forwarding", 1)] {
            router.set_sysctl(key, value);
        }
        director.sh(
            "ip addr add 10.0.1.2/24 dev eth0; ip route add default via 10.0.1.1
             ip addr add 2001:db8:1::2/64 dev eth0 nodad; ip route add default via 2001:db8:1::1",
        );
        Self {
            client,
            router,
            director,
        }
    }

    fn run(&self, arguments: &[&str]) -> Process {
        let mut command = self.director.command(tunlb());
        command
            .args(["run", "--backend", "10.0.1.77"])
            .args(arguments);
        self.director.start("run", command, "tunlb0: forwarding")
    }

    /// Sends one datagram to the VIP; returns how often it came to the director.
    fn circles(&self, vip: &str) -> u64 {
        let received = || self.director.device_counter("eth0", "rx_packets");
        let (before, program) = (
            received(),
            "import socket, sys
family = socket.AF_INET6 if ':' in sys.argv[1] else socket.AF_INET
socket.socket(family, socket.SOCK_DGRAM).sendto(bytes(64), (sys.argv[1], 9))",
        );
        self.client.run_python(program, &[vip]);
        let mut last = 0;
        wait_until("the datagram at the director", || {
            let now = received();
            let settled = now > before && now == last;
            last = now;
            settled
        });
        last - before
    }

    /// Gives the director its IPv6 default route, and an address, by router advertisement alone; returns
    /// whether it has them.
    fn advertise(&self) -> impl Fn() -> bool {
        let host = self.director.clone();
        host.run("ip -6 route del default");
        host.set_sysctl("ipv6/conf/eth0/accept_ra", 1);
        self.router
            .run_python(ADVERTISE, &["servers", "2001:db8:77::"]);
        let advertised = move || {
            let routes = host.run("ip -6 route show");
            let address = host.run("ip -6 addr show dev eth0");
            routes.contains("default via fe80")
                && routes.contains("proto ra")
                && address.contains("2001:db8:77:")
        };
        wait_until("the advertised route", &advertised);
        advertised
    }

    /// Whether an echo request of the client to the VIP is answered.
    fn answers(&self, vip: &str) -> bool {
        let mut command: Command = self.client.command("ping");
        command.args(["-c1", "-W2", vip]);
        command.output().expect("ping").status.success()
    }
}

#[test]
fn packets_for_a_killed_directors_vip_do_not_circle() {
    in_lab(|lab| {
        let line = Line::new(lab);
        for (key, value) in [("ipv4/ip_forward", 1), ("ipv6/conf/all/forwarding", 1)] {
            line.director.set_sysctl(key, value);
        }
        let before = dump(&line.director);
        for vip in [VIP, VIP6] {
            assert!(line.circles(vip) > 10, "{vip}: the fault itself");
        }
        let vips = [
            "--vip",
            "10.0.0.100:80/tcp",
            "--vip",
            "[2001:db8::100]:80/tcp",
        ];
        line.run(&vips).stop(Signal::Kill);
        for vip in [VIP, VIP6] {
            let times = line.circles(vip);
            assert!(times < 10, "{vip}: one datagram came {times} times");
        }
        // A stop leaves nothing, an operator's own route of the kind excepted.
        let own = format!("ip route add unreachable {VIP} metric 4294967295");
        assert!(line.run(&vips).stop(Signal::Term).status.success());
        assert_same(&before, &dump(&line.director), "a kill, a start, a stop");
        line.director.run(&own);
        let with_own = dump(&line.director);
        line.run(&vips).stop(Signal::Kill);
        line.director.run("true");
        assert!(line.run(&vips).stop(Signal::Term).status.success());
        assert_same(
            &with_own,
            &dump(&line.director),
            "with the operator's own route",
        );
    });
}

/// While it stops, first what brings packets goes, then forwarding, and the unreachable routes last.
#[test]
fn a_reload_moves_both_routes() {
    in_lab(|lab| {
        let line = Line::new(lab);
        let before = dump(&line.director);
        let text = |vip: &str| {
            format!("[[vip]]\naddress = \"{vip}\"\n[[vip.backend]]\naddress = \"10.0.1.77\"\n")
        };
        let path = lab.file("tunlb.toml", text(VIP));
        let mut command = line.director.command(tunlb());
        command.args(["run", "--setup", "-c"]).arg(&path);
        let mut director = line.director.start("run", command, "tunlb0: forwarding");
        lab.file("tunlb.toml", text(VIP6));
        director.signal(Signal::Hup);
        director.wait_for("reloaded");
        let [v4, v6] =
            ["-4", "-6"].map(|family| line.director.run(&format!("ip {family} route show")));
        assert!(!v4.contains(VIP), "{v4}");
        assert!(
            v6.contains("2001:db8::100 dev tunlb0") && v6.contains("unreachable 2001:db8::100"),
            "{v6}"
        );
        assert!(
            succeeded(director.stop(Signal::Term))
                .stderr
                .contains("restored net.ipv4.ip_forward: 1 -> 0")
        );
        assert_same(&before, &dump(&line.director), "a reload and a stop");
    });
}

#[test]
fn nothing_is_turned_on_where_the_way_in_forwards() {
    in_lab(|lab| {
        let line = Line::new(lab);
        line.director.set_sysctl("ipv4/conf/eth0/forwarding", 1);
        // Without IPv6, whose addresses come later.
        line.director
            .set_sysctl("ipv6/conf/default/disable_ipv6", 1);
        line.director.sh("ip link add idle type veth peer name idle2
             ip addr add 10.0.77.1/24 dev idle
             ip link set idle up; ip link set idle2 up");
        wait_until("the idle link", || {
            let links = line.director.run("ip -o link show type veth");
            links.lines().all(|link| link.contains("state UP"))
        });
        let before = dump(&line.director);
        let director = line.run(&["--setup", "--vip", "10.0.0.100:80/tcp"]);
        assert!(line.answers(VIP), "the answer leaves the TUN");
        let changed = difference(&before, &dump(&line.director));
        let settings = changed.iter().filter(|line| line[2..].starts_with("ipv"));
        let settings: Vec<_> = settings.filter(|line| !line.contains("/tunlb0/")).collect();
        assert!(settings.is_empty(), "{settings:?}");
        assert!(
            director.stderr().contains("comes in by idle"),
            "{}",
            director.stderr()
        );
        director.stop(Signal::Term);
        assert_same(&before, &dump(&line.director), "run --setup");

        // The same host forwards for all, but not what comes in by the way to clients.
        line.director.set_sysctl("ipv4/ip_forward", 1);
        line.director.set_sysctl("ipv4/conf/eth0/forwarding", 0);
        let before = dump(&line.director);
        let director = line.run(&["--setup", "--vip", "10.0.0.100:80/tcp"]);
        assert!(line.answers(VIP));
        let text = director.stderr();
        assert!(
            text.contains("turning net.ipv4.conf.eth0.forwarding on: "),
            "{text}"
        );
        director.stop(Signal::Term);
        assert_same(&before, &dump(&line.director), "run --setup on a router");
    });
}

/// Without the lifetimes, which count down between two dumps.
fn stable(host: &Node) -> String {
    let text = dump(host);
    let lines = text
        .lines()
        .map(|line| line.split(" expires").next().unwrap_or_default());
    let lines = lines.filter(|line| !line.contains("valid_lft"));
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn the_doctor_keeps_an_advertised_route_too() {
    in_lab(|lab| {
        let line = Line::new(lab);
        let advertised = line.advertise();
        let config = "[[vip]]\naddress = \"2001:db8::100\"\nport = 80\nprotocol = \"tcp\"\n\
                      [[vip.backend]]\naddress = \"10.0.1.1\"\n";
        let config = lab.file("tunlb.toml", config).display().to_string();
        let mut command = line.director.command(tunlb());
        command.args(["run", "-c", &config]);
        let _director = line.director.start("run", command, "tunlb0: forwarding");
        let before = stable(&line.director);
        let script = "/dev/shm/undo.sh";
        let mut command = line.director.command(tunlb());
        command.args([
            "doctor",
            "--role",
            "director",
            "-c",
            &config,
            "--fix",
            "--apply",
            "-y",
            "--lang=en",
        ]);
        let output = command
            .args(["--undo-file", script])
            .output()
            .expect("the doctor");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(
            text.contains("sysctl -w net.ipv6.conf.eth0.accept_ra=2"),
            "{text}"
        );
        assert_eq!(
            line.director.sysctl("ipv6/conf/all/forwarding"),
            "1",
            "{text}"
        );
        assert!(advertised() && line.answers(VIP6), "{text}");
        line.director.run(script);
        assert!(advertised(), "gone after the undo script");
        assert_same(&before, &stable(&line.director), "the undo script");
    });
}

#[test]
fn an_advertised_route_survives_forwarding() {
    in_lab(|lab| {
        let line = Line::new(lab);
        let host = &line.director;
        let advertised = line.advertise();
        let before = stable(host);
        let warned = line.run(&["--vip", "[2001:db8::100]:80/tcp"]);
        let advice = "sysctl -w net.ipv6.conf.eth0.accept_ra=2 net.ipv6.conf.all.forwarding=1";
        assert!(warned.stderr().contains(advice), "{}", warned.stderr());
        warned.stop(Signal::Term);
        let vip = ["--setup", "--vip", "[2001:db8::100]:80/tcp"];
        let director = line.run(&vip);
        assert!(advertised() && line.answers(VIP6));
        assert_eq!(host.sysctl("ipv6/conf/all/forwarding"), "1");
        // And a further advertisement is still heard.
        line.router
            .run_python(ADVERTISE, &["servers", "2001:db8:78::"]);
        wait_until("an address of the second prefix", || {
            host.run("ip -6 addr show dev eth0")
                .contains("2001:db8:78:")
        });
        host.run("ip -6 addr flush dev eth0 to 2001:db8:78::/64");
        host.sh("ip -6 route del 2001:db8:78::/64 dev eth0 || true");
        director.stop(Signal::Term);
        assert!(advertised(), "gone after its end");
        assert_same(&before, &stable(host), "run --setup");
        line.run(&vip).stop(Signal::Kill);
        assert!(advertised(), "gone after a kill");
        host.run(&format!("{} undo", tunlb().display()));
        assert!(advertised(), "gone after tunlb undo");
        assert_same(&before, &stable(host), "run --setup, kill -9, undo");

        // A route that came by advertisement before the device stopped listening stays as well.
        host.set_sysctl("ipv6/conf/eth0/accept_ra", 0);
        let before = stable(host);
        let director = line.run(&vip);
        assert!(advertised(), "lost while it runs");
        assert_eq!(
            host.sysctl("ipv6/conf/eth0/accept_ra"),
            "0",
            "listens again"
        );
        director.stop(Signal::Term);
        assert_same(&before, &stable(host), "a device that does not listen");
    });
}
