//! What an operator changed at run time, on top of the file: overrides of single keys of single backends.
//!
//! Rules: an override names exactly the keys that it sets. A reload keeps it, but for a key whose value in the
//! file changed since: there the file wins. It ends by itself where it was given a time, and when the operator
//! takes it back.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, SystemTime};

use crate::config::{Config, DEFAULT_WEIGHT};
use crate::director::{BackendSpec, BackendState, Health, VipSpec};
use crate::site::NAMED;

/// A backend of a VIP, by their names.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct BackendName {
    /// The VIP's.
    pub vip: String,
    /// Its address.
    pub address: IpAddr,
}

impl fmt::Display for BackendName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "vip {}: backend {}", self.vip, self.address)
    }
}

/// Who makes a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Author {
    /// Of the process.
    pub uid: u32,
    /// Where the machine knows it.
    pub user: Option<String>,
    /// Where the socket tells it.
    pub pid: Option<u32>,
}

impl fmt::Display for Author {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "uid {}", self.uid)?;
        match &self.user {
            Some(user) => write!(f, " ({user})"),
            None => Ok(()),
        }
    }
}

/// A key that is to be set, given back to the file, or left as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Edit<T> {
    /// As it is.
    #[default]
    Keep,
    /// The file's again.
    Clear,
    /// This.
    Set(T),
}

impl<T: Copy> Edit<T> {
    fn apply(self, before: Option<T>) -> Option<T> {
        match self {
            Self::Keep => before,
            Self::Clear => None,
            Self::Set(value) => Some(value),
        }
    }
}

/// A change of one backend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Which.
    pub backend: BackendName,
    /// What.
    pub action: Action,
    /// After that the file holds again.
    pub lasts: Option<Duration>,
    /// In the operator's words.
    pub reason: Option<String>,
    /// The generation that the change was made up for; refused for another one.
    pub if_generation: Option<u64>,
}

/// What is to become of a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Keys of one that is there.
    Edit(Edits),
    /// It is not in the file and joins.
    Add(Edits),
    /// It goes: as one that is not configured.
    Remove,
    /// All its overrides go.
    Clear,
}

/// What is edited of a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Edits {
    /// Its share.
    pub weight: Edit<u16>,
    /// What the operator wants of it.
    pub state: Edit<BackendState>,
    /// What it is taken for, whatever is measured.
    pub health: Edit<Health>,
}

/// What was changed of one backend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Override {
    /// Whether it is there although, or gone although, the file says otherwise.
    pub present: Option<bool>,
    /// Its share.
    pub weight: Option<u16>,
    /// What the operator wants of it.
    pub state: Option<BackendState>,
    /// What it is taken for.
    pub health: Option<Health>,
    /// When it was made.
    pub made: SystemTime,
    /// When it ends by itself.
    pub expires: Option<SystemTime>,
    /// Who made it.
    pub by: Author,
    /// Why.
    pub reason: Option<String>,
}

impl Override {
    /// Whether nothing is overridden any more.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.present.is_none()
            && self.weight.is_none()
            && self.state.is_none()
            && self.health.is_none()
    }
}

/// All overrides.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Overlay(BTreeMap<BackendName, Override>);

/// Why a change is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// No VIP has that name.
    #[error("there is no vip {vip:?}; there are: {}", .known.join(", "))]
    NoVip {
        /// The name.
        vip: String,
        /// Those there are, some of them.
        known: Vec<String>,
    },
    /// The VIP has no such backend.
    #[error("{0} does not exist; to add one: tunlb backend add")]
    NoBackend(BackendName),
    /// It is there.
    #[error("{0} exists already; to change it: tunlb backend set")]
    Exists(BackendName),
    /// It would leave its VIP without any.
    #[error("{0} is the VIP's last; disable it instead, or remove the VIP from the file")]
    Last(BackendName),
    /// The file alone holds for it.
    #[error("{0} has no override")]
    NoOverride(BackendName),
    /// A measured state by hand has to end.
    #[error("health is overridden for a time only: say for how long")]
    HealthForever,
    /// No result for it is taken from outside.
    #[error("{0} is not measured from outside; set kind = \"external\" in its vip's [vip.health]")]
    NotExternal(BackendName),
    /// The state that it was made for is no longer current.
    #[error(
        "generation is {now}, not {expected}: another change came in between; read the state again and retry"
    )]
    Stale {
        /// What the change says.
        expected: u64,
        /// What holds.
        now: u64,
    },
    /// The kernel, or what validation of a configuration refuses.
    #[error("{0}")]
    Refused(String),
}

impl Overlay {
    /// The overrides, in the order of VIPs' names and addresses.
    pub fn iter(&self) -> impl Iterator<Item = (&BackendName, &Override)> {
        self.0.iter()
    }

    /// How many backends have one.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether the file alone holds.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// That of a backend.
    #[must_use]
    pub fn of(&self, backend: &BackendName) -> Option<&Override> {
        self.0.get(backend)
    }

    /// When the first one ends by itself.
    #[must_use]
    pub fn next_end(&self) -> Option<SystemTime> {
        self.0.values().filter_map(|set| set.expires).min()
    }

    /// With what an operator changes now, where `file` is what the file says.
    ///
    /// # Errors
    /// [`ChangeError`] for what names nothing, or would leave a VIP without backends.
    pub fn changed(
        &self,
        file: &Config,
        change: &Change,
        by: &Author,
        now: SystemTime,
    ) -> Result<Self, ChangeError> {
        let name = &change.backend;
        let vip = vip_named(file, &name.vip)?;
        let in_file = configured(vip, name.address).is_some();
        let known = self.of(name);
        let is_there = known.and_then(|set| set.present).unwrap_or(in_file);
        let mut set = Override {
            present: known.and_then(|set| set.present),
            weight: known.and_then(|set| set.weight),
            state: known.and_then(|set| set.state),
            health: known.and_then(|set| set.health),
            made: now,
            expires: change.lasts.and_then(|lasts| now.checked_add(lasts)),
            by: by.clone(),
            reason: change.reason.clone(),
        };
        match change.action {
            Action::Edit(_) | Action::Remove if !is_there => {
                return Err(ChangeError::NoBackend(name.clone()));
            }
            Action::Add(_) if is_there => return Err(ChangeError::Exists(name.clone())),
            Action::Clear if known.is_none() => return Err(ChangeError::NoOverride(name.clone())),
            Action::Edit(edits) => set.edit(edits),
            Action::Add(edits) => {
                set = Override {
                    present: (!in_file).then_some(true),
                    weight: None,
                    state: None,
                    health: None,
                    ..set
                };
                set.edit(edits);
            }
            Action::Remove => {
                set = Override {
                    present: in_file.then_some(false),
                    weight: None,
                    state: None,
                    health: None,
                    ..set
                };
            }
            Action::Clear => set.clear(),
        }
        if set.health.is_some() && set.expires.is_none() {
            return Err(ChangeError::HealthForever);
        }
        let mut next = self.clone();
        if set.is_empty() {
            next.0.remove(name);
        } else {
            next.0.insert(name.clone(), set);
        }
        if next.backends(vip).is_empty() {
            return Err(ChangeError::Last(name.clone()));
        }
        Ok(next)
    }

    /// Without those that end by then, and which these are.
    #[must_use]
    pub fn expired(&self, now: SystemTime) -> (Self, Vec<BackendName>) {
        let ends = |set: &Override| set.expires.is_some_and(|at| at <= now);
        let (ended, rest): (BTreeMap<_, _>, _) =
            self.0.clone().into_iter().partition(|(_, set)| ends(set));
        (Self(rest), ended.into_keys().collect())
    }

    /// For a file that took the place of `before`: without the keys whose value in the file changed, and what
    /// ended thereby, one line each.
    #[must_use]
    pub fn rebased(&self, before: &Config, after: &Config) -> (Self, Vec<String>) {
        let mut ended = Vec::new();
        let mut rest = BTreeMap::new();
        for (name, set) in &self.0 {
            let mut kept = set.clone();
            let old = spec_of(before, name);
            let new = spec_of(after, name);
            if find(after, &name.vip).is_none() {
                ended.push(format!("{name}: the vip is not in the file any more"));
                continue;
            }
            if old.is_some() != new.is_some() {
                kept.clear();
            }
            if let (Some(old), Some(new)) = (old, new) {
                kept.weight = kept.weight.filter(|_| old.weight == new.weight);
                kept.state = kept.state.filter(|_| old.state == new.state);
            }
            let gone = set
                .keys()
                .filter(|key| !kept.keys().any(|left| left == *key));
            let gone: Vec<_> = gone.collect();
            if !gone.is_empty() {
                ended.push(format!("{name}: {} as in the file", gone.join(", ")));
            }
            if !kept.is_empty() {
                rest.insert(name.clone(), kept);
            }
        }
        (Self(rest), ended)
    }

    /// The configuration of the file with all overrides.
    #[must_use]
    pub fn applied(&self, file: &Config) -> Config {
        let mut config = file.clone();
        if self.is_empty() {
            return config;
        }
        for vip in &mut config.vips {
            if self.touches(&vip.name) {
                vip.backends = self.backends(vip);
            }
        }
        config
    }

    /// What is measured of a backend, as far as an operator says otherwise.
    #[must_use]
    pub fn health(&self, vip: &str, address: IpAddr) -> Option<Health> {
        if self.is_empty() {
            return None;
        }
        let vip = vip.to_owned();
        self.of(&BackendName { vip, address })?.health
    }

    fn touches(&self, vip: &str) -> bool {
        self.of_vip(vip).next().is_some()
    }

    fn of_vip<'a>(&'a self, vip: &'a str) -> impl Iterator<Item = (IpAddr, &'a Override)> {
        let first = BackendName {
            vip: vip.to_owned(),
            address: IpAddr::V4(Ipv4Addr::UNSPECIFIED), // the first of all
        };
        let from = self.0.range(first..);
        from.take_while(move |(name, _)| name.vip == vip)
            .map(|(name, set)| (name.address, set))
    }

    /// The backends of a VIP, as the file has it, with the overrides.
    fn backends(&self, vip: &VipSpec) -> Vec<BackendSpec> {
        let overridden: BTreeMap<_, _> = self.of_vip(&vip.name).collect();
        let listed = vip.backends.iter().cloned();
        let added = overridden
            .iter()
            .filter(|(_, set)| set.present == Some(true));
        let added = added.map(|(&address, _)| BackendSpec {
            address,
            weight: DEFAULT_WEIGHT,
            state: BackendState::Active,
        });
        let all = listed.chain(added);
        let all = all.filter_map(|backend| match overridden.get(&backend.address) {
            Some(set) if set.present == Some(false) => None,
            Some(set) => Some(BackendSpec {
                weight: set.weight.unwrap_or(backend.weight),
                state: set.state.unwrap_or(backend.state),
                ..backend
            }),
            None => Some(backend),
        });
        all.collect()
    }
}

impl Override {
    fn edit(&mut self, edits: Edits) {
        self.weight = edits.weight.apply(self.weight);
        self.state = edits.state.apply(self.state);
        self.health = edits.health.apply(self.health);
    }

    const fn clear(&mut self) {
        (self.present, self.weight, self.state, self.health) = (None, None, None, None);
    }

    /// The names of the keys that it sets.
    pub fn keys(&self) -> impl Iterator<Item = &'static str> {
        let keys = [
            self.present.map(|_| "presence"),
            self.weight.map(|_| "weight"),
            self.state.map(|_| "state"),
            self.health.map(|_| "health"),
        ];
        keys.into_iter().flatten()
    }
}

/// In a few words.
impl fmt::Display for Override {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [
            self.present
                .map(|there| if there { "added" } else { "removed" }.to_owned()),
            self.weight.map(|weight| format!("weight {weight}")),
            self.state.map(|state| state.to_string()),
            self.health
                .map(|health| format!("taken for {}", health_word(health))),
        ];
        let parts: Vec<_> = parts.into_iter().flatten().collect();
        f.write_str(&parts.join(", "))
    }
}

/// The word of the API.
#[must_use]
pub const fn health_word(health: Health) -> &'static str {
    match health {
        Health::Healthy | Health::Starting(_) => "up",
        Health::Unhealthy | Health::Doubtful => "down",
    }
}

fn find<'a>(config: &'a Config, vip: &str) -> Option<&'a VipSpec> {
    config.vips.iter().find(|spec| spec.name == vip)
}

fn configured(vip: &VipSpec, address: IpAddr) -> Option<&BackendSpec> {
    vip.backends
        .iter()
        .find(|backend| backend.address == address)
}

fn spec_of<'a>(config: &'a Config, name: &BackendName) -> Option<&'a BackendSpec> {
    configured(find(config, &name.vip)?, name.address)
}

fn vip_named<'a>(config: &'a Config, name: &str) -> Result<&'a VipSpec, ChangeError> {
    find(config, name).ok_or_else(|| ChangeError::NoVip {
        vip: name.to_owned(),
        known: config
            .vips
            .iter()
            .take(NAMED)
            .map(|vip| vip.name.clone())
            .collect(),
    })
}
