//! Reads `nft --json list ruleset` (libnftables-json(5)).

use std::collections::{BTreeMap, HashMap};

use serde::Deserialize;
use serde_json::Value as Json;
use serde_json::value::RawValue;

use super::model::{Base, Chain, Family, Hook, LONGEST_NAME, Policy, Room, Rule, Table, quotable};
use super::{FirewallError, nft_list, nft_rule, nft_text};

/// The key of a named set: family, table, name.
pub(super) type SetName = (String, String, String);

/// The lists of the elements of named sets and maps, and limits and quotas that have a name.
pub(super) type Sets<'j> = HashMap<SetName, &'j RawValue>;

/// Bytes of one object of the list. One of a rule with ten thousand addresses has 300,000.
const LONGEST_OBJECT: usize = 1 << 20;

/// What is printed: a list of objects, which are read one at a time.
#[derive(Deserialize)]
struct Output<'j> {
    #[serde(borrow)]
    nftables: &'j RawValue,
}

/// An object that is a set or a map, or a limit or a quota.
#[derive(Deserialize)]
struct Holder<'j> {
    #[serde(
        borrow,
        alias = "map",
        alias = "limit",
        alias = "quota",
        alias = "ct count"
    )]
    set: NamedSet<'j>,
}

#[derive(Deserialize)]
struct NamedSet<'j> {
    family: String,
    table: String,
    name: String,
    #[serde(borrow, default)]
    elem: Option<&'j RawValue>,
}

/// Reads a ruleset. Tables of the families bridge and arp are left out: they see other packets.
///
/// # Errors
/// [`FirewallError`] for a text that is not nft's JSON, and for one that is too large.
pub(super) fn read(text: &str, room: &Room) -> Result<Vec<Table>, FirewallError> {
    if text.trim().is_empty() {
        return Ok(Vec::new());
    }
    let error = |what: String| FirewallError {
        program: "nft".to_owned(),
        what,
    };
    let output: Output<'_> = serde_json::from_str(text).map_err(|why| error(why.to_string()))?;
    if !output.nftables.get().starts_with('[') {
        return Err(error("its output has no list \"nftables\"".to_owned()));
    }
    let mut sets = Sets::new();
    nft_list::for_each(output.nftables, &mut |object| {
        add_set(&mut sets, object, room)
    })
    .map_err(&error)?;
    let mut tables = BTreeMap::new();
    let mut dormant = Vec::new();
    let context = nft_rule::Known::new(&sets, room);
    let mut at = 0;
    nft_list::for_each(output.nftables, &mut |object| {
        at += 1;
        if is_set(object) {
            return Ok(());
        }
        let object = parsed(object)?;
        dormant.extend(dormant_table(&object));
        add(&mut tables, &context, at, &object)
    })
    .map_err(&error)?;
    for name in dormant {
        tables.remove(&name);
    }
    if context.is_full() {
        return Err(error(Room::full()));
    }
    Ok(tables.into_values().collect())
}

fn parsed(object: &RawValue) -> Result<Json, String> {
    let length = object.get().len();
    if length > LONGEST_OBJECT {
        return Err(format!(
            "an object of {length} bytes; {LONGEST_OBJECT} are read"
        ));
    }
    serde_json::from_str(object.get()).map_err(|why| why.to_string())
}

/// Sets and maps are the only objects that may be large, and are not parsed as a whole.
fn is_set(object: &RawValue) -> bool {
    let rest = object.get().trim_start().strip_prefix('{');
    let rest = rest.unwrap_or_default().trim_start();
    ["\"set\"", "\"map\"", "\"limit\"", "\"quota\""]
        .iter()
        .any(|kind| rest.starts_with(kind))
}

fn add_set<'j>(sets: &mut Sets<'j>, object: &'j RawValue, room: &Room) -> Result<(), String> {
    if !is_set(object) {
        return Ok(());
    }
    if !room.take(OBJECT) {
        return Err(Room::full());
    }
    // What has no name is of no use to a rule.
    let Ok(Holder { set }) = serde_json::from_str::<Holder<'j>>(object.get()) else {
        return Ok(());
    };
    // Of a limit or a quota the object itself is what counts; nothing else has the name of one.
    let content = if object.get().contains("\"elem\"") {
        set.elem
    } else {
        Some(object)
    };
    if let Some(content) = content {
        sets.insert((set.family, set.table, set.name), content);
    }
    Ok(())
}

/// The room of a table, chain or set itself.
const OBJECT: usize = 8;

/// Tables by family and name.
type Tables = BTreeMap<(Family, String), Table>;

fn add(
    tables: &mut Tables,
    known: &nft_rule::Known<'_>,
    at: usize,
    object: &Json,
) -> Result<(), String> {
    if !known.room.take(OBJECT) {
        return Err(Room::full());
    }
    add_to_table(tables, known, at, object);
    Ok(())
}

fn add_to_table(
    tables: &mut Tables,
    known: &nft_rule::Known<'_>,
    at: usize,
    object: &Json,
) -> Option<()> {
    let (kind, content) = object.as_object()?.iter().next()?;
    let family = family(word(content, "family")?)?;
    let name = named(content, if kind == "table" { "name" } else { "table" })?;
    let table = tables
        .entry((family, name.to_owned()))
        .or_insert_with(|| empty_table(family, name));
    match kind.as_str() {
        // nft 1.0.6 writes the name of the table where the names of its flags belong.
        "table" => table.perhaps_dormant = has_flag(content, name),
        "chain" => {
            let chain = table.chains.entry(named(content, "name")?.to_owned());
            chain.or_default().base = base(content, at);
        }
        "rule" => {
            let chain = table.chains.entry(named(content, "chain")?.to_owned());
            chain.or_default().rules.push(rule(content, known));
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
            text: quotable(format!("policy {policy}")),
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

/// A name that the kernel may have taken.
fn named<'j>(object: &'j Json, key: &str) -> Option<&'j str> {
    word(object, key).filter(|name| name.len() <= LONGEST_NAME)
}

fn rule(rule: &Json, known: &nft_rule::Known<'_>) -> Rule {
    let statements = list(rule, "expr");
    let counter = statements.iter().find_map(|each| each.get("counter"));
    let place = [word(rule, "family"), word(rule, "table")].map(Option::unwrap_or_default);
    let steps = nft_rule::steps(statements, &nft_rule::Context { place, known });
    known.count(&steps);
    Rule {
        text: quotable(nft_text::rule(statements, word(rule, "comment"))),
        handle: rule.get("handle").and_then(Json::as_u64),
        packets: counter.and_then(|counter| counter.get("packets")?.as_u64()),
        steps,
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
