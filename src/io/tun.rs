//! The TUN device (tun-rs): opened with one queue per worker, brought up, given its MTU.
//!
//! A device that was there before is used as it is and stays when the queues close; one that this
//! process created goes with its last queue. No addresses and no routes here.

use std::{
    fmt,
    io::{self, IoSlice},
    num::NonZeroUsize,
    os::fd::{AsFd as _, AsRawFd, BorrowedFd, RawFd},
};

use log::debug;
use tun_rs::{DeviceBuilder, SyncDevice};

use super::{
    netlink::{Address, Link, Netlink, NetlinkError, TunAttributes, TunMode, TunQueueing},
    sys,
    sysctl::{Sysctl, is_device_name},
    undo::{Undo, UndoError},
};
use crate::{packet::vnet::VnetHeader, text::plain::Plain};

/// Why a device could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum TunError {
    /// The name is none that the kernel takes.
    #[error("tun device {0:?}: not a device name (1 to 15 bytes, no slash, colon or space)")]
    Name(String),
    /// A device of another kind has that name.
    #[error("tun device {name}: exists, but is {found}; choose another name")]
    NotTun {
        /// The name.
        name: String,
        /// What it is instead.
        found: &'static str,
    },
    /// Another process reads from it.
    #[error("tun device {0}: in use by another process; stop that one, or choose another name")]
    InUse(String),
    /// It was created for one queue.
    #[error(
        "tun device {name}: has a single queue, {wanted} are wanted; use one worker, or as root: \
         ip tuntap del {name} mode tun && ip tuntap add {name} mode tun multi_queue"
    )]
    SingleQueue {
        /// The name.
        name: String,
        /// Queues wanted.
        wanted: NonZeroUsize,
    },
    /// The driver refused.
    #[error("tun device {name}: {operation}: {cause}")]
    Device {
        /// The name.
        name: String,
        /// What was attempted.
        operation: &'static str,
        /// The system's error.
        cause: io::Error,
    },
    /// The device could not be looked up or configured.
    #[error("tun device {name}: {cause}")]
    Netlink {
        /// The name.
        name: String,
        /// What netlink says.
        cause: NetlinkError,
    },
    /// The device vanished while it was opened.
    #[error("tun device {0}: vanished after it was opened")]
    Vanished(String),
}

/// An open TUN device that is up.
#[derive(Debug)]
pub struct TunDevice {
    /// Its name.
    pub name: String,
    /// Its index.
    pub index: u32,
    /// Its queues, as many as asked for; non-blocking.
    pub queues: Vec<Queue>,
}

impl TunDevice {
    /// Opens (creating it where absent) the device `name` with `queues` queues, and brings it up with
    /// `mtu` bytes; `undo` gives a device that existed before its MTU, queue length and state back.
    ///
    /// # Errors
    /// Any [`TunError`].
    pub fn open(
        name: &str,
        queues: NonZeroUsize,
        offloads: Offloads,
        mtu: u32,
        undo: &mut Undo,
    ) -> Result<Self, TunError> {
        if !is_device_name(name) {
            return Err(TunError::Name(name.to_owned()));
        }
        let netlink_error = |cause| TunError::Netlink {
            name: name.to_owned(),
            cause,
        };
        let mut netlink = Netlink::open().map_err(netlink_error)?;
        let existing = netlink.link(name).map_err(netlink_error)?;
        let queueing = queueing_for(name, existing.as_ref(), queues)?;
        let framing = match (offloads, &existing) {
            (Offloads::IfNew, None) => Framing::Offloads,
            (Offloads::Never, _) | (Offloads::IfNew, Some(_)) => Framing::Plain,
        };
        let queues = open_queues(name, (queueing, framing), queues)?;
        let link = netlink.link(name).map_err(netlink_error)?;
        let link = link.ok_or_else(|| TunError::Vanished(name.to_owned()))?;
        match existing {
            Some(before) => {
                keep_silent(&before, &mut netlink, undo);
                undo.keep_link(&before);
            }
            None => silence(name),
        }
        netlink.set_mtu(link.index, mtu).map_err(netlink_error)?;
        netlink.set_up(link.index).map_err(netlink_error)?;
        Ok(Self {
            name: link.name,
            index: link.index,
            queues,
        })
    }
}

/// `addr_gen_mode` of a device that has not made an address of its own yet (IN6_ADDR_GEN_MODE_EUI64), and
/// of one that never will (IN6_ADDR_GEN_MODE_NONE).
const NO_LINK_LOCAL_YET: i32 = 0;
const NO_LINK_LOCAL: i32 = 1;

/// Keeps a device that was there from making a secret and an address of its own as soon as a queue of it
/// is open, since those would stay for good; one that has an address is left as it is.
fn keep_silent(link: &Link, netlink: &mut Netlink, undo: &mut Undo) {
    let mut set = || -> Result<(), UndoError> {
        let key = Sysctl::ipv6_conf(&link.name, "addr_gen_mode")?;
        let of_link =
            |address: &Address| address.link == link.index && address.net.addr().is_ipv6();
        if key.read()? == NO_LINK_LOCAL_YET && !netlink.addresses()?.iter().any(of_link) {
            undo.set_sysctl(key, NO_LINK_LOCAL)?;
        }
        Ok(())
    };
    if let Err(error) = set() {
        debug!("tun device {}: {error}", Plain(&link.name)); // a kernel without IPv6 makes none
    }
}

/// Keeps a new device from sending router solicitations and multicast reports of its own, which
/// would be read from its queues: without a link-local address IPv6 has nothing to say there.
fn silence(name: &str) {
    let set = Sysctl::ipv6_conf(name, "addr_gen_mode").and_then(|key| key.write(NO_LINK_LOCAL));
    if let Err(error) = set {
        debug!("tun device {name}: {error}"); // a kernel without IPv6 sends nothing
    }
}

/// How the device must be opened: as it was created, or as the number of queues wants it.
fn queueing_for(
    name: &str,
    existing: Option<&Link>,
    wanted: NonZeroUsize,
) -> Result<TunQueueing, TunError> {
    let single = wanted.get() == 1;
    let Some(link) = existing else {
        return Ok(if single {
            TunQueueing::Single
        } else {
            TunQueueing::Multi
        });
    };
    let not_tun = |found| TunError::NotTun {
        name: name.to_owned(),
        found,
    };
    let tun = link.tun.ok_or_else(|| not_tun("not a TUN device"))?;
    match tun {
        TunAttributes {
            mode: TunMode::Tap, ..
        } => Err(not_tun("a TAP device")),
        TunAttributes {
            open_queues: 1.., ..
        } => Err(TunError::InUse(name.to_owned())),
        TunAttributes {
            queueing: TunQueueing::Single,
            ..
        } if !single => Err(TunError::SingleQueue {
            name: name.to_owned(),
            wanted,
        }),
        TunAttributes { queueing, .. } => Ok(queueing),
    }
}

fn open_queues(
    name: &str,
    (queueing, framing): (TunQueueing, Framing),
    wanted: NonZeroUsize,
) -> Result<Vec<Queue>, TunError> {
    let failed = |operation, cause: io::Error| match cause.raw_os_error() {
        Some(libc::EBUSY) => TunError::InUse(name.to_owned()),
        _ => TunError::Device {
            name: name.to_owned(),
            operation,
            cause,
        },
    };
    let first = DeviceBuilder::new()
        .name(name)
        .inherit_enable_state() // up comes last, when the MTU is set
        .with(|options| {
            options
                .packet_information(false)
                .offload(framing == Framing::Offloads)
                .multi_queue(queueing == TunQueueing::Multi);
        })
        .build_sync()
        .map_err(|cause| failed("open", cause))?;
    let mut devices = vec![first];
    while devices.len() < wanted.get() {
        let next = devices[0]
            .try_clone()
            .map_err(|cause| failed("open a further queue", cause))?;
        devices.push(next);
    }
    let queue = |device: SyncDevice| {
        device
            .set_nonblocking(true)
            .map_err(|cause| failed("make non-blocking", cause))?;
        Ok(Queue { device, framing })
    };
    devices.into_iter().map(queue).collect()
}

/// When a device is opened with [`Framing::Offloads`]. What a device promises to take stays with one that was
/// there before, and would outlast a process that is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offloads {
    /// Never.
    Never,
    /// Where it is new.
    IfNew,
}

/// How a queue hands packets over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// Each as it would be on a wire, nothing before it.
    Plain,
    /// A [`VnetHeader`] before each. The kernel leaves segmenting (TSO, USO) and checksums to the reader.
    Offloads,
}

impl Framing {
    /// Bytes before each packet.
    #[must_use]
    pub const fn header(self) -> usize {
        match self {
            Self::Plain => 0,
            Self::Offloads => VnetHeader::LENGTH,
        }
    }
}

/// One queue of a TUN device: whole IP packets, one per call, without blocking.
pub struct Queue {
    device: SyncDevice,
    framing: Framing,
}

impl Queue {
    fn file(&self) -> BorrowedFd<'_> {
        self.device.as_fd()
    }

    /// How it hands packets over.
    #[must_use]
    pub const fn framing(&self) -> Framing {
        self.framing
    }

    /// Reads one packet, and before it what the framing has, into `buffer`; returns the length of both in
    /// bytes. A longer packet is cut.
    ///
    /// # Errors
    /// `WouldBlock` when none waits; otherwise the driver's error.
    pub fn recv(&self, buffer: &mut [u8]) -> io::Result<usize> {
        sys::read(self.file(), buffer)
    }

    /// Gives one packet to the kernel, as if the device had received it.
    ///
    /// # Errors
    /// The driver's error, such as EIO where the device is down or EINVAL where it is no IP packet.
    pub fn send(&self, packet: &[u8]) -> io::Result<usize> {
        match self.framing {
            Framing::Plain => sys::write_parts(self.file(), &[IoSlice::new(packet)]),
            Framing::Offloads => self.send_framed(&VnetHeader::default(), packet),
        }
    }

    /// As [`send`](Self::send), to a queue that is framed [so](Framing::Offloads).
    ///
    /// # Errors
    /// The driver's error; EINVAL where the header does not fit the packet.
    pub fn send_framed(&self, header: &VnetHeader, packet: &[u8]) -> io::Result<usize> {
        let header = header.encode();
        let parts = [IoSlice::new(&header), IoSlice::new(packet)];
        sys::write_parts(self.file(), &parts)
    }

    /// The same for a packet in up to `PARTS` parts; for a queue with [`Framing::Offloads`] the first begins with
    /// its header.
    ///
    /// # Errors
    /// As of [`Queue::send`]; EINVAL also for a super-packet of a kind that this kernel does not know.
    pub fn send_parts<'a, const PARTS: usize>(
        &self,
        parts: impl Iterator<Item = &'a [u8]>,
    ) -> io::Result<usize> {
        let mut vectors = [IoSlice::new(&[]); PARTS];
        let mut count = 0;
        for (vector, part) in vectors.iter_mut().zip(parts) {
            *vector = IoSlice::new(part);
            count += 1;
        }
        sys::write_parts(self.file(), &vectors[..count])
    }
}

impl AsRawFd for Queue {
    fn as_raw_fd(&self) -> RawFd {
        self.device.as_raw_fd()
    }
}

impl fmt::Debug for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Queue").field(&self.as_raw_fd()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::testing::in_namespace;
    use std::process::Command;

    fn queues(number: usize) -> NonZeroUsize {
        NonZeroUsize::new(number).unwrap()
    }

    fn link(tun: Option<TunAttributes>) -> Link {
        Link {
            index: 4,
            name: "tunlb0".into(),
            mtu: 1480,
            up: true,
            kind: tun.map(|_| "tun".into()),
            tun,
            ..Link::default()
        }
    }

    #[test]
    fn a_device_is_opened_as_it_was_created() {
        let single = TunAttributes::default();
        let multi = TunAttributes {
            queueing: TunQueueing::Multi,
            ..single
        };
        let busy = TunAttributes {
            open_queues: 1,
            ..multi
        };
        let tap = TunAttributes {
            mode: TunMode::Tap,
            ..single
        };
        for (description, existing, wanted, expected) in [
            ("new, one queue", None, 1, Ok(TunQueueing::Single)),
            ("new, two queues", None, 2, Ok(TunQueueing::Multi)),
            (
                "single, one",
                Some(Some(single)),
                1,
                Ok(TunQueueing::Single),
            ),
            (
                "single, two",
                Some(Some(single)),
                2,
                Err("ip tuntap add tunlb0 mode tun multi_queue"),
            ),
            ("multi, one", Some(Some(multi)), 1, Ok(TunQueueing::Multi)),
            ("multi, two", Some(Some(multi)), 2, Ok(TunQueueing::Multi)),
            (
                "in use",
                Some(Some(busy)),
                2,
                Err("in use by another process"),
            ),
            ("a tap", Some(Some(tap)), 1, Err("a TAP device")),
            ("a veth", Some(None), 1, Err("not a TUN device")),
        ] {
            let existing = existing.map(link);
            let result = queueing_for("tunlb0", existing.as_ref(), queues(wanted));
            match (result, expected) {
                (Ok(queueing), Ok(expected)) => assert_eq!(queueing, expected, "{description}"),
                (Err(error), Err(expected)) => {
                    assert!(
                        error.to_string().contains(expected),
                        "{description}: {error}"
                    );
                }
                (result, _) => panic!("{description}: {result:?}"),
            }
        }
    }

    #[test]
    fn impossible_names_are_refused_before_anything_opens() {
        let mut undo = Undo::new().unwrap();
        for name in ["", "a/b", "sixteen-bytes-xx"] {
            let result = TunDevice::open(name, queues(1), Offloads::Never, 1480, &mut undo);
            assert!(matches!(result, Err(TunError::Name(_))));
        }
    }

    #[test]
    fn devices_come_and_go() {
        in_namespace("io::tun::tests::devices_come_and_go_inside");
    }

    #[test]
    #[ignore = "run by devices_come_and_go in a namespace of its own"]
    fn devices_come_and_go_inside() {
        let mut netlink = Netlink::open().unwrap();
        let mut undo = Undo::new().unwrap();
        let device =
            TunDevice::open("tunlb0", queues(2), Offloads::Never, 1480, &mut undo).unwrap();
        let link = netlink.link("tunlb0").unwrap().unwrap();
        assert_eq!((link.index, link.mtu, link.up), (device.index, 1480, true));
        assert_eq!(link.tun.unwrap().open_queues, 2);
        assert!(undo.steps().is_empty());
        let error = device.queues[1].send(&[0; 20]).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
        for wanted in [1, 2] {
            let result =
                TunDevice::open("tunlb0", queues(wanted), Offloads::Never, 1480, &mut undo);
            assert!(matches!(result, Err(TunError::InUse(_))), "{result:?}");
        }
        drop(device);
        assert_eq!(netlink.link("tunlb0").unwrap(), None);
        let device =
            TunDevice::open("tunlb0", queues(1), Offloads::Never, 65_535, &mut undo).unwrap();
        let result = TunDevice::open("tunlb0", queues(1), Offloads::Never, 1480, &mut undo);
        assert!(matches!(result, Err(TunError::InUse(_))), "{result:?}");
        drop(device);
    }

    #[test]
    fn persistent_devices_stay() {
        in_namespace("io::tun::tests::persistent_devices_stay_inside");
    }

    #[test]
    #[ignore = "run by persistent_devices_stay in a namespace of its own"]
    fn persistent_devices_stay_inside() {
        let add = |name: &str, more: &[&str]| {
            let mut command = Command::new("ip");
            command.args(["tuntap", "add", name, "mode"]).args(more);
            assert!(command.status().unwrap().success());
        };
        add("tun1", &["tun"]);
        add("tun256", &["tun", "multi_queue"]);
        add("tap1", &["tap"]);
        for (name, wanted) in [("tun1", 1), ("tun256", 1), ("tun256", 3)] {
            let mut undo = Undo::new().unwrap();
            let device =
                TunDevice::open(name, queues(wanted), Offloads::Never, 1480, &mut undo).unwrap();
            let mut netlink = Netlink::open().unwrap();
            netlink.set_queue_length(device.index, 4096).unwrap();
            assert_eq!(netlink.link(name).unwrap().unwrap().queue_length, 4096);
            assert_eq!(undo.steps().len(), 2, "{name}");
            assert_eq!(device.queues.len(), wanted);
            drop(device);
            drop(undo);
            let link = netlink.link(name).unwrap().unwrap();
            let found = (link.mtu, link.queue_length, link.up);
            assert_eq!(found, (1500, 500, false), "{name} is as it was");
        }
        let mut undo = Undo::new().unwrap();
        let result = TunDevice::open("tun1", queues(2), Offloads::Never, 1480, &mut undo);
        assert!(
            matches!(result, Err(TunError::SingleQueue { .. })),
            "{result:?}"
        );
        for name in ["tap1", "lo"] {
            let result = TunDevice::open(name, queues(1), Offloads::Never, 1480, &mut undo);
            assert!(matches!(result, Err(TunError::NotTun { .. })), "{result:?}");
        }
    }
}
