//! What the user asks of `tunlb decap`, checked before anything is opened.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;

use crate::io::sysctl::is_device_name;

/// Whether the machine's settings are made right, or only looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Host {
    /// `--setup`: set what the tunnel needs, and undo it at the end.
    SetUp,
    /// Warn about what the tunnel lacks.
    Check,
}

/// Settings that are valid together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    vips: Vec<IpAddr>,
    directors: Vec<IpNet>,
    tun: String,
    host: Host,
}

/// What is wrong with the user's wish.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// No VIP at all.
    #[error("--vip: at least one address is needed")]
    NoVip,
    /// IPv6.
    #[error("{flag} {value}: IPv6 is not supported yet; give an IPv4 address")]
    Ipv6 {
        /// The flag.
        flag: &'static str,
        /// Its value.
        value: String,
    },
    /// An address that no service can have.
    #[error(
        "--vip {0}: not the address of one host (unspecified, loopback, multicast or broadcast)"
    )]
    NotUnicast(IpAddr),
    /// The same VIP again.
    #[error("--vip {0}: given twice")]
    Duplicate(IpAddr),
    /// No device can have that name.
    #[error("--tun {0:?}: not a device name (1 to 15 bytes, no slash, colon or space)")]
    Tun(String),
}

impl Settings {
    /// Checks the user's wish; an empty list of directors admits any outer source.
    ///
    /// # Errors
    /// Every problem found, in the order of the arguments.
    pub fn new(
        vips: Vec<IpAddr>,
        directors: Vec<IpNet>,
        tun: String,
        host: Host,
    ) -> Result<Self, Vec<SettingsError>> {
        let mut errors = Vec::new();
        if vips.is_empty() {
            errors.push(SettingsError::NoVip);
        }
        for (position, vip) in vips.iter().enumerate() {
            errors.extend(vip_error(*vip, vips.get(..position).unwrap_or_default()));
        }
        for director in directors.iter().filter(|net| net.addr().is_ipv6()) {
            errors.push(SettingsError::Ipv6 {
                flag: "--director",
                value: director.to_string(),
            });
        }
        if !is_device_name(&tun) {
            errors.push(SettingsError::Tun(tun.clone()));
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        Ok(Self {
            vips,
            directors,
            tun,
            host,
        })
    }

    /// Inner destinations to accept; at least one, each once.
    #[must_use]
    pub fn vips(&self) -> &[IpAddr] {
        &self.vips
    }

    /// Outer sources to accept; empty: any.
    #[must_use]
    pub fn directors(&self) -> &[IpNet] {
        &self.directors
    }

    /// Name of the TUN device.
    #[must_use]
    pub fn tun(&self) -> &str {
        &self.tun
    }

    /// What to do about the machine's settings.
    #[must_use]
    pub const fn host(&self) -> Host {
        self.host
    }
}

fn vip_error(vip: IpAddr, earlier: &[IpAddr]) -> Option<SettingsError> {
    match vip {
        IpAddr::V6(address) => Some(SettingsError::Ipv6 {
            flag: "--vip",
            value: address.to_string(),
        }),
        IpAddr::V4(address) if !is_host(address) => Some(SettingsError::NotUnicast(vip)),
        IpAddr::V4(_) if earlier.contains(&vip) => Some(SettingsError::Duplicate(vip)),
        IpAddr::V4(_) => None,
    }
}

const fn is_host(address: Ipv4Addr) -> bool {
    !(address.is_unspecified()
        || address.is_loopback()
        || address.is_multicast()
        || address.is_broadcast())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(
        vips: &[&str],
        directors: &[&str],
        tun: &str,
    ) -> Result<Settings, Vec<SettingsError>> {
        let vips = vips.iter().map(|vip| vip.parse().unwrap()).collect();
        let directors = directors.iter().map(|net| net.parse().unwrap()).collect();
        Settings::new(vips, directors, tun.to_owned(), Host::Check)
    }

    #[test]
    fn valid_settings() {
        let settings = settings(&["10.0.0.100", "10.0.0.101"], &["10.0.1.0/24"], "decap0").unwrap();
        assert_eq!(settings.vips().len(), 2);
        assert_eq!(settings.tun(), "decap0");
    }

    #[test]
    fn every_problem_is_named() {
        let errors = settings(
            &["10.0.0.100", "10.0.0.100", "127.0.0.1", "2001:db8::1"],
            &["2001:db8::/32"],
            "../decap0",
        )
        .unwrap_err();
        let texts: Vec<_> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                "--vip 10.0.0.100: given twice",
                "--vip 127.0.0.1: not the address of one host (unspecified, loopback, multicast or broadcast)",
                "--vip 2001:db8::1: IPv6 is not supported yet; give an IPv4 address",
                "--director 2001:db8::/32: IPv6 is not supported yet; give an IPv4 address",
                "--tun \"../decap0\": not a device name (1 to 15 bytes, no slash, colon or space)",
            ]
        );
        assert_eq!(
            settings(&[], &[], "decap0"),
            Err(vec![SettingsError::NoVip])
        );
    }
}
