//! The vectors through `tunlb replay`: a capture file in, one JSON line for each packet and a capture
//! of what leaves out.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::table::Table;
use crate::{Seen, check, tables};

/// LINKTYPE_RAW.
const RAW: u32 = 101;

#[test]
fn through_replay() {
    for table in tables() {
        let folder = tempfile::tempdir().unwrap();
        check(&table, &replay(&table, folder.path()));
    }
}

fn replay(table: &Table, folder: &Path) -> Vec<Seen> {
    let file = |name: &str| folder.join(name);
    fs::write(file("site.toml"), table.site).unwrap();
    fs::write(file("in.pcap"), capture(table)).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_tunlb"))
        .args(["replay", "--json", "-c"])
        .args([file("site.toml"), file("in.pcap")])
        .arg("--output")
        .arg(file("out.pcap"))
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let mut emitted = packets(&fs::read(file("out.pcap")).unwrap()).into_iter();
    let lines = String::from_utf8(output.stdout).unwrap();
    let seen = lines.lines().enumerate().map(|(index, line)| {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!(line["packet"], index + 1);
        let text = |key: &str| line[key].as_str().map(str::to_owned);
        let count = usize::try_from(line["emitted"].as_u64().unwrap()).unwrap();
        Seen {
            verdict: text("verdict").unwrap(),
            reason: text("reason"),
            backend: text("backend").map(|backend| backend.parse().unwrap()),
            output: emitted.by_ref().take(count).collect(),
        }
    });
    let seen = seen.collect();
    assert_eq!(emitted.next(), None, "emitted and not told");
    seen
}

/// A pcap file (little-endian, microseconds) of a table's packets at their times.
pub(crate) fn capture(table: &Table) -> Vec<u8> {
    let header = [0xa1b2_c3d4, 0x0004_0002, 0, 0, 0x0004_0000, RAW];
    let mut file = header.map(u32::to_le_bytes).concat();
    let mut now = Duration::from_secs(1_700_000_000);
    for vector in &table.vectors {
        now += vector.pause;
        let length = u32::try_from(vector.input.len()).unwrap();
        let seconds = u32::try_from(now.as_secs()).unwrap();
        file.extend(
            [seconds, now.subsec_micros(), length, length]
                .map(u32::to_le_bytes)
                .concat(),
        );
        file.extend(&vector.input);
    }
    file
}

/// The packets of such a file.
fn packets(file: &[u8]) -> Vec<Vec<u8>> {
    let word = |at: usize| u32::from_le_bytes(file[at..at + 4].try_into().unwrap());
    assert_eq!((word(0) >> 16 == 0xa1b2, word(20)), (true, RAW));
    let (mut packets, mut at) = (Vec::new(), 24);
    while at < file.len() {
        let length = usize::try_from(word(at + 8)).unwrap();
        assert_eq!(word(at + 8), word(at + 12), "cut");
        packets.push(file[at + 16..at + 16 + length].to_vec());
        at += 16 + length;
    }
    packets
}
