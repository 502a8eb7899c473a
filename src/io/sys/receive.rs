//! `recvmmsg`: a batch of packets in one system call, each with its sender, its traffic class and, where the
//! kernel joined datagrams, their size.

use std::{
    io, iter, mem,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    num::NonZeroUsize,
    os::fd::{AsRawFd, BorrowedFd},
    ptr,
};

use super::length_of;

/// Room for two control messages that hold an integer each, aligned as control messages must be (cmsg(3)).
type Control = [u64; 8];

// SAFETY: CMSG_SPACE only computes.
const _: () =
    assert!(2 * unsafe { libc::CMSG_SPACE(INTEGER_BYTES) } as usize <= size_of::<Control>());

const INTEGER_BYTES: libc::socklen_t = length_of::<libc::c_int>();

/// Slots that are armed for a call even where the last one filled fewer: arming one takes some nanoseconds, which
/// would be in vain for hundreds at low load.
const FEWEST_ARMED: usize = 16;

/// A page in bytes, on most machines.
const PAGE: usize = 4096;

/// Slots are that many bytes further apart than whole pages, three cache lines: with a power of two between them, the
/// packets of a burst would push each other out of a few sets of the cache.
const STAGGER: usize = 192;

/// Packets received from a socket by one system call (recvmmsg(2)), in memory that is used again.
#[derive(Debug)]
pub struct ReceiveBatch {
    /// One slot after the other. Pages of a slot that no packet reached take no memory.
    storage: Vec<u8>,
    slot_bytes: usize,
    /// From the start of one slot to the next.
    stride: usize,
    /// Slots that the next call may fill.
    armed: usize,
    /// What the last call filled.
    arrivals: Vec<Arrival>,
    controls: Vec<Control>,
    names: Vec<libc::sockaddr_storage>,
    vectors: Vec<libc::iovec>,
    headers: Vec<libc::mmsghdr>,
}

// SAFETY: the pointers in `vectors` and `headers` are only followed within `receive`, which makes them anew
// before; they point into the other fields, which move along with them.
unsafe impl Send for ReceiveBatch {}

/// What the kernel is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// The packets only, where they hold all that there is to know: each other fact takes time.
    Bytes,
    /// Sender and control messages, too.
    Everything,
}

/// One packet of a batch.
#[derive(Debug, PartialEq, Eq)]
pub struct Received<'a> {
    /// What the socket delivers: from the network header on, or what follows it.
    pub bytes: &'a mut [u8],
    /// The sender; none where it was not asked for, or the socket is of another family than IPv4 and IPv6.
    pub source: Option<IpAddr>,
    /// DSCP and ECN of the packet; 0 where the socket was not told to report them (IP_RECVTOS,
    /// IPV6_RECVTCLASS).
    pub traffic_class: u8,
    /// Bytes of each of the datagrams that the kernel joined, aside from a shorter last one; none where it
    /// joined none, as it does where the socket did not ask for it (UDP_GRO).
    pub joined: Option<NonZeroUsize>,
}

impl<'a> Received<'a> {
    /// The packets that the kernel joined, each by itself; a packet that was alone, also an empty one.
    pub fn each(self) -> impl Iterator<Item = Received<'a>> {
        let Received {
            bytes,
            source,
            traffic_class,
            joined,
        } = self;
        let size = joined.map_or(bytes.len(), NonZeroUsize::get);
        let (first, others) = bytes.split_at_mut(size.min(bytes.len()));
        let others = others.chunks_mut(size.max(1));
        iter::once(first).chain(others).map(move |bytes| Received {
            bytes,
            source,
            traffic_class,
            joined: None,
        })
    }
}

/// What the kernel told about a packet, beside its bytes.
#[derive(Debug)]
struct Arrival {
    length: usize,
    source: Option<IpAddr>,
    notes: Notes,
}

/// What control messages say.
#[derive(Debug, Clone, Copy, Default)]
struct Notes {
    traffic_class: u8,
    joined: Option<NonZeroUsize>,
}

impl ReceiveBatch {
    /// Room for `slots` packets of up to `slot_bytes` bytes.
    #[must_use]
    pub fn new(slots: usize, slot_bytes: usize) -> Self {
        let stride = slot_bytes.next_multiple_of(PAGE) + STAGGER;
        // SAFETY: `sockaddr_storage` is plain data for which all zeroes is valid.
        let no_name: libc::sockaddr_storage = unsafe { mem::zeroed() };
        Self {
            storage: vec![0; slots * stride],
            slot_bytes,
            stride,
            armed: slots.min(FEWEST_ARMED),
            arrivals: Vec::with_capacity(slots),
            controls: vec![Control::default(); slots],
            names: vec![no_name; slots],
            vectors: Vec::with_capacity(slots),
            headers: Vec::with_capacity(slots),
        }
    }

    /// Receives what waits, up to a number of slots that follows the load, without blocking; returns the number of
    /// packets. A packet longer than a slot is cut.
    ///
    /// # Errors
    /// `WouldBlock` when none waits; otherwise the socket's error.
    pub fn receive(&mut self, socket: BorrowedFd<'_>, wanted: Wanted) -> io::Result<usize> {
        self.arrivals.clear();
        self.point_at_slots(wanted);
        let slots = libc::c_uint::try_from(self.headers.len()).unwrap_or(libc::c_uint::MAX);
        // SAFETY: `headers` holds at least `slots` entries. Each points at one entry of `vectors`, of
        // `names` and of `controls`, and the vector at the first `slot_bytes` of one slot of `storage`, which
        // is longer; `point_at_slots` has just made them so, nothing is moved or touched before the call
        // returns, and no two overlap.
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
        self.armed = match received {
            all if all == self.armed => (2 * all).min(self.controls.len()),
            some => self.armed.min((2 * some).max(FEWEST_ARMED)),
        };
        self.arrivals.extend(filled.map(|(header, name)| Arrival {
            length: header.msg_len as usize,
            source: address_of(name),
            notes: notes_of(&header.msg_hdr),
        }));
        Ok(received)
    }

    /// The packets of the last call.
    pub fn packets_mut(&mut self) -> impl Iterator<Item = Received<'_>> {
        let slots = self.storage.chunks_exact_mut(self.stride);
        slots.zip(&self.arrivals).filter_map(|(slot, arrival)| {
            Some(Received {
                bytes: slot.get_mut(..arrival.length)?,
                source: arrival.source,
                traffic_class: arrival.notes.traffic_class,
                joined: arrival.notes.joined,
            })
        })
    }

    /// Pointers are made anew for each call: an address is stored only while nothing else uses the slots.
    fn point_at_slots(&mut self, wanted: Wanted) {
        self.vectors.clear();
        let slots = self.storage.chunks_exact_mut(self.stride);
        let slots = slots.take(self.armed);
        self.vectors.extend(slots.map(|slot| libc::iovec {
            iov_base: slot.as_mut_ptr().cast(),
            iov_len: self.slot_bytes,
        }));
        let around = self.names.iter_mut().zip(&mut self.controls);
        let headers = self.vectors.iter_mut().zip(around);
        self.headers.clear();
        self.headers.extend(
            headers.map(|(vector, (name, control))| message_header(vector, name, control, wanted)),
        );
    }
}

/// A message of one piece, with room for its sender and its control messages.
fn message_header(
    vector: &mut libc::iovec,
    name: &mut libc::sockaddr_storage,
    control: &mut Control,
    wanted: Wanted,
) -> libc::mmsghdr {
    name.ss_family = 0; // a socket that names no sender leaves the room as it was
    // SAFETY: `mmsghdr` is plain data for which all zeroes is valid: null pointers and zero lengths.
    let mut header: libc::mmsghdr = unsafe { mem::zeroed() };
    header.msg_hdr.msg_iov = ptr::from_mut(vector);
    header.msg_hdr.msg_iovlen = 1;
    if wanted == Wanted::Bytes {
        return header;
    }
    header.msg_hdr.msg_name = ptr::from_mut(name).cast();
    header.msg_hdr.msg_namelen = length_of::<libc::sockaddr_storage>();
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

/// What the control messages of a received message say: its traffic class, one byte from IPv4 (ip(7)), an
/// integer from IPv6 (RFC 3542 §6.5); the size of joined datagrams, an integer (UDP_GRO, udp(7)).
fn notes_of(header: &libc::msghdr) -> Notes {
    let mut notes = Notes::default();
    // SAFETY: the kernel has filled the room that `header` points at, a whole `Control` that is still
    // alive or none, and has set its length; the first message, if there is one, lies within.
    let mut next = unsafe { libc::CMSG_FIRSTHDR(header).as_ref() };
    while let Some(message) = next {
        // SAFETY: only computes the address of the message's data.
        let data = unsafe { libc::CMSG_DATA(message) };
        // SAFETY: only called for messages that hold an integer, which is read wherever it is aligned.
        let integer = || unsafe { data.cast::<libc::c_int>().read_unaligned() };
        match (message.cmsg_level, message.cmsg_type) {
            // SAFETY: such a message holds one byte.
            (libc::IPPROTO_IP, libc::IP_TOS) => notes.traffic_class = unsafe { *data },
            (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => {
                notes.traffic_class = u8::try_from(integer()).unwrap_or_default();
            }
            (libc::SOL_UDP, libc::UDP_GRO) => {
                notes.joined = usize::try_from(integer()).ok().and_then(NonZeroUsize::new);
            }
            _ => {}
        }
        // SAFETY: as for the first message.
        next = unsafe { libc::CMSG_NXTHDR(header, message).as_ref() };
    }
    notes
}

#[cfg(test)]
mod tests {
    use super::super::option;
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
        let error = batch
            .receive(receiver.as_fd(), Wanted::Everything)
            .unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        assert_eq!(batch.packets_mut().count(), 0);
        for packet in ["one", "", "longer than 8", "four", "five"] {
            sender.send(packet.as_bytes()).unwrap();
        }
        assert_eq!(
            batch.receive(receiver.as_fd(), Wanted::Everything).unwrap(),
            4
        );
        assert_eq!(
            bytes_of(&mut batch),
            [&b"one"[..], b"", b"longer t", b"four"]
        );
        assert_eq!(
            batch.receive(receiver.as_fd(), Wanted::Everything).unwrap(),
            1
        );
        assert_eq!(bytes_of(&mut batch), [b"five"]);
    }

    #[test]
    fn the_number_of_slots_follows_the_load() {
        let (sender, receiver) = pair("127.0.0.1");
        let mut batch = ReceiveBatch::new(64, 8);
        let mut receive = |waiting: usize| {
            (0..waiting).for_each(|_| assert_eq!(sender.send(b"x").unwrap(), 1));
            let mut sizes = Vec::new();
            while let Ok(size) = batch.receive(receiver.as_fd(), Wanted::Everything) {
                assert_eq!(batch.packets_mut().count(), size);
                sizes.push(size);
            }
            sizes
        };
        assert_eq!(receive(150), [16, 32, 64, 38]);
        assert_eq!(receive(64), [64]);
        assert_eq!(receive(3), [3]);
        assert_eq!(receive(20), [16, 4]);
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
            assert_eq!(
                batch.receive(receiver.as_fd(), Wanted::Everything).unwrap(),
                3
            );
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
        batch.receive(receiver.as_fd(), Wanted::Everything).unwrap();
        let expected = Received {
            bytes: &mut [7],
            source: Some("127.0.0.1".parse().unwrap()),
            traffic_class: 0,
            joined: None,
        };
        assert_eq!(batch.packets_mut().next(), Some(expected));
        sender.send(&[8]).unwrap();
        assert_eq!(batch.receive(receiver.as_fd(), Wanted::Bytes).unwrap(), 1);
        let packet = batch.packets_mut().next().unwrap();
        assert_eq!((packet.bytes, packet.source), (&mut [8][..], None));
        let (sender, receiver) = std::os::unix::net::UnixDatagram::pair().unwrap();
        sender.send(&[7]).unwrap();
        batch.receive(receiver.as_fd(), Wanted::Everything).unwrap();
        assert_eq!(batch.packets_mut().next().unwrap().source, None);
    }
    /// The datagrams of one send through loopback arrive joined, beside their traffic class.
    #[test]
    fn joined_datagrams_tell_their_size() {
        for address in ["127.0.0.1", "::1"] {
            let (sender, receiver) = pair(address);
            let (to, from) = (SockRef::from(&receiver), SockRef::from(&sender));
            match address {
                "::1" => to.set_recv_tclass_v6(true).unwrap(),
                _ => to.set_recv_tos_v4(true).unwrap(),
            }
            match address {
                "::1" => from.set_tclass_v6(0xb9).unwrap(),
                _ => from.set_tos_v4(0xb9).unwrap(),
            }
            option::join_datagrams(receiver.as_fd()).unwrap();
            option::set(sender.as_fd(), libc::SOL_UDP, libc::UDP_SEGMENT, 3).unwrap();
            let mut batch = ReceiveBatch::new(4, 16);
            sender.send(b"onetwosix!").unwrap();
            sender.send(b"one").unwrap();
            assert_eq!(
                batch.receive(receiver.as_fd(), Wanted::Everything).unwrap(),
                2
            );
            let packets = batch.packets_mut();
            let found: Vec<_> = packets
                .map(|packet| (packet.bytes.to_vec(), packet.joined, packet.traffic_class))
                .collect();
            let expected = [
                (b"onetwosix!".to_vec(), NonZeroUsize::new(3), 0xb9),
                (b"one".to_vec(), None, 0xb9),
            ];
            assert_eq!(found, expected, "{address}");
        }
    }
}
