//! Any bytes as an answer of the kernel: objects, or an error with a text. The first byte says whether the
//! bytes are a datagram, or the payload of one message whose kind the second byte chooses.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tunlb::io::netlink::{read_answers, read_sockets};

/// RTM_NEWLINK, RTM_NEWADDR, RTM_NEWROUTE, RTM_NEWNEIGH, RTM_NEWRULE (linux/rtnetlink.h), and
/// SOCK_DIAG_BY_FAMILY (linux/sock_diag.h), which also stands for "the end" and "an error".
const KINDS: [u16; 8] = [16, 20, 24, 28, 32, 20, 2, 3];

/// Of the request that is answered.
const SEQUENCE: u32 = 1;

fuzz_target!(|data: &[u8]| {
    let Some(([form, kind], bytes)) = data.split_first_chunk() else {
        return;
    };
    if form % 2 == 0 {
        read(bytes);
    } else {
        read(&message(KINDS[usize::from(kind % 8)], bytes));
    }
});

fn read(bytes: &[u8]) {
    if let Err(error) = read_answers(bytes, SEQUENCE) {
        assert!(!error.to_string().is_empty());
    }
    if let Err(error) = read_sockets(bytes, SEQUENCE) {
        assert!(!error.to_string().is_empty());
    }
}

fn message(kind: u16, payload: &[u8]) -> Vec<u8> {
    let length = (16 + payload.len()) as u32;
    let mut message = length.to_ne_bytes().to_vec();
    message.extend(kind.to_ne_bytes());
    message.extend([0; 2]);
    message.extend(SEQUENCE.to_ne_bytes());
    message.extend([0; 4]);
    message.extend(payload);
    message
}
