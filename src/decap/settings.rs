//! What the user asks of `tunlb decap`, checked before anything is opened.

use std::{
    net::IpAddr,
    num::{NonZeroU16, NonZeroUsize},
    thread,
};

use ipnet::IpNet;

use crate::{io::sysctl::is_device_name, text::Plain};

/// The TUN device where none is named.
pub const DEFAULT_TUN: &str = "decap0";

/// As many queues as the TUN driver opens (`MAX_TAP_QUEUES`, linux/drivers/net/tun.c).
const MOST_WORKERS: usize = 256;

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
    workers: NonZeroUsize,
    interfaces: Vec<String>,
}

/// What is wrong with the user's wish.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// No VIP at all.
    #[error("--vip: at least one address is needed")]
    NoVip,
    /// An address that no service can have.
    #[error(
        "--vip {0}: not the address of one host (unspecified, loopback, multicast, broadcast or \
         IPv4-mapped); give the address that clients connect to"
    )]
    NotUnicast(IpAddr),
    /// The same VIP again.
    #[error("--vip {0}: given twice; leave one of them out")]
    Duplicate(IpAddr),
    /// No device can have that name.
    #[error(
        "--tun {}: not a device name (1 to 15 bytes, no slash, colon, percent sign or space, not \
         \"all\" or \"default\"); choose one such as {DEFAULT_TUN}", Plain(.0)
    )]
    Tun(String),
}

/// Reads a VIP.
///
/// # Errors
/// What to write instead.
pub fn parse_vip(text: &str) -> Result<IpAddr, String> {
    text.parse().map_err(|_| match bare_address(text) {
        Some(address) => format!("only the address is given here: {address}"),
        None if text.contains(',') => "one address; repeat --vip for several".to_owned(),
        None => "not an address such as 203.0.113.10 or 2001:db8::10; names are not looked up"
            .to_owned(),
    })
}

/// Reads the address of a director, or a network of directors.
///
/// # Errors
/// What to write instead.
pub fn parse_network(text: &str) -> Result<IpNet, String> {
    let address = || text.parse::<IpAddr>().map(IpNet::from);
    let net: Option<IpNet> = text.parse().ok().or_else(|| address().ok());
    match net {
        Some(IpNet::V6(net)) if net.addr().to_ipv4_mapped().is_some() => Err(format!(
            "outer packets show an IPv4 address: {}",
            net.addr().to_canonical()
        )),
        Some(net) => Ok(net),
        None => Err(match bare_address(text) {
            Some(address) if text.contains('/') && !text.contains(':') => format!(
                "a network has a prefix length of at most {}: {address}/{0}",
                IpNet::from(address).max_prefix_len()
            ),
            Some(address) => format!("only the address is given here: {address}"),
            None if text.contains(',') => "one address or network; repeat --director for several".to_owned(),
            None => "not an address or a network such as 10.0.1.2 or 10.0.1.0/24; names are not looked up"
                .to_owned(),
        }),
    }
}

/// Reads a UDP port.
///
/// # Errors
/// What to write instead.
pub fn parse_gue(text: &str) -> Result<NonZeroU16, String> {
    text.parse()
        .map_err(|_| "not a UDP port (1 to 65535) such as 6080".to_owned())
}

/// Reads a number of workers.
///
/// # Errors
/// What to write instead.
pub fn parse_workers(text: &str) -> Result<NonZeroUsize, String> {
    let available = || thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let number = match text {
        "auto" => Some(available().min(MOST_WORKERS)),
        _ => text.parse().ok().filter(|number| *number <= MOST_WORKERS),
    };
    number
        .and_then(NonZeroUsize::new)
        .ok_or_else(|| format!("not a number of threads (1 to {MOST_WORKERS}) or \"auto\""))
}

/// The address in a text that has more than that: brackets, a prefix length, a port, a protocol, a zone.
fn bare_address(text: &str) -> Option<IpAddr> {
    let (text, _) = text.split_once(['/', '%']).unwrap_or((text, ""));
    let inside = text.strip_prefix('[');
    let inside = inside.and_then(|rest| Some(rest.split_once(']')?.0));
    let before_port = text.rsplit_once(':').map_or(text, |(address, _)| address);
    let candidates = [inside.unwrap_or(text), before_port];
    candidates.iter().find_map(|text| text.parse().ok())
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
        if !can_be_made(&tun) {
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
            workers: NonZeroUsize::MIN,
            interfaces: Vec::new(),
        })
    }

    /// With programs in the drivers of these devices; none otherwise.
    #[must_use]
    pub fn with_interfaces(mut self, interfaces: Vec<String>) -> Self {
        self.interfaces = interfaces;
        self
    }

    /// The devices in whose drivers tunnel packets are taken out.
    #[must_use]
    pub fn interfaces(&self) -> &[String] {
        &self.interfaces
    }

    /// With that many threads; one otherwise.
    #[must_use]
    pub const fn with_workers(mut self, workers: NonZeroUsize) -> Self {
        self.workers = workers;
        self
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

    /// Whether tunnel packets of a whole address family are accepted, or of both.
    #[must_use]
    pub fn accepts_any_source(&self) -> bool {
        self.directors.is_empty() || self.directors.iter().any(|net| net.prefix_len() == 0)
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

    /// Threads, each with a queue of the TUN device and sockets of its own.
    #[must_use]
    pub const fn workers(&self) -> NonZeroUsize {
        self.workers
    }

    /// What to do about the machine's settings.
    #[must_use]
    pub const fn host(&self) -> Host {
        self.host
    }
}

/// The kernel reads `%d` as a pattern, and keeps settings named `all` and `default`
/// (`sysctl_dev_name_is_allowed`, linux/include/linux/inetdevice.h).
fn can_be_made(device: &str) -> bool {
    is_device_name(device) && !device.contains('%') && !["all", "default"].contains(&device)
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
                "--vip 10.0.0.100: given twice; leave one of them out",
                "--vip 127.0.0.1: not the address of one host (unspecified, loopback, multicast, broadcast or IPv4-mapped); give the address that clients connect to",
                "--vip ff02::1: not the address of one host (unspecified, loopback, multicast, broadcast or IPv4-mapped); give the address that clients connect to",
                "--vip ::ffff:10.0.0.1: not the address of one host (unspecified, loopback, multicast, broadcast or IPv4-mapped); give the address that clients connect to",
                "--tun ../decap0: not a device name (1 to 15 bytes, no slash, colon, percent sign or space, not \"all\" or \"default\"); choose one such as decap0",
            ]
        );
        assert_eq!(
            settings(&[], &[], "decap0"),
            Err(vec![SettingsError::NoVip])
        );
    }

    #[test]
    fn texts_say_what_to_write() {
        type Parse = fn(&str) -> Result<String, String>;
        let vip: Parse = |text| parse_vip(text).map(|vip| vip.to_string());
        let director: Parse = |text| parse_network(text).map(|net| net.to_string());
        let gue: Parse = |text| parse_gue(text).map(|port| port.to_string());
        let workers: Parse = |text| parse_workers(text).map(|number| number.to_string());
        for (parse, text, expected) in [
            (vip, "203.0.113.10", Ok("203.0.113.10")),
            (vip, "2001:db8::1", Ok("2001:db8::1")),
            (vip, "203.0.113.10/32", Err("given here: 203.0.113.10")),
            (vip, "2001:db8::1/128", Err("given here: 2001:db8::1")),
            (vip, "[2001:db8::1]", Err("given here: 2001:db8::1")),
            (vip, "[2001:db8::1]:80/tcp", Err("given here: 2001:db8::1")),
            (vip, "203.0.113.10:80/tcp", Err("given here: 203.0.113.10")),
            (vip, "203.0.113.10:80", Err("given here: 203.0.113.10")),
            (vip, "fe80::1%eth0", Err("given here: fe80::1")),
            (vip, "10.0.0.1,10.0.0.2", Err("repeat --vip")),
            (vip, "www.example.org", Err("such as 203.0.113.10")),
            (vip, "", Err("such as 203.0.113.10")),
            (vip, "]][[::/%%", Err("such as 203.0.113.10")),
            (director, "10.0.1.0/24", Ok("10.0.1.0/24")),
            (director, "10.0.1.1", Ok("10.0.1.1/32")),
            (director, "2001:db8::1", Ok("2001:db8::1/128")),
            (director, "10.0.1.0/33", Err("at most 32: 10.0.1.0/32")),
            (director, "[2001:db8::1]", Err("given here: 2001:db8::1")),
            (director, "10.0.1.1:4789", Err("given here: 10.0.1.1")),
            (director, "::ffff:10.0.1.1", Err("IPv4 address: 10.0.1.1")),
            (director, "10.0.1.1,10.0.1.2", Err("repeat --director")),
            (
                director,
                "director.example.org",
                Err("names are not looked up"),
            ),
            (gue, "6080", Ok("6080")),
            (gue, "0", Err("1 to 65535")),
            (gue, "65536", Err("1 to 65535")),
            (gue, "gue", Err("such as 6080")),
            (workers, "256", Ok("256")),
            (workers, "257", Err("1 to 256")),
            (workers, "0", Err("1 to 256")),
            (workers, "many", Err("\"auto\"")),
        ] {
            match (parse(text), expected) {
                (Ok(value), Ok(expected)) => assert_eq!(value, expected, "{text}"),
                (Err(error), Err(part)) => assert!(error.contains(part), "{text}: {error}"),
                (result, _) => panic!("{text}: {result:?}"),
            }
        }
    }

    #[test]
    fn names_that_the_kernel_keeps() {
        for name in ["all", "default", "decap%d", "sixteen-bytes-xx", "a\u{1b}b/"] {
            let errors = settings(&["10.0.0.100"], &[], name).unwrap_err();
            assert_eq!(errors, [SettingsError::Tun(name.to_owned())]);
            assert!(!errors[0].to_string().contains('\u{1b}'));
        }
    }

    #[test]
    fn workers_are_one_or_as_asked() {
        let settings = settings(&["10.0.0.100"], &[], "decap0").unwrap();
        assert_eq!(settings.workers().get(), 1);
        let all = parse_workers("auto").unwrap();
        assert_eq!(settings.with_workers(all).workers(), all);
    }

    #[test]
    fn who_is_accepted() {
        for (directors, any) in [
            (&[][..], true),
            (&["0.0.0.0/0"], true),
            (&["10.0.1.2/32", "::/0"], true),
            (&["10.0.1.2/32"], false),
        ] {
            let settings = settings(&["10.0.0.100"], directors, "decap0").unwrap();
            assert_eq!(settings.accepts_any_source(), any, "{directors:?}");
        }
    }
}
