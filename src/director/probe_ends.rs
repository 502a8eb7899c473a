//! The ends on this host of connections that probes open. When a packet of a backend comes after its probe is over, this
//! host's kernel answers it with a reset, which takes the way of clients' packets: it is of no flow, and goes nowhere.

use std::net::IpAddr;
use std::ops::RangeInclusive;

use crate::packet::FlowKey;

/// Addresses and ports from which probes are sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeEnds {
    /// In order.
    sources: Box<[IpAddr]>,
    ports: RangeInclusive<u16>,
}

impl ProbeEnds {
    /// Those with one of these addresses and a port of that range.
    #[must_use]
    pub fn new(sources: impl IntoIterator<Item = IpAddr>, ports: RangeInclusive<u16>) -> Self {
        let mut sources: Vec<_> = sources.into_iter().collect();
        sources.sort_unstable();
        sources.dedup();
        Self {
            sources: sources.into(),
            ports,
        }
    }

    /// Whether a probe may have been sent with this source.
    pub(super) fn have(&self, flow: &FlowKey) -> bool {
        self.ports.contains(&flow.source_port) && self.sources.binary_search(&flow.source).is_ok()
    }
}

impl Default for ProbeEnds {
    /// None.
    fn default() -> Self {
        Self::new([], 0..=0)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::tests::{
        NOW, SYN, VIP, backend, decide, director_of, plan, tcp, tunnel, vip,
    };
    use super::super::{BackendState, DropReason, Health, Roster, Verdict};
    use super::*;
    use crate::packet::Protocol;

    #[test]
    fn late_resets_of_this_host_go_nowhere() {
        let own: IpAddr = "192.0.2.1".parse().unwrap(); // from where the packets of `tcp` come
        let vips = [vip(
            "web",
            80,
            Protocol::Tcp,
            vec![backend(11, BackendState::Active)],
        )];
        let mut roster = Roster::default();
        roster.know_probes(ProbeEnds::new([VIP.into(), own, own], 32_768..=60_999));
        let health = |_: &_, _| Health::Healthy;
        let snapshot = roster.build(&plan(&vips), health, tunnel).unwrap();
        let mut director = director_of(&Arc::new(snapshot));
        const RST: u8 = 4;
        for (what, port, flags, dropped) in [
            ("a reset of a probe", 40_000, RST, true),
            ("with an acknowledgement", 40_000, RST | 0x10, true),
            ("of a port that probes do not use", 1_024, RST, false),
            ("what is no reset", 40_001, SYN, false),
            ("a reset of a flow that is known", 40_001, RST, false),
        ] {
            let verdict = decide(&mut director, &tcp(port, 80, flags), NOW);
            assert_eq!(
                verdict == Verdict::Drop(DropReason::ProbeReset),
                dropped,
                "{what}: {verdict:?}"
            );
        }
        assert_eq!(director.counters().dropped(DropReason::ProbeReset), 2);
        assert_eq!(
            director.counters().all_traffic().flows,
            2,
            "no flow of a probe"
        );
        let next = roster.build(&plan(&vips), health, tunnel).unwrap();
        director.adopt(Arc::new(next));
        let again = decide(&mut director, &tcp(40_000, 80, RST), NOW);
        assert_eq!(again, Verdict::Drop(DropReason::ProbeReset));
    }
}
