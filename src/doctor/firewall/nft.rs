//! Reads `nft --json list ruleset` (libnftables-json(5)).

use std::collections::{BTreeMap, HashMap};

use serde_json::Value as Json;

use super::model::{Base, Chain, Family, Hook, Policy, Rule, Table};
use super::{FirewallError, nft_rule, nft_text};

/// The key of a named set: family, table, name.
pub(super) type SetName<'j> = (&'j str, &'j str, &'j str);

/// Elements of the named sets and maps, as JSON.
pub(super) type Sets<'j> = HashMap<SetName<'j>, &'j [Json]>;

/// Reads a ruleset. Tables of the families bridge and arp are left out: they see other packets.
///
/// # Errors
/// [`FirewallError`] for a text that is not nft's JSON.
pub(super) fn read(text: &str) -> Result<Vec<Table>, FirewallError> {
    if text.trim().is_empty() {
        return Ok(Vec::new());
    }
    let error = |what: String| FirewallError {
        program: "nft".to_owned(),
        what,
    };
    let json: Json = serde_json::from_str(text).map_err(|why| error(why.to_string()))?;
    let objects = json
        .get("nftables")
        .and_then(Json::as_array)
        .ok_or_else(|| error("its output has no list \"nftables\"".to_owned()))?;
    let sets = sets(objects);
    let mut tables = BTreeMap::new();
    for (at, object) in objects.iter().enumerate() {
        add(&mut tables, &sets, at, object);
    }
    let dormant = objects.iter().filter_map(dormant_table);
    for name in dormant {
        tables.remove(&name);
    }
    Ok(tables.into_values().collect())
}

fn sets(objects: &[Json]) -> Sets<'_> {
    let sets = objects
        .iter()
        .filter_map(|object| object.get("set").or_else(|| object.get("map")));
    let entry = |set| {
        let elements = list(set, "elem");
        Some((
            (
                word(set, "family")?,
                word(set, "table")?,
                word(set, "name")?,
            ),
            elements,
        ))
    };
    sets.filter_map(entry).collect()
}

/// Tables by family and name.
type Tables = BTreeMap<(Family, String), Table>;

fn add(tables: &mut Tables, sets: &Sets<'_>, at: usize, object: &Json) -> Option<()> {
    let (kind, content) = object.as_object()?.iter().next()?;
    let family = family(word(content, "family")?)?;
    let name = word(content, if kind == "table" { "name" } else { "table" })?;
    let table = tables
        .entry((family, name.to_owned()))
        .or_insert_with(|| empty_table(family, name));
    match kind.as_str() {
        // nft 1.0.6 writes the name of the table where the names of its flags belong.
        "table" => table.perhaps_dormant = has_flag(content, name),
        "chain" => {
            let chain = table.chains.entry(word(content, "name")?.to_owned());
            chain.or_default().base = base(content, at);
        }
        "rule" => {
            let chain = table.chains.entry(word(content, "chain")?.to_owned());
            chain.or_default().rules.push(rule(content, sets));
        }
        _ => {}
    }
    Some(())
}

fn empty_table(family: Family, name: &str) -> Table {
    Table {
        program: "nft".to_owned(),
        family,
        name: name.to_owned(),
        perhaps_dormant: false,
        chains: BTreeMap::<String, Chain>::new(),
    }
}

fn family(name: &str) -> Option<Family> {
    match name {
        "ip" => Some(Family::Ip),
        "ip6" => Some(Family::Ip6),
        "inet" => Some(Family::Inet),
        "netdev" => Some(Family::Netdev),
        _ => None,
    }
}

/// The key of a table that is there but hooked nowhere.
fn dormant_table(object: &Json) -> Option<(Family, String)> {
    let table = object.get("table")?;
    let name = word(table, "name")?.to_owned();
    let family = family(word(table, "family")?)?;
    (name != "dormant" && has_flag(table, "dormant")).then_some((family, name))
}

fn has_flag(table: &Json, name: &str) -> bool {
    let is = |flag: &Json| flag.as_str() == Some(name);
    let flags = table.get("flags");
    flags.is_some_and(|flags| is(flags) || flags.as_array().is_some_and(|all| all.iter().any(is)))
}

/// Tables and chains are listed in the order in which they were added; `at` is the place in it.
fn base(chain: &Json, at: usize) -> Option<Base> {
    let hook = match word(chain, "hook")? {
        "ingress" => Hook::Ingress,
        "prerouting" => Hook::Prerouting,
        "input" => Hook::Input,
        "forward" => Hook::Forward,
        "output" => Hook::Output,
        "postrouting" => Hook::Postrouting,
        "egress" => Hook::Egress,
        _ => return None,
    };
    let policy = word(chain, "policy").unwrap_or("accept");
    Some(Base {
        hook,
        nat: word(chain, "type") == Some("nat"),
        priority: chain.get("prio").and_then(Json::as_i64).unwrap_or(0),
        added: at,
        policy: Policy {
            drops: policy == "drop",
            text: format!("policy {policy}"),
            packets: None,
        },
        devices: devices(chain),
    })
}

/// nft 1.0.6 does not tell them.
fn devices(chain: &Json) -> Option<Vec<String>> {
    let name = |json: &Json| json.as_str().map(ToOwned::to_owned);
    let devices = chain.get("dev")?;
    match devices.as_array() {
        Some(names) => Some(names.iter().filter_map(name).collect()),
        None => Some(vec![name(devices)?]),
    }
}

fn rule(rule: &Json, sets: &Sets<'_>) -> Rule {
    let statements = list(rule, "expr");
    let counter = statements.iter().find_map(|each| each.get("counter"));
    let place = [word(rule, "family"), word(rule, "table")].map(Option::unwrap_or_default);
    Rule {
        text: nft_text::rule(statements, word(rule, "comment")),
        handle: rule.get("handle").and_then(Json::as_u64),
        packets: counter.and_then(|counter| counter.get("packets")?.as_u64()),
        steps: nft_rule::steps(statements, &nft_rule::Context { place, sets }),
    }
}

/// A member that is a text.
pub(super) fn word<'j>(object: &'j Json, key: &str) -> Option<&'j str> {
    object.get(key)?.as_str()
}

/// A member that is a list; none is an empty one.
pub(super) fn list<'j>(object: &'j Json, key: &str) -> &'j [Json] {
    object
        .get(key)
        .and_then(Json::as_array)
        .map_or(&[], Vec::as_slice)
}
