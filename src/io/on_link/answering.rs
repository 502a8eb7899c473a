//! Whether the kernel answers on a device for an address that is not its own. Pure.
//!
//! `arp_process` (linux/net/ipv4/arp.c) answers for what it forwards to another device, where the device
//! that the question came in by forwards, and has a proxy entry or `proxy_arp`; `ndisc_recv_ns`
//! (linux/net/ipv6/ndisc.c) where it forwards, has `proxy_ndp` and an entry.

use std::net::IpAddr;

/// What the kernel lacks to answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    /// The device does not forward.
    Forwarding,
    /// IPv6: the device does not look at its entries.
    ProxyNdp,
    /// There is no entry.
    Entry,
}

/// What is missing for the kernel to answer for `address` on `device`, which it routes to another one;
/// nothing where it answers. `entry`: the device has a proxy entry. `setting` is asked for the value of
/// `net.ipv4.conf` or `net.ipv6.conf`, by device (or `all`) and name.
pub fn missing(
    address: IpAddr,
    device: &str,
    entry: bool,
    setting: impl Fn(&str, &'static str) -> i64,
) -> Vec<Missing> {
    let on = |name| setting("all", name) != 0 || setting(device, name) != 0;
    let lacks = [
        (Missing::Forwarding, setting(device, "forwarding") == 0),
        (Missing::ProxyNdp, address.is_ipv6() && !on("proxy_ndp")),
        (
            Missing::Entry,
            !entry && (address.is_ipv6() || !on("proxy_arp")),
        ),
    ];
    let lacking = lacks.into_iter().filter(|(_, lacks)| *lacks);
    lacking.map(|(what, _)| what).collect()
}

impl Missing {
    /// The command that adds it, as the words of a shell.
    #[must_use]
    pub fn command(self, address: IpAddr, device: &str) -> Vec<String> {
        let family = if address.is_ipv4() { "ipv4" } else { "ipv6" };
        let setting = |name: &str| {
            let device = device.replace('.', "/"); // as sysctl(8) has it
            let assignment = format!("net.{family}.conf.{device}.{name}=1");
            ["sysctl".to_owned(), "-w".to_owned(), assignment].to_vec()
        };
        match self {
            Self::Forwarding => setting("forwarding"),
            Self::ProxyNdp => setting("proxy_ndp"),
            Self::Entry => [
                "ip",
                "neigh",
                "add",
                "proxy",
                &address.to_string(),
                "dev",
                device,
            ]
            .map(str::to_owned)
            .to_vec(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_answers() {
        use Missing::{Entry, Forwarding, ProxyNdp};
        const V4: &str = "10.0.0.100";
        const V6: &str = "2001:db8::100";
        for (address, entry, on, expected) in [
            (V4, false, "", &[Forwarding, Entry][..]),
            (V4, true, "", &[Forwarding]),
            (V4, false, "eth0.forwarding", &[Entry]),
            (V4, true, "eth0.forwarding", &[]),
            (V4, true, "all.forwarding", &[Forwarding]),
            (V4, false, "eth0.forwarding eth0.proxy_arp", &[]),
            (V4, false, "eth0.forwarding all.proxy_arp", &[]),
            (V4, false, "eth0.forwarding eth1.proxy_arp", &[Entry]),
            (V6, false, "eth0.forwarding", &[ProxyNdp, Entry]),
            (V6, true, "eth0.forwarding", &[ProxyNdp]),
            (V6, false, "eth0.forwarding all.proxy_ndp", &[Entry]),
            (
                V6,
                false,
                "eth0.forwarding eth0.proxy_arp eth0.proxy_ndp",
                &[Entry],
            ),
            (V6, true, "eth0.forwarding eth0.proxy_ndp", &[]),
        ] {
            let setting = |device: &str, name: &'static str| {
                let key = format!("{device}.{name}");
                i64::from(on.split(' ').any(|on| on == key))
            };
            let found = missing(address.parse().unwrap(), "eth0", entry, setting);
            assert_eq!(found, expected, "{address}, entry: {entry}, on: {on}");
        }
    }

    #[test]
    fn commands() {
        let address = "2001:db8::100".parse().unwrap();
        assert_eq!(
            Missing::ProxyNdp.command(address, "eth0.7").join(" "),
            "sysctl -w net.ipv6.conf.eth0/7.proxy_ndp=1"
        );
        assert_eq!(
            Missing::Entry.command(address, "eth0.7").join(" "),
            "ip neigh add proxy 2001:db8::100 dev eth0.7"
        );
        let address = "10.0.0.100".parse().unwrap();
        assert_eq!(
            Missing::Forwarding.command(address, "eth0").join(" "),
            "sysctl -w net.ipv4.conf.eth0.forwarding=1"
        );
    }
}
