//! What was mended, as text and as JSON.

use serde::Serialize;

use super::persist::Persisted;
use super::session::{Applied, Ending, Fate, Session};
use crate::doctor::finding::{Code, Diagnosis, Status, Verdict};
use crate::doctor::lang::{Lang, say};
use crate::doctor::report::json::Document;
use crate::doctor::report::text::word as status_word;
use crate::text::{json, plain};

/// All that a run changed.
#[derive(Debug, Clone, Copy)]
pub struct Changes<'a> {
    /// What was mended; nothing where that was not asked for.
    pub session: Option<&'a Session>,
    /// What was written to last.
    pub persisted: &'a [Persisted],
    /// The undo script, where something was changed.
    pub undo_file: Option<&'a str>,
}

/// A finding before and after.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Changed<'a> {
    code: Code,
    vip: Option<&'a str>,
    before: Status,
    after: Status,
}

/// A command or a file, as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Change<'a> {
    code: Code,
    #[serde(skip_serializing_if = "Option::is_none")]
    vip: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    command: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    undo: Option<&'a [String]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<&'a str>,
    result: &'static str,
    /// Why it was not made.
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<String>,
}

/// The document of `--json` with what was changed.
#[derive(Debug, Serialize)]
struct Mended<'a> {
    #[serde(flatten)]
    document: &'a Document,
    /// The worst verdict before.
    #[serde(skip_serializing_if = "Option::is_none")]
    before: Option<&'a Verdict>,
    changed: Vec<Changed<'a>>,
    applied: Vec<Change<'a>>,
    persisted: Vec<Change<'a>>,
    undo_file: Option<&'a str>,
}

/// The JSON document, on one line with its line end.
///
/// # Errors
/// A value that JSON cannot express; none is known.
pub fn json(
    document: &Document,
    changes: Changes<'_>,
    lang: Lang,
) -> Result<String, serde_json::Error> {
    let commands = changes.session.map_or(&[][..], |session| &session.applied);
    let mended = Mended {
        document,
        before: changes
            .session
            .and_then(|session| session.before.first())
            .map(|diagnosis| &diagnosis.verdict),
        changed: changes.session.map(changed).unwrap_or_default(),
        applied: commands
            .iter()
            .map(|applied| command(applied, lang))
            .collect(),
        persisted: changes
            .persisted
            .iter()
            .map(|file| written(file, lang))
            .collect(),
        undo_file: changes.undo_file,
    };
    Ok(json::printable(&serde_json::to_string(&mended)?) + "\n")
}

fn command(applied: &Applied, lang: Lang) -> Change<'_> {
    Change {
        code: applied.code,
        vip: applied.vip.as_deref(),
        command: Some(&applied.command),
        undo: Some(&applied.undo),
        file: None,
        result: word(&applied.fate),
        why: why(&applied.fate, lang),
    }
}

fn written(persisted: &Persisted, lang: Lang) -> Change<'_> {
    Change {
        code: persisted.code,
        vip: None,
        command: None,
        undo: None,
        file: Some(&persisted.file),
        result: word(&persisted.fate),
        why: why(&persisted.fate, lang),
    }
}

const fn word(fate: &Fate) -> &'static str {
    match fate {
        Fate::Done => "done",
        Fate::AlreadySo => "already_so",
        Fate::Declined => "declined",
        Fate::Failed(_) => "failed",
        Fate::Left(_) => "left",
    }
}

fn why(fate: &Fate, lang: Lang) -> Option<String> {
    match fate {
        Fate::Failed(why) => Some(why.clone()),
        Fate::Left(refusal) => Some(refusal.in_lang(lang)),
        Fate::Done | Fate::AlreadySo | Fate::Declined => None,
    }
}

fn was_tried(session: &Session, code: Code, vip: Option<&str>) -> bool {
    let mut applied = session.applied.iter();
    applied.any(|applied| (applied.code, applied.vip.as_deref()) == (code, vip))
}

/// Findings that came to something else, or that were tried, in packet order.
fn changed(session: &Session) -> Vec<Changed<'_>> {
    let same = |before: &Diagnosis, after: &Diagnosis| {
        (&before.vip, before.role) == (&after.vip, after.role)
    };
    let pairs = session.before.iter().filter_map(|before| {
        let after = session.after.iter().find(|after| same(before, after))?;
        Some((before, after))
    });
    pairs
        .flat_map(|(before, after)| {
            before.checks.iter().filter_map(|check| {
                let mut now = after.checks.iter();
                let now = now.find(|now| now.code == check.code)?;
                Some((before.vip.as_deref(), check, now))
            })
        })
        .map(|(vip, before, after)| Changed {
            code: before.code,
            vip,
            // One that was blocked at first came to fail when its turn came.
            before: if was_tried(session, before.code, vip) {
                Status::Fail
            } else {
                before.status
            },
            after: after.status,
        })
        .filter(|changed| {
            changed.before != changed.after || was_tried(session, changed.code, changed.vip)
        })
        .collect()
}

/// What was changed, for people; it follows the report of how the machine is now.
#[must_use]
pub fn text(changes: Changes<'_>, lang: Lang) -> String {
    let mut lines = Vec::new();
    if let Some(session) = changes.session {
        lines.extend(
            session
                .applied
                .iter()
                .map(|applied| entry(applied.code, &applied.command, &applied.fate, lang)),
        );
        let changed = changed(session);
        lines.extend(
            changed
                .iter()
                .filter(|changed| is_notable(changed))
                .map(transition),
        );
        lines.push(ending(session, lang));
    }
    for persisted in changes.persisted {
        lines.push(entry(
            persisted.code,
            &persisted.file,
            &persisted.fate,
            lang,
        ));
    }
    lines.push(match changes.undo_file {
        Some(file) => say!(
            lang,
            "to undo all of this: {file}",
            "撤销以上全部更改：{file}"
        ),
        None => lang
            .pick("nothing was changed", "没有做任何更改")
            .to_owned(),
    });
    let lines: Vec<_> = lines.iter().map(|line| plain::plain(line)).collect();
    lines.join("\n") + "\n"
}

fn entry(code: Code, what: &str, fate: &Fate, lang: Lang) -> String {
    let what = what.lines().next().unwrap_or_default();
    match fate {
        Fate::Done => say!(lang, "{code}: done: {what}", "{code}：已执行：{what}"),
        Fate::AlreadySo => say!(
            lang,
            "{code}: already set: {what}",
            "{code}：本来如此：{what}"
        ),
        Fate::Declined => say!(lang, "{code}: declined: {what}", "{code}：未获同意：{what}"),
        Fate::Failed(why) => say!(
            lang,
            "{code}: failed: {what}: {why}",
            "{code}：失败：{what}：{why}"
        ),
        Fate::Left(refusal) => {
            let why = refusal.in_lang(lang);
            say!(
                lang,
                "{code}: left to you: {what} ({why})",
                "{code}：请您自己执行：{what}（{why}）"
            )
        }
    }
}

/// Whether it was worth a line in the report before or is so now.
fn is_notable(changed: &Changed<'_>) -> bool {
    let passes = |status| matches!(status, Status::Pass | Status::Skip);
    !passes(changed.before) || !passes(changed.after)
}

fn transition(changed: &Changed<'_>) -> String {
    let code = changed.code;
    let [before, after] = [changed.before, changed.after].map(status_word);
    let vip = changed.vip.map(|vip| format!(" {vip}")).unwrap_or_default();
    format!("{code}:{vip} {before} → {after}")
}

fn ending(session: &Session, lang: Lang) -> String {
    match session.ending {
        Ending::NothingFails => lang.pick("nothing fails", "没有失败的检查").to_owned(),
        Ending::NothingMore => lang
            .pick(
                "what still fails is left to you",
                "其余失败的检查需要您自己处理",
            )
            .to_owned(),
        Ending::DidNotHelp(code) => say!(
            lang,
            "stopped: {code} fails as before, although its commands have been run",
            "已停止：{code} 的命令已执行，但检查仍然失败"
        ),
        Ending::CommandFailed(code) => say!(
            lang,
            "stopped: a command of {code} failed",
            "已停止：{code} 的一条命令执行失败"
        ),
        Ending::TooMany => lang
            .pick(
                "stopped: too many findings for one run",
                "已停止：一次运行中要修复的问题过多",
            )
            .to_owned(),
    }
}
