//! `tunlb reload`: a running director reads its file again, and says what changed.

use std::fmt::Write as _;
use std::process::ExitCode;

use anyhow::Result;
use clap::ValueEnum;

use super::running::ApiArgs;
use super::{print, print_json};
use crate::api::model::Reloaded;
use crate::client::{Mode, Overriding};
use crate::text::Plain;

/// Arguments of `tunlb reload`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Show what would change, and change nothing
    #[arg(long)]
    pub dry_run: bool,

    /// What becomes of overrides: each stays unless the file changes the same key, or all are dropped
    #[arg(long, value_enum, default_value_t, value_name = "keep|drop")]
    pub overrides: Overrides,

    /// One JSON document on stdout (described in docs/api.md)
    #[arg(long)]
    pub json: bool,

    /// The director.
    #[command(flatten)]
    pub api: ApiArgs,
}

/// `--overrides`
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Overrides {
    /// Those of keys that the file does not change stay
    #[default]
    Keep,
    /// All end
    Drop,
}

/// Reloads: 0, or 1 where the file is invalid.
///
/// # Errors
/// No director answers, or it refuses the file.
pub fn run(args: &Args) -> Result<ExitCode> {
    let mode = if args.dry_run {
        Mode::DryRun
    } else {
        Mode::Apply
    };
    let overrides = match args.overrides {
        Overrides::Keep => Overriding::Keep,
        Overrides::Drop => Overriding::Drop,
    };
    let reloaded = args.api.client()?.reload(mode, overrides)?;
    if args.json {
        print_json(&serde_json::to_string(&reloaded)?)?;
    } else {
        print(&text(&reloaded))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// One line for each change.
pub(super) fn text(reloaded: &Reloaded) -> String {
    let mut text = String::new();
    let ended = if reloaded.dry_run {
        "override would end"
    } else {
        "override ended"
    };
    for change in &reloaded.changes {
        writeln!(text, "{}", Plain(change)).unwrap_or_default(); // into a String
    }
    for end in &reloaded.overrides_ended {
        writeln!(text, "{ended}: {}", Plain(end)).unwrap_or_default();
    }
    if text.is_empty() {
        text.push_str(if reloaded.dry_run {
            "nothing would change\n"
        } else {
            "nothing changed\n"
        });
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts() {
        let reloaded = |dry_run, changes: &[&str], ended: &[&str]| {
            let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
            text(&Reloaded {
                schema: 1,
                dry_run,
                generation: 4,
                changes: owned(changes),
                overrides_ended: owned(ended),
            })
        };
        assert_eq!(reloaded(false, &[], &[]), "nothing changed\n");
        assert_eq!(reloaded(true, &[], &[]), "nothing would change\n");
        let changes = ["vip web: backend 10.0.1.13: added", "vip \u{1b}: removed"];
        let ended = ["vip web: backend 10.0.1.12: weight as in the file"];
        assert_eq!(
            reloaded(false, &changes, &ended),
            "vip web: backend 10.0.1.13: added\nvip \\u{1b}: removed\n\
             override ended: vip web: backend 10.0.1.12: weight as in the file\n"
        );
        assert!(reloaded(true, &[], &ended).starts_with("override would end: vip web"));
    }
}
