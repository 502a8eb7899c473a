//! Attaching: a program on a device for as long as the process lives.

use std::fmt;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};

use aya::programs::{ProgramError, Xdp, loaded_programs};
use log::info;

use crate::io::netlink::{Link, Netlink, NetlinkError};
use crate::io::sys::link_xdp_program;

/// Where a device has its packets looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// By its driver, before the kernel makes a packet of its own of it.
    Native,
    /// By the stack behind any driver: works everywhere, and saves less.
    Generic,
}

impl Hook {
    /// `XDP_FLAGS_*` (linux/if_link.h).
    const fn flags(self) -> u32 {
        match self {
            Self::Generic => 1 << 1,
            Self::Native => 1 << 2,
        }
    }
}

impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Native => "native",
            Self::Generic => "generic",
        })
    }
}

/// A program on a device; dropping it detaches the program, and so does the end of the process in
/// whatever way.
#[derive(Debug)]
pub struct Attached {
    /// The device's name when the program was attached.
    pub device: String,
    /// The device's index.
    pub index: u32,
    /// Where the program runs.
    pub hook: Hook,
    _link: OwnedFd,
}

/// Why a program cannot be attached.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// No such device.
    #[error("interface {0}: no such device")]
    NoDevice(String),
    /// No Ethernet device, so that frames have another shape than programs expect.
    #[error("interface {0}: not an Ethernet device")]
    NotEthernet(String),
    /// Another program is on it.
    #[error("interface {device}: {program} is attached to it and is left as it is; {fix}")]
    Foreign {
        /// The device.
        device: String,
        /// Number and name of the program.
        program: String,
        /// What can be done.
        fix: String,
    },
    /// Another program is on a device above it.
    #[error(
        "interface {0}: a device above it, such as a bond, has an XDP program; name that device as the \
         interface, or detach the program there"
    )]
    Above(String),
    /// The driver, or the kernel, refuses.
    #[error("interface {device}: attach XDP program in {hook} mode: {cause}{hint}")]
    Refused {
        /// The device.
        device: String,
        /// Where it was to run.
        hook: Hook,
        /// The kernel's error.
        cause: io::Error,
        /// What it means, where that is known.
        hint: &'static str,
    },
    /// The program was not loaded.
    #[error("attach XDP program: {0}")]
    Program(#[from] ProgramError),
    /// The device cannot be looked up.
    #[error("interface {device}: {cause}")]
    Netlink {
        /// The device.
        device: String,
        /// What netlink says.
        cause: NetlinkError,
    },
}

/// Attaches a program that is loaded to the first of `hooks` that the device has.
///
/// # Errors
/// Any [`AttachError`]; [`AttachError::Refused`] tells of the last of `hooks`.
pub fn attach(program: &Xdp, device: &str, hooks: &[Hook]) -> Result<Attached, AttachError> {
    let link = look_up(device)?;
    let program = program.fd()?.as_fd();
    let mut refused = None;
    for &hook in hooks {
        match link_xdp_program(program, link.index, hook.flags()) {
            Ok(attached) => {
                if let Some(why) = refused {
                    info!("{why}; in {hook} mode instead");
                }
                return Ok(Attached {
                    device: link.name,
                    index: link.index,
                    hook,
                    _link: attached,
                });
            }
            Err(cause) => refused = Some(refusal(&link, hook, cause)?),
        }
    }
    Err(refused.unwrap_or_else(|| AttachError::NoDevice(device.to_owned())))
}

/// The device, which has no program.
fn look_up(device: &str) -> Result<Link, AttachError> {
    let failed = |cause| AttachError::Netlink {
        device: device.to_owned(),
        cause,
    };
    let mut netlink = Netlink::open().map_err(failed)?;
    let link = netlink.link(device).map_err(failed)?;
    let link = link.ok_or_else(|| AttachError::NoDevice(device.to_owned()))?;
    if !link.arp {
        return Err(AttachError::NotEthernet(link.name));
    }
    match link.xdp {
        Some(program) => Err(foreign(link.name, Some(program.id))),
        None => Ok(link),
    }
}

/// What the next hook would not change, as an error; else the error to tell if there is no next one.
fn refusal(link: &Link, hook: Hook, cause: io::Error) -> Result<AttachError, AttachError> {
    let device = link.name.clone();
    let errno = cause.raw_os_error();
    if matches!(errno, Some(libc::EBUSY | libc::EEXIST)) {
        // It came between the look-up and now, or is not on this device.
        return Err(match look_up(&device) {
            Err(found) => found,
            Ok(_) if errno == Some(libc::EEXIST) => AttachError::Above(device),
            Ok(_) => foreign(device, None),
        });
    }
    let hint = match errno {
        Some(libc::EOPNOTSUPP) => " (its driver has no XDP; generic mode does without)",
        Some(libc::ERANGE | libc::EMSGSIZE) => " (its MTU, or its peer's, is too large for XDP)",
        Some(libc::EINVAL) => {
            " (the driver does not take it as it is set up now, above all for its MTU; or a kernel before 5.9)"
        }
        _ => "",
    };
    Ok(AttachError::Refused {
        device,
        hook,
        cause,
        hint,
    })
}

fn foreign(device: String, id: Option<u32>) -> AttachError {
    let name = id.and_then(name_of).unwrap_or_default();
    let program = match id {
        Some(id) if name.is_empty() => format!("XDP program {id}"),
        Some(id) => format!("XDP program {id} ({name})"),
        None => "another XDP program".to_owned(),
    };
    let fix = fix(&device, &name);
    AttachError::Foreign {
        device,
        program,
        fix,
    }
}

fn fix(device: &str, name: &str) -> String {
    if name.starts_with("tunlb_") {
        return "another tunlb runs on this interface; stop that one".to_owned();
    }
    if name == "xdp_dispatcher" {
        return format!(
            "it runs the programs of libxdp, which tunlb does not join; where they may go: xdp-loader unload \
             {device} --all"
        );
    }
    format!("name another interface, or where it may go: ip link set dev {device} xdp off")
}

/// The name of a program by its number; `None` also where this process may not look.
fn name_of(id: u32) -> Option<String> {
    let program = loaded_programs()
        .map_while(Result::ok)
        .find(|program| program.id() == id)?;
    Some(program.name_as_str()?.to_owned())
}
