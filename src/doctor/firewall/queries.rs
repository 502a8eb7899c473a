//! Questions about rules as such, not about one packet.

use std::net::{IpAddr, Ipv4Addr};

use super::evaluate::{Sight, Truth};
use super::model::{Field, Hook, Match, Only, Op, Operand, Register, Rule, Step, Value, Verdict};
use super::{ConntrackState, FilterPath, FilteredPacket, Firewall, RuleText};

/// Rules that are quoted for one question; about as many are worth reading.
const MOST_QUOTED: usize = 16;

impl Firewall {
    /// Rules that name a protocol by its number, or by a name of it; not those that exclude it. A rule
    /// that names 94 (`ipip`) mostly means 4.
    #[must_use]
    pub fn rules_naming_protocol(&self, protocol: u8) -> Vec<RuleText> {
        self.rules(|rule| rule.steps.iter().any(|step| names_protocol(step, protocol)))
    }

    /// Whether a rule looks at conntrack's state, or rewrites addresses: then the kernel tracks.
    #[must_use]
    pub fn uses_conntrack(&self) -> bool {
        !self
            .rules(|rule| rule.steps.iter().any(uses_conntrack))
            .is_empty()
    }

    /// Rules that drop for a conntrack state that invalid packets have and established ones have not.
    #[must_use]
    pub fn drops_invalid(&self) -> Vec<RuleText> {
        self.rules(drops_invalid)
    }

    fn rules(&self, wanted: impl Fn(&Rule) -> bool) -> Vec<RuleText> {
        let mut found = Vec::new();
        for table in &self.tables {
            for (name, chain) in &table.chains {
                let rules = chain
                    .rules
                    .iter()
                    .filter(|rule| self.may(rule) && wanted(rule));
                let rules = rules.take(MOST_QUOTED);
                found.extend(rules.map(|rule| table.quote(name, rule)));
                if found.len() >= MOST_QUOTED {
                    return found;
                }
            }
        }
        found
    }

    /// Whether there is work left for a look at a rule.
    fn may(&self, rule: &Rule) -> bool {
        self.work
            .add(1 + rule.steps.iter().map(Step::size).sum::<usize>());
        !self.work.is_done()
    }
}

fn names_protocol(step: &Step, protocol: u8) -> bool {
    let number = Value::Range(protocol.into(), protocol.into());
    let names = |operands: &[Operand], values: &[Value]| {
        let mut both = operands.iter().zip(values);
        both.any(|(operand, value)| operand.field == Field::Protocol && *value == number)
    };
    match step {
        Step::Match(Match::Compare(operands, Op::Is, elements)) => {
            elements.iter().any(|each| names(operands, each))
        }
        Step::Dispatch(operands, elements) => {
            elements.iter().any(|(each, _)| names(operands, each))
        }
        Step::Match(_) | Step::Set(..) | Step::Notrack | Step::End(_) => false,
    }
}

fn uses_conntrack(step: &Step) -> bool {
    match step {
        Step::Match(condition) => looks_at_conntrack(condition),
        Step::Dispatch(operands, _) => operands.iter().any(is_of_conntrack),
        Step::Set(register, _) => *register == Register::CtMark,
        Step::Notrack => false,
        Step::End(verdict) => matches!(
            verdict,
            Verdict::RewriteSource(_) | Verdict::RewriteDestination(_)
        ),
    }
}

fn looks_at_conntrack(condition: &Match) -> bool {
    match condition {
        Match::Compare(operands, ..) => operands.iter().any(is_of_conntrack),
        Match::Either(conditions) => conditions.iter().any(looks_at_conntrack),
        Match::InIpset { .. } | Match::Within(_) | Match::Beyond(_) | Match::Undecidable => false,
    }
}

fn is_of_conntrack(operand: &Operand) -> bool {
    operand.only == Only::Tracked || operand.field == Field::CtState
}

fn drops_invalid(rule: &Rule) -> bool {
    let drops = rule.steps.last() == Some(&Step::End(Verdict::Drop));
    rule.steps.iter().any(|step| match step {
        Step::Match(condition) => drops && is_for_invalid(condition),
        Step::Dispatch(operands, elements) if is_state(operands) => {
            let mut dropped = elements
                .iter()
                .filter(|(_, verdict)| *verdict == Verdict::Drop);
            dropped.any(|(element, _)| {
                is_for_invalid(&Match::Compare(
                    operands.clone(),
                    Op::Is,
                    [element.clone()].into(),
                ))
            })
        }
        Step::Dispatch(..) | Step::Set(..) | Step::Notrack | Step::End(_) => false,
    })
}

fn is_state(operands: &[Operand]) -> bool {
    matches!(operands, [operand] if operand.field == Field::CtState)
}

fn is_for_invalid(condition: &Match) -> bool {
    let Match::Compare(operands, ..) = condition else {
        return false;
    };
    is_state(operands)
        && holds_in(ConntrackState::Invalid, condition) == Truth::Yes
        && holds_in(ConntrackState::Established, condition) == Truth::No
}

/// Whether a condition on the conntrack state holds in one; it looks at nothing else of the packet.
fn holds_in(state: ConntrackState, condition: &Match) -> Truth {
    let any = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    Sight {
        packet: &FilteredPacket::new(FilterPath::ToThisHost, any, any, 0),
        hook: Hook::Input,
        state: Some(state),
        before_conntrack: false,
        mark: None,
        ct_mark: None,
        zone: None,
    }
    .holds(condition)
}
