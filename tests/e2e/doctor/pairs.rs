//! Two faults at once: the one that a packet meets first is the verdict, and mending what the doctor
//! says, one after the other, brings the service back.

use super::bench::Bench;
use super::fault::{Effect, Fault, named};
use crate::enter::in_lab;

/// The decisive one first. A fault goes before a risk, wherever it is.
const PAIRS: &[(&str, &str)] = &[
    ("nft drops protocol 4", "strict rp_filter on all"),
    ("nft drops protocol 4", "no VIP"),
    ("nft takes protocol 94, called ipip", "no VIP"),
    ("nft takes ssh only", "no route"),
    ("iptables drops protocol 4", "nft drops the answer"),
    ("no VIP", "strict rp_filter on the tunnel device"),
    (
        "no VIP",
        "loose rp_filter on all, no address on the tunnel device",
    ),
    ("no VIP", "nft drops the answer"),
    ("no VIP", "no route"),
    ("no VIP on a router", "strict rp_filter on all"),
    (
        "VIP/20 on lo: the client's subnet, too",
        "strict rp_filter on all",
    ),
    ("no route", "strict rp_filter on all"),
    (
        "no route",
        "loose rp_filter on all, no address on the tunnel device",
    ),
    ("no route", "reverse-path check in nft"),
    (
        "a policy rule without the VIP",
        "loose rp_filter on the tunnel device, which has no address",
    ),
    ("the way back into the tunnel", "strict rp_filter on all"),
    ("a gateway that does not answer", "strict rp_filter on all"),
    (
        "the client's address is here, too",
        "strict rp_filter on all",
    ),
    (
        "strict rp_filter on the tunnel device",
        "reverse-path check in nft",
    ),
    (
        "strict rp_filter on all",
        "nft rejects the inner packet in a chain of its own",
    ),
    ("strict rp_filter on all", "VIP on eth0"),
    (
        "strict rp_filter on all",
        "VIP/24 on lo: not the client's subnet",
    ),
    (
        "loose rp_filter on all, no address on the tunnel device",
        "nft drops the answer",
    ),
    (
        "reverse-path check in nft",
        "nft rejects the inner packet in a chain of its own",
    ),
    ("nft drops the answer", "nft masquerades"),
    (
        "invalid packets are dropped, flows taken up nowhere but at their SYN",
        "nft masquerades",
    ),
    ("nft masquerades", "ARP announces the VIP"),
    ("VIP/24 on lo: not the client's subnet", "ARP is answered"),
    ("ARP is answered", "ARP announces the VIP"),
];

#[test]
fn the_earlier_of_two_faults() {
    in_lab(|lab| {
        let bench = Bench::new(lab);
        let judge = |(first, second): &(&str, &str)| judge(&bench, named(first), named(second));
        let wrong: Vec<_> = PAIRS.iter().filter_map(|pair| judge(pair).err()).collect();
        let (right, all) = (PAIRS.len() - wrong.len(), PAIRS.len());
        println!(
            "{}",
            bench.figure(&format!("{right} of {all} pairs of faults judged right"))
        );
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    });
}

fn judge(bench: &Bench, first: &Fault, second: &Fault) -> Result<(), String> {
    bench.backend().sh(first.inject);
    bench.backend().sh(second.inject);
    let judged = compare(bench, first);
    bench.backend().sh(second.undo);
    bench.backend().sh(first.undo);
    let after = bench.examine();
    let names = format!("{} + {}", first.name, second.name);
    assert_eq!(
        after.verdict(),
        "pass",
        "{names}, undone: {}",
        after.complaints()
    );
    judged.map_err(|wrong| format!("{names}: {wrong}"))
}

fn compare(bench: &Bench, first: &Fault) -> Result<(), String> {
    let diagnosis = bench.examine();
    if !first.is_called(&diagnosis.verdict()) {
        let (found, complaints) = (diagnosis.verdict(), diagnosis.complaints());
        return Err(format!(
            "{found} instead of {}\n{complaints}",
            first.verdict
        ));
    }
    if diagnosis.status() != "fail" || first.effect == Effect::DeadElsewhere {
        return Ok(());
    }
    bench.mend(diagnosis)
}
