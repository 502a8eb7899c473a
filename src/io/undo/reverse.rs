//! How one step is undone: only where things still are as the step left them.

use std::collections::HashMap;

use super::UndoError;
use super::step::{Change, Device, LAST_RESORT_METRIC, Step};
use crate::io::netlink::{Address, Netlink, NetlinkError, ProxyNeighbour};
use crate::io::sysctl::Sysctl;
use crate::packet::Version;

/// What became of a step that was to be undone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reversal {
    /// It is as it was before.
    Undone,
    /// There was nothing to do: it was gone already, or had not been made yet.
    Gone,
    /// A setting has neither the value from before nor the one of the step.
    Kept {
        /// Its value.
        now: i32,
    },
}

/// Which devices are still those of the steps, each looked up once.
#[derive(Debug, Default)]
pub(super) struct Devices(HashMap<u32, Option<String>>);

impl Devices {
    /// Whether the device is still there under its index and name.
    fn has(&mut self, device: &Device, netlink: &mut Netlink) -> Result<bool, UndoError> {
        let Device { index, name } = device;
        if !self.0.contains_key(index) {
            let link = netlink.link_at(*index)?;
            self.0.insert(*index, link.map(|link| link.name));
        }
        match self.0.get(index).and_then(Option::as_ref) {
            None => Ok(false),
            Some(now) if now == name => Ok(true),
            Some(now) => Err(UndoError::Renamed {
                index: *index,
                before: name.clone(),
                now: now.clone(),
            }),
        }
    }

    fn has_that_of(&mut self, change: &Change, netlink: &mut Netlink) -> Result<bool, UndoError> {
        match (change.link, change.key.device()) {
            (Some(index), Some(name)) => {
                let name = name.to_owned();
                self.has(&Device { index, name }, netlink)
            }
            // The setting of a device whose index is not known: of none that was there.
            (None, Some(_)) => Ok(false),
            (_, None) => Ok(true),
        }
    }
}

/// Undoes a step; `interrupted` where a process ended while it did so.
pub(super) fn reverse(
    step: &Step,
    interrupted: bool,
    devices: &mut Devices,
    netlink: &mut Netlink,
) -> Result<Reversal, UndoError> {
    let there = match step {
        Step::Sysctl { change, .. } => devices.has_that_of(change, netlink)?,
        Step::Address { device, .. }
        | Step::Route { device, .. }
        | Step::ProbeRoute { device, .. }
        | Step::Neighbour { device, .. }
        | Step::Link { device, .. } => devices.has(device, netlink)?,
        Step::Unreachable { .. } | Step::Table { .. } | Step::Rule { .. } => true,
    };
    if !there {
        return Ok(Reversal::Gone);
    }
    match step {
        Step::Sysctl { change, dependents } => {
            restore(change, dependents, interrupted, devices, netlink)
        }
        Step::Address { device, net } => gone(netlink.remove_address(device.index, *net)),
        Step::Route { device, net } => gone(netlink.remove_route(*net, device.index)),
        Step::ProbeRoute { device, route } => gone(netlink.remove_probe_route(route, device.index)),
        Step::Neighbour { device, address } => {
            let (link, address) = (device.index, *address);
            gone(netlink.remove_proxy_neighbour(ProxyNeighbour { link, address }))
        }
        Step::Unreachable { net } => gone(netlink.remove_unreachable(*net, LAST_RESORT_METRIC)),
        Step::Table { version, table } => empty(netlink, (*version).into(), *table),
        Step::Rule {
            from,
            table,
            priority,
        } => gone(netlink.remove_rule_from(*from, *table, *priority)),
        Step::Link {
            device,
            mtu,
            queue_length,
            up,
        } => restore_link(device, *mtu, *queue_length, *up, netlink),
    }
}

/// Restores a setting and what hangs on it, each only where it still is as the change left it.
fn restore(
    change: &Change,
    dependents: &[Change],
    interrupted: bool,
    devices: &mut Devices,
    netlink: &mut Netlink,
) -> Result<Reversal, UndoError> {
    match change.key.read() {
        Ok(now) if now == change.after => {}
        Ok(now) if now == change.before && interrupted => {
            restore_cleared(change, dependents, devices, netlink)?;
            return Ok(Reversal::Undone);
        }
        Ok(now) if now == change.before => return Ok(Reversal::Gone),
        Ok(now) => return Ok(Reversal::Kept { now }),
        Err(error) if error.is_missing() => return Ok(Reversal::Gone),
        Err(error) => return Err(error.into()),
    }
    let mut wanted = Vec::new();
    for dependent in dependents {
        if devices.has_that_of(dependent, netlink).unwrap_or(false) {
            wanted.extend(wanted_value(dependent));
        }
    }
    if !write_back(change, netlink)? {
        let now = change.after;
        return Ok(Reversal::Kept { now });
    }
    for (key, value) in wanted {
        write_if_different(key, value)?;
    }
    Ok(Reversal::Undone)
}

/// Gives a setting its value from before; false where that would cost the device addresses that others gave
/// it meanwhile.
fn write_back(change: &Change, netlink: &mut Netlink) -> Result<bool, UndoError> {
    let (Some(shield), Some(link)) = (change.key.makes_addresses_unless(), change.link) else {
        change.key.write(change.before)?;
        return Ok(true);
    };
    let addresses = netlink.addresses()?;
    let of_link = |address: &Address| address.link == link && address.net.addr().is_ipv6();
    if addresses.iter().any(of_link) {
        return Ok(false);
    }
    let before = shield.read()?;
    shield.write(1)?;
    let written = change.key.write(change.before);
    shield.write(before)?;
    written?;
    Ok(true)
}

/// The rest of a restoration that ended behind the setting itself: dependents that the kernel gave a value
/// along with it get theirs.
fn restore_cleared(
    change: &Change,
    dependents: &[Change],
    devices: &mut Devices,
    netlink: &mut Netlink,
) -> Result<(), UndoError> {
    let cleared = change.key.dependents(change.before)?;
    let cleared: HashMap<_, _> = cleared.into_iter().collect();
    for dependent in dependents {
        let value = cleared.get(&dependent.key).copied().flatten();
        let now = dependent.key.read().ok();
        if now.is_some() && now == value && devices.has_that_of(dependent, netlink)? {
            write_if_different(&dependent.key, dependent.before)?;
        }
    }
    Ok(())
}

/// What a dependent setting shall be in the end: as before, or as it was set meanwhile.
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
        Err(error) if error.is_missing() => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn restore_link(
    device: &Device,
    mtu: u32,
    queue_length: Option<u32>,
    up: bool,
    netlink: &mut Netlink,
) -> Result<Reversal, UndoError> {
    netlink.set_mtu(device.index, mtu)?;
    if let Some(packets) = queue_length {
        netlink.set_queue_length(device.index, packets)?;
    }
    if up {
        netlink.set_up(device.index)?;
    } else {
        netlink.set_down(device.index)?;
    }
    Ok(Reversal::Undone)
}

/// Removes all routes of a table.
fn empty(netlink: &mut Netlink, version: Version, table: u32) -> Result<Reversal, UndoError> {
    let mut reversal = Reversal::Gone;
    for route in netlink.routes_of_table(version, table)? {
        if gone(netlink.remove_table_route(&route, table))? == Reversal::Undone {
            reversal = Reversal::Undone;
        }
    }
    Ok(reversal)
}

fn gone(result: Result<(), NetlinkError>) -> Result<Reversal, UndoError> {
    const GONE: [i32; 4] = [libc::ESRCH, libc::ENOENT, libc::EADDRNOTAVAIL, libc::ENODEV];
    match result {
        Ok(()) => Ok(Reversal::Undone),
        Err(error) if error.errno().is_some_and(|errno| GONE.contains(&errno)) => {
            Ok(Reversal::Gone)
        }
        Err(error) => Err(error.into()),
    }
}
