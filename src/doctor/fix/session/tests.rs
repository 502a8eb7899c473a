//! Sessions on a machine of literals: which faults it has, and what mends each.

use std::collections::BTreeMap;

use super::*;
use crate::doctor::facts::Role;
use crate::doctor::finding::{SCHEMA, Verdict};

/// A fault, and the commands that mend it.
struct Fault {
    row: u8,
    fix: Vec<&'static str>,
    /// The command that takes the fault away.
    cure: &'static str,
}

#[derive(Default)]
struct Fake {
    faults: Vec<Fault>,
    settings: BTreeMap<String, String>,
    /// What the first fault's commands are at the next look.
    others: Vec<&'static str>,
    no: Vec<&'static str>,
    broken: Vec<&'static str>,
    ran: Vec<String>,
    script: Vec<Entry>,
}

impl Machine for Fake {
    type Error = String;

    fn diagnose(&mut self) -> Result<Vec<Diagnosis>, String> {
        let checks: Vec<_> = self.faults.iter().map(finding).collect();
        if let (Some(fix), Some(fault)) = (self.others.pop(), self.faults.first_mut()) {
            fault.fix = vec![fix];
        }
        let first = checks.first().map(|finding| finding.code);
        let status = first.map_or(Status::Pass, |_| Status::Fail);
        Ok(vec![Diagnosis {
            schema: SCHEMA,
            role: Role::Backend,
            vip: Some("10.0.0.100:80/tcp".to_owned()),
            client: None,
            verdict: Verdict {
                status,
                code: first,
                summary: String::new(),
            },
            path: Vec::new(),
            checks,
        }])
    }

    fn before(&mut self, _: &Change) -> Result<Before, String> {
        Ok(Before {
            settings: self.settings.clone(),
            listings: vec![String::new()],
        })
    }

    fn allows(&mut self, proposal: &Proposal<'_>) -> Result<bool, String> {
        Ok(!self.no.contains(&proposal.what))
    }

    fn record(&mut self, entry: Entry) -> Result<(), String> {
        self.script.push(entry);
        Ok(())
    }

    fn forget_last(&mut self) -> Result<(), String> {
        self.script.pop();
        Ok(())
    }

    fn run(&mut self, command: &[String]) -> Result<(), String> {
        let line = command.join(" ");
        assert_eq!(self.script.last().unwrap().done, line, "recorded before");
        if self.broken.contains(&line.as_str()) {
            return Err("no such device".to_owned());
        }
        self.faults.retain(|fault| !line.starts_with(fault.cure));
        self.ran.push(line);
        Ok(())
    }

    fn write(&mut self, _: &str, _: &str) -> Result<(), String> {
        Ok(())
    }
}

fn finding(fault: &Fault) -> Finding {
    Finding {
        code: Code::backend(fault.row),
        title: String::new(),
        status: Status::Fail,
        proven: false,
        summary: String::new(),
        evidence: BTreeMap::new(),
        fix: fault.fix.iter().map(|fix| FixLine::from(*fix)).collect(),
        persist: Vec::new(),
        verify: None,
        blocked_by: None,
    }
}

fn mended(machine: &mut Fake) -> Result<Session, String> {
    let before = machine.diagnose()?;
    mend(machine, before, 7)
}

const VIP: &str = "ip addr add 10.0.0.100/32 dev lo";
const RULE: &str = "ip rule add from 10.0.0.100 lookup 100";
const ACCEPT: &str = "nft insert rule inet f out ip saddr 10.0.0.100 accept";

fn fault(row: u8, fix: &'static str) -> Fault {
    Fault {
        row,
        fix: vec![fix],
        cure: fix,
    }
}

fn three() -> Fake {
    Fake {
        faults: vec![fault(5, VIP), fault(17, RULE), fault(19, ACCEPT)],
        ..Fake::default()
    }
}

#[test]
fn one_finding_after_the_other_until_nothing_fails() {
    let mut machine = three();
    let session = mended(&mut machine).unwrap();
    let accept = format!("{ACCEPT} comment tunlb-doctor-7-3");
    assert_eq!(session.ending, Ending::NothingFails);
    assert_eq!(machine.ran, [VIP, RULE, accept.as_str()]);
    assert_eq!(session.mended.len(), 3);
    let done = |entry: &Entry| entry.done.clone();
    assert_eq!(
        machine.script.iter().map(done).collect::<Vec<_>>(),
        machine.ran
    );
    assert_eq!(
        session.applied[0].undo,
        ["ip addr del 10.0.0.100/32 dev lo"]
    );
}

#[test]
fn it_stops_where_a_mend_did_not_help() {
    let mut machine = three();
    machine.faults[0].cure = "something else";
    let session = mended(&mut machine).unwrap();
    assert_eq!(session.ending, Ending::DidNotHelp(Code::backend(5)));
    assert_eq!(machine.ran, [VIP]);
}

#[test]
fn the_same_row_with_other_commands_is_another_fault() {
    let mut machine = Fake {
        faults: vec![
            fault(19, ACCEPT),
            fault(19, "iptables -I OUTPUT -s 10.0.0.100 -j ACCEPT"),
        ],
        ..Fake::default()
    };
    let session = mended(&mut machine).unwrap();
    assert_eq!(session.ending, Ending::NothingFails);
    assert_eq!(machine.ran.len(), 2);
}

#[test]
fn a_failing_command_stops_and_leaves_no_undo() {
    let mut machine = three();
    machine.broken = vec![RULE];
    let session = mended(&mut machine).unwrap();
    assert_eq!(session.ending, Ending::CommandFailed(Code::backend(17)));
    assert_eq!(machine.ran, [VIP]);
    assert_eq!(machine.script.len(), 1, "of what was done");
    let last = session.applied.last().unwrap();
    assert_eq!(last.fate, Fate::Failed("no such device".to_owned()));
}

#[test]
fn no_means_no() {
    let mut machine = three();
    machine.no = vec![VIP];
    let session = mended(&mut machine).unwrap();
    assert_eq!(session.ending, Ending::NothingMore);
    assert!(machine.ran.is_empty() && machine.script.is_empty());
    assert_eq!(session.applied[0].fate, Fate::Declined);
}

#[test]
fn half_a_mend_is_none() {
    let mut machine = Fake {
        faults: vec![Fault {
            row: 8,
            fix: vec![VIP, "tunlb decap --setup", "# or restart it"],
            cure: VIP,
        }],
        ..Fake::default()
    };
    let session = mended(&mut machine).unwrap();
    assert_eq!(session.ending, Ending::NothingMore);
    assert!(machine.ran.is_empty());
    let fates: Vec<_> = session
        .applied
        .iter()
        .map(|applied| applied.fate.clone())
        .collect();
    assert_eq!(
        fates,
        [Refusal::NotUndoable, Refusal::Advice, Refusal::NotAlone].map(Fate::Left)
    );
}

#[test]
fn what_is_left_once_is_left_whatever_its_commands_name_next_time() {
    let mut machine = Fake {
        faults: vec![fault(30, "nsenter --net=/proc/7/ns/net tunlb doctor")],
        others: vec!["nsenter --net=/proc/8/ns/net tunlb doctor"],
        ..Fake::default()
    };
    let session = mended(&mut machine).unwrap();
    assert_eq!(session.ending, Ending::NothingMore);
    assert_eq!(session.applied.len(), 1);
}

#[test]
fn advice_beside_commands_does_not_keep_them() {
    let mut machine = Fake {
        faults: vec![Fault {
            row: 5,
            fix: vec![VIP, "# and tell your colleagues"],
            cure: VIP,
        }],
        ..Fake::default()
    };
    assert_eq!(mended(&mut machine).unwrap().ending, Ending::NothingFails);
}
