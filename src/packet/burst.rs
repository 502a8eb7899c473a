//! The packets of one burst on their way through a worker, each with head-room before it.
//!
//! One allocation, made once: the ingress reads into it, the director decides about the packets, the egress
//! writes outer headers into their head-room. Packets stand one behind the other, each beginning on a cache
//! line, so that a burst of small ones takes few of them. A super-packet, which the kernel did not segment,
//! is one packet here; its [segments](super::segmentation) leave as a head of their own and a part of its body.

use super::encap::HEADROOM;
use super::segmentation::{Head, Segmentation, Split};
use super::{Entropy, Meta, TunnelId};

/// Packets that an ingress reads before they are decided; more than 64 gained nothing
/// (docs/performance.md). A super-packet counts as its segments.
pub const BURST: usize = 64;

/// Beside the packets that were read, as many fragments that waited may leave in the same burst.
const FRAMES: usize = 2 * BURST;

/// A cache line in bytes.
const LINE: usize = 64;

/// Packets up to this length always find room for a whole burst; of longer ones fewer may fit.
const COMMON_LENGTH: usize = 2048;

/// A packet of the longest kind finds room behind that many others of its kind.
const LONGEST_PACKETS: usize = 3;

/// Packets and the room for their outer headers.
#[derive(Debug)]
pub struct Burst {
    memory: Box<[u8]>,
    /// Where the first frame begins in `memory`: on a cache line.
    start: usize,
    /// The length that every packet may have.
    longest: usize,
    frames: [Frame; FRAMES],
    filled: usize,
    /// Where the next frame begins.
    next: usize,
    /// Segments of the super-packets among the packets, and the packets beside.
    leaving: usize,
    /// An ingress reads no further packet from so many on.
    most: usize,
    /// Head-room and headers of segments; made when they are first needed, then used again.
    heads: Vec<Head>,
    heads_used: usize,
}

/// One packet.
#[derive(Debug, Clone, Copy, Default)]
struct Frame {
    /// Where its head-room begins in the memory.
    at: usize,
    /// Bytes of the packet.
    length: usize,
    segmentation: Option<Segmentation>,
}

/// A packet in a [`Burst`] that is to leave through a tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outgoing {
    /// The packet of the burst that it is, or is a segment of.
    pub frame: usize,
    /// Which of its bytes.
    pub piece: Piece,
    /// Its tunnel.
    pub tunnel: TunnelId,
    /// What the outer header copies of it.
    pub meta: Meta,
    /// What differs in the outer header from packet to packet.
    pub entropy: Entropy,
}

/// Which bytes of a burst are a packet that leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Piece {
    /// A packet of the burst as it is.
    Whole,
    /// A head made for it, and a part of a super-packet's data.
    Segment {
        /// The number of the head.
        head: usize,
        /// Where the data begins in the super-packet.
        start: usize,
    },
}

impl Burst {
    /// An empty burst for packets of up to `longest` bytes.
    #[must_use]
    pub fn new(longest: usize) -> Self {
        let mut burst = Self {
            memory: Box::default(),
            start: 0,
            longest: 0,
            frames: [Frame::default(); FRAMES],
            filled: 0,
            next: 0,
            leaving: 0,
            most: BURST,
            heads: Vec::new(),
            heads_used: 0,
        };
        burst.fit(longest);
        burst
    }

    /// Makes room for packets of up to `longest` bytes, if there is not yet; empties the burst.
    pub fn fit(&mut self, longest: usize) {
        self.clear();
        if longest > self.longest || self.memory.is_empty() {
            let common = FRAMES * stride(longest.min(COMMON_LENGTH));
            let bytes = common.max(LONGEST_PACKETS * stride(longest)) + LINE;
            self.memory = vec![0; bytes].into_boxed_slice();
            self.start = self.memory.as_ptr().align_offset(LINE).min(LINE);
            self.longest = longest;
            self.clear();
        }
    }

    /// Empties the burst.
    pub fn clear(&mut self) {
        self.filled = 0;
        self.next = self.start;
        self.leaving = 0;
        self.heads_used = 0;
    }

    /// Has an ingress read no more than `most` packets, from 1 to [`BURST`], until this is called again.
    pub fn limit(&mut self, most: usize) {
        self.most = most.clamp(1, BURST);
    }

    /// Packets in the burst.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.filled
    }

    /// Whether no packet is in the burst.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.filled == 0
    }

    /// The room for the next packet of an ingress, with `before` bytes of its head-room for what the ingress
    /// has to say of it; `None` where the burst is full.
    pub fn vacant(&mut self, before: usize) -> Option<&mut [u8]> {
        if self.leaving >= self.most {
            return None;
        }
        self.room(before)
    }

    /// The room for the next packet, also beyond what an ingress may fill; `None` where there is none left.
    pub fn spare(&mut self) -> Option<&mut [u8]> {
        self.room(0)
    }

    /// The first `length` bytes of the room given last with `before` bytes of head-room.
    pub fn written(&mut self, before: usize, length: usize) -> &mut [u8] {
        let room = self.room(before).unwrap_or_default();
        let length = length.min(room.len());
        &mut room[..length]
    }

    /// Takes the packet of `length` bytes that was written into the room given last into the burst.
    pub fn push(&mut self, length: usize) {
        self.take(length, None);
    }

    /// As [`push`](Self::push), a super-packet.
    pub fn push_super(&mut self, length: usize, segmentation: Segmentation) {
        self.take(length, Some(segmentation));
    }

    fn take(&mut self, length: usize, segmentation: Option<Segmentation>) {
        let length = length.min(self.longest);
        if let Some(frame) = self.frames.get_mut(self.filled) {
            *frame = Frame {
                at: self.next,
                length,
                segmentation,
            };
            self.filled += 1;
            self.next += stride(length);
            self.leaving += segmentation.map_or(1, |split| split.segments(length));
        }
    }

    fn room(&mut self, before: usize) -> Option<&mut [u8]> {
        let at = self.next + HEADROOM;
        if self.filled == FRAMES {
            return None;
        }
        self.memory.get_mut(at - before..at + self.longest)
    }

    /// The bytes of a packet in the burst; empty beyond it.
    #[must_use]
    pub fn packet(&self, frame: usize) -> &[u8] {
        let Some(Frame { at, length, .. }) = self.frame(frame) else {
            return &[];
        };
        let at = at + HEADROOM;
        self.memory.get(at..at + length).unwrap_or_default()
    }

    /// The bytes of a packet in the burst, to be changed in place; empty beyond it.
    pub fn packet_mut(&mut self, frame: usize) -> &mut [u8] {
        let Some(Frame { at, length, .. }) = self.frame(frame) else {
            return &mut [];
        };
        let at = at + HEADROOM;
        self.memory.get_mut(at..at + length).unwrap_or_default()
    }

    /// Cuts a packet in the burst to its first `length` bytes.
    pub fn truncate(&mut self, frame: usize, length: usize) {
        if let Some(frame) = self.frames[..self.filled].get_mut(frame) {
            frame.length = length.min(frame.length);
        }
    }

    /// Lets a super-packet in the burst be segmented in another way.
    pub fn segment(&mut self, frame: usize, segmentation: Segmentation) {
        if let Some(frame) = self.frames[..self.filled].get_mut(frame) {
            frame.segmentation = Some(segmentation);
        }
    }

    /// How a packet in the burst is to be segmented; `None` for one that leaves as it is.
    #[must_use]
    pub fn segmentation(&self, frame: usize) -> Option<Segmentation> {
        self.frame(frame)?.segmentation
    }

    /// The packets that a packet in the burst leaves as: itself, or its segments, whose heads are made
    /// here. `whole` is what would leave if it were not segmented.
    pub fn pieces(&mut self, whole: Outgoing, mut each: impl FnMut(Outgoing)) {
        let Some(segmentation) = self.segmentation(whole.frame) else {
            return each(whole);
        };
        let Some(Frame { at, length, .. }) = self.frame(whole.frame) else {
            return;
        };
        let at = at + HEADROOM;
        let Some(packet) = self.memory.get(at..at + length) else {
            return;
        };
        let split = Split::new(packet, segmentation);
        for part in split.parts() {
            if self.heads_used == self.heads.len() {
                self.heads.push(Head::default());
            }
            part.write_head(&mut self.heads[self.heads_used]);
            each(Outgoing {
                piece: Piece::Segment {
                    head: self.heads_used,
                    start: part.start,
                },
                meta: Meta {
                    length: part.length,
                    segmentation: None,
                    ..whole.meta
                },
                ..whole
            });
            self.heads_used += 1;
        }
    }

    /// The head-room of a packet that leaves, and its bytes: two parts, the first of even length where the
    /// second is not empty.
    #[inline]
    pub fn headroom(&mut self, packet: &Outgoing) -> Option<(&mut [u8; HEADROOM], [&[u8]; 2])> {
        let Frame { at, length, .. } = self.frame(packet.frame)?;
        let end = at + HEADROOM + length;
        match packet.piece {
            Piece::Whole => {
                let bytes = self.memory.get_mut(at..end)?;
                let (headroom, inner) = bytes.split_first_chunk_mut()?;
                let inner = inner.get(..packet.length()).unwrap_or(inner); // without what a link padded
                Some((headroom, [inner, &[]]))
            }
            Piece::Segment { head, start } => {
                let head = self.heads.get_mut(head)?;
                let (headroom, headers) = head.parts_mut()?;
                let start = at + HEADROOM + start;
                let data = usize::from(packet.meta.length).saturating_sub(headers.len());
                let data = self.memory.get(start..(start + data).min(end))?;
                Some((headroom, [headers, data]))
            }
        }
    }

    /// A packet that leaves, with the last `overhead` bytes of its head-room before it, in two parts.
    #[inline]
    #[must_use]
    pub fn with_header(&self, packet: &Outgoing, overhead: usize) -> [&[u8]; 2] {
        let Some(Frame { at, length, .. }) = self.frame(packet.frame) else {
            return [&[], &[]];
        };
        let (at, before) = (at + HEADROOM, overhead.min(HEADROOM));
        let bytes = usize::from(packet.meta.length);
        let parts = match packet.piece {
            Piece::Whole => [
                self.memory.get(at - before..at + bytes.min(length)),
                Some(&[][..]),
            ],
            Piece::Segment { head, start } => {
                let start = at + start;
                let head = self.heads.get(head);
                let headers = head.map_or(0, Head::length);
                let data = start..(start + bytes.saturating_sub(headers)).min(at + length);
                [
                    head.and_then(|head| head.with_header(before)),
                    self.memory.get(data),
                ]
            }
        };
        parts.map(Option::unwrap_or_default)
    }

    fn frame(&self, frame: usize) -> Option<Frame> {
        self.frames[..self.filled].get(frame).copied()
    }
}

/// From one frame to the next, where the first has a packet of `length` bytes.
const fn stride(length: usize) -> usize {
    (HEADROOM + length).next_multiple_of(LINE)
}

impl Outgoing {
    /// Bytes of the packet.
    #[must_use]
    pub const fn length(&self) -> usize {
        self.meta.length as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_apart_and_aligned() {
        let mut burst = Burst::new(100);
        for number in 0..FRAMES {
            let room = if number < BURST {
                burst.vacant(0)
            } else {
                assert!(burst.vacant(0).is_none(), "an ingress fills {BURST}");
                burst.spare()
            };
            let room = room.unwrap();
            assert!(room.len() >= 100);
            room.fill(u8::try_from(number).unwrap());
            burst.push(100);
        }
        assert!(burst.spare().is_none());
        burst.push(100);
        assert_eq!(burst.len(), FRAMES);
        for number in 0..FRAMES {
            let packet = burst.packet(number);
            assert_eq!(packet, [u8::try_from(number).unwrap(); 100]);
            assert_eq!(packet.as_ptr().addr() % LINE, 0);
        }
        assert!(burst.packet(FRAMES).is_empty() && burst.packet_mut(FRAMES).is_empty());
    }

    #[test]
    fn what_the_ingress_says_stands_in_the_head_room() {
        let mut burst = Burst::new(10);
        burst.vacant(2).unwrap()[..5].copy_from_slice(b"xyabc");
        burst.push(3);
        assert_eq!(burst.packet(0), b"abc");
    }

    #[test]
    fn the_longest_packets_fill_a_burst_early() {
        let mut burst = Burst::new(65_535);
        let mut filled = 0;
        while burst.vacant(10).is_some() {
            burst.push(65_535);
            filled += 1;
        }
        assert!(filled >= LONGEST_PACKETS);
        burst.clear();
        for _ in 0..BURST {
            assert!(burst.vacant(10).is_some());
            burst.push(1500);
        }
        assert!(burst.vacant(10).is_none() && burst.spare().is_some());
    }

    fn outgoing(frame: usize, length: u16) -> Outgoing {
        Outgoing {
            frame,
            piece: Piece::Whole,
            tunnel: TunnelId(0),
            meta: Meta {
                version: crate::packet::Version::V4,
                length,
                traffic_class: 0,
                dont_fragment: true,
                segmentation: None,
            },
            entropy: Entropy {
                flow_hash: 0,
                identification: 0,
            },
        }
    }

    #[test]
    fn a_header_stands_right_before_its_packet() {
        let mut burst = Burst::new(4);
        burst.vacant(0).unwrap()[..3].copy_from_slice(b"abc");
        burst.push(3);
        let (headroom, packet) = burst.headroom(&outgoing(0, 3)).unwrap();
        assert_eq!(packet, [&b"abc"[..], &[]]);
        headroom[HEADROOM - 2..].copy_from_slice(b"xy");
        assert_eq!(burst.with_header(&outgoing(0, 3), 2), [&b"xyabc"[..], &[]]);
        assert_eq!(burst.with_header(&outgoing(0, 1), 2), [&b"xya"[..], &[]]);
        let (_, cut) = burst.headroom(&outgoing(0, 2)).unwrap();
        assert_eq!(cut, [&b"ab"[..], &[]]);
        assert!(burst.headroom(&outgoing(1, 3)).is_none());
        burst.packet_mut(0)[1] = b'B';
        burst.truncate(0, 2);
        assert_eq!(burst.packet(0), b"aB");
        burst.truncate(0, 3);
        assert_eq!(burst.packet(0).len(), 2, "never longer again");
        assert!(burst.packet_mut(FRAMES).is_empty());
        burst.fit(9000);
        assert!(burst.is_empty() && burst.vacant(0).unwrap().len() >= 9000);
    }
}
