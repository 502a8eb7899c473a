//! Tells a segment where addresses are now, so that caches that say otherwise are put right: gratuitous
//! ARP and unsolicited neighbour advertisements, several times, beside everything else.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use log::warn;

use super::Subnet;
use super::ask::{BURST, PAUSE};
use super::socket::{FrameSocket, Protocol};
use crate::packet::neighbour;

/// A lost frame leaves a cache wrong for minutes: as often as keepalived tells it by default.
const ROUNDS: u32 = 5;
/// Between the beginnings of two rounds (RetransTimer of RFC 4861 §10).
const INTERVAL: Duration = Duration::from_secs(1);

/// What is announced, until it is [forgotten](Announcer::forget). Dropping it ends all announcements.
#[derive(Debug, Default)]
pub struct Announcer {
    held: Arc<Mutex<BTreeSet<(u32, IpAddr)>>>,
}

impl Announcer {
    /// Announces addresses of subnets, in the background.
    ///
    /// # Errors
    /// No thread or socket: the system's.
    pub fn announce(&self, addresses: Vec<(IpAddr, Subnet)>) -> io::Result<()> {
        let mut sockets = BTreeMap::new();
        for (address, subnet) in &addresses {
            if let Entry::Vacant(entry) = sockets.entry((subnet.link, Protocol::of(*address))) {
                let (link, protocol) = *entry.key();
                entry.insert(FrameSocket::sender(link, protocol)?);
            }
        }
        let keys = addresses
            .iter()
            .map(|(address, subnet)| (subnet.link, *address));
        let held = Arc::clone(&self.held);
        lock(&held).extend(keys);
        thread::Builder::new()
            .name("tunlb-announce".into())
            .spawn(move || announce_all(&addresses, &sockets, &held))?;
        Ok(())
    }

    /// Announces an address of that device no more.
    pub fn forget(&self, link: u32, address: IpAddr) {
        lock(&self.held).remove(&(link, address));
    }
}

impl Drop for Announcer {
    fn drop(&mut self) {
        lock(&self.held).clear();
    }
}

type Sockets = BTreeMap<(u32, Protocol), FrameSocket>;
type Held = Mutex<BTreeSet<(u32, IpAddr)>>;

fn lock(held: &Held) -> std::sync::MutexGuard<'_, BTreeSet<(u32, IpAddr)>> {
    held.lock().unwrap_or_else(PoisonError::into_inner)
}

fn announce_all(addresses: &[(IpAddr, Subnet)], sockets: &Sockets, held: &Held) {
    let mut failed = BTreeSet::new();
    for _ in 0..ROUNDS {
        let end = Instant::now() + INTERVAL;
        for burst in addresses.chunks(BURST) {
            // Locked over the burst: what is forgotten when the lock is free is not sent any more.
            let still = lock(held);
            let left =
                |(address, subnet): &&(IpAddr, Subnet)| still.contains(&(subnet.link, *address));
            for (address, subnet) in burst.iter().filter(left) {
                if let Err(error) = send(*address, subnet, sockets)
                    && failed.insert(subnet.link)
                {
                    warn!("{}: cannot announce {address}: {error}", subnet.device);
                }
            }
            drop(still);
            thread::sleep(PAUSE);
        }
        thread::sleep(end.saturating_duration_since(Instant::now()));
    }
}

fn send(address: IpAddr, subnet: &Subnet, sockets: &Sockets) -> io::Result<()> {
    let source = match subnet.source {
        Some(IpAddr::V6(source)) => Some(source),
        Some(IpAddr::V4(_)) | None => None,
    };
    for frame in neighbour::announcements(address, subnet.mac, source) {
        if let Some(socket) = sockets.get(&(subnet.link, Protocol::of(address))) {
            socket.send(&frame)?;
        }
    }
    Ok(())
}
