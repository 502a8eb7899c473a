//! Every inner family in every outer one, in IPIP and in GUE, over one dual-stack site:
//!
//! ```text
//! client ── 10.0.9.0/24  2001:db8:9::/64 ── director ── 10.0.1.0/24  2001:db8:1::/64 ── backend
//!   │ .2, ::2                          .1, ::1 │ .2, ::2                    .11, ::11 │
//!   └───────────────── 10.0.8.0/24  2001:db8:8::/64: the way of the answers ──────────┘
//!     .2, ::2                                                                  .11, ::11
//! ```
//!
//! There is a VIP for each combination, so each has its own line in the director's totals.

use std::fmt::Write as _;
use std::path::Path;

use crate::enter::{in_lab, tunlb};
use crate::lab::{Lab, Node};
use crate::process::{Process, Signal};
use crate::site::{HTTPD, Setup, succeeded};
use crate::totals::Totals;
use crate::traffic::noise;

/// Name, VIP, backend, encapsulation, and what that leaves of 1500 bytes.
pub(crate) const COMBINATIONS: [(&str, &str, &str, &str, &str); 8] = [
    ("4in4", "10.0.0.101", "10.0.1.11", "ipip", "1480"),
    ("4in6", "10.0.0.102", "2001:db8:1::11", "ipip", "1460"),
    ("6in4", "2001:db8::103", "10.0.1.11", "ipip", "1480"),
    ("6in6", "2001:db8::104", "2001:db8:1::11", "ipip", "1460"),
    ("4in4-gue", "10.0.0.105", "10.0.1.11", "gue", "1472"),
    ("4in6-gue", "10.0.0.106", "2001:db8:1::11", "gue", "1452"),
    ("6in4-gue", "2001:db8::107", "10.0.1.11", "gue", "1472"),
    ("6in6-gue", "2001:db8::108", "2001:db8:1::11", "gue", "1452"),
];

pub(crate) struct DualStack {
    pub(crate) client: Node,
    pub(crate) director: Node,
    pub(crate) backend: Node,
    _services: Vec<Process>,
}

impl DualStack {
    /// Everything but the director runs.
    pub(crate) fn new(lab: &Lab) -> Self {
        Self::with(lab, Setup::ByTunlb)
    }

    /// The same with a backend whose settings stay as a test makes them.
    pub(crate) fn by_hand(lab: &Lab) -> Self {
        Self::with(lab, Setup::ByHand)
    }

    fn with(lab: &Lab, setup: Setup) -> Self {
        let [client, director, backend] = ["client", "director", "backend"].map(|n| lab.node(n));
        for node in [&client, &director, &backend] {
            // Some hosts switch IPv6 off for devices to come.
            node.set_sysctl("ipv6/conf/default/disable_ipv6", 0);
            node.set_sysctl("ipv6/conf/all/disable_ipv6", 0);
        }
        lab.cable((&client, "eth0"), (&director, "eth1"));
        lab.cable((&director, "eth0"), (&backend, "eth0"));
        lab.cable((&backend, "eth1"), (&client, "eth1"));
        for (node, device, subnet, host) in [
            (&client, "eth0", 9, "2"),
            (&director, "eth1", 9, "1"),
            (&director, "eth0", 1, "2"),
            (&backend, "eth0", 1, "11"),
            (&backend, "eth1", 8, "11"),
            (&client, "eth1", 8, "2"),
        ] {
            node.sh(&format!(
                "ip addr add 10.0.{subnet}.{host}/24 dev {device}
                 ip addr add 2001:db8:{subnet}::{host}/64 dev {device} nodad"
            ));
        }
        client.sh("ip route add 10.0.0.0/24 via 10.0.9.1
             ip route add 2001:db8::/64 via 2001:db8:9::1");
        backend.sh("ip route add 10.0.9.0/24 via 10.0.8.2
             ip route add 2001:db8:9::/64 via 2001:db8:8::2");
        Self {
            client,
            director,
            _services: serve(&backend, setup),
            backend,
        }
    }

    pub(crate) fn run(&self, lab: &Lab) -> Process {
        self.run_with(lab, &configuration())
    }

    pub(crate) fn run_with(&self, lab: &Lab, configuration: &str) -> Process {
        let file = lab.file("tunlb.toml", configuration);
        let mut command = self.director.command(tunlb());
        command.args(["run", "--setup", "-c"]).arg(file);
        // Not the word alone: a setting that `--setup` tells has it in its name.
        self.director.start("run", command, "tunlb0: forwarding")
    }

    /// Uploads a file to a VIP; returns the SHA-256 that the service found, as [`noise`] has it.
    pub(crate) fn upload(&self, vip: &str, path: &Path) -> String {
        let digest = self.client.run(&format!(
            "{CURL} -T {} http://{}/x",
            path.display(),
            host(vip)
        ));
        format!("{}  -\n", digest.trim()) // as sha256sum prints it
    }

    /// The MTU that the client has learnt for a VIP.
    pub(crate) fn learnt_mtu(&self, vip: &str) -> Option<String> {
        let route = self.client.run(&format!("ip route get {vip}"));
        let mut words = route.split_whitespace();
        words.find(|&word| word == "mtu")?;
        words.next().map(str::to_owned)
    }
}

const CURL: &str = "curl --silent --show-error --fail --max-time 20 --globoff";

/// An address as a URL has it.
pub(crate) fn host(vip: &str) -> String {
    if vip.contains(':') {
        format!("[{vip}]")
    } else {
        vip.to_owned()
    }
}

pub(crate) fn configuration() -> String {
    let mut text = String::new();
    for (name, vip, backend, kind, _) in COMBINATIONS {
        write!(
            text,
            "[[vip]]\nname = \"{name}\"\naddress = \"{vip}\"\nport = 80\nprotocol = \"tcp\"\n\
             [vip.encap]\nkind = \"{kind}\"\n[[vip.backend]]\naddress = \"{backend}\"\n"
        )
        .expect("a string takes everything");
    }
    text
}

/// Two decapsulators and a web server.
fn serve(backend: &Node, setup: Setup) -> Vec<Process> {
    if setup == Setup::ByHand {
        backend.set_sysctl("ipv4/conf/all/arp_ignore", 1);
        backend.set_sysctl("ipv4/conf/all/arp_announce", 2);
        for (_, vip, ..) in COMBINATIONS {
            let nodad = if vip.contains(':') { "nodad" } else { "" };
            backend.run(&format!("ip addr add {vip} dev lo {nodad}"));
        }
    }
    let decap = |name: &str, arguments: &[&str]| {
        let mut command = backend.command(tunlb());
        command.args(["decap", "--tun", name]).args(arguments);
        command.args(["--director", "10.0.1.2", "--director", "2001:db8:1::2"]);
        if setup == Setup::ByTunlb {
            command.arg("--setup");
        }
        for (_, vip, ..) in COMBINATIONS {
            command.args(["--vip", vip]);
        }
        backend.start(name, command, "decapsulating")
    };
    let mut services = vec![decap("decap0", &[]), decap("decap1", &["--gue", "6080"])];
    let command = backend.python(HTTPD, &["backend", "::"]); // which takes IPv4, too
    services.push(backend.start("httpd", command, "listening"));
    services
}

#[test]
fn every_family_in_every_family() {
    in_lab(|lab| {
        let site = DualStack::new(lab);
        let_full_sized_packets_come(&site);
        passes_every_family(lab, &site, "auto");
    });
}

#[test]
fn every_family_by_every_egress() {
    in_lab(|lab| {
        let site = DualStack::new(lab);
        let_full_sized_packets_come(&site);
        for egress in ["raw", "packet", "xsk"] {
            passes_every_family(lab, &site, egress);
        }
        // A device that segments nothing.
        site.director.run("ethtool -K eth0 tx-udp-segmentation off");
        passes_every_family(lab, &site, "auto");
    });
}

/// An operator's rule comes before the decapsulator's, whose routes announce smaller segments.
fn let_full_sized_packets_come(site: &DualStack) {
    for (_, vip, ..) in COMBINATIONS {
        let family = if vip.contains(':') { "-6" } else { "-4" };
        let rule = format!("ip {family} rule add from {vip} lookup main priority 100");
        site.backend.run(&rule);
    }
}

fn passes_every_family(lab: &Lab, site: &DualStack, egress: &str) {
    let configuration = format!("[director]\negress = \"{egress}\"\n{}", configuration());
    let director = site.run_with(lab, &configuration);
    let (expected, path) = noise(lab, 300_000);
    for (name, vip, _, _, mtu) in COMBINATIONS {
        let web = site.client.run(&format!("{CURL} http://{}/", host(vip)));
        assert_eq!(web.trim(), "backend", "{egress} {name}");
        let digest = site.upload(vip, &path);
        assert_eq!(
            digest, expected,
            "{egress} {name}: upload of full-sized packets"
        );
        assert_eq!(
            site.learnt_mtu(vip).as_deref(),
            Some(mtu),
            "{egress} {name}"
        );
    }
    let totals = Totals::parse(&succeeded(director.stop(Signal::Term)).stdout);
    for (name, _, backend, ..) in COMBINATIONS {
        let sent = totals.backends[&(name.to_owned(), backend.to_owned())];
        assert!(sent.packets > 200, "{egress} {name}: {totals:?}");
    }
    // The kernel reports its own multicast groups on every IPv6 device, this one too.
    let count = |reason| totals.dropped.get(reason).copied().unwrap_or_default();
    let known = count("no_vip") + count("too_big");
    assert_eq!(totals.dropped(), known, "{egress}: {totals:?}");
    assert!(count("no_vip") < 10, "{egress}: {totals:?}");
}
