//! Any bytes as a capture file: records or an error, and no more bytes than the file holds.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tunlb::io::pcap::{MAX_PACKET, Reader};

fuzz_target!(|data: &[u8]| {
    let Ok(mut reader) = Reader::open(data) else {
        return;
    };
    let mut read = 0;
    while let Ok(Some(record)) = reader.next_record() {
        read += record.bytes.len();
        assert!(read <= data.len() && record.bytes.len() <= MAX_PACKET as usize);
        if let Ok(packet) = record.network_packet() {
            assert!(packet.len() <= record.bytes.len());
        }
    }
});
