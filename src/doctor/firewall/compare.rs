//! What is seen of a packet against the elements of a match.

use super::evaluate::{Seen, Truth};
use super::model::{Element, Field, Operand, Value};

pub(super) fn between<'a>(from: u128, count: u32) -> Seen<'a> {
    match count {
        0 => Seen::Unknown,
        1 => Seen::number(from),
        _ => Seen::Between(from, from + u128::from(count) - 1),
    }
}

/// Whether a number that is drawn is hardly ever one of these.
pub(super) fn is_rare(operands: &[Operand], elements: &[Element]) -> bool {
    const RARE: u128 = 1000;
    let [
        Operand {
            field: Field::Drawn { from, count },
            mask: None,
            ..
        },
    ] = operands
    else {
        return false;
    };
    let (first, last) = (u128::from(*from), u128::from(*from) + u128::from(*count));
    let mut wanted = 0;
    for value in elements.iter().flatten() {
        let Value::Range(from, to) = value else {
            return false;
        };
        wanted += (to.saturating_add(1))
            .min(last)
            .saturating_sub((*from).max(first));
    }
    wanted > 0 && wanted * RARE < u128::from(*count)
}

pub(super) fn is_element(seen: &[Seen<'_>], element: &Element) -> Truth {
    if element.as_slice() == [Value::Any] {
        return Truth::Yes;
    }
    if seen.len() != element.len() {
        return Truth::Perhaps;
    }
    let answers = seen
        .iter()
        .zip(element)
        .map(|(seen, value)| is(seen, value));
    answers.min().unwrap_or(Truth::Perhaps)
}

fn is(seen: &Seen<'_>, value: &Value) -> Truth {
    match (seen, value) {
        (Seen::Absent, _) => Truth::No,
        (_, Value::Any) => Truth::Yes,
        // Of hours, that pass midnight.
        (Seen::Number { value, .. }, Value::Range(from, to)) if from > to => {
            Truth::known(value >= from || value <= to)
        }
        (Seen::Number { value, known }, Value::Range(from, to)) => {
            is_within((*value, *known), (*from, *to))
        }
        (Seen::Between(least, most), Value::Range(from, to)) => {
            if most < from || least > to {
                Truth::No
            } else if least >= from && most <= to {
                Truth::Yes
            } else {
                Truth::Perhaps
            }
        }
        (Seen::Not(number), Value::Range(from, to)) if from == number && to == number => Truth::No,
        (Seen::Name(name), Value::Name(pattern)) => Truth::known(fits(name, pattern)),
        // The tools print a device that is gone by its number.
        (Seen::Name(_), Value::Range(..)) => Truth::No,
        (
            Seen::Number { .. } | Seen::Between(..) | Seen::Not(_) | Seen::Name(_) | Seen::Unknown,
            _,
        ) => Truth::Perhaps,
    }
}

fn is_within((value, known): (u128, u128), (from, to): (u128, u128)) -> Truth {
    if from == to && (value ^ from) & known != 0 {
        return Truth::No;
    }
    let (least, most) = (value & known, value | !known);
    if most < from || least > to {
        Truth::No
    } else if least >= from && most <= to {
        Truth::Yes
    } else {
        Truth::Perhaps
    }
}

pub(super) fn has_bit(seen: &Seen<'_>, elements: &[Element]) -> Truth {
    let mut bits = 0;
    for value in elements.iter().flatten() {
        match value {
            Value::Range(from, to) if from == to => bits |= from,
            Value::Range(..) | Value::Name(_) | Value::Any | Value::Opaque => {
                return Truth::Perhaps;
            }
        }
    }
    match seen {
        Seen::Number { value, known } if value & known & bits != 0 => Truth::Yes,
        Seen::Number { known, .. } if bits & !known == 0 => Truth::No,
        Seen::Absent => Truth::No,
        Seen::Number { .. } | Seen::Between(..) | Seen::Not(_) | Seen::Name(_) | Seen::Unknown => {
            Truth::Perhaps
        }
    }
}

/// A device's name against one that may end in `*`.
pub(super) fn fits(name: &str, pattern: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(start) => name.starts_with(start),
        None => name == pattern,
    }
}
