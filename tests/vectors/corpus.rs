//! The seeds of the fuzz targets are the vectors: `TUNLB_CORPUS=write cargo test --test vectors corpus`
//! writes them anew after a change of the table.

use std::fs;
use std::path::Path;

use crate::replay::capture;
use crate::table::Table;
use crate::tables;

/// Longer packets teach a fuzzer nothing more.
const LONGEST: usize = 160;
/// Packets in one stream.
const STREAM: usize = 24;

#[test]
fn the_committed_corpus_is_the_table() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    let write = std::env::var_os("TUNLB_CORPUS").is_some_and(|value| value == "write");
    for (name, bytes) in seeds() {
        let path = folder.join(&name);
        if write {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, bytes).unwrap();
        } else {
            let same = fs::read(&path).is_ok_and(|committed| committed == bytes);
            assert!(
                same,
                "fuzz/corpus/{name}: see the head of tests/vectors/corpus.rs"
            );
        }
    }
}

/// File names below the corpus folder, and contents.
fn seeds() -> Vec<(String, Vec<u8>)> {
    let [mut table, _] = tables();
    table.vectors.retain(|vector| vector.input.len() <= LONGEST);
    let mut seeds = Vec::new();
    for (number, vector) in table.vectors.iter().enumerate() {
        if number % 4 == 0 {
            let tunnel = u8::try_from(number / 4 % 4).unwrap();
            let bytes = [&[tunnel][..], &vector.input].concat();
            seeds.push((format!("packet/vector-{number:03}"), bytes));
        }
        if let (0, [(Some(_), output), ..]) = (number % 8, &vector.outputs[..]) {
            seeds.push((format!("decap/vector-{number:03}"), tunnelled(&output[0])));
        }
    }
    for (number, vectors) in table.vectors.chunks(STREAM).enumerate() {
        let stream = vectors.iter().flat_map(|vector| {
            // The bytes of time of tunlb_fuzz::Stream: 0.5 s and 1.6 s.
            let time = match vector.pause.as_millis() {
                0 => 0,
                1..1000 => 153,
                _ => 194,
            };
            let length = u16::try_from(vector.input.len()).unwrap().to_be_bytes();
            [&[time], &length[..], &vector.input].concat()
        });
        seeds.push((format!("director/vectors-{number}"), stream.collect()));
    }
    table.vectors.truncate(3);
    seeds.push(("pcap/classic".to_owned(), capture(&table)));
    seeds.push(("pcap/next-generation".to_owned(), next_generation(&table)));
    seeds
}

/// A packet as the decap target takes it: the socket, traffic class, and what the socket delivers.
fn tunnelled(outer: &[u8]) -> Vec<u8> {
    let (socket, skip) = match (outer[0] >> 4, outer[6], outer[9]) {
        (4, _, 17) => (3, 28),
        (4, ..) => (0, 0),
        (_, 17, _) => (3, 48),
        (_, 4, _) => (1, 40),
        _ => (2, 40),
    };
    [&[socket, 0], &outer[skip..]].concat()
}

/// A pcapng file: section header, one interface (raw IP), enhanced packets.
fn next_generation(table: &Table) -> Vec<u8> {
    let block = |kind: u32, body: Vec<u8>| {
        let length = u32::try_from(body.len() + 12).unwrap();
        let ends = length.to_le_bytes();
        [&kind.to_le_bytes()[..], &ends, &body, &ends].concat()
    };
    let words = |words: &[u32]| {
        words
            .iter()
            .flat_map(|word| word.to_le_bytes())
            .collect::<Vec<_>>()
    };
    let section = words(&[0x1a2b_3c4d, 1, u32::MAX, u32::MAX]);
    let mut file = [block(0x0a0d_0d0a, section), block(1, words(&[101, 0]))].concat();
    for vector in &table.vectors {
        let length = u32::try_from(vector.input.len()).unwrap();
        let mut body = words(&[0, 0, 1, length, length]);
        body.extend(&vector.input);
        body.resize(body.len().next_multiple_of(4), 0);
        file.extend(block(6, body));
    }
    file
}
