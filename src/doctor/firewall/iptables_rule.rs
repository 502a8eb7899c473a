//! A rule of iptables-save, from its options to the model.

use std::net::{IpAddr, SocketAddr};

use super::iptables_match;
use super::model::{Change, Family, Register, Step, Verdict};
use super::names;
use super::{Destination, Diversion};

/// A word of a rule, as a shell would split it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Word {
    pub(super) text: String,
    /// Quoted words are never options.
    quoted: bool,
}

/// Splits at spaces; quotes keep them, a backslash keeps the character behind it.
pub(super) fn words(line: &str) -> Vec<Word> {
    let mut words = Vec::new();
    let (mut word, mut is_quoted, mut in_quotes) = (String::new(), false, false);
    let mut letters = line.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '\\' => word.extend(letters.next()),
            '"' => {
                in_quotes = !in_quotes;
                is_quoted = true;
            }
            ' ' if !in_quotes => push(&mut words, &mut word, &mut is_quoted),
            _ => word.push(letter),
        }
    }
    push(&mut words, &mut word, &mut is_quoted);
    words
}

fn push(words: &mut Vec<Word>, word: &mut String, quoted: &mut bool) {
    let (text, quoted) = (std::mem::take(word), std::mem::take(quoted));
    if quoted || !text.is_empty() {
        words.push(Word { text, quoted });
    }
}

/// An option and what stands behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Choice {
    pub(super) negated: bool,
    pub(super) name: String,
    pub(super) values: Vec<String>,
}

impl Choice {
    /// One that says nothing but that it is not negated.
    pub(super) const fn plain() -> Self {
        Self {
            negated: false,
            name: String::new(),
            values: Vec::new(),
        }
    }

    /// The first value.
    pub(super) fn value(&self) -> &str {
        self.values.first().map_or("", String::as_str)
    }
}

/// The steps of a rule.
pub(super) fn steps(words: &[Word], family: Family) -> Vec<Step> {
    let choices = choices(words);
    let target = choices
        .iter()
        .position(|choice| choice.name == "-j" || choice.name == "-g");
    let (matches, target) = choices.split_at(target.unwrap_or(choices.len()));
    let mut steps: Vec<_> = iptables_match::matches(matches, family)
        .into_iter()
        .map(Step::Match)
        .collect();
    if let Some((target, options)) = target.split_first() {
        steps.extend(end(target, options));
    }
    steps
}

fn choices(words: &[Word]) -> Vec<Choice> {
    let mut choices: Vec<Choice> = Vec::new();
    let mut negated = false;
    for word in words {
        if word.text == "!" && !word.quoted {
            negated = true;
        } else if word.text.starts_with('-') && !word.quoted {
            choices.push(Choice {
                negated,
                name: word.text.clone(),
                values: Vec::new(),
            });
            negated = false;
        } else if let Some(choice) = choices.last_mut() {
            // The save format writes the exclamation mark before the option; old ones wrote it behind.
            choice.negated |= std::mem::take(&mut negated);
            choice.values.push(word.text.clone());
        }
    }
    choices
}

fn end(target: &Choice, options: &[Choice]) -> Vec<Step> {
    let option = |name: &str| options.iter().find(|choice| choice.name == name);
    let name = target.value();
    if target.name == "-g" {
        return vec![Step::End(Verdict::Goto(name.to_owned()))];
    }
    let verdict = match name {
        "ACCEPT" => Verdict::Accept,
        "DROP" | "REJECT" => Verdict::Drop,
        "RETURN" => Verdict::Return,
        "SNAT" => Verdict::RewriteSource(option("--to-source").and_then(address)),
        "MASQUERADE" => Verdict::RewriteSource(None),
        "DNAT" => Verdict::RewriteDestination(
            option("--to-destination").map_or(Destination::default(), |to| destination(to.value())),
        ),
        "REDIRECT" => Verdict::RewriteDestination(Destination {
            address: None,
            own: true,
            port: option("--to-ports").and_then(|ports| ports.value().parse().ok()),
        }),
        "TPROXY" => Verdict::Socket {
            to: Destination {
                address: option("--on-ip")
                    .and_then(address)
                    .filter(|to| !to.is_unspecified()),
                own: false,
                port: option("--on-port").and_then(|port| port.value().parse().ok()),
            },
            drops_without: true,
        },
        "SYNPROXY" => Verdict::Divert(Diversion::Handshake),
        "NFQUEUE" => Verdict::Queue {
            number: option("--queue-num").map_or(Some(0), |queue| queue.value().parse().ok()),
            bypass: option("--queue-bypass").is_some(),
        },
        "QUEUE" | "CLUSTERIP" | "NETMAP" => Verdict::Opaque,
        "MARK" => {
            let change = mark(option("--set-xmark"), Register::Mark);
            return vec![Step::Set(Register::Mark, change)];
        }
        "CONNMARK" => return connmark(options),
        "NOTRACK" => return vec![Step::Notrack],
        "CT" if option("--notrack").is_some() => return vec![Step::Notrack],
        "CT" | "LOG" | "NFLOG" | "ULOG" | "TRACE" | "TEE" | "TCPMSS" | "TCPOPTSTRIP" | "TTL"
        | "HL" | "TOS" | "DSCP" | "ECN" | "CLASSIFY" | "CHECKSUM" | "SET" | "AUDIT"
        | "IDLETIMER" | "LED" | "RATEEST" | "SECMARK" | "CONNSECMARK" => return Vec::new(),
        "HMARK" => return vec![Step::Set(Register::Mark, Change::Opaque)],
        chain => Verdict::Jump(chain.to_owned()),
    };
    vec![Step::End(verdict)]
}

/// One address, without ports.
fn address(choice: &Choice) -> Option<IpAddr> {
    choice.value().parse().ok()
}

/// `--set-xmark value/mask`: clears the mask's bits, then flips the value's.
fn mark(option: Option<&Choice>, register: Register) -> Change {
    let change = || {
        let (value, mask) = iptables_match::value_and_mask(option?.value())?;
        Some(Change::Affine {
            from: register,
            and: !mask,
            xor: value,
        })
    };
    change().unwrap_or(Change::Opaque)
}

fn connmark(options: &[Choice]) -> Vec<Step> {
    let option = |name: &str| options.iter().find(|choice| choice.name == name);
    if let Some(set) = option("--set-xmark") {
        return vec![Step::Set(
            Register::CtMark,
            mark(Some(set), Register::CtMark),
        )];
    }
    let is_whole = |name: &str| {
        let all = u64::from(u32::MAX);
        option(name).is_none_or(|mask| names::integer(mask.value()) == Some(all))
    };
    let is_copy = ["--nfmask", "--ctmask", "--mask"].into_iter().all(is_whole);
    let copy = |from| match is_copy {
        true => Change::Affine {
            from,
            and: u32::MAX,
            xor: 0,
        },
        false => Change::Opaque,
    };
    if option("--restore-mark").is_some() {
        vec![Step::Set(Register::Mark, copy(Register::CtMark))]
    } else {
        vec![Step::Set(Register::CtMark, copy(Register::Mark))]
    }
}

/// `10.0.1.11:8080`, `[2001:db8::1]:80`, an address alone, a port alone; of a range nothing is told.
fn destination(text: &str) -> Destination {
    if let Ok(both) = text.parse::<SocketAddr>() {
        return Destination {
            address: Some(both.ip()),
            own: false,
            port: Some(both.port()),
        };
    }
    Destination {
        address: text.parse().ok(),
        own: false,
        port: text.strip_prefix(':').and_then(|port| port.parse().ok()),
    }
}
