//! Packets for VIPs straight from the driver into AF_XDP sockets, by `bpf/tunlb_xsk.bpf.c`.
//!
//! The program knows services, and decides nothing else: a packet for none of them, or by a queue without
//! a socket, goes on to the kernel.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::os::fd::{AsFd as _, AsRawFd as _};

use aya::EbpfLoader;
use aya::maps::{HashMap, MapData, XskMap};

use super::map::{self, map_error};
use super::{AttachError, Attached, Hook, MapFailure, attach, load, load_program, program};
use crate::io::ingress::Checksums;
use crate::io::netlink::Link;
use crate::io::sys::{ReceiveSocket, TransmitSocket};

/// What packets are for: address, port where it is one, and protocol number.
pub type Service = (IpAddr, Option<u16>, u8);

/// Services that the program can know; packets for further ones go by the TUN. An entry takes some 64 bytes.
const MOST_SERVICES: u32 = 1 << 18;

/// Queues of a device that get a socket, as `sockets` has room; packets by others go by the TUN.
const MOST_QUEUES: u32 = 256;

const PROGRAM: &str = "tunlb_xsk";
const OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/tunlb_xsk.bpf.o"));

/// The program for one device.
#[derive(Debug)]
pub struct Redirect {
    device: Link,
    object: aya::Ebpf,
    services: HashMap<MapData, Key, u8>,
    /// Those that the program knows.
    known: BTreeSet<Service>,
    attached: Option<Attached>,
}

/// The sockets of one queue of a device.
#[derive(Debug)]
pub struct QueueSockets {
    /// Index of the device.
    pub link: u32,
    /// Number of the queue.
    pub queue: u32,
    /// Has what arrives by it.
    pub receive: ReceiveSocket,
    /// Sends by it.
    pub transmit: TransmitSocket,
    /// What checksums arrive.
    pub checksums: Checksums,
}

/// As `struct service` of the program.
type Key = [u8; 20];

/// Why packets cannot be redirected.
#[derive(Debug, thiserror::Error)]
pub enum RedirectError {
    /// The program does not do its work.
    #[error(transparent)]
    Program(#[from] MapFailure),
    /// A queue has no socket.
    #[error("interface {device}: AF_XDP socket on queue {queue}: {cause}")]
    Socket {
        /// The device.
        device: String,
        /// The queue.
        queue: u32,
        /// The system's error.
        cause: io::Error,
    },
}

impl Redirect {
    /// Loads the program for a device, and opens sockets on its queues. Nothing is redirected yet.
    ///
    /// # Errors
    /// Any [`RedirectError`].
    pub fn open(device: &str) -> Result<(Self, Vec<QueueSockets>), RedirectError> {
        let link = map::device(device)?;
        let not_ethernet = || MapFailure::from(AttachError::NotEthernet(device.to_owned()));
        let mac = link.mac.ok_or_else(not_ethernet)?;
        let mut loader = EbpfLoader::new();
        loader
            .override_global("device_address", &mac.0, true)
            .map_max_entries("services", MOST_SERVICES);
        let mut object = load(&mut loader, OBJECT).map_err(MapFailure::from)?;
        let mut redirected = map::map(&mut object, "sockets", XskMap::try_from)?;
        let services = map::map(&mut object, "services", HashMap::try_from)?;
        let sockets = open_sockets(&link)?;
        for socket in &sockets {
            let descriptor = socket.receive.as_fd();
            let set = redirected.set(socket.queue, descriptor.as_raw_fd(), 0);
            set.map_err(|cause| map_error("sockets", cause))?;
        }
        load_program(&mut object, PROGRAM).map_err(MapFailure::from)?;
        let redirect = Self {
            device: link,
            object,
            services,
            known: BTreeSet::new(),
            attached: None,
        };
        Ok((redirect, sockets))
    }

    /// Redirects from now on, until it is dropped.
    ///
    /// # Errors
    /// Any [`RedirectError`].
    pub fn attach(&mut self, hooks: &[Hook]) -> Result<&Attached, RedirectError> {
        let program = program(&mut self.object, PROGRAM).map_err(MapFailure::from)?;
        let attached = attach(program, &self.device.name, hooks).map_err(MapFailure::from)?;
        Ok(self.attached.insert(attached))
    }

    /// Redirects what is for these services, and nothing else, from now on. Those that there is no room
    /// for are left out.
    ///
    /// # Errors
    /// [`MapFailure::Map`]; what is redirected is then between what was and what was asked for.
    pub fn follow(&mut self, services: &BTreeSet<Service>) -> Result<(), RedirectError> {
        let failed = |cause| map_error("services", cause);
        let gone: Vec<_> = self.known.difference(services).copied().collect();
        for service in gone {
            self.services.remove(&key(service)).map_err(failed)?;
            self.known.remove(&service);
        }
        let room = MOST_SERVICES as usize - self.known.len();
        let new: Vec<_> = services
            .difference(&self.known)
            .copied()
            .take(room)
            .collect();
        for service in new {
            self.services.insert(key(service), 1, 0).map_err(failed)?;
            self.known.insert(service);
        }
        Ok(())
    }
}

/// One pair for each queue.
fn open_sockets(link: &Link) -> Result<Vec<QueueSockets>, RedirectError> {
    // A veth hands over what its other end, on this machine, did not complete.
    let checksums = match link.kind.as_deref() {
        Some("veth") => Checksums::MaybePartial,
        _ => Checksums::Complete,
    };
    let mut sockets = Vec::new();
    for queue in 0..MOST_QUEUES {
        match ReceiveSocket::open(link.index, queue) {
            Ok((receive, transmit)) => sockets.push(QueueSockets {
                link: link.index,
                queue,
                receive,
                transmit,
                checksums,
            }),
            // Behind the last queue.
            Err(error) if queue > 0 && error.raw_os_error() == Some(libc::EINVAL) => break,
            Err(cause) => {
                let device = link.name.clone();
                return Err(RedirectError::Socket {
                    device,
                    queue,
                    cause,
                });
            }
        }
    }
    Ok(sockets)
}

fn key((address, port, protocol): Service) -> Key {
    let address = match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    };
    let mut key = Key::default();
    key[..16].copy_from_slice(&Ipv6Addr::octets(&address));
    key[16..18].copy_from_slice(&port.unwrap_or_default().to_be_bytes());
    key[18] = protocol;
    key
}
