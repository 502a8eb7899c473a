//! A balance that lasts: five hundred streams through a hundred reloads, drains, the limit on new flows.

use crate::enter::in_lab;
use crate::lab::wait_until;
use crate::reloading::{Reloading, vip};
use crate::site::{BACKENDS, Site, VIP};
use crate::streams::{Streams, assert_no_resets, echo_streams};

const B1: &str = BACKENDS[0].1;
const B2: &str = BACKENDS[1].1;
/// Joins and leaves.
const B4: &str = "10.0.1.14";
const NAMES: [&str; 4] = ["b1", "b2", "b3", "b4"];

#[test]
fn a_drain_reports_its_last_flow() {
    in_lab(|lab| {
        let site = Site::new(lab);
        let _services = site.backends.each_ref().map(echo_streams);
        let mut file = File::new();
        let mut director = Reloading::start(lab, &site, &file.text());
        let streams = Streams::open(&site.client, 20, 10_000);
        assert!(streams.of("b2") > 2, "{:?}", streams.backends);
        file.states[1] = "draining";
        director.accept(&file.text());

        let new = site.get_in_parallel(60, 20_000);
        assert!(new.values().all(|name| name != "b2"), "{new:?}");
        streams.wait_for_round();
        let drained = format!("vip web: backend {B2} is drained: its last flow ended");
        assert!(!director.log().contains(&drained), "{}", director.log());
        streams.finish();
        wait_until(&drained, || director.log().contains(&drained));
        assert_eq!(director.log().matches(&drained).count(), 1);
        assert_no_resets(site.nodes());
        let totals = director.director.stop();
        assert_eq!(totals.dropped(), 0, "{totals:?}");
    });
}

#[test]
fn flows_beyond_the_limit_go_by_the_ring() {
    in_lab(|lab| {
        let site = Site::new(lab);
        let web = ["web", VIP, "80", "tcp", "new_flows_per_second = 10"];
        let config = vip(web, &BACKENDS.map(|(_, address)| (address, "")));
        let director = Reloading::start(lab, &site, &config);
        let answers = site.get_in_parallel(200, 20_000);
        assert!(
            NAMES[..3]
                .iter()
                .all(|name| answers.values().any(|found| found == name))
        );
        site.wait_until_read(site.sent_by_client());
        let totals = director.director.stop();
        assert_eq!(totals.dropped(), 0, "{totals:?}");
        // A SYN, an acknowledgement, a request and a FIN at least of each that was beyond the limit.
        assert!(totals.untracked > 400, "{totals:?}");
    });
}

#[test]
fn streams_outlive_a_hundred_reloads() {
    in_lab(|lab| {
        let site = Site::new(lab);
        let b4 = site.join_backend(lab, "b4", B4);
        let _services = site.backends.each_ref().map(echo_streams);
        let mut file = File::new();
        let mut director = Reloading::start(lab, &site, &file.text());
        let streams = Streams::open(&site.client, 500, 10_000);
        assert!(NAMES[..3].iter().all(|name| streams.of(name) > 100));

        for (number, (what, step)) in (1..=100).zip(STEPS.into_iter().cycle()) {
            match step {
                Step::Change(change) => {
                    change(&mut file);
                    director.accept(&file.text());
                    let name = site.get();
                    assert!(file.takes(&name), "{name} after: {what}");
                }
                Step::Spoil(spoil) => {
                    director.refuse(&spoil(&file.text()));
                }
            }
            if number % 5 == 0 {
                streams.wait_for_round();
            }
        }
        file.states[0] = "draining";
        director.accept(&file.text());
        let new = site.get_in_parallel(60, 20_000);
        assert!(
            new.values().all(|name| name == "b2" || name == "b3"),
            "{new:?}"
        );

        streams.finish();
        assert_no_resets(site.nodes().chain([&b4.node]));
        let totals = director.director.stop();
        assert_eq!(totals.dropped(), 0, "{totals:?}");
    });
}

/// One change of the file: to another valid one, or of its text to an invalid one.
#[derive(Clone, Copy)]
enum Step {
    Change(fn(&mut File)),
    Spoil(fn(&str) -> String),
}

/// Twenty-five reloads that end where they began. No stream is on b4, so it may leave once it has
/// drained.
const STEPS: [(&str, Step); 25] = [
    (
        "a fourth backend",
        Step::Change(|file| file.b4 = Some("active")),
    ),
    (
        "not TOML",
        Step::Spoil(|text| text.replace("[[vip]]", "[[vip]")),
    ),
    ("another weight", Step::Change(|file| file.weights[0] = 5)),
    (
        "a backend twice",
        Step::Spoil(|text| format!("{text}[[vip.backend]]\naddress = \"{B1}\"\n")),
    ),
    (
        "b2 drains",
        Step::Change(|file| file.states[1] = "draining"),
    ),
    (
        "an unknown key",
        Step::Spoil(|text| text.replace("ring_size", "ringsize")),
    ),
    ("a second VIP", Step::Change(|file| file.second_vip = true)),
    ("no echo", Step::Change(|file| file.echo = "drop")),
    (
        "other timeouts",
        Step::Change(|file| file.established = "20m"),
    ),
    ("b2 is back", Step::Change(|file| file.states[1] = "active")),
    (
        "another device",
        Step::Spoil(|text| text.replace("[director]", "[director]\ntun = \"tunlb1\"")),
    ),
    ("a small ring", Step::Change(|file| file.ring_size = 4093)),
    (
        "b3 drains",
        Step::Change(|file| file.states[2] = "draining"),
    ),
    (
        "b1 drains, too",
        Step::Change(|file| file.states[0] = "draining"),
    ),
    (
        "no active backend",
        Step::Spoil(|text| text.replace("\"active\"", "\"draining\"")),
    ),
    (
        "all are back",
        Step::Change(|file| file.states = ["active"; 3]),
    ),
    (
        "another key",
        Step::Change(|file| file.hash_key = "000102030405060708090a0b0c0d0e0f"),
    ),
    (
        "the widest weights",
        Step::Change(|file| file.weights = [1, 65535, 100]),
    ),
    ("no weight", Step::Change(|file| file.weights[1] = 0)),
    (
        "a backend that is the VIP",
        Step::Spoil(|text| text.replace(B2, VIP)),
    ),
    (
        "the fourth backend drains",
        Step::Change(|file| file.b4 = Some("draining")),
    ),
    (
        "the second VIP leaves",
        Step::Change(|file| file.second_vip = false),
    ),
    (
        "all else as in the beginning",
        Step::Change(|file| {
            let File { b4, reversed, .. } = *file;
            *file = File {
                b4,
                reversed,
                ..File::new()
            };
        }),
    ),
    (
        "the fourth backend leaves",
        Step::Change(|file| file.b4 = None),
    ),
    (
        "the backends in another order",
        Step::Change(|file| file.reversed = !file.reversed),
    ),
];

/// What changes in the director's file.
#[derive(Clone, Copy)]
struct File {
    ring_size: u32,
    hash_key: &'static str,
    established: &'static str,
    echo: &'static str,
    /// Of b1 to b3, as the states.
    weights: [u16; 3],
    states: [&'static str; 3],
    b4: Option<&'static str>,
    reversed: bool,
    second_vip: bool,
}

impl File {
    const fn new() -> Self {
        Self {
            ring_size: 65537,
            hash_key: "00112233445566778899aabbccddeeff",
            established: "15m",
            echo: "reply",
            weights: [1; 3],
            states: ["active"; 3],
            b4: None,
            reversed: false,
            second_vip: false,
        }
    }

    fn text(&self) -> String {
        let Self {
            ring_size,
            hash_key,
            established,
            echo,
            ..
        } = self;
        let mut text = format!(
            "[director]\nworkers = 2\nring_size = {ring_size}\nhash_key = \"{hash_key}\"\n\
             [director.timeouts]\nestablished = \"{established}\"\nclosing = \"1s\"\n"
        );
        let echo = format!("echo = \"{echo}\"");
        let mut vips = vec![["web", VIP, "\"any\"", "tcp", &echo]];
        if self.second_vip {
            vips.push(["other", "10.0.0.101", "53", "udp", ""]);
        }
        for words in vips {
            text += &vip(words, &[]);
            text += &self.backends();
        }
        text
    }

    fn backends(&self) -> String {
        let mut sections = Vec::new();
        for ((_, address), (weight, state)) in
            BACKENDS.iter().zip(self.weights.iter().zip(self.states))
        {
            sections.push(format!(
                "[[vip.backend]]\naddress = \"{address}\"\nweight = {weight}\nstate = \"{state}\"\n"
            ));
        }
        if let Some(state) = self.b4 {
            sections.push(format!(
                "[[vip.backend]]\naddress = \"{B4}\"\nstate = \"{state}\"\n"
            ));
        }
        if self.reversed {
            sections.reverse();
        }
        sections.concat()
    }

    /// Whether a backend gets new connections.
    fn takes(&self, name: &str) -> bool {
        match NAMES.iter().position(|known| *known == name) {
            Some(3) => self.b4 == Some("active"),
            Some(at) => self.states[at] == "active" && self.weights[at] > 0,
            None => false,
        }
    }
}
