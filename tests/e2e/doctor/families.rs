//! Every inner family in every outer one, by IPIP and by GUE: nothing is wrong there.

use super::bench::{answers, examine, forget_sysctl_files};
use crate::enter::in_lab;
use crate::families::{COMBINATIONS, DualStack, host};

#[test]
fn every_family_is_healthy() {
    in_lab(|lab| {
        forget_sysctl_files(lab);
        let site = DualStack::new(lab);
        let _director = site.run(lab);
        let mut wrong = Vec::new();
        for (name, vip, backend, kind, _) in COMBINATIONS {
            let url = format!("http://{}/", host(vip));
            assert!(answers(&site.client, &url, "5"), "{name}");
            let diagnosis = examine(&site.backend, &arguments(vip, backend, kind));
            // Without ARP on an IPv6 segment there is nothing to warn of; the rest is as for IPv4.
            if diagnosis.verdict() != "pass" {
                wrong.push(format!(
                    "{name}: {}\n{}",
                    diagnosis.verdict(),
                    diagnosis.complaints()
                ));
            }
        }
        let (all, false_alarms) = (COMBINATIONS.len(), wrong.len());
        println!("figure: {false_alarms} false alarms of {all} pairs of families and tunnels");
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    });
}

#[test]
fn faults_of_an_ipv6_vip() {
    in_lab(|lab| {
        forget_sysctl_files(lab);
        let site = DualStack::by_hand(lab);
        let _director = site.run(lab);
        let (name, vip, backend, kind, _) = COMBINATIONS[2];
        assert_eq!(name, "6in4");
        let url = format!("http://{}/", host(vip));
        for (verdict, inject, undo) in [
            (
                "fail B5",
                "ip addr del 2001:db8::103/128 dev lo",
                "ip addr replace 2001:db8::103/128 dev lo nodad",
            ),
            (
                "fail B15",
                "ip route del 2001:db8:9::/64",
                "ip route replace 2001:db8:9::/64 via 2001:db8:8::2",
            ),
            (
                "fail B19",
                "nft add table inet fault
                 nft 'add chain inet fault in { type filter hook input priority 0; }'
                 nft add rule inet fault in ip6 daddr 2001:db8::103 tcp dport 80 drop",
                "nft delete table inet fault",
            ),
            (
                "fail B19",
                "nft add table inet fault
                 nft 'add chain inet fault in { type filter hook input priority 0; }'
                 nft add rule inet fault in ip protocol 41 drop",
                "nft delete table inet fault",
            ),
        ] {
            site.backend.sh(inject);
            let diagnosis = examine(&site.backend, &arguments(vip, backend, kind));
            assert_eq!(
                diagnosis.verdict(),
                verdict,
                "{inject}: {}",
                diagnosis.complaints()
            );
            assert!(!answers(&site.client, &url, "0.5"), "{inject}");
            site.backend.sh(undo);
            assert!(answers(&site.client, &url, "5"), "{undo}");
        }
    });
}

/// What names the way of a VIP's packets: the client and the director of the families at hand.
fn arguments(vip: &str, backend: &str, kind: &str) -> Vec<&'static str> {
    let pick = |address: &str, four, six| if address.contains(':') { six } else { four };
    let text = |text: String| -> &'static str { text.leak() };
    vec![
        "--role",
        "backend",
        "--vip",
        text(format!("{}:80/tcp", host(vip))),
        "--client",
        pick(vip, "10.0.9.2", "2001:db8:9::2"),
        "--director",
        pick(backend, "10.0.1.2", "2001:db8:1::2"),
        "--encap",
        if kind == "gue" { "gue" } else { "ipip" },
    ]
}
