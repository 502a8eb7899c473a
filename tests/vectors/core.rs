//! The vectors through [`Director`] itself, whole, cut and with every length field lying.

use std::sync::Arc;
use std::time::Duration;

use tunlb::config::Config;
use tunlb::daemon::pipeline::MemoryPipeline;
use tunlb::director::{Director, Roster, Seat, Timestamp, Verdict};
use tunlb::packet::HEADROOM;
use tunlb::site::{Paths, taken_for_healthy};

use crate::table::Table;
use crate::{Seen, check, tables};

/// The way of a packet as `tunlb replay` has it.
pub(crate) fn director(table: &Table) -> MemoryPipeline {
    let config = Config::parse("site.toml", table.site).unwrap_or_else(|error| panic!("{error}"));
    let seat = Seat {
        worker: 0,
        workers: 1,
        seed: [1, 2, 3, 4],
    };
    let paths = Paths::without_routes(&config);
    let snapshot = paths
        .snapshot(&config, &mut Roster::default(), taken_for_healthy)
        .unwrap();
    MemoryPipeline::in_memory(Director::new(Arc::new(snapshot), &seat))
}

fn seen(verdict: &str) -> Seen {
    Seen {
        verdict: verdict.to_owned(),
        reason: None,
        backend: None,
        output: Vec::new(),
    }
}

fn dropped(reason: &str) -> Seen {
    Seen {
        reason: Some(reason.to_owned()),
        ..seen("drop")
    }
}

pub(crate) fn decide(pipeline: &mut MemoryPipeline, input: &[u8], now: Duration) -> Seen {
    let passed = pipeline.pass(input, Timestamp::after(now));
    let seen = match passed.verdict {
        Verdict::Forward(forward) => {
            let backend = pipeline.director().snapshot().backend(forward.backend);
            Seen {
                backend: backend.map(|backend| backend.address),
                ..seen("forward")
            }
        }
        Verdict::Reply(_) => seen("reply"),
        Verdict::Hold => seen("hold"),
        Verdict::Drop(reason) => dropped(reason.name()),
    };
    Seen {
        output: passed.emitted,
        ..seen
    }
}

#[test]
fn through_the_core() {
    for table in tables() {
        let (mut director, mut now) = (director(&table), Duration::ZERO);
        let seen: Vec<_> = table
            .vectors
            .iter()
            .map(|vector| {
                now += vector.pause;
                decide(&mut director, &vector.input, now)
            })
            .collect();
        check(&table, &seen);
    }
}

/// A packet that ends early is `malformed`, whatever it was.
#[test]
fn every_truncation_of_every_vector() {
    for table in tables() {
        let mut director = director(&table);
        for vector in &table.vectors {
            let ends = (0..vector.input.len()).step_by(1 + vector.input.len() / 5000);
            for end in ends {
                let seen = decide(&mut director, &vector.input[..end], Duration::ZERO);
                let what = format!("{} cut to {end} bytes", vector.description);
                assert_eq!(seen, dropped("malformed"), "{what}");
            }
        }
    }
}

/// Bytes after a packet change nothing, unless it claimed them.
#[test]
fn padding() {
    for mut table in tables() {
        table
            .vectors
            .retain(|vector| vector.reason != Some("malformed"));
        let (mut director, mut now) = (director(&table), Duration::ZERO);
        let padded = table.vectors.iter().map(|vector| {
            now += vector.pause;
            let padded = [&vector.input[..], &[0xff; 46]].concat();
            decide(&mut director, &padded, now)
        });
        let seen: Vec<_> = padded.collect();
        check(&table, &seen);
    }
}

/// Lengths, offsets and everything else in the headers lie: nothing panics, and what leaves is
/// never longer than what came.
#[test]
fn every_byte_of_every_header_lying() {
    for table in tables() {
        let mut director = director(&table);
        for vector in &table.vectors {
            let mut packet = vector.input.clone();
            for at in 0..packet.len().min(96) {
                let truth = packet[at];
                let lies = [
                    0,
                    1,
                    truth.wrapping_sub(1),
                    truth.wrapping_add(1),
                    0x7f,
                    0x80,
                    0xff,
                ];
                for lie in lies {
                    packet[at] = lie;
                    let seen = decide(&mut director, &packet, Duration::ZERO);
                    let longest = seen.output.first().map_or(0, Vec::len);
                    assert!(
                        longest <= packet.len() + HEADROOM + 48,
                        "{}",
                        vector.description
                    );
                }
                packet[at] = truth;
            }
        }
    }
}

/// A length field of 16 bits takes every value: forwarded only where it fits.
#[test]
fn every_total_length() {
    let [table, _] = tables();
    let mut director = director(&table);
    for (index, header, at) in [(0, 0, 2), (5, 40, 4)] {
        let mut packet = table.vectors[index].input.clone();
        let length = packet.len() - header;
        for lie in 0..=u16::MAX {
            packet[at..at + 2].copy_from_slice(&lie.to_be_bytes());
            let verdict = director.pass(&packet, Timestamp::START).verdict;
            let fits = (length - 7..=length).contains(&usize::from(lie)); // seven bytes of data
            assert_eq!(matches!(verdict, Verdict::Forward(_)), fits, "length {lie}");
        }
    }
}
