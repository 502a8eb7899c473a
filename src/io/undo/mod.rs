//! Changes to the host that are undone: settings, addresses and routes for `--setup`, the VIPs' routes.
//!
//! Each change is made and remembered in one step; what was so already is not remembered. Undoing goes
//! backwards, never stops at a failure, and leaves alone whatever was changed by others in between.
//!
//! The steps are kept in a file, too (`journal`), in a folder under `/run` (`folder`), so that a process
//! that was killed leaves nothing for good: the next one of the same network namespace (`namespace`), or
//! `tunlb undo`, undoes what it finds there (`leftover`). How one step is undone: `reverse`.
//!
//! A new kind of step is a variant of [`Step`], a method of [`Undo`] that makes it, and an arm in
//! `reverse`.

mod folder;
mod journal;
mod keeper;
mod leftover;
mod namespace;
mod neighbours;
mod probes;
mod reverse;
mod step;
mod tables;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;

use ipnet::IpNet;

use super::{
    netlink::{Address, Link, Netlink, NetlinkError, ProbeRoute, RouteQuery},
    sysctl::{Sysctl, SysctlError},
};
use crate::text::plain::Plain;
pub use folder::{Folder, FolderError, candidates as folders};
use keeper::Keeper;
pub use leftover::{Left, Leftovers, Living, find, recover};
pub use namespace::{is_the_first, mark as namespace_mark};
pub use reverse::Reversal;
use reverse::{Devices, reverse};
pub use step::{COPY_TABLES, Change, Device, LAST_RESORT_METRIC, Step};

/// Why a change could not be made or undone.
#[derive(Debug, thiserror::Error)]
pub enum UndoError {
    /// A setting.
    #[error(transparent)]
    Sysctl(#[from] SysctlError),
    /// An address, a route or a device.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// The device has another name now, or another device its index.
    #[error("device {index} was {} and is {} now", Plain(.before), Plain(.now))]
    Renamed {
        /// Its index.
        index: u32,
        /// Its name when the change was made.
        before: String,
        /// Its name now.
        now: String,
    },
}

/// The changes of this process; dropping it undoes them.
#[derive(Debug)]
pub struct Undo {
    netlink: Netlink,
    /// What was changed, in order.
    done: BTreeMap<u64, Step>,
    /// The number of the next step.
    next: u64,
    /// Where routes are in `done`; there may be thousands.
    routes: HashMap<RouteKey, u64>,
    /// Routes that were there before the first was added: one that is not ours must not get into the
    /// journal even for the moment until the kernel refuses it.
    foreign: HashMap<Option<u32>, HashSet<IpNet>>,
    /// Where proxy neighbour entries are in `done`, by device and address.
    neighbours: HashMap<(u32, IpAddr), u64>,
    /// Where routes for probes are in `done`.
    probes: HashMap<(u32, ProbeRoute), u64>,
    /// Steps of a killed process that was about to undo them.
    undoing: Vec<u64>,
    keeper: Keeper,
}

impl Undo {
    /// No changes yet, of the network namespace of this process. The journal's file is made with the
    /// first one.
    ///
    /// # Errors
    /// [`UndoError::Netlink`] where the socket cannot be opened.
    pub fn new() -> Result<Self, UndoError> {
        Self::kept_by(Keeper::new())
    }

    /// Takes over what a killed process left.
    fn adopt(&mut self, steps: BTreeMap<u64, Step>, undoing: Vec<u64>) {
        self.next = steps
            .keys()
            .next_back()
            .map_or(0, |last| last.saturating_add(1));
        self.done = steps;
        self.undoing = undoing;
    }

    fn kept_by(keeper: Keeper) -> Result<Self, UndoError> {
        Ok(Self {
            netlink: Netlink::open()?,
            done: BTreeMap::new(),
            next: 0,
            routes: HashMap::new(),
            foreign: HashMap::new(),
            neighbours: HashMap::new(),
            probes: HashMap::new(),
            undoing: Vec::new(),
            keeper,
        })
    }

    /// What was changed so far, in order.
    #[must_use]
    pub fn steps(&self) -> Vec<&Step> {
        self.done.values().collect()
    }

    /// Gives a setting a value.
    ///
    /// # Errors
    /// [`UndoError::Sysctl`]; [`UndoError::Netlink`] where devices cannot be listed.
    pub fn set_sysctl(&mut self, key: Sysctl, value: i32) -> Result<(), UndoError> {
        let before = key.read()?;
        if before == value {
            return Ok(());
        }
        let mut dependents = Vec::new();
        for (key, after) in key.dependents(value)? {
            if let Ok(before) = key.read() {
                let after = after.unwrap_or(before);
                dependents.push(self.change_of(key, before, after)?);
            } // else its device is gone
        }
        let change = self.change_of(key.clone(), before, value)?;
        let step = Step::Sysctl { change, dependents };
        self.make(step, |_| Ok(key.write(value)?))
    }

    /// Undoes the last change of a setting by this journal; one that it did not change is left as it is.
    ///
    /// # Errors
    /// [`UndoError::Sysctl`]; the change is then still in the journal.
    pub fn restore_sysctl(&mut self, key: &Sysctl) -> Result<(), UndoError> {
        let is_it = |step: &Step| matches!(step, Step::Sysctl { change, .. } if change.key == *key);
        let mut steps = self.done.iter().rev();
        match steps.find(|(_, step)| is_it(step)).map(|(id, _)| *id) {
            Some(id) => self.undo_one(id),
            None => Ok(()),
        }
    }

    /// Adds an address to a device, given by index and name. One that is there is kept.
    ///
    /// # Errors
    /// [`UndoError::Netlink`].
    pub fn add_address(&mut self, link: u32, device: &str, net: IpNet) -> Result<(), UndoError> {
        let addresses = self.netlink.addresses().unwrap_or_default(); // the kernel refuses it below
        if addresses.contains(&Address { link, net }) {
            return Ok(());
        }
        let device = named(link, device);
        let made = self.make(Step::Address { device, net }, |netlink| {
            Ok(netlink.add_address(link, net)?)
        });
        there_is_fine(made)
    }

    /// Adds a route through a device, given by index and name, to the main table. A route of the same prefix that leads there already is kept.
    ///
    /// # Errors
    /// [`UndoError::Netlink`]; [`NetlinkError::Exists`] where such a route leads elsewhere.
    pub fn add_route(&mut self, link: u32, device: &str, net: IpNet) -> Result<(), UndoError> {
        if self.has_foreign_route(Some(link), net) && self.leads_to(net.network(), link) {
            return Ok(());
        }
        let device = named(link, device);
        let made = self.make(Step::Route { device, net }, |netlink| {
            Ok(netlink.add_route(net, link)?)
        });
        match made {
            Err(UndoError::Netlink(NetlinkError::Exists { .. }))
                if self.leads_to(net.network(), link) =>
            {
                Ok(())
            }
            other => other,
        }
    }

    /// Adds a route that answers packets for `net` with "unreachable" where no better route is, as after
    /// the end of the process and its device. One that is there already, the operator's, is kept.
    ///
    /// # Errors
    /// [`UndoError::Netlink`].
    pub fn add_unreachable(&mut self, net: IpNet) -> Result<(), UndoError> {
        if self.has_foreign_route(None, net) {
            return Ok(());
        }
        let made = self.make(Step::Unreachable { net }, |netlink| {
            Ok(netlink.add_unreachable(net, LAST_RESORT_METRIC)?)
        });
        there_is_fine(made)
    }

    /// Undoes [`Undo::add_unreachable`]; any other route is left as it is.
    ///
    /// # Errors
    /// [`UndoError::Netlink`]; the route is then still in the journal.
    pub fn remove_unreachable(&mut self, net: IpNet) -> Result<(), UndoError> {
        self.undo_route((None, net))
    }

    /// Remembers the MTU, queue length and state of a device that was there, before they are changed.
    pub fn keep_link(&mut self, link: &Link) {
        let step = Step::Link {
            device: named(link.index, &link.name),
            mtu: link.mtu,
            queue_length: Some(link.queue_length),
            up: link.up,
        };
        let id = self.intend(step);
        if let Some(step) = self.done.get(&id) {
            log::debug!("will restore {step}");
        }
    }

    /// Undoes a route that this journal added; any other route is left as it is.
    ///
    /// # Errors
    /// [`UndoError::Netlink`]; the route is then still in the journal.
    pub fn remove_route(&mut self, link: u32, net: IpNet) -> Result<(), UndoError> {
        self.undo_route((Some(link), net))
    }

    /// Undoes everything; returns what could not be undone, and why.
    pub fn undo_all(&mut self) -> Vec<(Step, UndoError)> {
        self.undo_telling(&mut tell)
    }

    /// Undoes what brings packets to a process that is about to stop; the rest is for [`Undo::undo_all`],
    /// once no queue is open.
    pub fn undo_traffic(&mut self) -> Vec<(Step, UndoError)> {
        self.undo_where(|step| !step.outlasts_traffic(), &mut tell)
    }

    /// Undoes everything: the last change first, but what outlasts the traffic last. `told` hears of each.
    fn undo_telling(&mut self, told: &mut Told<'_>) -> Vec<(Step, UndoError)> {
        let mut failures = self.undo_where(|step| !step.outlasts_traffic(), told);
        failures.extend(self.undo_where(Step::outlasts_traffic, told));
        self.keeper.remove_if_settled();
        failures
    }

    fn undo_where(
        &mut self,
        chosen: impl Fn(&Step) -> bool,
        told: &mut Told<'_>,
    ) -> Vec<(Step, UndoError)> {
        let mut failures = Vec::new();
        let mut devices = Devices::default();
        let chosen = self.done.iter().rev().filter(|(_, step)| chosen(step));
        let ids: Vec<_> = chosen.map(|(id, _)| *id).collect();
        for id in ids {
            let Some(step) = self.take(id) else { continue };
            match self.undo(id, &step, &mut devices) {
                Ok(reversal) => {
                    self.keeper.undone(id);
                    told(&step, reversal);
                }
                Err(error) => {
                    self.keeper.failed();
                    failures.push((step, error));
                }
            }
        }
        failures
    }

    fn undo(&mut self, id: u64, step: &Step, devices: &mut Devices) -> Result<Reversal, UndoError> {
        let interrupted = self.undoing.contains(&id);
        if step.has_dependents() && !interrupted {
            self.keeper.undoing(id);
        }
        reverse(step, interrupted, devices, &mut self.netlink)
    }

    fn undo_route(&mut self, key: RouteKey) -> Result<(), UndoError> {
        let Some(&id) = self.routes.get(&key) else {
            return Ok(());
        };
        self.undo_one(id)?;
        self.keeper.shrink(&self.done);
        Ok(())
    }

    fn undo_one(&mut self, id: u64) -> Result<(), UndoError> {
        if let Some(step) = self.done.get(&id).cloned() {
            let reversal = self.undo(id, &step, &mut Devices::default())?;
            self.forget(id);
            tell(&step, reversal);
        }
        Ok(())
    }

    /// Makes a change that is in the journal before.
    fn make(
        &mut self,
        step: Step,
        change: impl FnOnce(&mut Netlink) -> Result<(), UndoError>,
    ) -> Result<(), UndoError> {
        let (made, level) = (step.made(), level(&step));
        let id = self.intend(step);
        match change(&mut self.netlink) {
            Ok(()) => log::log!(level, "{made}"),
            Err(error) => {
                self.forget(id);
                return Err(error);
            }
        }
        Ok(())
    }

    fn intend(&mut self, step: Step) -> u64 {
        let id = self.next;
        self.next += 1;
        self.keeper.make(id, &step);
        if let Some(key) = route_key(&step) {
            self.routes.insert(key, id);
        }
        if let Some(key) = neighbours::key(&step) {
            self.neighbours.insert(key, id);
        }
        if let Some(key) = probes::key(&step) {
            self.probes.insert(key, id);
        }
        self.done.insert(id, step);
        id
    }

    /// Strikes a step out that is undone, or was not made.
    fn forget(&mut self, id: u64) {
        if self.take(id).is_some() {
            self.keeper.undone(id);
        }
    }

    fn take(&mut self, id: u64) -> Option<Step> {
        let step = self.done.remove(&id)?;
        if let Some(key) = route_key(&step) {
            self.routes.remove(&key);
        }
        if let Some(key) = neighbours::key(&step) {
            self.neighbours.remove(&key);
        }
        if let Some(key) = probes::key(&step) {
            self.probes.remove(&key);
        }
        Some(step)
    }

    /// Where routes cannot be listed, the kernel's refusal has to do.
    fn has_foreign_route(&mut self, link: Option<u32>, net: IpNet) -> bool {
        let netlink = &mut self.netlink;
        let nets = self.foreign.entry(link).or_insert_with(|| {
            let nets = match link {
                Some(link) => netlink.routes_through(link),
                None => netlink.unreachable_routes(LAST_RESORT_METRIC),
            };
            nets.unwrap_or_default().into_iter().collect()
        });
        nets.contains(&net) && !self.routes.contains_key(&(link, net))
    }

    fn change_of(&mut self, key: Sysctl, before: i32, after: i32) -> Result<Change, UndoError> {
        let link = match key.device() {
            Some(device) => self.netlink.link(device)?.map(|link| link.index),
            None => None,
        };
        Ok(Change {
            key,
            link,
            before,
            after,
        })
    }

    fn leads_to(&mut self, address: IpAddr, link: u32) -> bool {
        self.netlink
            .route_to(address, RouteQuery::default())
            .is_ok_and(|route| route.oif == Some(link))
    }
}

impl Drop for Undo {
    fn drop(&mut self) {
        for (step, error) in self.undo_all() {
            log::warn!("cannot undo {step}: {error}; by hand: {}", step.by_hand());
        }
    }
}

/// What a route is found by: its device, none where it is an unreachable one; and what it is for.
type RouteKey = (Option<u32>, IpNet);

fn route_key(step: &Step) -> Option<RouteKey> {
    match step {
        Step::Route { device, net } => Some((Some(device.index), *net)),
        Step::Unreachable { net } => Some((None, *net)),
        Step::Sysctl { .. }
        | Step::Address { .. }
        | Step::ProbeRoute { .. }
        | Step::Neighbour { .. }
        | Step::Table { .. }
        | Step::Rule { .. }
        | Step::Link { .. } => None,
    }
}

/// Hears of each step that was undone.
type Told<'a> = dyn FnMut(&Step, Reversal) + 'a;

/// Tells the log what became of a step.
fn tell(step: &Step, reversal: Reversal) {
    match reversal {
        Reversal::Undone => log::log!(level(step), "{}", step.undone()),
        Reversal::Gone => log::debug!("gone already: {step}"),
        Reversal::Kept { now } => log::info!("kept {step}: it was set to {now} meanwhile"),
    }
}

const fn level(step: &Step) -> log::Level {
    if step.is_one_of_many() {
        log::Level::Debug
    } else {
        log::Level::Info
    }
}

fn named(index: u32, name: &str) -> Device {
    Device {
        index,
        name: name.to_owned(),
    }
}

fn there_is_fine(made: Result<(), UndoError>) -> Result<(), UndoError> {
    match made {
        Err(UndoError::Netlink(NetlinkError::Exists { .. })) => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::{Path, PathBuf};

    use super::*;
    use crate::io::testing::in_namespace;

    /// Every integer setting of IPv4 devices, and `ip_forward`.
    fn settings() -> BTreeMap<String, i32> {
        let keys = ["forwarding", "accept_redirects", "rp_filter", "arp_ignore"]
            .into_iter()
            .flat_map(|name| Sysctl::ipv4_conf_of_all(name).unwrap())
            .chain([Sysctl::ipv4_forward()]);
        keys.map(|key| (key.to_string(), key.read().unwrap()))
            .collect()
    }

    fn conf(device: &str, name: &'static str) -> Sysctl {
        Sysctl::ipv4_conf(device, name).unwrap()
    }

    #[test]
    fn forwarding_comes_back_exactly() {
        in_namespace("io::undo::tests::forwarding_comes_back_exactly_inside");
    }

    #[test]
    #[ignore = "run by forwarding_comes_back_exactly in a namespace of its own"]
    fn forwarding_comes_back_exactly_inside() {
        conf("lo", "forwarding").write(1).unwrap();
        conf("all", "accept_redirects").write(0).unwrap();
        let before = settings();
        let mut undo = Undo::new().unwrap();
        undo.set_sysctl(Sysctl::ipv4_forward(), 1).unwrap();
        undo.set_sysctl(conf("lo", "rp_filter"), 2).unwrap();
        undo.set_sysctl(conf("lo", "rp_filter"), 2).unwrap();
        assert_eq!(undo.steps().len(), 2, "the third call changed nothing");
        assert_eq!(conf("default", "forwarding").read().unwrap(), 1);
        assert!(undo.undo_all().is_empty());
        assert_eq!(settings(), before);
    }

    #[test]
    fn what_others_changed_is_kept() {
        in_namespace("io::undo::tests::what_others_changed_is_kept_inside");
    }

    #[test]
    #[ignore = "run by what_others_changed_is_kept in a namespace of its own"]
    fn what_others_changed_is_kept_inside() {
        conf("lo", "forwarding").write(1).unwrap();
        let mut undo = Undo::new().unwrap();
        undo.set_sysctl(Sysctl::ipv4_forward(), 1).unwrap();
        undo.set_sysctl(conf("lo", "arp_ignore"), 1).unwrap();
        conf("lo", "forwarding").write(0).unwrap();
        conf("lo", "arp_ignore").write(2).unwrap();
        drop(undo);
        assert_eq!(Sysctl::ipv4_forward().read().unwrap(), 0);
        assert_eq!(conf("lo", "forwarding").read().unwrap(), 0);
        assert_eq!(conf("lo", "arp_ignore").read().unwrap(), 2);
    }

    #[test]
    fn addresses_and_routes_come_and_go() {
        in_namespace("io::undo::tests::addresses_and_routes_come_and_go_inside");
    }

    #[test]
    #[ignore = "run by addresses_and_routes_come_and_go in a namespace of its own"]
    fn addresses_and_routes_come_and_go_inside() {
        let mut netlink = Netlink::open().unwrap();
        let lo = netlink.link("lo").unwrap().unwrap().index;
        netlink.set_up(lo).unwrap();
        assert!(netlink.link("lo").unwrap().unwrap().up);
        let before = netlink.addresses().unwrap();
        let vip = "10.0.0.100/32".parse().unwrap();
        let vip6 = "2001:db8::100/128".parse().unwrap();
        let mut undo = Undo::new().unwrap();
        undo.add_address(lo, "lo", vip).unwrap();
        undo.add_address(lo, "lo", vip).unwrap();
        undo.add_address(lo, "lo", vip6).unwrap();
        for net in ["10.9.0.0/16", "2001:db8:9::/48"] {
            undo.add_route(lo, "lo", net.parse().unwrap()).unwrap();
        }
        undo.add_route(lo, "lo", "10.9.0.0/16".parse().unwrap())
            .unwrap();
        assert_eq!(undo.steps().len(), 4);
        let now = netlink.addresses().unwrap();
        assert!(now.iter().any(|address| address.net == vip));
        assert!(now.iter().any(|address| address.net == vip6));
        netlink.remove_address(lo, vip).unwrap();
        assert!(
            undo.undo_all().is_empty(),
            "one that is gone already is fine"
        );
        assert_eq!(netlink.addresses().unwrap(), before);
    }

    /// A folder for journals in a namespace of the test's own.
    fn folder() -> PathBuf {
        let parent = tempfile::tempdir().unwrap();
        parent.keep().join("tunlb")
    }

    fn undo_in(folder: &Path) -> Undo {
        Undo::kept_by(Keeper::within(vec![folder.to_owned()])).unwrap()
    }

    /// What SIGKILL leaves: the journal, without its lock.
    fn kill(mut undo: Undo) {
        undo.done.clear();
        undo.keeper = Keeper::within(Vec::new());
    }

    fn journals(folder: &Path) -> Vec<PathBuf> {
        let entries = fs::read_dir(folder).into_iter().flatten();
        entries.map(|entry| entry.unwrap().path()).collect()
    }

    /// Undoes what is left in the folder; returns what could not be undone.
    fn undo_left(folder: &Path) -> Vec<(Step, UndoError)> {
        let found = leftover::find_in(&[folder.to_owned()]);
        assert!(found.unusable.is_empty(), "{:?}", found.unusable);
        let left = found.left.into_iter();
        left.flat_map(|left| left.undo(tell).unwrap()).collect()
    }

    fn lo(netlink: &mut Netlink) -> u32 {
        let lo = netlink.link("lo").unwrap().unwrap().index;
        netlink.set_up(lo).unwrap();
        lo
    }

    #[test]
    fn what_a_killed_process_left_comes_back() {
        in_namespace("io::undo::tests::what_a_killed_process_left_comes_back_inside");
    }

    #[test]
    #[ignore = "run by what_a_killed_process_left_comes_back in a namespace of its own"]
    fn what_a_killed_process_left_comes_back_inside() {
        let mut netlink = Netlink::open().unwrap();
        let lo = lo(&mut netlink);
        conf("lo", "forwarding").write(1).unwrap();
        conf("all", "accept_redirects").write(0).unwrap();
        let before = (settings(), netlink.addresses().unwrap());
        let folder = folder();
        let [vip, vip6]: [IpNet; 2] =
            ["10.0.0.100/32", "2001:db8::100/128"].map(|net| net.parse().unwrap());
        let mut undo = undo_in(&folder);
        undo.set_sysctl(Sysctl::ipv4_forward(), 1).unwrap();
        undo.add_address(lo, "lo", vip).unwrap();
        for net in [vip, vip6] {
            undo.add_unreachable(net).unwrap();
        }
        let living = leftover::find_in(std::slice::from_ref(&folder));
        assert_eq!((living.left.len(), living.living.len()), (0, 1));
        assert_eq!(living.living[0].pid, std::process::id());
        kill(undo);
        assert_eq!(undo_left(&folder).len(), 0);
        assert_eq!((settings(), netlink.addresses().unwrap()), before);
        assert_eq!(netlink.unreachable_routes(LAST_RESORT_METRIC).unwrap(), []);
        assert!(journals(&folder).is_empty());
    }

    #[test]
    fn a_restoration_that_was_interrupted_is_finished() {
        in_namespace("io::undo::tests::a_restoration_that_was_interrupted_is_finished_inside");
    }

    #[test]
    #[ignore = "run by a_restoration_that_was_interrupted_is_finished in a namespace of its own"]
    fn a_restoration_that_was_interrupted_is_finished_inside() {
        conf("lo", "forwarding").write(1).unwrap();
        let before = settings();
        let folder = folder();
        let mut undo = undo_in(&folder);
        undo.set_sysctl(Sysctl::ipv4_forward(), 1).unwrap();
        undo.keeper.undoing(0);
        Sysctl::ipv4_forward().write(0).unwrap();
        assert_eq!(conf("lo", "forwarding").read().unwrap(), 0);
        kill(undo);
        assert_eq!(undo_left(&folder).len(), 0);
        assert_eq!(settings(), before);
    }

    #[test]
    fn other_devices_of_the_name_or_index_are_left_alone() {
        in_namespace("io::undo::tests::other_devices_of_the_name_or_index_are_left_alone_inside");
    }

    #[test]
    #[ignore = "run by other_devices_of_the_name_or_index_are_left_alone in a namespace of its own"]
    fn other_devices_of_the_name_or_index_are_left_alone_inside() {
        let ip = |line: &str| {
            let status = std::process::Command::new("ip")
                .args(line.split(' '))
                .status();
            assert!(status.unwrap().success(), "{line}");
        };
        let folder = folder();
        let mut netlink = Netlink::open().unwrap();
        for device in ["again0", "renamed0"] {
            ip(&format!("tuntap add {device} mode tun"));
        }
        let mut undo = undo_in(&folder);
        for device in ["again0", "renamed0"] {
            undo.set_sysctl(conf(device, "rp_filter"), 2).unwrap();
        }
        kill(undo);
        ip("tuntap del again0 mode tun");
        ip("tuntap add again0 mode tun");
        ip("link set renamed0 name other0");
        conf("again0", "rp_filter").write(2).unwrap();
        let failures = undo_left(&folder);
        assert_eq!(failures.len(), 1);
        let text = failures[0].1.to_string();
        assert!(text.ends_with("was renamed0 and is other0 now"), "{text}");
        assert_eq!(conf("again0", "rp_filter").read().unwrap(), 2);
        assert_eq!(journals(&folder).len(), 1, "kept for another attempt");
        let index = netlink.link("other0").unwrap().unwrap().index;
        assert_eq!(netlink.link_at(index).unwrap().unwrap().name, "other0");
        ip("link set other0 name renamed0");
        assert_eq!(undo_left(&folder).len(), 0);
        assert_ne!(conf("renamed0", "rp_filter").read().unwrap(), 2);
        assert!(journals(&folder).is_empty());
    }

    #[test]
    fn an_operators_routes_and_addresses_never_get_into_the_journal() {
        in_namespace(
            "io::undo::tests::an_operators_routes_and_addresses_never_get_into_the_journal_inside",
        );
    }

    #[test]
    #[ignore = "run by an_operators_routes_and_addresses_never_get_into_the_journal in a namespace of its own"]
    fn an_operators_routes_and_addresses_never_get_into_the_journal_inside() {
        let mut netlink = Netlink::open().unwrap();
        let lo = lo(&mut netlink);
        let [net, net6]: [IpNet; 2] =
            ["10.0.0.100/32", "2001:db8::100/128"].map(|net| net.parse().unwrap());
        netlink.add_address(lo, net).unwrap();
        for net in [net, net6] {
            netlink.add_route(net, lo).unwrap();
            netlink.add_unreachable(net, LAST_RESORT_METRIC).unwrap();
        }
        let folder = folder();
        let mut undo = undo_in(&folder);
        undo.add_address(lo, "lo", net).unwrap();
        for net in [net, net6] {
            undo.add_unreachable(net).unwrap();
        }
        undo.add_route(lo, "lo", net6).unwrap();
        assert_eq!(undo.steps(), Vec::<&Step>::new());
        assert!(journals(&folder).is_empty(), "not even for a moment");
    }
}
