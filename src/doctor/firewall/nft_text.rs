//! An nft rule as `nft list ruleset` writes it, from its JSON. What has no form here stays JSON.

use serde_json::Value as Json;

use super::nft::{list, word};

/// A rule's statements and comment, in one line.
pub(super) fn rule(statements: &[Json], comment: Option<&str>) -> String {
    let mut words: Vec<_> = statements.iter().map(statement).collect();
    if let Some(comment) = comment {
        words.push(format!("comment {comment:?}"));
    }
    words.join(" ")
}

fn statement(json: &Json) -> String {
    let Some((name, content)) = member(json) else {
        return json.to_string();
    };
    match name {
        "match" => condition(content),
        "vmap" => format!("{} vmap {}", part(content, "key"), part(content, "data")),
        "mangle" => format!("{} set {}", part(content, "key"), part(content, "value")),
        "counter" => counter(content),
        "log" => with(
            "log",
            word(content, "prefix").map(|text| format!("prefix {text:?}")),
        ),
        "limit" => limit(content),
        "reject" => reject(content),
        "snat" | "dnat" | "masquerade" | "redirect" => nat(name, content),
        "jump" | "goto" => format!("{name} {}", word(content, "target").unwrap_or_default()),
        "set" => format!(
            "{} {} {{ {} }}",
            word(content, "op").unwrap_or_default(),
            word(content, "set").unwrap_or_default(),
            with(
                &part(content, "elem"),
                list(content, "stmt").first().map(statement)
            )
        ),
        "queue" => with(
            "queue",
            content
                .get("num")
                .map(|to| format!("to {}", expression(to))),
        ),
        "xt" => format!(
            "xt {} {}",
            word(content, "type").unwrap_or_default(),
            word(content, "name").unwrap_or_default()
        ),
        _ if content.is_null() => name.to_owned(),
        _ => json.to_string(),
    }
}

fn member(json: &Json) -> Option<(&str, &Json)> {
    let (name, content) = json.as_object()?.iter().next()?;
    Some((name.as_str(), content))
}

fn with(start: &str, rest: Option<String>) -> String {
    rest.map_or_else(|| start.to_owned(), |rest| format!("{start} {rest}"))
}

fn part(content: &Json, key: &str) -> String {
    content.get(key).map_or_else(String::new, expression)
}

fn condition(content: &Json) -> String {
    let (left, right) = (part(content, "left"), content.get("right"));
    let fib = content.get("left").and_then(|left| left.get("fib"));
    let right = match right {
        Some(Json::Bool(true)) => "exists".to_owned(),
        Some(Json::Bool(false)) => "missing".to_owned(),
        Some(Json::String(zero)) if zero == "0" && fib.is_some() => "missing".to_owned(),
        Some(Json::String(name)) if left.ends_with("ifname") => format!("{name:?}"),
        Some(Json::Array(flags)) => joined(flags, ","),
        Some(other) => expression(other),
        None => String::new(),
    };
    match word(content, "op").unwrap_or_default() {
        "in" => format!("{left} {right}"),
        "==" if !left.contains('&') => format!("{left} {right}"),
        op => format!("{left} {op} {right}"),
    }
}

fn counter(content: &Json) -> String {
    let number = |key| content.get(key).and_then(Json::as_u64);
    match (number("packets"), number("bytes")) {
        (Some(packets), Some(bytes)) => format!("counter packets {packets} bytes {bytes}"),
        _ => with(
            "counter",
            content.as_str().map(|name| format!("name {name:?}")),
        ),
    }
}

fn limit(content: &Json) -> String {
    let over = content.get("inv").and_then(Json::as_bool) == Some(true);
    format!(
        "limit rate {}{}/{}",
        if over { "over " } else { "" },
        part(content, "rate"),
        word(content, "per").unwrap_or("second")
    )
}

fn reject(content: &Json) -> String {
    let words = [word(content, "type"), word(content, "expr")];
    match words {
        [None, _] => "reject".to_owned(),
        [Some(_), Some("port-unreachable")] => "reject".to_owned(),
        [Some(kind), reason] => with(&format!("reject with {kind}"), reason.map(str::to_owned)),
    }
}

fn nat(name: &str, content: &Json) -> String {
    let mut text = name.to_owned();
    if let Some(family) = word(content, "family") {
        text += &format!(" {family}");
    }
    let (address, port) = (content.get("addr"), content.get("port"));
    if address.is_some() || port.is_some() {
        text += " to ";
    }
    text += &address.map_or_else(String::new, expression);
    if let Some(port) = port {
        text += &format!(":{}", expression(port));
    }
    match content.get("flags") {
        Some(Json::Array(flags)) => with(&text, Some(joined(flags, ","))),
        Some(flag) => with(&text, Some(expression(flag))),
        None => text,
    }
}

/// Keys that nft writes without `meta`.
const BARE: &[&str] = &[
    "iif", "iifname", "iiftype", "iifgroup", "oif", "oifname", "oiftype", "oifgroup", "pkttype",
];

fn expression(json: &Json) -> String {
    match json {
        Json::String(text) => return text.clone(),
        Json::Array(all) => return format!("({})", joined(all, " | ")),
        Json::Null | Json::Bool(_) | Json::Number(_) => return json.to_string(),
        Json::Object(_) => {}
    }
    let Some((name, content)) = member(json) else {
        return json.to_string();
    };
    match name {
        "payload" if content.get("base").is_none() => two(content, "protocol", "field"),
        "payload" => format!(
            "@{},{},{}",
            part(content, "base"),
            part(content, "offset"),
            part(content, "len")
        ),
        "meta" => match word(content, "key").unwrap_or_default() {
            key if BARE.contains(&key) => key.to_owned(),
            key => format!("meta {key}"),
        },
        "ct" if content.get("dir").is_some() => format!("ct {}", two(content, "dir", "key")),
        "ct" => format!("ct {}", part(content, "key")),
        "fib" => format!(
            "fib {} {}",
            joined(list(content, "flags"), " . "),
            part(content, "result")
        ),
        "exthdr" | "tcp option" | "ip option" => option(name, content),
        "prefix" => format!("{}/{}", part(content, "addr"), part(content, "len")),
        "range" => joined(list(json, "range"), "-"),
        "concat" => joined(list(json, "concat"), " . "),
        "set" => format!("{{ {} }}", elements(list(json, "set"))),
        "elem" => part(content, "val"),
        "map" => format!("{} map {}", part(content, "key"), part(content, "data")),
        "&" | "|" | "^" => joined(list(json, name), &format!(" {name} ")),
        _ => verdict_or_json(json),
    }
}

fn two(content: &Json, one: &str, other: &str) -> String {
    format!("{} {}", part(content, one), part(content, other))
}

fn option(kind: &str, content: &Json) -> String {
    let field = word(content, "field").map(str::to_owned);
    let start = match (kind, &field) {
        ("exthdr", Some(_)) => part(content, "name"),
        _ => format!("{kind} {}", part(content, "name")),
    };
    with(&start, field)
}

fn elements(set: &[Json]) -> String {
    let element = |json: &Json| match json.as_array().map(Vec::as_slice) {
        Some([key, data]) => format!("{} : {}", expression(key), verdict_or_json(data)),
        _ => expression(json),
    };
    set.iter().map(element).collect::<Vec<_>>().join(", ")
}

fn verdict_or_json(json: &Json) -> String {
    match member(json) {
        Some((name, content)) if content.is_null() || content.get("target").is_some() => {
            statement(&serde_json::json!({ name: content }))
        }
        _ => json
            .as_str()
            .map_or_else(|| json.to_string(), str::to_owned),
    }
}

fn joined(all: &[Json], separator: &str) -> String {
    all.iter()
        .map(expression)
        .collect::<Vec<_>>()
        .join(separator)
}
