//! The VIP in the clients' own network: no router, everyone asks the segment who has it.
//!
//! ```text
//!         10.0.0.0/24  2001:db8::/64, one bridge
//! client .1 ────┬──── director .2   (VIPs .100 and ::100: routes into tunlb0)
//! other  .9 ────┤
//!               ├──── b1 .11        (VIPs on lo, decap0)
//!               └──── b2 .12
//! ```

use std::path::PathBuf;

use crate::enter::{in_lab, tunlb};
use crate::lab::{Lab, Node, wait_until};
use crate::leftovers::{assert_same, dump};
use crate::process::{Ended, Process, Signal};
use crate::site::{HTTPD, succeeded};

pub(crate) const VIPS: [&str; 2] = ["10.0.0.100", "2001:db8::100"];
const HOSTS: [(&str, &str); 5] = [
    ("client", "1"),
    ("director", "2"),
    ("b1", "11"),
    ("b2", "12"),
    ("other", "9"),
];

/// The hosts and what runs on the backends.
pub(crate) struct FlatLan {
    pub(crate) client: Node,
    pub(crate) director: Node,
    pub(crate) backends: [Node; 2],
    pub(crate) other: Node,
    _services: Vec<Process>,
}

impl FlatLan {
    pub(crate) fn new(lab: &Lab) -> Self {
        let switch = lab.bare_node("switch");
        switch.run("ip link add lan type bridge mcast_snooping 0");
        switch.run("ip link set lan up");
        let [client, director, b1, b2, other] = HOSTS.map(|(name, host)| {
            let node = lab.node(name);
            for key in ["default", "all"] {
                node.set_sysctl(&format!("ipv6/conf/{key}/disable_ipv6"), 0);
            }
            lab.cable((&node, "eth0"), (&switch, name));
            switch.run(&format!("ip link set {name} master lan"));
            node.sh(&format!(
                "ip addr add 10.0.0.{host}/24 dev eth0
                 ip addr add 2001:db8::{host}/64 dev eth0 nodad"
            ));
            node
        });
        for node in [&client, &director, &b1, &b2, &other] {
            wait_until("link-local addresses", || {
                let addresses = node.run("ip -6 addr show dev eth0");
                addresses.contains("fe80") && !addresses.contains("tentative")
            });
        }
        let backends = [b1, b2];
        Self {
            _services: backends.iter().flat_map(serve).collect(),
            client,
            director,
            backends,
            other,
        }
    }

    /// A director for both VIPs; `lines` are of `[director]`.
    pub(crate) fn run(&self, lab: &Lab, lines: &str, arguments: &[&str]) -> Process {
        self.run_for(lab, lines, &VIPS, arguments)
    }

    fn run_for(&self, lab: &Lab, lines: &str, vips: &[&str], arguments: &[&str]) -> Process {
        let file = configure(lab, lines, vips);
        let mut command = self.director.command(tunlb());
        command.args(["run", "-c"]).arg(file).args(arguments);
        // Not the name of a setting that ends so.
        self.director.start("run", command, ": forwarding ")
    }

    /// Forwarding as `--setup` would have it.
    pub(crate) fn forward(&self) {
        self.director.set_sysctl("ipv4/ip_forward", 1);
        self.director.set_sysctl("ipv6/conf/all/forwarding", 1);
    }

    fn reload(&self, lab: &Lab, director: &Process, lines: &str, vips: &[&str]) {
        configure(lab, lines, vips);
        let reloads = || director.stderr().matches("reload").count();
        let before = reloads();
        director.signal(Signal::Hup);
        wait_until("the reload", || reloads() > before);
    }

    /// Whether the client is answered by a backend; a new question to the segment each time.
    pub(crate) fn is_answered(&self, vip: &str) -> bool {
        self.client.run("ip neigh flush dev eth0");
        self.is_answered_by_cache(vip)
    }

    fn is_answered_by_cache(&self, vip: &str) -> bool {
        let mut curl = self.client.command("curl");
        curl.args(["--silent", "--fail", "--globoff", "--max-time", "3"])
            .arg(format!("http://{}/", crate::families::host(vip)));
        let output = curl.output().expect("curl");
        let name = String::from_utf8_lossy(&output.stdout);
        output.status.success() && ["b1", "b2"].contains(&name.trim())
    }

    /// The link-layer address that the client has for a VIP.
    fn mac_at_client(&self, vip: &str) -> Option<String> {
        let entry = self.client.run(&format!("ip neigh show {vip} dev eth0"));
        let mut words = entry.split_whitespace();
        words.find(|word| *word == "lladdr")?;
        words.next().map(str::to_owned)
    }

    fn entries(&self) -> String {
        // `ip neigh show proxy` lists IPv4 and IPv6, in no order.
        let text = self.director.run("ip neigh show proxy");
        let mut lines: Vec<_> = text.lines().map(str::trim).collect();
        lines.sort_unstable();
        lines.dedup();
        lines.join("\n")
    }
}

pub(crate) fn mac(node: &Node) -> String {
    let link = node.link("eth0");
    link["address"].as_str().expect("a MAC").to_owned()
}

fn configure(lab: &Lab, lines: &str, vips: &[&str]) -> PathBuf {
    let mut text = format!("[director]\n{lines}\n");
    for vip in vips {
        text += &format!("[[vip]]\naddress = \"{vip}\"\n");
        for host in ["11", "12"] {
            text += &format!("[[vip.backend]]\naddress = \"10.0.0.{host}\"\n");
        }
    }
    lab.file("tunlb.toml", text)
}

/// A decapsulator for both VIPs, and a web server.
fn serve(node: &Node) -> [Process; 2] {
    let mut command = node.command(tunlb());
    command.args(["decap", "--setup", "--director", "10.0.0.2"]);
    for vip in VIPS {
        command.args(["--vip", vip]);
    }
    let decap = node.start(&format!("decap-{}", node.name()), command, "decapsulating");
    let command = node.python(HTTPD, &[node.name(), "::"]); // which takes IPv4, too
    let httpd = node.start(&format!("httpd-{}", node.name()), command, "listening");
    [decap, httpd]
}

/// The commands of the warnings, as they are printed.
fn commands(stderr: &str) -> Vec<String> {
    let warnings = stderr.lines().filter_map(|line| line.split_once("[D41]; "));
    let advice = warnings.filter_map(|(_, advice)| advice.rsplit_once(", or "));
    advice
        .flat_map(|(commands, _)| commands.split("; ").map(str::to_owned))
        .collect()
}

#[test]
fn without_setup_it_says_what_is_missing() {
    in_lab(|lab| {
        let lan = FlatLan::new(lab);
        lan.forward();
        let director = lan.run(lab, "", &[]);
        for vip in VIPS {
            assert!(!lan.is_answered(vip), "{vip}");
        }
        let stderr = director.stderr();
        for text in [
            "vip 10.0.0.100 is in 10.0.0.0/24, the subnet of eth0, where nothing answers ARP for it",
            "ip neigh add proxy 10.0.0.100 dev eth0, or run with --setup",
            "vip 2001:db8::100 is in 2001:db8::/64, the subnet of eth0, where nothing answers neighbour",
            "sysctl -w net.ipv6.conf.eth0.proxy_ndp=1; ip neigh add proxy 2001:db8::100 dev eth0, or",
        ] {
            assert!(stderr.contains(text), "{text}\n{stderr}");
        }
        let commands = commands(&stderr);
        assert_eq!(commands.len(), 3, "{commands:?}");
        for command in commands {
            lan.director.sh(&command);
        }
        for vip in VIPS {
            assert!(lan.is_answered(vip), "{vip}: what was printed helps");
        }
        lan.reload(lab, &director, "", &VIPS);
        let warnings = director.stderr().matches("[D41]").count();
        assert_eq!(warnings, 2, "a reload sees what was done");
        let entries = lan.entries();
        succeeded(director.stop(Signal::Term));
        assert_eq!(lan.entries(), entries, "the operator's own");
    });
}

/// What a client hears of neighbours and of redirects, as tcpdump tells it.
fn listen(lan: &FlatLan) -> Process {
    let mut command = lan.client.command("tcpdump");
    command.args(["-i", "eth0", "-nn", "-e", "-l", "-v"]);
    command.arg("arp or icmp or icmp6");
    lan.client.start("tcpdump", command, "listening on")
}

#[test]
fn with_setup_it_answers_and_announces() {
    in_lab(|lab| {
        let lan = FlatLan::new(lab);
        let before = dump(&lan.director);
        // As after a failover: the client's cache holds another machine's address.
        for vip in VIPS {
            let stale =
                format!("ip neigh replace {vip} lladdr 02:00:00:00:00:99 dev eth0 nud reachable");
            lan.client.run(&stale);
        }
        let capture = listen(&lan);
        let director = lan.run(lab, "", &["--setup"]);
        let own = mac(&lan.director);
        for vip in VIPS {
            wait_until("the client to hear of it", || {
                lan.mac_at_client(vip).as_ref() == Some(&own)
            });
            assert!(lan.is_answered_by_cache(vip), "{vip}: announced");
        }
        for vip in VIPS {
            assert!(lan.is_answered(vip), "{vip}: asked for");
            lan.client.run(&format!("ping -c 2 -W 5 {vip}"));
            assert_eq!(lan.mac_at_client(vip).as_ref(), Some(&own));
        }
        wait_until("the last announcement", || {
            announcements(&capture, &own) == [5; 3]
        });
        let heard = capture.stdout();
        assert!(!heard.contains("redirect"), "{heard}");
        assert_eq!(lan.director.sysctl("ipv4/neigh/eth0/proxy_delay"), "0");
        assert_eq!(lan.director.sysctl("ipv6/neigh/eth0/proxy_delay"), "0");
        assert!(VIPS.iter().all(|vip| lan.is_answered_by_cache(vip)));
        let Ended { stderr, .. } = succeeded(director.stop(Signal::Term));
        let answering = "eth0: answering for 10.0.0.100, 2001:db8::100";
        assert!(stderr.contains(answering), "{stderr}");
        assert!(!stderr.contains("[D4"), "{stderr}");
        assert_same(&before, &dump(&lan.director), "run --setup, then SIGTERM");
        for vip in VIPS {
            assert_eq!(lan.mac_at_client(vip).as_ref(), Some(&own), "cached");
            assert!(!lan.is_answered_by_cache(vip), "{vip}: nothing is left");
        }
        assert!(!VIPS.iter().any(|vip| lan.is_answered(vip)));
    });
}

/// Gratuitous requests, gratuitous replies and advertisements that override.
fn announcements(capture: &Process, own: &str) -> [usize; 3] {
    let text = capture.stdout().replace("\n\t", " ");
    let of = |words: &[&str]| {
        let lines = text.lines().filter(|line| line.contains(own));
        let all = |line: &&str| words.iter().all(|word| line.contains(word));
        lines.filter(all).count()
    };
    [
        of(&[
            "ff:ff:ff:ff:ff:ff",
            "Request who-has 10.0.0.100",
            "tell 10.0.0.100",
        ]),
        of(&["ff:ff:ff:ff:ff:ff", "Reply 10.0.0.100 is-at"]),
        of(&[
            "> ff02::1:",
            "neighbor advertisement",
            "tgt is 2001:db8::100, Flags [override]",
        ]),
    ]
}

#[test]
fn an_address_that_another_machine_has_is_not_claimed() {
    in_lab(|lab| {
        let lan = FlatLan::new(lab);
        lan.other.sh("ip addr add 10.0.0.100/24 dev eth0
             ip addr add 2001:db8::100/64 dev eth0 nodad");
        let director = lan.run(lab, "", &["--setup"]);
        let stderr = director.stderr();
        let theirs = mac(&lan.other);
        for text in [
            format!(
                "vip 10.0.0.100: another machine ({theirs}) answers ARP for it on eth0: not claimed"
            ),
            format!(
                "vip 2001:db8::100: another machine ({theirs}) answers neighbour discovery for it"
            ),
        ] {
            assert!(stderr.contains(&text), "{text}\n{stderr}");
        }
        assert!(!stderr.contains("answering for"), "{stderr}");
        assert_eq!(lan.entries(), "");
        assert_eq!(lan.director.sysctl("ipv4/neigh/eth0/proxy_delay"), "80");
        lan.other
            .sh("ip addr del 10.0.0.100/24 dev eth0; ip addr del 2001:db8::100/64 dev eth0");
        lan.reload(lab, &director, "", &VIPS);
        for vip in VIPS {
            assert!(lan.is_answered(vip), "{vip}: free now");
        }
        succeeded(director.stop(Signal::Term));
        assert_eq!(lan.entries(), "");
    });
}

/// Neither of them has the address; each answers all the same.
#[test]
fn backends_that_answer_and_other_directors_are_seen() {
    in_lab(|lab| {
        let lan = FlatLan::new(lab);
        let backend = &lan.backends[0];
        backend.set_sysctl("ipv4/conf/all/arp_ignore", 0);
        backend.set_sysctl("ipv4/conf/eth0/arp_ignore", 0);
        lan.director.run("ping -c 1 -W 5 10.0.0.11"); // so its link-layer address is known
        let director = lan.run(lab, "", &["--setup"]);
        let stderr = director.stderr();
        let whose = format!(
            "another machine ({}, the backend 10.0.0.11) answers",
            mac(backend)
        );
        assert!(stderr.contains(&whose), "{stderr}");
        assert!(
            stderr.contains("net.ipv4.conf.all.arp_ignore=1 [B8]"),
            "{stderr}"
        );
        assert_eq!(lan.entries(), "2001:db8::100 dev eth0 proxy");
        succeeded(director.stop(Signal::Term));
        backend.set_sysctl("ipv4/conf/all/arp_ignore", 1);

        // As a director does, and with the delay that kernels have.
        lan.other.set_sysctl("ipv4/ip_forward", 1);
        lan.other.set_sysctl("ipv6/conf/all/forwarding", 1);
        lan.other.set_sysctl("ipv6/conf/eth0/proxy_ndp", 1);
        lan.other
            .sh("ip link add tun0 type bridge; ip link set tun0 up");
        for vip in VIPS {
            lan.other.run(&format!("ip route add {vip} dev tun0"));
            lan.other.run(&format!("ip neigh add proxy {vip} dev eth0"));
        }
        let director = lan.run(lab, "", &["--setup"]);
        let stderr = director.stderr();
        assert_eq!(stderr.matches("not claimed").count(), 2, "{stderr}");
        assert_eq!(lan.entries(), "");
        succeeded(director.stop(Signal::Term));
    });
}

#[test]
fn off_means_nothing() {
    in_lab(|lab| {
        let lan = FlatLan::new(lab);
        let capture = listen(&lan);
        let director = lan.run(lab, "neighbour = \"off\"", &["--setup"]);
        let stderr = director.stderr();
        assert!(
            !stderr.contains("D41") && !stderr.contains("answering"),
            "{stderr}"
        );
        assert_eq!(lan.entries(), "");
        assert!(!lan.is_answered(VIPS[0]));
        let own = mac(&lan.director);
        let asked = |line: &&str| line.contains(&own) && line.contains("10.0.0.100");
        assert_eq!(capture.stdout().lines().find(asked), None);
        succeeded(director.stop(Signal::Term));
    });
}

#[test]
fn a_device_in_the_file_is_enough() {
    in_lab(|lab| {
        let lan = FlatLan::new(lab);
        lan.forward();
        let before = dump(&lan.director);
        let director = lan.run(lab, "neighbour = \"eth0\"", &[]);
        for vip in VIPS {
            assert!(lan.is_answered(vip), "{vip}");
        }
        succeeded(director.stop(Signal::Term));
        assert_same(&before, &dump(&lan.director), "a device in the file");

        for (device, reason) in [
            ("eth7", "director.neighbour: there is no device eth7"),
            ("tun7", "director.neighbour: tun7 is not an Ethernet device"),
        ] {
            if device == "tun7" {
                lan.director.run("ip tuntap add tun7 mode tun");
            }
            let file = configure(lab, &format!("neighbour = \"{device}\""), &VIPS);
            let mut command = lan.director.command(tunlb());
            command.args(["run", "-c"]).arg(file);
            let Ended { status, stderr, .. } = lan.director.spawn("refused", command).wait();
            assert_eq!(status.code(), Some(2), "{stderr}");
            assert!(stderr.contains(reason), "{stderr}");
        }
    });
}

#[test]
fn a_reload_adds_and_removes() {
    in_lab(|lab| {
        let lan = FlatLan::new(lab);
        let director = lan.run_for(lab, "", &VIPS[..1], &["--setup"]);
        let [entry, entry6] = VIPS.map(|vip| format!("{vip} dev eth0 proxy"));
        assert_eq!(lan.entries(), entry);
        lan.reload(lab, &director, "", &VIPS);
        assert_eq!(lan.entries(), format!("{entry}\n{entry6}"));
        assert!(lan.is_answered(VIPS[1]));
        lan.reload(lab, &director, "", &VIPS[1..]);
        assert_eq!(lan.entries(), entry6);
        assert!(!lan.is_answered(VIPS[0]));
        lan.reload(lab, &director, "neighbour = \"off\"", &VIPS);
        assert_eq!(lan.entries(), "");
        lan.reload(lab, &director, "neighbour = \"eth0\"", &VIPS);
        assert_eq!(lan.entries(), format!("{entry}\n{entry6}"));
        lan.reload(lab, &director, "neighbour = \"eth9\"", &VIPS);
        let refused = "reload refused, the old configuration stays: director.neighbour: there is no device eth9";
        assert!(director.stderr().contains(refused), "{}", director.stderr());
        for vip in VIPS {
            assert!(lan.is_answered(vip), "{vip}");
        }
        // What was removed behind its back comes back.
        lan.director.run("ip neigh del proxy 10.0.0.100 dev eth0");
        lan.reload(lab, &director, "", &VIPS);
        assert_eq!(lan.entries(), format!("{entry}\n{entry6}"));
        succeeded(director.stop(Signal::Term));
        assert_eq!(lan.entries(), "");
    });
}

#[test]
fn an_operators_entry_stays() {
    in_lab(|lab| {
        let lan = FlatLan::new(lab);
        lan.director.run("ip neigh add proxy 10.0.0.100 dev eth0");
        let before = dump(&lan.director);
        let director = lan.run(lab, "", &["--setup"]);
        let stderr = director.stderr();
        assert!(
            stderr.contains("eth0: answering for 2001:db8::100\n"),
            "{stderr}"
        );
        assert!(lan.is_answered(VIPS[0]));
        succeeded(director.stop(Signal::Term));
        assert_same(&before, &dump(&lan.director), "an entry of the operator's");
        // `proxy_arp` answers as well.
        lan.director.run("ip neigh del proxy 10.0.0.100 dev eth0");
        lan.director.set_sysctl("ipv4/conf/eth0/proxy_arp", 1);
        let director = lan.run(lab, "", &["--setup"]);
        assert_eq!(lan.entries(), "2001:db8::100 dev eth0 proxy");
        assert!(lan.is_answered(VIPS[0]));
        succeeded(director.stop(Signal::Term));
    });
}

#[test]
fn a_killed_directors_entries_are_undone_by_the_next() {
    in_lab(|lab| {
        let lan = FlatLan::new(lab);
        let before = dump(&lan.director);
        let director = lan.run(lab, "", &["--setup"]);
        drop(director); // by SIGKILL
        assert_eq!(lan.entries().lines().count(), 2, "{}", lan.entries());
        let director = lan.run(lab, "", &["--setup"]);
        for vip in VIPS {
            assert!(lan.is_answered(vip), "{vip}");
        }
        succeeded(director.stop(Signal::Term));
        assert_same(&before, &dump(&lan.director), "killed, run again, ended");
    });
}
