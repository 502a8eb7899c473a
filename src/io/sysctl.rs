//! Kernel settings under `/proc/sys/net`, read and written by key.
//!
//! The keys that the project needs are integers. A key is a list of path components, never a dotted
//! string: a device name may hold dots (`eth0.100`), which sysctl(8) writes as slashes.

use std::{fmt, fs, io, path::PathBuf, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::text::{plain::Plain, shell};

/// The name of one integer setting, such as `net.ipv4.conf.eth0.rp_filter`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Sysctl {
    family: Family,
    folder: Folder,
    /// The part in the middle that names a device (or `all`, `default`), for settings per device.
    device: Option<String>,
    name: &'static str,
}

/// The protocol family whose settings a key belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Family {
    Ipv4,
    Ipv6,
}

impl Family {
    /// As a path component and as part of a key.
    const fn name(self) -> &'static str {
        match self {
            Self::Ipv4 => "ipv4",
            Self::Ipv6 => "ipv6",
        }
    }
}

/// Which of a device's settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Folder {
    /// Those of the protocol itself.
    Conf,
    /// Those of its neighbour table.
    Neigh,
}

impl Folder {
    /// As a path component and as part of a key.
    const fn name(self) -> &'static str {
        match self {
            Self::Conf => "conf",
            Self::Neigh => "neigh",
        }
    }
}

/// Why a setting could not be named, read or written.
#[derive(Debug, thiserror::Error)]
pub enum SysctlError {
    /// No device can have that name.
    #[error("sysctl of device {device:?}: not a device name")]
    Device {
        /// The name as given.
        device: String,
    },
    /// The setting could not be read.
    #[error("read sysctl {}: {cause}", Plain(key.to_string()))]
    Read {
        /// The setting.
        key: Sysctl,
        /// The system's error.
        cause: io::Error,
    },
    /// The setting holds something other than an integer.
    #[error("read sysctl {}: {text:?} is not an integer", Plain(key.to_string()))]
    NotAnInteger {
        /// The setting.
        key: Sysctl,
        /// What it holds.
        text: String,
    },
    /// The setting could not be written.
    #[error(
        "set sysctl {}: {cause}; as root: {}",
        Plain(key.to_string()),
        shell::line(&["sysctl", "-w", &format!("{key}={value}")])
    )]
    Write {
        /// The setting.
        key: Sysctl,
        /// The value wanted.
        value: i32,
        /// The system's error.
        cause: io::Error,
    },
    /// A text names no setting that tunlb changes.
    #[error("sysctl {0:?}: not one that tunlb changes")]
    Unknown(String),
}

impl SysctlError {
    /// Whether there is no such setting: its device is gone, or the kernel does not know it.
    #[must_use]
    pub fn is_missing(&self) -> bool {
        match self {
            Self::Read { cause, .. } | Self::Write { cause, .. } => {
                cause.kind() == io::ErrorKind::NotFound
            }
            Self::Device { .. } | Self::NotAnInteger { .. } | Self::Unknown(_) => false,
        }
    }
}

/// The settings per device that tunlb changes, and those that the kernel changes along with them: the
/// only ones that are read from a text.
const CHANGED: &[(Family, Folder, &[&str])] = &[
    (
        Family::Ipv4,
        Folder::Conf,
        &[
            "accept_local",
            "accept_redirects",
            "arp_announce",
            "arp_ignore",
            "forwarding",
            "proxy_arp",
            "rp_filter",
            "send_redirects",
            "src_valid_mark",
        ],
    ),
    (
        Family::Ipv6,
        Folder::Conf,
        &[
            "accept_ra",
            "addr_gen_mode",
            "disable_ipv6",
            "force_forwarding",
            "forwarding",
            "proxy_ndp",
        ],
    ),
    (Family::Ipv4, Folder::Neigh, &["proxy_delay"]),
    (Family::Ipv6, Folder::Neigh, &["proxy_delay"]),
];

impl Sysctl {
    /// `net.ipv4.ip_forward`: whether this machine forwards IPv4 packets.
    #[must_use]
    pub const fn ipv4_forward() -> Self {
        Self {
            family: Family::Ipv4,
            folder: Folder::Conf,
            device: None,
            name: "ip_forward",
        }
    }

    /// `net.ipv6.conf.all.forwarding`: whether this machine forwards IPv6 packets.
    #[must_use]
    pub fn ipv6_forward() -> Self {
        Self {
            family: Family::Ipv6,
            folder: Folder::Conf,
            device: Some("all".to_owned()),
            name: "forwarding",
        }
    }

    /// `net.ipv4.conf.DEVICE.NAME`; `device` may be `all` or `default`.
    ///
    /// # Errors
    /// [`SysctlError::Device`] where `device` cannot be the name of one.
    pub fn ipv4_conf(device: &str, name: &'static str) -> Result<Self, SysctlError> {
        Self::of_device(Family::Ipv4, Folder::Conf, device, name)
    }

    /// `net.ipv6.conf.DEVICE.NAME`; `device` may be `all` or `default`.
    ///
    /// # Errors
    /// [`SysctlError::Device`] where `device` cannot be the name of one.
    pub fn ipv6_conf(device: &str, name: &'static str) -> Result<Self, SysctlError> {
        Self::of_device(Family::Ipv6, Folder::Conf, device, name)
    }

    /// `net.ipv4.neigh.DEVICE.NAME`
    ///
    /// # Errors
    /// [`SysctlError::Device`] where `device` cannot be the name of one.
    pub fn ipv4_neigh(device: &str, name: &'static str) -> Result<Self, SysctlError> {
        Self::of_device(Family::Ipv4, Folder::Neigh, device, name)
    }

    /// `net.ipv6.neigh.DEVICE.NAME`
    ///
    /// # Errors
    /// [`SysctlError::Device`] where `device` cannot be the name of one.
    pub fn ipv6_neigh(device: &str, name: &'static str) -> Result<Self, SysctlError> {
        Self::of_device(Family::Ipv6, Folder::Neigh, device, name)
    }

    fn of_device(
        family: Family,
        folder: Folder,
        device: &str,
        name: &'static str,
    ) -> Result<Self, SysctlError> {
        if !is_device_name(device) {
            return Err(SysctlError::Device {
                device: device.to_owned(),
            });
        }
        Ok(Self {
            family,
            folder,
            device: Some(device.to_owned()),
            name,
        })
    }

    /// Every `net.ipv4.conf.*.NAME`, `all` and `default` included, in no order.
    ///
    /// # Errors
    /// [`SysctlError::Read`] where the settings cannot be listed.
    pub fn ipv4_conf_of_all(name: &'static str) -> Result<Vec<Self>, SysctlError> {
        Self::conf_of_all(Family::Ipv4, name)
    }

    fn conf_of_all(family: Family, name: &'static str) -> Result<Vec<Self>, SysctlError> {
        let key = Self {
            family,
            folder: Folder::Conf,
            device: Some("*".to_owned()),
            name,
        };
        let list = || {
            fs::read_dir(format!("/proc/sys/net/{}/conf", family.name()))?
                .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
                .collect::<io::Result<Vec<_>>>()
        };
        let devices = list().map_err(|cause| SysctlError::Read { key, cause })?;
        devices
            .iter()
            .map(|device| Self::of_device(family, Folder::Conf, device, name))
            .collect()
    }

    /// The value now.
    ///
    /// # Errors
    /// [`SysctlError::Read`] (not found where the device is gone) or [`SysctlError::NotAnInteger`].
    pub fn read(&self) -> Result<i32, SysctlError> {
        let text = fs::read_to_string(self.path()).map_err(|cause| SysctlError::Read {
            key: self.clone(),
            cause,
        })?;
        text.trim().parse().map_err(|_| SysctlError::NotAnInteger {
            key: self.clone(),
            text,
        })
    }

    /// Sets the value.
    ///
    /// # Errors
    /// [`SysctlError::Write`].
    pub fn write(&self, value: i32) -> Result<(), SysctlError> {
        // One write(2) of the whole value: /proc/sys refuses or ignores a second one.
        fs::write(self.path(), value.to_string()).map_err(|cause| SysctlError::Write {
            key: self.clone(),
            value,
            cause,
        })
    }

    /// The device whose setting it is; none for `all`, `default` and the whole host.
    #[must_use]
    pub fn device(&self) -> Option<&str> {
        let device = self.device.as_deref();
        device.filter(|device| !["all", "default"].contains(device))
    }

    /// For `addr_gen_mode`: `disable_ipv6` of the device. Writing the former makes the kernel give the device
    /// an address at once, also where it is down, but not while IPv6 is off on it
    /// (`addrconf_sysctl_addr_gen_mode`, linux/net/ipv6/addrconf.c).
    #[must_use]
    pub(super) fn makes_addresses_unless(&self) -> Option<Self> {
        let is_it = self.family == Family::Ipv6 && self.name == "addr_gen_mode";
        is_it.then(|| Self {
            name: "disable_ipv6",
            ..self.clone()
        })
    }

    /// The settings that writing `value` to this one, or undoing that, changes too; and the value that
    /// each gets by the writing, where it gets one.
    ///
    /// `ip_forward` sets `forwarding` of every device and of `default`, and turns `all.accept_redirects`
    /// over (`inet_forward_change`, linux/net/ipv4/devinet.c). It also switches large receive offload
    /// off for good, which is no setting under `/proc/sys`. For IPv6, `all.forwarding` sets
    /// `forwarding` of every device and of `default`, and 0 clears every `force_forwarding`
    /// (`addrconf_fixup_forwarding`, linux/net/ipv6/addrconf.c).
    ///
    /// # Errors
    /// [`SysctlError::Read`] where the settings cannot be listed.
    pub(super) fn dependents(&self, value: i32) -> Result<Vec<(Self, Option<i32>)>, SysctlError> {
        let all = |family, name, after: Option<i32>| -> Result<Vec<_>, SysctlError> {
            let keys = Self::conf_of_all(family, name)?.into_iter();
            // That of IPv4 is another name of ip_forward itself.
            let others = keys.filter(|key| key.device.as_deref() != Some("all"));
            Ok(others.map(|key| (key, after)).collect())
        };
        if *self == Self::ipv6_forward() {
            let mut keys = all(Family::Ipv6, "forwarding", Some(value))?;
            let cleared = (value == 0).then_some(0);
            keys.extend(all(Family::Ipv6, "force_forwarding", cleared)?);
            return Ok(keys);
        }
        if *self != Self::ipv4_forward() {
            return Ok(Vec::new());
        }
        let mut keys = all(Family::Ipv4, "forwarding", Some(value))?;
        let redirects = Self::ipv4_conf("all", "accept_redirects")?;
        keys.push((redirects, Some(i32::from(value == 0))));
        Ok(keys)
    }

    fn path(&self) -> PathBuf {
        let mut path = PathBuf::from("/proc/sys/net");
        path.push(self.family.name());
        if let Some(device) = &self.device {
            path.push(self.folder.name());
            path.push(device);
        }
        path.push(self.name);
        path
    }
}

/// As sysctl(8) takes it: dots between components, a dot inside a device name written as a slash.
impl fmt::Display for Sysctl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (family, folder, name) = (self.family.name(), self.folder.name(), self.name);
        match &self.device {
            Some(device) => {
                let device = device.replace('.', "/");
                write!(f, "net.{family}.{folder}.{device}.{name}")
            }
            None => write!(f, "net.{family}.{name}"),
        }
    }
}

/// The inverse of the text above, for the settings that tunlb changes.
impl FromStr for Sysctl {
    type Err = SysctlError;

    fn from_str(text: &str) -> Result<Self, SysctlError> {
        let unknown = || SysctlError::Unknown(text.to_owned());
        if text == "net.ipv4.ip_forward" {
            return Ok(Self::ipv4_forward());
        }
        let (family, folder, names, rest) = CHANGED
            .iter()
            .find_map(|(family, folder, names)| {
                let prefix = format!("net.{}.{}.", family.name(), folder.name());
                Some((*family, *folder, *names, text.strip_prefix(&prefix)?))
            })
            .ok_or_else(unknown)?;
        let (device, name) = rest.rsplit_once('.').ok_or_else(unknown)?;
        let name = names.iter().find(|known| **known == name);
        let name = name.ok_or_else(unknown)?;
        if device.contains('.') {
            return Err(unknown());
        }
        Self::of_device(family, folder, &device.replace('/', "."), name)
    }
}

impl Serialize for Sysctl {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Sysctl {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

/// What the kernel takes as the name of a device (`dev_valid_name`, linux/net/core/dev.c).
#[must_use]
pub fn is_device_name(name: &str) -> bool {
    let fits = !name.is_empty() && name.len() < libc::IFNAMSIZ;
    let odd = |byte: u8| byte == b'/' || byte == b':' || byte == 0 || is_c_space(byte);
    fits && name != "." && name != ".." && !name.bytes().any(odd)
}

/// The kernel's `isspace`, over Latin-1: it counts the no-break space too.
const fn is_c_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t'..=b'\r' | 0xa0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_as_path_and_as_text() {
        for (key, path, text) in [
            (
                Sysctl::ipv4_forward(),
                "/proc/sys/net/ipv4/ip_forward",
                "net.ipv4.ip_forward",
            ),
            (
                Sysctl::ipv4_conf("eth0", "rp_filter").unwrap(),
                "/proc/sys/net/ipv4/conf/eth0/rp_filter",
                "net.ipv4.conf.eth0.rp_filter",
            ),
            (
                Sysctl::ipv4_conf("eth0.100", "forwarding").unwrap(),
                "/proc/sys/net/ipv4/conf/eth0.100/forwarding",
                "net.ipv4.conf.eth0/100.forwarding",
            ),
            (
                Sysctl::ipv6_neigh("eth0.100", "proxy_delay").unwrap(),
                "/proc/sys/net/ipv6/neigh/eth0.100/proxy_delay",
                "net.ipv6.neigh.eth0/100.proxy_delay",
            ),
        ] {
            assert_eq!(key.path(), PathBuf::from(path));
            assert_eq!(key.to_string(), text);
        }
    }

    #[test]
    fn device_names_cannot_leave_the_folder() {
        for name in [
            "",
            ".",
            "..",
            "../all",
            "a/b",
            "eth 0",
            "eth0:1",
            "a\0b",
            "sixteen-bytes-xx",
        ] {
            assert!(
                matches!(
                    Sysctl::ipv4_conf(name, "rp_filter"),
                    Err(SysctlError::Device { .. })
                ),
                "{name:?}"
            );
        }
        for name in ["eth0.100", "fifteen-bytes-x", "...", "tun@x", "a*b"] {
            assert!(Sysctl::ipv4_conf(name, "rp_filter").is_ok(), "{name:?}");
        }
    }

    #[test]
    fn only_forwarding_has_dependents() {
        let ipv4 = |device, name| Sysctl::ipv4_conf(device, name).unwrap();
        let ipv6 = |device, name| Sysctl::ipv6_conf(device, name).unwrap();
        let keys = Sysctl::ipv4_forward().dependents(1).unwrap();
        assert!(keys.contains(&(ipv4("default", "forwarding"), Some(1))));
        assert!(keys.contains(&(ipv4("all", "accept_redirects"), Some(0))));
        assert!(
            keys.iter()
                .all(|(key, _)| *key != ipv4("all", "forwarding"))
        );
        let keys = Sysctl::ipv6_forward().dependents(1).unwrap();
        assert!(keys.contains(&(ipv6("lo", "forwarding"), Some(1))));
        assert!(keys.iter().all(|(key, _)| *key != Sysctl::ipv6_forward()));
        assert_eq!(ipv4("all", "rp_filter").dependents(1).unwrap(), []);
    }

    #[test]
    fn only_settings_that_tunlb_changes_are_read_from_a_text() {
        for key in [
            Sysctl::ipv4_forward(),
            Sysctl::ipv6_forward(),
            Sysctl::ipv4_conf("eth0.100", "rp_filter").unwrap(),
            Sysctl::ipv6_conf("a..b", "accept_ra").unwrap(),
            Sysctl::ipv4_neigh("eth0", "proxy_delay").unwrap(),
            Sysctl::ipv6_neigh("eth0.7", "proxy_delay").unwrap(),
        ] {
            assert_eq!(key.to_string().parse::<Sysctl>().unwrap(), key);
        }
        for text in [
            "",
            "net.ipv4.ip_forward2",
            "net.ipv4.tcp_syncookies",
            "net.ipv4.conf.rp_filter",
            "net.ipv4.conf..rp_filter",
            "net.ipv4.conf.eth0.100.rp_filter",
            "net.ipv4.conf.//.rp_filter",
            "net.ipv4.conf.eth0.accept_ra",
            "net.ipv6.conf.eth0.rp_filter",
            "net.ipv6.ip_forward",
            "net.ipv4.neigh.eth0.gc_stale_time",
            "net.ipv4.neigh.eth0.rp_filter",
            "net.ipv4.conf.eth0.proxy_delay",
            "kernel.modprobe",
        ] {
            assert!(text.parse::<Sysctl>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_missing_device_is_named() {
        let key = Sysctl::ipv4_conf("no-such-link", "rp_filter").unwrap();
        let text = key.read().unwrap_err().to_string();
        assert!(
            text.starts_with("read sysctl net.ipv4.conf.no-such-link.rp_filter: "),
            "{text}"
        );
        let text = key.write(1).unwrap_err().to_string();
        assert!(
            text.ends_with("sysctl -w net.ipv4.conf.no-such-link.rp_filter=1"),
            "{text}"
        );
    }

    #[test]
    fn every_conf_has_all_and_default() {
        let keys = Sysctl::ipv4_conf_of_all("forwarding").unwrap();
        for device in ["all", "default"] {
            let key = Sysctl::ipv4_conf(device, "forwarding").unwrap();
            assert!(keys.contains(&key));
        }
    }
}
