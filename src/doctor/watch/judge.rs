//! Puts what was seen of a flow into a diagnosis: the finding that packets prove, the verdict, the picture.
//! Pure.
//!
//! Where packets leave several rows (`conclusion`), what the facts say of each chooses among them.

use std::collections::BTreeMap;

use super::conclusion::{Conclusion, conclude};
use super::observation::Observation;
use super::texts::{self, Last};
use super::trail::Trail;
use crate::doctor::catalogue::{self, Severity};
use crate::doctor::facts::{Observed, Role};
use crate::doctor::finding::{Code, Diagnosis, Finding, Stage, StageState, Status, Verdict};
use crate::doctor::judge::{conf, lasting, set};
use crate::doctor::lang::Lang;
use crate::doctor::lines::command;

/// Packets that are quoted as evidence.
const MOST_QUOTED: usize = 12;

/// Counters, and reasons for drops, that are shown.
const MOST_COUNTERS: usize = 64;

/// Puts what was seen into a diagnosis: the finding that it proves, and the verdict. Leaves a diagnosis of
/// another VIP, or of a director, as it is.
#[must_use]
pub fn apply(diagnosis: Diagnosis, observation: &Observation, lang: Lang) -> Diagnosis {
    if diagnosis.role != Role::Backend
        || diagnosis.vip.as_deref() != Some(&texts::service(observation))
    {
        return diagnosis;
    }
    let trail = Trail::of(observation);
    let (last, conclusion) = conclude(&trail, observation, &diagnosis.checks);
    match conclusion {
        Conclusion::Rows(rows) => fault(diagnosis, observation, &trail, last, rows, lang),
        Conclusion::Answered => answered(diagnosis, observation, &trail, lang),
        Conclusion::Open => {
            let seen = texts::last_seen(last, observation, &trail, lang);
            let mut diagnosis = open(diagnosis, &seen);
            if last == Last::Nothing {
                nothing(&mut diagnosis, seen, observation, lang);
            }
            diagnosis
        }
    }
}

/// Of several rows that which the facts say most against, the first among equals.
fn likeliest(rows: &[u8], checks: &[Finding]) -> Code {
    let mut likeliest = (Status::Pass, None);
    for row in rows {
        let code = Code::backend(*row);
        let found = checks.iter().find(|check| check.code == code);
        let status = found.map_or(Status::Unknown, |check| check.status);
        if likeliest.1.is_none() || status > likeliest.0 {
            likeliest = (status, Some(code));
        }
    }
    // Each place has at least one row.
    likeliest.1.unwrap_or(Code::backend(23))
}

fn evidence(observation: &Observation, lang: Lang) -> BTreeMap<String, String> {
    let mut evidence = BTreeMap::new();
    for (number, sighting) in observation.seen.iter().take(MOST_QUOTED).enumerate() {
        evidence.insert(texts::packet(number + 1, lang), sighting.timed());
    }
    let telling = observation.deltas.iter().filter(|(counter, _)| {
        texts::TELLING.contains(&counter.as_str()) || counter.ends_with(".rx_errs")
    });
    for (counter, by) in telling.take(MOST_COUNTERS) {
        evidence.insert(counter.clone(), format!("+{by}"));
    }
    if observation.lost > 0 {
        evidence.insert(texts::lost(lang), observation.lost.to_string());
    }
    let reasons = match &observation.drop_reasons {
        Observed::Seen(reasons) if reasons.is_empty() => return evidence,
        Observed::Seen(reasons) => {
            let reasons = reasons.iter().take(MOST_COUNTERS);
            let reasons: Vec<_> = reasons
                .map(|(reason, count)| format!("{reason} {count}"))
                .collect();
            reasons.join(", ")
        }
        Observed::Unseen(why) => why.clone(),
    };
    evidence.insert(texts::drop_reasons(lang), reasons);
    evidence
}

/// The flow ends for one of these rows. It is proven where no other row is left, or where the facts say the
/// same; what is not seen proves nothing where packets were lost.
fn fault(
    mut diagnosis: Diagnosis,
    observation: &Observation,
    trail: &Trail<'_>,
    last: Last,
    rows: &[u8],
    lang: Lang,
) -> Diagnosis {
    let code = likeliest(rows, &diagnosis.checks);
    let at_rest = diagnosis.verdict.code;
    let finding = finding_of(&mut diagnosis.checks, code, lang);
    let is_certain = rows.len() == 1 || finding.status >= Status::Warn;
    finding.proven = is_certain && observation.lost == 0;
    if finding.status != Status::Fail || finding.summary.is_empty() {
        let seen = texts::last_seen(last, observation, trail, lang);
        finding.summary = match texts::cause(code.row) {
            Some(cause) => texts::joined(&seen, cause.in_lang(lang), lang),
            None => seen,
        };
    }
    if last == Last::Arrived && code == Code::backend(10) {
        filtered_on_entry(finding, observation, trail, lang);
    }
    finding.status = Status::Fail;
    finding.blocked_by = None;
    finding.evidence.extend(evidence(observation, lang));
    diagnosis.verdict = Verdict {
        status: Status::Fail,
        code: Some(code),
        summary: finding.summary.clone(),
    };
    if at_rest != Some(code) {
        diagnosis.path = picture(observation, trail);
    }
    diagnosis
}

/// The checks at rest know the device to the director, not the one by which the outer packet came.
fn filtered_on_entry(
    finding: &mut Finding,
    observation: &Observation,
    trail: &Trail<'_>,
    lang: Lang,
) {
    let Some(outer) = trail.outer else { return };
    let name = conf(&outer.device, "rp_filter");
    finding.summary = texts::filtered_on_entry(observation, outer, lang);
    finding.fix = vec![set(&name, 2, lang)];
    finding.persist = vec![lasting(&name, 2)];
    finding.verify = outer.outer.map(|tunnel| {
        let (to, from) = (tunnel.destination, tunnel.source);
        command!["ip", "route", "get", to, "from", from, "iif", outer.device]
    });
}

/// The flow works. A fault that would have stopped it is no fact any more, but may be one of others.
fn answered(
    mut diagnosis: Diagnosis,
    observation: &Observation,
    trail: &Trail<'_>,
    lang: Lang,
) -> Diagnosis {
    let seen = texts::last_seen(Last::Answered, observation, trail, lang);
    let finding = finding_of(&mut diagnosis.checks, Code::backend(23), lang);
    finding.status = Status::Pass;
    finding.proven = true;
    finding.summary = String::new();
    finding.evidence.extend(evidence(observation, lang));
    diagnosis.path = picture(observation, trail);
    let verdict = &mut diagnosis.verdict;
    let severity = verdict.code.and_then(catalogue::entry);
    let is_fatal = severity.is_some_and(|entry| entry.severity == Severity::Fatal);
    match verdict.status {
        Status::Fail if is_fatal => {
            verdict.status = Status::Warn;
            verdict.summary = texts::yet(&seen, &verdict.summary, lang);
        }
        Status::Fail | Status::Warn => {
            verdict.summary = texts::yet(&seen, &verdict.summary, lang);
        }
        Status::Pass | Status::Skip | Status::Unknown => {
            verdict.status = Status::Pass;
            verdict.code = None;
            verdict.summary = seen;
        }
    }
    diagnosis
}

/// The packets do not decide: what the facts said stays, unless they said that all is well.
fn open(mut diagnosis: Diagnosis, seen: &str) -> Diagnosis {
    let verdict = &mut diagnosis.verdict;
    if matches!(
        verdict.status,
        Status::Pass | Status::Skip | Status::Unknown
    ) {
        verdict.status = Status::Unknown;
        verdict.summary = seen.to_owned();
    }
    diagnosis
}

/// No packet came: it may be lost before this machine, or none was sent.
fn nothing(diagnosis: &mut Diagnosis, seen: String, observation: &Observation, lang: Lang) {
    let code = Code::backend(23);
    diagnosis.path = picture(observation, &Trail::of(observation));
    let finding = finding_of(&mut diagnosis.checks, code, lang);
    finding.status = Status::Unknown;
    finding.summary = seen;
    finding.evidence.extend(evidence(observation, lang));
    if diagnosis.verdict.status == Status::Unknown && !observation.interrupted {
        diagnosis.verdict.code = Some(code);
    }
}

/// The finding of a code; a new one where the selection left it out.
fn finding_of(checks: &mut Vec<Finding>, code: Code, lang: Lang) -> &mut Finding {
    let at = checks.iter().position(|check| check.code == code);
    let at = at.unwrap_or_else(|| {
        let entry = catalogue::entry(code);
        checks.push(Finding {
            code,
            title: entry.map_or(String::new(), |entry| entry.title.in_lang(lang).to_owned()),
            status: Status::Skip,
            proven: false,
            summary: String::new(),
            evidence: BTreeMap::new(),
            fix: Vec::new(),
            persist: Vec::new(),
            verify: None,
            blocked_by: None,
        });
        checks.len() - 1
    });
    &mut checks[at]
}

/// The way as the packets show it: E, T, the service, E again.
fn picture(observation: &Observation, trail: &Trail<'_>) -> Vec<Stage> {
    let any_reply = trail.reply.or(trail.reset).or(trail.error);
    let wrong_reply = trail.reply_of_other.or(trail.reply_into_tunnel);
    let name = |seen: Option<&super::Sighting>, expected: &Option<String>, unknown: &str| {
        let seen = seen.map(|sighting| sighting.device.clone());
        seen.or_else(|| expected.clone())
            .unwrap_or_else(|| unknown.to_owned())
    };
    let places = [
        (
            name(trail.outer, &observation.physical, "E"),
            trail.outer.is_some(),
        ),
        (
            name(trail.inner, &observation.tunnel, "tunnel"),
            trail.inner.is_some(),
        ),
        ("socket".to_owned(), any_reply.or(wrong_reply).is_some()),
        (
            name(any_reply, &observation.physical, "E"),
            any_reply.is_some(),
        ),
    ];
    // A packet that was seen later was at the places before, too.
    let reached = places.iter().rposition(|(_, seen)| *seen);
    let reached = reached.map_or(0, |last| last + 1);
    let stages = places.into_iter().enumerate();
    stages
        .map(|(at, (stage, _))| Stage {
            stage,
            state: match at.cmp(&reached) {
                std::cmp::Ordering::Less => StageState::Ok,
                std::cmp::Ordering::Equal => StageState::Fail,
                std::cmp::Ordering::Greater => StageState::Skipped,
            },
        })
        .collect()
}
