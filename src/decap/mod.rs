//! The backend's userspace decapsulator, for kernels without ipip, sit, ip6tnl or fou: IP in IP in on
//! raw sockets, or GUE on UDP sockets; the inner packet out through a TUN device, where the kernel takes
//! it as received.
//!
//! In reading order: `socket` receives and takes the outer header off; [`admission`] decides about a
//! packet, purely; `engine` moves packets; `host` judges the machine's settings and, where asked, sets
//! them; `kernel_tunnel` sees where the kernel does the same work; [`Settings`] is what the user said.

pub mod admission;
mod engine;
mod host;
mod kernel_tunnel;
mod settings;
mod socket;
mod totals;

use std::{
    io,
    net::IpAddr,
    num::{NonZeroU16, NonZeroUsize},
};

use signal_hook_mio::v1_0::Signals;

use crate::io::{
    capability::{self, Capability, PrivilegeError},
    netlink::{AddressMonitor, Netlink, NetlinkError},
    signals,
    sysctl::SysctlError,
    tun::{TunDevice, TunError},
    undo::{self, Undo, UndoError},
};

use admission::Admission;
use engine::Engine;

pub use settings::{DEFAULT_TUN, Encapsulation, Host, Settings, SettingsError};
pub use totals::Totals;

/// The largest MTU that the TUN driver takes: an inner packet of 65,515 bytes, the most that fits into
/// one outer packet, passes.
const TUN_MTU: u32 = 65_535;

/// Why the decapsulator could not start, or had to stop.
#[derive(Debug, thiserror::Error)]
pub enum DecapError {
    /// Something this process may not do.
    #[error(transparent)]
    Privilege(#[from] PrivilegeError),
    /// The kernel's own tunnel would deliver each packet a second time.
    #[error(
        "the kernel decapsulates already: {device} (kind {kind}) is up, and each packet would be \
         delivered twice; use it instead of this command, or: ip link set {device} down"
    )]
    KernelTunnel {
        /// Its name.
        device: String,
        /// Its driver kind.
        kind: String,
    },
    /// Somebody else listens there.
    #[error(
        "UDP port {port} is in use; stop who listens there (a program: ss -ulnp; the kernel: ip fou show), \
         or choose another port"
    )]
    PortInUse {
        /// The port.
        port: NonZeroU16,
    },
    /// A socket for tunnel packets.
    #[error("{socket}: {operation}: {cause}")]
    Socket {
        /// Which one.
        socket: String,
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
/// Any [`DecapError`]; everything that was set up is undone then, too.
pub fn run(settings: &Settings, report: impl FnMut(&Totals)) -> Result<Totals, DecapError> {
    require_capabilities(settings.encapsulation())?;
    undo::recover();
    let mut netlink = Netlink::open()?;
    kernel_tunnel::refuse(settings, &netlink.links()?)?;
    let sockets = socket::open_all(settings.encapsulation())?;
    // From here on a signal ends the loop below instead of the process, so that undoing always runs.
    let signals = Signals::new(signals::heard()).map_err(|cause| DecapError::Loop {
        operation: "take signals",
        cause,
    })?;
    let mut undo = Undo::new()?;
    let mut tun = TunDevice::open(settings.tun(), NonZeroUsize::MIN, TUN_MTU, &mut undo)?;
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
        sockets,
        queue,
        signals,
        ignored: signals::Ignored::default(),
        monitor,
        netlink,
        admission,
    };
    engine.run(report)
}

fn require_capabilities(encapsulation: Encapsulation) -> Result<(), PrivilegeError> {
    match encapsulation {
        Encapsulation::Ipip => capability::require(&[Capability::NetAdmin, Capability::NetRaw]),
        Encapsulation::Gue(_) => capability::require(&[Capability::NetAdmin]),
    }?;
    capability::require_tun()
}

fn list(addresses: &[IpAddr]) -> String {
    let texts: Vec<_> = addresses.iter().map(IpAddr::to_string).collect();
    texts.join(", ")
}

#[cfg(test)]
mod tests;
