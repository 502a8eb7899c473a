//! `tunlb events`: what happens to a running director, one event a line, and a command for each.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context as _, Result, bail};

use super::running::ApiArgs;
use super::status::author;
use super::{complain, print_json, print_on};
use crate::api::model::Event;
use crate::text::Plain;

/// Arguments of `tunlb events`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// First those after the event of that number, as far as the director keeps them (the last 4096); 0: all
    /// of these [default: only new ones]
    #[arg(long, value_name = "ID")]
    pub since: Option<u64>,

    /// One JSON document a line (described in docs/api.md)
    #[arg(long)]
    pub json: bool,

    /// Run this by `sh -c` for each event, one after the other: the JSON on its standard input,
    /// TUNLB_EVENT_ID, _AT, _KIND, _VIP, _BACKEND, _TEXT, _CODES and _UID in its environment
    #[arg(long, value_name = "COMMAND")]
    pub exec: Option<String>,

    /// The director.
    #[command(flatten)]
    pub api: ApiArgs,
}

/// Follows until it is stopped, or nothing reads it any more.
///
/// # Errors
/// No director answers, or it has ended.
pub fn run(args: &Args) -> Result<ExitCode> {
    let client = args.api.client()?;
    let mut last = match args.since {
        Some(id) => id,
        None => client.last_event()?,
    };
    let mut events = client.events(last)?;
    while let Some(event) = events.wait()? {
        let document = serde_json::to_string(&event)?;
        let is_read = if args.json {
            print_json(&document)?
        } else {
            print_on(&(line(&event) + "\n"))?
        };
        if let Some(command) = &args.exec {
            execute(command, &event, &document)?;
        } else if !is_read {
            return Ok(ExitCode::SUCCESS);
        }
        last = event.id;
    }
    bail!(
        "the director at {} has ended; its last event was {last}",
        client.socket().display()
    )
}

/// An event for readers.
fn line(event: &Event) -> String {
    let mut line = format!("{} {} {}: ", event.at, event.id, event.kind);
    let to_string = |text: &mut String, word: &str, of: Option<String>| {
        if let Some(of) = of.filter(|of| !event.text.contains(of.as_str())) {
            write!(text, "{word} {of}: ").unwrap_or_default(); // into a String
        }
    };
    to_string(&mut line, "vip", event.vip.clone());
    let backend = event.backend.map(|address| address.to_string());
    to_string(&mut line, "backend", backend);
    line += &event.text;
    if !event.codes.is_empty() {
        write!(line, " [{}]", event.codes.join(" ")).unwrap_or_default();
    }
    let by = event.by.as_ref().map(author);
    if let Some(by) = by.filter(|by| !event.text.ends_with(by)) {
        write!(line, ", by {by}").unwrap_or_default();
    }
    Plain(line).to_string()
}

/// Runs the operator's command and waits for it. One that fails is told, and the next event comes all the same.
fn execute(command: &str, event: &Event, document: &str) -> Result<()> {
    let mut shell = Command::new("sh");
    shell.args(["-c", command]).envs(environment(event));
    let child = shell.stdin(Stdio::piped()).spawn();
    let mut child = child.context("cannot run sh")?;
    if let Some(mut stdin) = child.stdin.take() {
        let written = stdin.write_all(format!("{document}\n").as_bytes());
        // A command that does not read it is fine.
        let failed = written
            .err()
            .filter(|error| error.kind() != io::ErrorKind::BrokenPipe);
        if let Some(error) = failed {
            return Err(error).context("cannot write to the command of --exec");
        }
    }
    let status = child
        .wait()
        .context("cannot wait for the command of --exec")?;
    if !status.success() {
        complain(&format!(
            "tunlb: event {}: the command ended with {status}",
            event.id
        ));
    }
    Ok(())
}

/// What the command may read without a JSON parser. All are set, so that none is left from elsewhere.
fn environment(event: &Event) -> [(&'static str, String); 8] {
    let uid = event.by.as_ref().map(|by| by.uid.to_string());
    let backend = event.backend.map(|address| address.to_string());
    let variables = [
        ("TUNLB_EVENT_ID", event.id.to_string()),
        ("TUNLB_EVENT_AT", event.at.clone()),
        ("TUNLB_EVENT_KIND", event.kind.clone()),
        ("TUNLB_EVENT_VIP", event.vip.clone().unwrap_or_default()),
        ("TUNLB_EVENT_BACKEND", backend.unwrap_or_default()),
        ("TUNLB_EVENT_TEXT", event.text.clone()),
        ("TUNLB_EVENT_CODES", event.codes.join(" ")),
        ("TUNLB_EVENT_UID", uid.unwrap_or_default()),
    ];
    // No variable can hold a NUL.
    variables.map(|(name, value)| (name, value.replace('\0', "")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event() -> Event {
        serde_json::from_str(
            r#"{"id":7,"at":"2026-11-27T15:20:00.123Z","kind":"health_changed","vip":"web","backend":"10.0.1.13",
                "text":"unhealthy: no_answer\u001b","codes":["B5","B10"],"by":{"uid":1000,"user":"ann","pid":4}}"#,
        )
        .unwrap()
    }

    #[test]
    fn lines() {
        assert_eq!(
            line(&event()),
            "2026-11-27T15:20:00.123Z 7 health_changed: vip web: backend 10.0.1.13: \
             unhealthy: no_answer\\u{1b} [B5 B10], by uid 1000 (ann)"
        );
        let event = Event {
            vip: Some("web".to_owned()),
            text: "vip web: backend 10.0.1.13: drained".to_owned(),
            codes: Vec::new(),
            by: None,
            ..event()
        };
        assert_eq!(
            line(&event),
            "2026-11-27T15:20:00.123Z 7 health_changed: vip web: backend 10.0.1.13: drained"
        );
    }

    #[test]
    fn a_command_gets_the_event() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("seen");
        let script = format!(
            "cat >{0}; echo $TUNLB_EVENT_ID $TUNLB_EVENT_KIND $TUNLB_EVENT_VIP $TUNLB_EVENT_BACKEND \
             $TUNLB_EVENT_UID >>{0}; echo \"$TUNLB_EVENT_CODES\" >>{0}",
            path.display()
        );
        execute(&script, &event(), "{\"id\":7}").unwrap();
        assert_eq!(
            std::fs::read_to_string(&path).unwrap(),
            "{\"id\":7}\n7 health_changed web 10.0.1.13 1000\nB5 B10\n"
        );
    }

    /// It fails, and reads nothing of a document that is longer than a pipe.
    #[test]
    fn a_command_that_fails_ends_nothing() {
        let long = "a".repeat(1 << 20);
        execute("exec 0<&-; exit 3", &event(), &long).unwrap();
    }
}
