//! The other end of a data path in drivers, for those who watch it.

use std::fmt;

use super::flows::{FlowChunk, FlowError, FlowRequest};

/// A data path in drivers: what it takes packets from, counts and remembers.
pub trait DriverWatch: fmt::Debug + Send + Sync {
    /// The interfaces, in the order of the configuration.
    fn interfaces(&self) -> &[DriverInterface];

    /// Packets by how they left, or why they went on to the kernel and so to the TUN.
    fn packets(&self) -> Vec<(&'static str, u64)>;

    /// Some of the flows that all data paths have together.
    ///
    /// # Errors
    /// [`FlowError`].
    fn list(&self, request: FlowRequest) -> Result<FlowChunk, FlowError>;
}

/// A device that packets are taken from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DriverInterface {
    /// Its name.
    pub name: String,
    /// "native" or "generic".
    pub mode: String,
}
