//! What makes a mend last: the findings' snippets become files of the doctor's own. Planning is pure.
//!
//! - Settings and modules go into the files that the snippets name, which bear tunlb's name; a line of
//!   the same key is replaced, everything else in them stays.
//! - For networkd a device that it configures gets a drop-in beside its own file: a second `.network`
//!   file would be ignored, or take the device over. Another device gets a file of its own.
//! - For ifupdown a file of its own that begins a stanza: a line outside of one breaks every `ifup`.

use super::Refusal;
use super::command::is_placeholder;
use super::host::Host;
use super::machine::{Machine, Proposal};
use super::script::{Entry, restore};
use super::session::Fate;
use crate::doctor::finding::{Code, Finding, Status};
use crate::doctor::lines::Snippet;

/// What becomes of a snippet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Persisted {
    /// The finding.
    pub code: Code,
    /// The file, or the snippet itself where it names none.
    pub file: String,
    /// What became of it.
    pub fate: Fate,
}

/// A file to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    /// Its path.
    pub file: String,
    /// What it holds now.
    pub former: Option<String>,
    /// What it will hold.
    pub content: String,
}

/// A snippet that names its file.
struct Named<'a> {
    file: &'a str,
    lines: Vec<&'a str>,
}

const SYSCTL: &str = "/etc/sysctl.d/";
const MODULES: &str = "/etc/modules-load.d/";
const NETWORKD: &str = "/etc/systemd/network/";
const IFUPDOWN: &str = "/etc/network/interfaces.d/";
const HEADER: &str = "# Written by tunlb doctor --persist.\n";

/// Whether a finding's snippets are to be written although nothing of it has to be mended now: the
/// running machine is right, the next boot is not.
#[must_use]
pub fn is_about_boot(finding: &Finding) -> bool {
    finding.status == Status::Warn && finding.fix.is_empty() && !finding.persist.is_empty()
}

/// Writes the findings' snippets, asking before each file.
///
/// # Errors
/// The user cannot be asked, or the undo not be kept.
pub fn persist<M: Machine>(
    machine: &mut M,
    findings: &[Finding],
    mut host: Host,
) -> Result<Vec<Persisted>, M::Error> {
    let mut done = Vec::new();
    for finding in findings {
        for (file, planned) in plan(finding, &host) {
            let fate = match planned {
                Ok(Some(write)) => {
                    let fate = put(machine, finding.code, &write)?;
                    if fate == Fate::Done {
                        host.files.insert(write.file, write.content);
                    }
                    fate
                }
                Ok(None) => Fate::AlreadySo,
                Err(refusal) => Fate::Left(refusal),
            };
            done.push(Persisted {
                code: finding.code,
                file,
                fate,
            });
        }
    }
    Ok(done)
}

fn put<M: Machine>(machine: &mut M, code: Code, write: &Write) -> Result<Fate, M::Error> {
    let undo = restore(write.file.as_ref(), write.former.as_deref());
    let what = format!("# {}\n{}", write.file, write.content);
    let proposal = Proposal {
        code,
        what: what.trim_end(),
        undo: &undo,
    };
    if !machine.allows(&proposal)? {
        return Ok(Fate::Declined);
    }
    machine.record(Entry {
        code,
        done: write.file.clone(),
        undo,
    })?;
    match machine.write(&write.file, &write.content) {
        Ok(()) => Ok(Fate::Done),
        Err(why) => {
            machine.forget_last()?;
            Ok(Fate::Failed(why))
        }
    }
}

/// Per snippet of a finding its file and what to write there, nothing where it is so already. Of
/// snippets for networkd and for ifupdown the ones of this machine.
#[must_use]
pub fn plan(finding: &Finding, host: &Host) -> Vec<(String, Result<Option<Write>, Refusal>)> {
    let mut plans = Vec::new();
    let mut configured = None;
    for snippet in &finding.persist {
        let Some(snippet) = Named::of(snippet) else {
            plans.push((snippet.to_string(), Err(Refusal::Advice)));
            continue;
        };
        let used = match snippet.file {
            file if file.starts_with(NETWORKD) => host.networkd,
            file if file.starts_with(IFUPDOWN) => host.ifupdown && !host.networkd,
            _ => {
                plans.push(snippet.planned(host));
                continue;
            }
        };
        if used {
            plans.push(snippet.planned(host));
        }
        configured = Some(configured.unwrap_or(false) || used);
    }
    if configured == Some(false) {
        plans.push((finding.title.clone(), Err(Refusal::OtherConfigurator)));
    }
    plans
}

impl<'a> Named<'a> {
    fn of(snippet: &'a Snippet) -> Option<Self> {
        match snippet {
            Snippet::File { path, lines } => Some(Self {
                file: path,
                lines: lines.iter().map(String::as_str).collect(),
            }),
            Snippet::Advice(_) => None,
        }
    }

    fn planned(&self, host: &Host) -> (String, Result<Option<Write>, Refusal>) {
        let words = self.lines.iter().flat_map(|line| line.split(['=', ' ']));
        if let Some(word) = words.into_iter().find(|word| is_placeholder(word)) {
            return (
                self.file.to_owned(),
                Err(Refusal::Placeholder(word.to_owned())),
            );
        }
        let is_own = self.file.contains("tunlb");
        let plan = match self.file {
            file if file.starts_with(SYSCTL) && is_own => Ok(self.keyed(host)),
            file if file.starts_with(MODULES) && is_own => Ok(self.keyed(host)),
            file if file.starts_with(NETWORKD) => self.network(host),
            file if file.starts_with(IFUPDOWN) => self.stanza(host),
            _ => Err(Refusal::NotWhole),
        };
        match plan {
            Ok(write) if write.former.as_ref() == Some(&write.content) => (write.file, Ok(None)),
            Ok(write) => (write.file.clone(), Ok(Some(write))),
            Err(refusal) => (self.file.to_owned(), Err(refusal)),
        }
    }

    /// Lines `KEY = VALUE`, or lines that are their own key.
    fn keyed(&self, host: &Host) -> Write {
        let former = host.files.get(self.file);
        let mut lines: Vec<_> = former.map_or(HEADER, String::as_str).lines().collect();
        for line in &self.lines {
            match lines.iter_mut().find(|there| key(there) == key(line)) {
                Some(there) if value(there) == value(line) => {}
                Some(there) => *there = line,
                None => lines.push(line),
            }
        }
        Write {
            file: self.file.to_owned(),
            former: former.cloned(),
            content: lines.join("\n") + "\n",
        }
    }

    fn network(&self, host: &Host) -> Result<Write, Refusal> {
        let device = self.device();
        let start = self.lines.iter().position(|line| *line == "[Match]");
        let body = match start {
            // The section is two lines long.
            Some(0) => self.lines.get(2..).unwrap_or_default(),
            Some(_) => return Err(Refusal::NotWhole),
            None => &self.lines,
        };
        let (file, head) = match host.network_files.get(device) {
            Some(file) => {
                let name = file.rsplit('/').next().unwrap_or(file);
                (format!("{NETWORKD}{name}.d/tunlb.conf"), HEADER.to_owned())
            }
            // networkd would take over a device that something else configures.
            None if start.is_none() => return Err(Refusal::NotWhole),
            // It removes what it has not set itself, unless told not to.
            None => (
                format!("{NETWORKD}90-tunlb-{device}.network"),
                format!("{HEADER}[Match]\nName={device}\n\n[Network]\nKeepConfiguration=static\n"),
            ),
        };
        let former = host.files.get(&file).cloned();
        let section = body.join("\n");
        let text = former.clone().unwrap_or(head);
        let content = if text.contains(&section) {
            text
        } else {
            format!("{text}\n{section}\n")
        };
        Ok(Write {
            file,
            former,
            content,
        })
    }

    /// The device of a `.network` file: what it matches, or what the file is named after.
    fn device(&self) -> &'a str {
        let matched = self
            .lines
            .iter()
            .find_map(|line| line.strip_prefix("Name="));
        let name = self.file.rsplit('/').next().unwrap_or_default();
        matched.unwrap_or(name.strip_suffix(".network").unwrap_or(name))
    }

    fn stanza(&self, host: &Host) -> Result<Write, Refusal> {
        let begins = ["auto ", "allow-", "iface "];
        let first = self.lines.first().copied().unwrap_or_default();
        if !begins.iter().any(|word| first.starts_with(word)) {
            return Err(Refusal::NotWhole);
        }
        let content = format!("{HEADER}{}\n", self.lines.join("\n"));
        match host.files.get(self.file) {
            Some(former) if *former != content => Err(Refusal::Taken(self.file.to_owned())),
            former => Ok(Write {
                file: self.file.to_owned(),
                former: former.cloned(),
                content,
            }),
        }
    }
}

fn key(line: &str) -> &str {
    line.split_once('=').map_or(line, |(key, _)| key).trim()
}

fn value(line: &str) -> Option<&str> {
    line.split_once('=').map(|(_, value)| value.trim())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn finding(persist: &[&str]) -> Finding {
        Finding {
            code: Code::backend(10),
            title: "strict rp_filter".to_owned(),
            status: Status::Fail,
            proven: false,
            summary: String::new(),
            evidence: BTreeMap::new(),
            fix: Vec::new(),
            persist: persist.iter().map(|text| Snippet::from(*text)).collect(),
            verify: None,
            blocked_by: None,
        }
    }

    fn host(files: &[(&str, &str)]) -> Host {
        Host {
            files: files
                .iter()
                .map(|(file, text)| ((*file).to_owned(), (*text).to_owned()))
                .collect(),
            ..Host::default()
        }
    }

    fn only(persist: &str, host: &Host) -> Result<Option<Write>, Refusal> {
        let mut plans = plan(&finding(&[persist]), host);
        assert_eq!(plans.len(), 1);
        plans.remove(0).1
    }

    fn content(persist: &str, host: &Host) -> (String, String) {
        let write = only(persist, host).unwrap().unwrap();
        (write.file, write.content)
    }

    const SETTINGS: &str = "# /etc/sysctl.d/99-tunlb.conf\n-net.ipv4.conf.all.rp_filter\n\
                            net.ipv4.conf.all.rp_filter = 0\nnet.ipv4.conf.tunl0.rp_filter = 0";

    #[test]
    fn settings_are_set_once() {
        let path = "/etc/sysctl.d/99-tunlb.conf".to_owned();
        let expected = "# Written by tunlb doctor --persist.\n-net.ipv4.conf.all.rp_filter\n\
                        net.ipv4.conf.all.rp_filter = 0\nnet.ipv4.conf.tunl0.rp_filter = 0\n";
        assert_eq!(
            content(SETTINGS, &host(&[])),
            (path.clone(), expected.to_owned())
        );
        assert_eq!(only(SETTINGS, &host(&[(&path, expected)])), Ok(None));
        let former = "# mine\nnet.ipv4.conf.tunl0.rp_filter=2\nnet.ipv4.conf.all.rp_filter=0\n";
        let expected = "# mine\nnet.ipv4.conf.tunl0.rp_filter = 0\nnet.ipv4.conf.all.rp_filter=0\n\
                        -net.ipv4.conf.all.rp_filter\n";
        assert_eq!(content(SETTINGS, &host(&[(&path, former)])).1, expected);
    }

    const ADDRESS: &str =
        "# /etc/systemd/network/lo.network\n[Match]\nName=lo\n[Network]\nAddress=10.0.0.100/32";

    #[test]
    fn a_device_of_networkd_gets_a_drop_in() {
        let mut host = host(&[]);
        host.networkd = true;
        let (file, text) = content(ADDRESS, &host);
        assert_eq!(file, "/etc/systemd/network/90-tunlb-lo.network");
        assert_eq!(
            text,
            "# Written by tunlb doctor --persist.\n[Match]\nName=lo\n\n[Network]\nKeepConfiguration=static\n\n\
             [Network]\nAddress=10.0.0.100/32\n"
        );
        host.files.insert(file.clone(), text.clone());
        assert_eq!(only(ADDRESS, &host), Ok(None));
        let second = ADDRESS.replace(".100/", ".101/");
        assert_eq!(
            content(&second, &host).1,
            text + "\n[Network]\nAddress=10.0.0.101/32\n"
        );

        let rule =
            "# /etc/systemd/network/eth0.network\n[RoutingPolicyRule]\nFrom=10.0.0.100\nTable=100";
        assert_eq!(only(rule, &host), Err(Refusal::NotWhole));
        let file = "/run/systemd/network/10-netplan-eth0.network".to_owned();
        host.network_files.insert("eth0".to_owned(), file);
        let (file, text) = content(rule, &host);
        assert_eq!(
            file,
            "/etc/systemd/network/10-netplan-eth0.network.d/tunlb.conf"
        );
        assert_eq!(
            text,
            "# Written by tunlb doctor --persist.\n\n[RoutingPolicyRule]\nFrom=10.0.0.100\nTable=100\n"
        );
    }

    const STANZA: &str = "# /etc/network/interfaces.d/vip\nauto lo:vip\niface lo:vip inet static\n    \
                          address 10.0.0.100/32";

    #[test]
    fn ifupdown_gets_whole_stanzas() {
        let mut host = host(&[]);
        host.ifupdown = true;
        let (file, text) = content(STANZA, &host);
        assert_eq!(file, "/etc/network/interfaces.d/vip");
        host.files.insert(file.clone(), "iface other\n".to_owned());
        assert_eq!(only(STANZA, &host), Err(Refusal::Taken(file.clone())));
        host.files.insert(file, text);
        assert_eq!(only(STANZA, &host), Ok(None));
        let bare = "# /etc/network/interfaces.d/tunl0\nup ip link set tunl0 up";
        assert_eq!(only(bare, &host), Err(Refusal::NotWhole));
    }

    #[test]
    fn one_configurator_is_chosen() {
        let both = finding(&[STANZA, ADDRESS]);
        let mut host = host(&[]);
        let files = |host: &Host| {
            plan(&both, host)
                .into_iter()
                .map(|(file, _)| file)
                .collect::<Vec<_>>()
        };
        assert_eq!(
            plan(&both, &host),
            [(
                "strict rp_filter".to_owned(),
                Err(Refusal::OtherConfigurator)
            )]
        );
        host.ifupdown = true;
        assert_eq!(files(&host), ["/etc/network/interfaces.d/vip"]);
        host.networkd = true;
        assert_eq!(files(&host), ["/etc/systemd/network/90-tunlb-lo.network"]);
    }

    #[test]
    fn what_is_left_to_the_user() {
        let advice = "# in the file from which your firewall is loaded: the same rule";
        assert_eq!(only(advice, &host(&[])), Err(Refusal::Advice));
        let mut networkd = host(&[]);
        networkd.networkd = true;
        let gateway = "# /etc/systemd/network/eth0.network\n[Network]\nGateway=GATEWAY";
        assert_eq!(
            only(gateway, &networkd),
            Err(Refusal::Placeholder("GATEWAY".to_owned()))
        );
        for foreign in [
            "# /etc/sysctl.conf\na = 1",
            "# /etc/systemd/system/tunlb-decap.service\n[Unit]",
        ] {
            assert_eq!(only(foreign, &host(&[])), Err(Refusal::NotWhole));
        }
    }
}
