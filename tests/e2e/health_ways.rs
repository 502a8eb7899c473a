//! The ways of probes and what disturbs them; and what clients' packets show beside them.

use crate::enter::in_lab;
use crate::health::{ALL, FAST, probed, said, status, web};
use crate::lab::wait_until;
use crate::process::{Process, Signal};
use crate::reloading::{Reloading, vip};
use crate::site::{BACKENDS, DIRECTOR, HTTPD, Site, VIP};

const CONNECT_MANY: &str = include_str!("tools/connect_many.py");
const RESET: &str = include_str!("tools/reset.py");

/// What others remove of the probes' way is there again, and no backend is the worse for it.
#[test]
fn what_others_remove_of_the_probes_way_is_restored() {
    in_lab(|lab| {
        let site = Site::new(lab);
        let director = Reloading::start(lab, &site, &web(FAST));
        probed(&site, 20);
        site.director
            .run(&format!("ip route del {VIP} dev tunlb0p"));
        let route = "a route of vip 10.0.0.100 into tunlb0p, for its probes, had been removed, and is there again";
        said(&director, route);
        probed(&site, 20);
        site.director.run("ip link set tunlb0p down");
        said(&director, "tunlb0p had been set down, and is up again");
        probed(&site, 20);
        assert!(!director.log().contains("unhealthy"), "{}", director.log());
        director.director.stop();
    });
}

/// Resets of this host's own from the ports of probes reach no backend and make no flow.
#[test]
fn late_resets_of_probes_go_nowhere() {
    in_lab(|lab| {
        let site = Site::new(lab);
        let director = Reloading::start(lab, &site, &web(FAST));
        probed(&site, 20);
        let range = site
            .director
            .run("cat /proc/sys/net/ipv4/ip_local_port_range");
        let first = range.split_whitespace().next().expect("a port");
        let reset = |port: &str| {
            site.director
                .run_python(RESET, &[DIRECTOR, port, VIP, "80", "3"])
        };
        reset(first);
        reset("1023");
        let flows = || status(&site.director)["director"]["flows"]["now"].clone();
        wait_until("the reset of another port", || flows() == 1);
        let totals = director.director.stop();
        assert_eq!(totals.dropped["probe_reset"], 3, "{totals:?}");
        assert_eq!(
            totals.sent().packets,
            3,
            "those of a port that probes do not use"
        );
    });
}

fn start_httpd(site: &Site, port: &str) -> Vec<Process> {
    let backends = site.backends.iter().zip(BACKENDS);
    let start = |(backend, (name, address)): (&crate::site::Backend, (&str, &str))| {
        let httpd = backend.node.python(HTTPD, &[name, address, port]);
        backend
            .node
            .start(&format!("{name}-{port}"), httpd, "listening")
    };
    backends.map(start).collect()
}

#[test]
fn probes_past_the_tunnel_see_the_backend_alone() {
    in_lab(|lab| {
        let site = Site::new(lab);
        let mut direct = start_httpd(&site, "82");
        let health = format!("{FAST}\nkind = \"http\"\nport = 82\nvia = \"direct\"");
        let director = Reloading::start(lab, &site, &web(&health));
        said(&director, "vip web: health.via = \"direct\"");
        said(&director, "[D40]");
        let health = |backend: usize| {
            status(&site.director)["vips"][0]["backends"][backend]["health"].clone()
        };
        wait_until("a result", || health(0)["status"] == "healthy");
        assert_eq!(health(0)["via"], "direct");
        site.backends[0]
            .node
            .run(&format!("ip addr del {VIP}/32 dev lo"));
        direct.remove(1).stop(Signal::Kill);
        said(&director, "backend 10.0.1.12: unhealthy: refused");
        assert_eq!(health(0)["status"], "healthy", "it sees nothing of the VIP");
        assert_eq!(health(1)["cause"], serde_json::Value::Null);
        let sent = site.director.device_counter("tunlb0p", "tx_packets");
        assert_eq!(sent, 0, "packets of probes past the tunnel");
        director.director.stop();
    });
}

/// Starts a director whose next probes are an hour away.
fn patient(lab: &crate::lab::Lab, site: &Site, keys: &str) -> Reloading {
    let timing = "interval = \"1h\"\ninterval_edge = \"200ms\"\ninterval_down = \"200ms\"\ntimeout = \"400ms\"";
    let health = format!("[vip.health]\n{timing}\n{keys}\n");
    let config = vip(["web", VIP, "80", "tcp", &health], &ALL);
    let director = Reloading::start(lab, site, &config);
    wait_until("first results", || {
        let status = status(&site.director);
        let backends = status["vips"][0]["backends"]
            .as_array()
            .expect("backends")
            .clone();
        backends
            .iter()
            .all(|backend| backend["health"]["status"] == "healthy")
    });
    director
}

fn connect(site: &Site) -> String {
    site.client.run_python(CONNECT_MANY, &["60", VIP, "80"])
}

#[test]
fn connections_without_an_answer_bring_the_probe_forward() {
    in_lab(|lab| {
        let site = Site::by_hand(lab);
        let director = patient(lab, &site, "passive = true");
        assert_eq!(connect(&site).trim(), "60");
        assert!(!director.log().contains("unhealthy"), "{}", director.log());
        site.backends[0]
            .node
            .run(&format!("ip addr del {VIP}/32 dev lo"));
        // Those between whose looks an answer came say nothing: more follow, as with real clients.
        wait_until("the backend to be down", || {
            connect(&site);
            let down = "backend 10.0.1.11: unhealthy: no_answer (3 in a row)";
            director.log().contains(down)
        });
        director.director.stop();
    });
}

#[test]
fn errors_about_clients_packets_bring_the_probe_forward() {
    in_lab(|lab| {
        let site = Site::new(lab);
        let director = patient(lab, &site, "passive = true");
        site.backends[0].decap.signal(Signal::Kill);
        connect(&site);
        // A kernel sends few such errors a second, so that those for clients' packets may leave none for probes.
        said(&director, "backend 10.0.1.11: unhealthy: no_");
        director.director.stop();
    });
}

/// By default clients' packets change nothing about probes.
#[test]
fn without_passive_nothing_of_the_kind_is_looked_at() {
    in_lab(|lab| {
        let site = Site::new(lab);
        let director = patient(lab, &site, "");
        let before = site.director.device_counter("tunlb0p", "tx_packets");
        site.backends[0].decap.signal(Signal::Kill);
        connect(&site);
        connect(&site);
        let after = site.director.device_counter("tunlb0p", "tx_packets");
        assert_eq!(after, before, "no probe");
        assert!(!director.log().contains("unhealthy"), "{}", director.log());
        director.director.stop();
    });
}

#[test]
fn the_announced_state_follows_the_backends() {
    in_lab(|lab| {
        let site = Site::new(lab);
        let director = Reloading::start(lab, &site, &web(FAST));
        let state = || status(&site.director)["vips"][0]["announce"]["state"].clone();
        said(&director, "address 10.0.0.100: up");
        wait_until("up", || state() == "up");
        for backend in &site.backends[..2] {
            backend.httpd.signal(Signal::Kill);
        }
        said(&director, "backend 10.0.1.12: unhealthy: refused");
        said(&director, "backend 10.0.1.11: unhealthy: refused");
        assert_eq!(state(), "up");
        // One after the other, so that it is no fault of this host.
        let told = || status(&site.director)["director"]["ready"]["ok"].clone();
        site.backends[2].httpd.signal(Signal::Kill);
        said(&director, "address 10.0.0.100: down");
        wait_until("down", || state() == "down");
        assert!(told().is_boolean());
        director.director.stop();
    });
}
