//! The outside world: TUN, egress, netlink, sysctls, captures, tracing, other
//! programs. Knows packets, decides nothing about flows.

pub mod accounts;
pub mod capability;
pub mod capture;
pub mod command;
pub mod egress;
pub mod file;
pub mod icmp;
pub mod ingress;
pub mod netlink;
pub mod next_hop;
pub mod on_link;
pub mod packet_filter;
pub mod packet_socket;
pub mod pcap;
pub mod processes;
pub mod service_manager;
pub mod signals;
pub mod sockets;
pub mod sys;
pub mod sysctl;
pub mod tracing;
pub mod tun;
pub mod undo;
pub mod usage;
#[cfg(feature = "xdp")]
pub mod xdp;

#[cfg(test)]
pub(crate) mod testing;
