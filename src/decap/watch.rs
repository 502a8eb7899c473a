//! Keeps the host as the tunnel needs it, on a thread of its own, so that no packet waits for it.
//!
//! The kernel tells of addresses, devices and `rp_filter` as they change; the other settings are looked
//! at every few seconds. With `--setup` what was changed is set again, at once at first and less and less
//! often where another program does the same ([`Pace`]); without it a warning says what to do. The TUN
//! device is brought up again; when it is gone, the decapsulator ends.

use std::{
    collections::BTreeSet,
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::Sender,
    },
    thread,
    time::{Duration, Instant},
};

use hashbrown::{HashMap, HashSet};
use mio::{Events, Interest, Poll, Token, Waker};

use crate::{
    io::{
        netlink::{Departure, Drained, Event, Link, Monitor, Netlink, NetlinkError, Topic},
        undo::Undo,
    },
    text::Plain,
};

use super::{
    DecapError, DeviceLoss, Host, Settings,
    answers::AnswerRoutes,
    host::{self, Device},
    kernel_tunnel,
    lack::{Lack, Subject},
    pace::Pace,
    rival,
};

const CHANGES: Token = Token(0);
const STOP: Token = Token(1);

/// How often everything is looked at again, also what the kernel does not tell of.
const INTERVAL: Duration = Duration::from_secs(3);

/// Looks at a machine with thousands of devices take their time: at most a fiftieth of it.
const REST: u32 = 50;

/// Changes come in bursts; one look is for all of them.
const AT_MOST_EVERY: Duration = Duration::from_millis(20);

/// Routes change in bursts, too; meanwhile answers may go by one that is gone.
const SETTLING: Duration = Duration::from_millis(5);

/// As often as this within [`Pace`]'s memory, the device is brought up again; then something does not
/// want it up, and an operator has to know.
const MOST_TIMES_DOWN: u32 = 5;

/// What the engine hears from the watch.
#[derive(Debug, Clone)]
pub(super) struct Alarm {
    pub(super) sender: Sender<DecapError>,
    pub(super) waker: Arc<Waker>,
}

impl Alarm {
    pub(super) fn raise(&self, error: DecapError) {
        // Both fail only where the engine has ended already.
        self.sender.send(error).unwrap_or_default();
        self.waker.wake().unwrap_or_default();
    }
}

/// Ends the watch.
#[derive(Debug)]
pub(super) struct Stop {
    waker: Arc<Waker>,
    stopped: Arc<AtomicBool>,
}

impl Drop for Stop {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Relaxed);
        // The flag is seen at the next interval all the same.
        self.waker.wake().unwrap_or_default();
    }
}

/// What it watches for.
#[derive(Debug)]
pub(super) struct Subjects<'a> {
    pub(super) settings: &'a Settings,
    pub(super) tun: Device,
    /// The inodes of the own sockets.
    pub(super) own: BTreeSet<u64>,
    pub(super) undo: &'a mut Undo,
    /// Followed with `--setup`.
    pub(super) answers: AnswerRoutes,
    /// What the user was warned about already.
    pub(super) told: Vec<Lack>,
    pub(super) alarm: Alarm,
    /// Whether another decapsulator takes the same packets.
    pub(super) doubled: &'a AtomicBool,
}

/// Its sources of changes, open before anything is set, so that no change falls between.
#[derive(Debug)]
pub(super) struct Watch {
    poll: Poll,
    monitor: Monitor,
    netlink: Netlink,
    stopped: Arc<AtomicBool>,
    /// Of [`Stop`]: a waker that is dropped takes the event along that it has just made.
    waker: Arc<Waker>,
}

impl Watch {
    /// Opens it, and what ends it.
    ///
    /// # Errors
    /// [`DecapError::Netlink`], [`DecapError::Loop`].
    pub(super) fn open() -> Result<(Self, Stop), DecapError> {
        let mut monitor = Monitor::open(&[
            Topic::Addresses,
            Topic::Links,
            Topic::Settings,
            Topic::Routes,
        ])?;
        let netlink = Netlink::open()?;
        let mut open = || {
            let poll = Poll::new()?;
            let registry = poll.registry();
            registry.register(&mut monitor, CHANGES, Interest::READABLE)?;
            let waker = Arc::new(Waker::new(registry, STOP)?);
            Ok((poll, waker))
        };
        let (poll, waker) = open().map_err(|cause: io::Error| DecapError::Loop {
            operation: "open the watch",
            cause,
        })?;
        let stopped = Arc::new(AtomicBool::new(false));
        let stop = Stop {
            waker: Arc::clone(&waker),
            stopped: Arc::clone(&stopped),
        };
        let watch = Self {
            poll,
            monitor,
            netlink,
            stopped,
            waker,
        };
        Ok((watch, stop))
    }

    /// Watches until it is stopped, or the device is lost: then it raises the alarm.
    pub(super) fn follow(self, mut subjects: Subjects<'_>) {
        let Self {
            mut poll,
            monitor,
            netlink,
            stopped,
            waker: _waker,
        } = self;
        let now = Instant::now();
        let told = subjects.told.drain(..);
        let told = told.map(|lack| (lack.subject(), lack)).collect();
        let mut keeper = Keeper {
            subjects,
            monitor,
            netlink,
            paces: HashMap::default(),
            told,
            others: BTreeSet::new(),
            device: Pace::new(now),
            complained: false,
            look: now,
            follow: None,
        };
        if let Err(error) = keeper.run(&mut poll, &stopped) {
            keeper.subjects.alarm.raise(error);
        }
    }
}

/// The watch at work.
struct Keeper<'a> {
    subjects: Subjects<'a>,
    monitor: Monitor,
    netlink: Netlink,
    /// How often each thing was set again, or warned about.
    paces: HashMap<Subject, Pace, ahash::RandomState>,
    /// Without `--setup`: what was warned about and is not right yet.
    told: HashMap<Subject, Lack, ahash::RandomState>,
    /// Decapsulators that take the same packets, as text.
    others: BTreeSet<String>,
    /// How often the device was brought up again.
    device: Pace,
    /// Whether the last look failed.
    complained: bool,
    /// When to look again.
    look: Instant,
    /// When to follow changed routes, where nothing else is to be looked at.
    follow: Option<Instant>,
}

/// What the changes of one turn ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Concern {
    Nothing,
    Routes,
    Settings,
    Device,
}

impl Keeper<'_> {
    fn run(&mut self, poll: &mut Poll, stopped: &AtomicBool) -> Result<(), DecapError> {
        let mut events = Events::with_capacity(4);
        let mut last = Instant::now();
        while !stopped.load(Ordering::Relaxed) {
            let drained = self.hear(last)?;
            let now = Instant::now();
            if now >= self.look {
                self.check_device(now)?;
                last = now;
                self.look_around(now);
                continue; // changes may have come, its own among them
            }
            if self.follow.is_some_and(|follow| now >= follow) {
                self.follow_routes();
                continue;
            }
            let timeout = match drained {
                Drained::Empty => {
                    let next = self
                        .follow
                        .map_or(self.look, |follow| follow.min(self.look));
                    next.saturating_duration_since(now)
                }
                Drained::More => Duration::ZERO,
            };
            match poll.poll(&mut events, Some(timeout)) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => other.map_err(|cause| DecapError::Loop {
                    operation: "watch the host",
                    cause,
                })?,
            }
        }
        Ok(())
    }

    /// Reads what changed, and plans the next look by it.
    fn hear(&mut self, last: Instant) -> Result<Drained, DecapError> {
        let Subjects { settings, tun, .. } = &self.subjects;
        let (mut concern, mut departure) = (Concern::Nothing, None);
        let drained = self.monitor.drain(|event| {
            if let Event::LinkRemoved { index, to } = event
                && index == tun.index
            {
                departure = Some(to);
            }
            concern = concern.max(concern_of(&event, settings, tun));
        })?;
        if let Some(departure) = departure {
            return Err(self.lost(departure.into()));
        }
        match concern {
            Concern::Nothing => {}
            Concern::Routes => {
                self.follow.get_or_insert_with(|| Instant::now() + SETTLING);
            }
            Concern::Settings => self.look = self.look.min(last + AT_MOST_EVERY),
            Concern::Device => self.look = self.look.min(last),
        }
        Ok(drained)
    }

    /// The device as it is now: present, by which name, up.
    fn check_device(&mut self, now: Instant) -> Result<(), DecapError> {
        let tun = &mut self.subjects.tun;
        let Some(link) = self.netlink.link_at(tun.index)? else {
            return Err(self.gone());
        };
        if link.name != tun.name {
            log::warn!("{} is called {} now", Plain(&tun.name), Plain(&link.name));
            tun.name = link.name;
        }
        if link.up {
            return Ok(());
        }
        self.device.done(now);
        if self.device.times() > MOST_TIMES_DOWN {
            return Err(self.lost(DeviceLoss::Down {
                times: self.device.times(),
            }));
        }
        self.netlink
            .set_up(self.subjects.tun.index)
            .map_err(|cause| self.lost(DeviceLoss::StaysDown { cause }))?;
        let name = Plain(&self.subjects.tun.name);
        log::warn!("{name} was taken down by another program: up again");
        Ok(())
    }

    /// The kernel tells of the end of a device in several messages; the last one says what it was.
    fn gone(&mut self) -> DecapError {
        const LAST_MESSAGE: Duration = Duration::from_millis(200);
        let end = Instant::now() + LAST_MESSAGE;
        while Instant::now() < end {
            if let Err(error) = self.hear(end) {
                return error;
            }
            thread::sleep(Duration::from_millis(5));
        }
        self.lost(DeviceLoss::Gone)
    }

    fn lost(&self, what: DeviceLoss) -> DecapError {
        DecapError::DeviceLost {
            device: self.subjects.tun.name.clone(),
            what,
        }
    }

    /// Sets or tells what the tunnel lacks. A look that fails is not the end: the next one may not.
    fn look_around(&mut self, now: Instant) {
        let looked = self.find_lacks().and_then(|(links, lacks)| {
            self.others(&links)?;
            Ok(lacks)
        });
        self.look = Instant::now() + INTERVAL.max((Instant::now() - now) * REST);
        match looked {
            Ok(lacks) => {
                self.complained = false;
                match self.subjects.settings.host() {
                    Host::SetUp => {
                        self.set_again(&lacks, now);
                        self.follow_routes();
                    }
                    Host::Check => self.tell(&lacks, now),
                }
            }
            Err(error) if !self.complained => {
                log::warn!("the settings of this host cannot be watched: {error}");
                self.complained = true;
            }
            Err(_) => {}
        }
    }

    /// Makes the routes of answers what the main table is now.
    fn follow_routes(&mut self) {
        self.follow = None;
        let Subjects {
            settings,
            undo,
            answers,
            ..
        } = &mut self.subjects;
        if settings.host() != Host::SetUp {
            return;
        }
        match self.netlink.links_that_show() {
            Ok(links) => answers.follow(settings, &links, &mut self.netlink, undo),
            Err(error) => log::debug!("the routes of answers are not followed: {error}"),
        }
    }

    fn find_lacks(&mut self) -> Result<(Vec<Link>, Vec<Lack>), DecapError> {
        let links = self.netlink.links_that_show()?;
        let Subjects { settings, tun, .. } = &self.subjects;
        let lacks = host::lacks(settings, tun, &mut self.netlink, &links)?;
        Ok((links, lacks))
    }

    /// What was right at the start and is not any more was changed by another program.
    fn set_again(&mut self, lacks: &[Lack], now: Instant) {
        for lack in lacks {
            let pace = self.paces.entry(lack.subject());
            let pace = pace.or_insert_with(|| Pace::new(now));
            if now < pace.due() {
                self.look = self.look.min(pace.due());
                continue;
            }
            pace.done(now);
            let Subjects { tun, undo, .. } = &mut self.subjects;
            match host::set(lack, tun, &mut self.netlink, undo) {
                Ok(()) => log::warn!("{}; set right{}", lack.fault(), often(pace)),
                Err(error) => log::warn!("{}; {error}{}", lack.fault(), often(pace)),
            }
        }
        self.forget(now);
    }

    /// Each lack once, and when it is gone; less and less often where it comes and goes.
    fn tell(&mut self, lacks: &[Lack], now: Instant) {
        let present: HashSet<_, ahash::RandomState> = lacks.iter().map(Lack::subject).collect();
        for (_, lack) in self
            .told
            .extract_if(|subject, _| !present.contains(subject))
        {
            log::info!("no longer: {}", lack.fault());
        }
        let mut new = Vec::new();
        for lack in lacks {
            let subject = lack.subject();
            let pace = self.paces.entry(subject.clone());
            let pace = pace.or_insert_with(|| Pace::new(now));
            if self.told.contains_key(&subject) || now < pace.due() {
                continue;
            }
            pace.done(now);
            new.push(lack.clone());
            self.told.insert(subject, lack.clone());
        }
        host::warn(&new);
        self.forget(now);
    }

    /// Devices come and go; their paces must not stay for ever.
    fn forget(&mut self, now: Instant) {
        const MOST: usize = 1000;
        if self.paces.len() > MOST {
            self.paces.retain(|_, pace| now < pace.due());
        }
    }

    /// Decapsulators beside this one that came after it.
    fn others(&mut self, links: &[Link]) -> Result<(), NetlinkError> {
        let Subjects { settings, own, .. } = &self.subjects;
        let mut others: BTreeSet<_> = kernel_tunnel::overlapping(settings, links)
            .map(kernel_tunnel::described)
            .collect();
        others.extend(rival::find(settings, own)?.iter().map(ToString::to_string));
        for other in others.difference(&self.others) {
            log::error!(
                "{other}: each packet may reach the service twice; take it down or end it, or stop \
                 this tunlb decap"
            );
        }
        for gone in self.others.difference(&others) {
            log::info!("no longer: {gone}");
        }
        let doubled = !others.is_empty();
        self.subjects.doubled.store(doubled, Ordering::Relaxed);
        self.others = others;
        Ok(())
    }
}

/// What follows a line about something that was set again so often that it waits now.
fn often(pace: &Pace) -> String {
    let wait = pace.wait();
    if wait.is_zero() {
        return String::new();
    }
    format!(
        ", {} times now: another program changes it back, find and stop that one; next time not before \
         {} s have passed",
        pace.times(),
        wait.as_secs()
    )
}

fn concern_of(event: &Event, settings: &Settings, tun: &Device) -> Concern {
    match event {
        Event::AddressAdded(_) => Concern::Nothing,
        Event::AddressRemoved(address) => {
            let matters =
                address.link == tun.index || settings.vips().contains(&address.net.addr());
            if matters {
                Concern::Settings
            } else {
                Concern::Nothing
            }
        }
        Event::Link(link) if link.index == tun.index => Concern::Device,
        Event::Link(_) | Event::Settings => Concern::Settings,
        Event::Routes => Concern::Routes,
        Event::LinkRemoved { .. } => Concern::Settings,
        Event::Way | Event::Policy => Concern::Nothing,
        Event::Lost => Concern::Device,
    }
}

impl From<Departure> for DeviceLoss {
    fn from(departure: Departure) -> Self {
        match departure {
            Departure::Deleted => Self::Deleted,
            Departure::Moved => Self::Moved,
        }
    }
}
