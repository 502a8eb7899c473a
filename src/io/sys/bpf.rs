//! bpf(2) as far as aya has it in another way: links of XDP programs.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// The beginning of `union bpf_attr` for BPF_LINK_CREATE (linux/bpf.h).
#[repr(C)]
#[derive(Default)]
struct LinkCreate {
    program: u32,
    device: u32,
    attach_type: u32,
    flags: u32,
}

/// In linux/bpf.h.
const BPF_LINK_CREATE: libc::c_long = 28;
const BPF_XDP: u32 = 37;

/// Attaches an XDP program to the device with that index in the way that `flags` say (`XDP_FLAGS_*`); it is
/// attached until the descriptor closes. Other than aya's, never by netlink: what is attached so stays
/// when the process is killed.
///
/// # Errors
/// EBUSY where a link has the device already, EEXIST where another program is on it or on a device above it,
/// EOPNOTSUPP where its driver runs no programs, EINVAL also before Linux 5.9.
pub fn link_xdp_program(program: BorrowedFd<'_>, device: u32, flags: u32) -> io::Result<OwnedFd> {
    let attributes = LinkCreate {
        program: program.as_raw_fd().cast_unsigned(),
        device,
        attach_type: BPF_XDP,
        flags,
    };
    let length = size_of::<LinkCreate>();
    // SAFETY: the kernel reads `length` bytes, which is the structure's size.
    let link = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_LINK_CREATE,
            &raw const attributes,
            length,
        )
    };
    if link < 0 {
        return Err(io::Error::last_os_error());
    }
    let link = libc::c_int::try_from(link).map_err(io::Error::other)?;
    // SAFETY: it was just opened and belongs to nothing else.
    Ok(unsafe { OwnedFd::from_raw_fd(link) })
}
