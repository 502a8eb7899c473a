//! Path MTU discovery for the tunnels (RFC 2003 §5.1, RFC 2473 §7.1): a thread of its own hears the
//! ICMP errors about outer packets and lowers the backend's MTU; the workers then tell clients.

use std::io;
use std::net::IpAddr;
use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use log::{debug, info, warn};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};

use super::published::Current;
use super::{SMALLEST_IPV6_MTU, Shared};
use crate::director::{BackendIndex, Snapshot, Timestamp};
use crate::io::icmp::PathMtuListener;
use crate::io::netlink::Netlink;
use crate::packet::{EncapKind, PathMtuError, Version};

/// What is learnt about paths, and when.
#[derive(Debug, Clone)]
pub(super) struct PathLearner {
    current: Current,
    epoch: Instant,
}

impl PathLearner {
    pub(super) fn new(shared: &Shared) -> Self {
        Self {
            current: Arc::clone(&shared.current),
            epoch: shared.epoch,
        }
    }

    /// Listens for errors until the process ends.
    ///
    /// # Errors
    /// The kernel's, above all a missing capability.
    pub(super) fn listen(self) -> io::Result<()> {
        let mut listeners = vec![PathMtuListener::open(Version::V4)?];
        match PathMtuListener::open(Version::V6) {
            Ok(listener) => listeners.push(listener),
            Err(error) => debug!("no path MTU errors of IPv6: {error}"),
        }
        let poll = Poll::new()?;
        for (token, listener) in listeners.iter().enumerate() {
            let mut source = SourceFd(&listener.as_raw_fd());
            poll.registry()
                .register(&mut source, Token(token), Interest::READABLE)?;
        }
        let body = move || {
            if let Err(error) = self.hear(poll, &mut listeners) {
                warn!("path MTU errors are no longer heard: {error}");
            }
        };
        thread::Builder::new()
            .name("tunlb-path-mtu".into())
            .spawn(body)?;
        Ok(())
    }

    fn hear(&self, mut poll: Poll, listeners: &mut [PathMtuListener]) -> io::Result<()> {
        let mut events = Events::with_capacity(2);
        loop {
            match poll.poll(&mut events, None) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
                _ => {}
            }
            for listener in listeners.iter_mut() {
                self.drain(listener)?;
            }
        }
    }

    fn drain(&self, listener: &mut PathMtuListener) -> io::Result<()> {
        loop {
            match listener.receive() {
                Ok(error) => self.learn(&error),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Lowers the MTU of the backend whose tunnel packet the error quotes, if it does.
    fn learn(&self, error: &PathMtuError) {
        let snapshot = &self.current.load().snapshot;
        for (index, backend) in snapshot.backends_at(error.quoted.destination) {
            if is_tunnel(error, backend.encap.kind()) {
                self.lower(snapshot, index, error.mtu);
            }
        }
    }

    /// The kernel refused a packet for this backend as too long: the device or the route has a
    /// smaller MTU than at the start.
    pub(super) fn ask_kernel(&self, backend: BackendIndex) {
        let snapshot = &self.current.load().snapshot;
        let Some(address) = snapshot.backend(backend).map(|backend| backend.address) else {
            return; // it left
        };
        let mtu =
            Netlink::open().and_then(|mut netlink| super::paths::mtu_to(address, &mut netlink));
        match mtu {
            Ok(Some(mtu)) => self.lower(snapshot, backend, mtu),
            Ok(None) => debug!("backend {address}: no route any more"),
            Err(error) => warn!("backend {address}: path MTU unknown: {error}"),
        }
    }

    fn lower(&self, snapshot: &Snapshot, backend: BackendIndex, mtu: u32) {
        let Some(address) = snapshot.backend(backend).map(|backend| backend.address) else {
            return;
        };
        let mtu = match address {
            IpAddr::V4(_) => mtu,
            IpAddr::V6(_) => mtu.max(SMALLEST_IPV6_MTU),
        };
        let now = Timestamp::after(self.epoch.elapsed());
        let mtus = snapshot.path_mtus();
        let before = mtus.of(backend, now);
        let holds = mtus.lower(backend, mtu, now);
        if before != Some(holds) {
            info!("backend {address}: path MTU {holds}, for ten minutes");
        }
    }
}

/// Whether the quoted packet can be one of a tunnel of this kind.
fn is_tunnel(error: &PathMtuError, kind: EncapKind) -> bool {
    match kind {
        EncapKind::Ipip => matches!(error.quoted.protocol, 4 | 41),
        EncapKind::Gue { port } => {
            error.quoted.protocol == 17
                && error.quoted.ports.is_some_and(|(_, to)| to == port.get())
        }
    }
}
