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

    /// Takes a packet whose outer header is written: by its next hop if that is known, else by raw socket.
    fn take(
        &mut self,
        burst: &mut Burst,
        position: usize,
        packet: &Outgoing,
        header: Header,
    ) -> Sent {
        let TunnelId(number) = packet.tunnel;
        let Some(Some(hop)) = self.hops.get(number as usize) else {
            self.raw.take(position, header);
            return Ok(());
        };
        if header.overhead + packet.length() > hop.mtu as usize {
            return Err(SendError::TooBig);
        }
        let overhead = header.overhead + LINK_HEADER;
        if let Some((headroom, _)) = burst.headroom(packet) {
            let at = HEADROOM - overhead;
            headroom[at..at + LINK_HEADER].copy_from_slice(hop.header.bytes());
        }
        self.ready.push(Ready {
            position,
            overhead,
            to: LinkAddress {
                link: hop.link,
                ethertype: hop.header.ethertype(),
            },
        });
        Ok(())
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
        for (position, packet) in packets.iter().enumerate() {
            let taken = write_header(burst, packet, tunnels)
                .and_then(|header| self.take(burst, position, packet, header));
            if taken.is_err() {
                results[position] = taken;
            }
        }
        self.ready
            .send(self.socket.as_fd(), (burst, packets), results);
        self.raw.flush((burst, packets), results);
    }
}
