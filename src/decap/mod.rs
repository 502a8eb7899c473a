//! The backend's userspace decapsulator, for kernels without ipip, sit, ip6tnl or fou: IP in IP in on
//! raw sockets, or GUE on UDP sockets; the inner packet out through a TUN device, where the kernel takes
//! it as received.
//!
//! In reading order: `socket` receives and takes the outer header off; [`admission`] decides about a
//! packet, purely; `engine` moves packets; `local` follows the addresses of this machine. `lack` judges
//! the machine's settings, `host` sets them where asked, `answers` the segment size that answers announce, and
//! `watch` keeps all of it so on a thread of its own. `kernel_tunnel` and `rival` see where the kernel or another program does the same work;
//! [`Settings`] is what the user said, [`Arguments`] what another `tunlb decap` was told.

pub mod admission;
mod answers;
mod arguments;
#[cfg_attr(not(feature = "xdp"), path = "driver/without.rs")]
mod driver;
mod engine;
mod host;
mod injector;
mod kernel_tunnel;
mod lack;
mod local;
mod mover;
mod pace;
mod rival;
mod settings;
mod socket;
mod spread;
mod totals;
mod watch;
mod workers;

use std::{
    io,
    net::IpAddr,
    num::NonZeroU16,
    sync::{Arc, atomic::AtomicBool, mpsc},
    thread,
    time::Instant,
};

use signal_hook_mio::v1_0::Signals;

use crate::{
    io::{
        capability::{self, Capability, PrivilegeError},
        netlink::{Netlink, NetlinkError},
        service_manager, signals,
        sysctl::SysctlError,
        tun::{Offloads, TunDevice, TunError},
        undo::{self, Undo, UndoError},
    },
    text::{Plain, shell},
};

use admission::Admission;
use answers::AnswerRoutes;
use driver::Drivers;
use engine::Engine;
use host::Device;
use injector::Injector;
use local::LocalAddresses;
use mover::Mover;
use socket::TunnelSocket;
use watch::{Subjects, Watch};
use workers::Tally;

pub use arguments::Arguments;
pub use rival::{Program, Rival};
pub use settings::{
    DEFAULT_TUN, Encapsulation, Host, Settings, SettingsError, parse_gue, parse_network, parse_vip,
    parse_workers,
};
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
        "the kernel decapsulates already: {} (kind {kind}) is up, and each packet would be \
         delivered twice; use it instead of this command, or: {}",
        Plain(device), shell::line(&["ip", "link", "set", device.as_str(), "down"])
    )]
    KernelTunnel {
        /// Its name.
        device: String,
        /// Its driver kind.
        kind: String,
    },
    /// Another program would deliver each packet a second time.
    #[error(
        "{0}, too: each of the two gets a copy of each packet, and it would be delivered twice; \
         end that process, or use it instead of this command"
    )]
    Rival(Rival),
    /// Something else listens there.
    #[error("UDP port {port} is in use by {}; end it, or choose another port", owner_text(.owner.as_ref()))]
    PortInUse {
        /// The port.
        port: NonZeroU16,
        /// What has it, as far as that shows.
        owner: Option<Program>,
    },
    /// The device is not there any more, or not usable.
    #[error("{}: {what}; start tunlb decap again, as a supervisor does (systemd: Restart=on-failure)", Plain(.device))]
    DeviceLost {
        /// Its name.
        device: String,
        /// What happened.
        what: DeviceLoss,
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
    /// Programs in the driver.
    #[error("{0}")]
    Driver(String),
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

/// What happened to the TUN device while it was in use.
#[derive(Debug, thiserror::Error)]
pub enum DeviceLoss {
    /// It was deleted.
    #[error("was deleted while in use")]
    Deleted,
    /// It is in another network namespace.
    #[error("was moved to another network namespace while in use")]
    Moved,
    /// It was deleted or moved; which, was not seen.
    #[error("is gone from this network namespace")]
    Gone,
    /// It was taken down time after time.
    #[error("was taken down {times} times by another program")]
    Down {
        /// How often.
        times: u32,
    },
    /// It was taken down, and the kernel does not bring it up.
    #[error("was taken down and cannot be brought up again: {cause}")]
    StaysDown {
        /// What netlink says.
        cause: NetlinkError,
    },
}

fn owner_text(owner: Option<&Program>) -> String {
    match owner {
        Some(program) => program.to_string(),
        None => "the kernel (ip fou show) or by a process that cannot be seen (as root: ss -uanp)"
            .to_owned(),
    }
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
    kernel_tunnel::refuse(settings, &netlink.links_that_show()?)?;
    let sockets = socket::open_all(settings.encapsulation(), settings.workers())?;
    rival::refuse(settings, sockets.iter().flatten())?;
    // From here on a signal ends the loop below instead of the process, so that undoing always runs.
    let signals = Signals::new(signals::heard()).map_err(|cause| DecapError::Loop {
        operation: "take signals",
        cause,
    })?;
    warn_about_any_source(settings);
    let (watch, stop) = Watch::open()?;
    let mut undo = Undo::new()?;
    let queues = settings.workers();
    let tun = TunDevice::open(settings.tun(), queues, Offloads::IfNew, TUN_MTU, &mut undo)?;
    let device = Device {
        index: tun.index,
        name: tun.name.clone(),
    };
    let mut answers = AnswerRoutes::new(settings);
    let told = host::prepare(settings, &device, &mut answers, &mut netlink, &mut undo)?;
    let own = rival::inodes(sockets.iter().flatten());
    let mut movers = movers(settings, sockets, tun)?;
    let mut first = movers.remove(0);
    first.drive(Drivers::open(settings)?)?;
    let doubled = AtomicBool::new(false);
    let (sender, alarms) = mpsc::channel();
    let tally = Arc::new(Tally::new(movers.len()));
    let (mut engine, waker) = Engine::open(first, signals, alarms, Arc::clone(&tally))?;
    let alarm = watch::Alarm { sender, waker };
    let subjects = Subjects {
        settings,
        tun: device,
        own,
        undo: &mut undo,
        answers,
        told,
        alarm: alarm.clone(),
        doubled: &doubled,
    };
    let status = format!(
        "{}: decapsulating for {}",
        Plain(settings.tun()),
        list(settings.vips())
    );
    log::info!("{status}");
    let result = thread::scope(|scope| {
        let _ended_first = stop; // before the device is closed, which is no loss then
        start_watch(scope, watch, subjects)?;
        let _workers = workers::start(scope, movers, (&tally, &doubled), &alarm)?;
        service_manager::tell_ready(&status);
        engine.run(&doubled, report)
    });
    let reason = result
        .as_ref()
        .map_or_else(ToString::to_string, |()| "signal".to_owned());
    service_manager::tell_stopping(&reason);
    let totals = engine.totals();
    if result.is_err() {
        log::info!("{totals}");
    }
    result.map(|()| totals)
}

fn start_watch<'scope>(
    scope: &'scope thread::Scope<'scope, '_>,
    watch: Watch,
    subjects: Subjects<'scope>,
) -> Result<(), DecapError> {
    let builder = thread::Builder::new().name("watch".to_owned());
    let started = builder.spawn_scoped(scope, || watch.follow(subjects));
    started.map(drop).map_err(|cause| DecapError::Loop {
        operation: "start the watch",
        cause,
    })
}

/// One mover for each queue of the device, each with sockets and rules of its own.
fn movers(
    settings: &Settings,
    sockets: Vec<Vec<TunnelSocket>>,
    tun: TunDevice,
) -> Result<Vec<Mover>, DecapError> {
    let parts = sockets.into_iter().zip(tun.queues);
    let mover = |(sockets, queue)| {
        let mut admission = Admission::new(settings.vips(), settings.directors());
        let local = LocalAddresses::open(&mut admission, Instant::now())?;
        let injector = Injector::new(queue, tun.name.clone());
        Ok(Mover::new(sockets, injector, admission, local))
    };
    parts.map(mover).collect()
}

/// A decapsulator that takes packets from any source lets that source choose the inner one (RFC 2003 §6).
fn warn_about_any_source(settings: &Settings) {
    if settings.accepts_any_source() {
        log::warn!(
            "tunnel packets are taken from any source, so whatever reaches this machine can send packets \
             to the VIP under any source address; name the director: --director ADDRESS"
        );
    }
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
