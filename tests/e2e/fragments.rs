//! Datagrams larger than any packet arrive whole: all fragments go to one backend.

use crate::enter::in_lab;
use crate::site::{BACKENDS, Site, VIP};
use crate::traffic::{UDP_ASK, echo_datagrams};

/// One VIP `dns` for UDP port 53, on all backends.
fn arguments() -> Vec<&'static str> {
    let mut arguments = vec!["--vip", "10.0.0.100:53/udp"];
    for (_, address) in BACKENDS {
        arguments.extend(["--backend", address]);
    }
    arguments
}

#[test]
fn fragmented_datagrams_arrive_whole() {
    in_lab(|lab| {
        let site = Site::new(lab);
        let _echoes = echo_datagrams(&site);
        let director = site.run(&arguments());
        let asked = [VIP, "53", "60", "30000", "4000"];
        let replies = site.client.run_python(UDP_ASK, &asked);
        assert_eq!(replies.lines().count(), 60, "{replies}");
        for (reply, port) in replies.lines().zip(30_000..) {
            let payload = reply.split(' ').next_back().unwrap_or_default();
            assert_eq!(payload, port.to_string().repeat(800), "from port {port}");
        }
        // 4008 bytes of UDP in packets of at most 1500, then of 1480.
        site.wait_until_read(180);
        let totals = director.stop();
        assert_eq!(
            (totals.busy("10.0.0.100:53/udp"), totals.dropped()),
            (3, 0),
            "{totals:?}"
        );
        assert!(totals.sent().packets >= 180, "{totals:?}");
    });
}
