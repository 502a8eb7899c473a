//! Rulesets as firewalld, ufw, Docker and Kubernetes make them.

use super::*;

#[test]
fn firewalld() {
    let firewall = nft(fixture!("firewalld.json"));
    expect(&firewall, &outer(), "accept");
    expect(&firewall, &inner(), "accept");
    expect(&firewall, &reply(), "accept");
    expect(
        &firewall,
        &udp(CLIENT, 53),
        "drop: reject with icmpx admin-prohibited",
    );
    let six = FilteredPacket {
        source: ip("2001:db8::1"),
        destination: ip("2001:db8::2"),
        protocol: 4,
        ..outer()
    };
    let reverse = "meta nfproto ipv6 fib saddr . mark . iif oif missing drop";
    let last = "drop: reject with icmpx admin-prohibited";
    expect(&firewall, &six, last);
    let from_tunnel = FilteredPacket {
        iif: Some("tunl0".to_owned()),
        ..six
    };
    expect(&firewall, &from_tunnel, &format!("unknown: {reverse}"));
}

#[test]
fn ufw() {
    for text in [fixture!("ufw.legacy"), fixture!("ufw.nft-save")] {
        let firewall = legacy(text);
        expect(&firewall, &outer(), "accept");
        expect(&firewall, &inner(), "accept");
        expect(&firewall, &reply(), "accept");
        let closed = udp(CLIENT, 53);
        expect(&firewall, &closed, "drop: policy DROP");
        let invalid = FilteredPacket {
            state: ConntrackState::Invalid,
            ..inner()
        };
        expect(
            &firewall,
            &invalid,
            "drop: -A ufw-before-input -m conntrack --ctstate INVALID -j DROP",
        );
        let perhaps_local = FilteredPacket {
            destination_is_local: None,
            ..outer()
        };
        expect(
            &firewall,
            &perhaps_local,
            "unknown: -A ufw-not-local -m addrtype --dst-type LOCAL -j RETURN",
        );
    }
}

#[test]
fn docker_and_kubernetes() {
    let docker = legacy(fixture!("docker.legacy"));
    expect(&docker, &outer(), "accept");
    expect(&docker, &inner(), "accept");
    let fresh = FilteredPacket {
        state: ConntrackState::New,
        ..reply()
    };
    expect(&docker, &fresh, "accept");
    let published = FilteredPacket {
        ports: Some((40_000, 8080)),
        ..inner()
    };
    expect(
        &docker,
        &published,
        "diverted: -A DOCKER ! -i docker0 -p tcp -m tcp --dport 8080 -j DNAT --to-destination 172.17.0.2:80",
    );
    let through = FilteredPacket {
        path: Through,
        oif: Some("eth1".to_owned()),
        destination_is_local: Some(false),
        ..inner()
    };
    expect(&docker, &through, "drop: policy DROP");
    let kubernetes = legacy(fixture!("kubernetes.legacy"));
    for packet in [outer(), inner(), reply(), fresh] {
        expect(&kubernetes, &packet, "accept");
    }
    let service = FilteredPacket {
        destination: ip("10.96.0.1"),
        ports: Some((40_000, 443)),
        ..reply()
    };
    let service = FilteredPacket {
        state: ConntrackState::New,
        ..service
    };
    assert!(matches!(
        kubernetes.judge(&service),
        FilterVerdict::Rewritten(_)
    ));
}

#[test]
fn tables_of_iptables_nft_are_judged_once() {
    let tables = fixture!("rpfilter.nft.json");
    let text = fixture!("rpfilter.nft-save");
    let packet = FilteredPacket {
        reverse_path_found: Some(true),
        ..outer()
    };
    let both = firewall(tables, &[("iptables-nft-save", text)]);
    expect(&both, &packet, "accept");
    assert!(
        both.tables
            .iter()
            .all(|table| table.program == "iptables-nft")
    );
    // Without the text, nft shows only that there is something.
    expect(
        &nft(tables),
        &packet,
        "unknown: xt match rpfilter counter packets 0 bytes 0 drop",
    );
    // A plain iptables-save prints the same once more.
    let thrice = firewall(
        tables,
        &[("iptables-nft-save", text), ("iptables-save", text)],
    );
    assert_eq!(both, thrice);
    // What it cannot print, nft does.
    let unprintable = format!("# Table `raw' is incompatible, use 'nft' tool.\n{text}");
    let split = firewall(tables, &[("iptables-nft-save", &unprintable)]);
    let programs: Vec<_> = split
        .tables
        .iter()
        .map(|table| (&*table.program, &*table.name))
        .collect();
    assert_eq!(programs, [("nft", "raw"), ("iptables-nft", "mangle")]);
}
