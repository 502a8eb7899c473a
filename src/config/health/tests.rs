use super::super::{Config, ConfigError};
use super::*;

const BACKENDS: &str = "backend = [{ address = \"10.0.1.11\" }, { address = \"10.0.1.12\" }]\n";

fn vip(name: &str, port: &str, health: &str) -> String {
    format!(
        "[[vip]]\nname = \"{name}\"\naddress = \"10.0.0.100\"\nport = {port}\n{BACKENDS}\
         [vip.health]\n{health}\n"
    )
}

fn parse(text: &str) -> Result<Config, Vec<String>> {
    Config::parse("f", text).map_err(|error| match error {
        ConfigError::Invalid(problems) => {
            problems.first().iter().map(ToString::to_string).collect()
        }
        ConfigError::Read { .. } => Vec::new(),
    })
}

fn probing(health: &str) -> Probing {
    let config = parse(&vip("web", "80", health)).unwrap();
    config.vips[0].probing.clone().unwrap()
}

#[test]
fn a_section_alone_is_a_tcp_check_with_defaults() {
    let text = "tcp every 2s timeout 1s rise 2 fall 3";
    assert_eq!(probing("").to_string(), text);
    assert_eq!(probing("kind = \"tcp\"").to_string(), text);
    let all = probing(
        "port = 8080\ninterval = \"1s\"\ninterval_edge = \"100ms\"\ninterval_down = \"5s\"\n\
         timeout = \"200ms\"\nrise = 1\nfall = 2\ninitial = \"unhealthy\"\nsource = \"10.0.1.2\"\n\
         close = \"graceful\"\non_unhealthy = \"keep\"\nmtu_check = \"5m\"",
    );
    assert_eq!(
        all.to_string(),
        "tcp port 8080 from 10.0.1.2 every 1s (edge 100ms, down 5s) timeout 200ms rise 1 fall 2 \
         initial unhealthy close graceful on_unhealthy keep mtu_check 300s"
    );
}

#[cfg(feature = "https")]
#[test]
fn a_check_by_tls() {
    let text = "https / 200-399 every 2s timeout 1s rise 2 fall 3";
    assert_eq!(probing("kind = \"https\"").to_string(), text);
    let all = probing(
        "kind = \"https\"\nhost = \"www.example.net\"\npath = \"/up\"\nbody = \"ok\"\nverify = \"/etc/ca.pem\"",
    );
    let text = "https /up 200-399 host www.example.net body \"ok\" verify /etc/ca.pem every 2s timeout 1s rise 2 fall 3";
    assert_eq!(all.to_string(), text);
    let refused = parse(&vip("web", "80", "kind = \"https\"\nverify = \"ca.pem\""));
    let message = "health.verify = \"ca.pem\": not one of these";
    assert!(refused.unwrap_err()[0].contains(message));
}

#[cfg(not(feature = "https"))]
#[test]
fn without_tls_its_kind_is_refused_by_the_name_of_the_feature() {
    let refused = parse(&vip("web", "80", "kind = \"https\"")).unwrap_err();
    let message = "not in this build: it needs the cargo feature \"https\"";
    assert!(refused[0].contains(message), "{refused:?}");
    assert_eq!(refused.len(), 1);
}

#[test]
fn what_is_beside_a_probe() {
    let text = "tcp every 2s timeout 1s rise 2 fall 3 via direct passive slow_start 30s";
    let keys = "via = \"direct\"\npassive = true\nslow_start = \"30s\"";
    assert_eq!(probing(keys).to_string(), text);
    let config = parse(&vip("web", "80", keys)).unwrap();
    let warned = config.warnings();
    let warned: Vec<_> = warned.iter().map(ToString::to_string).collect();
    assert!(
        warned
            .iter()
            .any(|line| line.contains("health.via = \"direct\"") && line.contains("[D40]")),
        "{warned:?}"
    );
}

#[test]
fn no_section_and_none_measure_nothing() {
    let config = parse(&vip("web", "80", "kind = \"none\"")).unwrap();
    assert_eq!(config.vips[0].probing, None);
}

#[test]
fn what_does_not_go_together() {
    for (port, health, expected) in [
        (
            "80",
            "kind = \"none\"\nrise = 2",
            "vip[0].health.rise = 2: has no effect while kind is \"none\"",
        ),
        (
            "80",
            "kind = \"tcp\"\npath = \"/\"",
            "health.path = \"/\": has no effect while kind is \"tcp\"",
        ),
        (
            "80",
            "kind = \"http\"\nverify = \"none\"",
            "health.verify = \"none\": has no effect while kind is \"http\"",
        ),
        (
            "80",
            "via = \"direct\"\nsource = \"10.0.1.2\"",
            "health.source = \"10.0.1.2\": has no effect while via is \"direct\"",
        ),
        (
            "80",
            "passive = \"true\"",
            "in quotes; without them it is a boolean",
        ),
        ("80", "slow_start = \"500ms\"", "health.slow_start"),
        (
            "80",
            "source = \"2001:db8::1\"",
            "not of the family of the VIP",
        ),
        (
            "\"any\"",
            "kind = \"tcp\"",
            "health.port: missing, and the VIP has every port",
        ),
        (
            "80",
            "track = \"other\"",
            "health.track = \"other\": no VIP has that name",
        ),
        ("80", "track = \"web\"", "that VIP sends no probes"),
        (
            "80",
            "track = \"web\"\nfall = 2",
            "health.fall = 2: has no effect beside track",
        ),
        ("80", "interval = \"5ms\"", "out of range"),
        ("80", "rise = 0", "out of range"),
        (
            "80",
            "kind = \"external\"\nmtu_check = \"5m\"",
            "has no effect while kind is \"external\"",
        ),
        ("80", "mtu_check = \"10ms\"", "out of range"),
        (
            "80",
            "on_unhealthy = \"stay\"",
            "\"auto\" or \"move\" or \"keep\"",
        ),
    ] {
        let found = parse(&vip("web", port, health)).unwrap_err();
        assert!(
            found.iter().any(|text| text.contains(expected)),
            "{health}: {found:?}"
        );
    }
    let text = vip("web", "\"any\"", "port = 80");
    assert!(parse(&text).is_ok());
}

#[test]
fn a_vip_tracks_another_that_has_its_backends() {
    let both =
        vip("web", "80", "") + &vip("tls", "443", "track = \"web\"\non_unhealthy = \"move\"");
    let config = parse(&both).unwrap();
    let tracking = config.vips[1].probing.clone().unwrap();
    assert_eq!(tracking.to_string(), "as web on_unhealthy move");
    let more = both.replacen(
        "{ address = \"10.0.1.12\" }",
        "{ address = \"10.0.1.13\" }",
        1,
    );
    let found = parse(&more).unwrap_err();
    assert!(
        found[0].contains("that VIP has no backend 10.0.1.12"),
        "{found:?}"
    );
}

#[test]
fn more_probes_than_a_thread_can_send() {
    let vips: String = (1..=20)
        .map(|port| vip(&port.to_string(), &port.to_string(), "interval = \"10ms\""))
        .collect();
    assert!(parse(&vips).is_ok());
    let vips: String = (1..=200)
        .map(|port| vip(&port.to_string(), &port.to_string(), "interval = \"10ms\""))
        .collect();
    let found = parse(&vips).unwrap_err();
    assert!(
        found[0].contains("probes are sent each second"),
        "{found:?}"
    );
}

#[test]
fn statuses_patterns_and_shares() {
    assert_eq!(status(Raw::Whole(204)), Ok(204..=204));
    assert_eq!(status(Raw::Text("200-399")), Ok(200..=399));
    for bad in [
        Raw::Whole(99),
        Raw::Text("399-200"),
        Raw::Text("2xx"),
        Raw::Text(""),
    ] {
        assert!(status(bad.clone()).is_err(), "{bad:?}");
    }
    let pattern = expect(Raw::Text("0aXf")).unwrap();
    assert!(pattern.matches(&[0x0a, 0x7f, 9]) && pattern.matches(&[0x0a, 0x0f]));
    assert!(!pattern.matches(&[0x0a, 0x70]) && !pattern.matches(&[0x0a]));
    assert!(payload(Raw::Text("X0")).is_err() && payload(Raw::Text("0")).is_err());
    assert_eq!(percentage(Raw::Text("50%")), Ok(50));
    for bad in ["50", "101%", "-1%", "%"] {
        assert!(percentage(Raw::Text(bad)).is_err(), "{bad}");
    }
    assert!(path(Raw::Text("/a b")).is_err() && path(Raw::Text("a")).is_err());
    assert!(host(Raw::Text("a\r\nb")).is_err());
}
