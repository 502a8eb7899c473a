//! Questions about rules as such, not about one packet.

use super::model::{Field, Match, Only, Op, Operand, Register, Rule, Step, Value, Verdict};
use super::{Diversion, Firewall, RuleText};

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
        let chains = self.tables.iter().flat_map(|table| table.chains.values());
        let mut rules = chains.flat_map(|chain| &chain.rules);
        rules.any(|rule| rule.steps.iter().any(uses_conntrack))
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
        Step::Dispatch(operands, pairs) => {
            operands.iter().any(is_of_conntrack)
                || pairs.iter().any(|(_, verdict)| rewrites(verdict))
        }
        Step::Set(register, change) => *register != Register::Mark || change.is_from_conntrack(),
        Step::Notrack => false,
        Step::End(verdict) => rewrites(verdict),
    }
}

const fn rewrites(verdict: &Verdict) -> bool {
    matches!(
        verdict,
        Verdict::RewriteSource(_)
            | Verdict::RewriteDestination(_)
            | Verdict::Divert(Diversion::Handshake)
    )
}

fn looks_at_conntrack(condition: &Match) -> bool {
    match condition {
        Match::Compare(operands, ..) => operands.iter().any(is_of_conntrack),
        Match::Either(conditions) => conditions.iter().any(looks_at_conntrack),
        Match::Not(condition) => looks_at_conntrack(condition),
        Match::InIpset { .. }
        | Match::Recent { .. }
        | Match::Headers(_)
        | Match::Within(_)
        | Match::Beyond(_)
        | Match::Chance(_)
        | Match::Undecidable => false,
    }
}

fn is_of_conntrack(operand: &Operand) -> bool {
    operand.only == Only::Tracked || operand.field == Field::CtState
}
