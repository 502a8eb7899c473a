//! A socket that sends whole Ethernet frames by one device and receives those of one kind (packet(7)).

use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd as _;

use socket2::{Domain, SockFilter, Socket, Type};

use crate::io::sys::{self, Ethertype};

/// A frame of the messages that are received is shorter; what is longer is cut.
const LONGEST: usize = 256;

/// The protocol that finds addresses of a family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Protocol {
    /// ARP, of IPv4.
    Arp,
    /// Neighbour discovery, of IPv6.
    Discovery,
}

impl Protocol {
    pub(super) const fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::Arp,
            IpAddr::V6(_) => Self::Discovery,
        }
    }
}

/// A packet socket of one device.
#[derive(Debug)]
pub(super) struct FrameSocket(Socket);

impl FrameSocket {
    /// Opens one that sends and receives; needs CAP_NET_RAW. It never waits.
    ///
    /// # Errors
    /// The kernel's: EPERM, ENODEV where the device is gone.
    pub(super) fn open(link: u32, protocol: Protocol) -> io::Result<Self> {
        match protocol {
            Protocol::Arp => Self::filtered(link, Ethertype::Arp, &[EVERYTHING]),
            Protocol::Discovery => Self::filtered(link, Ethertype::Ipv6, &ADVERTISEMENTS),
        }
    }

    /// Opens one that only sends.
    ///
    /// # Errors
    /// As [`FrameSocket::open`].
    pub(super) fn sender(link: u32, protocol: Protocol) -> io::Result<Self> {
        let ethertype = match protocol {
            Protocol::Arp => Ethertype::Arp,
            Protocol::Discovery => Ethertype::Ipv6,
        };
        Self::filtered(link, ethertype, &[NOTHING])
    }

    fn filtered(link: u32, ethertype: Ethertype, filter: &[(u16, u8, u32)]) -> io::Result<Self> {
        // Protocol 0 receives nothing until the socket is bound, by when the filter is there.
        let socket = Socket::new(Domain::PACKET, Type::RAW, None)?;
        socket.set_nonblocking(true)?;
        let instructions = filter
            .iter()
            .map(|(code, jump_false, operand)| SockFilter::new(*code, 0, *jump_false, *operand));
        socket.attach_filter(&instructions.collect::<Vec<_>>())?;
        sys::bind_to_device(socket.as_fd(), ethertype, link)?;
        Ok(Self(socket))
    }

    /// Sends a frame.
    ///
    /// # Errors
    /// The kernel's: ENETDOWN, ENOBUFS or `WouldBlock` where a queue is full.
    pub(super) fn send(&self, frame: &[u8]) -> io::Result<()> {
        self.0.send(frame).map(|_| ())
    }

    /// Shows every frame that waits.
    ///
    /// # Errors
    /// The socket's.
    pub(super) fn drain(&self, mut show: impl FnMut(&[u8])) -> io::Result<()> {
        let mut buffer = [0; LONGEST];
        loop {
            match io::Read::read(&mut &self.0, &mut buffer) {
                Ok(length) => show(&buffer[..length]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if is_nothing(&error) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }
}

/// Nothing waits, or the device went down, of which sending tells.
fn is_nothing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::NetworkDown
    )
}

// Classic BPF: code, instructions to pass over where a comparison fails, operand.
const EVERYTHING: (u16, u8, u32) = (0x06, 0, 256); // ret #256
const NOTHING: (u16, u8, u32) = (0x06, 0, 0); // ret #0

/// The next header at 20 must be ICMPv6, the type at 54 an advertisement: other IPv6 traffic of the device
/// is no concern.
const ADVERTISEMENTS: [(u16, u8, u32); 6] = [
    (0x30, 0, 20),  // ldb [20]
    (0x15, 3, 58),  // jeq #58
    (0x30, 0, 54),  // ldb [54]
    (0x15, 1, 136), // jeq #136
    EVERYTHING,
    NOTHING,
];
