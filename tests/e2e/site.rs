//! The usual site: clients reach a VIP through the director, the backends answer past it.
//!
//! ```text
//!                                   10.0.1.0/24, one Ethernet segment
//!                              .1 ┌───────── director .2   (VIP: route into tunlb0)
//! client ─────────────── router ──┼───────── b1 .11        (VIP on lo, decap0)
//! 10.0.9.2       10.0.9.1    .1 │ └───────── b2 .12
//!                               └─────────── b3 10.0.2.13  10.0.2.0/24, another segment
//! ```
//!
//! The router sends 10.0.0.100, the VIP, to the director. Every host's device is `eth0`; their
//! transmit checksum offload is on, as a veth pair has it.

use std::collections::BTreeMap;

use crate::enter::tunlb;
use crate::lab::{Lab, Node, wait_until};
use crate::process::{Ended, Process, Signal};
use crate::totals::{Totals, of_decap};

pub(crate) const VIP: &str = "10.0.0.100";
/// The VIP's name where none is configured.
pub(crate) const WEB: &str = "10.0.0.100:80/tcp";
pub(crate) const URL: &str = "http://10.0.0.100/";
pub(crate) const CLIENT: &str = "10.0.9.2";
pub(crate) const DIRECTOR: &str = "10.0.1.2";
pub(crate) const BACKENDS: [(&str, &str); 3] = [
    ("b1", "10.0.1.11"),
    ("b2", "10.0.1.12"),
    ("b3", "10.0.2.13"),
];

/// The HTTP server of the labs, on every backend.
pub(crate) const HTTPD: &str = include_str!("../../netns-scripts/httpd.py");
const PARALLEL_GET: &str = include_str!("tools/parallel_get.py");

/// The hosts of the site and what runs on its backends.
pub(crate) struct Site {
    pub(crate) client: Node,
    pub(crate) router: Node,
    pub(crate) director: Node,
    pub(crate) backends: [Backend; 3],
}

/// A backend with its decapsulator and its HTTP server.
pub(crate) struct Backend {
    pub(crate) node: Node,
    pub(crate) decap: Process,
    pub(crate) httpd: Process,
}

/// Where the backends' settings come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Setup {
    /// `tunlb decap --setup`, which also sets right what a test breaks.
    ByTunlb,
    /// The test: what it breaks stays so.
    ByHand,
}

/// A running `tunlb run`.
pub(crate) struct Director(pub(crate) Process);

impl Site {
    /// Hosts, cables and routes; decapsulators and HTTP servers run, no director does.
    pub(crate) fn new(lab: &Lab) -> Self {
        Self::with(lab, Setup::ByTunlb)
    }

    /// The same with backends whose settings stay as a test makes them.
    pub(crate) fn by_hand(lab: &Lab) -> Self {
        Self::with(lab, Setup::ByHand)
    }

    fn with(lab: &Lab, setup: Setup) -> Self {
        let [client, router, director] =
            ["client", "router", "director"].map(|name| lab.node(name));
        let backends = BACKENDS.map(|(name, _)| lab.node(name));
        for (host, port) in [(&client, "client"), (&director, "director")]
            .into_iter()
            .chain(backends.iter().map(|backend| (backend, backend.name())))
        {
            lab.cable((host, "eth0"), (&router, port));
        }
        set_up_router(&router);
        client.sh("ip addr add 10.0.9.2/24 dev eth0; ip route add default via 10.0.9.1");
        director.sh("ip addr add 10.0.1.2/24 dev eth0; ip route add default via 10.0.1.1");
        director.set_sysctl("ipv4/ip_forward", 1);
        for (backend, (_, address)) in backends.iter().zip(BACKENDS) {
            set_up_backend(backend, address);
        }
        meet(&client, "eth0", &["10.0.9.1"]);
        meet(&director, "eth0", &["10.0.1.1", "10.0.1.11", "10.0.1.12"]);
        meet(&router, "segment", &[DIRECTOR, "10.0.1.11", "10.0.1.12"]);
        meet(&router, "b3", &["10.0.2.13"]);
        meet(&router, "client", &[CLIENT]);
        Self {
            client,
            router,
            director,
            backends: serve(backends, setup),
        }
    }

    /// One more backend beside b1 and b2, on an address of their segment.
    pub(crate) fn join_backend(&self, lab: &Lab, name: &str, address: &str) -> Backend {
        let node = lab.node(name);
        lab.cable((&node, "eth0"), (&self.router, name));
        self.router
            .run(&format!("ip link set {name} master segment"));
        set_up_backend(&node, address);
        meet(&self.director, "eth0", &[address]);
        meet(&self.router, "segment", &[address]);
        let [backend] = serve([node], Setup::ByTunlb);
        backend
    }

    /// The client and the backends, where TCP connections end.
    pub(crate) fn nodes(&self) -> impl Iterator<Item = &Node> {
        let backends = self.backends.iter().map(|backend| &backend.node);
        backends.chain([&self.client])
    }

    /// Starts a director; `arguments` follow `tunlb run`.
    pub(crate) fn run(&self, arguments: &[&str]) -> Director {
        let mut command = self.director.command(tunlb());
        command.arg("run").args(arguments);
        Director(self.director.start("run", command, "forwarding"))
    }

    /// Starts a director for HTTP to all three backends.
    pub(crate) fn run_http(&self) -> Director {
        let mut arguments = vec!["--vip", WEB];
        for (_, address) in BACKENDS {
            arguments.extend(["--backend", address]);
        }
        self.run(&arguments)
    }

    /// One HTTP request through the VIP; returns the name of the backend that answered.
    pub(crate) fn get(&self) -> String {
        let curl = format!("curl --silent --show-error --fail --max-time 20 {URL}");
        self.client.run(&curl).trim().to_owned()
    }

    /// `count` connections, all open before the first request, from the ports that follow
    /// `first_port`; returns each port's answering backend. Every request must be answered 200 OK.
    pub(crate) fn get_in_parallel(&self, count: u16, first_port: u16) -> BTreeMap<u16, String> {
        let [count_text, port_text] = [count, first_port].map(|number| number.to_string());
        let arguments = [VIP, "80", &count_text, &port_text];
        let answers = self.client.run_python(PARALLEL_GET, &arguments);
        let answers: BTreeMap<_, _> = answers.lines().map(answer).collect();
        assert_eq!(
            answers.len(),
            usize::from(count),
            "not all were answered: {answers:?}"
        );
        answers
    }

    /// Waits until the director has read as many packets from its TUN, so that stopping it loses none.
    pub(crate) fn wait_until_read(&self, packets: u64) {
        let mut read = 0;
        wait_until(&format!("{packets} packets out of tunlb0"), || {
            read = self.director.device_counter("tunlb0", "tx_packets");
            read >= packets
        });
    }

    /// How many packets the client's TCP and UDP have sent, once its last connection has closed, so
    /// that no more follow.
    pub(crate) fn sent_by_client(&self) -> u64 {
        wait_until("the client's connections to close", || {
            let open = self
                .client
                .run("ss --no-header --numeric --tcp state connected exclude time-wait");
            open.is_empty()
        });
        self.client.counter("Ip", "OutRequests")
    }

    /// An operator's rule comes before that of `tunlb decap --setup`, so that the backends announce segments
    /// that fit their own device, and not the tunnel.
    pub(crate) fn announce_too_much(&self) {
        for backend in &self.backends {
            let rule = format!("ip rule add from {VIP} lookup main priority 100");
            backend.node.run(&rule);
        }
    }

    /// Stops all decapsulators; returns their totals.
    pub(crate) fn stop_backends(self) -> [BTreeMap<String, u64>; 3] {
        self.backends
            .map(|backend| of_decap(&succeeded(backend.decap.stop(Signal::Term)).stdout))
    }
}

/// `PORT STATUS BODY`
fn answer(line: &str) -> (u16, String) {
    let words: Vec<_> = line.split(' ').collect();
    let [port, "200", backend] = words[..] else {
        panic!("not answered 200 OK: {line}");
    };
    (port.parse().expect("a port"), backend.to_owned())
}

impl Backend {
    /// What the decapsulator has counted until now.
    pub(crate) fn totals_so_far(&self) -> BTreeMap<String, u64> {
        self.decap.signal(Signal::Usr1);
        let text = self.decap.stdout();
        text.lines().last().map(of_decap).unwrap_or_default()
    }
}

impl Director {
    /// Ends the director; it must end well.
    pub(crate) fn stop(self) -> Totals {
        Totals::parse(&succeeded(self.0.stop(Signal::Term)).stdout)
    }
}

pub(crate) fn succeeded(ended: Ended) -> Ended {
    assert!(
        ended.status.success(),
        "{}:\n{}{}",
        ended.status,
        ended.stdout,
        ended.stderr
    );
    ended
}

fn set_up_router(router: &Node) {
    router.set_sysctl("ipv4/ip_forward", 1);
    router.sh("ip link add segment type bridge mcast_snooping 0
         for port in director b1 b2; do ip link set $port master segment; done
         ip link set segment up
         ip addr add 10.0.1.1/24 dev segment
         ip addr add 10.0.2.1/24 dev b3
         ip addr add 10.0.9.1/24 dev client
         ip route add 10.0.0.100/32 via 10.0.1.2");
}

fn set_up_backend(backend: &Node, address: &str) {
    let gateway = if address.starts_with("10.0.1.") {
        "10.0.1.1"
    } else {
        "10.0.2.1"
    };
    backend.sh(&format!(
        "ip addr add {address}/24 dev eth0; ip route add default via {gateway}"
    ));
}

/// Resolves neighbours before the traffic comes, without a packet that a test would count: a burst
/// towards one that is not yet resolved loses what does not fit its queue (`unres_qlen_bytes`).
fn meet(node: &Node, device: &str, neighbours: &[&str]) {
    for neighbour in neighbours {
        node.run(&format!("ip neigh replace {neighbour} dev {device} use"));
    }
    // An entry that the neighbour's own question made is stale; it is good for packets all the same.
    wait_until("the neighbours' answers", || {
        let entries = node.run(&format!("ip neigh show dev {device}"));
        let known: Vec<_> = entries
            .lines()
            .filter_map(|entry| entry.split_once(" lladdr "))
            .map(|(address, _)| address)
            .collect();
        neighbours.iter().all(|neighbour| known.contains(neighbour))
    });
}

/// All programs of one kind start before the first is waited for.
fn serve<const N: usize>(nodes: [Node; N], setup: Setup) -> [Backend; N] {
    let decaps = nodes.each_ref().map(|node| {
        let mut command = node.command(tunlb());
        command.args(["decap", "--vip", VIP, "--director", "10.0.1.2/32"]);
        match setup {
            Setup::ByTunlb => {
                command.arg("--setup");
            }
            Setup::ByHand => {
                node.set_sysctl("ipv4/conf/eth0/arp_ignore", 1);
                node.set_sysctl("ipv4/conf/eth0/arp_announce", 2);
                node.run(&format!("ip addr add {VIP}/32 dev lo"));
            }
        }
        node.spawn(&format!("decap-{}", node.name()), command)
    });
    let decaps = decaps.map(|mut decap| {
        decap.wait_for("decapsulating");
        decap
    });
    let servers = nodes.each_ref().map(|node| {
        let command = node.python(HTTPD, &[node.name(), VIP]);
        node.spawn(&format!("httpd-{}", node.name()), command)
    });
    let servers = servers.map(|mut server| {
        server.wait_for("listening");
        server
    });
    let mut programs = decaps.into_iter().zip(servers);
    nodes.map(|node| {
        let (decap, httpd) = programs.next().expect("as many programs as nodes");
        Backend { node, decap, httpd }
    })
}
