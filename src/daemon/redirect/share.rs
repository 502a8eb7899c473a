//! What one worker has of the sockets.

use crate::io::egress::XskEgress;
use crate::io::ingress::{Checksums, XskIngress};
use crate::io::sys::{ReceiveSocket, TransmitSocket};
#[cfg(feature = "xdp")]
use crate::io::xdp::QueueSockets;

/// The sockets of one worker, by their halves.
#[derive(Debug, Default)]
pub(in crate::daemon) struct Share {
    receive: Vec<(ReceiveSocket, Checksums)>,
    /// With the index of the device.
    transmit: Vec<(u32, TransmitSocket)>,
}

impl Share {
    /// Adds those of a queue.
    #[cfg(feature = "xdp")]
    pub(super) fn take(&mut self, sockets: QueueSockets) {
        self.receive.push((sockets.receive, sockets.checksums));
        self.transmit.push((sockets.link, sockets.transmit));
    }

    /// Gives all of them to a worker's ingress and egress.
    pub(in crate::daemon) fn give(self, ingress: &mut XskIngress, egress: &mut XskEgress) {
        for (socket, checksums) in self.receive {
            ingress.join(socket, checksums);
        }
        for (link, socket) in self.transmit {
            egress.lend(link, socket);
        }
    }
}
