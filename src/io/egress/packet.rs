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
use super::{Egress, RawEgress, SendError, Sent, write_header};
use crate::io::sys::{self, KernelPathMtu, LinkAddress};
use crate::packet::{BURST, Burst, HEADROOM, Outgoing, TunnelId, Tunnels};

/// A packet socket, and a raw one for what has no next hop.
#[derive(Debug)]
pub struct PacketEgress {
    socket: Socket,
    raw: RawEgress,
    /// By number of the tunnel.
    hops: Vec<Option<Hop>>,
    /// Packets of the burst that have no next hop.
    stranded: Vec<Outgoing>,
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
            stranded: Vec::with_capacity(2 * BURST),
            ready: Batch::new(),
        })
    }

    /// Writes link and outer header of a packet.
    fn prepare(
        burst: &mut Burst,
        packet: &Outgoing,
        hop: &Hop,
        tunnels: &impl Tunnels,
    ) -> Result<Ready<LinkAddress>, SendError> {
        let header = write_header(burst, packet, tunnels)?;
        let length = usize::from(packet.meta.length);
        if header.overhead + length > hop.mtu as usize {
            return Err(SendError::TooBig);
        }
        let overhead = header.overhead + LINK_HEADER;
        if let Some((headroom, _)) = burst.frame(packet.frame) {
            let at = HEADROOM - overhead;
            headroom[at..at + LINK_HEADER].copy_from_slice(hop.header.bytes());
        }
        Ok(Ready {
            frame: packet.frame,
            overhead,
            length,
            to: LinkAddress {
                link: hop.link,
                ethertype: hop.header.ethertype(),
            },
        })
    }
}

impl Egress for PacketEgress {
    fn adopt(&mut self, tunnels: &impl Tunnels, hops: &Hops) {
        let hop = |number| {
            let encap = tunnels.tunnel(TunnelId(number))?;
            let hop = hops.0.get(&encap.destination())?;
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
        packets: &[Outgoing],
        tunnels: &impl Tunnels,
        results: &mut [Sent],
    ) {
        self.stranded.clear();
        for packet in packets {
            let TunnelId(number) = packet.tunnel;
            match self.hops.get(number as usize) {
                Some(Some(hop)) => match Self::prepare(burst, packet, hop, tunnels) {
                    Ok(ready) => self.ready.push(ready),
                    Err(error) => results[packet.frame] = Err(error),
                },
                _ => self.stranded.push(*packet),
            }
        }
        self.ready.send(self.socket.as_fd(), burst, results);
        if !self.stranded.is_empty() {
            self.raw.send(burst, &self.stranded, tunnels, results);
        }
    }
}
