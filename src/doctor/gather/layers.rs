//! What sees packets beside packet filters: filters of tc, XDP programs, filters of a bridge, IPsec policies. The
//! tools run only where the kernel says that there is something.

use serde_json::Value as Json;

use super::DEADLINE;
use super::network::Network;
use crate::doctor::facts::{DeviceLayer, FirewallFacts, IpsecPolicy, Layers, Observed, Sees};
use crate::io::command;
use crate::io::netlink::{
    Netlink, QueueingCounts, QueueingDiscipline, QueueingPlace, ipsec_policies,
};

/// All there is on this machine's devices, and its policies.
pub(super) fn read(network: &Network, firewall: &FirewallFacts) -> Layers {
    let mut on_devices = traffic_filters(network);
    on_devices.extend(xdp_programs());
    on_devices.extend(bridge_filters(network, firewall));
    Layers {
        on_devices,
        ipsec: policies(),
    }
}

/// Filters at the hooks of devices that have any.
fn traffic_filters(network: &Network) -> Vec<DeviceLayer> {
    let disciplines = Netlink::open().and_then(|mut netlink| netlink.queueing_disciplines());
    let mut layers = Vec::new();
    for hook in disciplines.unwrap_or_default() {
        let Some(device) = network.name_of(hook.link) else {
            continue;
        };
        if hook.place != QueueingPlace::Hook {
            layers.extend(queue(device, &hook));
            continue;
        }
        let sides = [("ingress", Sees::Arrivals), ("egress", Sees::Departures)];
        for (side, sees) in sides {
            let arguments = ["filter", "show", "dev", device.as_str(), side];
            let shown = command::output("tc", &arguments, DEADLINE);
            // Without `tc` it is not known whether the hook has filters; it was made for some.
            let text =
                shown.unwrap_or_else(|error| format!("filters that cannot be shown: {error}"));
            if let Some(first) = text.lines().find(|line| !line.trim().is_empty()) {
                layers.push(DeviceLayer {
                    device: device.clone(),
                    sees,
                    text: format!("tc {side} of {device}: {}", first.trim()),
                    own: false,
                    queue: None,
                });
            }
        }
    }
    layers
}

/// A queue that shapes or loses packets; one that has done neither so far is none to name, but one that is made to.
fn queue(device: String, discipline: &QueueingDiscipline) -> Option<DeviceLayer> {
    let QueueingCounts {
        sent,
        dropped,
        waiting,
    } = discipline.counts;
    let acts = dropped > 0 || waiting > 0 || discipline.kind == "netem";
    let is_root = discipline.place == QueueingPlace::Root;
    (is_root && acts && discipline.acts_on_departures()).then(|| DeviceLayer {
        text: format!("tc qdisc {} of {device}", discipline.kind),
        device,
        sees: Sees::Departures,
        own: false,
        queue: Some([sent, dropped, waiting]),
    })
}

/// tunlb's own XDP programs, by the names that the kernel has for them.
const OWN_PROGRAMS: [&str; 3] = ["tunlb_director", "tunlb_xsk", "tunlb_decap"];

fn xdp_programs() -> Vec<DeviceLayer> {
    let arguments = ["-details", "-json", "link", "show"];
    programs_in(&command::output("ip", &arguments, DEADLINE).unwrap_or_default())
}

/// `ip -details -json link`: `"xdp": {"mode": 1, "prog": {"id": 17, "name": "firewall"}}`; the name shows to root alone.
fn programs_in(shown: &str) -> Vec<DeviceLayer> {
    let links: Vec<Json> = serde_json::from_str(shown).unwrap_or_default();
    let layers = links.iter().filter_map(|link| {
        let device = link.get("ifname")?.as_str()?;
        let program = link.get("xdp")?.get("prog")?;
        let id = program.get("id")?.as_u64()?;
        let name = program.get("name").and_then(Json::as_str);
        let called = name.map_or_else(|| id.to_string(), |name| format!("{name} ({id})"));
        Some(DeviceLayer {
            device: device.to_owned(),
            sees: Sees::Arrivals,
            text: format!("XDP program {called} on {device}"),
            own: name.is_some_and(|name| OWN_PROGRAMS.contains(&name)),
            queue: None,
        })
    });
    layers.collect()
}

/// Rules for frames that pass a bridge: by nftables; those of ebtables' older implementation do not show.
fn bridge_filters(network: &Network, firewall: &FirewallFacts) -> Vec<DeviceLayer> {
    let by_nft = firewall.nft.seen().is_some_and(|text| {
        let text = text.replace(' ', "");
        text.contains("\"rule\":{\"family\":\"bridge\"")
    });
    let by_ebtables = ["filter", "nat", "broute"]
        .iter()
        .any(|table| std::path::Path::new(&format!("/sys/module/ebtable_{table}")).exists());
    if !by_nft && !by_ebtables {
        return Vec::new();
    }
    let bridges = network
        .devices()
        .iter()
        .filter(|link| link.kind.as_deref() == Some("bridge"));
    let layers = bridges.flat_map(|bridge| {
        [Sees::Arrivals, Sees::Departures].map(|sees| DeviceLayer {
            device: bridge.name.clone(),
            sees,
            text: format!("filter of the bridge {} (ebtables)", bridge.name),
            own: false,
            queue: None,
        })
    });
    layers.collect()
}

fn policies() -> Vec<IpsecPolicy> {
    if ipsec_policies().is_ok_and(|count| count == 0) {
        return Vec::new();
    }
    match Observed::from(command::output("ip", &["xfrm", "policy"], DEADLINE)) {
        Observed::Seen(text) => parse(&text),
        Observed::Unseen(_) => Vec::new(),
    }
}

/// A policy begins at the start of a line; what belongs to it is indented.
fn parse(text: &str) -> Vec<IpsecPolicy> {
    let mut blocks: Vec<String> = Vec::new();
    for line in text.lines() {
        match blocks.last_mut() {
            Some(block) if line.starts_with(char::is_whitespace) => {
                block.push(' ');
                block.push_str(line.trim());
            }
            _ => blocks.push(line.trim().to_owned()),
        }
    }
    blocks.iter().filter_map(|block| policy(block)).collect()
}

/// `src 0.0.0.0/0 dst 10.0.0.100/32 dir in action block priority 0 tmpl src …`
fn policy(block: &str) -> Option<IpsecPolicy> {
    let words: Vec<_> = block.split_whitespace().collect();
    let after = |word: &str| {
        let at = words.iter().position(|found| *found == word)?;
        words.get(at + 1).copied()
    };
    let sees = match after("dir")? {
        "in" => Sees::Arrivals,
        "out" => Sees::Departures,
        _ => return None,
    };
    let has = |word: &str| words.contains(&word);
    let optional = words.windows(2).any(|pair| pair == ["level", "use"]);
    Some(IpsecPolicy {
        sees,
        source: after("src")?.parse().ok()?,
        destination: after("dst")?.parse().ok()?,
        stops_plain: after("action") == Some("block") || (has("tmpl") && !optional),
        text: block.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_of_tunlb_are_its_own() {
        let shown = r#"[{"ifname": "lo"},
            {"ifname": "eth0", "xdp": {"mode": 1, "prog": {"id": 17, "name": "tunlb_director", "jited": 1}}},
            {"ifname": "eth1", "xdp": {"mode": 2, "prog": {"id": 18, "name": "firewall"}}},
            {"ifname": "eth2", "xdp": {"mode": 1, "prog": {"id": 19}}}]"#;
        let found = programs_in(shown);
        let short: Vec<_> = found
            .iter()
            .map(|layer| (layer.text.as_str(), layer.own))
            .collect();
        assert_eq!(
            short,
            [
                ("XDP program tunlb_director (17) on eth0", true),
                ("XDP program firewall (18) on eth1", false),
                ("XDP program 19 on eth2", false),
            ]
        );
    }

    #[test]
    fn own_programs_have_these_names() {
        let sources = [
            include_str!("../../../bpf/tunlb.bpf.c"),
            include_str!("../../../bpf/tunlb_xsk.bpf.c"),
            include_str!("../../../bpf/tunlb_decap.bpf.c"),
        ];
        for (name, source) in OWN_PROGRAMS.iter().zip(sources) {
            assert!(
                source.contains(&format!("\nint {name}(struct xdp_md")),
                "{name}"
            );
        }
    }

    #[test]
    fn policies_of_ip_xfrm() {
        let text = "src 0.0.0.0/0 dst 10.0.0.100/32 \n\tdir in action block priority 0 \nsrc 10.0.0.0/8 dst 10.9.0.0/16 \n\
             \tdir out priority 0 \n\ttmpl src 0.0.0.0 dst 0.0.0.0\n\t\tproto esp reqid 0 mode transport\n\
             src 0.0.0.0/0 dst 0.0.0.0/0 \n\tdir in priority 0 \nsrc ::/0 dst ::/0 \n\tdir fwd priority 0 \n\
             src 0.0.0.0/0 dst 0.0.0.0/0 \n\tsocket in priority 0 \n";
        let found = parse(text);
        let short: Vec<_> = found
            .iter()
            .map(|policy| {
                (
                    policy.sees,
                    policy.destination.to_string(),
                    policy.stops_plain,
                )
            })
            .collect();
        assert_eq!(
            short,
            [
                (Sees::Arrivals, "10.0.0.100/32".to_owned(), true),
                (Sees::Departures, "10.9.0.0/16".to_owned(), true),
                (Sees::Arrivals, "0.0.0.0/0".to_owned(), false),
            ]
        );
    }
}
