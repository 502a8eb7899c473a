//! Egress by a packet socket (AF_PACKET, packet(7)): frames go straight to the device's driver.
//!
//! It passes by the kernel's routing, netfilter's OUTPUT and the device's queueing discipline, which is what
//! makes it cheap. Only a tunnel whose next hop is known goes this way; any other goes by a raw socket, whose
//! packets also make the kernel find that next hop.

use std::io;
use std::os::fd::AsFd;

use socket2::{Domain, Protocol, Socket, Type};

use super::batch::{Batch, Ready};
use super::hops::{Hop, Hops, LINK_HEADER};
use super::{Egress, Header, RawEgress, SendError, Sent, write_header};
use crate::io::sys::{self, KernelPathMtu, LinkAddress};
use crate::packet::{Burst, HEADROOM, Outgoing, TunnelId, Tunnels};

/// A packet socket, and a raw one for what has no next hop.
#[derive(Debug)]
pub struct PacketEgress {
    socket: Socket,
    raw: RawEgress,
    /// By number of the tunnel.
    hops: Vec<Option<Hop>>,
    ready: Batch<LinkAddress>,
}

impl PacketEgress {
    /// Opens the sockets; needs CAP_NET_RAW.
    ///
    /// # Errors
    /// The kernel's, above all a missing capability (EPERM).
    pub fn open() -> io::Result<Self> {
        // Protocol 0: it receives nothing.
        let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(0)))?;
        sys::bypass_queueing(socket.as_fd())?;
        Ok(Self {
            socket,
            raw: RawEgress::open()?,
            hops: Vec::new(),
            ready: Batch::new(),
        })
    }

    /// The next hop of a tunnel, where it is known.
    pub(super) fn hop(&self, TunnelId(number): TunnelId) -> Option<&Hop> {
        self.hops.get(number as usize)?.as_ref()
    }

    /// All next hops that are known.
    pub(super) fn hops(&self) -> impl Iterator<Item = &Hop> {
        self.hops.iter().flatten()
    }

    /// Takes a packet whose outer header is written, to be sent with the next [`flush`](Self::flush): by its
    /// next hop if that is known, else by raw socket.
    pub(super) fn take(
        &mut self,
        burst: &mut Burst,
        position: usize,
        packet: &Outgoing,
        header: Header,
    ) -> Sent {
        let Some(hop) = self.hop(packet.tunnel).copied() else {
            self.raw.take(position, header);
            return Ok(());
        };
        let frame = write_link_header(burst, packet, header, &hop)?;
        self.take_frame(position, frame, &hop);
        Ok(())
    }

    /// Takes a packet whose link header is written, too.
    pub(super) fn take_frame(&mut self, position: usize, frame: FrameHeader, hop: &Hop) {
        self.ready.push(Ready {
            position,
            overhead: frame.0,
            to: LinkAddress {
                link: hop.link,
                ethertype: hop.header.ethertype(),
            },
        });
    }

    /// Sends what was taken of `packets`.
    pub(super) fn flush(&mut self, burst: (&Burst, &[Outgoing]), results: &mut [Sent]) {
        self.ready.send(self.socket.as_fd(), burst, results);
        self.raw.flush(burst, results);
    }
}

/// A link header and an outer header that were written: their length in bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct FrameHeader(pub(super) usize);

/// Writes the link header before the outer one.
///
/// # Errors
/// The packet is longer than the way allows.
pub(super) fn write_link_header(
    burst: &mut Burst,
    packet: &Outgoing,
    header: Header,
    hop: &Hop,
) -> Result<FrameHeader, SendError> {
    if header.overhead + packet.length() > hop.mtu as usize {
        return Err(SendError::TooBig);
    }
    let overhead = header.overhead + LINK_HEADER;
    if let Some((headroom, _)) = burst.headroom(packet) {
        let at = HEADROOM - overhead;
        headroom[at..at + LINK_HEADER].copy_from_slice(hop.header.bytes());
    }
    Ok(FrameHeader(overhead))
}

impl Egress for PacketEgress {
    fn adopt(&mut self, tunnels: &impl Tunnels, hops: &Hops) {
        let hop = |number| {
            let encap = tunnels.tunnel(TunnelId(number))?;
            let hop = hops.direct.get(&encap.destination())?;
            (!encap.lacks_source()).then_some(*hop)
        };
        self.hops.clear();
        self.hops.extend((0..tunnels.bound()).map(hop));
    }

    fn limit_by(&mut self, limit: KernelPathMtu) -> io::Result<()> {
        self.raw.limit_by(limit)
    }

    fn send(
        &mut self,
        burst: &mut Burst,
        packets: &mut [Outgoing],
        tunnels: &impl Tunnels,
        results: &mut [Sent],
    ) {
        for (position, packet) in packets.iter().enumerate() {
            let taken = write_header(burst, packet, tunnels)
                .and_then(|header| self.take(burst, position, packet, header));
            if taken.is_err() {
                results[position] = taken;
            }
        }
        self.flush((burst, packets), results);
    }
}
