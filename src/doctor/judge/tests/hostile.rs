//! Names that an attacker chose, in every fault: what is printed stays printable, and a shell that is given
//! the lines runs the commands that were meant, with the words that were meant, and nothing else.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::process::{Command, Stdio};

use proptest::prelude::*;
use serde_json::Value;

use super::director::{FAULTS_OF_A_DIRECTOR, director};
use super::faults::FAULTS;
use super::*;
use crate::doctor::fix::Refusal;
use crate::doctor::fix::before::Before;
use crate::doctor::fix::command::Command as FixCommand;
use crate::doctor::fix::plan::{self, Plan};
use crate::doctor::fix::script::{self, Entry};
use crate::doctor::lines::FixLine;
use crate::doctor::report::text::fixes;
use crate::text::plain;

/// The programs that findings name, and `x`, which nothing may run.
const PROGRAMS: [&str; 21] = [
    "ip",
    "sysctl",
    "nft",
    "iptables",
    "iptables-legacy",
    "ip6tables",
    "ethtool",
    "modprobe",
    "tunlb",
    "nsenter",
    "ss",
    "ping",
    "arping",
    "nstat",
    "systemd-analyze",
    "sed",
    "xargs",
    "rm",
    "x",
    "touch",
    "kill",
];

/// Names in the literal facts that others choose.
const NAMES: [&str; 5] = ["eth0", "tunl0", "decap0", "tunlb0", "httpd"];

/// What Linux takes for a device's name: up to 15 bytes, any but `/`, `:` and white space; often such that a
/// shell, nft, sysctl or a file would take it for more than a name.
fn device() -> impl Strategy<Value = String> {
    let tricks = prop::sample::select(vec![
        "$(x)",
        "`x`",
        ";x;",
        "|x",
        "&x&",
        ">x",
        "'",
        "\"",
        "\\",
        "-x",
        "-",
        "#x",
        "~",
        "*",
        "?",
        "[a]",
        "a=b",
        "{x,y}",
        "!x",
        "(x)",
        "up",
        "dev",
        "\u{1b}[31m",
        "\u{7}",
        "\u{202e}",
        "\u{9b}1m",
        "$'x'",
        "x\"accept",
        "\";flush",
        "E",
        "T",
        "GATEWAY",
        "..",
        "net.ipv4",
    ]);
    prop_oneof![
        tricks.prop_map(str::to_owned),
        "[!-~&&[^/:]]{1,15}",
        "[\u{1}-\u{ff}&&[^/: \t-\r\u{85}\u{a0}]]{1,7}",
    ]
}

/// A bundle may hold anything.
fn name() -> impl Strategy<Value = String> {
    prop_oneof![
        3 => device(),
        1 => any::<String>(),
        1 => prop::sample::select(vec!["a b", "a\nx", "\nx\n", "a\r\nPASS", "a\0b", "../../x", "", " ", "a\n"])
            .prop_map(str::to_owned),
    ]
}

/// The facts with other names in place of those in `NAMES`, wherever they are.
fn renamed(facts: &Facts, names: &[String]) -> Facts {
    let mut value = serde_json::to_value(facts).unwrap();
    rename(&mut value, names);
    serde_json::from_value(value).unwrap()
}

fn rename(value: &mut Value, names: &[String]) {
    match value {
        Value::String(text) => *text = in_text(text, names),
        Value::Array(all) => all.iter_mut().for_each(|inner| rename(inner, names)),
        Value::Object(map) => {
            let members = std::mem::take(map).into_iter();
            *map = members
                .map(|(key, mut inner)| {
                    rename(&mut inner, names);
                    (in_text(&key, names), inner)
                })
                .collect();
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

fn in_text(text: &str, names: &[String]) -> String {
    let pairs = NAMES.iter().zip(names);
    pairs.fold(text.to_owned(), |text, (old, new)| {
        let new = if text.starts_with("net.") {
            new.replace('.', "/")
        } else {
            new.clone()
        };
        text.replace(old, &new)
    })
}

/// One of all faults, of a backend and of a director.
fn fault() -> impl Strategy<Value = Facts> {
    let of_backends = FAULTS
        .iter()
        .map(|(_, _, fault)| (healthy as fn() -> Facts, *fault));
    let of_directors = FAULTS_OF_A_DIRECTOR
        .iter()
        .map(|(_, _, fault)| (director as fn() -> Facts, *fault));
    prop::sample::select(of_backends.chain(of_directors).collect::<Vec<_>>()).prop_map(
        |(facts, fault)| {
            let mut facts = facts();
            fault(&mut facts);
            facts
        },
    )
}

/// A firewall whose tables and chains bear names of others, and which drops what matters.
fn filtered() -> impl Strategy<Value = Facts> {
    let word = || prop_oneof![3 => "[!-~]{1,12}", 1 => name()];
    (name(), name(), word(), prop::sample::select(vec!["iptables-legacy-save", "x; x #-save", "ip6tables-save"]))
        .prop_map(|(table, chain, comment, program)| {
            let mut facts = healthy();
            let rule = |chain: &Value| {
                serde_json::json!({"rule": {"family": "inet", "table": table, "chain": chain, "handle": 1,
                    "comment": comment, "expr": [{"drop": null}]}})
            };
            let base = |chain: &str, hook: &str| {
                serde_json::json!({"chain": {"family": "inet", "table": table, "name": chain, "type": "filter",
                    "hook": hook, "prio": 0, "policy": "accept"}})
            };
            let out = format!("{chain}o");
            let objects = vec![base(&chain, "input"), rule(&chain.clone().into()), base(&out, "output"), rule(&out.into())];
            facts.firewall.nft = Observed::Seen(serde_json::json!({ "nftables": objects }).to_string());
            let rules = format!("*filter\n:INPUT ACCEPT [0:0]\n-A INPUT -m comment --comment \"{comment}\" -j {chain}\n-A {chain} -j DROP\nCOMMIT\n");
            facts.firewall.iptables.insert(program.to_owned(), Observed::Seen(rules));
            facts
        })
}

/// The lines of all findings that a user may paste, with the words that are meant.
fn lines(diagnoses: &[Diagnosis]) -> Vec<FixLine> {
    let checks = diagnoses.iter().flat_map(|diagnosis| &diagnosis.checks);
    checks
        .flat_map(|check| check.fix.iter().chain(&check.verify).cloned())
        .collect()
}

/// The one program among them that is part of the shell.
const KILL: &str = "kill() { command \"$PATH/kill\" \"$@\"; }\n";

/// What a shell runs of a script, in a folder and with a PATH that hold nothing but programs which record
/// their words: per program run its words.
fn run(script: &str) -> Vec<Vec<String>> {
    let folder = tempfile::tempdir().unwrap();
    let programs = folder.path().join("bin");
    fs::create_dir(&programs).unwrap();
    let stub = "#!/bin/sh\nfor word in \"${0##*/}\" \"$@\"; do printf '%s\\0' \"$word\"; done >>\"$RECORD\"\n\
                printf '\\0' >>\"$RECORD\"\n";
    // Written by another process: a file that this one has open for writing may be open in what another thread starts
    // meanwhile, and cannot be run then (ETXTBSY).
    let written = folder.path().join("stub");
    let copied = Command::new("/bin/sh")
        .args([
            "-c",
            "printf %s \"$1\" >\"$2\" && chmod 700 \"$2\"",
            "sh",
            stub,
        ])
        .arg(&written)
        .status();
    assert!(copied.unwrap().success());
    for program in PROGRAMS {
        symlink(&written, programs.join(program)).unwrap();
    }
    let (record, here) = (folder.path().join("record"), folder.path().join("here"));
    fs::create_dir(&here).unwrap();
    let output = Command::new("/bin/sh")
        .args(["-c", &[KILL, script].concat()])
        .env_clear()
        .env("PATH", &programs)
        .env("RECORD", &record)
        .current_dir(&here)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{script}");
    assert!(
        fs::read_dir(&here).unwrap().next().is_none(),
        "a file came into being: {script}"
    );
    let record = fs::read(record).unwrap_or_default();
    let record = String::from_utf8(record).unwrap();
    // Each ends with an empty word; there may be empty ones among its own.
    let mut runs = vec![Vec::new()];
    for word in record.split_terminator('\0') {
        if word.is_empty() {
            runs.push(Vec::new());
        } else if let Some(run) = runs.last_mut() {
            run.push(word.to_owned());
        }
    }
    runs.retain(|run| !run.is_empty());
    runs
}

/// As [`run`] records it.
fn recorded<'a>(lines: impl IntoIterator<Item = &'a FixLine>) -> Vec<Vec<String>> {
    let words = lines.into_iter().filter_map(FixLine::words);
    let mut runs = Vec::new();
    for words in words {
        runs.extend(
            words
                .split(String::is_empty)
                .filter(|run| !run.is_empty())
                .map(<[String]>::to_vec),
        );
    }
    runs
}

fn undo_of(lines: &[FixLine]) -> Vec<Entry> {
    let commands = lines.iter().filter_map(|line| FixCommand::of(line).ok());
    let context = plan::Context {
        own_settings: &[],
        mark: "tunlb-doctor-7-1",
    };
    let mut entries = Vec::new();
    for command in commands {
        let settings = command
            .change
            .settings()
            .into_iter()
            .map(|name| (name, "7".to_owned()))
            .collect();
        let device = command.words.last().cloned().unwrap_or_default();
        let listing = format!(
            "3: {device}: <BROADCAST> mtu 1400 remote 10.9.9.9 local any\n10.0.0.1 dev {device}\n tx-checksum-x: on\n"
        );
        let before = Before {
            settings,
            listings: vec![listing; 2],
        };
        if let Ok(Plan::Steps(steps)) = plan::plan(&command, &before, context) {
            let entry = |step: plan::Step| Entry {
                code: Code::backend(10),
                done: crate::text::shell::line(&step.command),
                undo: step.undo,
            };
            entries.extend(steps.into_iter().map(entry));
        }
    }
    entries
}

fn assert_printable(text: &str) {
    for line in text.lines() {
        assert_eq!(plain::plain(line), line);
    }
}

fn check(facts: &Facts) {
    for lang in [Lang::En, Lang::Zh] {
        let diagnoses = judge(facts, &Selection::default(), lang);
        let lines = lines(&diagnoses);
        let style = Style {
            width: 80,
            detail: Detail::All,
            lang,
        };
        let text = anstream::adapter::strip_str(&report(&diagnoses, style)).to_string();
        assert_printable(&text);
        let json = Document::new(&diagnoses).unwrap().text().unwrap();
        assert_printable(&json);
        assert_eq!(json.lines().count(), 1);
        let read = Document::parse(&json).unwrap();
        let again: Vec<_> = super::hostile::lines(&read.diagnoses().cloned().collect::<Vec<_>>());
        for (line, again) in lines.iter().zip(&again) {
            assert_eq!(
                (line.words(), line.to_string()),
                (again.words(), again.to_string())
            );
            assert!(
                text.contains(&line.to_string()) || is_passed(&diagnoses, line),
                "{line}\n{text}"
            );
            if line
                .words()
                .is_some_and(|words| words[0] == "nft" && words[1] == "insert")
            {
                let read = FixCommand::of(line);
                // A table may be called as a placeholder is: that is left to the user.
                let left = matches!(read, Err(Refusal::Placeholder(_)));
                assert!(read.is_ok() || left, "{line}");
            }
        }
        let script: String = lines.iter().map(|line| format!("{line}\n")).collect();
        assert_eq!(run(&script), recorded(&lines), "{script}");
        let preview = fixes(&diagnoses);
        assert_printable(&preview);
        let meant: BTreeSet<_> = recorded(&lines).into_iter().collect();
        assert!(
            run(&preview).iter().all(|words| meant.contains(words)),
            "{preview}"
        );
        let undo = script::text(&undo_of(&lines));
        assert!(
            run(&undo)
                .iter()
                .all(|words| words[0] != "x" && words[0] != "touch"),
            "{undo}"
        );
    }
}

/// Whether a line is of a check that the report shows without its commands.
fn is_passed(diagnoses: &[Diagnosis], line: &FixLine) -> bool {
    let mut checks = diagnoses.iter().flat_map(|diagnosis| &diagnosis.checks);
    checks.any(|check| {
        matches!(check.status, Status::Pass | Status::Skip) && check.verify.as_ref() == Some(line)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn names_of_devices_and_programs(facts in fault(), names in prop::collection::vec(name(), NAMES.len())) {
        check(&renamed(&facts, &names));
    }

    #[test]
    fn names_of_rules(facts in filtered()) {
        check(&facts);
    }

    /// What the other end says: it may be no doctor.
    #[test]
    fn lines_of_a_peer(text in prop_oneof![name(), "[ -~]{0,30}", "(ip|x|A=b|if|#) ([ -~]{0,8} ?){0,4}"]) {
        let line = FixLine::from(text);
        assert_printable(&line.to_string());
        prop_assert_eq!(line.to_string().lines().count(), 1);
        if let Some(words) = line.words().filter(|words| PROGRAMS.contains(&words[0].as_str())) {
            let meant = FixLine::Command(words.to_vec());
            prop_assert_eq!(run(&line.to_string()), recorded([&meant]));
        }
        if line.words().is_none() {
            prop_assert_eq!(run(&line.to_string()), Vec::<Vec<String>>::new());
        }
    }
}
