//! What sees packets beside packet filters, and is not evaluated but named; IPsec policies, which are.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// What sees packets beside packet filters.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layers {
    /// Programs and filters on devices.
    pub on_devices: Vec<DeviceLayer>,
    /// IPsec policies.
    pub ipsec: Vec<IpsecPolicy>,
}

/// A program or filter on a device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceLayer {
    /// Name of the device.
    pub device: String,
    /// Whether it sees what comes in or what leaves.
    pub sees: Sees,
    /// As its tool calls it: `tc filter … bpf`, `XDP program 17`, `bridge filter …`.
    pub text: String,
    /// Whether it is a program of tunlb, which takes what is for it and leaves the rest alone.
    #[serde(default)]
    pub own: bool,
    /// Of a queue that shapes or loses packets, which the client may still get its answer by: packets that it has sent
    /// on, dropped, and that wait.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue: Option<[u32; 3]>,
}

/// A direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sees {
    /// What comes in.
    Arrivals,
    /// What leaves.
    Departures,
}

/// An IPsec policy (ip-xfrm(8)).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IpsecPolicy {
    /// Its direction; policies for forwarded packets are left out.
    pub sees: Sees,
    /// Selected sources.
    pub source: IpNet,
    /// Selected destinations.
    pub destination: IpNet,
    /// It drops what it selects, or lets pass only what came by IPsec.
    pub stops_plain: bool,
    /// As `ip xfrm policy` writes it, in one line.
    pub text: String,
}
