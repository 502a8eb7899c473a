//! A packet's way through one base chain and those that it jumps to.
//!
//! A rule that may match leaves two continuations; both are walked in one pass. What the packet may come
//! to is collected in order; the last of these takes all that is left. If all are of one kind, doubt
//! decides nothing; else the answer is unknown, and the rule that doubt began with is quoted.

use super::evaluate::Truth;
use super::model::Match;
use super::model::{Base, Element, Operand, Register, Rule, Step, Table, Value, Verdict};
use super::walk::{Notrack, Walk};
use super::{Chance, Diversion, FilterVerdict, RuleText};

/// Jumps within jumps. nft allows 16 (NFT_JUMP_STACK_SIZE), legacy iptables as many as there are chains.
const MAX_DEPTH: usize = 32;

/// What a base chain may make of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Accept,
    Drop,
    Rewrite,
    Divert(Diversion),
    Unknown,
}

/// Why it is not certain that a packet comes somewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Doubt {
    /// Since this rule.
    pub(super) rule: RuleText,
    /// Where nothing else is in doubt: what it hangs on.
    chance: Option<Chance>,
}

impl Doubt {
    pub(super) const fn of(rule: RuleText) -> Self {
        Self { rule, chance: None }
    }

    /// Both; the first one is the one to quote.
    fn and(self, later: &Self) -> Self {
        Self {
            chance: self.chance.filter(|_| later.chance.is_some()),
            ..self
        }
    }
}

struct Outcome {
    kind: Kind,
    rule: RuleText,
    /// Why it is not certain that the packet comes here.
    doubt: Option<Doubt>,
}

/// What a packet may come to in a base chain, in order. As cascades of jumps can come to the same over
/// and over, only what the verdict needs is kept.
#[derive(Default)]
struct Outcomes {
    count: usize,
    /// The first one of each kind.
    firsts: Vec<Outcome>,
    last: Option<Outcome>,
}

impl Outcomes {
    fn push(&mut self, outcome: Outcome) {
        self.count += 1;
        if let Some(before) = self.last.replace(outcome) {
            let is_new = |first: &Outcome| first.kind != before.kind;
            if self.firsts.iter().all(is_new) {
                self.firsts.push(before);
            }
        }
    }

    fn verdict(self) -> FilterVerdict {
        let Some(last) = self.last else {
            return FilterVerdict::Accept;
        };
        let mut firsts = self.firsts.into_iter();
        if let Some(other) = firsts.find(|outcome| outcome.kind != last.kind) {
            let doubt = other.doubt.or(last.doubt);
            let is_known = other.kind != Kind::Unknown && last.kind != Kind::Unknown;
            return match doubt {
                Some(Doubt {
                    rule,
                    chance: Some(chance),
                }) if is_known => FilterVerdict::Chance(rule, chance),
                doubt => FilterVerdict::Unknown(doubt.map_or(other.rule, |doubt| doubt.rule)),
            };
        }
        match last.kind {
            Kind::Accept => FilterVerdict::Accept,
            Kind::Drop => FilterVerdict::Drop(last.rule),
            Kind::Rewrite => FilterVerdict::Rewritten(last.rule),
            Kind::Divert(to) => FilterVerdict::Diverted(last.rule, to),
            Kind::Unknown => FilterVerdict::Unknown(last.rule),
        }
    }
}

/// Where the packet is, seen from one chain.
#[derive(Debug, Clone)]
pub(super) enum Place {
    /// In the chain; perhaps only.
    Here(Option<Doubt>),
    /// It has its verdict, or is back in the chain before.
    Gone,
}

impl Place {
    /// Either of two.
    fn or(self, other: Self) -> Self {
        match (self, other) {
            (Self::Gone, place) | (place, Self::Gone) => place,
            (Self::Here(one), Self::Here(other)) => Self::Here(both(one, other)),
        }
    }
}

fn both(one: Option<Doubt>, other: Option<Doubt>) -> Option<Doubt> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.and(&other)),
        (one, other) => one.or(other),
    }
}

/// A packet in one base chain and those that it jumps to.
pub(super) struct Pass<'w, 't, 'p> {
    table: &'t Table,
    base: &'t Base,
    walk: &'w mut Walk<'p>,
    outcomes: Outcomes,
    /// The chains that the packet is in: the first one jumped to the next one, and so on.
    within: Vec<&'t str>,
}

/// What a rule's parts have come to.
struct Position<'r> {
    chain: &'r str,
    rule: &'r Rule,
    /// In the rule.
    here: Place,
    /// Past the rule: it did not match, or ended without a verdict.
    past: Place,
    /// Back where the chain was jumped from.
    back: Place,
}

impl<'w, 't, 'p> Pass<'w, 't, 'p> {
    pub(super) fn new(walk: &'w mut Walk<'p>, table: &'t Table, base: &'t Base) -> Self {
        Self {
            table,
            base,
            walk,
            outcomes: Outcomes::default(),
            within: Vec::new(),
        }
    }

    /// All outcomes as one verdict.
    pub(super) fn verdict(self) -> FilterVerdict {
        self.outcomes.verdict()
    }

    /// Walks a chain; where the packet falls out of its end, it is back in the chain that jumped.
    pub(super) fn chain(&mut self, name: &'t str, start: Place) -> Place {
        let Some(chain) = self.table.chains.get(name) else {
            return start;
        };
        self.within.push(name);
        let outcomes = self.outcomes.count;
        let (mut here, mut back) = (start.clone(), Place::Gone);
        for rule in &chain.rules {
            if matches!(here, Place::Gone) {
                break;
            }
            let returned;
            (here, returned) = self.rule(name, rule, here);
            back = back.or(returned);
        }
        self.within.pop();
        let end = here.or(back);
        // Doubt about the way through a chain is over once no way ended in it.
        if self.outcomes.count == outcomes {
            start
        } else {
            end
        }
    }

    /// Applies a rule; returns where the packet is in this chain and whether it returned from it.
    fn rule(&mut self, chain: &'t str, rule: &'t Rule, here: Place) -> (Place, Place) {
        let outcomes = self.outcomes.count;
        let mut at = Position {
            chain,
            rule,
            here: here.clone(),
            past: Place::Gone,
            back: Place::Gone,
        };
        let elements = rule.steps.iter().map(Step::size).sum();
        let left = self.walk.elements_left.checked_sub(elements);
        self.walk.elements_left = left.unwrap_or_default();
        if self.walk.rules_left == 0 || left.is_none() {
            let quote = self.table.quote(chain, rule);
            self.outcome(Kind::Unknown, quote.clone(), Some(Doubt::of(quote)));
            return (Place::Gone, Place::Gone);
        }
        self.walk.rules_left -= 1;
        for step in &rule.steps {
            match at.here {
                Place::Here(_) => self.step(&mut at, step),
                Place::Gone => break,
            }
        }
        let end = at.past.or(at.here);
        // Doubt whether a rule matched is over where it decided nothing.
        match (end, at.back) {
            (Place::Here(_), Place::Gone) if self.outcomes.count == outcomes => (here, Place::Gone),
            places => places,
        }
    }

    fn step(&mut self, at: &mut Position<'t>, step: &'t Step) {
        match step {
            Step::Match(condition) => {
                let answer = self.walk.sight(self.base).holds(condition);
                self.narrow(at, answer, condition.chance());
            }
            Step::Set(register, change) => {
                let certain = matches!(at.here, Place::Here(None));
                let sight = self.walk.sight(self.base);
                let of_conntrack = *register == Register::CtMark || change.is_from_conntrack();
                // Without an entry of conntrack, there is no mark of one to set or to take.
                if !of_conntrack || sight.is_tracked() {
                    let certain = certain && (!of_conntrack || sight.state.is_some());
                    let value = self.walk.changed(*change).filter(|_| certain);
                    self.walk.set(*register, value);
                }
            }
            Step::Notrack => {
                self.walk.notrack = match (&at.here, &self.walk.notrack) {
                    (Place::Here(None), _) | (_, Notrack::Yes) => Notrack::Yes,
                    (Place::Here(Some(doubt)), _) => Notrack::Perhaps(doubt.clone()),
                    (Place::Gone, _) => return,
                }
            }
            Step::Dispatch(operands, elements) => {
                let keys = elements.iter().map(|(key, _)| key);
                let answers = self.walk.sight(self.base).select(operands, keys);
                match answers {
                    Some(answers) => self.dispatch(at, (operands, elements), &answers),
                    None => self.narrow(at, Truth::No, None),
                }
            }
            Step::End(verdict) => self.end(at, verdict),
        }
    }

    /// Goes on in the rule as far as a match holds, past it as far as not.
    fn narrow(&self, at: &mut Position<'t>, answer: Truth, chance: Option<Chance>) {
        match answer {
            Truth::Yes => {}
            Truth::No => {
                let here = std::mem::replace(&mut at.here, Place::Gone);
                at.past = std::mem::replace(&mut at.past, Place::Gone).or(here);
            }
            Truth::Perhaps => {
                let here = std::mem::replace(&mut at.here, Place::Gone);
                at.here = self.doubted(here, at, chance);
                let past = std::mem::replace(&mut at.past, Place::Gone);
                at.past = past.or(at.here.clone());
            }
        }
    }

    /// A place where the packet comes only if this rule matches, or does not.
    fn doubted(&self, place: Place, at: &Position<'t>, chance: Option<Chance>) -> Place {
        let doubt = Doubt {
            rule: self.quote(at),
            chance,
        };
        match place {
            Place::Here(before) => Place::Here(both(before, Some(doubt))),
            Place::Gone => Place::Gone,
        }
    }

    /// The map's element that is the key; those that may be it, before; a catch-all only after all.
    fn dispatch(
        &mut self,
        at: &mut Position<'t>,
        (operands, elements): (&'t [Operand], &'t [(Element, Verdict)]),
        answers: &[Truth],
    ) {
        let chance = Match::chance_of(operands);
        let is_rest = |at: usize| elements[at].0.as_slice() == [Value::Any];
        let certain = (0..elements.len())
            .filter(|&at| answers[at] == Truth::Yes)
            .min_by_key(|&at| is_rest(at));
        for (element, answer) in elements.iter().zip(answers) {
            let decided = certain.is_some_and(|at| !is_rest(at));
            if *answer == Truth::Perhaps && !decided {
                let here = std::mem::replace(&mut at.here, Place::Gone);
                let doubted = self.doubted(here, at, chance);
                at.here = doubted.clone();
                self.end(at, &element.1);
                let after = std::mem::replace(&mut at.here, Place::Gone);
                at.past = std::mem::replace(&mut at.past, Place::Gone).or(after);
                at.here = doubted;
            }
        }
        match certain {
            Some(element) => self.end(at, &elements[element].1),
            // One of them it is, if it is drawn from among them.
            None if answers.contains(&Truth::Perhaps) && chance.is_some() => at.here = Place::Gone,
            None => self.narrow(at, Truth::No, None),
        }
    }

    fn end(&mut self, at: &mut Position<'t>, verdict: &'t Verdict) {
        let kind = match verdict {
            Verdict::Accept => Kind::Accept,
            Verdict::Drop => Kind::Drop,
            Verdict::RewriteSource(Some(to)) if *to == self.walk.packet.source => Kind::Accept,
            Verdict::RewriteSource(_) => Kind::Rewrite,
            Verdict::RewriteDestination(to) => Kind::Divert(Diversion::Address(*to)),
            Verdict::Divert(to) => Kind::Divert(*to),
            Verdict::Queue { .. } | Verdict::Socket { .. } | Verdict::Opaque => Kind::Unknown,
            Verdict::Continue => return,
            Verdict::Set(register, value) => {
                let certain = matches!(at.here, Place::Here(None));
                self.walk.set(*register, certain.then_some(*value));
                return;
            }
            Verdict::Return => {
                let here = std::mem::replace(&mut at.here, Place::Gone);
                at.back = std::mem::replace(&mut at.back, Place::Gone).or(here);
                return;
            }
            Verdict::Jump(target) => return self.jump(at, target, Jump::Returns),
            Verdict::Goto(target) => return self.jump(at, target, Jump::Stays),
        };
        let here = std::mem::replace(&mut at.here, Place::Gone);
        if let Place::Here(doubt) = here {
            self.outcome(kind, self.quote(at), doubt);
        }
    }

    fn jump(&mut self, at: &mut Position<'t>, target: &'t str, jump: Jump) {
        let here = std::mem::replace(&mut at.here, Place::Gone);
        if !self.may_enter(target) {
            let quote = self.quote(at);
            self.outcome(Kind::Unknown, quote.clone(), Some(Doubt::of(quote)));
            return;
        }
        let end = self.chain(target, here);
        match jump {
            Jump::Returns => at.here = end,
            Jump::Stays => at.back = std::mem::replace(&mut at.back, Place::Gone).or(end),
        }
    }

    /// The kernel refuses a loop.
    fn may_enter(&self, target: &str) -> bool {
        self.within.len() < MAX_DEPTH
            && !self.within.contains(&target)
            && self.table.chains.contains_key(target)
    }

    fn quote(&self, at: &Position<'t>) -> RuleText {
        let entered = self.within.first().copied().unwrap_or(at.chain);
        RuleText {
            entered: entered.to_owned(),
            ..self.table.quote(at.chain, at.rule)
        }
    }

    pub(super) fn outcome(&mut self, kind: Kind, rule: RuleText, doubt: Option<Doubt>) {
        self.outcomes.push(Outcome { kind, rule, doubt });
    }
}

/// Where a chain's end leads.
#[derive(Clone, Copy)]
enum Jump {
    /// To the next rule of the chain that jumped.
    Returns,
    /// To the chain before that one (goto).
    Stays,
}
