//! Where the kernel takes tunnel packets as well as this process does: a raw socket gets a copy of each,
//! so the service would get every inner packet twice.

use std::net::IpAddr;

use crate::{io::netlink::Link, text::Plain};

use super::{DecapError, Encapsulation, Settings};

/// Refuses to run beside a tunnel of the kernel that takes packets which this process takes, too.
/// A UDP port has one owner, so with GUE there is nothing to see.
///
/// # Errors
/// [`DecapError::KernelTunnel`].
pub(super) fn refuse(settings: &Settings, links: &[Link]) -> Result<(), DecapError> {
    match overlapping(settings, links).next() {
        Some(link) => Err(DecapError::KernelTunnel {
            device: link.name.clone(),
            kind: link.kind.clone().unwrap_or_default(),
        }),
        None => Ok(()),
    }
}

/// The kernel's tunnels that take packets which this process takes, too.
pub(super) fn overlapping<'a>(
    settings: &'a Settings,
    links: &'a [Link],
) -> impl Iterator<Item = &'a Link> {
    let on_raw_sockets = settings.encapsulation() == Encapsulation::Ipip;
    let links = links.iter().filter(move |_| on_raw_sockets);
    links.filter(|link| overlaps(link, settings))
}

/// As in "the kernel's tunnel tunl0 (kind ipip) is up".
pub(super) fn described(link: &Link) -> String {
    let kind = link.kind.as_deref().unwrap_or_default();
    format!(
        "the kernel's tunnel {} (kind {kind}) is up",
        Plain(&link.name)
    )
}

fn overlaps(link: &Link, settings: &Settings) -> bool {
    let to_vip = |vip: &IpAddr| delivers(link, *vip);
    link.up && settings.vips().iter().any(to_vip) && hears_director(link, settings)
}

/// Whether inner packets of the VIP's family come out of the device. An ipip device takes IPv4 only;
/// sit (`sit_init`, linux/net/ipv6/sit.c) and ip6tnl (`ip6_tunnel_init`, ip6_tunnel.c) take both.
fn delivers(link: &Link, vip: IpAddr) -> bool {
    let protocol = if vip.is_ipv4() { 4 } else { 41 };
    let of_kind = match link.kind.as_deref() {
        Some("ipip") => protocol == 4,
        Some("sit" | "ip6tnl") => true,
        _ => false,
    };
    let only = link.tunnel.and_then(|tunnel| tunnel.protocol);
    of_kind && only.is_none_or(|only| only == protocol)
}

/// Whether the device takes packets from an outer source that is admitted here.
fn hears_director(link: &Link, settings: &Settings) -> bool {
    let Some(remote) = link.tunnel.and_then(|tunnel| tunnel.remote) else {
        return true;
    };
    let directors = settings.directors();
    directors.is_empty() || directors.iter().any(|net| net.contains(&remote))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{decap::Host, io::netlink::TunnelAttributes};

    fn settings(vip: &str, director: Option<&str>, encapsulation: Encapsulation) -> Settings {
        Settings::new(
            vec![vip.parse().unwrap()],
            director
                .into_iter()
                .map(|net| net.parse().unwrap())
                .collect(),
            encapsulation,
            "decap0".into(),
            Host::Check,
        )
        .unwrap()
    }

    fn link(kind: &str, protocol: Option<u8>, remote: Option<&str>) -> Link {
        Link {
            index: 3,
            name: "tunnel".into(),
            mtu: 1480,
            up: true,
            kind: Some(kind.into()),
            tunnel: Some(TunnelAttributes {
                remote: remote.map(|remote| remote.parse().unwrap()),
                protocol,
                ..TunnelAttributes::default()
            }),
            ..Link::default()
        }
    }

    #[test]
    fn only_tunnels_that_take_the_same_packets_are_refused() {
        const V4: &str = "10.0.0.100";
        const V6: &str = "2001:db8::100";
        let one = Some("10.0.1.1/32");
        for (description, vip, director, link, expected) in [
            ("tunl0", V4, None, link("ipip", None, None), true),
            (
                "tunl0 has no IPv6",
                V6,
                None,
                link("ipip", None, None),
                false,
            ),
            ("sit0", V6, None, link("sit", Some(41), None), true),
            (
                "sit0 has no IPv4",
                V4,
                None,
                link("sit", Some(41), None),
                false,
            ),
            ("sit, any", V4, None, link("sit", None, None), true),
            ("ip6tnl0", V6, None, link("ip6tnl", Some(41), None), true),
            (
                "ip6tnl0, not any",
                V4,
                None,
                link("ip6tnl", Some(41), None),
                false,
            ),
            ("ip6tnl, any", V4, None, link("ip6tnl", None, None), true),
            ("ipip, MPLS", V4, None, link("ipip", Some(137), None), false),
            ("GRE", V4, None, link("gre", None, None), false),
            (
                "from the director",
                V4,
                one,
                link("ipip", Some(4), Some("10.0.1.1")),
                true,
            ),
            (
                "from elsewhere",
                V4,
                one,
                link("ipip", Some(4), Some("10.0.9.9")),
                false,
            ),
            (
                "from anybody",
                V4,
                None,
                link("ipip", Some(4), Some("10.0.9.9")),
                true,
            ),
        ] {
            let settings = settings(vip, director, Encapsulation::Ipip);
            let down = Link {
                up: false,
                ..link.clone()
            };
            assert!(refuse(&settings, &[down]).is_ok(), "{description}, down");
            assert_eq!(
                refuse(&settings, &[link]).is_err(),
                expected,
                "{description}"
            );
        }
    }

    #[test]
    fn gue_has_its_port_for_itself() {
        let port = 6080.try_into().unwrap();
        let settings = settings("10.0.0.100", None, Encapsulation::Gue(port));
        assert!(refuse(&settings, &[link("ipip", None, None)]).is_ok());
    }
}
