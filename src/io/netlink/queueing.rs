//! Queueing disciplines (tc(8)): what shapes, drops or rewrites the packets that leave by a device.

use netlink_packet_route::{
    RouteNetlinkMessage,
    tc::{TcAttribute, TcHandle, TcMessage},
};

use super::{Netlink, NetlinkError, Operation};

/// A queueing discipline of a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueingDiscipline {
    /// Index of the device.
    pub link: u32,
    /// "fq_codel", "htb", …
    pub kind: String,
    /// Where it is.
    pub place: QueueingPlace,
    /// What it has done so far.
    pub counts: QueueingCounts,
}

/// What a queueing discipline has done so far, in packets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct QueueingCounts {
    /// Sent on.
    pub sent: u32,
    /// Dropped.
    pub dropped: u32,
    /// That wait now.
    pub waiting: u32,
}

/// Where a queueing discipline is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueueingPlace {
    /// The device's own.
    Root,
    /// A hook for filters on what comes in, and with "clsact" on what leaves, too.
    Hook,
    /// Inside another one.
    Inner,
}

/// Those that only put packets in order: what the kernel gives a device by itself, or by
/// `net.core.default_qdisc`.
const PLAIN: [&str; 8] = [
    "noqueue",
    "noop",
    "mq",
    "pfifo_fast",
    "pfifo",
    "bfifo",
    "fq",
    "fq_codel",
];

impl QueueingDiscipline {
    /// Whether it may do more to what leaves than put it in order: shape, mark, drop by rules, redirect.
    #[must_use]
    pub fn acts_on_departures(&self) -> bool {
        match self.place {
            QueueingPlace::Hook => self.kind == "clsact",
            QueueingPlace::Root | QueueingPlace::Inner => !PLAIN.contains(&self.kind.as_str()),
        }
    }
}

impl Netlink {
    /// The queueing disciplines of all devices.
    ///
    /// # Errors
    /// Any [`NetlinkError`]; EOPNOTSUPP on a kernel without any.
    pub fn queueing_disciplines(&mut self) -> Result<Vec<QueueingDiscipline>, NetlinkError> {
        let request = RouteNetlinkMessage::GetQueueDiscipline(TcMessage::default());
        let operation = Operation::new("list", "queueing disciplines");
        let answers = self.dump(&operation, &request)?;
        Ok(answers.into_iter().filter_map(discipline_of).collect())
    }
}

fn discipline_of(message: RouteNetlinkMessage) -> Option<QueueingDiscipline> {
    let RouteNetlinkMessage::NewQueueDiscipline(message) = message else {
        return None;
    };
    let mut kind = None;
    let mut counts = QueueingCounts::default();
    for attribute in message.attributes {
        if let TcAttribute::Kind(name) = attribute {
            kind = Some(name);
        } else if let TcAttribute::Stats(stats) = attribute {
            counts = QueueingCounts {
                sent: stats.packets,
                dropped: stats.drops,
                waiting: stats.qlen,
            };
        }
    }
    let place = match message.header.parent {
        TcHandle::ROOT => QueueingPlace::Root,
        TcHandle::INGRESS => QueueingPlace::Hook,
        _ => QueueingPlace::Inner,
    };
    Some(QueueingDiscipline {
        link: u32::try_from(message.header.index).ok()?,
        kind: kind?,
        place,
        counts,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::testing::in_namespace;
    use std::process::Command;

    #[test]
    fn what_acts_on_departures() {
        let acts = |place, kind: &str| {
            let discipline = QueueingDiscipline {
                link: 2,
                kind: kind.into(),
                place,
                counts: QueueingCounts::default(),
            };
            discipline.acts_on_departures()
        };
        for kind in ["noqueue", "mq", "fq_codel", "fq", "pfifo_fast"] {
            assert!(!acts(QueueingPlace::Root, kind), "{kind}");
        }
        for kind in ["tbf", "htb", "cake", "netem", "prio"] {
            assert!(acts(QueueingPlace::Root, kind), "{kind}");
        }
        assert!(acts(QueueingPlace::Hook, "clsact"));
        assert!(!acts(QueueingPlace::Hook, "ingress"));
        assert!(acts(QueueingPlace::Inner, "netem") && !acts(QueueingPlace::Inner, "fq_codel"));
    }

    #[test]
    fn the_kernel_lists_them() {
        in_namespace("io::netlink::queueing::tests::the_kernel_lists_them_inside");
    }

    #[test]
    #[ignore = "run by the_kernel_lists_them in a namespace of its own"]
    fn the_kernel_lists_them_inside() {
        let ran = |program: &str, arguments: &str| {
            let status = Command::new(program)
                .args(arguments.split(' '))
                .status()
                .unwrap();
            assert!(status.success(), "{program} {arguments}");
        };
        ran("ip", "link add v0 type veth peer name v1");
        ran("ip", "link set v0 up");
        let mut netlink = Netlink::open().unwrap();
        let link = netlink.link("v0").unwrap().unwrap().index;
        let mut acting = || {
            let all = netlink.queueing_disciplines().unwrap();
            let mut acting: Vec<_> = all
                .into_iter()
                .filter(|discipline| discipline.link == link && discipline.acts_on_departures())
                .map(|discipline| (discipline.place, discipline.kind))
                .collect();
            acting.sort_by(|(_, a), (_, b)| a.cmp(b));
            acting
        };
        assert_eq!(acting(), []);
        ran("tc", "qdisc add dev v0 ingress");
        assert_eq!(acting(), []);
        ran("tc", "qdisc del dev v0 ingress");
        ran("tc", "qdisc add dev v0 clsact");
        let clsact = (QueueingPlace::Hook, "clsact".to_owned());
        assert_eq!(acting(), std::slice::from_ref(&clsact));
        ran(
            "tc",
            "qdisc add dev v0 root tbf rate 1mbit burst 10kb latency 70ms",
        );
        let tbf = (QueueingPlace::Root, "tbf".to_owned());
        assert_eq!(acting(), [clsact, tbf]);
    }
}
