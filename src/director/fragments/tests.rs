use super::held::{MAX_HELD, MAX_HELD_BYTES};
use super::*;
use crate::director::indices::BackendIndex;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;

fn datagram(number: u32) -> DatagramId {
    DatagramId {
        source: Ipv4Addr::from_bits(number).into(),
        destination: Ipv4Addr::new(203, 0, 113, 10).into(),
        identification: 7,
        protocol: 17,
    }
}

fn table() -> FragmentTable {
    FragmentTable::new([1, 2, 3, 4])
}

fn target(backend: u32) -> Target {
    Target {
        backend: BackendIndex::new(backend),
        flow_hash: backend.into(),
    }
}

fn at(millis: u64) -> Timestamp {
    Timestamp::after(Duration::from_millis(millis))
}

fn released(table: &mut FragmentTable) -> Vec<(Target, Vec<u8>)> {
    let mut buffer = [0; 2000];
    std::iter::from_fn(|| {
        let (target, length) = table.take_released(&mut buffer)?;
        Some((target, buffer[..length].to_vec()))
    })
    .collect()
}

const FULL: Result<Placement, DropReason> = Err(DropReason::FragmentTableFull);

/// Queues and map within what their constants allow, and the parts agree with each other.
fn check_bounds(table: &FragmentTable) {
    assert!(table.decided.len() <= MAX_DECIDED);
    assert!(table.waiting.len() <= 2 * MAX_WAITING);
    assert!(table.waiting_datagrams <= MAX_WAITING);
    assert!(table.datagrams.len() <= MAX_DECIDED + MAX_WAITING);
    assert!(table.released.len() <= MAX_HELD);
    let (count, bytes, owned) = table.held.usage();
    assert!(count <= MAX_HELD && bytes <= MAX_HELD_BYTES);
    assert!(owned <= MAX_HELD * 2048 + MAX_HELD_BYTES, "{owned} bytes");
    let waiting = |datagram: &&Datagram| !matches!(datagram.state, State::Decided(_));
    let waiting = table.datagrams.values().filter(waiting).count();
    assert_eq!(waiting, table.waiting_datagrams);
}

/// How many fragments are given up.
fn expire(table: &mut FragmentTable, now: Timestamp) -> u64 {
    let mut given_up = 0;
    table.expire(now, |_, fragments| given_up += fragments);
    given_up
}

#[test]
fn in_order() {
    let mut table = table();
    table.decide(datagram(1), Ok(target(1)), at(0));
    let placed = table.place(datagram(1), b"second", at(29_999));
    assert_eq!(placed, Ok(Placement::Decided(Ok(target(1)))));
    assert_eq!(
        table.place(datagram(1), b"late", at(30_000)),
        Ok(Placement::Held)
    );
}

#[test]
fn before_the_first_one_in_their_order() {
    let mut table = table();
    for (number, bytes) in [(1, b"a"), (2, b"b"), (1, b"c"), (2, b"d")] {
        let placed = table.place(datagram(number), bytes, at(0));
        assert_eq!(placed, Ok(Placement::Held));
    }
    assert_eq!(table.decide(datagram(2), Ok(target(2)), at(1)), 0);
    let expected = vec![(target(2), b"b".to_vec()), (target(2), b"d".to_vec())];
    assert_eq!(released(&mut table), expected);
    assert_eq!(released(&mut table), []);
    assert!(table.is_holding());
    table.decide(datagram(1), Ok(target(1)), at(2));
    assert_eq!(released(&mut table).len(), 2);
    assert!(!table.is_holding());
}

#[test]
fn dropped_with_the_first_one() {
    let mut table = table();
    for _ in 0..3 {
        table.place(datagram(1), b"later", at(0)).unwrap();
    }
    let decision = Err(DropReason::NoVip);
    assert_eq!(table.decide(datagram(1), decision, at(1)), 3);
    assert_eq!(released(&mut table), []);
    let placed = table.place(datagram(1), b"later", at(2));
    assert_eq!(placed, Ok(Placement::Decided(decision)));
    assert_eq!(table.held.usage().0, 0);
}

/// Found by review: fragments that came long after the first that waited outlived their datagram, and
/// were neither released nor given up with it.
#[test]
fn a_datagram_is_given_up_whole() {
    let mut table = table();
    table.place(datagram(1), b"early", at(0)).unwrap();
    table.place(datagram(1), b"late", at(900)).unwrap();
    assert_eq!(expire(&mut table, at(999)), 0);
    assert_eq!(expire(&mut table, at(1000)), 2);
    assert!(!table.is_holding());
    table.place(datagram(1), b"a new one", at(1001)).unwrap();
    table.decide(datagram(1), Ok(target(1)), at(1002));
    let expected = vec![(target(1), b"a new one".to_vec())];
    assert_eq!(released(&mut table), expected);
}

#[test]
fn a_reused_identification_goes_where_its_own_first_fragment_went() {
    let mut table = table();
    table.decide(datagram(1), Ok(target(1)), at(0));
    table.decide(datagram(1), Ok(target(2)), at(20_000));
    expire(&mut table, at(30_000));
    assert_eq!(
        table.place(datagram(1), b"", at(30_000)),
        Ok(Placement::Decided(Ok(target(2))))
    );
    expire(&mut table, at(50_000));
    assert!(table.datagrams.is_empty());
}

#[test]
fn limits() {
    let mut table = table();
    for _ in 0..MAX_HELD_PER_DATAGRAM {
        table.place(datagram(0), b"x", at(0)).unwrap();
    }
    assert_eq!(table.place(datagram(0), b"x", at(0)), FULL, "of a datagram");
    for number in 1..256 {
        table.place(datagram(number), b"x", at(0)).unwrap();
    }
    assert_eq!(table.place(datagram(256), b"x", at(0)), FULL, "datagrams");
    for number in (1..256)
        .cycle()
        .take(MAX_HELD - MAX_HELD_PER_DATAGRAM - 255)
    {
        table.place(datagram(number), b"x", at(0)).unwrap();
    }
    assert_eq!(table.place(datagram(1), b"x", at(0)), FULL, "fragments");
    table.decide(datagram(300), Ok(target(1)), at(0));
    let placed = table.place(datagram(300), b"x", at(0));
    assert_eq!(
        placed,
        Ok(Placement::Decided(Ok(target(1)))),
        "needs no room"
    );
    assert_eq!(expire(&mut table, at(1000)), 1024);
    check_bounds(&table);
}

#[test]
fn bytes_are_bounded() {
    let mut table = table();
    let large = vec![0; 65_535];
    let held = (0..100).filter(|&number| table.place(datagram(number), &large, at(0)) != FULL);
    assert_eq!(held.count(), MAX_HELD_BYTES / 65_535);
    check_bounds(&table);
}

/// Found by review: reused buffers kept the size of the largest fragment that they ever held.
#[test]
fn rotating_large_fragments_do_not_grow_every_buffer() {
    let mut table = table();
    let large = vec![0; 65_535];
    for round in 0..200 {
        let now = at(round * 2000);
        expire(&mut table, now);
        for number in 0..256 {
            table.place(datagram(number), b"small", now).ok();
        }
        for number in 0..16 {
            table.place(datagram(number), &large, now).ok();
        }
        check_bounds(&table);
    }
}

/// Found by review: each pair left an entry in the queue of those that wait, for a second.
#[test]
fn a_flood_of_pairs_in_the_wrong_order_leaves_nothing_behind() {
    let mut table = table();
    for number in 0..100_000 {
        table.place(datagram(number), b"later", at(0)).unwrap();
        table.decide(datagram(number), Ok(target(1)), at(0));
        assert_eq!(released(&mut table).len(), 1);
        assert!(table.waiting.len() <= 2 * MAX_WAITING);
    }
    check_bounds(&table);
}

/// A caller that never collects what is released fills the table, no more.
#[test]
fn what_nobody_collects_counts_as_kept() {
    let mut table = table();
    for number in 0..5000 {
        table.place(datagram(number), b"later", at(0)).ok();
        table.decide(datagram(number), Ok(target(1)), at(0));
    }
    check_bounds(&table);
    assert_eq!(table.place(datagram(9999), b"x", at(0)), FULL);
    assert_eq!(released(&mut table).len(), MAX_HELD);
}

#[test]
fn a_flood_of_first_fragments_is_bounded() {
    let mut table = table();
    for number in 0..100_000 {
        table.decide(datagram(number), Ok(target(1)), at(number.into()));
        table.decide(datagram(7), Ok(target(1)), at(number.into()));
    }
    check_bounds(&table);
    assert_eq!(expire(&mut table, at(200_000)), 0);
    assert!(table.datagrams.is_empty() && table.decided.is_empty());
}

#[derive(Debug, Clone)]
enum Step {
    First(u32, bool),
    Later(u32, usize),
    Pass(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0u32..6, any::<bool>()).prop_map(|(number, ok)| Step::First(number, ok)),
        8 => (0u32..6, 0usize..1500).prop_map(|(number, length)| Step::Later(number, length)),
        2 => (0u64..1500).prop_map(Step::Pass),
        1 => (0u64..20_000).prop_map(Step::Pass),
    ]
}

/// What a datagram of the model is at: decided, or its waiting fragments; and since when.
type Model = BTreeMap<u32, (u64, Result<Decision, Vec<Vec<u8>>>)>;

fn model_expire(model: &mut Model, now: u64) -> u64 {
    let mut given_up = 0;
    model.retain(|_, (since, state)| match state {
        Ok(_) => now - *since < 30_000,
        Err(waiting) if now - *since >= 1000 => {
            given_up += waiting.len() as u64;
            false
        }
        Err(_) => true,
    });
    given_up
}

proptest! {
    /// Below the limits, the table is a map from datagram to decision or waiting fragments.
    #[test]
    fn agrees_with_a_map(steps in prop::collection::vec(step(), 0..120)) {
        let (mut table, mut model, mut now) = (table(), Model::new(), 0);
        for step in steps {
            prop_assert_eq!(expire(&mut table, at(now)), model_expire(&mut model, now));
            match step {
                Step::First(number, ok) => {
                    let decision = if ok { Ok(target(number)) } else { Err(DropReason::NoBackend) };
                    let lost = table.decide(datagram(number), decision, at(now));
                    let waiting = match model.insert(number, (now, Ok(decision))) {
                        Some((_, Err(waiting))) => waiting,
                        _ => Vec::new(),
                    };
                    let expected: Vec<_> = waiting.into_iter().map(|bytes| (target(number), bytes)).collect();
                    prop_assert_eq!(lost, if ok { 0 } else { expected.len() as u64 });
                    prop_assert_eq!(released(&mut table), if ok { expected } else { Vec::new() });
                }
                Step::Later(number, length) => {
                    let bytes = vec![number.to_le_bytes()[0]; length];
                    let placed = table.place(datagram(number), &bytes, at(now));
                    let (_, state) = model.entry(number).or_insert((now, Err(Vec::new())));
                    match state {
                        Ok(decision) => prop_assert_eq!(placed, Ok(Placement::Decided(*decision))),
                        Err(waiting) if waiting.len() == MAX_HELD_PER_DATAGRAM => prop_assert_eq!(placed, FULL),
                        Err(waiting) => {
                            prop_assert_eq!(placed, Ok(Placement::Held));
                            waiting.push(bytes);
                        }
                    }
                }
                Step::Pass(millis) => now += millis,
            }
            check_bounds(&table);
        }
    }

    /// Whatever comes: the bounds hold, and time empties the table.
    #[test]
    fn bounds_hold(steps in prop::collection::vec((0u32..600, 0usize..3000, any::<bool>(), 0u64..4), 0..3000)) {
        let (mut table, mut now) = (table(), 0);
        for (number, length, first, millis) in steps {
            now += millis;
            expire(&mut table, at(now));
            if first {
                table.decide(datagram(number), Ok(target(number)), at(now));
                released(&mut table);
            } else {
                table.place(datagram(number), &vec![0; length], at(now)).ok();
            }
        }
        check_bounds(&table);
        expire(&mut table, at(now + 30_000));
        prop_assert!(table.datagrams.is_empty() && table.waiting.is_empty() && table.decided.is_empty());
        prop_assert_eq!(table.held.usage().0, 0);
    }
}

/// A fragment of an echo request: `data` at `offset`, from 192.0.2.1 to 203.0.113.10.
fn echo_piece(offset: usize, more: bool, data: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x45, 0];
    packet.extend(u16::try_from(20 + data.len()).unwrap().to_be_bytes());
    packet.extend([0, 7]);
    let word = u16::from(more) << 13 | u16::try_from(offset / 8).unwrap();
    packet.extend(word.to_be_bytes());
    packet.extend([64, 1, 0, 0, 192, 0, 2, 1, 203, 0, 113, 10]);
    packet.extend(data);
    packet
}

fn gather(
    table: &mut FragmentTable,
    id: u32,
    bytes: &[u8],
) -> (Result<Gathered, DropReason>, Vec<u8>) {
    let packet = Packet::parse(bytes).unwrap();
    let mut message = vec![9; 5];
    let first = packet.fragment().unwrap().offset == 0;
    let gathered = match (first, table.is_gathering(&datagram(id))) {
        (false, false) => table
            .place(datagram(id), bytes, at(0))
            .map(|_| Gathered::Held),
        _ => table.gather(datagram(id), (&packet, bytes), at(0), &mut message),
    };
    (gathered, message)
}

const HELD: Result<Gathered, DropReason> = Ok(Gathered::Held);

#[test]
fn an_echo_request_is_forgotten_once_it_is_whole() {
    let mut table = table();
    let pieces = [
        echo_piece(16, false, b"xyz"),
        echo_piece(0, true, b"12345678"),
        echo_piece(0, true, b"12345678"),
        echo_piece(8, true, b"abcdefgh"),
    ];
    for piece in &pieces[..3] {
        assert_eq!(gather(&mut table, 1, piece).0, HELD);
        assert!(table.is_holding());
        check_bounds(&table);
    }
    let (gathered, message) = gather(&mut table, 1, &pieces[3]);
    let whole = Gathered::Whole {
        packets: 4,
        longest: 28,
    };
    assert_eq!(gathered, Ok(whole));
    assert_eq!(message, b"12345678abcdefghxyz");
    assert!(!table.is_holding() && table.datagrams.is_empty());
    assert_eq!(table.held.usage().0, 0);
    check_bounds(&table);
}

#[test]
fn what_no_datagram_can_be_is_broken() {
    let first = || echo_piece(0, true, &[1; 16]);
    for (what, before, piece) in [
        ("overlap", vec![first()], echo_piece(8, true, &[2; 16])),
        (
            "another first one",
            vec![first()],
            echo_piece(0, true, &[2; 24]),
        ),
        (
            "an odd length",
            vec![first()],
            echo_piece(16, true, &[2; 9]),
        ),
        ("no bytes", vec![first()], echo_piece(16, true, &[])),
        (
            "too long",
            vec![first()],
            echo_piece(65_512, false, &[2; 8]),
        ),
        (
            "two ends",
            vec![first(), echo_piece(32, false, &[2; 8])],
            echo_piece(48, false, &[2; 8]),
        ),
        (
            "beyond the end",
            vec![first(), echo_piece(32, false, &[2; 8])],
            echo_piece(48, true, &[2; 8]),
        ),
        (
            "an end before others",
            vec![first(), echo_piece(48, true, &[2; 8])],
            echo_piece(32, false, &[2; 8]),
        ),
        (
            "waiting ones that overlap",
            vec![
                echo_piece(24, true, &[2; 16]),
                echo_piece(32, true, &[2; 16]),
            ],
            first(),
        ),
    ] {
        let mut table = table();
        for bytes in &before {
            assert_eq!(gather(&mut table, 1, bytes).0, HELD, "{what}");
        }
        let malformed = Err(DropReason::Malformed);
        assert_eq!(gather(&mut table, 1, &piece).0, malformed, "{what}");
        let lost = table.decide(datagram(1), Err(DropReason::Malformed), at(0));
        assert_eq!(lost, before.len() as u64, "{what}");
        let placed = table.place(datagram(1), &first(), at(1));
        assert_eq!(
            placed,
            Ok(Placement::Decided(Err(DropReason::Malformed))),
            "{what}"
        );
        check_bounds(&table);
        assert!(!table.is_holding(), "{what}");
    }
}

#[test]
fn a_flood_of_echo_requests_is_bounded() {
    let mut table = table();
    for number in 0..5000 {
        let first = echo_piece(0, true, &[1; 1480]);
        gather(&mut table, number, &first).0.ok();
        for piece in 1..3 {
            let later = echo_piece(1480 * piece, true, &[1; 1480]);
            gather(&mut table, number, &later).0.ok();
        }
        check_bounds(&table);
    }
    assert_eq!(table.waiting_datagrams, MAX_WAITING);
    let (count, ..) = table.held.usage();
    assert!(expire(&mut table, at(1000)) >= count as u64);
    assert!(!table.is_holding());
    assert_eq!(table.held.usage().0, 0);
}

proptest! {
    /// In whatever order and how often they come, the bytes are those that were cut.
    #[test]
    fn pieces_make_the_whole(
        length in 9usize..3000,
        cuts in prop::collection::btree_set(1usize..370, 1..8),
        seed in prop::collection::vec(any::<prop::sample::Index>(), 12),
        repeats in prop::collection::vec(any::<prop::sample::Index>(), 0..3),
    ) {
        let whole: Vec<u8> = (0..length).map(|at| at.to_le_bytes()[0]).collect();
        let mut starts: Vec<_> = [0].into_iter().chain(cuts.iter().map(|cut| cut * 8)).filter(|&start| start < length).collect();
        if starts.len() == 1 {
            starts.push(8);
        }
        let mut pieces: Vec<_> = starts.iter().enumerate().map(|(number, &start)| {
            let end = starts.get(number + 1).copied().unwrap_or(length);
            echo_piece(start, end < length, &whole[start..end])
        }).collect();
        let all = pieces.len();
        for (from, to) in seed.iter().zip(&seed[1..]) {
            pieces.swap(from.index(all), to.index(all));
        }
        let mut table = table();
        let last = pieces.pop().unwrap();
        let sent: Vec<_> = pieces.iter().chain(repeats.iter().map(|index| &pieces[index.index(pieces.len())])).collect();
        for bytes in &sent {
            prop_assert_eq!(gather(&mut table, 1, bytes).0, HELD);
        }
        let (gathered, message) = gather(&mut table, 1, &last);
        let packets = sent.len() as u64 + 1;
        let Ok(Gathered::Whole { packets: counted, .. }) = gathered else {
            panic!("not whole: {gathered:?}");
        };
        prop_assert_eq!(counted, packets);
        prop_assert_eq!(message, whole);
        prop_assert!(!table.is_holding());
    }
}
