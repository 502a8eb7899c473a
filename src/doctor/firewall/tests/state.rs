//! Rules that look at more than the packet: the reverse path, connection tracking, nat.

use super::*;

#[test]
fn reverse_path_rules_need_facts() {
    let firewall = nft(fixture!("reverse-path.json"));
    let strict = "fib saddr . iif oif missing counter packets 0 bytes 0 drop";
    let facts = |found, routable, local| FilteredPacket {
        reverse_path_found: found,
        source_is_routable: routable,
        destination_is_local: local,
        ..outer()
    };
    let yes = Some(true);
    expect(&firewall, &facts(yes, yes, yes), "accept");
    expect(
        &firewall,
        &facts(Some(false), yes, yes),
        &format!("drop: {strict}"),
    );
    expect(
        &firewall,
        &facts(None, yes, yes),
        &format!("unknown: {strict}"),
    );
    expect(
        &firewall,
        &facts(yes, Some(false), yes),
        "drop: fib saddr oif missing drop",
    );
    // Both rules may drop: which of them is quoted does not matter, that none is certain does.
    expect(
        &firewall,
        &facts(None, None, yes),
        &format!("unknown: {strict}"),
    );
    expect(
        &firewall,
        &facts(None, Some(false), yes),
        "drop: fib saddr oif missing drop",
    );
    let types = "fib daddr type != { local, broadcast, multicast } drop";
    expect(
        &firewall,
        &facts(yes, yes, None),
        &format!("unknown: {types}"),
    );
    // The exempted tunnel.
    let exempt = FilteredPacket {
        source_is_routable: yes,
        ..inner()
    };
    expect(&firewall, &exempt, "accept");
    let loopback = FilteredPacket {
        iif: Some("lo".to_owned()),
        ..facts(None, None, yes)
    };
    expect(&firewall, &loopback, "accept");
}

#[test]
fn rpfilter_of_iptables_too() {
    let firewall = legacy(fixture!("rpfilter.legacy"));
    let strict = "-A PREROUTING -m rpfilter --validmark --invert -j DROP";
    expect(&firewall, &outer(), &format!("unknown: {strict}"));
    let facts = |found, device: &str| FilteredPacket {
        iif: Some(device.to_owned()),
        reverse_path_found: Some(found),
        source_is_routable: Some(true),
        ..outer()
    };
    expect(&firewall, &facts(true, "eth0"), "accept");
    expect(&firewall, &facts(false, "eth0"), &format!("drop: {strict}"));
    expect(&firewall, &facts(false, "tunl1"), "accept");
    let syn = FilteredPacket {
        reverse_path_found: Some(true),
        ..inner()
    };
    expect(&firewall, &syn, "drop: -A INPUT -m mark --mark 0x1 -j DROP");
    let ack = FilteredPacket {
        tcp_flags: Some(16),
        ..syn
    };
    expect(&firewall, &ack, "accept");
    let datagram = |port| FilteredPacket {
        reverse_path_found: Some(true),
        ..udp(DIRECTOR, port)
    };
    expect(&firewall, &datagram(61), "accept");
    expect(
        &firewall,
        &datagram(71),
        "drop: -A INPUT -p udp -m multiport ! --ports 53,60:70 -j DROP",
    );
}

#[test]
fn invalid_is_dropped_and_found() {
    let firewall = nft(fixture!("invalid.json"));
    let invalid = FilteredPacket {
        state: ConntrackState::Invalid,
        ..inner()
    };
    let rule = "ct state invalid counter packets 12 bytes 720 drop";
    expect(&firewall, &invalid, &format!("drop: {rule}"));
    expect(&firewall, &inner(), "accept");
    // What raw takes away from conntrack is untracked, not invalid.
    let outer_invalid = FilteredPacket {
        state: ConntrackState::Invalid,
        ..outer()
    };
    expect(&firewall, &outer_invalid, "accept");
    let midway = FilteredPacket {
        tcp_flags: Some(16),
        ..inner()
    };
    let no_syn = "tcp flags & (fin | syn | rst | ack) != syn ct state new drop";
    expect(&firewall, &midway, &format!("drop: {no_syn}"));
    let unknown = FilteredPacket {
        tcp_flags: None,
        ..inner()
    };
    expect(&firewall, &unknown, &format!("unknown: {no_syn}"));
    assert!(firewall.uses_conntrack());
}

#[test]
fn masquerade_rewrites_first_packets_only() {
    let fresh = FilteredPacket {
        state: ConntrackState::New,
        ..reply()
    };
    let plain = nft(fixture!("masquerade.json"));
    expect(&plain, &fresh, "rewritten: oifname \"eth0\" masquerade");
    expect(&plain, &reply(), "accept");
    let untracked = FilteredPacket {
        state: ConntrackState::Untracked,
        ..reply()
    };
    expect(&plain, &untracked, "accept");
    let exempt = nft(fixture!("masquerade-exempt.json"));
    expect(&exempt, &fresh, "accept");
    let from = |source| FilteredPacket {
        source: ip(source),
        ..fresh.clone()
    };
    expect(&exempt, &from("203.0.113.11"), "accept");
    expect(
        &exempt,
        &from("203.0.113.12"),
        "rewritten: oifname \"eth0\" snat to 10.0.0.2",
    );
    let published = FilteredPacket {
        ports: Some((40_000, 8080)),
        ..inner()
    };
    expect(
        &exempt,
        &published,
        "diverted: tcp dport 8080 dnat to 10.0.0.5:80",
    );
    assert!(exempt.uses_conntrack());
    assert!(!nft(fixture!("jumps.json")).uses_conntrack());
}
