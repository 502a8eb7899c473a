use std::time::Duration;

use proptest::prelude::*;

use super::*;

/// One packet of 4 bytes at 1.000002 s, cut from 60, Ethernet.
#[rustfmt::skip]
const CLASSIC_LITTLE: &[u8] = &[
    0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 1, 0, 0, 0,
    1, 0, 0, 0, 2, 0, 0, 0, 4, 0, 0, 0, 60, 0, 0, 0, 0xaa, 0xbb, 0xcc, 0xdd,
];

/// One packet of 2 bytes at 1.000000002 s, raw, and a frame check sequence announced.
#[rustfmt::skip]
const CLASSIC_BIG_NANO: &[u8] = &[
    0xa1, 0xb2, 0x3c, 0x4d, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0x44, 0, 0, 101,
    0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 2, 0, 0, 0, 2, 0xaa, 0xbb,
];

/// A big-endian section: raw interface of nanoseconds, an unknown block, an enhanced packet (3
/// bytes, padded, with a comment), an obsolete packet; then a little-endian one: Ethernet, snap
/// length 2, a simple packet cut to it.
#[rustfmt::skip]
const NG: &[u8] = &[
    0x0a, 0x0d, 0x0d, 0x0a, 0, 0, 0, 28, 0x1a, 0x2b, 0x3c, 0x4d, 0, 1, 0, 0,
    0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 28,
    0, 0, 0, 1, 0, 0, 0, 28, 0, 101, 0, 0, 0, 0, 0, 0, 0, 9, 0, 1, 9, 0, 0, 0, 0, 0, 0, 28,
    0, 0, 0, 5, 0, 0, 0, 16, 1, 2, 3, 4, 0, 0, 0, 16,
    0, 0, 0, 6, 0, 0, 0, 44, 0, 0, 0, 0, 0, 0, 0, 0, 0x3b, 0x9a, 0xca, 0x01, 0, 0, 0, 3, 0, 0, 0, 3,
    0xaa, 0xbb, 0xcc, 0, 0, 1, 0, 3, b'h', b'i', b'!', 0, 0, 0, 0, 44,
    0, 0, 0, 2, 0, 0, 0, 36, 0, 0, 0, 7, 0, 0, 0, 0, 0x3b, 0x9a, 0xca, 0x02, 0, 0, 0, 1, 0, 0, 0, 9,
    0xdd, 0, 0, 0, 0, 0, 0, 36,
    0x0a, 0x0d, 0x0d, 0x0a, 28, 0, 0, 0, 0x4d, 0x3c, 0x2b, 0x1a, 1, 0, 0, 0,
    0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 28, 0, 0, 0,
    1, 0, 0, 0, 20, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 20, 0, 0, 0,
    3, 0, 0, 0, 20, 0, 0, 0, 60, 0, 0, 0, 0xee, 0xff, 0, 0, 20, 0, 0, 0,
];

/// A record with bytes of its own.
#[derive(Debug, PartialEq, Eq)]
struct Owned {
    timestamp: Option<Duration>,
    resolution: Resolution,
    link: LinkType,
    bytes: Vec<u8>,
    original_length: u32,
}

fn read(file: &[u8]) -> (Vec<Owned>, Result<(), PcapError>) {
    let mut records = Vec::new();
    let mut read = || {
        let mut reader = Reader::open(file)?;
        while let Some(record) = reader.next_record()? {
            records.push(Owned {
                timestamp: record.timestamp,
                resolution: record.resolution,
                link: record.link,
                bytes: record.bytes.to_vec(),
                original_length: record.original_length,
            });
        }
        Ok(())
    };
    let outcome = read();
    (records, outcome)
}

fn record(
    timestamp: Option<Duration>,
    resolution: Resolution,
    link: LinkType,
    bytes: &[u8],
    original_length: u32,
) -> Owned {
    Owned {
        timestamp,
        resolution,
        link,
        bytes: bytes.to_vec(),
        original_length,
    }
}

#[test]
fn classic() {
    let (records, outcome) = read(CLASSIC_LITTLE);
    outcome.unwrap();
    let at = Some(Duration::new(1, 2_000));
    let link = LinkType::Ethernet;
    let bytes = [0xaa, 0xbb, 0xcc, 0xdd];
    assert_eq!(records, [record(at, Resolution::Micro, link, &bytes, 60)]);

    let (records, outcome) = read(CLASSIC_BIG_NANO);
    outcome.unwrap();
    let at = Some(Duration::new(1, 2));
    let bytes = [0xaa, 0xbb];
    assert_eq!(
        records,
        [record(at, Resolution::Nano, LinkType::Raw, &bytes, 2)]
    );
}

#[test]
fn sections_and_blocks() {
    let (records, outcome) = read(NG);
    outcome.unwrap();
    let at = |nanos| Some(Duration::new(1, nanos));
    let nano = Resolution::Nano;
    assert_eq!(
        records,
        [
            record(at(1), nano, LinkType::Raw, &[0xaa, 0xbb, 0xcc], 3),
            record(at(2), nano, LinkType::Raw, &[0xdd], 9),
            record(
                None,
                Resolution::Micro,
                LinkType::Ethernet,
                &[0xee, 0xff],
                60
            ),
        ]
    );
}

#[test]
fn what_is_wrong_and_where() {
    let patched = |file: &[u8], at: usize, bytes: &[u8]| {
        let mut file = file.to_vec();
        file[at..at + bytes.len()].copy_from_slice(bytes);
        file
    };
    let cases = [
        (
            "text",
            b"[director]".to_vec(),
            "not a pcap or pcapng file: it is text",
        ),
        ("an empty file", Vec::new(), "the file is empty"),
        (
            "a cut header",
            CLASSIC_LITTLE[..10].to_vec(),
            "the file ends at byte 10, within the file header at byte 0",
        ),
        (
            "a cut record header",
            CLASSIC_LITTLE[..31].to_vec(),
            "the file ends at byte 31, within the packet record at byte 24",
        ),
        (
            "a cut record",
            CLASSIC_LITTLE[..43].to_vec(),
            "the file ends at byte 43, within the packet record at byte 24",
        ),
        (
            "a long packet",
            patched(CLASSIC_LITTLE, 32, &[1, 0, 4, 0]),
            "byte 24: a packet of 262145 bytes; 262144 are the most",
        ),
        (
            "version 3",
            patched(CLASSIC_LITTLE, 4, &[3]),
            "byte 4: version 3 of the format is unknown",
        ),
        (
            "FDDI",
            patched(CLASSIC_LITTLE, 20, &[10]),
            "byte 20: link type 10 is not supported; Ethernet (1), raw IP (101, 228, 229), \
             Linux cooked (113, 276) and loopback (0, 108) are",
        ),
        (
            "no byte order",
            patched(NG, 8, &[0]),
            "byte 0: the section has no byte-order magic",
        ),
        (
            "pcapng 2",
            patched(NG, 12, &[0, 2]),
            "byte 12: version 2 of the format is unknown",
        ),
        (
            "an odd length",
            patched(NG, 35, &[27]),
            "byte 28: the block length 27 is wrong",
        ),
        (
            "another length at the end",
            patched(NG, 71, &[20]),
            "byte 56: the block length 20 is wrong",
        ),
        (
            "a packet longer than its block",
            patched(NG, 95, &[99]),
            "byte 72: the block length 44 is wrong",
        ),
        (
            "an interface too many",
            patched(NG, 83, &[1]),
            "byte 72: interface 1 is not described before",
        ),
        (
            "a cut block",
            NG[..100].to_vec(),
            "the file ends at byte 100, within the block at byte 72",
        ),
    ];
    for (what, file, message) in cases {
        let (_, outcome) = read(&file);
        assert_eq!(outcome.unwrap_err().to_string(), message, "{what}");
    }
}

/// A whole file is nothing else than its records: each cut of it is an error, or the records
/// before it.
#[test]
fn every_truncation() {
    for file in [CLASSIC_LITTLE, CLASSIC_BIG_NANO, NG] {
        let (whole, _) = read(file);
        for end in 0..file.len() {
            let (records, outcome) = read(&file[..end]);
            assert!(records.len() < whole.len() || outcome.is_ok());
            assert_eq!(records, whole[..records.len()], "{end}");
            if let Err(error) = outcome {
                if let PcapError::Truncated { end: told, .. } = error {
                    assert_eq!(told, end as u64);
                } else {
                    assert!(matches!(error, PcapError::Empty) && end == 0, "{error}");
                }
            }
        }
    }
}

proptest! {
    #[test]
    fn reads_what_it_wrote(
        packets in prop::collection::vec(
            (any::<u32>(), 0..1_000_000_000u32, prop::collection::vec(any::<u8>(), 0..100)),
            0..10,
        ),
        nano in any::<bool>(),
    ) {
        let resolution = if nano { Resolution::Nano } else { Resolution::Micro };
        let unit = if nano { 1 } else { 1000 };
        let mut writer = Writer::new(Vec::new());
        writer.begin(resolution).unwrap();
        let mut expected = Vec::new();
        for (seconds, nanos, bytes) in packets {
            let at = Duration::new(seconds.into(), nanos);
            writer.write(at, Resolution::Micro, &bytes).unwrap();
            let at = Duration::new(seconds.into(), nanos / unit * unit);
            let length = u32::try_from(bytes.len()).unwrap();
            expected.push(record(Some(at), resolution, LinkType::Raw, &bytes, length));
        }
        let (records, outcome) = read(&writer.finish().unwrap());
        outcome.unwrap();
        prop_assert_eq!(records, expected);
    }

    #[test]
    fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..200), format in 0..3usize) {
        let header = [&CLASSIC_LITTLE[..24], &CLASSIC_BIG_NANO[..24], &NG[..56]][format];
        let (records, _) = read(&[header, &bytes].concat());
        for record in &records {
            prop_assert!(record.bytes.len() <= bytes.len());
            // Whatever the frame, this does not panic.
            record.link.network_packet(&record.bytes).ok();
        }
        read(&bytes).1.ok();
    }

    #[test]
    fn damaged_files(at in 0..NG.len(), byte in any::<u8>()) {
        for file in [CLASSIC_LITTLE, CLASSIC_BIG_NANO, NG] {
            let mut file = file.to_vec();
            let length = file.len();
            file[at % length] = byte;
            read(&file).1.ok();
        }
    }
}
