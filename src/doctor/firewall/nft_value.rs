//! The right side of an nft match: values, ranges, prefixes, sets of them.

use serde_json::Value as Json;

use super::model::{Element, Field, Operand, Value};
use super::names;
use super::nft::{list, word};

/// The elements of a set.
pub(super) fn elements(set: &[Json], operands: &[Operand]) -> Vec<Element> {
    set.iter().map(|json| element(json, operands)).collect()
}

/// One element: a value per operand, or [`Value::Any`] alone.
pub(super) fn element(json: &Json, operands: &[Operand]) -> Element {
    if json.as_str() == Some("*") {
        return vec![Value::Any];
    }
    if let Some(inner) = json.get("elem").and_then(|elem| elem.get("val")) {
        return element(inner, operands);
    }
    match (operands, json.get("concat").and_then(Json::as_array)) {
        ([operand], None) => vec![value(json, operand.field)],
        (_, Some(values)) if values.len() == operands.len() => {
            let pairs = values.iter().zip(operands);
            pairs
                .map(|(json, operand)| value(json, operand.field))
                .collect()
        }
        _ => vec![Value::Opaque; operands.len()],
    }
}

fn value(json: &Json, field: Field) -> Value {
    if let Some(range) = json.get("range").and_then(Json::as_array) {
        let ends = match range.as_slice() {
            [from, to] => number(from, field).zip(number(to, field)),
            _ => None,
        };
        return ends.map_or(Value::Opaque, |(from, to)| Value::Range(from, to));
    }
    if let Some(prefix) = json.get("prefix") {
        let ends = prefix_ends(prefix);
        return ends.map_or(Value::Opaque, |(from, to)| Value::Range(from, to));
    }
    let is_device = matches!(field, Field::InputDevice | Field::OutputDevice);
    match json.as_str() {
        Some("*") => Value::Any,
        Some(name) if is_device => Value::Name(name.to_owned()),
        _ => number(json, field).map_or(Value::Opaque, |number| Value::Range(number, number)),
    }
}

fn prefix_ends(prefix: &Json) -> Option<(u128, u128)> {
    let address = word(prefix, "addr")?.parse().ok()?;
    let length = prefix.get("len")?.as_u64()?;
    names::prefix(address, u8::try_from(length).ok()?)
}

/// A number, a name of one, or several joined as bits.
pub(super) fn number(json: &Json, field: Field) -> Option<u128> {
    match json {
        Json::Bool(exists) => Some(u128::from(*exists)),
        Json::Number(number) => number.as_u64().map(u128::from),
        Json::String(text) => names::number(field, text),
        Json::Array(bits) => join(bits, field),
        Json::Object(_) if json.get("|").is_some() => join(list(json, "|"), field),
        Json::Null | Json::Object(_) => None,
    }
}

fn join(bits: &[Json], field: Field) -> Option<u128> {
    bits.iter()
        .try_fold(0, |sum, bit| Some(sum | number(bit, field)?))
}
