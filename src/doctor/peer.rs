//! Both ends of the tunnel as one diagnosis: the director's checks come first, as its packets do.

use super::facts::Role;
use super::finding::{Code, Diagnosis, StageState, Status, Verdict};
use super::lang::{Lang, say};

/// Merges the other end's findings into one's own. The verdict is the first FAIL on the packet's way;
/// where neither end has one, the worst of both; where both are right, the network between is left.
#[must_use]
pub fn merge(own: Diagnosis, peer: Diagnosis, lang: Lang) -> Diagnosis {
    let role = own.role;
    let (first, second) = if own.role == Role::Director {
        (own, peer)
    } else {
        (peer, own)
    };
    let verdict = verdict(&first, &second, lang);
    let mut path = first.path;
    path.extend(second.path);
    let mut checks = first.checks;
    checks.extend(second.checks);
    Diagnosis {
        schema: first.schema,
        role,
        vip: second.vip.or(first.vip),
        client: second.client.or(first.client),
        verdict,
        path,
        checks,
    }
}

fn verdict(first: &Diagnosis, second: &Diagnosis, lang: Lang) -> Verdict {
    if first.verdict.status != Status::Fail && has_seen_nothing(second) {
        return lost_between(first, lang);
    }
    let (one, other) = (&first.verdict, &second.verdict);
    match one.status.max(other.status) {
        Status::Pass | Status::Skip => Verdict {
            status: Status::Pass,
            code: None,
            summary: say!(
                lang,
                "both ends are right: what is left is the network between them, or beyond the backend (B23)",
                "两端都正常：剩下的可能是两者之间的网络，或后端之外的网络（B23）"
            ),
        },
        worst if one.status == worst => one.clone(),
        Status::Unknown | Status::Warn | Status::Fail => other.clone(),
    }
}

/// The backend watched, and nothing of the tunnel arrived.
fn has_seen_nothing(backend: &Diagnosis) -> bool {
    let arrived = backend.path.first();
    backend.verdict.code == Some(Code::backend(23))
        && arrived.is_some_and(|stage| stage.state == StageState::Fail)
}

/// What a director whose checks pass sent does not reach the backend.
fn lost_between(director: &Diagnosis, lang: Lang) -> Verdict {
    let evidence = director.checks.iter().flat_map(|check| &check.evidence);
    let into_tun = evidence
        .filter(|(name, _)| name.ends_with(" tx_packets"))
        .map(|(name, packets)| format!("{name} = {packets}"))
        .next();
    let into_tun = into_tun.map_or_else(String::new, |counter| format!(" ({counter})"));
    Verdict {
        status: Status::Fail,
        code: Some(Code::backend(23)),
        summary: say!(
            lang,
            "the director takes packets{into_tun} and sends them, 0 arrived at the backend: the network between \
             drops the tunnel's packets",
            "director 收到包{into_tun}并已发出，后端收到 0 个：两者之间的网络丢弃了隧道包"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::finding::{SCHEMA, Stage};

    fn diagnosis(role: Role, status: Status, code: Option<Code>) -> Diagnosis {
        Diagnosis {
            schema: SCHEMA,
            role,
            vip: None,
            client: None,
            verdict: Verdict {
                status,
                code,
                summary: "…".to_owned(),
            },
            path: Vec::new(),
            checks: Vec::new(),
        }
    }

    #[test]
    fn the_first_fail_on_the_way() {
        let backend = |status, row| diagnosis(Role::Backend, status, row);
        let director = |status, row| diagnosis(Role::Director, status, row);
        let (b10, d35) = (Some(Code::backend(10)), Some(Code::director(35)));
        for (own, peer, expected) in [
            (
                backend(Status::Fail, b10),
                director(Status::Pass, None),
                (Status::Fail, b10),
            ),
            (
                backend(Status::Fail, b10),
                director(Status::Fail, d35),
                (Status::Fail, d35),
            ),
            (
                director(Status::Warn, d35),
                backend(Status::Fail, b10),
                (Status::Fail, b10),
            ),
            (
                director(Status::Pass, None),
                backend(Status::Pass, None),
                (Status::Pass, None),
            ),
        ] {
            let role = own.role;
            let merged = merge(own, peer, Lang::En);
            assert_eq!((merged.verdict.status, merged.verdict.code), expected);
            assert_eq!(merged.role, role);
        }
    }

    #[test]
    fn what_was_sent_and_did_not_arrive() {
        let watched = |state| {
            let mut backend = diagnosis(Role::Backend, Status::Fail, Some(Code::backend(23)));
            let stage = "eth0".to_owned();
            backend.path.push(Stage { stage, state });
            backend
        };
        let director = diagnosis(Role::Director, Status::Pass, None);
        let merged = merge(watched(StageState::Fail), director.clone(), Lang::En);
        assert!(merged.verdict.summary.contains("0 arrived"));
        let merged = merge(watched(StageState::Ok), director, Lang::En);
        assert_eq!(
            merged.verdict.summary, "…",
            "the answer was lost, not the request"
        );
    }
}
