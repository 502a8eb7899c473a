//! The frames of one burst: packets on their way through a worker, each with head-room before it.
//!
//! One allocation, made once: the ingress reads into frames, the director decides about them, the egress
//! writes outer headers into their head-room. Frames begin on a cache line, so that the packet does, too.

use super::encap::HEADROOM;

/// Packets that an ingress reads before they are decided; more than 64 gained nothing
/// (docs/performance.md).
pub const BURST: usize = 64;

/// Beside the packets that were read, as many fragments that waited may leave in the same burst.
const FRAMES: usize = 2 * BURST;

/// A cache line in bytes.
const LINE: usize = 64;

/// Packets and the room for their outer headers.
#[derive(Debug)]
pub struct Burst {
    memory: Box<[u8]>,
    /// Where the first frame begins in `memory`: on a cache line.
    start: usize,
    stride: usize,
    /// Bytes of each packet, by frame.
    lengths: [usize; FRAMES],
    filled: usize,
}

impl Burst {
    /// An empty burst whose frames hold packets of up to `longest` bytes.
    #[must_use]
    pub fn new(longest: usize) -> Self {
        let mut burst = Self {
            memory: Box::default(),
            start: 0,
            stride: 0,
            lengths: [0; FRAMES],
            filled: 0,
        };
        burst.fit(longest);
        burst
    }

    /// Makes every frame hold packets of up to `longest` bytes, if they do not yet; empties the burst.
    pub fn fit(&mut self, longest: usize) {
        self.clear();
        let stride = (HEADROOM + longest).next_multiple_of(LINE);
        if stride > self.stride {
            self.memory = vec![0; stride * FRAMES + LINE].into_boxed_slice();
            self.start = self.memory.as_ptr().align_offset(LINE).min(LINE);
            self.stride = stride;
        }
    }

    /// Empties the burst.
    pub const fn clear(&mut self) {
        self.filled = 0;
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

    /// The room for the next packet of an ingress; `None` where the burst is full.
    pub fn vacant(&mut self) -> Option<&mut [u8]> {
        (self.filled < BURST).then(|| self.body(self.filled))?
    }

    /// The room for the next packet, also beyond what an ingress may fill; `None` where no frame is left.
    pub fn spare(&mut self) -> Option<&mut [u8]> {
        self.body(self.filled)
    }

    /// Takes the packet of `length` bytes that was written into the room given last into the burst.
    pub fn push(&mut self, length: usize) {
        if let Some(of_frame) = self.lengths.get_mut(self.filled) {
            *of_frame = length.min(self.stride - HEADROOM);
            self.filled += 1;
        }
    }

    /// The bytes of a packet in the burst; empty beyond it.
    #[must_use]
    pub fn packet(&self, frame: usize) -> &[u8] {
        let length = self.lengths.get(frame).copied().unwrap_or_default();
        let at = self.start + frame * self.stride + HEADROOM;
        self.memory.get(at..at + length).unwrap_or_default()
    }

    /// The bytes of a packet in the burst, to be changed in place; empty beyond it.
    pub fn packet_mut(&mut self, frame: usize) -> &mut [u8] {
        let length = self.lengths.get(frame).copied().unwrap_or_default();
        let at = self.start + frame * self.stride + HEADROOM;
        self.memory.get_mut(at..at + length).unwrap_or_default()
    }

    /// Cuts a packet in the burst to its first `length` bytes.
    pub fn truncate(&mut self, frame: usize, length: usize) {
        if let Some(of_frame) = self.lengths.get_mut(frame) {
            *of_frame = length.min(*of_frame);
        }
    }

    /// The head-room before a packet, and the packet.
    pub fn frame(&mut self, frame: usize) -> Option<(&mut [u8; HEADROOM], &[u8])> {
        let length = *self.lengths.get(frame)?;
        let at = self.start + frame * self.stride;
        let bytes = self.memory.get_mut(at..at + HEADROOM + length)?;
        let (headroom, packet) = bytes.split_first_chunk_mut()?;
        Some((headroom, packet))
    }

    /// The packet with the last `overhead` bytes of its head-room before it, cut to `length` bytes of
    /// packet.
    #[must_use]
    pub fn with_header(&self, frame: usize, overhead: usize, length: usize) -> &[u8] {
        let at = self.start + frame * self.stride + HEADROOM;
        let begin = at - overhead.min(HEADROOM);
        self.memory.get(begin..at + length).unwrap_or_default()
    }

    fn body(&mut self, frame: usize) -> Option<&mut [u8]> {
        if frame >= FRAMES {
            return None;
        }
        let at = self.start + frame * self.stride;
        self.memory.get_mut(at + HEADROOM..at + self.stride)
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
                burst.vacant()
            } else {
                assert!(burst.vacant().is_none(), "an ingress fills {BURST}");
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
        assert!(burst.packet(FRAMES).is_empty() && burst.frame(FRAMES).is_none());
    }

    #[test]
    fn a_header_stands_right_before_its_packet() {
        let mut burst = Burst::new(4);
        burst.vacant().unwrap()[..3].copy_from_slice(b"abc");
        burst.push(3);
        let (headroom, packet) = burst.frame(0).unwrap();
        assert_eq!(packet, b"abc");
        headroom[HEADROOM - 2..].copy_from_slice(b"xy");
        assert_eq!(burst.with_header(0, 2, 3), b"xyabc");
        assert_eq!(burst.with_header(0, 2, 1), b"xya");
        burst.packet_mut(0)[1] = b'B';
        burst.truncate(0, 2);
        assert_eq!(burst.packet(0), b"aB");
        burst.truncate(0, 3);
        assert_eq!(burst.packet(0).len(), 2, "never longer again");
        assert!(burst.packet_mut(FRAMES).is_empty());
        burst.fit(9000);
        assert!(burst.is_empty() && burst.vacant().unwrap().len() >= 9000);
    }
}
