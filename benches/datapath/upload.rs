//! Segments of TCP uploads without a TCP: super-packets through a packet socket, as a sender's stack with
//! segmentation offload hands them to its device (PACKET_VNET_HDR, packet(7)).
//!
//! Nobody acknowledges anything, so the load does not depend on the contender. A director whose TUN takes
//! no super-packets gets them segmented, on the generator's core.

use std::os::fd::AsRawFd;

use anyhow::{Context, Result};
use socket2::Socket;
use tunlb::packet::Version;
use tunlb::packet::checksum::{Sum, checksum};
use tunlb::packet::vnet::{Gso, PartialChecksum, VnetHeader};

use crate::generator::Shared;
use crate::lab::{GENERATOR_CORE, Lab, PORT, VIP, packet_socket, pin, succeeded};

/// A whole segment, IP header included: with a GUE header it fills an Ethernet frame.
pub(crate) const SEGMENT_BYTES: usize = 1472;

/// IPv4 (20) and TCP (20) headers, and the timestamps option (12).
const HEADER_BYTES: u16 = 52;
const SEGMENT_DATA: u16 = 1420;

/// Segments of a super-packet; 45 are 64 KiB.
const SEGMENTS: u16 = 45;

const FLOWS: u16 = 64;

const CLIENT: [u8; 4] = [10, 0, 0, 2];

/// From the generator's device to the director's (the lab's addresses).
const ETHERNET: [u8; 14] = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0];

/// One super-packet of each flow, and the socket that they leave by.
#[derive(Debug)]
pub(crate) struct Uploads {
    socket: Socket,
    frames: Vec<Vec<u8>>,
}

impl Uploads {
    /// # Errors
    /// The socket cannot be made.
    pub(crate) fn open(lab: &Lab) -> Result<Self> {
        let socket = lab.generator.within(socket)?;
        Ok(Self {
            socket: socket.context("cannot make the uploads' socket")?,
            frames: (0..FLOWS).map(frame).collect(),
        })
    }

    /// Sends until it is stopped.
    ///
    /// # Errors
    /// The device does not take super-packets.
    pub(crate) fn flood(&self, shared: &Shared) -> Result<()> {
        pin(GENERATOR_CORE).context("cannot pin the generator")?;
        while !shared.is_stopped() {
            for frame in &self.frames {
                match self.socket.send(frame) {
                    Ok(_) => shared.count(SEGMENTS.into()),
                    Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {}
                    Err(error) => return Err(error).context("cannot send a super-packet"),
                }
            }
        }
        Ok(())
    }
}

/// Of the generator's device. Not past its queueing discipline: with an XDP program on its peer a veth segments nothing,
/// and super-packets that pass the discipline by do not arrive.
fn socket() -> Result<Socket> {
    let socket = packet_socket("g0")?;
    let on: libc::c_int = 1;
    // SAFETY: the value lives until the call returns, which reads that many bytes of it.
    succeeded(unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_VNET_HDR,
            (&raw const on).cast(),
            libc::socklen_t::try_from(size_of_val(&on))?,
        )
    })?;
    Ok(socket)
}

/// What the kernel is told, the Ethernet header, and the super-packet of one flow.
fn frame(flow: u16) -> Vec<u8> {
    let data = SEGMENTS * SEGMENT_DATA;
    let length = HEADER_BYTES + data;
    let header = VnetHeader {
        checksum: Some(PartialChecksum {
            start: 14 + 20,
            offset: 16,
        }),
        gso: Some((Gso::Tcp(Version::V4), SEGMENT_DATA)),
        header_length: 14 + HEADER_BYTES,
    };
    let mut ip = vec![0x45, 0, 0, 0, 0, 1, 0x40, 0, 64, 6, 0, 0];
    ip[2..4].copy_from_slice(&length.to_be_bytes());
    ip.extend(CLIENT);
    ip.extend(VIP.octets());
    let sum = checksum(&ip).to_be_bytes();
    ip[10..12].copy_from_slice(&sum);
    let pseudo = !Sum::default()
        .add_bytes(&ip[12..])
        .add_word(6)
        .add_word(length - 20)
        .finish();
    let mut tcp = (40_000 + flow).to_be_bytes().to_vec();
    tcp.extend(PORT.to_be_bytes());
    tcp.extend([0, 0, 0, 1, 0, 0, 0, 1, 0x80, 0x10, 2, 0, 0, 0, 0, 0]);
    tcp[16..18].copy_from_slice(&pseudo.to_be_bytes());
    tcp.extend([1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 1]);
    let parts = [&header.encode()[..], &ETHERNET, &ip, &tcp];
    let mut frame = parts.concat();
    frame.resize(frame.len() + usize::from(data), 0x5a);
    frame
}
