//! What only the kernel can answer once the rules are known: where packets go with the marks that rules give them, and
//! where a rule sends them on to. The answers are gathered, and judged with all else.

use std::net::IpAddr;

use super::case::Case;
use super::diversion::{delivered_to, sent_to};
use super::flow::{arriving_mark, mark_of_answer};
use super::way_back::answers_are_marked;
use crate::doctor::facts::{Facts, Observed, Target};
use crate::doctor::firewall::Firewall;
use crate::doctor::lang::Lang;

/// What to ask of a target.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::doctor) struct Questions {
    /// The mark of what comes in, when it is routed; none: 0, or not known.
    pub(in crate::doctor) arriving: Option<u32>,
    /// The mark of the answers.
    pub(in crate::doctor) answering: Option<u32>,
    /// The address and port of another host that the packets go to.
    pub(in crate::doctor) onward: Option<(IpAddr, Option<u16>)>,
}

/// Of each target, in their order.
pub(in crate::doctor) fn questions(facts: &Facts) -> Vec<Questions> {
    if !may_have_any(facts) {
        return vec![Questions::default(); facts.targets.len()];
    }
    let firewall = Firewall::on(facts).map_err(|error| error.to_string());
    let of = |target: &Target| {
        let case = Case::new(facts, target, Lang::En, &firewall);
        let onward = delivered_to(&case)
            .is_none()
            .then(|| sent_to(&case))
            .flatten();
        let marked = |mark: Option<u32>| mark.filter(|mark| *mark != 0);
        Questions {
            arriving: marked(arriving_mark(&case)),
            answering: marked(mark_of_answer(&case, answers_are_marked(&facts.firewall))),
            onward,
        }
    };
    facts.targets.iter().map(of).collect()
}

/// Rules are read a second time for this, so only where there is something to ask: marks that are looked at, or
/// destinations that are rewritten.
fn may_have_any(facts: &Facts) -> bool {
    const REWRITE: [&str; 4] = ["\"dnat\"", "DNAT", "\"fwd\"", "NETMAP"];
    let by_mark = facts
        .rules
        .seen()
        .is_some_and(|rules| rules.iter().any(|rule| rule.mark.is_some()));
    let texts = facts
        .firewall
        .iptables
        .values()
        .chain([&facts.firewall.nft]);
    let mut texts = texts.filter_map(Observed::seen);
    by_mark || texts.any(|text| REWRITE.iter().any(|word| text.contains(word)))
}
