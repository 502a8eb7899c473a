//! Statements of an nft rule, from JSON to the model.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use serde_json::Value as Json;
use serde_json::value::RawValue;

use super::model::{
    Change, Element, Field, Match, Only, Op, Operand, Register, Room, Step, Value, Verdict,
};
use super::nft::{SetName, Sets, list, word};
use super::{Chance, Destination, Diversion};
use super::{nft_bound, nft_list, nft_operand, nft_value};

/// Elements of a set, as they are compared with these properties.
type Shared = HashMap<(SetName, Vec<Field>), Arc<[Element]>>;

/// What rules refer to: named sets, whose elements all rules share that compare them with the same.
pub(super) struct Known<'j> {
    sets: &'j Sets<'j>,
    shared: RefCell<Shared>,
    pub(super) room: &'j Room,
    full: Cell<bool>,
}

impl<'j> Known<'j> {
    pub(super) fn new(sets: &'j Sets<'j>, room: &'j Room) -> Self {
        Self {
            sets,
            shared: RefCell::default(),
            room,
            full: Cell::new(false),
        }
    }

    /// Whether something was left out for want of room.
    pub(super) const fn is_full(&self) -> bool {
        self.full.get()
    }

    /// Counts the parts of a rule; elements of named sets and of verdict maps have been counted.
    pub(super) fn count(&self, steps: &[Step]) {
        let own = |step: &Step| match step {
            Step::Match(Match::Compare(operands, _, elements))
                if Arc::strong_count(elements) > 1 =>
            {
                operands.len()
            }
            Step::Dispatch(operands, _) => operands.len(),
            Step::Match(_) | Step::Set(..) | Step::Notrack | Step::End(_) => step.size(),
        };
        self.take(steps.iter().map(|step| 1 + own(step)).sum());
    }

    fn take(&self, parts: usize) -> bool {
        let enough = self.room.take(parts);
        self.full.set(self.full.get() || !enough);
        enough
    }

    fn elements_of(&self, name: SetName, operands: &[Operand]) -> Option<Arc<[Element]>> {
        let list = *self.sets.get(&name)?;
        let fields = operands.iter().map(|operand| operand.field).collect();
        let key = (name, fields);
        if let Some(elements) = self.shared.borrow().get(&key) {
            return Some(Arc::clone(elements));
        }
        let mut elements = Vec::new();
        self.for_each(list, operands.len().max(1), |json| {
            elements.push(nft_value::element(json, operands));
        });
        let elements: Arc<[Element]> = elements.into();
        self.shared.borrow_mut().insert(key, Arc::clone(&elements));
        Some(elements)
    }

    /// Calls `each` with every element that there is room for.
    fn for_each(&self, list: &'j RawValue, parts: usize, mut each: impl FnMut(&Json)) {
        let read = nft_list::for_each(list, &mut |element| {
            if !self.take(parts) || element.get().len() > LONGEST_ELEMENT {
                return Err(Room::full());
            }
            each(&serde_json::from_str(element.get()).map_err(|why| why.to_string())?);
            Ok(())
        });
        self.full.set(self.full.get() || read.is_err());
    }
}

/// Bytes of an element of a named set.
const LONGEST_ELEMENT: usize = 65_536;

/// Where a rule stands.
#[derive(Clone, Copy)]
pub(super) struct Context<'j> {
    /// Family and table.
    pub(super) place: [&'j str; 2],
    pub(super) known: &'j Known<'j>,
}

impl Context<'_> {
    /// The elements that an anonymous set (`{"set": […]}`) or a named one (`@name`) holds.
    fn elements(&self, json: &Json, operands: &[Operand]) -> Option<Arc<[Element]>> {
        if json.get("set").is_some() {
            return Some(nft_value::elements(list(json, "set"), operands).into());
        }
        self.known.elements_of(self.named(json)?, operands)
    }

    /// The pairs of an anonymous or a named map, one at a time.
    fn for_each_pair(&self, json: &Json, mut each: impl FnMut(&Json)) -> Option<()> {
        if json.get("set").is_some() {
            let pairs = list(json, "set");
            self.known.take(2 * pairs.len());
            pairs.iter().for_each(each);
            return Some(());
        }
        let list = *self.known.sets.get(&self.named(json)?)?;
        self.known.for_each(list, 2, &mut each);
        Some(())
    }

    /// A limit or a quota by its name.
    fn bound(&self, kind: &str, name: &Json) -> Match {
        let [family, table] = self.place.map(str::to_owned);
        let key = (family, table, name.as_str().unwrap_or_default().to_owned());
        let object = self.known.sets.get(&key);
        let object = object.and_then(|object| serde_json::from_str::<Json>(object.get()).ok());
        match object.as_ref().and_then(|object| object.get(kind)) {
            Some(content) => nft_bound::bound(kind, content),
            None => Match::Undecidable,
        }
    }

    fn named(&self, json: &Json) -> Option<SetName> {
        let name = json.as_str()?.strip_prefix('@')?;
        let [family, table] = self.place;
        Some((family.to_owned(), table.to_owned(), name.to_owned()))
    }
}

/// The steps of a rule; a statement that is not understood may mean anything.
pub(super) fn steps(statements: &[Json], context: &Context<'_>) -> Vec<Step> {
    let mut steps = Vec::new();
    for statement in statements {
        match statement.as_object().and_then(|map| map.iter().next()) {
            Some((name, content)) => add(&mut steps, name, content, context),
            None => steps.extend(anything()),
        }
    }
    steps
}

fn add(steps: &mut Vec<Step>, name: &str, content: &Json, context: &Context<'_>) {
    match name {
        "match" => steps.push(Step::Match(condition(content, context))),
        "vmap" => steps.extend(dispatch(content, context, &of_map)),
        "mangle" => steps.extend(change(content, context)),
        "notrack" => steps.push(Step::Notrack),
        "limit" | "quota" if content.is_string() => {
            steps.push(Step::Match(context.bound(name, content)));
        }
        "limit" | "quota" | "ct count" => steps.push(Step::Match(nft_bound::bound(name, content))),
        "set" | "map" => {
            for stateful in list(content, "stmt").iter().filter_map(Json::as_object) {
                let bounds = stateful.iter().filter(|(name, _)| *name != "counter");
                let bounds = bounds.map(|(name, content)| nft_bound::bound(name, content));
                steps.extend(bounds.map(Step::Match));
            }
        }
        "snat" | "masquerade" => {
            steps.extend(family_of_nat(content));
            let to = word(content, "addr").and_then(|address| address.parse().ok());
            steps.push(Step::End(Verdict::RewriteSource(to)));
        }
        "dnat" | "redirect" => {
            steps.extend(family_of_nat(content));
            steps.extend(rewritten_destination(name, content, context));
        }
        "tproxy" => {
            steps.extend(family_of_nat(content));
            steps.push(Step::End(Verdict::Socket {
                to: told_destination(content),
                drops_without: false,
            }));
        }
        "synproxy" => steps.push(Step::End(Verdict::Divert(Diversion::Handshake))),
        "fwd" => steps.push(Step::End(Verdict::Divert(Diversion::Elsewhere))),
        "counter" | "log" | "dup" | "flow" | "ct helper" | "ct timeout" | "ct expectation"
        | "secmark" | "last" | "reset" | "optstrip" => {}
        "xt" if word(content, "type") == Some("match") => {
            steps.push(Step::Match(Match::Undecidable));
        }
        "queue" => steps.push(Step::End(Verdict::Queue {
            number: content.get("num").map_or(Some(0), port),
            bypass: has_word(content.get("flags"), "bypass"),
        })),
        _ => match verdict(name, content) {
            Some(verdict) => steps.push(Step::End(verdict)),
            None => steps.extend(anything()),
        },
    }
}

/// `dnat to 10.0.0.1:80`, or where a map says.
fn rewritten_destination(name: &str, content: &Json, context: &Context<'_>) -> Vec<Step> {
    let map = |key| content.get(key).and_then(|json| json.get("map"));
    let plain = Destination {
        own: name == "redirect",
        ..told_destination(content)
    };
    let Some(map) = map("addr").or_else(|| map("port")) else {
        return vec![Step::End(Verdict::RewriteDestination(plain))];
    };
    let verdict = |value: &Json| {
        let parts = match value.get("concat").and_then(Json::as_array) {
            Some(both) if both.len() == 2 => (address_of(&both[0]), port(&both[1])),
            _ => (address_of(value), port(value)),
        };
        Some(Verdict::RewriteDestination(Destination {
            address: parts.0.or(plain.address),
            port: parts.1.or(plain.port),
            ..plain
        }))
    };
    dispatch(map, context, &verdict)
}

fn address_of(json: &Json) -> Option<IpAddr> {
    json.as_str()?.parse().ok()
}

fn told_destination(content: &Json) -> Destination {
    Destination {
        address: content.get("addr").and_then(address_of),
        own: false,
        port: content.get("port").and_then(port),
    }
}

/// Whether a text or a list of texts has that one.
fn has_word(json: Option<&Json>, word: &str) -> bool {
    let is = |json: &Json| json.as_str() == Some(word);
    json.is_some_and(|json| is(json) || json.as_array().is_some_and(|all| all.iter().any(is)))
}

/// May match or not, and may decide.
fn anything() -> [Step; 2] {
    [Step::Match(Match::Undecidable), Step::End(Verdict::Opaque)]
}

fn verdict(name: &str, content: &Json) -> Option<Verdict> {
    let target = || word(content, "target").map(ToOwned::to_owned);
    match name {
        "accept" => Some(Verdict::Accept),
        "drop" | "reject" => Some(Verdict::Drop),
        "return" => Some(Verdict::Return),
        "continue" => Some(Verdict::Continue),
        "jump" => target().map(Verdict::Jump),
        "goto" => target().map(Verdict::Goto),
        _ => None,
    }
}

/// `snat ip to …` in an inet table is for one family only.
fn family_of_nat(content: &Json) -> Option<Step> {
    let only = match word(content, "family")? {
        "ip" => Only::V4,
        "ip6" => Only::V6,
        _ => return None,
    };
    let always = Operand::of(Field::Fixed(0)).only(only);
    let zero = [vec![Value::Range(0, 0)]].into();
    Some(Step::Match(Match::Compare(vec![always], Op::Is, zero)))
}

fn condition(content: &Json, context: &Context<'_>) -> Match {
    let (Some(left), Some(right)) = (content.get("left"), content.get("right")) else {
        return Match::Undecidable;
    };
    if left.get("osf").is_some() {
        return Match::Chance(Chance::Sender);
    }
    let operands = nft_operand::operands(left);
    let op = word(content, "op").unwrap_or_default();
    let elements: Arc<[Element]> = match op {
        "<" | ">" | "<=" | ">=" => ordered(op, right, &operands).into(),
        _ => match context.elements(right, &operands) {
            Some(elements) => elements,
            None => [nft_value::element(right, &operands)].into(),
        },
    };
    let op = match op {
        "==" | "<" | ">" | "<=" | ">=" => Op::Is,
        "!=" => Op::IsNot,
        // Of bits, "in" is any of them; of anything else, it is equality.
        "in" if is_bits(&operands) => Op::HasBit,
        "in" => Op::Is,
        "!" => Op::HasNoBit,
        _ => return Match::Undecidable,
    };
    Match::Compare(operands, op, elements)
}

fn is_bits(operands: &[Operand]) -> bool {
    let [operand] = operands else { return false };
    matches!(
        operand.field,
        Field::CtState | Field::CtStatus | Field::TcpFlags
    )
}

fn ordered(op: &str, right: &Json, operands: &[Operand]) -> Vec<Element> {
    let element = nft_value::element(right, operands);
    let &[Value::Range(least, most)] = element.as_slice() else {
        return vec![vec![Value::Opaque]];
    };
    let range = match op {
        "<" => least.checked_sub(1).map(|below| (0, below)),
        ">" => most.checked_add(1).map(|above| (above, u128::MAX)),
        "<=" => Some((0, most)),
        _ => Some((least, u128::MAX)),
    };
    range.map_or_else(Vec::new, |(from, to)| vec![vec![Value::Range(from, to)]])
}

/// The verdict that a verdict map has for a key.
fn of_map(data: &Json) -> Option<Verdict> {
    let (name, content) = data.as_object()?.iter().next()?;
    verdict(name, content)
}

fn dispatch(
    content: &Json,
    context: &Context<'_>,
    verdict: &dyn Fn(&Json) -> Option<Verdict>,
) -> Vec<Step> {
    let operands = content.get("key").map(nft_operand::operands);
    let (Some(operands), Some(data)) = (operands, content.get("data")) else {
        return anything().into();
    };
    let mut pairs = Vec::new();
    let known = context.for_each_pair(data, |pair| {
        let key = pair.get(0).unwrap_or(&Json::Null);
        let verdict = pair.get(1).and_then(verdict);
        let key = nft_value::element(key, &operands);
        pairs.push((key, verdict.unwrap_or(Verdict::Opaque)));
    });
    match known {
        Some(()) => vec![Step::Dispatch(operands, pairs)],
        None => anything().into(),
    }
}

/// `meta mark set …`, `ct mark set …`; what else is set, no rule here looks at. A rewritten address or
/// port would be another packet.
fn change(content: &Json, context: &Context<'_>) -> Vec<Step> {
    let key = content.get("key");
    let payload = key.and_then(|key| key.get("payload"));
    if payload.is_some_and(is_identity) {
        return rewritten(payload.and_then(|payload| word(payload, "field")), content);
    }
    let Some(register) = key.and_then(register) else {
        return Vec::new();
    };
    if let Some(map) = content.get("value").and_then(|value| value.get("map")) {
        let set = |value: &Json| Some(Verdict::Set(register, u32::try_from(value.as_u64()?).ok()?));
        return dispatch(map, context, &set);
    }
    let value = content.get("value").and_then(affine);
    let change = value.map_or(Change::Opaque, |(from, and, xor)| Change::Affine {
        from,
        and,
        xor,
    });
    let mut steps = Vec::new();
    // What has no mark of conntrack to take ends the rule.
    if change.is_from_conntrack() {
        let mark = Operand::of(Field::Register(Register::CtMark)).only(Only::Tracked);
        let any = [vec![Value::Any]].into();
        steps.push(Step::Match(Match::Compare(vec![mark], Op::Is, any)));
    }
    steps.push(Step::Set(register, change));
    steps
}

/// A rewrite without conntrack, of each packet: another source, or another addressee.
fn rewritten(field: Option<&str>, content: &Json) -> Vec<Step> {
    let verdict = match field {
        Some("saddr") => {
            let to = word(content, "value").and_then(|address| address.parse().ok());
            Verdict::RewriteSource(to)
        }
        Some("daddr" | "dport") => Verdict::RewriteDestination(destination(field, content)),
        // The source port of an answer; what the client makes of it is not followed.
        Some("sport") => return Vec::new(),
        _ => Verdict::Opaque,
    };
    vec![Step::End(verdict)]
}

fn destination(field: Option<&str>, content: &Json) -> Destination {
    match field {
        Some("daddr") => Destination {
            address: word(content, "value").and_then(|address| address.parse().ok()),
            ..Destination::default()
        },
        _ => Destination {
            port: content.get("value").and_then(port),
            ..Destination::default()
        },
    }
}

fn port(json: &Json) -> Option<u16> {
    u16::try_from(json.as_u64()?).ok()
}

/// Whether part of a header is among what packets are judged by; of raw bytes it may be.
fn is_identity(payload: &Json) -> bool {
    match word(payload, "field") {
        Some(field) => ["saddr", "daddr", "sport", "dport", "protocol", "nexthdr"].contains(&field),
        None => true,
    }
}

fn register(json: &Json) -> Option<Register> {
    let key = |name| json.get(name).and_then(|json| word(json, "key"));
    if key("meta") == Some("mark") {
        Some(Register::Mark)
    } else if key("ct") == Some("zone") {
        Some(Register::CtZone)
    } else if key("ct") == Some("mark") {
        Some(Register::CtMark)
    } else {
        None
    }
}

/// An expression over a mark as `(from & and) ^ xor`.
fn affine(json: &Json) -> Option<(Register, u32, u32)> {
    if let Some(number) = json.as_u64() {
        return Some((Register::Mark, 0, u32::try_from(number).ok()?));
    }
    if let Some(register) = register(json) {
        return Some((register, u32::MAX, 0));
    }
    let (operation, operands) = json.as_object()?.iter().next()?;
    let [left, right] = operands.as_array()?.as_slice() else {
        return None;
    };
    let (from, and, xor) = affine(left)?;
    let number = u32::try_from(right.as_u64()?).ok()?;
    match operation.as_str() {
        "&" => Some((from, and & number, xor & number)),
        "|" => Some((from, and & !number, xor | number)),
        "^" => Some((from, and, xor ^ number)),
        _ => None,
    }
}
