//! How packets come in: `director.datapath`, `interface` and `xdp_mode`.

use std::fmt;

use super::draft::DirectorDraft;
use super::problem::{Fault, Problem};
use super::value::{self, Choice, LEFT_OUT, Raw};

/// Where packets for VIPs are taken from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Datapath {
    /// The TUN alone.
    #[default]
    Tun,
    /// AF_XDP sockets on the interfaces, and the TUN for the rest.
    Xsk,
    /// A program in the driver of the interfaces decides and forwards; the TUN has the rest.
    Xdp,
    /// As [`Xdp`](Self::Xdp) where that works, else the TUN alone.
    Auto,
}

impl fmt::Display for Datapath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tun => "tun",
            Self::Xsk => "xsk",
            Self::Xdp => "xdp",
            Self::Auto => "auto",
        })
    }
}

impl Choice for Datapath {
    const NAMES: &'static [(&'static str, Self)] = &[
        ("tun", Self::Tun),
        ("xsk", Self::Xsk),
        ("xdp", Self::Xdp),
        ("auto", Self::Auto),
    ];
}

/// Where programs on the interfaces run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum XdpMode {
    /// In the driver where it can, else in the stack behind it.
    #[default]
    Auto,
    /// In the driver.
    Native,
    /// In the stack behind any driver.
    Generic,
}

impl fmt::Display for XdpMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Native => "native",
            Self::Generic => "generic",
        })
    }
}

impl Choice for XdpMode {
    const NAMES: &'static [(&'static str, Self)] = &[
        ("auto", Self::Auto),
        ("native", Self::Native),
        ("generic", Self::Generic),
    ];
}

/// Devices by name, each once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Interfaces(Vec<String>);

impl Interfaces {
    /// Their names, in the order of the file; none where the data path needs none.
    #[must_use]
    pub fn names(&self) -> &[String] {
        &self.0
    }
}

impl fmt::Display for Interfaces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}]", self.0.join(", "))
    }
}

/// One name, or an array of them.
pub(super) fn interfaces(raw: Raw<'_>) -> Result<Interfaces, Fault> {
    const ACCEPTED: &str = "a device name such as \"eth0\", or an array of them";
    let Raw::List(entries) = raw else {
        let name = value::device(raw).map_err(|fault| Fault::new(fault.message, ACCEPTED))?;
        return Ok(Interfaces(vec![name]));
    };
    let mut names = Vec::new();
    for entry in entries {
        let name = value::device(entry).map_err(|fault| Fault::new(fault.message, ACCEPTED))?;
        if names.contains(&name) {
            return Err(Fault::new(format!("{name} twice"), "each device once"));
        }
        names.push(name);
    }
    if names.is_empty() {
        return Err(Fault::new("empty", ACCEPTED));
    }
    Ok(Interfaces(names))
}

/// Interfaces are what a data path beside the TUN is on; and it must be in this build.
pub(super) fn check(director: &DirectorDraft) -> Vec<Problem> {
    let mut problems = Vec::new();
    let Some(datapath) = &director.datapath else {
        return problems;
    };
    let is_tun = datapath.value == Datapath::Tun;
    let needs_feature = matches!(datapath.value, Datapath::Xsk | Datapath::Xdp);
    if needs_feature && !cfg!(feature = "xdp") {
        let message = "this tunlb was built without the feature xdp (cargo build --features xdp)";
        problems.push(
            datapath
                .site
                .problem(Fault::new(message, "\"tun\" or \"auto\"")),
        );
    }
    match &director.interface {
        Some(None) if !is_tun => {
            let fault = Fault::new("no interface is named", "interface = \"eth0\" beside it");
            problems.push(datapath.site.problem(fault));
        }
        Some(Some(interface)) if is_tun => {
            let fault = Fault::new("has no effect while director.datapath is \"tun\"", LEFT_OUT);
            problems.push(interface.site.problem(fault));
        }
        _ => {}
    }
    if let (Some(Some(interface)), Some(tun)) = (&director.interface, &director.tun)
        && interface.value.0.contains(&tun.value)
    {
        let fault = Fault::new(
            "the director's own TUN",
            "the devices that packets arrive by",
        );
        problems.push(interface.site.problem(fault));
    }
    if let Some(mode) = &director.xdp_mode
        && is_tun
        && mode.value != XdpMode::Auto
    {
        let fault = Fault::new("has no effect while director.datapath is \"tun\"", LEFT_OUT);
        problems.push(mode.site.problem(fault));
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::super::{Config, ConfigError};
    use super::*;

    fn parse(director: &str) -> Result<Config, ConfigError> {
        Config::parse(
            "f",
            &format!(
                "[director]\n{director}\n[[vip]]\naddress = \"10.0.0.100\"\n\
                 backend = [{{ address = \"10.0.1.11\" }}]\n"
            ),
        )
    }

    #[test]
    fn interfaces_are_one_or_several() {
        let names = |raw| interfaces(raw).map(|interfaces| interfaces.to_string());
        assert_eq!(names(Raw::Text("eth0")).unwrap(), "[eth0]");
        for (text, expected) in [
            ("interface = []", "empty"),
            ("interface = [\"eth0\", \"eth0\"]", "eth0 twice"),
            ("interface = [\"lo\"]", "a name with another meaning"),
            ("interface = 7", "integer"),
            (
                "interface = \"eth0\"",
                "has no effect while director.datapath is \"tun\"",
            ),
            (
                "xdp_mode = \"native\"",
                "has no effect while director.datapath is \"tun\"",
            ),
            ("datapath = \"xsk\"", "no interface is named"),
            (
                "datapath = \"xsk\"\ninterface = \"tunlb0\"",
                "the director's own TUN",
            ),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn a_build_without_the_feature_says_so() {
        let read =
            parse("datapath = \"xsk\"\ninterface = [\"eth0\", \"eth1\"]\nxdp_mode = \"native\"");
        if cfg!(feature = "xdp") {
            let director = read.unwrap().director;
            assert_eq!(director.datapath, Datapath::Xsk);
            assert_eq!(director.interfaces.names(), ["eth0", "eth1"]);
            assert_eq!(director.xdp_mode, XdpMode::Native);
        } else {
            let error = read.unwrap_err().to_string();
            assert!(error.contains("built without the feature xdp"), "{error}");
        }
    }
}
