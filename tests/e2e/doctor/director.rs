//! The director's own faults: rows 35 to 38.

use super::bench::{Diagnosis, answers, examine, forget_sysctl_files, mend};
use crate::enter::in_lab;
use crate::lab::{Lab, Node, wait_until};
use crate::site::{Director, Site, URL};

pub(super) const CONFIG: &str = "
[[vip]]
name = \"web\"
address = \"10.0.0.100\"
port = 80
protocol = \"tcp\"
[[vip.backend]]
address = \"10.0.1.11\"
";

/// Name, verdict, shell that makes the fault, shell that undoes it; the service is dead meanwhile.
const FAULTS: [(&str, &str, &str, &str); 8] = [
    (
        "the VIP on lo",
        "fail D35",
        "ip addr add 10.0.0.100/32 dev lo",
        "ip addr del 10.0.0.100/32 dev lo || :",
    ),
    (
        "no route into the TUN",
        "fail D35",
        "ip route del 10.0.0.100 dev tunlb0",
        "ip route replace 10.0.0.100 dev tunlb0",
    ),
    (
        "the TUN is down",
        "fail D35",
        "ip link set tunlb0 down",
        "ip link set tunlb0 up; ip route replace 10.0.0.100 dev tunlb0",
    ),
    (
        "no forwarding",
        "fail D35",
        "echo 0 >/proc/sys/net/ipv4/ip_forward",
        "echo 1 >/proc/sys/net/ipv4/ip_forward",
    ),
    (
        "no route to the backend",
        "fail D38",
        "ip route add unreachable 10.0.1.11",
        "ip route del unreachable 10.0.1.11 || :",
    ),
    (
        "nft drops protocol 4",
        "fail D38",
        "nft add table inet fault
         nft 'add chain inet fault out { type filter hook output priority 0; }'
         nft add rule inet fault out meta l4proto 4 drop",
        "nft delete table inet fault",
    ),
    (
        "iptables drops protocol 4",
        "fail D38",
        "iptables-nft -A OUTPUT -p 4 -j DROP",
        "nft flush ruleset",
    ),
    (
        "iptables-legacy drops protocol 4",
        "fail D38",
        "iptables-legacy -A OUTPUT -p 4 -j DROP",
        "iptables-legacy -F",
    ),
];

#[test]
fn faults_of_a_director() {
    in_lab(|lab| {
        let (site, _director, config) = set_up(lab, CONFIG);
        let examine = || examine(&site.director, &["--role", "director", "-c", &config]);
        let healthy = examine();
        healthy.must_be("pass");
        let mut wrong = Vec::new();
        for (name, verdict, inject, undo) in FAULTS {
            site.director.sh(inject);
            let judged = judge(&site, &examine, verdict);
            site.director.sh(undo);
            let after = examine();
            assert_eq!(
                after.verdict(),
                "pass",
                "{name}, undone: {}",
                after.complaints()
            );
            wrong.extend(judged.err().map(|wrong| format!("{name}: {wrong}")));
        }
        let (right, all) = (FAULTS.len() - wrong.len(), FAULTS.len());
        println!("figure: {right} of {all} faults of a director judged right");
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    });
}

fn judge(site: &Site, examine: &impl Fn() -> Diagnosis, verdict: &str) -> Result<(), String> {
    let diagnosis = examine();
    if diagnosis.verdict() != verdict {
        let (found, complaints) = (diagnosis.verdict(), diagnosis.complaints());
        return Err(format!("{found} instead of {verdict}\n{complaints}"));
    }
    // A running director hears of a new rule, and looks at all of them every other second.
    wait_until("the client to go without an answer", || {
        !answers(&site.client, URL, "0.5")
    });
    let is_mendable = !diagnosis.fix_of_verdict().is_empty();
    let mended = mend(&site.director, examine, diagnosis)?;
    if is_mendable && mended.verdict() != "pass" {
        return Err(format!(
            "mended: {}\n{}",
            mended.verdict(),
            mended.complaints()
        ));
    }
    if mended.verdict() == "pass" && !answers(&site.client, URL, "5") {
        return Err("mended, but the client gets no answer".to_owned());
    }
    Ok(())
}

/// Row 36 hits the director's own requests only; row 38 a backend that is not there.
#[test]
fn faults_that_no_client_sees() {
    in_lab(|lab| {
        let (site, _director, config) = set_up(lab, CONFIG);
        let arguments = ["--role", "director", "-c", &config];
        let own_request = || answers(&site.director, URL, "0.5");
        assert!(own_request());
        site.director.set_sysctl("ipv4/conf/all/rp_filter", 1);
        assert!(!own_request());
        let diagnosis = examine(&site.director, &arguments);
        diagnosis.must_be("fail D36");
        let examine_again = || examine(&site.director, &arguments);
        let mended = mend(&site.director, examine_again, diagnosis).expect("a mend");
        mended.must_be("pass");
        assert!(own_request());

        site.director.run("ip link set tunlb0 mtu 1480");
        let diagnosis = examine(&site.director, &arguments);
        diagnosis.must_be("warn D38");
        site.director.run("ip link set tunlb0 mtu 1500");

        let gone = lab.file("gone.toml", CONFIG.replace("10.0.1.11", "10.0.1.77"));
        let diagnosis = examine(&site.director, &["-c", &gone.display().to_string()]);
        diagnosis.must_be("fail D38");
    });
}

#[test]
fn no_director_runs() {
    in_lab(|lab| {
        let (site, director, config) = set_up(lab, CONFIG);
        let found = examine(&site.director, &[]);
        assert_eq!(found.document["role"], "director");
        found.must_be("pass");
        director.stop();
        let diagnosis = examine(&site.director, &["-c", &config]);
        diagnosis.must_be("fail D35");
        let fix = diagnosis.fix_of_verdict().join("\n");
        assert!(fix.contains("tunlb run"), "{fix}");
    });
}

/// A site whose director runs by a file.
fn set_up(lab: &Lab, config: &str) -> (Site, Director, String) {
    forget_sysctl_files(lab);
    let site = Site::by_hand(lab);
    let path = lab.file("director.toml", config).display().to_string();
    let director = site.run(&["-c", &path]);
    assert!(is_answered(&site.client), "a site that works");
    (site, director, path)
}

fn is_answered(client: &Node) -> bool {
    answers(client, URL, "5")
}
