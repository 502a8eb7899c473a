//! `tunlb diff`: a running director against its file: what operators override, and what a reload would change.

use std::fmt::Write as _;
use std::process::ExitCode;

use anyhow::Result;
use serde::Serialize;

use super::running::ApiArgs;
use super::{BAD_NEWS, print, print_json};
use crate::api::model::{Override, Overrides, Reloaded, SCHEMA};
use crate::client::{Client, ClientError, Mode, Overriding};
use crate::text::Plain;

/// Arguments of `tunlb diff`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// One JSON document on stdout (described in docs/operations.md)
    #[arg(long)]
    pub json: bool,

    /// The director.
    #[command(flatten)]
    pub api: ApiArgs,
}

/// All differences.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Diff {
    schema: u32,
    /// What operators changed.
    overrides: Vec<Override>,
    /// What a reload would do; absent where there is no file, or where it would be refused.
    reload: Option<Reload>,
    /// Why a reload would be refused.
    problems: Vec<String>,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
struct Reload {
    changes: Vec<String>,
    overrides_ended: Vec<String>,
}

/// Compares: 0 where nothing differs, else 1.
///
/// # Errors
/// No director answers.
pub fn run(args: &Args) -> Result<ExitCode> {
    let diff = Diff::take(&args.api.client()?)?;
    if args.json {
        print_json(&serde_json::to_string(&diff)?)?;
    } else {
        print(&diff.text())?;
    }
    Ok(if diff.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(BAD_NEWS)
    })
}

impl Diff {
    fn take(client: &Client) -> Result<Self, ClientError> {
        let Overrides { overrides, .. } = client.overrides()?;
        let (reload, problems) = match client.reload(Mode::DryRun, Overriding::Keep) {
            Ok(reloaded) => (Some(Reload::from(reloaded)), Vec::new()),
            Err(ClientError::Problem(problem)) if problem.status == 422 => {
                let told = ClientError::Problem(problem).to_string();
                (None, told.lines().map(str::to_owned).collect())
            }
            Err(error) => return Err(error),
        };
        Ok(Self {
            schema: SCHEMA,
            overrides,
            reload,
            problems,
        })
    }

    fn is_empty(&self) -> bool {
        let same = |reload: &Reload| reload.changes.is_empty();
        self.overrides.is_empty()
            && self.problems.is_empty()
            && self.reload.as_ref().is_none_or(same)
    }

    fn text(&self) -> String {
        if self.is_empty() {
            return "no difference\n".to_owned();
        }
        let mut text = String::new();
        let overrides: Vec<_> = self.overrides.iter().map(line).collect();
        section(&mut text, "Overrides of the file:", &overrides);
        if let Some(reload) = &self.reload {
            section(&mut text, "A reload would change:", &reload.changes);
            section(
                &mut text,
                "Overrides that would end then:",
                &reload.overrides_ended,
            );
        }
        section(&mut text, "A reload would be refused:", &self.problems);
        text
    }
}

fn section(text: &mut String, title: &str, lines: &[String]) {
    if lines.is_empty() {
        return;
    }
    writeln!(text, "{title}").unwrap_or_default(); // into a String
    for line in lines {
        writeln!(text, "  {}", Plain(line)).unwrap_or_default();
    }
}

/// An override in words.
pub(super) fn line(of: &Override) -> String {
    let set = &of.set;
    let present = set
        .present
        .map(|there| if there { "added" } else { "removed" }.to_owned());
    let keys = [
        present,
        set.weight.map(|weight| format!("weight {weight}")),
        set.state.clone(),
        set.health
            .as_ref()
            .map(|health| format!("taken for {health}")),
    ];
    let keys: Vec<_> = keys.into_iter().flatten().collect();
    let by = super::status::author(&of.by);
    let mut line = format!(
        "vip {}: backend {}: {} by {by} at {}",
        of.vip,
        of.address,
        keys.join(", "),
        of.made
    );
    if let Some(expires) = &of.expires {
        line += &format!(", until {expires}");
    }
    if let Some(reason) = &of.reason {
        line += &format!(": {reason}");
    }
    line
}

impl From<Reloaded> for Reload {
    fn from(reloaded: Reloaded) -> Self {
        Self {
            changes: reloaded.changes,
            overrides_ended: reloaded.overrides_ended,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: Diff = Diff {
        schema: 1,
        overrides: Vec::new(),
        reload: None,
        problems: Vec::new(),
    };

    fn overridden() -> Override {
        serde_json::from_str(
            r#"{"vip":"web","address":"10.0.1.12","weight":50,"state":"draining",
                "made":"2026-11-27T15:20:00.000Z","expires":"2026-11-27T15:30:00.000Z","expires_in_seconds":600,
                "by":{"uid":1000,"user":"ann","pid":7},"reason":"new\nkernel"}"#,
        )
        .unwrap()
    }

    #[test]
    fn texts() {
        assert_eq!(NONE.text(), "no difference\n");
        let diff = Diff {
            overrides: vec![overridden()],
            reload: Some(Reload {
                changes: vec!["vip web: backend 10.0.1.13: added".to_owned()],
                overrides_ended: Vec::new(),
            }),
            ..NONE
        };
        assert!(!diff.is_empty());
        assert_eq!(
            diff.text(),
            "Overrides of the file:\n  \
             vip web: backend 10.0.1.12: weight 50, draining by uid 1000 (ann) at \
             2026-11-27T15:20:00.000Z, until 2026-11-27T15:30:00.000Z: new\\nkernel\n\
             A reload would change:\n  vip web: backend 10.0.1.13: added\n"
        );
        let diff = Diff {
            problems: vec!["a.toml:3: wrong".to_owned()],
            ..NONE
        };
        assert_eq!(
            diff.text(),
            "A reload would be refused:\n  a.toml:3: wrong\n"
        );
        assert!(!diff.is_empty());
    }
}
