//! One change of one backend in the text of a configuration: every other line, comment and space stays.

use std::net::IpAddr;

use anyhow::{Context as _, Result, bail, ensure};
use toml_edit::{Array, DocumentMut, InlineTable, Item, Table, TableLike, Value};

use crate::config::Config;

/// What the file is to say of a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    /// It is there, with these keys.
    Present {
        weight: Option<u16>,
        state: Option<&'static str>,
    },
    /// These keys change.
    Changed {
        weight: Option<u16>,
        state: Option<&'static str>,
    },
    /// It is not there.
    Absent,
}

/// The text with the change; `name` is the file's in messages.
///
/// # Errors
/// The text is no valid configuration, has no such VIP or backend, or would be invalid with the change.
pub(super) fn edited(
    name: &str,
    text: &str,
    vip: &str,
    address: IpAddr,
    wanted: &Wanted,
) -> Result<String> {
    let before = Config::parse(name, text).context("the file is invalid as it is")?;
    let index = before.vips.iter().position(|spec| spec.name == vip);
    let index = index.with_context(|| format!("{name} has no vip {vip}"))?;
    let unix = text.replace("\r\n", "\n");
    let has_returns = unix.len() != text.len();
    let mut document: DocumentMut = unix.parse().context("the file is no TOML to toml_edit")?;
    ensure!(
        document.to_string() == unix,
        "{name} cannot be edited without changing other lines, too"
    );
    change(&mut document, index, address, wanted).with_context(|| format!("{name}: vip {vip}"))?;
    let unix = document.to_string();
    let after = if has_returns {
        unix.replace('\n', "\r\n")
    } else {
        unix
    };
    Config::parse(name, &after).context("the file would be invalid")?;
    Ok(after)
}

fn change(
    document: &mut DocumentMut,
    index: usize,
    address: IpAddr,
    wanted: &Wanted,
) -> Result<()> {
    let by_hand = "it is written in a way that only you can edit";
    let vip = document.get_mut("vip").and_then(|vips| entry(vips, index));
    let backends = vip
        .and_then(|vip| vip.get_mut("backend"))
        .context(by_hand)?;
    let found = position(backends, address);
    match (wanted, found) {
        (Wanted::Present { .. }, Some(_)) => bail!("backend {address} is in the file already"),
        (Wanted::Changed { .. } | Wanted::Absent, None) => {
            bail!("backend {address} is not in the file; add it: tunlb backend add --persist")
        }
        (Wanted::Changed { weight, state }, Some(found)) => {
            let backend = entry(backends, found).context(by_hand)?;
            set_keys(backend, *weight, *state);
        }
        (Wanted::Present { weight, state }, None) => {
            add(backends, address, *weight, *state).context(by_hand)?;
        }
        (Wanted::Absent, Some(found)) => {
            let above = remove(backends, found).context(by_hand)?;
            keep_comments(document, index, found, &above);
        }
    }
    Ok(())
}

/// A table of an array, written with headers or inline.
fn entry(array: &mut Item, index: usize) -> Option<&mut dyn TableLike> {
    if let Item::ArrayOfTables(tables) = array {
        return Some(tables.get_mut(index)?);
    }
    let value = array.as_array_mut()?.get_mut(index)?;
    Some(value.as_inline_table_mut()?)
}

fn position(backends: &mut Item, address: IpAddr) -> Option<usize> {
    let mut index = 0;
    while let Some(backend) = entry(backends, index) {
        let written = backend.get("address").and_then(Item::as_str);
        if written.and_then(|text| text.parse().ok()) == Some(address) {
            return Some(index);
        }
        index += 1;
    }
    None
}

fn set_keys(backend: &mut dyn TableLike, weight: Option<u16>, state: Option<&str>) {
    if let Some(weight) = weight {
        set(backend, "weight", Value::from(i64::from(weight)));
    }
    if let Some(state) = state {
        set(backend, "state", Value::from(state));
    }
}

/// Sets a key; what is around its old value stays.
fn set(table: &mut dyn TableLike, key: &str, mut value: Value) {
    if let Some(old) = table.get_mut(key).and_then(Item::as_value_mut) {
        *value.decor_mut() = old.decor().clone();
        *old = value;
        return;
    }
    let indent = table
        .key("address")
        .map(|key| indent(key.leaf_decor().prefix()));
    if let Some((_, Item::Value(last))) = table.iter_mut().last() {
        // In `{ address = "…" }` the space before the brace is the last value's.
        if let Some(space) = space(last.decor().suffix()) {
            last.decor_mut().set_suffix("");
            value.decor_mut().set_suffix(space);
            value.decor_mut().set_prefix(" ");
        }
    }
    table.insert(key, Item::Value(value));
    if let (Some(mut key), Some(indent)) =
        (table.key_mut(key), indent.filter(|text| !text.is_empty()))
    {
        key.leaf_decor_mut().set_prefix(indent);
    }
}

/// Spaces alone; a comment belongs to its line.
fn space(raw: Option<&toml_edit::RawString>) -> Option<String> {
    let text = raw?.as_str()?;
    (!text.is_empty() && text.trim().is_empty()).then(|| text.to_owned())
}

/// The spaces before a key or a header, after what is above it.
fn indent(raw: Option<&toml_edit::RawString>) -> String {
    let text = raw
        .and_then(toml_edit::RawString::as_str)
        .unwrap_or_default();
    let line = text.rsplit('\n').next().unwrap_or_default();
    line.chars()
        .take_while(|letter| " \t".contains(*letter))
        .collect()
}

/// Adds a backend behind the others, in the manner of the last one.
fn add(
    backends: &mut Item,
    address: IpAddr,
    weight: Option<u16>,
    state: Option<&str>,
) -> Option<()> {
    if let Item::ArrayOfTables(tables) = backends {
        let last = tables.iter().last()?;
        let header = indent(last.decor().prefix());
        let key = last
            .key("address")
            .map(|key| indent(key.leaf_decor().prefix()));
        let mut table = Table::new();
        table.insert("address", toml_edit::value(address.to_string()));
        if let (Some(mut written), Some(indent)) = (
            table.key_mut("address"),
            key.filter(|text| !text.is_empty()),
        ) {
            written.leaf_decor_mut().set_prefix(indent);
        }
        set_keys(&mut table, weight, state);
        table.decor_mut().set_prefix(format!("\n{header}"));
        tables.push(table);
        return Some(());
    }
    let array = backends.as_array_mut()?;
    let mut table = InlineTable::new();
    table.insert("address", Value::from(address.to_string()));
    set_keys(&mut table, weight, state);
    push(array, Value::InlineTable(table))
}

/// Adds a value to an array in one line or many.
fn push(array: &mut Array, mut value: Value) -> Option<()> {
    let count = array.len();
    let last = array.get_mut(count.checked_sub(1)?)?;
    let before = last.decor().prefix().and_then(toml_edit::RawString::as_str);
    let own_line = before.filter(|text| text.contains('\n'));
    let prefix = own_line.map_or_else(
        || " ".to_owned(),
        |text| format!("\n{}", indent(Some(&toml_edit::RawString::from(text)))),
    );
    value.decor_mut().set_prefix(prefix);
    if let Some(space) = space(last.decor().suffix()) {
        last.decor_mut().set_suffix("");
        value.decor_mut().set_suffix(space);
    }
    array.push_formatted(value);
    Some(())
}

/// Removes a backend; returns the comments above it that are not its own: those before an empty line.
fn remove(backends: &mut Item, index: usize) -> Option<String> {
    if let Item::ArrayOfTables(tables) = backends {
        let prefix = tables.get(index)?.decor().prefix();
        let above = prefix
            .and_then(toml_edit::RawString::as_str)
            .unwrap_or_default();
        let kept = above.rfind("\n\n").map_or("", |end| &above[..=end]);
        let kept = if kept.contains('#') { kept } else { "" }.to_owned();
        tables.remove(index);
        return Some(kept);
    }
    let array = backends.as_array_mut()?;
    let removed = array.remove(index);
    if index == 0
        && let Some(first) = array.get_mut(0)
        && let Some(prefix) = removed
            .decor()
            .prefix()
            .and_then(toml_edit::RawString::as_str)
    {
        first.decor_mut().set_prefix(prefix);
    }
    Some(String::new())
}

/// Puts comments before what follows the backend that was there: the next backend, the next VIP, the end.
fn keep_comments(document: &mut DocumentMut, vip: usize, backend: usize, above: &str) {
    if above.is_empty() {
        return;
    }
    let vips = document
        .get_mut("vip")
        .and_then(Item::as_array_of_tables_mut);
    if let Some(vips) = vips {
        let next_backend = vips
            .get_mut(vip)
            .and_then(|vip| vip.get_mut("backend"))
            .and_then(Item::as_array_of_tables_mut)
            .and_then(|backends| backends.get_mut(backend));
        if let Some(next) = next_backend {
            return prepend(next, above);
        }
        if let Some(next) = vips.get_mut(vip + 1) {
            return prepend(next, above);
        }
    }
    let trailing = document.trailing().as_str().unwrap_or_default().to_owned();
    document.set_trailing(format!("{above}{trailing}"));
}

fn prepend(table: &mut Table, above: &str) {
    let prefix = table
        .decor()
        .prefix()
        .and_then(toml_edit::RawString::as_str);
    let prefix = format!("{above}{}", prefix.unwrap_or_default());
    table.decor_mut().set_prefix(prefix);
}

#[cfg(test)]
mod tests;
