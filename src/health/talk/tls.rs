//! A ClientHello and what comes back first. No cryptography: a server that answers with a ServerHello has its keys and
//! its configuration together. Read first: RFC 8446 §4.1.2 and appendix D.

use crate::probe::ProbeResult;
use crate::probe::check::Tls;

/// Content types of records (RFC 8446 §5.1).
const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;

/// The type of a handshake message.
const SERVER_HELLO: u8 = 2;

/// The level of an alert after which the handshake goes on (RFC 5246 §7.2).
const WARNING: u8 = 1;

/// Warnings that are passed over.
const MOST_WARNINGS: u8 = 4;

#[derive(Debug)]
pub(in super::super) struct TlsTalk {
    request: Vec<u8>,
    received: Vec<u8>,
    warnings: u8,
}

impl TlsTalk {
    pub(super) fn new(check: &Tls, salt: u64) -> Self {
        Self {
            request: client_hello(check.host.as_deref(), salt),
            received: Vec::new(),
            warnings: 0,
        }
    }

    pub(super) fn request(&self) -> &[u8] {
        &self.request
    }

    /// One byte behind the header of the first record tells.
    pub(super) fn read(&mut self, bytes: &[u8]) -> Option<ProbeResult> {
        self.received.extend_from_slice(bytes);
        loop {
            match *self.received.first()? {
                HANDSHAKE | ALERT => {}
                _ => return Some(ProbeResult::BadAnswer),
            }
            let &[kind, 3, _, _, _, first, ..] = self.received.as_slice() else {
                let is_other = self.received.get(1).is_some_and(|version| *version != 3);
                return is_other.then_some(ProbeResult::BadAnswer);
            };
            match (kind, first) {
                (HANDSHAKE, SERVER_HELLO) => return Some(ProbeResult::Ok),
                (HANDSHAKE, _) => return Some(ProbeResult::BadAnswer),
                (_, WARNING) if self.warnings < MOST_WARNINGS => {
                    if self.received.len() < 7 {
                        return None;
                    }
                    self.warnings += 1;
                    self.received.drain(..7);
                }
                _ => return Some(ProbeResult::TlsFailed),
            }
        }
    }
}

/// For TLS 1.3 and 1.2, with the suites and groups that servers of today have. What is random in it need not be
/// secret: nothing follows.
fn client_hello(host: Option<&str>, salt: u64) -> Vec<u8> {
    let random: Vec<u8> = (1..=8_u64)
        .flat_map(|n| salt.wrapping_mul(n).rotate_left(17).to_be_bytes())
        .collect();
    let (random, key) = random.split_at(32);
    let mut extensions = Vec::new();
    if let Some(host) = host {
        let name = prefixed(2, host.as_bytes());
        extension(
            &mut extensions,
            0,
            &prefixed(2, &[&[0][..], &name].concat()),
        );
    }
    extension(&mut extensions, 43, &[4, 3, 4, 3, 3]); // versions 1.3, 1.2
    extension(&mut extensions, 10, &[0, 6, 0, 29, 0, 23, 0, 24]); // x25519, secp256r1, secp384r1
    extension(&mut extensions, 11, &[1, 0]); // uncompressed points
    let signatures = [4, 3, 8, 4, 4, 1, 5, 3, 8, 5, 5, 1, 8, 6, 6, 1, 8, 7];
    extension(&mut extensions, 13, &prefixed(2, &signatures));
    let share = [&[0, 29][..], &prefixed(2, key)].concat();
    extension(&mut extensions, 51, &prefixed(2, &share));
    let suites = [
        0x13, 1, 0x13, 2, 0x13, 3, 0xc0, 0x2b, 0xc0, 0x2f, 0xc0, 0x2c, 0xc0, 0x30, 0xcc, 0xa9,
        0xcc, 0xa8, 0, 0x9c, 0, 0x2f,
    ];
    let body = [
        &[3, 3][..],
        random,
        &prefixed(1, key), // a session id, as middleboxes like it
        &prefixed(2, &suites),
        &[1, 0],
        &prefixed(2, &extensions),
    ]
    .concat();
    let message = [&[1][..], &prefixed(3, &body)].concat();
    [&[HANDSHAKE, 3, 1][..], &prefixed(2, &message)].concat()
}

fn extension(extensions: &mut Vec<u8>, number: u8, content: &[u8]) {
    extensions.extend([0, number]);
    extensions.extend(prefixed(2, content));
}

/// The bytes with their number before them, in that many bytes.
fn prefixed(width: usize, content: &[u8]) -> Vec<u8> {
    let length = content.len().to_be_bytes();
    [&length[length.len() - width..], content].concat()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn talk() -> TlsTalk {
        let host = Some("www.example.net".to_owned());
        TlsTalk::new(&Tls { host }, 7)
    }

    #[test]
    fn lengths_of_the_hello_agree() {
        let talk = talk();
        let hello = talk.request();
        assert_eq!(hello[..3], [HANDSHAKE, 3, 1]);
        assert_eq!(
            usize::from(u16::from_be_bytes([hello[3], hello[4]])),
            hello.len() - 5
        );
        let inner = u32::from_be_bytes([0, hello[6], hello[7], hello[8]]);
        assert_eq!(usize::try_from(inner).unwrap(), hello.len() - 9);
        assert!(hello.windows(15).any(|window| window == b"www.example.net"));
    }

    #[test]
    fn what_comes_back() {
        use ProbeResult::{BadAnswer, Ok, TlsFailed};
        let warning = [ALERT, 3, 3, 0, 2, WARNING, 112];
        let hello = [HANDSHAKE, 3, 3, 0, 90, SERVER_HELLO];
        for (bytes, expected) in [
            (hello.to_vec(), Ok),
            ([&warning[..], &hello].concat(), Ok),
            (vec![ALERT, 3, 3, 0, 2, 2, 40], TlsFailed),
            (warning.repeat(9), TlsFailed),
            (b"HTTP/1.1 400 Bad Request\r\n".to_vec(), BadAnswer),
            (vec![HANDSHAKE, 3, 3, 0, 90, 11], BadAnswer),
            (vec![HANDSHAKE, 9], BadAnswer),
        ] {
            assert_eq!(talk().read(&bytes), Some(expected), "{bytes:?}");
            let mut slow = talk();
            let found = bytes.iter().find_map(|byte| slow.read(&[*byte]));
            assert_eq!(found, Some(expected), "{bytes:?} slowly");
        }
    }

    proptest! {
        #[test]
        fn anything_may_come(pieces: Vec<Vec<u8>>) {
            let mut talk = talk();
            for piece in pieces {
                if talk.read(&piece).is_some() {
                    break;
                }
                prop_assert!(talk.received.len() < 1024);
            }
        }
    }
}
