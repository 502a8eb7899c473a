//! The outside world: TUN, egress, netlink, sysctls. Knows packets, decides nothing about flows.

pub mod egress;
pub mod sys;
