//! Changes to the machine that take themselves back: settings, addresses and routes for `--setup`.
//!
//! Each change is made and remembered in one step; what was so already is not remembered. Undoing goes
//! backwards, never stops at a failure, and leaves alone whatever somebody else changed in between.

use std::{fmt, io, net::IpAddr};

use ipnet::IpNet;

use super::{
    netlink::{Netlink, NetlinkError, RouteQuery},
    sysctl::{Sysctl, SysctlError},
};

/// Why a change could not be made or taken back.
#[derive(Debug, thiserror::Error)]
pub enum UndoError {
    /// A setting.
    #[error(transparent)]
    Sysctl(#[from] SysctlError),
    /// An address or a route.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
}

/// One change that was made; as text, a line for the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// A setting got another value.
    Sysctl {
        /// The setting itself.
        change: Change,
        /// Settings that the kernel changed along with it.
        dependents: Vec<Change>,
    },
    /// An address was added.
    Address {
        /// Index of the device.
        link: u32,
        /// Name of the device.
        device: String,
        /// The address.
        net: IpNet,
    },
    /// A route was added to the main table.
    Route {
        /// Index of the device.
        link: u32,
        /// Name of the device.
        device: String,
        /// What it leads to.
        net: IpNet,
    },
}

/// A setting's value before and after.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The setting.
    pub key: Sysctl,
    /// Its value before the change.
    pub before: i32,
    /// Its value after the change.
    pub after: i32,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sysctl { change, .. } => {
                write!(f, "{}: {} -> {}", change.key, change.before, change.after)
            }
            Self::Address { device, net, .. } => write!(f, "address {net} on {device}"),
            Self::Route { device, net, .. } => write!(f, "route {net} to {device}"),
        }
    }
}

/// The journal of changes; dropping it takes them back.
#[derive(Debug)]
pub struct Undo {
    netlink: Netlink,
    done: Vec<Step>,
}

impl Undo {
    /// An empty journal for the network namespace of this process.
    ///
    /// # Errors
    /// [`UndoError::Netlink`] where the socket cannot be opened.
    pub fn new() -> Result<Self, UndoError> {
        Ok(Self {
            netlink: Netlink::open()?,
            done: Vec::new(),
        })
    }

    /// What was changed so far, in order.
    #[must_use]
    pub fn steps(&self) -> &[Step] {
        &self.done
    }

    /// Gives a setting a value.
    ///
    /// # Errors
    /// [`UndoError::Sysctl`].
    pub fn set_sysctl(&mut self, key: Sysctl, value: i32) -> Result<(), UndoError> {
        let before = key.read()?;
        if before == value {
            return Ok(());
        }
        let dependents = values_of(key.dependents()?);
        key.write(value)?;
        self.record(Step::Sysctl {
            change: Change {
                key,
                before,
                after: value,
            },
            dependents: dependents.into_iter().filter_map(changed).collect(),
        });
        Ok(())
    }

    /// Adds an address to a device, given by index and name.
    ///
    /// # Errors
    /// [`UndoError::Netlink`].
    pub fn add_address(&mut self, link: u32, device: &str, net: IpNet) -> Result<(), UndoError> {
        match self.netlink.add_address(link, net) {
            Ok(()) => self.record(Step::Address {
                link,
                device: device.to_owned(),
                net,
            }),
            Err(NetlinkError::Exists { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// Adds a route through a device, given by index and name, to the main table, with an MTU of its
    /// own where one is given. A route of the same prefix that leads there already is kept.
    ///
    /// # Errors
    /// [`UndoError::Netlink`]; [`NetlinkError::Exists`] where such a route leads elsewhere.
    pub fn add_route(
        &mut self,
        link: u32,
        device: &str,
        net: IpNet,
        mtu: Option<u32>,
    ) -> Result<(), UndoError> {
        match self.netlink.add_route(net, link, mtu) {
            Ok(()) => self.record(Step::Route {
                link,
                device: device.to_owned(),
                net,
            }),
            Err(NetlinkError::Exists { .. }) if self.leads_to(net.network(), link) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// Gives a route that this journal added another MTU; any other route is left as it is.
    ///
    /// # Errors
    /// [`UndoError::Netlink`].
    pub fn set_route_mtu(&mut self, link: u32, net: IpNet, mtu: u32) -> Result<(), UndoError> {
        if self.position_of_route(link, net).is_some() {
            self.netlink.set_route_mtu(net, link, mtu)?;
        }
        Ok(())
    }

    /// Takes a route back that this journal added; any other route is left as it is.
    ///
    /// # Errors
    /// [`UndoError::Netlink`]; the route is then still in the journal.
    pub fn remove_route(&mut self, link: u32, net: IpNet) -> Result<(), UndoError> {
        if let Some(position) = self.position_of_route(link, net) {
            gone_is_fine(self.netlink.remove_route(net, link))?;
            let step = self.done.remove(position);
            log::log!(level(&step), "undone: {step}");
        }
        Ok(())
    }

    fn position_of_route(&self, link: u32, net: IpNet) -> Option<usize> {
        self.done.iter().position(
            |step| matches!(step, Step::Route { link: l, net: n, .. } if (*l, *n) == (link, net)),
        )
    }

    /// Takes everything back, the last change first; returns what could not be taken back, and why.
    pub fn undo_all(&mut self) -> Vec<(Step, UndoError)> {
        let mut failures = Vec::new();
        while let Some(step) = self.done.pop() {
            match self.undo(&step) {
                Ok(()) => log::log!(level(&step), "undone: {step}"),
                Err(error) => failures.push((step, error)),
            }
        }
        failures
    }

    fn record(&mut self, step: Step) {
        log::log!(level(&step), "setup: {step}");
        self.done.push(step);
    }

    fn leads_to(&mut self, address: IpAddr, link: u32) -> bool {
        self.netlink
            .route_to(address, RouteQuery::default())
            .is_ok_and(|route| route.oif == Some(link))
    }

    fn undo(&mut self, step: &Step) -> Result<(), UndoError> {
        match step {
            Step::Sysctl { change, dependents } => restore(change, dependents),
            Step::Address { link, net, .. } => {
                gone_is_fine(self.netlink.remove_address(*link, *net))
            }
            Step::Route { link, net, .. } => gone_is_fine(self.netlink.remove_route(*net, *link)),
        }
    }
}

impl Drop for Undo {
    fn drop(&mut self) {
        for (step, error) in self.undo_all() {
            log::warn!("not undone: {step}: {error}");
        }
    }
}

/// A director has a route for each of its VIPs, which may be thousands: too many lines for a log.
const fn level(step: &Step) -> log::Level {
    match step {
        Step::Sysctl { .. } | Step::Address { .. } => log::Level::Info,
        Step::Route { .. } => log::Level::Debug,
    }
}

/// Restores a setting and what hangs on it, each only where it still is as our change left it.
fn restore(change: &Change, dependents: &[Change]) -> Result<(), UndoError> {
    match change.key.read() {
        Ok(now) if now == change.after => {}
        Ok(_) => return Ok(()),
        Err(error) if is_gone(&error) => return Ok(()),
        Err(error) => return Err(error.into()),
    }
    let wanted: Vec<_> = dependents.iter().filter_map(wanted_value).collect();
    change.key.write(change.before)?;
    for (key, value) in wanted {
        write_if_different(key, value)?;
    }
    Ok(())
}

/// What a dependent setting shall be in the end: as before, or as somebody else set it meanwhile.
fn wanted_value(dependent: &Change) -> Option<(&Sysctl, i32)> {
    let now = dependent.key.read().ok()?; // its device is gone
    let value = if now == dependent.after {
        dependent.before
    } else {
        now
    };
    Some((&dependent.key, value))
}

fn write_if_different(key: &Sysctl, value: i32) -> Result<(), UndoError> {
    match key.read() {
        Ok(now) if now == value => Ok(()),
        Ok(_) => Ok(key.write(value)?),
        Err(error) if is_gone(&error) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// The value of each setting whose device still exists.
fn values_of(keys: Vec<Sysctl>) -> Vec<(Sysctl, i32)> {
    let value = |key: Sysctl| key.read().ok().map(|value| (key, value));
    keys.into_iter().filter_map(value).collect()
}

/// Every dependent is kept, also one that had the new value before: undoing changes it as well.
fn changed((key, before): (Sysctl, i32)) -> Option<Change> {
    let after = key.read().ok()?;
    Some(Change { key, before, after })
}

fn is_gone(error: &SysctlError) -> bool {
    matches!(error, SysctlError::Read { cause, .. } if cause.kind() == io::ErrorKind::NotFound)
}

fn gone_is_fine(result: Result<(), NetlinkError>) -> Result<(), UndoError> {
    const GONE: [i32; 3] = [libc::ESRCH, libc::EADDRNOTAVAIL, libc::ENODEV];
    match result {
        Err(error) if error.errno().is_some_and(|errno| GONE.contains(&errno)) => Ok(()),
        other => Ok(other?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::testing::in_namespace;
    use std::collections::BTreeMap;

    #[test]
    fn steps_as_text() {
        let change = Change {
            key: Sysctl::ipv4_forward(),
            before: 0,
            after: 1,
        };
        let step = Step::Sysctl {
            change,
            dependents: Vec::new(),
        };
        assert_eq!(step.to_string(), "net.ipv4.ip_forward: 0 -> 1");
        let step = Step::Address {
            link: 1,
            device: "lo".into(),
            net: "10.0.0.100/32".parse().unwrap(),
        };
        assert_eq!(step.to_string(), "address 10.0.0.100/32 on lo");
    }

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
            undo.add_route(lo, "lo", net.parse().unwrap(), None)
                .unwrap();
        }
        undo.add_route(lo, "lo", "10.9.0.0/16".parse().unwrap(), None)
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
}
