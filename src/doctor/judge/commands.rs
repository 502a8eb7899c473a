//! Commands that several checks propose, for names that others chose.

use std::fmt::Display;

use crate::doctor::firewall::RuleText;
use crate::doctor::lang::{Lang, say};
use crate::doctor::lines::{FixLine, Snippet, command, is_setting_name};

/// Gives a setting a value.
pub(in crate::doctor) fn set(name: &str, value: impl Display, lang: Lang) -> FixLine {
    if is_setting_name(name) {
        return command!["sysctl", "-w", format!("{name}={value}")];
    }
    FixLine::Advice(say!(
        lang,
        "set {name} to {value}; sysctl cannot be given this name",
        "把 {name} 设为 {value}；sysctl 无法使用这个名称"
    ))
}

/// Shows a setting.
pub(super) fn show(name: &str, lang: Lang) -> FixLine {
    if is_setting_name(name) {
        return command!["sysctl", name];
    }
    FixLine::Advice(say!(lang, "look at {name}", "查看 {name}"))
}

/// One setting, for the next boot.
pub(in crate::doctor) fn lasting(name: &str, value: impl Display) -> Snippet {
    Snippet::settings(vec![format!("{name} = {value}")])
}

/// What a rule looks at, in the words of both programs.
pub(super) struct Matching {
    pub(super) nft: Vec<String>,
    pub(super) iptables: Vec<String>,
}

impl Matching {
    /// From words without names of others.
    pub(super) fn of(nft: &str, iptables: &str) -> Self {
        let words = |text: &str| text.split(' ').map(str::to_owned).collect();
        Self {
            nft: words(nft),
            iptables: words(iptables),
        }
    }
}

/// An accept rule at the beginning of a rule's chain: never a flush. Advice where nft's language or the
/// kernel has no such name, or the program is none of iptables.
pub(super) fn accept(rule: &RuleText, matching: &Matching, lang: Lang) -> FixLine {
    let (start, words, end): (_, _, &[&str]) = match Ruler::of(rule) {
        Some(Ruler::Nft) => (
            vec![
                "nft",
                "insert",
                "rule",
                rule.family,
                &rule.table,
                &rule.entered,
            ],
            &matching.nft,
            &["accept"],
        ),
        Some(Ruler::Iptables(program)) => (
            vec![program, "-t", &rule.table, "-I", &rule.entered],
            &matching.iptables,
            &["-j", "ACCEPT"],
        ),
        None => return by_hand(rule, lang),
    };
    let words = words.iter().map(String::as_str);
    let words = start.into_iter().chain(words).chain(end.iter().copied());
    FixLine::Command(words.map(str::to_owned).collect())
}

/// Shows a rule's chain.
pub(super) fn show_chain(rule: &RuleText, lang: Lang) -> FixLine {
    match Ruler::of(rule) {
        Some(Ruler::Nft) => command!["nft", "list", "chain", rule.family, rule.table, rule.chain],
        Some(Ruler::Iptables(program)) => command![program, "-t", rule.table, "-nvL", rule.chain],
        None => by_hand(rule, lang),
    }
}

/// Advice where a command could not be exact.
pub(super) fn by_hand(rule: &RuleText, lang: Lang) -> FixLine {
    let place = rule.place();
    FixLine::Advice(say!(
        lang,
        "accept it at the beginning of {place}, with the program that named it so",
        "在 {place} 的开头放行它，请使用取了这个名称的程序"
    ))
}

/// A device's name as a string of nft's language; nothing where that has no such string.
pub(super) fn nft_device(name: &str) -> Option<String> {
    let plain = |letter: char| letter.is_ascii_graphic() && !"\"\\*".contains(letter);
    (!name.is_empty() && name.chars().all(plain)).then(|| format!("\"{name}\""))
}

/// The program that changes a rule.
enum Ruler<'a> {
    Nft,
    Iptables(&'a str),
}

impl<'a> Ruler<'a> {
    /// Nothing where it cannot be told by name what is meant.
    fn of(rule: &'a RuleText) -> Option<Self> {
        if rule.program == "nft" {
            let named = is_nft_identifier(&rule.table) && is_nft_identifier(&rule.chain);
            return named.then_some(Self::Nft);
        }
        let program = rule.program.strip_suffix("-save").unwrap_or(&rule.program);
        let is_name = |name: &str| !name.is_empty() && !name.starts_with(['-', '!']);
        let variant = program
            .strip_prefix("iptables")
            .or(program.strip_prefix("ip6tables"));
        let known = matches!(variant, Some("" | "-nft" | "-legacy"));
        (known && is_name(&rule.table) && is_name(&rule.chain)).then_some(Self::Iptables(program))
    }
}

/// What nft's scanner takes for a name: `{letter}|[_.]`, then those, digits, `/`, `\` and `-`; a backslash is
/// left out.
fn is_nft_identifier(name: &str) -> bool {
    let rest = |letter: char| letter.is_ascii_alphanumeric() || "/-_.".contains(letter);
    name.starts_with(|first: char| first.is_ascii_alphabetic() || "_.".contains(first))
        && name.chars().all(rest)
}
