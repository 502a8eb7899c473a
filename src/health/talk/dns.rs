//! A DNS query and its answer. Read first: RFC 1035 §4. Nothing of the answer is followed but its first twelve
//! bytes and the question, byte by byte, so that no pointer can lead in circles.

use super::is_framed;
use crate::packet::Protocol;
use crate::probe::ProbeResult;
use crate::probe::check::{Dns, Record};

/// Bytes before the question.
const HEADER: usize = 12;

#[derive(Debug)]
pub(in super::super) struct DnsTalk {
    /// With the length before it over TCP.
    request: Vec<u8>,
    protocol: Protocol,
    answer: Vec<u8>,
}

impl DnsTalk {
    pub(super) fn new(check: &Dns, salt: u64) -> Self {
        let query = query(check, salt);
        let length = u16::try_from(query.len()).unwrap_or(u16::MAX);
        let request = if is_framed(check.protocol) {
            [&length.to_be_bytes()[..], &query].concat()
        } else {
            query
        };
        Self {
            request,
            protocol: check.protocol,
            answer: Vec::new(),
        }
    }

    pub(super) fn request(&self) -> &[u8] {
        &self.request
    }

    pub(super) fn read(&mut self, bytes: &[u8]) -> Option<ProbeResult> {
        if !is_framed(self.protocol) {
            return Some(judge(&self.request, bytes));
        }
        self.answer.extend_from_slice(bytes); // two bytes of length, so at most 64 KiB and one read
        let (length, message) = self.answer.split_first_chunk()?;
        let message = message.get(..u16::from_be_bytes(*length).into())?;
        Some(judge(self.request.get(2..)?, message))
    }
}

/// A recursive query of the class IN.
fn query(check: &Dns, salt: u64) -> Vec<u8> {
    let [high, low, ..] = salt.to_be_bytes();
    let mut query = vec![high, low, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in check.query.split('.').filter(|label| !label.is_empty()) {
        let label = &label.as_bytes()[..label.len().min(63)];
        query.push(u8::try_from(label.len()).unwrap_or(63));
        query.extend_from_slice(label);
    }
    let record: u16 = match check.record {
        Record::A => 1,
        Record::Soa => 6,
        Record::Txt => 16,
        Record::Aaaa => 28,
    };
    query.push(0);
    query.extend(record.to_be_bytes());
    query.extend([0, 1]);
    query
}

/// Right where it answers this very question, without an error, with one record at least.
fn judge(query: &[u8], answer: &[u8]) -> ProbeResult {
    let fits = || -> Option<bool> {
        let same_id = answer.get(..2)? == query.get(..2)?;
        let is_answer = answer.get(2)? & 0x80 != 0;
        let is_fine = answer.get(3)? & 0x0f == 0;
        let has_records = answer.get(6..8)? != [0, 0];
        let question = query.get(HEADER..)?;
        let same_question = answer
            .get(HEADER..HEADER + question.len())?
            .eq_ignore_ascii_case(question);
        Some(same_id && is_answer && is_fine && has_records && same_question)
    };
    match fits() {
        Some(true) => ProbeResult::Ok,
        Some(false) | None => ProbeResult::BadAnswer,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn talk(protocol: Protocol) -> DnsTalk {
        let check = Dns {
            query: "www.example.net.".into(),
            record: Record::A,
            protocol,
        };
        DnsTalk::new(&check, 0x1234 << 48)
    }

    fn answer(change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        let mut answer = talk(Protocol::Udp).request().to_vec();
        answer[2] |= 0x80;
        answer[7] = 1;
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 10, 0, 0, 1]);
        change(&mut answer);
        answer
    }

    #[test]
    fn the_query() {
        let expected = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x03www\x07example\x03net\x00\x00\x01\x00\x01";
        assert_eq!(talk(Protocol::Udp).request(), expected);
        let framed = talk(Protocol::Tcp);
        assert_eq!(framed.request()[..2], [0, 33]);
        assert_eq!(framed.request()[2..], *expected);
    }

    #[test]
    fn answers() {
        use ProbeResult::{BadAnswer, Ok};
        for (what, answer, expected) in [
            ("right", answer(|_| ()), Ok),
            (
                "upper case",
                answer(|bytes| bytes.make_ascii_uppercase()),
                Ok,
            ),
            ("another id", answer(|bytes| bytes[0] ^= 1), BadAnswer),
            ("a query", answer(|bytes| bytes[2] &= 0x7f), BadAnswer),
            ("an error", answer(|bytes| bytes[3] |= 2), BadAnswer),
            ("no record", answer(|bytes| bytes[7] = 0), BadAnswer),
            (
                "another question",
                answer(|bytes| bytes[14] = b'x'),
                BadAnswer,
            ),
            ("cut", answer(|bytes| bytes.truncate(20)), BadAnswer),
            ("nothing", Vec::new(), BadAnswer),
        ] {
            assert_eq!(talk(Protocol::Udp).read(&answer), Some(expected), "{what}");
        }
    }

    #[test]
    fn over_tcp_it_comes_in_pieces() {
        let answer = answer(|_| ());
        let length = u16::try_from(answer.len()).unwrap().to_be_bytes();
        let mut talk = talk(Protocol::Tcp);
        let (last, rest) = answer.split_last().unwrap();
        for byte in length.iter().chain(rest) {
            assert_eq!(talk.read(&[*byte]), None);
        }
        assert_eq!(talk.read(&[*last]), Some(ProbeResult::Ok));
    }

    proptest! {
        #[test]
        fn anything_may_come(bytes: Vec<u8>, framed: bool) {
            let mut talk = talk(if framed { Protocol::Tcp } else { Protocol::Udp });
            prop_assert_ne!(talk.read(&bytes), Some(ProbeResult::Ok));
        }
    }
}
