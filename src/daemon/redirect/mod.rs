//! `datapath = "xsk"`: packets for VIPs straight from the interfaces' drivers into sockets of the workers.
//!
//! Queues are shared out among the workers by turns. The services that are redirected follow what control
//! publishes; what is not redirected reaches the workers by the TUN, so that being late does no harm.

mod share;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, Result};
use log::{info, warn};

use crate::config::{Datapath, DirectorConfig, XdpMode};
use crate::director::{PortMatch, Snapshot};
use crate::io::xdp::{Hook, Redirect, RedirectError, Service};
pub(super) use share::Share;

/// The programs on all interfaces.
#[derive(Debug, Clone, Default)]
pub(super) struct Redirects(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    all: Vec<Redirect>,
    /// What was published last.
    services: Vec<Service>,
}

impl Redirects {
    /// Loads what the configuration asks for. Each worker gets a share of the sockets; nothing is redirected
    /// yet.
    pub(super) fn open(director: &DirectorConfig) -> Result<(Self, Vec<Share>)> {
        let workers = director.workers.get();
        let mut shares: Vec<_> = (0..workers).map(|_| Share::default()).collect();
        let mut state = State::default();
        if director.datapath == Datapath::Xsk {
            for device in director.interfaces.names() {
                let (redirect, sockets) = Redirect::open(device)
                    .context("datapath = \"xsk\"; with datapath = \"tun\" it does without")?;
                let queues = sockets.len();
                info!(
                    "interface {device}: AF_XDP sockets on {queues} queues for {workers} workers"
                );
                for socket in sockets {
                    let worker = socket.queue as usize % workers;
                    shares[worker].take(socket);
                }
                state.all.push(redirect);
            }
        }
        Ok((Self(Arc::new(Mutex::new(state))), shares))
    }

    /// Redirects packets for the VIPs of a snapshot.
    pub(super) fn begin(&self, director: &DirectorConfig, snapshot: &Snapshot) -> Result<()> {
        self.lock().follow(snapshot)?;
        for redirect in &mut self.lock().all {
            let attached = redirect.attach(hooks(director.xdp_mode))?;
            let (device, hook) = (&attached.device, attached.hook);
            info!("interface {device}: packets for VIPs by AF_XDP sockets, in {hook} mode");
        }
        Ok(())
    }

    /// Control has published another snapshot.
    pub(super) fn follow(&self, snapshot: &Snapshot) {
        if let Err(error) = self.lock().follow(snapshot) {
            warn!("{error}; packets for new VIPs go by the TUN");
        }
    }

    /// Redirects nothing any more.
    pub(super) fn end(&self) {
        self.lock().all.clear();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn follow(&mut self, snapshot: &Snapshot) -> Result<(), RedirectError> {
        if self.all.is_empty() {
            return Ok(());
        }
        let services: Vec<_> = snapshot
            .vips()
            .iter()
            .map(|vip| service(vip.service))
            .collect();
        if services == self.services {
            return Ok(());
        }
        let wanted: BTreeSet<_> = services.iter().copied().collect();
        for redirect in &mut self.all {
            redirect.follow(&wanted)?;
        }
        self.services = services;
        Ok(())
    }
}

fn service(service: crate::director::Service) -> Service {
    let port = match service.port {
        PortMatch::Any => None,
        PortMatch::Exact(port) => Some(port.get()),
    };
    (service.address, port, service.protocol.number())
}

const fn hooks(mode: XdpMode) -> &'static [Hook] {
    match mode {
        XdpMode::Auto => &[Hook::Native, Hook::Generic],
        XdpMode::Native => &[Hook::Native],
        XdpMode::Generic => &[Hook::Generic],
    }
}
