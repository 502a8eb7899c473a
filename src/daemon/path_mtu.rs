//! Path MTU discovery for the tunnels (RFC 2003 §5.1, RFC 2473 §7.1): a thread of its own hears the
//! ICMP errors about outer packets and lowers the backend's MTU; the workers then tell clients.
//!
//! Anybody can send such an error: which are believed is [`Snapshot::examine`]'s decision. Here is what bounds
//! the rest: how many are read, how often the kernel is asked, and how many lines are logged. And what the
//! kernel believed by itself is passed by: it examines less (an error that quotes an echo reply is enough for
//! Linux), and then refuses to send longer packets.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::os::fd::AsRawFd as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use log::{debug, info, warn};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};

use super::Shared;
use crate::control::published::Current;
use crate::director::{BackendIndex, Disbelief, PathMtus, Snapshot, Timestamp};
use crate::io::icmp::{LONGEST, PathMtuListener};
use crate::io::netlink::Netlink;
use crate::io::sys::{BATCH, ReceiveBatch};
use crate::packet::{PathMtuError, Version};
use crate::site::{MtuLimits, SMALLEST_IPV6_MTU};

/// A pause after each full batch of messages: 6400 a second are read at most. What a flood leaves no room for in the socket's queue
/// is lost; a packet that is still too long causes the next one.
const PAUSE: Duration = Duration::from_millis(10);

/// How long what the kernel has learnt is passed by: as long as it remembers
/// (`net.ipv4.route.mtu_expires`). Meanwhile it does not refuse what a changed route has no room for either.
const PASS_BY: Duration = Duration::from_secs(600);

/// The kernel is asked for one backend's route at most that often.
const ASK_INTERVAL: Duration = Duration::from_secs(1);

/// Changes of one backend's path that are logged in [`LOG_INTERVAL`]: a path has few links that each halve it.
const LOGGED_CHANGES: u32 = 4;
const LOG_INTERVAL: Duration = Duration::from_secs(600);

/// What is learnt about paths, and when.
#[derive(Debug, Clone)]
pub(super) struct PathLearner {
    current: Current,
    epoch: Instant,
    log: Arc<Mutex<ChangeLog>>,
    refused: Arc<AtomicU64>,
    pass_by: Arc<AtomicU64>,
}

impl PathLearner {
    pub(super) fn new(shared: &Shared) -> Self {
        Self {
            current: Arc::clone(&shared.current),
            epoch: shared.epoch,
            log: Arc::default(),
            refused: Arc::default(),
            pass_by: Arc::clone(&shared.pass_by),
        }
    }

    /// ICMP errors about packets to backends that were not believed.
    pub(super) fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
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
            if let Err(error) = self.hear(poll, &listeners) {
                warn!("stopped listening for path MTU errors: {error}");
            }
        };
        thread::Builder::new()
            .name("tunlb-path-mtu".into())
            .spawn(body)?;
        Ok(())
    }

    fn hear(&self, mut poll: Poll, listeners: &[PathMtuListener]) -> io::Result<()> {
        let mut batch = ReceiveBatch::new(BATCH, LONGEST);
        let mut events = Events::with_capacity(2);
        loop {
            match poll.poll(&mut events, None) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
                _ => {}
            }
            for listener in listeners {
                self.drain(listener, &mut batch)?;
            }
        }
    }

    fn drain(&self, listener: &PathMtuListener, batch: &mut ReceiveBatch) -> io::Result<()> {
        loop {
            match listener.receive(batch, |error| self.learn(error)) {
                Ok(BATCH..) => thread::sleep(PAUSE),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Lowers the MTU of the path to the backend whose tunnel packet the error quotes, if it does.
    fn learn(&self, error: &PathMtuError<'_>) {
        let current = self.current.load();
        let backend = error.quoted.quoted.destination;
        match current.snapshot.examine(error) {
            Ok(()) => {
                let mtu = PathMtus::believable(backend, error.mtu);
                self.lower(&current.snapshot, backend, mtu);
            }
            // The host's own business; and what `ask_kernel` is for.
            Err(Disbelief::NoBackend(_) | Disbelief::Own) => {}
            Err(reason) => {
                self.refused.fetch_add(1, Ordering::Relaxed);
                debug!("backend {backend}: an ICMP error about its path is not believed: {reason}");
            }
        }
    }

    /// The kernel refused a packet for this backend as too long: the device or the route has a
    /// smaller MTU than at the start.
    pub(super) fn ask_kernel(&self, backend: BackendIndex) {
        let current = self.current.load();
        let Some(address) = current
            .snapshot
            .backend(backend)
            .map(|backend| backend.address)
        else {
            return; // it left
        };
        if !self.log().may_ask(address, Instant::now()) {
            return;
        }
        let limits =
            Netlink::open().and_then(|mut netlink| crate::site::limits_to(address, &mut netlink));
        match limits {
            Ok(Some(limits)) => self.heed(&current.snapshot, address, limits),
            Ok(None) => debug!("backend {address}: no route any more"),
            Err(error) => warn!("backend {address}: path MTU unknown: {error}"),
        }
    }

    /// Whatever is configured, the kernel refuses longer packets; but IPv6 has its least. Where it was the
    /// learnt one that refused, the device's is no news.
    fn heed(&self, snapshot: &Snapshot, address: IpAddr, limits: MtuLimits) {
        let mut configured = limits.route.or(limits.device);
        if let Some(learnt) = limits.learnt {
            configured = limits.route;
            let until = Timestamp::after(self.epoch.elapsed() + PASS_BY);
            self.pass_by.store(until.as_nanos(), Ordering::Relaxed);
            let line = format!(
                "backend {address}: the kernel has learnt a path MTU of {learnt}, from no packet of a \
                 tunnel; passed by for ten minutes"
            );
            self.say(address, &line);
        }
        match configured {
            Some(mtu) if address.is_ipv6() => {
                self.lower(snapshot, address, mtu.max(SMALLEST_IPV6_MTU));
            }
            Some(mtu) => self.lower(snapshot, address, mtu),
            None => {}
        }
    }

    /// All VIPs' tunnels to one address have one path.
    fn lower(&self, snapshot: &Snapshot, address: IpAddr, mtu: u32) {
        let now = Timestamp::after(self.epoch.elapsed());
        let mtus = snapshot.path_mtus();
        let mut changed = None;
        for (index, _) in snapshot.backends_at(address) {
            let before = mtus.of(index, now);
            let holds = mtus.lower(index, mtu, now);
            if before != Some(holds) {
                changed = Some(holds);
            }
        }
        let Some(mtu) = changed else {
            return;
        };
        let line = format!("backend {address}: path MTU {mtu}, for ten minutes");
        self.say(address, &line);
    }

    fn say(&self, address: IpAddr, line: &str) {
        let place = self.log().change(address, Instant::now());
        match place {
            Logged::Said => info!("{line}"),
            Logged::Last => info!("{line}; further changes in the next ten minutes are not logged"),
            Logged::Unsaid => debug!("{line}"),
        }
    }

    fn log(&self) -> MutexGuard<'_, ChangeLog> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a change is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Logged {
    Said,
    /// And that no more are.
    Last,
    Unsaid,
}

/// What was logged and asked of each backend; as many entries as there are backends at most, since only
/// theirs are made, and those of one that left cost nothing worth a search.
#[derive(Debug, Default)]
struct ChangeLog {
    changes: HashMap<IpAddr, (Instant, u32)>,
    asked: HashMap<IpAddr, Instant>,
}

impl ChangeLog {
    fn change(&mut self, backend: IpAddr, now: Instant) -> Logged {
        let (since, lines) = self.changes.entry(backend).or_insert((now, 0));
        if now.duration_since(*since) >= LOG_INTERVAL {
            (*since, *lines) = (now, 0);
        }
        *lines = lines.saturating_add(1);
        match (*lines).cmp(&LOGGED_CHANGES) {
            std::cmp::Ordering::Less => Logged::Said,
            std::cmp::Ordering::Equal => Logged::Last,
            std::cmp::Ordering::Greater => Logged::Unsaid,
        }
    }

    fn may_ask(&mut self, backend: IpAddr, now: Instant) -> bool {
        let before = self.asked.get(&backend);
        let may = before.is_none_or(|asked| now.duration_since(*asked) >= ASK_INTERVAL);
        if may {
            self.asked.insert(backend, now);
        }
        may
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_changes_is_a_few_lines() {
        let (mut log, start) = (ChangeLog::default(), Instant::now());
        let (one, other) = ([10, 0, 1, 11].into(), [10, 0, 1, 12].into());
        let mut said =
            |backend, seconds: u64| log.change(backend, start + Duration::from_secs(seconds));
        for (backend, seconds, line) in [
            (one, 0, Logged::Said),
            (one, 0, Logged::Said),
            (one, 1, Logged::Said),
            (one, 1, Logged::Last),
            (one, 599, Logged::Unsaid),
            (other, 599, Logged::Said),
            (one, 600, Logged::Said),
        ] {
            assert_eq!(said(backend, seconds), line, "{backend} after {seconds} s");
        }
    }

    #[test]
    fn the_kernel_is_asked_once_a_second() {
        let (mut log, start) = (ChangeLog::default(), Instant::now());
        let mut may =
            |millis| log.may_ask([10, 0, 1, 11].into(), start + Duration::from_millis(millis));
        assert_eq!(
            [0, 500, 999, 1000, 1500].map(&mut may),
            [true, false, false, true, false]
        );
    }
}
