//! The vectors through [`Director`] itself, whole, cut and with every length field lying.

use std::sync::Arc;
use std::time::Duration;

use tunlb::config::Config;
use tunlb::daemon::Paths;
use tunlb::director::{Director, Forward, Roster, Seat, Timestamp, Verdict};
use tunlb::packet::HEADROOM;

use crate::table::Table;
use crate::{Seen, check, tables};

/// A director as `tunlb replay` has it.
pub(crate) fn director(table: &Table) -> Director {
    let config = Config::parse("site.toml", table.site).unwrap_or_else(|error| panic!("{error}"));
    let seat = Seat {
        worker: 0,
        workers: 1,
        seed: [1, 2, 3, 4],
    };
    let paths = Paths::without_routes(&config);
    let snapshot = paths.snapshot(&config, &mut Roster::default()).unwrap();
    Director::new(Arc::new(snapshot), &seat)
}

fn tunnelled(director: &mut Director, forward: &Forward, inner: &[u8]) -> Option<Vec<u8>> {
    let mut headroom = [0; HEADROOM];
    let encap = director.encapsulate(forward, &mut headroom, inner).ok()?;
    Some([&headroom[HEADROOM - encap.overhead()..], inner].concat())
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

pub(crate) fn decide(director: &mut Director, input: &[u8], now: Duration) -> Seen {
    match director.decide(input, Timestamp::after(now)) {
        Verdict::Forward(forward) => forwarded(director, &forward, input),
        Verdict::Reply => Seen {
            output: director.replies().map(<[u8]>::to_vec).collect(),
            ..seen("reply")
        },
        Verdict::Hold => seen("hold"),
        Verdict::Drop(reason) => dropped(reason.name()),
    }
}

fn forwarded(director: &mut Director, forward: &Forward, input: &[u8]) -> Seen {
    let inner = &input[..usize::from(forward.meta.length)];
    let Some(first) = tunnelled(director, forward, inner) else {
        return dropped("too_big");
    };
    let mut output = vec![first];
    let mut buffer = vec![0; 65_535];
    while let Some((forward, length)) = director.take_released(&mut buffer) {
        output.extend(tunnelled(director, &forward, &buffer[..length]));
    }
    let backend = director.snapshot().backend(forward.target.backend);
    Seen {
        backend: backend.map(|backend| backend.address),
        output,
        ..seen("forward")
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
            let verdict = director.decide(&packet, Timestamp::START);
            let fits = (length - 7..=length).contains(&usize::from(lie)); // seven bytes of data
            assert_eq!(matches!(verdict, Verdict::Forward(_)), fits, "length {lie}");
        }
    }
}
