//! What the texts of the kernel and of other programs say, for who has the texts. The readers are those of
//! [`gather`](super); what is no line of theirs is left out, never an error.

use std::collections::{BTreeMap, BTreeSet};

use super::{counters, modules, offloads, sysctl_files};
use crate::doctor::facts::SysctlSetting;

/// Counters in tables such as `/proc/net/snmp`, and in lines such as `/proc/net/snmp6`.
#[must_use]
pub fn counters(tables: &str, lines: &str) -> BTreeMap<String, u64> {
    let mut all = counters::in_tables(tables);
    all.extend(counters::in_lines(lines));
    all
}

/// The settings of a file of sysctl.d(5).
#[must_use]
pub fn sysctl_settings(file: &str, text: &str) -> Vec<SysctlSetting> {
    sysctl_files::parse(file, text)
}

/// The features of a device, as `ethtool --show-features` prints them.
#[must_use]
pub fn offloads(text: &str) -> BTreeMap<String, bool> {
    offloads::parse(text)
}

/// The names of modules, as `modules.dep` and `modules.builtin` have them.
#[must_use]
pub fn modules(text: &str) -> BTreeSet<String> {
    modules::names(text)
}
