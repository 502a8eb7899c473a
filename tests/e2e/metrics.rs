//! What `/metrics` tells of a director is what it did, to the packet, by a scrape as Prometheus does it.

use std::collections::BTreeMap;

use crate::enter::in_lab;
use crate::lab::{Lab, Node, wait_until};
use crate::reloading::{Reloading, vip};
use crate::site::{BACKENDS, Site, VIP};

const LISTENER: &str = "127.0.0.1:9810";

/// Datagrams of which nothing comes: the first two have no VIP, the others one whose backend is down.
const DATAGRAMS: &str = "import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for port in [53, 53, 54, 54, 54]:
    s.sendto(b'hello', (sys.argv[1], port))";

/// Values by series, as they are written.
type Scrape = BTreeMap<String, f64>;

fn scrape(node: &Node) -> Scrape {
    let text = node.run(&format!(
        "curl --silent --show-error --fail --max-time 20 http://{LISTENER}/metrics"
    ));
    let values = text.lines().filter(|line| !line.starts_with('#'));
    let values = values.map(|line| {
        let (series, value) = line.rsplit_once(' ').expect("a value");
        (series.to_owned(), value.parse().expect("a number"))
    });
    values.collect()
}

/// The value of one series, which is there.
fn value(scrape: &Scrape, series: &str) -> f64 {
    *scrape
        .get(series)
        .unwrap_or_else(|| panic!("no {series} in {scrape:#?}"))
}

/// Where the lab has the director's socket.
const API: &str = "/dev/shm/api.sock";

fn config(web: &str) -> String {
    let backends = BACKENDS.map(|(_, address)| (address, ""));
    format!(
        "[director]\napi = \"{API}\"\nmetrics = \"{LISTENER}\"\n[metrics]\ncompat = [\"node_ipvs\"]\n{}{}",
        vip(["web", VIP, "80", "tcp", web], &backends),
        vip(
            ["none", VIP, "54", "udp", "all_down = \"drop\""],
            &[(BACKENDS[0].1, "")]
        )
    )
}

/// An operator takes the one backend of the VIP "none" for down.
fn take_down(node: &Node) {
    let url = format!(
        "http://localhost/v1/backends?vip=none&address={}",
        BACKENDS[0].1
    );
    let patch = r#"{"health":"down","for_seconds":600}"#;
    node.sh(&format!(
        "curl --silent --show-error --fail-with-body --max-time 20 --unix-socket {API} --request PATCH \
         --header content-type:application/merge-patch+json --data '{patch}' '{url}'"
    ));
}

fn start(lab: &Lab, site: &Site) -> Reloading {
    Reloading::start(lab, site, &config(""))
}

#[test]
fn metrics_agree_with_what_was_sent_to_the_packet() {
    in_lab(|lab| {
        let site = Site::new(lab);
        let running = start(lab, &site);
        take_down(&site.director);
        let answers = site.get_in_parallel(60, 20_000);
        let sent = site.sent_by_client();
        site.client.run_python(DATAGRAMS, &[VIP]);
        site.wait_until_read(sent + 5);
        let dropped = r#"tunlb_vip_drops_total{vip="none",reason="no_backend"}"#;
        wait_until("the drops", || {
            scrape(&site.director).get(dropped) == Some(&3.0)
        });
        let scraped = scrape(&site.director);
        for (name, address) in BACKENDS {
            let flows = answers.values().filter(|answer| *answer == name).count();
            let series =
                format!("tunlb_backend_new_flows_total{{vip=\"web\",backend=\"{address}\"}}");
            assert_eq!(value(&scraped, &series), flows as f64, "{series}");
            let share =
                format!("tunlb_backend_ring_share_ratio{{vip=\"web\",backend=\"{address}\"}}");
            assert!(
                (value(&scraped, &share) - 1.0 / 3.0).abs() < 0.01,
                "{share}"
            );
        }
        for (series, expected) in [
            (r#"tunlb_drops_total{reason="no_vip"}"#, 2.0),
            (r#"tunlb_drops_total{reason="no_backend"}"#, 3.0),
            (
                r#"tunlb_vip_drops_total{vip="web",reason="no_backend"}"#,
                0.0,
            ),
            (r#"tunlb_vip_backends_taking_new_flows{vip="none"}"#, 0.0),
            ("tunlb_forwarded_packets_total", sent as f64),
            ("tunlb_tun_dropped_packets_total", 0.0),
            ("tunlb_worker_batch_packets_sum", (sent + 5) as f64),
            ("node_ipvs_connections_total", 60.0),
            ("tunlb_ready", 1.0),
            ("tunlb_overrides", 1.0),
            (
                r#"tunlb_backend_healthy{vip="none",backend="10.0.1.11"}"#,
                0.0,
            ),
        ] {
            assert_eq!(value(&scraped, series), expected, "{series}");
        }
        assert!(
            !scraped.contains_key(r#"tunlb_vip_ring_fingerprint{vip="none"}"#),
            "there is no ring"
        );
        assert!(
            value(
                &scraped,
                r#"tunlb_worker_heartbeat_age_seconds{worker="0"}"#
            ) < 3.0
        );

        // Nothing moves between the scrape and the end.
        let totals = running.director.stop();
        for ((vip, backend), traffic) in &totals.backends {
            let labels = format!("{{vip=\"{vip}\",backend=\"{backend}\"}}");
            let told = |what: &str| value(&scraped, &format!("tunlb_backend_{what}_total{labels}"));
            assert_eq!(told("packets"), traffic.packets as f64, "{labels}");
            assert_eq!(told("bytes"), traffic.bytes as f64, "{labels}");
        }
        assert_eq!(
            value(&scraped, "tunlb_forwarded_bytes_total"),
            totals.sent().bytes as f64
        );
    });
}

#[test]
fn metrics_tell_of_reloads_and_keep_their_counts_over_them() {
    in_lab(|lab| {
        let site = Site::new(lab);
        let mut running = start(lab, &site);
        site.get();
        site.wait_until_read(site.sent_by_client());
        let before = scrape(&site.director);
        assert_eq!(value(&before, "tunlb_config_last_reload_successful"), 1.0);
        running.refuse("nonsense");
        let refused = scrape(&site.director);
        assert_eq!(value(&refused, "tunlb_config_last_reload_successful"), 0.0);
        running.accept(&config("echo = \"drop\""));
        let after = scrape(&site.director);
        assert_eq!(value(&after, "tunlb_config_last_reload_successful"), 1.0);
        let builds = "tunlb_snapshot_build_seconds_count";
        assert_eq!(value(&after, builds), value(&before, builds) + 1.0);
        for series in before
            .keys()
            .filter(|series| series.starts_with("tunlb_backend_") && series.contains("_total{"))
        {
            assert_eq!(value(&after, series), value(&before, series), "{series}");
        }
        running.director.stop();
    });
}

#[test]
fn the_page_comes_with_its_policy_and_the_status_that_it_asks_for() {
    in_lab(|lab| {
        let site = Site::new(lab);
        let running = start(lab, &site);
        let curl = "curl --silent --show-error --fail --max-time 20";
        let headers = site.director.run(&format!(
            "{curl} --output /dev/null --dump-header - http://{LISTENER}/"
        ));
        let headers = headers.to_lowercase();
        for header in [
            "content-type: text/html",
            "content-security-policy: default-src 'none'; script-src 'sha256-",
        ] {
            assert!(headers.contains(header), "no {header} in\n{headers}");
        }
        let status = site
            .director
            .run(&format!("{curl} http://{LISTENER}/status.json"));
        let status: serde_json::Value = serde_json::from_str(&status).expect("JSON");
        assert_eq!(status["vips"][0]["name"], "web");
        assert_eq!(status["vips"][0]["backends"][2]["address"], BACKENDS[2].1);
        running.director.stop();
    });
}
