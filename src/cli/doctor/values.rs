//! What arguments of `tunlb doctor` look like.

use std::net::IpAddr;

use crate::cli::parse_protocol;
use crate::doctor::facts::Encap;
use crate::doctor::finding::{Code, CodeError};
use crate::doctor::gather::Service;

pub(super) fn parse_code(text: &str) -> Result<Code, String> {
    text.parse().map_err(|error: CodeError| error.to_string())
}

pub(super) fn parse_service(text: &str) -> Result<Service, String> {
    let parse = || {
        let (address, protocol) = text.rsplit_once('/')?;
        let protocol = parse_protocol(protocol)?;
        let (address, port) = address.rsplit_once(':')?;
        let port = match port {
            "any" => None,
            number => Some(number.parse().ok().filter(|port| *port != 0)?),
        };
        let bracketed = address
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'));
        let address = match bracketed {
            Some(inner) => IpAddr::V6(inner.parse().ok()?),
            None => IpAddr::V4(address.parse().ok()?),
        };
        Some(Service {
            address,
            port,
            protocol,
        })
    };
    parse().ok_or_else(|| {
        "not ADDR:PORT/PROTO such as 203.0.113.10:80/tcp or [2001:db8::10]:any/udp".to_owned()
    })
}

/// The port of GUE where none is named (draft-ietf-intarea-gue §5.9).
const GUE_PORT: u16 = 6080;

pub(super) fn parse_encap(text: &str) -> Result<Encap, String> {
    let port = |text: &str| text.parse().ok().filter(|port| *port != 0);
    let encap = match text.split_once(':') {
        None if text == "ipip" => Some(Encap::Ipip),
        None if text == "gue" => Some(Encap::Gue(GUE_PORT)),
        Some(("gue", number)) => port(number).map(Encap::Gue),
        Some(_) | None => None,
    };
    encap.ok_or_else(|| "not ipip, gue or gue:PORT".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services() {
        let service = |text| {
            let service: Service = parse_service(text)?;
            Ok::<_, String>((service.address.to_string(), service.port))
        };
        assert_eq!(
            service("203.0.113.10:80/tcp"),
            Ok(("203.0.113.10".to_owned(), Some(80)))
        );
        assert_eq!(
            service("[2001:db8::10]:any/udp"),
            Ok(("2001:db8::10".to_owned(), None))
        );
        for bad in [
            "203.0.113.10",
            "203.0.113.10:0/tcp",
            "2001:db8::1:80/tcp",
            "10.0.0.1:80/sctp",
        ] {
            assert!(service(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn tunnels() {
        assert_eq!(parse_encap("gue:6081"), Ok(Encap::Gue(6081)));
        assert_eq!(parse_encap("gue"), Ok(Encap::Gue(6080)));
        for bad in ["gre", "gue:0", "ipip:4"] {
            assert!(parse_encap(bad).is_err(), "{bad}");
        }
    }
}
