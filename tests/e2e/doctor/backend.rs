//! Each fault alone.

use super::bench::Bench;
use super::fault::{Effect, FAULTS, Fault};
use crate::enter::in_lab;

#[test]
fn every_fault_alone() {
    in_lab(|lab| {
        let bench = Bench::new(lab);
        let healthy = bench.examine();
        healthy.must_be("pass");
        let wrong: Vec<_> = FAULTS
            .iter()
            .filter_map(|fault| judge(&bench, fault).err())
            .collect();
        let (right, all) = (FAULTS.len() - wrong.len(), FAULTS.len());
        println!(
            "{}",
            bench.figure(&format!("{right} of {all} faults judged right"))
        );
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    });
}

/// Injects a fault, asks the doctor and the client, mends it as the doctor says, and undoes it.
fn judge(bench: &Bench, fault: &Fault) -> Result<(), String> {
    bench.backend().sh(fault.inject);
    let judged = compare(bench, fault);
    bench.backend().sh(fault.undo);
    let after = bench.examine();
    assert_eq!(
        after.verdict(),
        "pass",
        "{}, undone: {}",
        fault.name,
        after.complaints()
    );
    judged.map_err(|wrong| format!("{}: {wrong}", fault.name))
}

fn compare(bench: &Bench, fault: &Fault) -> Result<(), String> {
    let diagnosis = bench.examine();
    match fault.effect {
        Effect::Hidden if !bench.answers() => return Err("the client gets no answer".to_owned()),
        Effect::Dead | Effect::DeadElsewhere if bench.answers_at_once() => {
            return Err("the client gets an answer".to_owned());
        }
        Effect::Hidden | Effect::Dead | Effect::DeadElsewhere => {}
    }
    if !fault.is_called(&diagnosis.verdict()) {
        let (found, complaints) = (diagnosis.verdict(), diagnosis.complaints());
        return Err(format!(
            "{found} instead of {}\n{complaints}",
            fault.verdict
        ));
    }
    if diagnosis.fix_of_verdict().is_empty() || fault.effect == Effect::DeadElsewhere {
        return Ok(());
    }
    bench.mend(diagnosis)
}
