//! Thousands of addresses come and go on the host, while clients are served.

use super::warnings;
use crate::enter::in_lab;
use crate::lab::wait_until;
use crate::process::Signal;
use crate::site::{Site, WEB, succeeded};
use crate::totals::of_decap;

const ADDRESSES: usize = 5000;

/// Sends one inner packet from the address given, as the director does, and no other.
const SEND: &str = "
import socket, struct, sys
inner = struct.pack('>BBHHHBBH4s4s', 0x45, 0, 28, 1, 0, 64, 17, 0,
                    socket.inet_aton(sys.argv[1]), socket.inet_aton('10.0.0.100'))
total = sum(struct.unpack('>10H', inner)); total = (total & 0xffff) + (total >> 16)
inner = inner[:10] + struct.pack('>H', 0xffff - total) + inner[12:] + struct.pack('>HHHH', 9, 9, 8, 0)
outer = struct.pack('>BBHHHBBH4s4s', 0x45, 0, 20 + len(inner), 1, 0, 64, 4, 0,
                    socket.inet_aton('10.0.1.2'), socket.inet_aton('10.0.1.11'))
with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as sock:
    sock.sendto(outer + inner, ('10.0.1.11', 0))
";

#[test]
fn thousands_of_addresses_come_and_go() {
    in_lab(|lab| {
        let site = Site::new(lab);
        let director = site.run(&["--vip", WEB, "--backend", "10.0.1.11"]);
        let node = site.backends[0].node.clone();
        let batch = |action: &str| {
            let lines = (0..ADDRESSES).map(|i| {
                let (high, low) = (i / 250, i % 250);
                format!("addr {action} 10.99.{high}.{low}/32 dev eth0\n")
            });
            let text: String = lines.collect();
            lab.file(&format!("{action}.batch"), text)
                .display()
                .to_string()
        };
        let (add, del) = (batch("add"), batch("del"));
        let mut served = 0;
        for _ in 0..2 {
            for file in [&add, &del] {
                let mut flood = node.command("ip");
                flood.args(["-batch", file]);
                let mut flood = node.spawn("flood", flood);
                while flood.runs() {
                    assert_eq!(site.get(), "b1");
                    served += 1;
                }
                succeeded(flood.wait());
            }
        }
        assert!(served > 4, "no traffic while addresses came and went");
        // The list that it follows is the machine's: local while it is an address, a client's otherwise.
        let last = "10.99.19.249";
        let decap = || site.backends[0].totals_so_far();
        let counts = |name: &str| decap().get(name).copied().unwrap_or_default();
        for (make, counter) in [
            (format!("ip addr add {last}/32 dev eth0"), "local_source"),
            (format!("ip addr del {last}/32 dev eth0"), "injected"),
        ] {
            node.run(&make);
            let before = counts(counter);
            wait_until(&format!("{counter} after {make}"), || {
                site.director.run_python(SEND, &[last]);
                counts(counter) > before
            });
        }
        assert_eq!(warnings(&site.backends[0].decap), [""; 0]);
        director.stop();
        let [first, ..] = site.backends;
        let said = succeeded(first.decap.stop(Signal::Term)).stdout;
        let totals = said.lines().last().map(of_decap).unwrap_or_default();
        assert_eq!(totals["injection_failed"], 0, "{totals:?}");
    });
}
