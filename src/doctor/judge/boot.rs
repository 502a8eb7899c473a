//! What a device setting will be after the next boot, by the files of sysctl.d(5).
//!
//! A line that names the device goes before globs, whatever the order of files; among equals the
//! last one counts. `-NAME` without a value takes the name out of the globs. A device that no line
//! names gets `default`, which is copied when the device is made.

use crate::doctor::facts::SysctlSetting;

/// A setting of a file that counts at boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BootSetting {
    pub(super) file: String,
    pub(super) line: usize,
    /// As the file names it, globs kept.
    pub(super) name: String,
    pub(super) value: i64,
}

/// The value of `net.ipv4.conf.DEVICE.KEY` after boot; nothing where no file says.
pub(super) fn boot_value(
    settings: &[SysctlSetting],
    device: &str,
    key: &str,
) -> Option<BootSetting> {
    let of_device = named(settings, device, key);
    if device == "all" {
        return of_device;
    }
    of_device.or_else(|| named(settings, "default", key))
}

fn named(settings: &[SysctlSetting], device: &str, key: &str) -> Option<BootSetting> {
    let exact = format!("net.ipv4.conf.{}.{key}", device.replace('.', "/"));
    let is = |setting: &&SysctlSetting| dotted(&setting.name) == exact;
    let last_exact = settings
        .iter()
        .filter(is)
        .rfind(|setting| !setting.value.is_empty());
    if let Some(setting) = last_exact {
        return counted(setting);
    }
    // An exclusion is written `-NAME`, with or without a value.
    let excluded = settings.iter().any(|setting| {
        setting
            .name
            .strip_prefix('-')
            .is_some_and(|name| dotted(name) == exact)
    });
    if excluded {
        return None;
    }
    let glob = format!("net.ipv4.conf.*.{key}");
    let last_glob = settings
        .iter()
        .rfind(|setting| dotted(&setting.name) == glob)?;
    counted(last_glob)
}

fn counted(setting: &SysctlSetting) -> Option<BootSetting> {
    Some(BootSetting {
        file: setting.file.clone(),
        line: setting.line,
        name: setting.name.clone(),
        value: setting.value.trim().parse().ok()?,
    })
}

/// Files may write slashes where others write dots; a name that begins with a slash part is turned.
fn dotted(name: &str) -> String {
    if name.starts_with("net/") {
        let swap = |letter| match letter {
            '/' => '.',
            '.' => '/',
            other => other,
        };
        name.chars().map(swap).collect()
    } else {
        name.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(lines: &[(&str, &str)], device: &str) -> Option<i64> {
        let settings: Vec<_> = lines
            .iter()
            .enumerate()
            .map(|(index, (name, value))| SysctlSetting {
                file: "/etc/sysctl.d/a.conf".to_owned(),
                line: index + 1,
                name: (*name).to_owned(),
                value: (*value).to_owned(),
            })
            .collect();
        boot_value(&settings, device, "rp_filter").map(|setting| setting.value)
    }

    #[test]
    fn names_before_globs_and_the_last_counts() {
        let glob = ("net.ipv4.conf.*.rp_filter", "2");
        let default = ("net.ipv4.conf.default.rp_filter", "1");
        let own = ("net.ipv4.conf.tunl0.rp_filter", "0");
        let slashes = ("net/ipv4/conf/eth0.7/rp_filter", "0");
        let excluded = ("-net.ipv4.conf.all.rp_filter", "");
        assert_eq!(value(&[], "tunl0"), None);
        assert_eq!(value(&[default], "tunl0"), Some(1));
        assert_eq!(value(&[default, glob], "tunl0"), Some(2));
        assert_eq!(value(&[own, glob], "tunl0"), Some(0));
        assert_eq!(value(&[glob, slashes], "eth0.7"), Some(0));
        assert_eq!(value(&[glob], "all"), Some(2));
        assert_eq!(value(&[glob, excluded], "all"), None);
        assert_eq!(
            value(&[own, ("net.ipv4.conf.tunl0.rp_filter", "1")], "tunl0"),
            Some(1)
        );
    }
}
