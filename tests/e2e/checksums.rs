//! A client on a veth pair leaves TCP checksums to its device, and the director's kernel leaves them to the
//! director; what the backend gets is complete, and otherwise byte for byte what the client sent.

use crate::enter::in_lab;
use crate::site::{BACKENDS, Site, WEB};
use crate::wire::{Capture, Packet, census};

const VIP: [u8; 4] = [10, 0, 0, 100];
const IPIP: u8 = 4;

#[test]
fn inner_packets_arrive_complete_and_unchanged() {
    in_lab(|lab| {
        let site = Site::new(lab);
        let offloads = site.client.run("ethtool -k eth0");
        assert!(offloads.contains("tx-checksumming: on"), "{offloads}");
        let director = site.run_http();
        let at_client = Capture::start(&site.client, "eth0");
        let at_tun = Capture::start(&site.director, "tunlb0");
        let at_backends = site.backends.each_ref().map(|backend| {
            [
                Capture::start(&backend.node, "eth0"),
                Capture::start(&backend.node, "decap0"),
            ]
        });
        site.get_in_parallel(30, 20_000);
        site.wait_until_read(site.sent_by_client());
        let totals = director.stop();

        let all = totals.sent().packets;
        let sent = at_client.wait_for(all, |packet| packet.destination() == VIP);
        let routed = at_tun.wait_for(all, |packet| packet.destination() == VIP);
        let mut tunnelled = Vec::new();
        let mut delivered = Vec::new();
        for ([eth0, decap0], (name, address)) in at_backends.into_iter().zip(BACKENDS) {
            let count = totals.backends[&(WEB.to_owned(), address.to_owned())].packets;
            assert!(count > 0, "{name} got nothing: {totals:?}");
            tunnelled.extend(eth0.wait_for(count, |packet| packet.protocol() == IPIP));
            delivered.extend(decap0.wait_for(count, |packet| packet.destination() == VIP));
        }
        assert!(
            !sent.iter().all(Packet::has_right_tcp_checksum),
            "every checksum was complete at the client: this test would prove nothing"
        );
        check_tunnels(&tunnelled);
        for packet in &delivered {
            assert!(
                packet.has_right_tcp_checksum(),
                "TCP checksum at a backend: {packet:?}"
            );
            assert!(
                packet.has_right_header_checksum(),
                "IP checksum at a backend: {packet:?}"
            );
            // 64, less one for the router and one for the director's kernel.
            assert_eq!(packet.time_to_live(), 62, "{packet:?}");
        }
        let tunnelled: Vec<_> = tunnelled.iter().map(Packet::inner).collect();
        let is_same = census(tunnelled.clone()) == census(delivered);
        assert!(is_same, "out of the tunnel, as in it");
        let as_sent = |packets: Vec<Packet>| census(packets.into_iter().map(Packet::into_sent));
        let sent = as_sent(sent);
        assert!(
            as_sent(routed) == sent,
            "from the TUN, as the client sent it"
        );
        assert!(
            as_sent(tunnelled) == sent,
            "in the tunnel, as the client sent it"
        );
    });
}

fn check_tunnels(tunnelled: &[Packet]) {
    for packet in tunnelled {
        assert!(
            packet.has_right_header_checksum(),
            "outer header: {packet:?}"
        );
        assert_eq!(packet.source(), [10, 0, 1, 2], "{packet:?}");
        let [inner, outer] = [&packet.inner(), packet].map(|packet| packet.0[6] & 0x40);
        assert_eq!(outer, inner, "DF outside and inside: {packet:?}");
    }
}
