//! Loading: what a kernel or a process lacks for it is said by name.

use std::io;

use aya::programs::{ProgramError, Xdp};
use aya::{Ebpf, EbpfError, EbpfLoader};

use crate::io::capability::{self, Capability, PrivilegeError};

/// Why a program cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A capability is missing.
    #[error("BPF programs: {0} (of the first user namespace)")]
    Privilege(#[from] PrivilegeError),
    /// The kernel refuses in spite of the capabilities.
    #[error(
        "the kernel lets this process load no BPF program ({0}): it is not in the first user namespace, as in \
         a container without privileges, or kernel lockdown forbids it"
    )]
    Refused(io::Error),
    /// The object is not taken: its maps cannot be made, or the kernel has no BPF.
    #[error("load BPF object: {0}")]
    Object(Box<EbpfError>),
    /// The verifier refuses, or the kernel has no XDP.
    #[error("load BPF program {name}: {cause}")]
    Program {
        /// The program.
        name: String,
        /// What aya says.
        cause: Box<ProgramError>,
    },
    /// A map cannot be mapped into memory.
    #[error("map BPF map {0}: {1}")]
    Map(String, io::Error),
    /// A map is of another shape than the director knows.
    #[error("BPF map: {0}")]
    Shape(#[from] aya::maps::MapError),
    /// A program or map that the object has is not in it.
    #[error("BPF object without {0}")]
    Lacks(String),
}

/// Makes the maps of an object, as `loader` says.
///
/// # Errors
/// Any [`LoadError`].
pub fn load(loader: &mut EbpfLoader<'_>, object: &[u8]) -> Result<Ebpf, LoadError> {
    capability::require(&[Capability::NetAdmin, Capability::Bpf])?;
    loader.load(object).map_err(|error| match refusal(&error) {
        Some(refusal) => LoadError::Refused(refusal),
        None => LoadError::Object(Box::new(error)),
    })
}

/// Loads the XDP program of that name into the kernel.
///
/// # Errors
/// Any [`LoadError`].
pub fn load_program<'a>(object: &'a mut Ebpf, name: &str) -> Result<&'a mut Xdp, LoadError> {
    let program = program(object, name)?;
    program.load().map_err(|cause| program_error(name, cause))?;
    Ok(program)
}

/// The XDP program of that name.
///
/// # Errors
/// [`LoadError::Lacks`], [`LoadError::Program`] where it is of another type.
pub fn program<'a>(object: &'a mut Ebpf, name: &str) -> Result<&'a mut Xdp, LoadError> {
    let program = object.program_mut(name);
    let program = program.ok_or_else(|| LoadError::Lacks(format!("program {name}")))?;
    program
        .try_into()
        .map_err(|cause| program_error(name, cause))
}

fn program_error(name: &str, cause: ProgramError) -> LoadError {
    LoadError::Program {
        name: name.to_owned(),
        cause: Box::new(cause),
    }
}

/// The EPERM behind an error, where that is what it is.
fn refusal(error: &(dyn std::error::Error + 'static)) -> Option<io::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        let found = error.downcast_ref::<io::Error>();
        if found.and_then(io::Error::raw_os_error) == Some(libc::EPERM) {
            return Some(io::Error::from_raw_os_error(libc::EPERM));
        }
        next = error.source();
    }
    None
}
