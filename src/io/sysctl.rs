//! Kernel settings under `/proc/sys/net`, read and written by key.
//!
//! The keys that the project needs are integers. A key is a list of path components, never a dotted
//! string: a device name may hold dots (`eth0.100`), which sysctl(8) writes as slashes.

use std::{fmt, fs, io, path::PathBuf};

/// The name of one integer setting, such as `net.ipv4.conf.eth0.rp_filter`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Sysctl {
    family: Family,
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
    #[error("read sysctl {key}: {cause}")]
    Read {
        /// The setting.
        key: Sysctl,
        /// The system's error.
        cause: io::Error,
    },
    /// The setting holds something other than an integer.
    #[error("read sysctl {key}: {text:?} is not an integer")]
    NotAnInteger {
        /// The setting.
        key: Sysctl,
        /// What it holds.
        text: String,
    },
    /// The setting could not be written.
    #[error("set sysctl {key}: {cause}; as root: sysctl -w {key}={value}")]
    Write {
        /// The setting.
        key: Sysctl,
        /// The value wanted.
        value: i32,
        /// The system's error.
        cause: io::Error,
    },
}

impl SysctlError {
    /// Whether there is no such setting: its device is gone.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        let (Self::Read { cause, .. } | Self::Write { cause, .. }) = self else {
            return false;
        };
        cause.kind() == io::ErrorKind::NotFound
    }
}

impl Sysctl {
    /// `net.ipv4.ip_forward`: whether this machine forwards IPv4 packets.
    #[must_use]
    pub const fn ipv4_forward() -> Self {
        Self {
            family: Family::Ipv4,
            device: None,
            name: "ip_forward",
        }
    }

    /// `net.ipv6.conf.all.forwarding`: whether this machine forwards IPv6 packets.
    #[must_use]
    pub fn ipv6_forward() -> Self {
        Self {
            family: Family::Ipv6,
            device: Some("all".to_owned()),
            name: "forwarding",
        }
    }

    /// `net.ipv4.conf.DEVICE.NAME`; `device` may be `all` or `default`.
    ///
    /// # Errors
    /// [`SysctlError::Device`] where `device` cannot be the name of one.
    pub fn ipv4_conf(device: &str, name: &'static str) -> Result<Self, SysctlError> {
        Self::conf(Family::Ipv4, device, name)
    }

    /// `net.ipv6.conf.DEVICE.NAME`; `device` may be `all` or `default`.
    ///
    /// # Errors
    /// [`SysctlError::Device`] where `device` cannot be the name of one.
    pub fn ipv6_conf(device: &str, name: &'static str) -> Result<Self, SysctlError> {
        Self::conf(Family::Ipv6, device, name)
    }

    fn conf(family: Family, device: &str, name: &'static str) -> Result<Self, SysctlError> {
        if !is_device_name(device) {
            return Err(SysctlError::Device {
                device: device.to_owned(),
            });
        }
        Ok(Self {
            family,
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
            .map(|device| Self::conf(family, device, name))
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

    /// The settings that a change of this one changes too.
    ///
    /// `ip_forward` sets `forwarding` of every device and of `default`, and turns `all.accept_redirects`
    /// over (`inet_forward_change`, linux/net/ipv4/devinet.c). It also switches large receive offload
    /// off for good, which is no setting under `/proc/sys`. For IPv6, `all.forwarding` sets
    /// `forwarding` of every device and of `default` (`addrconf_fixup_forwarding`,
    /// linux/net/ipv6/addrconf.c).
    ///
    /// # Errors
    /// [`SysctlError::Read`] where the settings cannot be listed.
    pub(super) fn dependents(&self) -> Result<Vec<Self>, SysctlError> {
        if *self == Self::ipv6_forward() {
            let mut keys = Self::conf_of_all(Family::Ipv6, "forwarding")?;
            keys.retain(|key| key != self);
            return Ok(keys);
        }
        if *self != Self::ipv4_forward() {
            return Ok(Vec::new());
        }
        let mut keys = Self::ipv4_conf_of_all("forwarding")?;
        let all = Self::ipv4_conf("all", "forwarding")?;
        keys.retain(|key| *key != all); // another name of ip_forward itself
        keys.push(Self::ipv4_conf("all", "accept_redirects")?);
        Ok(keys)
    }

    fn path(&self) -> PathBuf {
        let mut path = PathBuf::from("/proc/sys/net");
        path.push(self.family.name());
        if let Some(device) = &self.device {
            path.push("conf");
            path.push(device);
        }
        path.push(self.name);
        path
    }
}

/// As sysctl(8) takes it: dots between components, a dot inside a device name written as a slash.
impl fmt::Display for Sysctl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (family, name) = (self.family.name(), self.name);
        match &self.device {
            Some(device) => {
                let device = device.replace('.', "/");
                write!(f, "net.{family}.conf.{device}.{name}")
            }
            None => write!(f, "net.{family}.{name}"),
        }
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
        let keys = Sysctl::ipv4_forward().dependents().unwrap();
        assert!(keys.contains(&Sysctl::ipv4_conf("default", "forwarding").unwrap()));
        assert!(keys.contains(&Sysctl::ipv4_conf("all", "accept_redirects").unwrap()));
        assert!(!keys.contains(&Sysctl::ipv4_conf("all", "forwarding").unwrap()));
        let keys = Sysctl::ipv6_forward().dependents().unwrap();
        assert!(keys.contains(&Sysctl::ipv6_conf("lo", "forwarding").unwrap()));
        assert!(!keys.contains(&Sysctl::ipv6_forward()));
        let keys = Sysctl::ipv4_conf("all", "rp_filter").unwrap();
        assert_eq!(keys.dependents().unwrap(), []);
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
