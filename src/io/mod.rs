//! The outside world: TUN, egress, netlink, sysctls, capture files, other
//! programs. Knows packets, decides nothing about flows.

pub mod capability;
pub mod capture;
pub mod command;
pub mod egress;
pub mod icmp;
pub mod netlink;
pub mod pcap;
pub mod sys;
pub mod sysctl;
pub mod tun;
pub mod undo;

#[cfg(test)]
pub(crate) mod testing;
