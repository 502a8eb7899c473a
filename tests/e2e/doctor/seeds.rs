//! The questions that the doctor was made for, as their askers met them.

use super::bench::{Bench, Diagnosis, answers, examine, forget_sysctl_files, mend};
use crate::enter::{in_lab, tunlb};
use crate::lab::{Lab, Node};
use crate::process::Process;
use crate::site::HTTPD;

/// The tunnel's end was set up by hand, and the VIP forgotten.
#[test]
fn lvs_tunnel_mode_without_vip() {
    in_lab(|lab| {
        let bench = Bench::new(lab);
        bench.backend().run("ip addr del 10.0.0.100/32 dev lo");
        assert_mended(&bench, "fail B5");
    });
}

/// The backend's gateway is the director, as in NAT mode. Its kernel takes the answers, whose source it
/// would reach by the TUN, for forged ones: distributions set strict or loose rp_filter, here strict.
#[test]
fn lvs_tunnel_mode_wrong_route() {
    in_lab(|lab| {
        let bench = Bench::new(lab);
        bench
            .site
            .director
            .set_sysctl("ipv4/conf/eth0/rp_filter", 1);
        bench.backend().run("ip route replace default via 10.0.1.2");
        assert_mended(&bench, "warn B16");
    });
}

/// A firewall that was right before the tunnel came.
#[test]
fn lvs_tunnel_mode_firewall() {
    in_lab(|lab| {
        let bench = Bench::new(lab);
        bench.backend().sh(
            "iptables-nft -A INPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT
             iptables-nft -A INPUT -i lo -j ACCEPT
             iptables-nft -A INPUT -p tcp -m multiport --dports 22,80,443 -j ACCEPT
             iptables-nft -A INPUT -j REJECT --reject-with icmp-host-prohibited",
        );
        let diagnosis = assert_mended(&bench, "fail B19");
        assert!(
            diagnosis.contains("-p 4"),
            "protocol 4 is accepted by its number: {diagnosis}"
        );
    });
}

/// The client is not answered; what the doctor says mends it. Returns the commands of the first finding.
fn assert_mended(bench: &Bench, verdict: &str) -> String {
    assert!(!bench.answers_at_once());
    let diagnosis = bench.examine();
    assert_eq!(diagnosis.verdict(), verdict, "{}", diagnosis.complaints());
    let fix = diagnosis.fix_of_verdict().join("\n");
    bench.mend(diagnosis).expect("a mend");
    assert_eq!(bench.examine().verdict(), "pass");
    fix
}

/// "Real Server doesn't send response to user": the addresses of the report, on one segment as in
/// netns-scripts/katran-241.sh. The tunnel's packets arrive and no SYN-ACK leaves.
#[test]
fn katran_issue_241() {
    in_lab(|lab| {
        let segment = Segment::new(lab);
        segment.backend.set_sysctl("ipv4/conf/all/rp_filter", 1);
        assert!(!segment.answers("0.5"));
        let diagnosis = segment.examine();
        diagnosis.must_be("fail B10");
        let summary = diagnosis.document["verdict"]["summary"].to_string();
        assert!(
            summary.contains("decap0") && summary.contains("rp_filter"),
            "{summary}"
        );
        segment.assert_mended(diagnosis);
        assert!(segment.answers("5"));
    });
}

/// Where the VIP is of the segment's subnet, a backend that answers or announces it by ARP draws clients
/// past the director.
#[test]
fn arp_flux() {
    in_lab(|lab| {
        let segment = Segment::new(lab);
        segment.client.run("ip route del 31.3.7.2/32");
        assert!(
            !segment.answers("0.5"),
            "the director does not answer ARP for it either"
        );
        for (key, value, verdict) in [("arp_announce", 0, "fail B9"), ("arp_ignore", 0, "fail B8")]
        {
            segment
                .backend
                .set_sysctl(&format!("ipv4/conf/eth0/{key}"), value);
            let diagnosis = segment.examine();
            assert_eq!(diagnosis.verdict(), verdict, "{}", diagnosis.complaints());
            if key == "arp_ignore" {
                assert!(
                    segment.answers("5"),
                    "the backend answers past the director"
                );
            }
            segment.assert_mended(diagnosis);
        }
        segment.client.run("ip neigh flush dev eth0");
        assert!(!segment.answers("0.5"));
    });
}

/// One segment with the addresses of katran's issue 241, and a service on the VIP's port 22.
struct Segment {
    client: Node,
    backend: Node,
    _programs: [Process; 3],
}

impl Segment {
    fn new(lab: &Lab) -> Self {
        let [client, director, backend] = segment(lab);
        backend.sh("ip addr add 31.3.7.2/32 dev lo
             echo 1 >/proc/sys/net/ipv4/conf/eth0/arp_ignore
             echo 2 >/proc/sys/net/ipv4/conf/eth0/arp_announce");
        let mut command = backend.command(tunlb());
        command.args(["decap", "--vip", "31.3.7.2", "--director", "31.3.7.141"]);
        let decap = backend.start("decap", command, "decapsulating");
        let command = backend.python(HTTPD, &["backend", "31.3.7.2", "22"]);
        let service = backend.start("service", command, "listening");
        let mut command = director.command(tunlb());
        command.args(["run", "--vip", "31.3.7.2:22/tcp", "--backend", "31.3.7.150"]);
        let run = director.start("run", command, "forwarding");
        let site = Self {
            client,
            backend,
            _programs: [decap, service, run],
        };
        assert!(site.answers("5"), "a site that works");
        site
    }

    fn answers(&self, seconds: &str) -> bool {
        answers(&self.client, "http://31.3.7.2:22/", seconds)
    }

    fn examine(&self) -> Diagnosis {
        let way = [
            "--vip",
            "31.3.7.2:22/tcp",
            "--client",
            "31.3.7.140",
            "--director",
            "31.3.7.141",
        ];
        examine(&self.backend, &way)
    }

    fn assert_mended(&self, diagnosis: Diagnosis) {
        let mended = mend(&self.backend, || self.examine(), diagnosis).expect("a mend");
        mended.must_be("pass");
    }
}

fn segment(lab: &Lab) -> [Node; 3] {
    forget_sysctl_files(lab);
    let switch = lab.node("switch");
    switch.run("ip link add segment type bridge mcast_snooping 0");
    switch.run("ip link set segment up");
    let hosts = [("client", 140), ("director", 141), ("backend", 150)];
    let [client, director, backend] = hosts.map(|(name, host)| {
        let node = lab.node(name);
        lab.cable((&node, "eth0"), (&switch, name));
        switch.run(&format!("ip link set {name} master segment"));
        node.run(&format!("ip addr add 31.3.7.{host}/24 dev eth0"));
        node
    });
    director.set_sysctl("ipv4/ip_forward", 1);
    // As the report has it, and no host sends what would tell the client of a shorter way.
    for key in ["all", "eth0"] {
        director.set_sysctl(&format!("ipv4/conf/{key}/send_redirects"), 0);
    }
    client.run("ip route add 31.3.7.2/32 via 31.3.7.141");
    [client, director, backend]
}
