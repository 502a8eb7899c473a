//! Any text as the output of nft or iptables-save: rules that a packet is judged by, or an error.
#![no_main]

use std::net::IpAddr;

use libfuzzer_sys::fuzz_target;
use tunlb::doctor::Observed;
use tunlb::doctor::facts::FirewallFacts;
use tunlb::doctor::firewall::{FilterPath, FilteredPacket, Firewall};

fuzz_target!(|text: &str| {
    let text = Observed::Seen(text.to_owned());
    let empty = || Observed::Seen(String::new());
    let programs = ["iptables-legacy-save", "ip6tables-nft-save"];
    let all = [
        FirewallFacts {
            nft: text.clone(),
            ..FirewallFacts::default()
        },
        FirewallFacts {
            nft: empty(),
            iptables: programs.map(|name| (name.to_owned(), text.clone())).into(),
            ..FirewallFacts::default()
        },
    ];
    for facts in all {
        match Firewall::parse(&facts) {
            Ok(firewall) => judge(&firewall),
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    }
});

fn judge(firewall: &Firewall) {
    let [four, six] = ["10.0.0.1", "2001:db8::1"].map(|text| text.parse::<IpAddr>().expect("an address"));
    for path in [FilterPath::ToThisHost, FilterPath::FromThisHost, FilterPath::Through] {
        for (address, protocol) in [(four, 4), (four, 6), (six, 41), (six, 17)] {
            let packet = FilteredPacket::new(path, address, address, protocol);
            drop((firewall.judge(&packet), firewall.tracking(&packet), firewall.mark(&packet)));
        }
    }
    drop(firewall.rules_naming_protocol(94));
    let _ = firewall.uses_conntrack();
}
