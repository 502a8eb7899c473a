//! The backend's userspace decapsulator, for kernels without ipip: protocol 4 in on a raw socket,
//! the inner packet out through a TUN device, where the kernel takes it as received.
//!
//! In reading order: [`admission`] decides about a packet, purely; `engine` moves packets; `host`
//! judges the machine's settings and, where asked, sets them; [`Settings`] is what the user said.

pub mod admission;
mod engine;
mod host;
mod settings;
mod totals;

use std::{io, net::IpAddr, num::NonZeroUsize, os::fd::AsFd};

use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR1};
use signal_hook_mio::v1_0::Signals;
use socket2::{Domain, Protocol, Socket, Type};

use crate::io::{
    capability::{self, Capability, PrivilegeError},
    netlink::{AddressMonitor, Link, Netlink, NetlinkError},
    sys,
    sysctl::SysctlError,
    tun::{TunDevice, TunError},
    undo::{Undo, UndoError},
};

use admission::Admission;
use engine::Engine;

pub use settings::{Host, Settings, SettingsError};
pub use totals::Totals;

/// The largest MTU that the TUN driver takes: an inner packet of 65,515 bytes, the most that fits into
/// one outer packet, passes.
const TUN_MTU: u32 = 65_535;

/// Room for bursts while the process is not running: 8 MiB, about 10,000 small packets.
const RECEIVE_BUFFER: libc::c_int = 8 << 20;

/// Why the decapsulator could not start, or had to stop.
#[derive(Debug, thiserror::Error)]
pub enum DecapError {
    /// Something this process may not do.
    #[error(transparent)]
    Privilege(#[from] PrivilegeError),
    /// The kernel's own tunnel would deliver each packet a second time.
    #[error(
        "the kernel decapsulates already: {device} (kind ipip) is up, and each packet would be \
         delivered twice; use it instead of this command, or: ip link set {device} down"
    )]
    KernelTunnel {
        /// Its name.
        device: String,
    },
    /// The raw socket.
    #[error("raw socket for protocol 4: {operation}: {cause}")]
    Socket {
        /// What was attempted.
        operation: &'static str,
        /// The system's error.
        cause: io::Error,
    },
    /// The TUN device.
    #[error(transparent)]
    Tun(#[from] TunError),
    /// Facts about the machine.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// Facts about the machine.
    #[error(transparent)]
    Sysctl(#[from] SysctlError),
    /// A change of `--setup`.
    #[error(transparent)]
    Setup(#[from] UndoError),
    /// The event loop.
    #[error("event loop: {operation}: {cause}")]
    Loop {
        /// What was attempted.
        operation: &'static str,
        /// The system's error.
        cause: io::Error,
    },
}

/// Runs until SIGINT or SIGTERM, and returns what happened to the packets. `report` is called with the
/// totals so far at each SIGUSR1.
///
/// # Errors
/// Any [`DecapError`]; everything that was set up is taken back then, too.
pub fn run(settings: &Settings, report: impl FnMut(&Totals)) -> Result<Totals, DecapError> {
    capability::require(&[Capability::NetAdmin, Capability::NetRaw])?;
    capability::require_tun()?;
    let mut netlink = Netlink::open()?;
    refuse_kernel_tunnel(&mut netlink)?;
    let socket = open_socket()?;
    // From here on a signal ends the loop below instead of the process, so that undoing always runs.
    let signals = Signals::new([SIGINT, SIGTERM, SIGUSR1]).map_err(|cause| DecapError::Loop {
        operation: "take signals",
        cause,
    })?;
    let mut tun = TunDevice::open(settings.tun(), NonZeroUsize::MIN, TUN_MTU)?;
    let mut undo = Undo::new()?;
    host::prepare(settings, &tun, &mut netlink, &mut undo)?;
    let queue = tun.queues.pop().ok_or(TunError::Vanished(tun.name))?;
    let monitor = AddressMonitor::open()?;
    let mut admission = Admission::new(settings.vips(), settings.directors());
    admission.set_local_addresses(
        netlink
            .addresses()?
            .iter()
            .map(|address| address.net.addr()),
    );
    log::info!(
        "{}: decapsulating for {}",
        settings.tun(),
        list(settings.vips())
    );
    let engine = Engine {
        socket,
        queue,
        signals,
        monitor,
        netlink,
        admission,
    };
    engine.run(report)
}

/// An ipip device that is up takes protocol 4 as well as this process does.
fn refuse_kernel_tunnel(netlink: &mut Netlink) -> Result<(), DecapError> {
    let takes_it = |link: &Link| link.up && link.kind.as_deref() == Some("ipip");
    match netlink.links()?.into_iter().find(takes_it) {
        Some(link) => Err(DecapError::KernelTunnel { device: link.name }),
        None => Ok(()),
    }
}

fn open_socket() -> Result<Socket, DecapError> {
    let failed = |operation| move |cause| DecapError::Socket { operation, cause };
    let protocol = Protocol::from(libc::IPPROTO_IPIP);
    let socket = Socket::new(Domain::IPV4, Type::RAW, Some(protocol)).map_err(failed("open"))?;
    socket
        .set_nonblocking(true)
        .map_err(failed("make non-blocking"))?;
    if sys::force_receive_buffer(socket.as_fd(), RECEIVE_BUFFER).is_err() {
        // Not allowed in a user namespace: up to net.core.rmem_max then.
        let bytes = usize::try_from(RECEIVE_BUFFER).unwrap_or_default();
        socket
            .set_recv_buffer_size(bytes)
            .map_err(failed("set the receive buffer"))?;
    }
    Ok(socket)
}

fn list(addresses: &[IpAddr]) -> String {
    let texts: Vec<_> = addresses.iter().map(IpAddr::to_string).collect();
    texts.join(", ")
}
