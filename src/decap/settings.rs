//! What the user asks of `tunlb decap`, checked before anything is opened.

use std::{net::IpAddr, num::NonZeroU16};

use ipnet::IpNet;

use crate::io::sysctl::is_device_name;

/// The TUN device where none is named.
pub const DEFAULT_TUN: &str = "decap0";

/// Whether the machine's settings are made right, or only looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Host {
    /// `--setup`: set what the tunnel needs, and undo it at the end.
    SetUp,
    /// Warn about what the tunnel lacks.
    Check,
}

/// What tunnel packets look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encapsulation {
    /// IP in IP: protocols 4 and 41, over IPv4 and IPv6, on raw sockets.
    Ipip,
    /// `--gue`: GUE to that UDP port, over IPv4 and IPv6.
    Gue(NonZeroU16),
}

/// Settings that are valid together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    vips: Vec<IpAddr>,
    directors: Vec<IpNet>,
    encapsulation: Encapsulation,
    tun: String,
    host: Host,
}

/// What is wrong with the user's wish.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// No VIP at all.
    #[error("--vip: at least one address is needed")]
    NoVip,
    /// An address that no service can have.
    #[error(
        "--vip {0}: not the address of one host (unspecified, loopback, multicast, broadcast or IPv4-mapped)"
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
        encapsulation: Encapsulation,
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
        if !is_device_name(&tun) {
            errors.push(SettingsError::Tun(tun.clone()));
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        Ok(Self {
            vips,
            directors,
            encapsulation,
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

    /// What tunnel packets look like.
    #[must_use]
    pub const fn encapsulation(&self) -> Encapsulation {
        self.encapsulation
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
    if !is_host(vip) {
        return Some(SettingsError::NotUnicast(vip));
    }
    earlier
        .contains(&vip)
        .then_some(SettingsError::Duplicate(vip))
}

const fn is_host(address: IpAddr) -> bool {
    let of_no_host = match address {
        IpAddr::V4(address) => address.is_broadcast(),
        IpAddr::V6(address) => address.to_ipv4_mapped().is_some(),
    };
    !(of_no_host || address.is_unspecified() || address.is_loopback() || address.is_multicast())
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
        Settings::new(
            vips,
            directors,
            Encapsulation::Ipip,
            tun.to_owned(),
            Host::Check,
        )
    }

    #[test]
    fn valid_settings() {
        let settings = settings(
            &["10.0.0.100", "2001:db8::100"],
            &["10.0.1.0/24", "2001:db8:1::/64"],
            "decap0",
        )
        .unwrap();
        assert_eq!(settings.vips().len(), 2);
        assert_eq!(settings.directors().len(), 2);
        assert_eq!(settings.tun(), "decap0");
    }

    #[test]
    fn every_problem_is_named() {
        let errors = settings(
            &[
                "10.0.0.100",
                "10.0.0.100",
                "127.0.0.1",
                "ff02::1",
                "::ffff:10.0.0.1",
            ],
            &[],
            "../decap0",
        )
        .unwrap_err();
        let texts: Vec<_> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                "--vip 10.0.0.100: given twice",
                "--vip 127.0.0.1: not the address of one host (unspecified, loopback, multicast, broadcast or IPv4-mapped)",
                "--vip ff02::1: not the address of one host (unspecified, loopback, multicast, broadcast or IPv4-mapped)",
                "--vip ::ffff:10.0.0.1: not the address of one host (unspecified, loopback, multicast, broadcast or IPv4-mapped)",
                "--tun \"../decap0\": not a device name (1 to 15 bytes, no slash, colon or space)",
            ]
        );
        assert_eq!(
            settings(&[], &[], "decap0"),
            Err(vec![SettingsError::NoVip])
        );
    }
}
