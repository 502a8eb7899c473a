//! Whole files through [`Config::parse`].

use std::num::NonZeroU32;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::director::{AllDown, BackendState, Echo, FlowTimeouts, Protocol};

const MINIMAL: &str =
    "[[vip]]\naddress = \"10.0.0.100\"\n[[vip.backend]]\naddress = \"10.0.1.11\"\n";

/// Every key that this version takes.
const FULL: &str = r#"
[director]
tun = "lb0"
workers = 4
cpus = [7, 0, 2, 1]
busy_poll = "50us"
queue_length = 1000
datapath = "tun"
egress = "raw"
hash_key = "0011f75e9b3344d2817f06e9ab5d20c8"
ring_size = 251
flows = 2_048

[director.timeouts]
half_open = "5s"
established = "2h"
closing = "1500ms"
reset = "1s"
udp = "7d"

[director.encap]
kind = "gue"
port = 6081
source = ["10.0.1.1", "2001:db8:e::/64"]
ttl = 0x20

[[vip]]
name = "dns"
address = "2001:db8::100"
port = "any"
protocol = "udp"
hash = "destination-port"
echo = "forward"
all_down = "drop"
new_flows_per_second = 4_294_967_295

[vip.encap]
kind = "gue"
port = 6082

[vip.health]
kind = "none"

[[vip.backend]]
address = "10.0.1.11"
weight = 100
state = "active"

[[vip.backend]]
address = "2001:db8:1::12"
state = "disabled"
"#;

fn problems(text: &str) -> Vec<Problem> {
    match Config::parse("f", text) {
        Err(ConfigError::Invalid(problems)) => problems.first().to_vec(),
        other => panic!("{other:?}"),
    }
}

fn texts(text: &str) -> Vec<String> {
    problems(text).iter().map(ToString::to_string).collect()
}

/// [`MINIMAL`] with `lines` in the director, the VIP or the backend.
fn with(director: &str, vip: &str, backend: &str) -> String {
    format!(
        "[director]\n{director}\n[[vip]]\naddress = \"10.0.0.100\"\n{vip}\n\
         [[vip.backend]]\naddress = \"10.0.1.11\"\n{backend}\n"
    )
}

#[test]
fn defaults() {
    let config = Config::parse("f", MINIMAL).unwrap();
    assert_eq!(config.director, DirectorConfig::default());
    let vip = &config.vips[0];
    assert_eq!(vip.name, "10.0.0.100:80/tcp");
    assert_eq!(vip.port, PortMatch::Exact(80.try_into().unwrap()));
    assert_eq!(vip.protocol, Protocol::Tcp);
    assert_eq!(
        (vip.backends[0].weight, vip.backends[0].state),
        (1, BackendState::Active)
    );
    assert_eq!(
        (vip.all_down, vip.new_flows_per_second),
        (AllDown::Forward, None)
    );
    assert_eq!(config.warnings(), [Warning::PublicHashKey]);
}

#[test]
fn every_supported_key() {
    let config = Config::parse("f", FULL).unwrap();
    assert_eq!(config.director.tun, "lb0");
    assert_eq!(config.director.workers.get(), 4);
    assert_eq!(config.director.cpus.numbers(), [7, 0, 2, 1]);
    assert_eq!(config.director.busy_poll, Duration::from_micros(50));
    assert_eq!(config.director.queue_length, 1000);
    assert_eq!(config.director.egress, Egress::Raw);
    assert_eq!(config.director.hash_key.0[..2], [0x00, 0x11]);
    assert_eq!(config.director.ring_size.slots(), 251);
    assert_eq!(config.director.flows.bound.get(), 2048);
    let timeouts = FlowTimeouts {
        half_open: Duration::from_secs(5),
        established: Duration::from_secs(7200),
        closing: Duration::from_millis(1500),
        reset: Duration::from_secs(1),
        udp: Duration::from_secs(604_800),
    };
    assert_eq!(config.director.flows.timeouts, timeouts);
    assert_eq!(
        config.director.encap.source.entries(),
        ["10.0.1.1", "2001:db8:e::/64"]
    );
    assert_eq!(config.director.encap.kind, gue(6081));
    assert_eq!(config.director.encap.ttl.get(), 32);
    assert_eq!(config.vips[0].name, "dns");
    assert_eq!(config.vips[0].protocol, Protocol::Udp);
    assert_eq!(config.vips[0].port, PortMatch::Any);
    assert_eq!(config.vips[0].hash, HashFields::DestinationPort);
    assert_eq!(config.vips[0].echo, Echo::Forward);
    assert_eq!(config.vips[0].all_down, AllDown::Drop);
    assert_eq!(config.vips[0].new_flows_per_second, Some(NonZeroU32::MAX));
    assert_eq!(config.vips[0].encap, gue(6082));
    assert_eq!(config.vips[0].backends[1].state, BackendState::Disabled);
    let prefix = EntropyPrefix::new("2001:db8:e::/64".parse().unwrap()).unwrap();
    assert_eq!(config.warnings(), [Warning::EntropySource(prefix)]);
}

fn gue(port: u16) -> EncapKind {
    EncapKind::Gue {
        port: port.try_into().unwrap(),
    }
}

#[test]
fn the_tunnel_of_a_vip() {
    for (director, vip, expected) in [
        ("", "", EncapKind::Ipip),
        ("encap.kind = \"gue\"", "", gue(6080)),
        ("encap = { kind = \"gue\", port = 1 }", "", gue(1)),
        (
            "encap = { kind = \"gue\", port = 1 }",
            "encap.kind = \"gue\"",
            gue(1),
        ),
        (
            "encap = { kind = \"gue\", port = 1 }",
            "encap.port = 2",
            gue(2),
        ),
        (
            "encap.kind = \"gue\"",
            "encap.kind = \"ipip\"",
            EncapKind::Ipip,
        ),
        ("", "encap.kind = \"gue\"", gue(6080)),
        ("", "encap = { kind = \"gue\", port = 2 }", gue(2)),
    ] {
        let config = Config::parse("f", &with(director, vip, "")).unwrap();
        assert_eq!(config.vips[0].encap, expected, "{director} {vip}");
    }
    for (director, vip, key) in [
        ("encap.port = 1", "", "director.encap.port"),
        (
            "encap = { kind = \"ipip\", port = 1 }",
            "encap.kind = \"gue\"",
            "director.encap.port",
        ),
        ("", "encap.port = 1", "vip[0].encap.port"),
        (
            "encap.kind = \"gue\"",
            "encap = { kind = \"ipip\", port = 1 }",
            "vip[0].encap.port",
        ),
    ] {
        let found = problems(&with(director, vip, ""));
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].key.as_deref(), Some(key));
        assert!(
            found[0].message.contains("port applies only to kind"),
            "{found:?}"
        );
    }
}

#[test]
fn many_vips_with_many_backends() {
    let vip = |n: usize| {
        let backends: String = (0..10)
            .map(|k| {
                format!(
                    "[[vip.backend]]\naddress = \"10.{}.{}.{k}\"\n",
                    n / 256,
                    n % 256
                )
            })
            .collect();
        format!(
            "[[vip]]\naddress = \"203.0.{}.{}\"\n{backends}",
            n / 256,
            n % 256
        )
    };
    let text: String = (0..2000).map(vip).collect();
    let config = Config::parse("f", &text).unwrap();
    assert_eq!(config.vips.len(), 2000);
    assert_eq!(config.vips[1999].name, "203.0.7.207:80/tcp");
    let found = texts(&format!("{text}{}", vip(1999)));
    assert_eq!(
        found,
        [
            "f:44002: vip[2000].address = \"203.0.7.207\": 203.0.7.207:80/tcp is already the VIP on \
             line 43980; accepted: another address, port or protocol; or its backends in the first VIP"
        ]
    );
}

/// Two VIPs of one address, with these lines.
fn two_of_one_address(first: &str, second: &str) -> String {
    let vip = |port, line| {
        format!(
            "[[vip]]\naddress = \"10.0.0.100\"\nport = {port}\n{line}\nbackend = [{{ address = \"10.0.1.1\" }}]\n"
        )
    };
    vip(80, first) + &vip(443, second)
}

#[test]
fn an_address_has_one_echo() {
    let echo = |first: &str, second: &str| {
        let config = Config::parse("f", &two_of_one_address(first, second)).unwrap();
        [config.vips[0].echo, config.vips[1].echo]
    };
    assert_eq!(echo("", ""), [Echo::Reply; 2]);
    assert_eq!(echo("", "echo = \"drop\""), [Echo::Drop; 2]);
    assert_eq!(echo("echo = \"forward\"", ""), [Echo::Forward; 2]);
    assert_eq!(echo("echo = \"drop\"", "echo = \"drop\""), [Echo::Drop; 2]);
    let found = texts(&two_of_one_address("echo = \"reply\"", "echo = \"drop\""));
    assert_eq!(
        found,
        [
            "f:9: vip[1].echo = \"drop\": the VIP with the same address has echo \"reply\" on line 4, \
         and an echo request names no port; accepted: \"reply\", or the key left out"
        ]
    );
}

#[test]
fn one_hash_for_all_flows() {
    let config = Config::parse("f", &with("", "hash = \"destination-port\"", "")).unwrap();
    let vip = "10.0.0.100:80/tcp".to_owned();
    assert_eq!(
        config.warnings(),
        [Warning::PublicHashKey, Warning::OneHash { vip }]
    );
    let any = with("", "hash = \"destination-port\"\nport = \"any\"", "");
    let config = Config::parse("f", &any).unwrap();
    assert_eq!(config.vips[0].name, "10.0.0.100:any/tcp");
    assert_eq!(config.warnings(), [Warning::PublicHashKey]);
}

#[test]
fn any_mixture_of_families() {
    for (vip, backend) in [
        ("10.0.0.100", "2001:db8:1::11"),
        ("2001:db8::100", "10.0.1.11"),
        ("2001:db8::100", "2001:db8:1::11"),
    ] {
        let text = MINIMAL
            .replace("10.0.0.100", vip)
            .replace("10.0.1.11", backend);
        let config = Config::parse("f", &text).unwrap();
        assert_eq!(config.vips[0].address.to_string(), vip);
        assert_eq!(config.vips[0].backends[0].address.to_string(), backend);
    }
}

#[test]
fn syntax_before_support() {
    for (director, vip) in [
        ("api = \"x\"", ""),
        ("metrics = \"x\"", ""),
        ("api_group = \"\"", ""),
        ("api = \"off\"\napi_group = \"adm\"", ""),
        ("interface = \"a/b\"", ""),
        ("datapath = \"x\"", ""),
        ("encap.kind = \"x\"", ""),
        ("timeouts = \"30s\"", ""),
        ("timeouts.udp = \"0s\"", ""),
        ("timeouts.udp = \"999ms\"", ""),
        ("timeouts.udp = 60", ""),
        ("timeouts.syn = \"30s\"", ""),
        ("", "new_flows_per_second = 0"),
        ("", "new_flows_per_second = \"1000\""),
        ("", "all_down = \"reply\""),
        ("encap.port = 0", ""),
        ("", "encap.port = 65536"),
        ("", "encap.kind = \"x\""),
        ("", "encap.ttl = 1"),
        ("encap.source = \"0.0.0.0/0\"", ""),
        ("encap.source = \"10.0.0.1/32\"", ""),
        ("encap.source = \"172.16.0.1/16\"", ""),
        ("", "echo = \"x\""),
        ("", "health = { kind = \"none\", rise = 0 }"),
        ("", "health = { kind = \"none\", timeout = 2 }"),
        ("", "health.kind = \"x\""),
        ("", "min_healthy = 50"),
        ("", "min_healthy = \"101%\""),
    ] {
        let found = problems(&with(director, vip, ""));
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(!found[0].message.contains("not supported"), "{found:?}");
    }
}

#[test]
fn relations_name_the_first_place() {
    let text = "\
[[vip]]
name = \"a\"
address = \"10.0.0.100\"
backend = [{ address = \"10.0.1.11\" }, { address = \"10.0.1.11\" }]
[[vip]]
name = \"a\"
address = \"10.0.0.100\"
backend = [{ address = \"10.0.0.100\" }]
";
    let expected = [
        (
            4,
            "vip[0].backend[1].address",
            "already a backend of this VIP on line 4",
        ),
        (6, "vip[1].name", "already that of the VIP on line 2"),
        (
            7,
            "vip[1].address",
            "10.0.0.100:80/tcp is already the VIP on line 3",
        ),
        (
            8,
            "vip[1].backend[0].address",
            "the address of the VIP on line 3",
        ),
    ];
    let found = problems(text);
    assert_eq!(found.len(), expected.len(), "{found:?}");
    for (problem, (line, key, message)) in found.iter().zip(expected) {
        assert_eq!(
            (problem.line, problem.key.as_deref()),
            (Some(line), Some(key))
        );
        assert!(problem.message.contains(message), "{problem}");
    }
}

#[test]
fn a_name_may_not_be_the_default_name_of_another_vip() {
    let vip = |name: &str, address: &str| {
        format!(
            "[[vip]]\n{name}\naddress = \"{address}\"\nbackend = [{{ address = \"10.0.1.1\" }}]\n"
        )
    };
    let text = vip("", "10.0.0.1") + &vip("name = \"10.0.0.1:80/tcp\"", "10.0.0.2");
    let found = texts(&text);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(
        found[0].contains("already that of the VIP on line 1"),
        "{found:?}"
    );
    let text = vip("name = \"10.0.0.2:80/tcp\"", "10.0.0.1") + &vip("", "10.0.0.2");
    assert!(texts(&text)[0].contains("already that of the VIP on line 2"));
}

#[test]
fn someone_must_answer() {
    for (backend, expected) in [
        ("weight = 0", "every backend of the VIP has weight 0"),
        ("state = \"draining\"", "no active backend"),
        ("state = \"disabled\"", "no active backend"),
    ] {
        let found = problems(&with("", "", backend));
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].message.contains(expected), "{found:?}");
        assert_eq!(found[0].line, Some(3), "the line of [[vip]]");
    }
}

#[test]
fn a_ring_has_a_slot_for_each_backend() {
    let backends: String = (0..252)
        .map(|n| format!("[[vip.backend]]\naddress = \"10.0.2.{n}\"\n"))
        .collect();
    let text =
        format!("[director]\nring_size = 251\n[[vip]]\naddress = \"10.0.0.100\"\n{backends}");
    let found = texts(&text);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(
        found[0].contains("252 backends do not fit the ring of 251 slots"),
        "{found:?}"
    );
}

#[test]
fn the_outer_source_fits_the_backends() {
    for (source, expected) in [
        (
            "fd00::1",
            "not of the family of director.encap.source fd00::1",
        ),
        (
            "fd00::/64",
            "source = [\"fd00::/64\"], an array, which leaves the other family to \"auto\"",
        ),
        (
            "10.0.1.11",
            "f:7: vip[0].backend[0].address = \"10.0.1.11\": also director.encap.source",
        ),
        (
            "10.0.1.0/24",
            "f:7: vip[0].backend[0].address = \"10.0.1.11\": within director.encap.source",
        ),
        (
            "10.0.0.100",
            "f:4: vip[0].address = \"10.0.0.100\": also director.encap.source",
        ),
        (
            "10.0.0.64/26",
            "f:4: vip[0].address = \"10.0.0.100\": within director.encap.source 10.0.0.64/26",
        ),
    ] {
        let found = texts(&with(&format!("encap.source = \"{source}\""), "", ""));
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].contains(expected), "{found:?}");
    }
    for source in ["[\"fd00::1\"]", "[\"172.16.0.0/16\", \"fd00::1\"]", "[]"] {
        let text = with(&format!("encap.source = {source}"), "", "");
        assert!(Config::parse("f", &text).is_ok(), "{source}");
    }
    let found = texts(&with("encap.source = [\"10.0.1.1\", \"10.0.1.2\"]", "", ""));
    assert!(
        found[0].starts_with(
            "f:2: director.encap.source = [\"10.0.1.1\", \"10.0.1.2\"]: two sources of IPv4"
        ),
        "{found:?}"
    );
}

#[test]
fn a_key_that_anyone_can_guess_is_warned_about() {
    let warnings = |key: &str| {
        let director = format!("hash_key = \"{key}\"");
        Config::parse("f", &with(&director, "", ""))
            .unwrap()
            .warnings()
    };
    for key in [
        "00000000000000000000000000000000",
        "00112233445566778899aabbccddeeff",
    ] {
        assert_eq!(warnings(key), [Warning::GuessableHashKey], "{key}");
    }
    assert_eq!(warnings("c0a1f75e9b3344d2817f06e9ab5d20c8"), []);
    let public = "74756e6c622064656661756c74206b2e";
    assert_eq!(warnings(public), [Warning::PublicHashKey]);
}

#[test]
fn the_key_is_in_no_problem() {
    for director in [
        "hash_key = \"5ec2e7\"",
        "hash_key = [\"5ec2e7\"]",
        "hash_key = 0x5ec2e7",
        "hash_key = \"5ec2e7",
        "hash_key = 5ec2e7",
        "hash-key = \"5ec2e7\"",
        "hash_key = \"5ec2e7\"\nhash_key = \"5ec2e7\"",
        "encap = [{ hash_key = \"5ec2e7\" }]",
    ] {
        let found = texts(&with(director, "", ""));
        assert!(!found.is_empty(), "{director}");
        assert!(
            found.iter().all(|text| !text.contains("5ec2e7")),
            "{found:?}"
        );
    }
}

#[test]
fn a_syntax_error_hides_no_other_problem_and_makes_none() {
    let found = problems(&with(
        "workers = 0\ntun = lb0",
        "port = 0\nname =",
        "weight = 99999",
    ));
    let lines: Vec<_> = found.iter().map(|problem| problem.line).collect();
    assert_eq!(lines, [2, 3, 6, 7, 10].map(Some), "{found:?}");
    for broken_header in ["[director", "[[vip]", "[[vip.backend", "[director]]"] {
        let found = problems(&format!("{broken_header}\n{MINIMAL}"));
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].message.starts_with("not TOML"), "{found:?}");
    }
}

#[test]
fn every_key_is_documented() {
    let document = include_str!("../../docs/config.md");
    let unknown = with(
        "x = 1\nencap.x = 1\ntimeouts.x = 1",
        "x = 1\nhealth.x = 1\nencap.x = 1",
        "x = 1",
    );
    let mut sections = 0;
    for problem in problems(&unknown)
        .iter()
        .filter(|p| p.message.starts_with("unknown"))
    {
        sections += 1;
        let key = problem.key.as_deref().unwrap().replace("[0]", "");
        let section = key.strip_suffix(".x").unwrap();
        for key in problem.accepted.as_deref().unwrap().split(", ") {
            let key = format!("`{section}.{key}`");
            assert!(document.contains(&key), "docs/config.md lacks {key}");
        }
    }
    assert_eq!(sections, 7);
}

proptest! {
    #[test]
    fn no_text_panics(text in ".{0,400}") {
        let problems = Config::parse("f", &text).expect_err("no random text has a VIP").to_string();
        prop_assert!(problems.split('\n').all(crate::text::plain::is_plain), "{}", problems);
    }

    #[test]
    fn no_mutation_panics(
        edits in prop::collection::vec((any::<prop::sample::Index>(), 0..12_usize, "[\\[\\]\"'={}.,#\n\\\\a-f0-9_-]{0,4}"), 1..6)
    ) {
        let mut text = FULL.to_owned();
        for (at, removed, inserted) in edits {
            let start = at.index(text.len() + 1);
            let end = (start + removed).min(text.len());
            text.replace_range(start..end, &inserted);
        }
        if let Err(ConfigError::Invalid(problems)) = Config::parse("f", &text) {
            prop_assert!(problems.total() > 0);
            let last = text.lines().count() + 1;
            prop_assert!(problems.first().iter().all(|p| p.line.is_none_or(|line| (1..=last).contains(&line))));
        }
    }

    #[test]
    fn no_flag_panics(vip in ".{0,40}", backend in ".{0,40}", workers in ".{0,8}", encap in ".{0,8}") {
        let flags = Flags { vips: vec![vip], backends: vec![backend], tun: None, workers: Some(workers), encap: Some(encap) };
        prop_assert!(Config::from_flags(&flags).is_err());
    }
}
