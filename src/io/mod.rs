//! The machine: devices, sockets, netlink, sysctls. Knows packets, decides nothing about flows.

pub mod capability;
pub mod netlink;
pub mod sys;
pub mod sysctl;
pub mod tun;
pub mod undo;

#[cfg(test)]
mod testing;
