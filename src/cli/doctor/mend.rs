//! `tunlb doctor --fix --apply` and `--persist`: asks, changes this machine, and says what became of it.

use std::fs::{self, Metadata};
use std::io::{self, BufRead as _, IsTerminal as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};

use super::{Args, diagnose, document, exit_code, files, print_report};
use crate::cli::{BAD_NEWS, NO_WORK, complain, print};
use crate::doctor::Lang;
use crate::doctor::finding::{Diagnosis, Finding, Status};
use crate::doctor::fix::before::Before;
use crate::doctor::fix::command::Change;
use crate::doctor::fix::host::Host;
use crate::doctor::fix::machine::{Machine, Proposal};
use crate::doctor::fix::persist::{self, Persisted, is_about_boot};
use crate::doctor::fix::report::{self, Changes};
use crate::doctor::fix::script::{Entry, Script};
use crate::doctor::fix::session::{self, Fate, Session};
use crate::io::{command, file};

/// How long a command may take; loading a module is the slowest.
const DEADLINE: Duration = Duration::from_secs(30);

/// Mends, makes last, reports. 0 where nothing fails afterwards, 1 for a FAIL, 2 where that is unknown or
/// a file could not be written.
pub(super) fn run(args: &Args, lang: Lang) -> Result<ExitCode> {
    if !args.yes && !io::stdin().is_terminal() {
        bail!("there is no terminal to ask for each change; --yes makes them without asking");
    }
    let Some((_, found)) = diagnose(args, lang)? else {
        return Ok(ExitCode::from(BAD_NEWS));
    };
    let stamp = seconds();
    let mut here = Here {
        args,
        lang,
        script: match &args.undo_file {
            Some(path) => Script::new(path.clone()),
            None => Script::stamped(Path::new("."), stamp),
        },
    };
    let changed = change(&mut here, &found, stamp);
    let (session, persisted) = changed.with_context(|| match here.script.path() {
        Some(path) => format!("stopped; undo what was done: {}", files::shown(path)),
        None => "stopped; nothing was changed".to_owned(),
    })?;
    let diagnoses = session.as_ref().map_or(&found, |session| &session.after);
    here.tell(session.as_ref(), &persisted, diagnoses)?;
    let unwritten = |file: &Persisted| matches!(file.fate, Fate::Failed(_));
    if persisted.iter().any(unwritten) {
        return Ok(ExitCode::from(NO_WORK));
    }
    Ok(exit_code(diagnoses))
}

fn change(
    here: &mut Here<'_>,
    found: &[Diagnosis],
    stamp: u64,
) -> Result<(Option<Session>, Vec<Persisted>)> {
    let session = if here.args.apply {
        Some(session::mend(here, found.to_vec(), stamp)?)
    } else {
        None
    };
    if !here.args.persist {
        return Ok((session, Vec::new()));
    }
    let findings = lasting(session.as_ref(), found);
    let persisted = persist::persist(here, &findings, Host::read(Path::new("/")))?;
    Ok((session, persisted))
}

/// The findings whose snippets are written: those that were mended, or, where nothing is to be mended,
/// those that fail; and those that the next boot will bring.
fn lasting(session: Option<&Session>, found: &[Diagnosis]) -> Vec<Finding> {
    let checks = |diagnoses: &[Diagnosis], wanted: fn(&Finding) -> bool| {
        let checks = diagnoses.iter().flat_map(|diagnosis| &diagnosis.checks);
        checks
            .filter(|finding| wanted(finding))
            .cloned()
            .collect::<Vec<_>>()
    };
    let mut findings = match session {
        Some(session) => {
            let boot = checks(&session.after, is_about_boot);
            session.mended.iter().cloned().chain(boot).collect()
        }
        None => checks(found, |finding| {
            finding.status == Status::Fail || is_about_boot(finding)
        }),
    };
    let mut seen = Vec::new();
    findings.retain(|finding| {
        let is_new = !finding.persist.is_empty() && !seen.contains(&finding.persist);
        seen.push(finding.persist.clone());
        is_new
    });
    findings
}

/// Seconds since the epoch; 0 on a machine whose clock is before it.
fn seconds() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.map_or(0, |since| since.as_secs())
}

/// This machine.
struct Here<'a> {
    args: &'a Args,
    lang: Lang,
    script: Script,
}

impl Here<'_> {
    fn tell(
        &self,
        session: Option<&Session>,
        persisted: &[Persisted],
        diagnoses: &[Diagnosis],
    ) -> Result<()> {
        let undo_file = self.script.path().map(|path| path.display().to_string());
        let changes = Changes {
            session,
            persisted,
            undo_file: undo_file.as_deref(),
        };
        let document = document(diagnoses)?;
        if self.args.json {
            return print(&report::json(&document, changes, self.lang)?);
        }
        print_report(self.args, diagnoses, self.lang)?;
        print(&format!("\n{}", report::text(changes, self.lang)))
    }

    /// Asks on stderr: stdout is the report's.
    fn ask(&self) -> Result<bool> {
        let question = self.lang.pick("apply? [y/N] ", "执行吗？[y/N] ");
        let mut stderr = io::stderr();
        let asked = stderr
            .write_all(question.as_bytes())
            .and_then(|()| stderr.flush());
        asked.context("cannot ask")?;
        let mut answer = String::new();
        let read = io::stdin().lock().read_line(&mut answer);
        read.context("cannot read the answer")?;
        Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
    }
}

impl Machine for Here<'_> {
    type Error = anyhow::Error;

    fn diagnose(&mut self) -> Result<Vec<Diagnosis>> {
        let found = diagnose(self.args, self.lang)?;
        let (_, diagnoses) = found.context("the configuration is not valid any more")?;
        Ok(diagnoses)
    }

    fn before(&mut self, change: &Change) -> Result<Before, String> {
        Before::read(change)
    }

    fn allows(&mut self, proposal: &Proposal<'_>) -> Result<bool> {
        complain(&format!("{}: {}", proposal.code, proposal.what));
        if self.args.yes {
            return Ok(true);
        }
        let heading = self.lang.pick("  undo", "  撤销方法");
        for line in proposal.undo {
            complain(&format!("{heading}: {line}"));
        }
        self.ask()
    }

    fn record(&mut self, entry: Entry) -> Result<()> {
        Ok(self.script.record(entry)?)
    }

    fn forget_last(&mut self) -> Result<()> {
        Ok(self.script.forget_last()?)
    }

    fn run(&mut self, words: &[String]) -> Result<(), String> {
        let Some((program, arguments)) = words.split_first() else {
            return Ok(());
        };
        let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
        let ran = command::output(program, &arguments, DEADLINE);
        ran.map(drop).map_err(|error| error.to_string())
    }

    fn write(&mut self, file: &str, content: &str) -> Result<(), String> {
        replace(Path::new(file), content).map_err(|error| format!("write {file}: {error}"))
    }
}

/// What sysctl(8), networkd and ifupdown read; networkd is not root.
const CONFIGURATION: u32 = 0o644;

/// Gives a configuration file a content; one that is there keeps its mode.
fn replace(path: &Path, content: &str) -> io::Result<()> {
    fs::create_dir_all(path.parent().unwrap_or(Path::new("/")))?;
    let former = fs::symlink_metadata(path).ok().filter(Metadata::is_file);
    let mode = former.map_or(CONFIGURATION, |former| former.permissions().mode() & 0o777);
    file::replace(path, mode, content.as_bytes())
}
