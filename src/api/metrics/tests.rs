use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use mio::{Poll, Token, Waker};

use super::family::Kind;
use super::*;
use crate::config::Config;
use crate::control::announce::{Announce, Announced};
use crate::control::overlay::{Action, Author, BackendName, Change, Edit, Edits, Overlay};
use crate::control::view::{HostProblem, LastReload};
use crate::control::{
    DriverInterface, DriverWatch, FlowChunk, FlowError, FlowRequest, Heartbeat, WorkerLink,
};
use crate::director::{Counters, Director, DropReason, Health, Roster, Seat, SendErrno};
use crate::health::Gauges;
use crate::probe::{ProbeResult, SizeFound, Target};
use crate::site::Paths;

const CONFIG: &str = "
[[vip]]
name = 'we\"b\\'
address = '10.0.0.100'
port = 80
[[vip.backend]]
address = '10.0.1.11'
weight = 3
[[vip.backend]]
address = '10.0.1.12'
state = 'draining'
[[vip]]
name = 'dns'
address = '2001:db8::100'
protocol = 'udp'
port = 'any'
[vip.health]
kind = 'ping'
[[vip.backend]]
address = '2001:db8::11'
";

/// A director without threads.
struct Fixture {
    handle: Handle,
    view: Arc<ArcSwap<View>>,
    director: Director,
    counters: Arc<Counters>,
    requests: Arc<RequestCounts>,
    /// Keeps the waker's other end.
    _poll: Poll,
}

/// A data path in drivers that took three packets.
#[derive(Debug)]
struct InDriver;

impl DriverWatch for InDriver {
    fn interfaces(&self) -> &[DriverInterface] {
        &[]
    }

    fn packets(&self) -> Vec<(&'static str, u64)> {
        vec![("redirected", 3)]
    }

    fn list(&self, _: FlowRequest) -> Result<FlowChunk, FlowError> {
        Err(FlowError::Late(Duration::ZERO))
    }
}

impl Fixture {
    fn new(config: &str, overlay: impl FnOnce(&Config) -> Overlay) -> Self {
        let config = Config::parse("f", config).unwrap();
        let overlay = overlay(&config);
        let effective = overlay.applied(&config);
        let paths = Paths::without_routes(&effective);
        let mut roster = Roster::default();
        let health = |vip: &crate::director::VipSpec, address: IpAddr| {
            overlay.health(&vip.name, address).unwrap_or_default()
        };
        let snapshot = Arc::new(paths.snapshot(&effective, &mut roster, health).unwrap());
        let seat = Seat {
            worker: 0,
            workers: 1,
            seed: [1; 4],
        };
        let director = Director::new(Arc::clone(&snapshot), &seat);
        let counters = Arc::clone(director.counters());
        roster.attach(Arc::clone(&counters));
        let poll = Poll::new().unwrap();
        let link = WorkerLink {
            counters: Arc::clone(&counters),
            heartbeat: Arc::new(Heartbeat::new(Instant::now())),
            waker: Arc::new(Waker::new(poll.registry(), Token(0)).unwrap()),
            flows: Arc::default(),
        };
        let identity = Identity {
            started: SystemTime::UNIX_EPOCH,
            file: None,
            tun: "tunlb0".into(),
            workers: vec![link],
            driver: Some(Arc::new(InDriver)),
        };
        let announced = effective.vips.iter().map(|vip| {
            let state = match &*vip.name {
                "dns" => Announce::Down,
                _ => Announce::Up,
            };
            (vip.address, Announced::of(state))
        });
        let announced = announced.collect();
        let view = View {
            measured: Arc::default(),
            slow_starts: Arc::default(),
            announced: Arc::new(announced),
            gauges: Arc::new(Gauges::of_one(
                Target {
                    vip: "dns".into(),
                    address: "2001:db8::11".parse().unwrap(),
                },
                2_051_319_845,
            )),
            generation: 1,
            config: Arc::new(config),
            effective: Arc::new(effective),
            overlay: Arc::new(overlay),
            paths: Arc::new(paths),
            snapshot,
            counters: roster.counters().clone(),
            loaded: SystemTime::UNIX_EPOCH + Duration::from_millis(1_500),
            last_reload: None,
            problems: Arc::default(),
            builds: Arc::default(),
        };
        let view = Arc::new(ArcSwap::from_pointee(view));
        let ask = |_| Err(crate::control::Busy);
        Self {
            handle: Handle::new(Arc::new(identity), Arc::default(), Arc::clone(&view), ask),
            view,
            director,
            counters,
            requests: Arc::default(),
            _poll: poll,
        }
    }

    fn text(&self, options: MetricsOptions) -> String {
        let beside = Beside {
            requests: Arc::clone(&self.requests),
            losses: Told {
                tun_drops: 5,
                device_drops: [("eth0".to_owned(), 6)].into(),
            },
        };
        encode(&self.handle, options, beside)
    }

    /// Everything that there is.
    fn all(&self) -> String {
        self.text(MetricsOptions {
            per_backend: PerBackend::Yes,
            node_ipvs: NodeIpvs::Yes,
        })
    }

    fn change(&self, change: impl FnOnce(&mut View)) {
        let mut view = View::clone(&self.view.load());
        change(&mut view);
        self.view.store(Arc::new(view));
    }
}

/// One backend has an override.
fn overridden(config: &Config, edits: Edits) -> Overlay {
    let change = Change {
        backend: BackendName {
            vip: "dns".into(),
            address: "2001:db8::11".parse().unwrap(),
        },
        action: Action::Edit(edits),
        lasts: Some(Duration::from_secs(60)),
        reason: None,
        if_generation: None,
    };
    let by = Author {
        uid: 0,
        user: None,
        pid: None,
    };
    let made = SystemTime::UNIX_EPOCH + Duration::from_secs(77);
    Overlay::default()
        .changed(config, &change, &by, made)
        .unwrap()
}

fn weighing(weight: u16) -> Edits {
    Edits {
        weight: Edit::Set(weight),
        ..Edits::default()
    }
}

/// The value of a series, by its whole name.
fn value(text: &str, series: &str) -> f64 {
    let values: Vec<_> = text
        .lines()
        .filter_map(|line| line.strip_prefix(series)?.strip_prefix(' '))
        .collect();
    assert_eq!(values.len(), 1, "{series} in\n{text}");
    values[0].parse().unwrap()
}

const WEB: &str = r#"vip="we\"b\\""#;

#[test]
fn values_are_what_the_workers_counted() {
    let fixture = Fixture::new(CONFIG, |_| Overlay::default());
    let snapshot = Arc::clone(&fixture.view.load().snapshot);
    let [(first, _), _, (third, _)] = snapshot.backends().collect::<Vec<_>>()[..] else {
        panic!("three backends");
    };
    for _ in 0..3 {
        fixture.counters.count_sent(first, 100);
    }
    fixture.counters.count_sent(third, 1000);
    for _ in 0..7 {
        fixture.director.count_unsent(third, DropReason::TooBig);
    }
    fixture.counters.count_burst(3);
    fixture.counters.count_burst(31);
    fixture.counters.count_send_error(SendErrno::NotPermitted);
    let fingerprint = snapshot.vips()[0].fingerprint().unwrap();
    fixture.requests.count("GET /metrics", 200);
    let text = fixture.all();
    for (series, expected) in [
        (format!("tunlb_backend_packets_total{{{WEB},backend=\"10.0.1.11\"}}"), 3.0),
        (format!("tunlb_backend_bytes_total{{{WEB},backend=\"10.0.1.11\"}}"), 300.0),
        (format!("tunlb_backend_packets_total{{{WEB},backend=\"10.0.1.12\"}}"), 0.0),
        (format!("tunlb_backend_weight{{{WEB},backend=\"10.0.1.11\"}}"), 3.0),
        (format!("tunlb_backend_takes_new_flows{{{WEB},backend=\"10.0.1.11\"}}"), 1.0),
        (format!("tunlb_backend_takes_new_flows{{{WEB},backend=\"10.0.1.12\"}}"), 0.0),
        (r#"tunlb_backend_bytes_total{vip="dns",backend="2001:db8::11"}"#.into(), 1000.0),
        (format!("tunlb_backend_ring_share_ratio{{{WEB},backend=\"10.0.1.11\"}}"), 1.0),
        (format!("tunlb_backend_ring_share_ratio{{{WEB},backend=\"10.0.1.12\"}}"), 0.0),
        (format!("tunlb_vip_drops_total{{{WEB},reason=\"no_backend\"}}"), 0.0),
        (format!("tunlb_vip_ring_changes_total{{{WEB}}}"), 0.0),
        (format!("tunlb_vip_ring_fingerprint{{{WEB}}}"), f64::from(fingerprint)),
        ("tunlb_worker_batch_packets_bucket{le=\"4\"}".into(), 1.0),
        ("tunlb_worker_batch_packets_bucket{le=\"+Inf\"}".into(), 2.0),
        ("tunlb_worker_batch_packets_sum".into(), 34.0),
        (r#"tunlb_send_errors_total{errno="EPERM"}"#.into(), 1.0),
        (format!("tunlb_vip_backends{{{WEB},state=\"active\"}}"), 1.0),
        (format!("tunlb_vip_backends{{{WEB},state=\"draining\"}}"), 1.0),
        (format!("tunlb_vip_backends{{{WEB},state=\"disabled\"}}"), 0.0),
        (format!("tunlb_vip_healthy_backends{{{WEB}}}"), 2.0),
        (format!("tunlb_vip_backends_taking_new_flows{{{WEB}}}"), 1.0),
        ("tunlb_forwarded_packets_total".into(), 4.0),
        ("tunlb_forwarded_bytes_total".into(), 1300.0),
        (r#"tunlb_drops_total{reason="no_vip"}"#.into(), 0.0),
        (r#"tunlb_drops_total{reason="too_big"}"#.into(), 7.0),
        (r#"tunlb_vip_drops_total{vip="dns",reason="too_big"}"#.into(), 7.0),
        ("tunlb_tun_dropped_packets_total".into(), 5.0),
        (r#"tunlb_device_dropped_packets_total{device="eth0"}"#.into(), 6.0),
        ("tunlb_flows_limit".into(), 1_000_000.0),
        ("tunlb_snapshot_epoch".into(), 1.0),
        (r#"tunlb_api_requests_total{route="GET /metrics",code="200"}"#.into(), 1.0),
        ("node_ipvs_incoming_packets_total".into(), 4.0),
        (r#"node_ipvs_backend_weight{local_address="10.0.0.100",local_port="80",remote_address="10.0.1.11",remote_port="80",proto="TCP",local_mark=""}"#.into(), 3.0),
        (r#"node_ipvs_backend_weight{local_address="2001:db8::100",local_port="0",remote_address="2001:db8::11",remote_port="0",proto="UDP",local_mark=""}"#.into(), 1.0),
    ] {
        assert_eq!(value(&text, &series), expected, "{series}");
    }
    assert!(value(&text, r#"tunlb_worker_heartbeat_age_seconds{worker="0"}"#) >= 0.0);
    assert!(value(&text, "process_resident_memory_bytes") > 1e6);
}

#[test]
fn the_state_of_a_director_is_told() {
    let down = Edits {
        health: Edit::Set(Health::Unhealthy),
        ..weighing(7)
    };
    let fixture = Fixture::new(CONFIG, |config| overridden(config, down));
    let text = fixture.all();
    for (series, expected) in [
        ("tunlb_ready", 1.0),
        ("tunlb_overrides", 1.0),
        ("tunlb_override_oldest_timestamp_seconds", 77.0),
        ("tunlb_config_last_reload_successful", 1.0),
        ("tunlb_config_last_reload_success_timestamp_seconds", 1.5),
        (
            r#"tunlb_backend_healthy{vip="dns",backend="2001:db8::11"}"#,
            0.0,
        ),
        (
            r#"tunlb_backend_weight{vip="dns",backend="2001:db8::11"}"#,
            7.0,
        ),
        (r#"tunlb_vip_fail_open{vip="dns"}"#, 1.0),
        (r#"tunlb_vip_announced{vip="dns"}"#, 0.0),
        (
            r#"tunlb_certificate_expiry_timestamp_seconds{vip="dns",backend="2001:db8::11"}"#,
            2_051_319_845.0,
        ),
        (
            r#"tunlb_backend_probes_total{vip="dns",backend="2001:db8::11",result="ok"}"#,
            1.0,
        ),
        (r#"tunlb_probe_local_failures_total{reason="no_fd"}"#, 0.0),
        (r#"tunlb_vip_healthy_backends{vip="dns"}"#, 0.0),
    ] {
        assert_eq!(value(&text, series), expected, "{series}");
    }
    assert_eq!(value(&text, &format!("tunlb_vip_fail_open{{{WEB}}}")), 0.0);
    assert_eq!(value(&text, &format!("tunlb_vip_announced{{{WEB}}}")), 1.0);
    fixture.change(|view| {
        view.last_reload = Some(LastReload {
            at: SystemTime::now(),
            problems: vec!["no".into()],
        });
        view.problems = [
            "local_vip 10.0.0.1",
            "local_vip 10.0.0.2",
            "net.ipv4.ip_forward",
        ]
        .map(|what| HostProblem {
            what: what.into(),
            text: "text".into(),
            keeps_from_work: true,
        })
        .into();
    });
    let text = fixture.all();
    assert_eq!(value(&text, "tunlb_ready"), 0.0);
    assert_eq!(value(&text, "tunlb_config_last_reload_successful"), 0.0);
    assert_eq!(value(&text, r#"tunlb_host_problem{what="local_vip"}"#), 2.0);
    assert_eq!(
        value(&text, r#"tunlb_host_problem{what="net.ipv4.ip_forward"}"#),
        1.0
    );
}

#[test]
fn metrics_of_backends_and_other_names_are_told_as_asked() {
    let fixture = Fixture::new(CONFIG, |_| Overlay::default());
    let text = |per_backend, node_ipvs| {
        fixture.text(MetricsOptions {
            per_backend,
            node_ipvs,
        })
    };
    let default = fixture.text(MetricsOptions::default());
    assert!(default.contains("tunlb_backend_flows{") && !default.contains("node_ipvs"));
    let few = text(PerBackend::No, NodeIpvs::Yes);
    assert!(!few.contains("tunlb_backend_") && !few.contains("node_ipvs_backend"));
    assert!(few.contains("node_ipvs_incoming_bytes_total 0"));
}

/// Name, type and labels of each metric.
type Named = BTreeMap<String, (String, BTreeSet<String>)>;

/// Those of an output of which every metric has a value.
fn of_output(text: &str) -> Named {
    let mut named = Named::new();
    for line in text.lines() {
        if let Some(of) = line.strip_prefix("# TYPE ") {
            let (name, kind) = of.split_once(' ').unwrap();
            let new = named.insert(name.to_owned(), (kind.to_owned(), BTreeSet::new()));
            assert!(new.is_none(), "{name} twice");
        } else if !line.starts_with('#') {
            let series = line.split(['{', ' ']).next().unwrap();
            let of = ["_bucket", "_sum", "_count"].iter().find_map(|end| {
                let stem = series.strip_suffix(end)?;
                named.contains_key(stem).then_some(stem)
            });
            let of = named.get_mut(of.unwrap_or(series)).unwrap();
            let labels = line.split_once('{').map_or("", |(_, labels)| labels);
            of.1.extend(label_names(labels).filter(|name| name != "le"));
        }
    }
    named
}

/// The names in `a="…",b="…"} 1`.
fn label_names(labels: &str) -> impl Iterator<Item = String> {
    let mut rest = labels;
    std::iter::from_fn(move || {
        let (name, value) = rest.split_once("=\"")?;
        let mut is_escaped = false;
        let end = value.find(|letter| {
            let ends = letter == '"' && !is_escaped;
            is_escaped = letter == '\\' && !is_escaped;
            ends
        });
        rest = &value[end.unwrap() + 1..];
        Some(name.trim_start_matches(',').to_owned())
    })
}

/// Those of the tables of `docs/metrics.md`: name, type, labels, meaning.
fn of_document() -> Named {
    let document = include_str!("../../../docs/metrics.md");
    let rows = document.lines().filter_map(|line| line.strip_prefix("| `"));
    let mut named = Named::new();
    for row in rows {
        let cells: Vec<_> = row.split('|').map(str::trim).collect();
        let [name, kind, labels, meaning, ""] = cells[..] else {
            panic!("not four cells: {row}");
        };
        assert!(meaning.len() > 10, "no meaning: {row}");
        let labels = labels
            .split('`')
            .filter(|word| word.chars().any(char::is_alphabetic));
        let labels = labels.map(str::to_owned).collect();
        let name = name.trim_end_matches('`').to_owned();
        let new = named.insert(name, (kind.to_owned(), labels));
        assert!(new.is_none(), "twice: {row}");
    }
    named
}

/// The names of those that are different.
fn only_in_one<'a>(one: &'a Named, other: &'a Named) -> Vec<&'a str> {
    let names = one.keys().chain(other.keys());
    let different = names.filter(|&name| one.get(name) != other.get(name));
    different.map(String::as_str).collect()
}

#[test]
fn the_document_and_the_output_have_the_same_metrics() {
    let fixture = Fixture::new(CONFIG, |config| overridden(config, weighing(7)));
    fixture.requests.count("GET /metrics", 200);
    fixture.change(|view| {
        let target = Target {
            vip: "dns".into(),
            address: "2001:db8::11".parse().unwrap(),
        };
        view.gauges.of(&target).unwrap().measure(SizeFound {
            wanted: 1480,
            full: ProbeResult::NoAnswer,
            fits: Some(1380),
            told: None,
        });
        view.problems = [HostProblem {
            what: "ip_forward".into(),
            text: "text".into(),
            keeps_from_work: true,
        }]
        .into();
    });
    let text = fixture.all();
    let backend = r#"{vip="dns",backend="2001:db8::11"}"#;
    for (series, expected) in [
        ("tunlb_backend_tunnel_mtu_bytes", 1380.0),
        ("tunlb_backend_mtu_black_hole", 1.0),
    ] {
        assert_eq!(value(&text, &format!("{series}{backend}")), expected);
    }
    let output = of_output(&text);
    assert_eq!(only_in_one(&output, &of_document()), [""; 0]);
    let declared = families::ALL.iter().map(|family| {
        let kind = match family.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        let labels = family
            .labels
            .iter()
            .map(|&label| label.to_owned())
            .collect();
        (family.name.to_owned(), (kind.to_owned(), labels))
    });
    assert_eq!(only_in_one(&output, &declared.collect()), [""; 0]);
    for name in output.keys() {
        let valued = text.lines().any(|line| line.starts_with(name.as_str()));
        assert!(valued, "{name} has no value");
    }
}

/// The names of metrics in a text, without what a histogram adds.
fn named_in(text: &str) -> BTreeSet<&str> {
    let words = text.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
    let words = words.filter(|word| {
        ["tunlb_", "node_ipvs_", "process_"]
            .iter()
            .any(|start| word.starts_with(start))
    });
    words
        .map(|word| word.strip_suffix("_bucket").unwrap_or(word))
        .collect()
}

fn collect_expressions(value: &serde_json::Value, found: &mut Vec<String>) {
    let expression = |(key, value): (&String, &serde_json::Value)| {
        let is_one = ["expr", "query", "definition"].contains(&key.as_str());
        value.as_str().filter(|_| is_one).map(str::to_owned)
    };
    if let Some(map) = value.as_object() {
        found.extend(map.iter().filter_map(expression));
        map.values()
            .for_each(|value| collect_expressions(value, found));
    }
    let list = value.as_array().into_iter().flatten();
    list.for_each(|value| collect_expressions(value, found));
}

#[test]
fn the_dashboard_and_the_alerts_ask_for_metrics_that_exist() {
    let dashboard = include_str!("../../../packaging/grafana/tunlb.json");
    let mut expressions = Vec::new();
    collect_expressions(&serde_json::from_str(dashboard).unwrap(), &mut expressions);
    assert!(expressions.len() > 20, "{expressions:?}");
    let rules = include_str!("../../../packaging/prometheus/tunlb.rules.yml");
    let rules: Vec<_> = rules
        .lines()
        .filter_map(|line| line.trim().strip_prefix("expr: "))
        .collect();
    assert!(rules.len() > 10, "{rules:?}");
    let known: BTreeSet<_> = families::ALL.iter().map(|family| family.name).collect();
    for expression in expressions.iter().map(String::as_str).chain(rules) {
        let unknown: Vec<_> = named_in(expression)
            .into_iter()
            .filter(|name| !known.contains(name))
            .collect();
        assert!(unknown.is_empty(), "{expression}: no metrics {unknown:?}");
    }
}

/// A tenth of 10,000 VIPs with 10 backends each, whose metrics are 110 MB and take a release build under a second: what a
/// VIP and a backend add to a scrape is bounded, in bytes and, for a debug build on a busy machine, in time.
#[test]
fn a_scrape_of_many_vips_and_backends_is_bounded() {
    const VIPS: usize = 1_000;
    let mut config = String::new();
    for vip in 0..VIPS {
        config += &format!(
            "[[vip]]\nname='vip-{vip}'\naddress='10.{}.{}.1'\nport=80\n",
            vip / 250,
            vip % 250
        );
        for backend in 0..10 {
            let address = format!("172.16.{backend}.{}", 1 + vip % 250);
            config += &format!("[[vip.backend]]\naddress='{address}'\n");
        }
    }
    let fixture = Fixture::new(&config, |_| Overlay::default());
    let begun = Instant::now();
    let few = fixture.text(MetricsOptions {
        per_backend: PerBackend::No,
        node_ipvs: NodeIpvs::No,
    });
    let all = fixture.all();
    let took = begun.elapsed();
    assert!(few.len() < VIPS * 1000, "{} bytes of VIPs", few.len());
    assert!(all.len() < VIPS * 10 * 1500, "{} bytes in all", all.len());
    assert!(took < Duration::from_secs(20), "{took:?}");
}
