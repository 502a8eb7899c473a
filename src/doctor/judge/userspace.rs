//! The decapsulator that the doctor proposes where the kernel has none: its command line, and the unit
//! that starts it at boot and again when it ends.

use std::fmt::Write as _;
use std::net::IpAddr;

use ipnet::IpNet;

use super::case::Case;
use crate::decap::DEFAULT_TUN;
use crate::doctor::facts::{Decapsulator, Encap};
use crate::doctor::lang::say;
use crate::doctor::lines::{FixLine, Snippet};

/// Where the program is installed as a rule, for facts that do not say it.
const USUAL_PATH: &str = "/usr/local/bin/tunlb";

/// The arguments of a `tunlb decap` for the packets of this case.
fn arguments(case: &Case<'_>) -> Vec<String> {
    let director = case.target.director.map(|director| director.to_string());
    words([case.target.vip], director, case.target.encap)
}

fn words(
    vips: impl IntoIterator<Item = IpAddr>,
    directors: impl IntoIterator<Item = String>,
    encap: Encap,
) -> Vec<String> {
    let mut words = vec!["decap".to_owned()];
    for vip in vips {
        words.extend(["--vip".to_owned(), vip.to_string()]);
    }
    for director in directors {
        words.extend(["--director".to_owned(), director]);
    }
    if let Encap::Gue(port) = encap {
        words.extend(["--gue".to_owned(), port.to_string()]);
    }
    words
}

/// The command that decapsulates for this case, beside whatever runs.
pub(super) fn command(case: &Case<'_>) -> FixLine {
    let mut words = arguments(case);
    words.extend(free_device(case));
    line(words)
}

/// Arguments that are repeated; of more, the user has a file or a script.
const MOST_REPEATED: usize = 64;

/// The command that also does what `process` does, for after its end.
pub(super) fn extended(case: &Case<'_>, process: &Decapsulator) -> FixLine {
    let (pid, vip) = (process.pid, case.target.vip);
    if process.vips.len() + process.directors.len() > MOST_REPEATED {
        return FixLine::Advice(say!(
            case.lang,
            "start it with the arguments of process {pid} and with --vip {vip}",
            "用进程 {pid} 的参数并加上 --vip {vip} 重新启动它"
        ));
    }
    let mut vips = process.vips.clone();
    vips.push(case.target.vip);
    vips.sort_unstable();
    vips.dedup();
    let mut directors = process.directors.clone();
    // One that takes packets from any source does so for its own reasons.
    directors.extend(
        case.target
            .director
            .map(IpNet::from)
            .filter(|_| !directors.is_empty()),
    );
    directors.sort_unstable();
    directors.dedup();
    let shown = |net: &IpNet| match net.prefix_len() == net.max_prefix_len() {
        true => net.addr().to_string(),
        false => net.to_string(),
    };
    let directors = directors.iter().map(shown);
    let mut words = words(vips, directors, process.encap);
    if process.device != DEFAULT_TUN {
        words.extend(["--tun".to_owned(), process.device.clone()]);
    }
    line(words)
}

fn line(mut words: Vec<String>) -> FixLine {
    words.insert(0, "tunlb".to_owned());
    words.push("--setup".to_owned());
    FixLine::Command(words)
}

/// The device's option where another device has the usual name.
fn free_device(case: &Case<'_>) -> Vec<String> {
    let is_taken = |name: &str| case.link(name).is_some();
    if !is_taken(DEFAULT_TUN) {
        return Vec::new();
    }
    let names = (1..).map(|number| format!("decap{number}"));
    let free = names.take(100).find(|name| !is_taken(name));
    free.map_or_else(Vec::new, |name| vec!["--tun".to_owned(), name])
}

/// The unit file that starts it when the network is up, and again whenever it ends: its device may be
/// deleted, and what keeps it from starting may pass.
pub(super) fn unit(case: &Case<'_>) -> Snippet {
    let program = case.facts.program.as_deref().unwrap_or(USUAL_PATH);
    let mut command = quoted(program);
    for word in arguments(case).iter().chain([&"--setup".to_owned()]) {
        command.push(' ');
        command += &quoted(word);
    }
    Snippet::from(format!(
        "# /etc/systemd/system/tunlb-decap.service\n\
         [Unit]\n\
         Description=tunlb decap for {}\n\
         Wants=network-online.target\n\
         After=network-online.target\n\
         StartLimitIntervalSec=0\n\
         [Service]\n\
         ExecStart={command}\n\
         Restart=always\n\
         RestartSec=1\n\
         [Install]\n\
         WantedBy=multi-user.target",
        case.target.vip
    ))
}

/// A word of `ExecStart=` (systemd.service(5), systemd.syntax(7)): specifiers and variables are doubled,
/// anything odd goes between double quotes with C escapes.
fn quoted(word: &str) -> String {
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "/._:+,=@-".contains(letter);
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.to_owned();
    }
    let mut text = String::from("\"");
    for letter in word.chars() {
        match letter {
            '%' => text.push_str("%%"),
            '$' => text.push_str("$$"),
            '"' | '\\' => text.extend(['\\', letter]),
            _ if letter == ' ' || letter.escape_debug().eq([letter]) || letter == '\'' => {
                text.push(letter);
            }
            _ => {
                let mut bytes = [0; 4];
                for byte in letter.encode_utf8(&mut bytes).bytes() {
                    write!(text, "\\x{byte:02x}").unwrap_or_default(); // into a String
                }
            }
        }
    }
    text.push('"');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_exec_start() {
        for (word, expected) in [
            ("/usr/bin/tunlb", "/usr/bin/tunlb"),
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("2001:db8::1", "2001:db8::1"),
            ("/opt/my tools/tunlb", r#""/opt/my tools/tunlb""#),
            ("/opt/100%/$HOME/tunlb", r#""/opt/100%%/$$HOME/tunlb""#),
            ("it's \"C:\\\"", r#""it's \"C:\\\"""#),
            ("a\nb\u{1b}", r#""a\x0ab\x1b""#),
            ("a;b", r#""a;b""#),
            ("", r#""""#),
        ] {
            assert_eq!(quoted(word), expected);
        }
    }
}
