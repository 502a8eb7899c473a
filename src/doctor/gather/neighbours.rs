//! VIPs in subnets of this machine: what the kernel answers for, and which other machines do.
//!
//! Each such VIP is asked for twice within a second, by ARP or a neighbour solicitation from this machine's
//! own address, as every packet to it would be; that disturbs nothing.

use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;

use super::network::Network;
use crate::doctor::facts::{Observed, VipOnDirector, VipOnLink};
use crate::io::netlink::ProxyNeighbour;
use crate::io::on_link::{self, Question, Subnets};

/// Adds to the VIPs what is so of those in a subnet.
pub(super) fn read(vips: &mut BTreeMap<IpAddr, VipOnDirector>, network: &mut Network) {
    let Ok(subnets) = network.subnets() else {
        return; // no subnet is known then, and D35 tells why nothing is
    };
    let entries = network.proxy_neighbours();
    let entries = entries.map(|entries| entries.into_iter().collect::<HashSet<_>>());
    let others = others(vips.keys().copied(), &subnets, network);
    for (&address, vip) in vips {
        let Some(subnet) = subnets.of(address) else {
            continue;
        };
        let has = |entries: &HashSet<ProxyNeighbour>| {
            let links = [subnet.link, 0]; // 0: on every device
            let mut entry = links
                .into_iter()
                .map(|link| ProxyNeighbour { link, address });
            entry.any(|entry| entries.contains(&entry))
        };
        let macs = |others: &BTreeMap<IpAddr, Vec<String>>| others.get(&address).cloned();
        vip.on_link = Some(VipOnLink {
            subnet: subnet.net,
            device: subnet.device.clone(),
            entry: Observed::from(entries.as_ref().map(has)),
            others: Observed::from(others.as_ref().map(macs).map(Option::unwrap_or_default)),
        });
    }
}

/// The other machines that answer, per address.
fn others(
    addresses: impl Iterator<Item = IpAddr>,
    subnets: &Subnets,
    network: &Network,
) -> Result<BTreeMap<IpAddr, Vec<String>>, String> {
    let question = |address| {
        let subnet = subnets.of(address)?;
        Some(Question { address, subnet })
    };
    let questions: Vec<_> = addresses.filter_map(question).collect();
    if questions.is_empty() {
        return Ok(BTreeMap::new());
    }
    let own: Vec<_> = network
        .devices()
        .iter()
        .filter_map(|link| link.mac)
        .collect();
    let claims = on_link::ask(&questions, &own)
        .map_err(|error| format!("packet socket: {error}; needs CAP_NET_RAW; run as root"))?;
    let texts = |(address, macs): (IpAddr, std::collections::BTreeSet<_>)| {
        let macs = macs.iter().map(ToString::to_string).collect();
        (address, macs)
    };
    Ok(claims.into_iter().map(texts).collect())
}
