//! What the kernel drops on a director's behalf: before the TUN is read, and behind the sockets that took a packet.

use std::collections::{BTreeMap, BTreeSet};

use log::warn;

use super::model::Counts;
use crate::io::netlink::{Link, Netlink, NetlinkError, QueueingPlace};

/// What a queueing discipline and a device tell of their drops.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Dropped {
    /// By the device's own queueing discipline; begins anew when that is replaced.
    queueing: u32,
    /// By the device.
    device: u64,
}

/// Drops of the kernel since the director began.
#[derive(Debug)]
pub(super) struct Losses {
    tun: String,
    netlink: Option<Netlink>,
    /// By device, as last read.
    before: BTreeMap<String, Dropped>,
    told: Told,
}

/// As documents and metrics tell it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Told {
    /// Packets that the kernel dropped before they could be read.
    pub tun_drops: u64,
    /// Packets, anybody's, that the devices to the backends dropped on their way out.
    pub device_drops: Counts,
}

impl Losses {
    pub(super) fn new(tun: &str) -> Self {
        let netlink =
            Netlink::open().map_err(|error| warn!("cannot read the devices' drops: {error}"));
        Self {
            tun: tun.to_owned(),
            netlink: netlink.ok(),
            before: BTreeMap::new(),
            told: Told::default(),
        }
    }

    pub(super) const fn told(&self) -> &Told {
        &self.told
    }

    /// Looks at the TUN and at the `devices` to backends, with those below them. What cannot be read stays as it was.
    pub(super) fn read(&mut self, devices: &BTreeSet<&str>) {
        let Some(netlink) = &mut self.netlink else {
            return;
        };
        if let Ok(now) = look(netlink) {
            self.told.tun_drops += grown(&mut self.before, &now, &self.tun).device;
            for name in now.below(devices) {
                let Dropped { queueing, device } = grown(&mut self.before, &now, &name);
                let more = u64::from(queueing) + device;
                if more > 0 {
                    *self.told.device_drops.entry(name).or_default() += more;
                }
            }
        }
    }
}

/// Since the last look; nothing at the first.
fn grown(before: &mut BTreeMap<String, Dropped>, now: &Look, device: &str) -> Dropped {
    let Some(now) = now.dropped(device) else {
        return Dropped::default();
    };
    let before = before.insert(device.to_owned(), now).unwrap_or(now);
    // Less than before: the device or its discipline is another one.
    Dropped {
        queueing: now
            .queueing
            .checked_sub(before.queueing)
            .unwrap_or(now.queueing),
        device: now.device.checked_sub(before.device).unwrap_or(now.device),
    }
}

/// The host's devices, and what their queueing disciplines dropped.
#[derive(Debug)]
struct Look {
    links: Vec<Link>,
    /// By index of the device.
    queueing: BTreeMap<u32, u32>,
}

fn look(netlink: &mut Netlink) -> Result<Look, NetlinkError> {
    let links = netlink.links_that_show()?;
    // A kernel without queueing disciplines has no such messages either.
    let disciplines = netlink
        .queueing_disciplines()
        .unwrap_or_default()
        .into_iter();
    let own = disciplines.filter(|discipline| discipline.place == QueueingPlace::Root);
    Ok(Look {
        links,
        queueing: own
            .map(|discipline| (discipline.link, discipline.counts.dropped))
            .collect(),
    })
}

impl Look {
    fn dropped(&self, device: &str) -> Option<Dropped> {
        let link = self.links.iter().find(|link| link.name == device)?;
        Some(Dropped {
            queueing: self.queueing.get(&link.index).copied().unwrap_or_default(),
            device: link.tx_dropped,
        })
    }

    /// The devices, what VLANs and their like are on, and the ports of bonds and teams.
    fn below(&self, devices: &BTreeSet<&str>) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        let named = |link: &&Link| devices.contains(link.name.as_str());
        let mut left: Vec<&Link> = self.links.iter().filter(named).collect();
        while let Some(link) = left.pop() {
            if !found.insert(link.name.clone()) {
                continue;
            }
            let joins = matches!(link.kind.as_deref(), Some("bond" | "team"));
            let is_below = |other: &&Link| {
                link.lower == Some(other.index) || (joins && other.master == Some(link.index))
            };
            left.extend(self.links.iter().filter(is_below));
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(index: u32, name: &str, kind: Option<&str>, tx_dropped: u64) -> Link {
        Link {
            index,
            name: name.into(),
            kind: kind.map(str::to_owned),
            tx_dropped,
            ..Link::default()
        }
    }

    #[test]
    fn what_packets_leave_by_is_followed_down() {
        let mut vlan = link(4, "bond0.10", Some("vlan"), 0);
        vlan.lower = Some(3);
        let mut ports = [link(1, "eth0", None, 0), link(2, "eth1", None, 0)];
        for port in &mut ports {
            port.master = Some(3);
        }
        let [first, second] = ports;
        let mut on_bridge = link(6, "veth7", Some("veth"), 0);
        on_bridge.master = Some(5);
        let look = Look {
            links: vec![
                first,
                second,
                link(3, "bond0", Some("bond"), 0),
                vlan,
                link(5, "br0", Some("bridge"), 0),
                on_bridge,
            ],
            queueing: BTreeMap::new(),
        };
        let below = |name| {
            let found = look.below(&BTreeSet::from([name]));
            found.into_iter().collect::<Vec<_>>().join(" ")
        };
        assert_eq!(below("bond0.10"), "bond0 bond0.10 eth0 eth1");
        assert_eq!(below("br0"), "br0");
        assert_eq!(below("gone"), "");
    }

    #[test]
    fn drops_before_the_first_look_are_of_others() {
        let mut before = BTreeMap::new();
        let look = |queueing, device| Look {
            links: vec![link(2, "eth0", None, device)],
            queueing: BTreeMap::from([(2, queueing)]),
        };
        let mut more = |queueing, device| {
            let Dropped { queueing, device } = grown(&mut before, &look(queueing, device), "eth0");
            (queueing, device)
        };
        assert_eq!(more(7, 100), (0, 0));
        assert_eq!(more(9, 101), (2, 1));
        assert_eq!(more(3, 101), (3, 0), "another queueing discipline");
        assert_eq!(grown(&mut before, &look(0, 0), "gone"), Dropped::default());
    }
}
