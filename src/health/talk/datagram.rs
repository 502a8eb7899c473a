//! A datagram and its answer.

use crate::probe::ProbeResult;
use crate::probe::check::{Datagram, Pattern};

#[derive(Debug)]
pub(in super::super) struct DatagramTalk {
    payload: Vec<u8>,
    expect: Option<Pattern>,
}

impl DatagramTalk {
    pub(super) fn new(check: &Datagram) -> Self {
        Self {
            payload: check.payload.clone(),
            expect: check.expect.clone(),
        }
    }

    pub(super) fn request(&self) -> &[u8] {
        &self.payload
    }

    pub(super) fn read(&self, answer: &[u8]) -> ProbeResult {
        match &self.expect {
            Some(expect) if !expect.matches(answer) => ProbeResult::BadAnswer,
            Some(_) | None => ProbeResult::Ok,
        }
    }

    /// A service that need not answer is neither healthy nor unhealthy by silence.
    pub(super) fn silence(&self) -> Option<ProbeResult> {
        self.expect.is_none().then_some(ProbeResult::NoVerdict)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_and_silence() {
        let talk = |expect: Option<Pattern>| {
            DatagramTalk::new(&Datagram {
                payload: vec![1, 2],
                expect,
            })
        };
        let pattern = Pattern {
            bytes: vec![0xab],
            mask: vec![0xff],
        };
        let strict = talk(Some(pattern));
        assert_eq!(strict.request(), [1, 2]);
        assert_eq!(strict.read(&[0xab, 0]), ProbeResult::Ok);
        assert_eq!(
            (strict.read(&[0xac]), strict.read(&[])),
            (ProbeResult::BadAnswer, ProbeResult::BadAnswer)
        );
        assert_eq!(strict.silence(), None);
        assert_eq!(
            (talk(None).read(&[]), talk(None).silence()),
            (ProbeResult::Ok, Some(ProbeResult::NoVerdict))
        );
    }
}
