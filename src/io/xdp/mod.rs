//! Programs in the driver's hook (XDP): loaded from objects that `build.rs` compiled, attached to devices.
//!
//! Programs are loaded with aya and attached by a bpf_link, which goes with the process. A program that is
//! on a device already is never replaced.

mod attach;
mod decap;
mod director;
pub mod layout;
mod load;
mod map;
mod redirect;

pub use attach::{AttachError, Attached, Hook, attach};
pub use decap::{Admitted, DecapProgram};
pub use director::{
    DirectorProgram, FlowMaps, FlowPage, FlowPart, Loaded, MapCounts, MapTables, Sizes,
};
pub use load::{LoadError, load, load_program, program};
pub use map::MapFailure;
pub use redirect::{QueueSockets, Redirect, RedirectError, Service};

#[cfg(test)]
mod tests;
