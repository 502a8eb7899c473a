//! Judges facts: pure, each row of the tables of failure modes is one check.
//!
//! Checks run in the order in which a packet meets what they look at, except that the way back goes
//! before source validation, which a missing route imitates. What a check needs and another one found
//! broken makes it a skip that names the other; what the facts do not show makes it unknown.

mod arp;
mod asleep;
mod boot;
mod case;
mod commands;
mod decapsulation;
mod director;
mod diversion;
mod filters;
mod flow;
mod forwarding;
mod layers;
mod neighbour;
mod onward;
mod outcome;
mod path;
mod questions;
mod sent_on;
mod service;
mod size;
mod source_validation;
#[cfg(test)]
mod tests;
mod userspace;
mod vip;
mod way_back;

use super::catalogue;
use super::facts::{Facts, Role, Target};
use super::finding::{Code, Diagnosis, Finding, SCHEMA, Status, Verdict};
use super::firewall::Firewall;
use super::lang::{Lang, say};
use super::watch;
use case::Case;
pub(super) use case::conf;
pub(super) use commands::{lasting, set};
use outcome::Outcome;
use path::Place;
pub(super) use questions::{Questions, questions};

/// Which checks are wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selection {
    /// These only; none: all.
    pub only: Vec<Code>,
    /// Not these.
    pub skip: Vec<Code>,
}

impl Selection {
    fn wants(&self, code: Code) -> bool {
        (self.only.is_empty() || self.only.contains(&code)) && !self.skip.contains(&code)
    }
}

/// A row of the tables.
struct Check<C> {
    row: u8,
    place: Place,
    /// Rows that must not have failed.
    needs: &'static [u8],
    examine: fn(&C) -> Outcome,
}

/// A finding and where on the packet's way it is.
struct Placed {
    place: Place,
    finding: Finding,
    /// Whether it is the one that speaks for its row.
    listed: bool,
}

/// One diagnosis per target of a backend, the worst first; one of a director.
#[must_use]
pub fn judge(facts: &Facts, selection: &Selection, lang: Lang) -> Vec<Diagnosis> {
    let firewall = Firewall::on(facts).map_err(|error| error.to_string());
    let mut diagnoses = match facts.role {
        Role::Backend => facts
            .targets
            .iter()
            .map(|target| judge_target(facts, target, &firewall, selection, lang))
            .collect(),
        Role::Director => vec![director::judge(facts, &firewall, selection, lang)],
    };
    diagnoses.sort_by_key(|diagnosis| std::cmp::Reverse(diagnosis.verdict.status));
    diagnoses
}

fn judge_target(
    facts: &Facts,
    target: &Target,
    firewall: &Result<Firewall, String>,
    selection: &Selection,
    lang: Lang,
) -> Diagnosis {
    let case = Case::new(facts, target, lang, firewall);
    let all = run(&backend_checks(), Role::Backend, &case, lang);
    let (placed, verdict) = selected(all, selection, lang);
    let at_rest = Diagnosis {
        schema: SCHEMA,
        role: Role::Backend,
        vip: Some(case.service()),
        client: Some(target.client),
        path: path::of_backend(&case, &placed, verdict.code),
        verdict,
        checks: findings(placed),
    };
    match &facts.watched {
        Some(observation) => watch::apply(at_rest, observation, lang),
        None => at_rest,
    }
}

fn findings(placed: Vec<Placed>) -> Vec<Finding> {
    let listed = placed.into_iter().filter(|placed| placed.listed);
    listed.map(|placed| placed.finding).collect()
}

/// The wanted findings, and their verdict: no pass where one that was left out is none.
fn selected(all: Vec<Placed>, selection: &Selection, lang: Lang) -> (Vec<Placed>, Verdict) {
    let wanted = |placed: &Placed| selection.wants(placed.finding.code);
    let (placed, left_out): (Vec<_>, Vec<_>) = all.into_iter().partition(wanted);
    let verdict = self::verdict(&placed, lang);
    let of_left_out = self::verdict(&left_out, lang);
    let hides = matches!(of_left_out.status, Status::Fail | Status::Unknown);
    let Some(code) = of_left_out
        .code
        .filter(|_| hides && verdict.status == Status::Pass)
    else {
        return (placed, verdict);
    };
    let verdict = Verdict {
        status: Status::Unknown,
        code: None,
        summary: say!(
            lang,
            "no fault found by the selected checks; {code}, which was left out, is not right",
            "所选检查没有发现问题；但未选择的 {code} 并不正常"
        ),
    };
    (placed, verdict)
}

/// The rows of a backend in the order of the decision tree. Row 19 stands at each place where a packet
/// filter can drop; the first that fails is the finding.
fn backend_checks<'a>() -> Vec<Check<Case<'a>>> {
    const DECAPSULATED: &[u8] = &[1, 2, 3, 4];
    const LOCAL: &[u8] = &[5, 6];
    const ANSWERABLE: &[u8] = &[5, 6, 15, 17];
    const ORACLE: &[u8] = &[1, 2, 3, 4, 5, 6, 7, 15, 17];
    let check = |row, place, needs, examine| Check {
        row,
        place,
        needs,
        examine,
    };
    vec![
        check(1, Place::Tunnel, &[], decapsulation::module),
        check(3, Place::Tunnel, &[1], decapsulation::namespace),
        check(2, Place::Tunnel, &[1, 3], decapsulation::device),
        check(4, Place::Tunnel, &[1, 2, 3], decapsulation::port),
        check(20, Place::OuterFirewall, &[], filters::name_trap),
        check(19, Place::OuterFirewall, &[20], filters::outer),
        check(5, Place::Vip, &[], vip::missing),
        check(6, Place::Vip, &[], vip::forwarded),
        check(7, Place::Vip, LOCAL, vip::wide_mask),
        check(15, Place::WayBack, LOCAL, way_back::no_route),
        check(17, Place::WayBack, &[5, 6, 15], way_back::policy_rule),
        check(16, Place::WayBack, ANSWERABLE, way_back::wrong_way),
        check(18, Place::Out, &[5, 6, 15, 16, 17], way_back::next_hop),
        check(
            14,
            Place::SourceValidation,
            ORACLE,
            source_validation::own_client,
        ),
        check(
            10,
            Place::SourceValidation,
            ORACLE,
            source_validation::strict,
        ),
        check(
            11,
            Place::SourceValidation,
            ORACLE,
            source_validation::loose_without_address,
        ),
        check(
            12,
            Place::Aside,
            &[1, 2, 3, 4, 5, 6, 7, 10, 11, 14, 15, 17],
            source_validation::reverts,
        ),
        check(
            13,
            Place::InnerFirewall,
            DECAPSULATED,
            filters::reverse_path,
        ),
        check(19, Place::InnerFirewall, &[1, 2, 3, 4, 13], filters::inner),
        check(19, Place::OutputFirewall, ANSWERABLE, filters::answer),
        check(21, Place::Aside, ANSWERABLE, filters::invalid),
        check(22, Place::Aside, ANSWERABLE, filters::masquerade),
        check(30, Place::Socket, &[], service::listener),
        check(31, Place::Socket, &[30], service::udp_source),
        check(32, Place::Socket, &[30], service::accept_queue),
        check(24, Place::Aside, ANSWERABLE, size::segment_size),
        check(25, Place::Aside, &[], live),
        check(26, Place::Aside, &[], size::checksums),
        check(27, Place::Aside, &[], live),
        check(28, Place::Aside, &[], live),
        check(29, Place::Aside, &[], live),
        check(8, Place::Arp, &[], arp::answers),
        check(9, Place::Arp, &[], arp::announces),
        check(23, Place::Aside, &[], live),
    ]
}

/// Rows of which a machine at rest shows nothing.
fn live(case: &Case<'_>) -> Outcome {
    Outcome::skip(say!(
        case.lang,
        "only packets or the other end show it (--peer)",
        "只有抓到的包或对端的结果才能说明（--peer）"
    ))
}

fn run<C>(checks: &[Check<C>], role: Role, case: &C, lang: Lang) -> Vec<Placed> {
    let mut placed: Vec<Placed> = Vec::with_capacity(checks.len());
    for check in checks {
        let code = Code {
            role,
            row: check.row,
        };
        let outcome = match blocker(check, role, &placed) {
            Some(code) => Outcome::blocked(code),
            None => (check.examine)(case),
        };
        let listed = speaks_for_its_row(&mut placed, code, outcome.status);
        placed.push(Placed {
            place: check.place,
            finding: finding(code, outcome, lang),
            listed,
        });
    }
    placed
}

/// Of a row with several places the worst speaks, the first among equals.
fn speaks_for_its_row(placed: &mut [Placed], code: Code, status: Status) -> bool {
    let earlier = placed
        .iter_mut()
        .find(|placed| placed.listed && placed.finding.code == code);
    match earlier {
        Some(earlier) if earlier.finding.status >= weight(status) => false,
        Some(earlier) => {
            earlier.listed = false;
            true
        }
        None => true,
    }
}

/// A place that does not apply never speaks for a row that has one that does.
const fn weight(status: Status) -> Status {
    match status {
        Status::Pass | Status::Skip => Status::Pass,
        Status::Unknown | Status::Warn | Status::Fail => status,
    }
}

/// The check that failed and makes this one pointless: the root, not one that is itself blocked.
fn blocker<C>(check: &Check<C>, role: Role, placed: &[Placed]) -> Option<Code> {
    let needed = check.needs.iter().map(|row| Code { role, row: *row });
    needed
        .filter_map(|code| placed.iter().find(|placed| placed.finding.code == code))
        .find(|placed| placed.finding.status == Status::Fail)
        .map(|placed| placed.finding.code)
}

fn finding(code: Code, outcome: Outcome, lang: Lang) -> Finding {
    let title =
        catalogue::entry(code).map_or(String::new(), |entry| entry.title.in_lang(lang).to_owned());
    let summary = match outcome.blocked_by {
        Some(by) if outcome.summary.is_empty() => say!(lang, "blocked by {by}", "被 {by} 阻断"),
        Some(_) | None => outcome.summary,
    };
    Finding {
        code,
        title,
        status: outcome.status,
        proven: false,
        summary,
        evidence: outcome.evidence,
        fix: outcome.fix,
        persist: outcome.persist,
        verify: outcome.verify,
        blocked_by: outcome.blocked_by,
    }
}

/// The first FAIL in packet order; else the first of the worst.
fn verdict(placed: &[Placed], lang: Lang) -> Verdict {
    let listed = || placed.iter().filter(|placed| placed.listed);
    let findings = || listed().map(|placed| &placed.finding);
    let worst = findings().map(|finding| finding.status).max();
    let deciding = match worst {
        Some(status @ (Status::Fail | Status::Warn | Status::Unknown)) => {
            findings().find(|finding| finding.status == status)
        }
        Some(Status::Pass | Status::Skip) | None => None,
    };
    match deciding {
        Some(finding) => Verdict {
            status: finding.status,
            code: Some(finding.code),
            summary: finding.summary.clone(),
        },
        None => Verdict {
            status: Status::Pass,
            code: None,
            summary: say!(
                lang,
                "no fault found on this machine",
                "本机没有发现会让客户端收不到应答的问题"
            ),
        },
    }
}
