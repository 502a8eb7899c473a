//! `recvmmsg`: a batch of packets in one system call.

use std::{
    io, iter, mem,
    os::fd::{AsRawFd, BorrowedFd},
    ptr,
};

/// Packets received from a socket by one system call (recvmmsg(2)), in memory that is used again.
#[derive(Debug)]
pub struct ReceiveBatch {
    /// One slot after the other. Pages of a slot that no packet reached take no memory.
    storage: Vec<u8>,
    slot_bytes: usize,
    /// Bytes in each slot that the last call filled.
    lengths: Vec<usize>,
    vectors: Vec<libc::iovec>,
    headers: Vec<libc::mmsghdr>,
}

impl ReceiveBatch {
    /// Room for `slots` packets of up to `slot_bytes` bytes.
    #[must_use]
    pub fn new(slots: usize, slot_bytes: usize) -> Self {
        Self {
            storage: vec![0; slots * slot_bytes],
            slot_bytes,
            lengths: Vec::with_capacity(slots),
            vectors: Vec::with_capacity(slots),
            headers: Vec::with_capacity(slots),
        }
    }

    /// Receives what waits, up to the number of slots, without blocking; returns the number of packets.
    /// A packet longer than a slot is cut.
    ///
    /// # Errors
    /// `WouldBlock` when none waits; otherwise the socket's error.
    pub fn receive(&mut self, socket: BorrowedFd<'_>) -> io::Result<usize> {
        self.lengths.clear();
        self.point_at_slots();
        let slots = libc::c_uint::try_from(self.headers.len()).unwrap_or(libc::c_uint::MAX);
        // SAFETY: `headers` holds at least `slots` entries. Each points at one entry of `vectors`, and
        // that at one whole slot of `storage`; `point_at_slots` has just made them so, the vectors are
        // not moved or touched before the call returns, and no two slots overlap.
        let received = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                self.headers.as_mut_ptr(),
                slots,
                libc::MSG_DONTWAIT,
                ptr::null_mut(),
            )
        };
        let received = usize::try_from(received).map_err(|_| io::Error::last_os_error())?;
        let lengths = self
            .headers
            .iter()
            .take(received)
            .map(|header| header.msg_len as usize);
        self.lengths.extend(lengths);
        Ok(received)
    }

    /// The packets of the last call.
    pub fn packets_mut(&mut self) -> impl Iterator<Item = &mut [u8]> {
        let slots = self.storage.chunks_exact_mut(self.slot_bytes);
        iter::zip(slots, &self.lengths).filter_map(|(slot, length)| slot.get_mut(..*length))
    }

    /// Pointers are made anew for each call: an address is stored only while nothing else uses the slots.
    fn point_at_slots(&mut self) {
        self.vectors.clear();
        let slots = self.storage.chunks_exact_mut(self.slot_bytes);
        self.vectors.extend(slots.map(|slot| libc::iovec {
            iov_base: slot.as_mut_ptr().cast(),
            iov_len: slot.len(),
        }));
        self.headers.clear();
        self.headers
            .extend(self.vectors.iter_mut().map(message_header));
    }
}

/// A message of one piece, without address and control data.
fn message_header(vector: &mut libc::iovec) -> libc::mmsghdr {
    // SAFETY: `mmsghdr` is plain data for which all zeroes is valid: null pointers and zero lengths.
    let mut header: libc::mmsghdr = unsafe { mem::zeroed() };
    header.msg_hdr.msg_iov = ptr::from_mut(vector);
    header.msg_hdr.msg_iovlen = 1;
    header
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{net::UdpSocket, os::fd::AsFd};

    #[test]
    fn a_batch_keeps_packets_apart_and_is_used_again() {
        let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        sender.connect(receiver.local_addr().unwrap()).unwrap();
        let mut batch = ReceiveBatch::new(4, 8);
        let error = batch.receive(receiver.as_fd()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        assert_eq!(batch.packets_mut().count(), 0);
        for packet in ["one", "", "longer than 8", "four", "five"] {
            sender.send(packet.as_bytes()).unwrap();
        }
        assert_eq!(batch.receive(receiver.as_fd()).unwrap(), 4);
        let packets: Vec<_> = batch.packets_mut().map(|packet| packet.to_vec()).collect();
        assert_eq!(packets, [&b"one"[..], b"", b"longer t", b"four"]);
        assert_eq!(batch.receive(receiver.as_fd()).unwrap(), 1);
        let packets: Vec<_> = batch.packets_mut().map(|packet| packet.to_vec()).collect();
        assert_eq!(packets, [b"five"]);
    }
}
