//! The machine: devices, sockets, netlink, sysctls. Knows packets, decides nothing about flows.

pub mod netlink;
pub mod sysctl;
pub mod undo;
