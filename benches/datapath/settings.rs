//! How the contenders that are tunlb are configured.

use std::path::PathBuf;

use crate::lab::{BACKENDS, PORT, VIP};

/// The configuration of one `tunlb run`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Settings {
    egress: &'static str,
    tunnel: Tunnel,
    /// Further lines of `[director]`.
    more: &'static str,
    /// Whether the API is at [`api_socket`].
    api: bool,
}

/// Where the API of a contender is whose API is asked.
pub(crate) fn api_socket() -> PathBuf {
    std::env::temp_dir().join(format!("tunlb-bench-{}.sock", std::process::id()))
}

#[derive(Debug, Clone, Copy)]
enum Tunnel {
    Ipip,
    /// To several backends. Whether the device towards them segments UDP, or the kernel before it.
    Gue(bool),
}

/// What an operator gets who configures nothing.
pub(crate) const DEFAULT: Settings = Settings::ipip("auto");

impl Settings {
    pub(crate) const fn ipip(egress: &'static str) -> Self {
        Self {
            egress,
            tunnel: Tunnel::Ipip,
            more: "",
            api: false,
        }
    }

    pub(crate) const fn gue(device_segments: bool) -> Self {
        Self {
            tunnel: Tunnel::Gue(device_segments),
            ..DEFAULT
        }
    }

    /// The queue that the kernel gives a TUN, as the naive loop has it.
    pub(crate) const fn short_queue() -> Self {
        Self {
            more: "queue_length = 500\n",
            ..DEFAULT
        }
    }

    /// In from the driver, and out to it.
    #[cfg(feature = "xdp")]
    pub(crate) const fn xsk_both_ways() -> Self {
        Self {
            more: "datapath = \"xsk\"\ninterface = \"d0\"\n",
            ..Self::ipip("xsk")
        }
    }

    pub(crate) const fn busy_poll() -> Self {
        Self {
            more: "busy_poll = \"50us\"\n",
            ..DEFAULT
        }
    }

    pub(crate) const fn with_api() -> Self {
        Self {
            api: true,
            ..DEFAULT
        }
    }

    pub(crate) const fn has_api(self) -> bool {
        self.api
    }

    /// Bytes of the outer header.
    pub(crate) const fn overhead(self) -> usize {
        match self.tunnel {
            Tunnel::Ipip => 20,
            Tunnel::Gue(_) => 28,
        }
    }

    /// Whether the device towards the sink is to segment UDP; `None` where that does not matter.
    pub(crate) const fn device_segments(self) -> Option<bool> {
        match self.tunnel {
            Tunnel::Ipip => None,
            Tunnel::Gue(on) => Some(on),
        }
    }

    /// The configuration file: the VIP's UDP and TCP.
    pub(crate) fn file(self) -> String {
        let Self { egress, more, .. } = self;
        let (encap, backends) = match self.tunnel {
            Tunnel::Ipip => ("ipip", &BACKENDS[..1]),
            Tunnel::Gue(_) => ("gue", &BACKENDS[..]),
        };
        let api = if self.api {
            format!("api = \"{}\"\n", api_socket().display())
        } else {
            String::new()
        };
        let mut file = format!(
            "[director]\ntun = \"tunlb0\"\negress = \"{egress}\"\n{more}{api}[director.encap]\nkind = \"{encap}\"\n"
        );
        for protocol in ["udp", "tcp"] {
            file += &format!(
                "[[vip]]\naddress = \"{VIP}\"\nport = {PORT}\nprotocol = \"{protocol}\"\n"
            );
            for backend in backends {
                file += &format!("[[vip.backend]]\naddress = \"{backend}\"\n");
            }
        }
        file
    }
}
