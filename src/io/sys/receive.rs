//! `recvmmsg`: a batch of packets in one system call, each with its sender and its traffic class.

use std::{
    io, mem,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::{AsRawFd, BorrowedFd},
    ptr,
};

use super::length_of;

/// Room for one control message that holds an integer, aligned as control messages must be (cmsg(3)).
type Control = [u64; 4];

// SAFETY: CMSG_SPACE only computes.
const _: () = assert!(unsafe { libc::CMSG_SPACE(INTEGER_BYTES) } as usize <= size_of::<Control>());

const INTEGER_BYTES: libc::socklen_t = length_of::<libc::c_int>();

/// Packets received from a socket by one system call (recvmmsg(2)), in memory that is used again.
#[derive(Debug)]
pub struct ReceiveBatch {
    /// One slot after the other. Pages of a slot that no packet reached take no memory.
    storage: Vec<u8>,
    slot_bytes: usize,
    /// What the last call filled.
    arrivals: Vec<Arrival>,
    controls: Vec<Control>,
    names: Vec<libc::sockaddr_storage>,
    vectors: Vec<libc::iovec>,
    headers: Vec<libc::mmsghdr>,
}

/// One packet of a batch.
#[derive(Debug, PartialEq, Eq)]
pub struct Received<'a> {
    /// What the socket delivers: from the network header on, or what follows it.
    pub bytes: &'a mut [u8],
    /// The sender; none where the socket is of another family than IPv4 and IPv6.
    pub source: Option<IpAddr>,
    /// DSCP and ECN of the packet; 0 where the socket was not told to report them (IP_RECVTOS,
    /// IPV6_RECVTCLASS).
    pub traffic_class: u8,
}

/// What the kernel told about a packet, beside its bytes.
#[derive(Debug)]
struct Arrival {
    length: usize,
    source: Option<IpAddr>,
    traffic_class: u8,
}

impl ReceiveBatch {
    /// Room for `slots` packets of up to `slot_bytes` bytes.
    #[must_use]
    pub fn new(slots: usize, slot_bytes: usize) -> Self {
        // SAFETY: `sockaddr_storage` is plain data for which all zeroes is valid.
        let no_name: libc::sockaddr_storage = unsafe { mem::zeroed() };
        Self {
            storage: vec![0; slots * slot_bytes],
            slot_bytes,
            arrivals: Vec::with_capacity(slots),
            controls: vec![Control::default(); slots],
            names: vec![no_name; slots],
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
        self.arrivals.clear();
        self.point_at_slots();
        let slots = libc::c_uint::try_from(self.headers.len()).unwrap_or(libc::c_uint::MAX);
        // SAFETY: `headers` holds at least `slots` entries. Each points at one entry of `vectors`, of
        // `names` and of `controls`, and the vector at one whole slot of `storage`; `point_at_slots` has
        // just made them so, nothing is moved or touched before the call returns, and no two overlap.
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
        let filled = self.headers.iter().zip(&self.names).take(received);
        self.arrivals.extend(filled.map(|(header, name)| Arrival {
            length: header.msg_len as usize,
            source: address_of(name),
            traffic_class: traffic_class_of(&header.msg_hdr),
        }));
        Ok(received)
    }

    /// The packets of the last call.
    pub fn packets_mut(&mut self) -> impl Iterator<Item = Received<'_>> {
        let slots = self.storage.chunks_exact_mut(self.slot_bytes);
        slots.zip(&self.arrivals).filter_map(|(slot, arrival)| {
            Some(Received {
                bytes: slot.get_mut(..arrival.length)?,
                source: arrival.source,
                traffic_class: arrival.traffic_class,
            })
        })
    }

    /// Pointers are made anew for each call: an address is stored only while nothing else uses the slots.
    fn point_at_slots(&mut self) {
        self.vectors.clear();
        let slots = self.storage.chunks_exact_mut(self.slot_bytes);
        self.vectors.extend(slots.map(|slot| libc::iovec {
            iov_base: slot.as_mut_ptr().cast(),
            iov_len: slot.len(),
        }));
        let around = self.names.iter_mut().zip(&mut self.controls);
        let headers = self.vectors.iter_mut().zip(around);
        self.headers.clear();
        self.headers
            .extend(headers.map(|(vector, (name, control))| message_header(vector, name, control)));
    }
}

/// A message of one piece, with room for its sender and one control message.
fn message_header(
    vector: &mut libc::iovec,
    name: &mut libc::sockaddr_storage,
    control: &mut Control,
) -> libc::mmsghdr {
    name.ss_family = 0; // a socket that names no sender leaves the room as it was
    // SAFETY: `mmsghdr` is plain data for which all zeroes is valid: null pointers and zero lengths.
    let mut header: libc::mmsghdr = unsafe { mem::zeroed() };
    header.msg_hdr.msg_name = ptr::from_mut(name).cast();
    header.msg_hdr.msg_namelen = length_of::<libc::sockaddr_storage>();
    header.msg_hdr.msg_iov = ptr::from_mut(vector);
    header.msg_hdr.msg_iovlen = 1;
    header.msg_hdr.msg_control = ptr::from_mut(control).cast();
    header.msg_hdr.msg_controllen = size_of::<Control>();
    header
}

fn address_of(name: &libc::sockaddr_storage) -> Option<IpAddr> {
    let name = ptr::from_ref(name);
    // SAFETY: `sockaddr_storage` is at least as large and as aligned as any address of a socket; every
    // bit pattern is valid in each of the fields that are read.
    let (v4, v6) = unsafe { (*name.cast::<libc::sockaddr_in>(), *name.cast()) };
    let v6: libc::sockaddr_in6 = v6;
    match libc::c_int::from(v4.sin_family) {
        libc::AF_INET => Some(Ipv4Addr::from(v4.sin_addr.s_addr.to_ne_bytes()).into()),
        libc::AF_INET6 => Some(Ipv6Addr::from(v6.sin6_addr.s6_addr).into()),
        _ => None,
    }
}

/// The traffic class among the control messages: one byte from IPv4 (ip(7)), an integer from IPv6
/// (RFC 3542 §6.5).
fn traffic_class_of(header: &libc::msghdr) -> u8 {
    // SAFETY: the kernel has filled the room that `header` points at, a whole `Control` that is still
    // alive, and has set its length; the first message, if there is one, lies within.
    let Some(message) = (unsafe { libc::CMSG_FIRSTHDR(header).as_ref() }) else {
        return 0;
    };
    // SAFETY: only computes the address of the message's data.
    let data = unsafe { libc::CMSG_DATA(message) };
    match (message.cmsg_level, message.cmsg_type) {
        // SAFETY: such a message holds one byte.
        (libc::IPPROTO_IP, libc::IP_TOS) => unsafe { *data },
        (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => {
            // SAFETY: such a message holds an integer, which is read wherever it is aligned.
            let class = unsafe { data.cast::<libc::c_int>().read_unaligned() };
            u8::try_from(class).unwrap_or_default()
        }
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use socket2::SockRef;
    use std::{net::UdpSocket, os::fd::AsFd};

    fn pair(address: &str) -> (UdpSocket, UdpSocket) {
        let receiver = UdpSocket::bind((address, 0)).unwrap();
        let sender = UdpSocket::bind((address, 0)).unwrap();
        sender.connect(receiver.local_addr().unwrap()).unwrap();
        (sender, receiver)
    }

    fn bytes_of(batch: &mut ReceiveBatch) -> Vec<Vec<u8>> {
        let packets = batch.packets_mut();
        packets.map(|packet| packet.bytes.to_vec()).collect()
    }

    #[test]
    fn a_batch_keeps_packets_apart_and_is_used_again() {
        let (sender, receiver) = pair("127.0.0.1");
        let mut batch = ReceiveBatch::new(4, 8);
        let error = batch.receive(receiver.as_fd()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        assert_eq!(batch.packets_mut().count(), 0);
        for packet in ["one", "", "longer than 8", "four", "five"] {
            sender.send(packet.as_bytes()).unwrap();
        }
        assert_eq!(batch.receive(receiver.as_fd()).unwrap(), 4);
        assert_eq!(
            bytes_of(&mut batch),
            [&b"one"[..], b"", b"longer t", b"four"]
        );
        assert_eq!(batch.receive(receiver.as_fd()).unwrap(), 1);
        assert_eq!(bytes_of(&mut batch), [b"five"]);
    }

    #[test]
    fn sender_and_traffic_class_of_each_packet() {
        let mut batch = ReceiveBatch::new(4, 8);
        for address in ["127.0.0.1", "::1"] {
            let (sender, receiver) = pair(address);
            let (to, from) = (SockRef::from(&receiver), SockRef::from(&sender));
            match address {
                "::1" => to.set_recv_tclass_v6(true).unwrap(),
                _ => to.set_recv_tos_v4(true).unwrap(),
            }
            for class in [0xb9, 0, 3] {
                match address {
                    "::1" => from.set_tclass_v6(class).unwrap(),
                    _ => from.set_tos_v4(class).unwrap(),
                }
                sender.send(&[]).unwrap();
            }
            assert_eq!(batch.receive(receiver.as_fd()).unwrap(), 3);
            let classes: Vec<_> = batch
                .packets_mut()
                .map(|packet| (packet.source.unwrap().to_string(), packet.traffic_class))
                .collect();
            let expected = [0xb9, 0, 3].map(|class| (address.to_owned(), class));
            assert_eq!(classes, expected);
        }
    }

    #[test]
    fn a_socket_that_was_not_told_reports_nothing() {
        let (sender, receiver) = pair("127.0.0.1");
        SockRef::from(&sender).set_tos_v4(0xb9).unwrap();
        sender.send(&[7]).unwrap();
        let mut batch = ReceiveBatch::new(4, 8);
        batch.receive(receiver.as_fd()).unwrap();
        let expected = Received {
            bytes: &mut [7],
            source: Some("127.0.0.1".parse().unwrap()),
            traffic_class: 0,
        };
        assert_eq!(batch.packets_mut().next(), Some(expected));
        let (sender, receiver) = std::os::unix::net::UnixDatagram::pair().unwrap();
        sender.send(&[7]).unwrap();
        batch.receive(receiver.as_fd()).unwrap();
        assert_eq!(batch.packets_mut().next().unwrap().source, None);
    }
}
