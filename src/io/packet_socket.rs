//! A socket that sees the packets of all devices of this network namespace, both ways, as far as a
//! filter in the kernel lets them through (packet(7)). It only looks: every packet goes its way.
//!
//! One socket for all devices keeps their packets in one order. What a packet means is not known here.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd, RawFd};
use std::time::{Duration, SystemTime};

use socket2::{Domain, SockFilter, Socket, Type};

use super::sys;

/// `sll_pkttype` of what this machine sends (linux/if_packet.h).
const PACKET_OUTGOING: u8 = 4;

/// Bytes that may wait; a burst of a busy VIP.
const RECEIVE_BUFFER: libc::c_int = 8 << 20;

/// An instruction of classic BPF (linux/filter.h), as `bpf_asm` numbers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instruction {
    /// What to do.
    pub code: u16,
    /// Instructions to pass over where a comparison holds.
    pub jump_true: u8,
    /// Instructions to pass over where it does not.
    pub jump_false: u8,
    /// The operand.
    pub operand: u32,
}

/// Which way a packet goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// It came in by the device.
    In,
    /// It leaves by the device.
    Out,
}

/// A packet that was seen.
#[derive(Debug, PartialEq, Eq)]
pub struct SeenPacket<'a> {
    /// From its network header on.
    pub bytes: &'a [u8],
    /// Index of the device.
    pub device: u32,
    /// Which way.
    pub way: Way,
    /// When, by the real clock.
    pub time: SystemTime,
}

/// A packet socket without link-layer headers (SOCK_DGRAM).
#[derive(Debug)]
pub struct PacketSocket {
    socket: Socket,
    buffer: Vec<u8>,
}

impl PacketSocket {
    /// Opens it; needs CAP_NET_RAW. No packet that the filter refuses is ever received.
    ///
    /// # Errors
    /// The kernel's: EPERM, or EINVAL for a program that it does not take.
    pub fn open(filter: &[Instruction]) -> io::Result<Self> {
        // Protocol 0 receives nothing until the socket is bound, by when the filter is there.
        let socket = Socket::new(Domain::PACKET, Type::DGRAM, None)?;
        if sys::force_receive_buffer(socket.as_fd(), RECEIVE_BUFFER).is_err() {
            socket.set_recv_buffer_size(usize::try_from(RECEIVE_BUFFER).unwrap_or_default())?;
        }
        sys::report_times(socket.as_fd())?;
        let opened = Self {
            socket,
            buffer: vec![0; usize::from(u16::MAX)],
        };
        opened.set_filter(filter)?;
        sys::bind_to_all_devices(opened.socket.as_fd())?;
        Ok(opened)
    }

    /// Takes another filter; what waits already stays.
    ///
    /// # Errors
    /// EINVAL for a program that the kernel does not take.
    pub fn set_filter(&self, filter: &[Instruction]) -> io::Result<()> {
        let instructions = filter
            .iter()
            .map(|one| SockFilter::new(one.code, one.jump_true, one.jump_false, one.operand));
        self.socket.attach_filter(&instructions.collect::<Vec<_>>())
    }

    /// The next packet; nothing where none comes within `patience`, or a signal does.
    ///
    /// # Errors
    /// The socket's.
    pub fn receive(&mut self, patience: Duration) -> io::Result<Option<SeenPacket<'_>>> {
        // A timeout of zero would wait forever.
        self.socket.set_nonblocking(patience.is_zero())?;
        if !patience.is_zero() {
            self.socket.set_read_timeout(Some(patience))?;
        }
        match sys::receive_link(self.socket.as_fd(), &mut self.buffer) {
            Ok(arrival) => Ok(Some(SeenPacket {
                bytes: &self.buffer[..arrival.length],
                device: arrival.device,
                way: if arrival.addressing == PACKET_OUTGOING {
                    Way::Out
                } else {
                    Way::In
                },
                time: arrival.time,
            })),
            Err(error) if is_no_packet(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// How many packets came faster than they were received, since the last call.
    ///
    /// # Errors
    /// The kernel's.
    pub fn lost(&self) -> io::Result<u32> {
        sys::lost_packets(self.socket.as_fd())
    }
}

impl AsRawFd for PacketSocket {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

/// No packet in time, a signal, or a device that went down while the others go on.
fn is_no_packet(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted | io::ErrorKind::NetworkDown
    )
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::process::Command;

    use super::*;
    use crate::io::testing::in_namespace;

    /// `ret #K`
    const fn answer(bytes: u32) -> Instruction {
        Instruction {
            code: 0x06,
            jump_true: 0,
            jump_false: 0,
            operand: bytes,
        }
    }

    #[test]
    fn loopback_shows_both_ways() {
        in_namespace("io::packet_socket::tests::both_ways_of_loopback");
    }

    #[test]
    #[ignore = "in a namespace"]
    fn both_ways_of_loopback() {
        let up = Command::new("ip")
            .args(["link", "set", "lo", "up"])
            .status();
        assert!(up.unwrap().success());
        let mut socket = PacketSocket::open(&[answer(28 + 3)]).unwrap();
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
        sender
            .send_to(b"hello", receiver.local_addr().unwrap())
            .unwrap();
        for way in [Way::Out, Way::In] {
            let packet = socket.receive(Duration::from_secs(5)).unwrap().unwrap();
            assert_eq!((packet.way, packet.device), (way, 1));
            assert_eq!(packet.bytes.len(), 31, "cut by the filter");
            assert_eq!(&packet.bytes[28..], b"hel");
            assert!(packet.time.elapsed().unwrap() < Duration::from_secs(10));
        }
        assert_eq!(socket.receive(Duration::ZERO).unwrap(), None);
        assert_eq!(socket.receive(Duration::from_millis(1)).unwrap(), None);
        socket.set_filter(&[answer(0)]).unwrap();
        sender
            .send_to(b"hello", receiver.local_addr().unwrap())
            .unwrap();
        assert_eq!(socket.receive(Duration::from_millis(1)).unwrap(), None);
        assert_eq!(socket.lost().unwrap(), 0);
        let error = socket.set_filter(&[]).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
    }
}
