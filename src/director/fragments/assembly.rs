//! A datagram that the director itself answers, put together again: a fragmented echo request.
//!
//! Its fragments are kept as they came; this knows which bytes of the datagram they are. A fragment that
//! overlaps another one spoils the whole datagram (RFC 5722 §3, RFC 8200 §4.5, for IPv4 by the same
//! reasoning: RFC 1858 §4); one that repeats another is left out, as Linux does.

use crate::packet::{Packet, Version};

use super::held::Chain;

/// Which bytes of its datagram a fragment holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    start: usize,
    end: usize,
    /// No bytes follow.
    last: bool,
    /// Bytes at its start that are extension headers.
    headers: usize,
}

impl Span {
    /// `None` for what is no fragment, or one that no datagram can have: not the last and not of a
    /// multiple of 8 bytes, without bytes, or with an end beyond the longest packet.
    pub(super) fn of(packet: &Packet<'_>) -> Option<Self> {
        let fragment = packet.fragment()?;
        let length = usize::from(fragment.headers) + packet.payload().len();
        let start = usize::from(fragment.offset);
        let end = start + length;
        let longest = match packet.meta().version {
            Version::V4 => 65_535 - 20,
            Version::V6 => 65_535,
        };
        let whole_words = !fragment.more || length.is_multiple_of(8);
        (length > 0 && whole_words && end <= longest).then_some(Self {
            start,
            end,
            last: !fragment.more,
            headers: fragment.headers.into(),
        })
    }
}

/// What has come of a datagram, its first fragment included.
#[derive(Debug)]
pub(super) struct Assembly {
    spans: Vec<Span>,
    /// The fragments of `spans`, in that order; `None` before the first one is kept.
    pub(super) chain: Option<Chain>,
    /// Bytes that came.
    bytes: usize,
    /// Bytes of extension headers before the payload, once the first fragment came.
    headers: usize,
    /// Where the datagram ends, once its last fragment came.
    end: Option<usize>,
    /// Fragments that came, repeated ones included.
    pub(super) packets: u64,
    /// The longest packet that came, in bytes.
    pub(super) longest: u16,
}

/// How a fragment fits to those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fit {
    /// Its bytes are new.
    New,
    /// Its bytes are there already.
    Repeated,
    /// No datagram can hold both it and the others.
    Broken,
}

impl Assembly {
    pub(super) const fn new() -> Self {
        Self {
            spans: Vec::new(),
            chain: None,
            bytes: 0,
            headers: 0,
            end: None,
            packets: 0,
            longest: 0,
        }
    }

    pub(super) fn fit(&self, span: Span) -> Fit {
        if self.spans.contains(&span) {
            return Fit::Repeated;
        }
        let overlaps = |other: &Span| span.start < other.end && other.start < span.end;
        let ends_elsewhere = match self.end {
            Some(end) => span.last || span.end > end,
            None => span.last && self.spans.iter().any(|other| other.end > span.end),
        };
        if ends_elsewhere || self.spans.iter().any(overlaps) {
            Fit::Broken
        } else {
            Fit::New
        }
    }

    /// Counts a fragment that fits; its bytes, where they are new, were appended to the chain.
    pub(super) fn count(&mut self, span: Span, fit: Fit, length: u16) {
        self.packets += 1;
        self.longest = self.longest.max(length);
        if fit == Fit::New {
            self.spans.push(span);
            self.bytes += span.end - span.start;
            self.headers += span.headers;
            if span.last {
                self.end = Some(span.end);
            }
        }
    }

    /// Whether every byte came: there are no overlaps, so the sum tells.
    pub(super) fn is_whole(&self) -> bool {
        self.end == Some(self.bytes)
    }

    /// Makes `message` as long as the payload of the whole datagram.
    pub(super) fn make_room(&self, message: &mut Vec<u8>) {
        message.clear();
        message.resize(self.bytes.saturating_sub(self.headers), 0);
    }

    /// Copies the payload of a kept fragment to its place in `message`, which starts after the extension
    /// headers of the first one.
    pub(super) fn copy_payload(&self, bytes: &[u8], message: &mut [u8]) {
        let Ok(packet) = Packet::parse(bytes) else {
            return; // it parsed when it was kept
        };
        let offset = packet
            .fragment()
            .map_or(0, |piece| usize::from(piece.offset));
        let start = offset.saturating_sub(self.headers);
        let payload = packet.payload();
        if let Some(place) = message.get_mut(start..start + payload.len()) {
            place.copy_from_slice(payload);
        }
    }
}
