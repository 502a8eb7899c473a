//! What is examined on a backend, and the kernel's answers about it.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::{Encap, Observed, RouteAnswer};

/// A VIP under examination, seen from a backend.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// The VIP (V).
    pub vip: IpAddr,
    /// The service's port; none: any.
    pub port: Option<u16>,
    /// `tcp` or `udp`.
    pub protocol: String,
    /// The client (C).
    pub client: IpAddr,
    /// No client was named: `client` stands for one. Rows 15, 17 and 23 depend on the real one.
    pub client_is_assumed: bool,
    /// The director (D), the outer source.
    pub director: Option<IpAddr>,
    /// The tunnel.
    pub encap: Encap,
    /// Name of the device by which outer packets come in (E).
    pub physical: Option<String>,
    /// Name of the device out of which inner packets come (T).
    pub tunnel: Option<String>,
    /// `ip route get V`.
    pub vip_route: RouteAnswer,
    /// `ip route get V from C iif T`: the kernel's input path, rp_filter included.
    pub input: RouteAnswer,
    /// `ip route get C from V`, of this protocol and port.
    pub way_back: RouteAnswer,
    /// `ip route get C`.
    pub way_back_of_any: RouteAnswer,
    /// `input` with the mark that the filters give to what comes in.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub input_by_mark: BTreeMap<u32, RouteAnswer>,
    /// `way_back` with the mark that the answers have.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub way_back_by_mark: BTreeMap<u32, RouteAnswer>,
    /// `ip route get R from D iif DEVICE`, by the device's name: the kernel's input path for outer packets, on E and on
    /// others by which they may come in.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub outer_inputs: BTreeMap<String, RouteAnswer>,
    /// Where a rule sends the VIP's packets on to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub onward: Option<Onward>,
    /// The link-layer addresses of those who answered for the next hop of the way back, where the kernel did not ask
    /// for it just now.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hop_claims: Vec<String>,
    /// Processes of other network namespaces that listen on the VIP's port: pid and program.
    pub listeners_elsewhere: Observed<Vec<(u32, String)>>,
}

/// An address of another host, or of a container, that a rule sends the VIP's packets to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Onward {
    /// The address.
    pub address: IpAddr,
    /// The port; none: any.
    pub port: Option<u16>,
    /// `ip route get ADDRESS from C iif T`.
    pub route: RouteAnswer,
    /// Processes of other network namespaces that listen there: pid and program.
    pub listeners: Observed<Vec<(u32, String)>>,
}
