//! `tunlb undo`: what killed processes left behind, undone and told.

use std::process::ExitCode;

use serde::Serialize;

use super::{NO_WORK, complain, print};
use crate::io::capability::{self, Capability};
use crate::io::undo::{self, Left, Leftovers, Living, Reversal, Step};

/// Arguments of `tunlb undo`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Show the commands that would undo it, and change nothing
    #[arg(long)]
    dry_run: bool,

    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// Routes that are named one by one; a director may have left one for each of thousands of VIPs.
const ROUTES_NAMED: usize = 10;

/// Undoes what it finds; exit code 2 where something could not be undone.
///
/// # Errors
/// A missing privilege; the kernel does not answer.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    if !args.dry_run {
        capability::require(&[Capability::NetAdmin])?;
    }
    let Leftovers {
        left,
        living,
        elsewhere,
        folders,
        unusable,
    } = undo::find();
    let left: Vec<_> = left
        .into_iter()
        .map(|left| {
            if args.dry_run {
                Ok(shown(&left))
            } else {
                undone(left)
            }
        })
        .collect::<anyhow::Result<_>>()?;
    let report = Report {
        dry_run: args.dry_run,
        left,
        living: living.into_iter().map(Running::from).collect(),
        elsewhere,
        not_read: folders.into_iter().chain(unusable).collect(),
    };
    if args.json {
        print(&format!("{}\n", serde_json::to_string(&report)?))?;
    } else {
        print(&report.text())?;
    }
    report.complaints().iter().for_each(|line| complain(line));
    Ok(if report.complaints().is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(NO_WORK)
    })
}

/// All that the command has to say.
#[derive(Debug, Serialize)]
struct Report {
    dry_run: bool,
    left: Vec<Journal>,
    living: Vec<Running>,
    /// Journals of other network namespaces.
    elsewhere: usize,
    /// Folders and files that could not be used, and why.
    not_read: Vec<String>,
}

/// What one killed process left.
#[derive(Debug, Serialize)]
struct Journal {
    path: String,
    command: String,
    pid: u32,
    steps: Vec<Told>,
    /// Numbers of the lines that were not understood.
    garbage: Vec<usize>,
}

/// One step and what became of it.
#[derive(Debug, Serialize)]
struct Told {
    step: Step,
    outcome: Outcome,
    by_hand: String,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
enum Outcome {
    /// To be undone: nothing was changed.
    Left,
    Undone,
    Gone,
    Kept {
        now: i32,
    },
    Failed {
        error: String,
    },
}

/// A process that lives.
#[derive(Debug, Serialize)]
struct Running {
    path: String,
    command: String,
    pid: u32,
}

impl From<Living> for Running {
    fn from(Living { path, pid, command }: Living) -> Self {
        Self {
            path: path.display().to_string(),
            command,
            pid,
        }
    }
}

impl Told {
    fn new(step: &Step, outcome: Outcome) -> Self {
        Self {
            by_hand: step.by_hand(),
            step: step.clone(),
            outcome,
        }
    }
}

fn shown(left: &Left) -> Journal {
    let steps = left.steps().into_iter();
    journal(
        left,
        steps.map(|step| Told::new(step, Outcome::Left)).collect(),
    )
}

fn undone(left: Left) -> anyhow::Result<Journal> {
    let mut journal = journal(&left, Vec::new());
    let steps = &mut journal.steps;
    let failures = left.undo(|step, reversal| {
        let outcome = match reversal {
            Reversal::Undone => Outcome::Undone,
            Reversal::Gone => Outcome::Gone,
            Reversal::Kept { now } => Outcome::Kept { now },
        };
        steps.push(Told::new(step, outcome));
    })?;
    for (step, error) in failures {
        let error = error.to_string();
        steps.push(Told::new(&step, Outcome::Failed { error }));
    }
    Ok(journal)
}

fn journal(left: &Left, steps: Vec<Told>) -> Journal {
    Journal {
        path: left.path().display().to_string(),
        command: left.command(),
        pid: left.pid(),
        steps,
        garbage: left.garbage().to_vec(),
    }
}

impl Report {
    fn text(&self) -> String {
        let mut text = String::new();
        for journal in &self.left {
            text += &journal.text(self.dry_run);
        }
        if self.left.is_empty() {
            text +=
                "nothing to undo: no killed run or decap left anything in this network namespace\n";
        }
        for Running { command, pid, .. } in &self.living {
            text += &format!(
                "process {pid} (tunlb {command}) is running: it undoes its changes when it ends, \
                 and its journal is left alone\n"
            );
        }
        if self.elsewhere > 0 {
            text += &format!(
                "left alone: {} of other network namespaces; undo those there\n",
                counted(self.elsewhere, "journal")
            );
        }
        text
    }

    /// What could not be undone, and what to do about it.
    fn complaints(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for journal in &self.left {
            for told in &journal.steps {
                if let Outcome::Failed { error } = &told.outcome {
                    let (step, by_hand) = (&told.step, &told.by_hand);
                    lines.push(format!(
                        "tunlb: cannot undo {step}: {error}; by hand: {by_hand}"
                    ));
                }
            }
            for line in &journal.garbage {
                lines.push(format!(
                    "tunlb: {}: line {line} is not understood, nothing was made of it; once what it says \
                     is settled, remove the file",
                    journal.path
                ));
            }
        }
        let not_read = self.not_read.iter();
        lines.extend(not_read.map(|text| format!("tunlb: undo journal not used: {text}")));
        lines
    }
}

impl Journal {
    fn text(&self, dry_run: bool) -> String {
        let Self { command, pid, .. } = self;
        let changes = counted(self.steps.len(), "change");
        let mut text = format!("left by tunlb {command} (process {pid}): {changes}");
        text += if dry_run {
            ", which these commands undo\n"
        } else {
            "\n"
        };
        let mut routes = 0;
        for line in self
            .steps
            .iter()
            .filter_map(|told| Some((told.step.is_one_of_many(), told.line()?)))
        {
            let (is_route, line) = line;
            routes += usize::from(is_route);
            if !is_route || routes <= ROUTES_NAMED {
                text += &format!("  {line}\n");
            }
        }
        if routes > ROUTES_NAMED {
            text += &format!("  and {} more routes\n", routes - ROUTES_NAMED);
        }
        let gone = self
            .steps
            .iter()
            .filter(|told| matches!(told.outcome, Outcome::Gone));
        match gone.count() {
            0 => {}
            gone => text += &format!("  gone already: {}\n", counted(gone, "change")),
        }
        text
    }
}

impl Told {
    /// A line for the list; failures are for stderr, what was gone is only counted.
    fn line(&self) -> Option<String> {
        match self.outcome {
            Outcome::Left => Some(self.by_hand.clone()),
            Outcome::Undone => Some(self.step.undone()),
            Outcome::Kept { now } => {
                Some(format!("kept {}: it was set to {now} meanwhile", self.step))
            }
            Outcome::Gone | Outcome::Failed { .. } => None,
        }
    }
}

fn counted(number: usize, what: &str) -> String {
    match number {
        1 => format!("1 {what}"),
        _ => format!("{number} {what}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::sysctl::Sysctl;
    use crate::io::undo::Change;

    fn told(step: Step, outcome: Outcome) -> Told {
        Told::new(&step, outcome)
    }

    fn forwarding(outcome: Outcome) -> Told {
        let change = Change {
            key: Sysctl::ipv4_forward(),
            link: None,
            before: 0,
            after: 1,
        };
        let dependents = Vec::new();
        told(Step::Sysctl { change, dependents }, outcome)
    }

    fn route(host: u8, outcome: Outcome) -> Told {
        let net = std::net::IpAddr::from([10, 0, 0, host]).into();
        told(Step::Unreachable { net }, outcome)
    }

    fn report(steps: Vec<Told>) -> Report {
        Report {
            dry_run: false,
            left: vec![Journal {
                path: "/run/tunlb/1-7-0.journal".into(),
                command: "run".into(),
                pid: 7,
                steps,
                garbage: Vec::new(),
            }],
            living: Vec::new(),
            elsewhere: 0,
            not_read: Vec::new(),
        }
    }

    #[test]
    fn what_was_undone_is_told_in_a_line_each() {
        let report = report(vec![
            forwarding(Outcome::Undone),
            forwarding(Outcome::Kept { now: 2 }),
            route(1, Outcome::Gone),
        ]);
        assert_eq!(
            report.text(),
            "left by tunlb run (process 7): 3 changes\n  restored net.ipv4.ip_forward: 1 -> 0\n  \
             kept net.ipv4.ip_forward: 0 -> 1: it was set to 2 meanwhile\n  gone already: 1 change\n"
        );
        assert!(report.complaints().is_empty());
    }

    #[test]
    fn thousands_of_routes_are_counted() {
        let steps = (0..=99).map(|host| route(host, Outcome::Undone)).collect();
        let text = report(steps).text();
        assert_eq!(text.lines().count(), 12);
        assert!(text.ends_with("  and 90 more routes\n"), "{text}");
    }

    #[test]
    fn what_cannot_be_undone_comes_with_its_command() {
        let mut report = report(vec![forwarding(Outcome::Failed {
            error: "read-only".into(),
        })]);
        report.left[0].garbage = vec![3];
        let complaints = report.complaints();
        assert_eq!(
            complaints[0],
            "tunlb: cannot undo net.ipv4.ip_forward: 0 -> 1: read-only; by hand: sysctl -w net.ipv4.ip_forward=0"
        );
        assert!(
            complaints[1].contains("line 3 is not understood"),
            "{complaints:?}"
        );
    }

    #[test]
    fn nothing_to_undo_is_said() {
        let mut report = report(Vec::new());
        report.left.clear();
        report.living.push(Running {
            path: String::new(),
            command: "decap".into(),
            pid: 42,
        });
        report.elsewhere = 2;
        let text = report.text();
        assert!(text.starts_with("nothing to undo: "), "{text}");
        assert!(
            text.contains("process 42 (tunlb decap) is running"),
            "{text}"
        );
        assert!(
            text.contains("2 journals of other network namespaces"),
            "{text}"
        );
    }
}
