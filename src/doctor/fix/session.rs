//! Mends the verdict's finding, has the machine examined anew, and so on.
//!
//! It ends where nothing fails any more, where nothing more can be applied, where a command fails, or
//! where the same commands would have to mend the same finding again: they did not help.

use super::Refusal;
use super::before::Before;
use super::command::{Change, Command};
use super::machine::{Machine, Proposal};
use super::plan::{Context, Plan, Step, plan};
use super::script::Entry;
use crate::doctor::finding::{Code, Diagnosis, Finding, Status};
use crate::doctor::lines::FixLine;
use crate::text::shell;

/// Most findings that one run mends; a machine of that many has a cause of its own.
const MOST_ROUNDS: usize = 64;

/// What became of one command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// The finding.
    pub code: Code,
    /// The VIP that the finding is about.
    pub vip: Option<String>,
    /// As a line of a shell.
    pub command: String,
    /// Lines of a shell that take it back; none where it was not run.
    pub undo: Vec<String>,
    /// What became of it.
    pub fate: Fate,
}

/// What became of one change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// Made.
    Done,
    /// It was so already.
    AlreadySo,
    /// The user said no.
    Declined,
    /// It failed: why.
    Failed(String),
    /// Left to the user: why.
    Left(Refusal),
}

/// How a session ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// Nothing fails any more.
    NothingFails,
    /// What still fails is left to the user, or was declined.
    NothingMore,
    /// This finding fails as before, although its commands have been run.
    DidNotHelp(Code),
    /// A command of this finding failed.
    CommandFailed(Code),
    /// As many findings were mended as one run may, and there are more.
    TooMany,
}

/// What a session did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// What was found first.
    pub before: Vec<Diagnosis>,
    /// What was found last.
    pub after: Vec<Diagnosis>,
    /// Every command, in the order of the attempts.
    pub applied: Vec<Applied>,
    /// The findings of which all commands were run.
    pub mended: Vec<Finding>,
    /// How it ended.
    pub ending: Ending,
}

/// A finding that was tried.
#[derive(Debug, PartialEq, Eq)]
struct Tried {
    vip: Option<String>,
    code: Code,
    fix: Vec<FixLine>,
    outcome: Outcome,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Applied,
    NotWhole,
    Failed,
}

/// Mends what can be mended of what was found `before`. `stamp` tells this run's firewall rules from those of other runs.
///
/// # Errors
/// Whatever keeps the machine from being examined, the user from being asked or the undo from being
/// kept. What was done until then is in the undo script.
pub fn mend<M: Machine>(
    machine: &mut M,
    before: Vec<Diagnosis>,
    stamp: u64,
) -> Result<Session, M::Error> {
    let mut session = Session {
        after: before.clone(),
        before,
        applied: Vec::new(),
        mended: Vec::new(),
        ending: Ending::TooMany,
    };
    let mut tried = Vec::new();
    for _ in 0..MOST_ROUNDS {
        let (vip, finding) = match next(&session.after, &tried) {
            Ok(next) => next,
            Err(ending) => {
                session.ending = ending;
                break;
            }
        };
        let mut attempt = Attempt {
            machine,
            vip: vip.as_ref(),
            code: finding.code,
            stamp,
            applied: &mut session.applied,
        };
        let outcome = attempt.finding(&finding)?;
        let code = finding.code;
        tried.push(Tried {
            vip,
            code,
            fix: finding.fix.clone(),
            outcome,
        });
        session.after = machine.diagnose()?;
        match outcome {
            Outcome::Applied => session.mended.push(finding),
            Outcome::NotWhole => {}
            Outcome::Failed => {
                session.ending = Ending::CommandFailed(code);
                break;
            }
        }
    }
    Ok(session)
}

/// The next finding to mend, with its VIP: the first FAIL in packet order of the worst VIP that was not
/// tried yet.
fn next(diagnoses: &[Diagnosis], tried: &[Tried]) -> Result<(Option<String>, Finding), Ending> {
    let failing = diagnoses.iter().filter_map(|diagnosis| {
        let code = diagnosis.verdict.code?;
        let finding = diagnosis
            .checks
            .iter()
            .find(|finding| finding.code == code)?;
        (finding.status == Status::Fail).then_some((diagnosis.vip.clone(), finding))
    });
    let mut ending = Ending::NothingFails;
    for (vip, finding) in failing {
        // Commands that were not run may differ from look to look: they may name processes.
        let earlier = tried.iter().find(|tried| {
            let same = (&tried.vip, tried.code) == (&vip, finding.code);
            same && (tried.outcome != Outcome::Applied || tried.fix == finding.fix)
        });
        match earlier.map(|tried| tried.outcome) {
            None => return Ok((vip, finding.clone())),
            Some(Outcome::Applied) => return Err(Ending::DidNotHelp(finding.code)),
            Some(Outcome::NotWhole | Outcome::Failed) => ending = Ending::NothingMore,
        }
    }
    Err(ending)
}

fn setting_name(command: &Command) -> Option<String> {
    let Change::Setting { name, .. } = &command.change else {
        return None;
    };
    Some(name.clone())
}

/// The work on one finding.
struct Attempt<'a, M> {
    machine: &'a mut M,
    vip: Option<&'a String>,
    code: Code,
    stamp: u64,
    applied: &'a mut Vec<Applied>,
}

impl<M: Machine> Attempt<'_, M> {
    /// All commands or none: half a mend may be worse than none.
    fn finding(&mut self, finding: &Finding) -> Result<Outcome, M::Error> {
        let mut commands = Vec::new();
        let mut refused = false;
        for line in &finding.fix {
            match Command::of(line) {
                Ok(command) => commands.push(command),
                Err(refusal) => {
                    refused |= refusal != Refusal::Advice;
                    self.note(line.to_string(), Vec::new(), Fate::Left(refusal));
                }
            }
        }
        if refused || commands.is_empty() {
            for command in commands {
                let line = shell::line(&command.words);
                self.note(line, Vec::new(), Fate::Left(Refusal::NotAlone));
            }
            return Ok(Outcome::NotWhole);
        }
        let own_settings: Vec<_> = commands.iter().filter_map(setting_name).collect();
        for command in &commands {
            let outcome = self.command(command, &own_settings)?;
            if outcome != Outcome::Applied {
                return Ok(outcome);
            }
        }
        Ok(Outcome::Applied)
    }

    fn command(&mut self, command: &Command, own_settings: &[String]) -> Result<Outcome, M::Error> {
        let mark = format!("tunlb-doctor-{}-{}", self.stamp, self.applied.len() + 1);
        let context = Context {
            own_settings,
            mark: &mark,
        };
        let before = self.machine.before(&command.change);
        let planned = before.map_err(Refusal::Unseen).and_then(|before| {
            let plan = plan(command, &before, context)?;
            Ok((plan, before))
        });
        let line = shell::line(&command.words);
        match planned {
            Ok((Plan::AlreadySo, _)) => {
                self.note(line, Vec::new(), Fate::AlreadySo);
                Ok(Outcome::Applied)
            }
            Ok((Plan::Steps(steps), before)) => self.steps(command, &steps, &before),
            Err(refusal) => {
                self.note(line, Vec::new(), Fate::Left(refusal));
                Ok(Outcome::NotWhole)
            }
        }
    }

    fn steps(
        &mut self,
        command: &Command,
        steps: &[Step],
        before: &Before,
    ) -> Result<Outcome, M::Error> {
        for step in steps {
            let line = shell::line(&step.command);
            let proposal = Proposal {
                code: self.code,
                what: &line,
                undo: &step.undo,
            };
            if !self.machine.allows(&proposal)? {
                self.note(line, Vec::new(), Fate::Declined);
                return Ok(Outcome::NotWhole);
            }
            self.machine.record(Entry {
                code: self.code,
                done: line.clone(),
                undo: step.undo.clone(),
            })?;
            if let Err(why) = self.machine.run(&step.command) {
                // One of several settings may have changed all the same.
                if self.machine.before(&command.change).as_ref() == Ok(before) {
                    self.machine.forget_last()?;
                }
                self.note(line, Vec::new(), Fate::Failed(why));
                return Ok(Outcome::Failed);
            }
            self.note(line, step.undo.clone(), Fate::Done);
        }
        Ok(Outcome::Applied)
    }

    fn note(&mut self, command: String, undo: Vec<String>, fate: Fate) {
        self.applied.push(Applied {
            code: self.code,
            vip: self.vip.cloned(),
            command,
            undo,
            fate,
        });
    }
}

#[cfg(test)]
mod tests;
