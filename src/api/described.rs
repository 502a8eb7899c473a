//! Holds `docs/api.md` and `docs/openapi.yaml` to what there is.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

use serde_json::Value;

use super::events::GAP;
use super::model::{BackendPatch, Event, Liveness, Problem, Reloaded, WorkerLiveness};
use super::route::ROUTES;
use super::status::Source;
use super::testing::Fake;
use crate::control::events::EventKind;
use crate::director::Health;

const FOR_MACHINES: &str = include_str!("../../docs/openapi.yaml");
const FOR_PEOPLE: &str = include_str!("../../docs/api.md");

/// The lines of a section of the YAML that is so deep, each without the section's indentation.
fn section<'a>(text: &'a str, name: &str) -> Vec<&'a str> {
    let mut lines = text
        .lines()
        .skip_while(|line| line.trim_end() != format!("{name}:"));
    lines.next().unwrap_or_else(|| panic!("no section {name}"));
    lines.take_while(|line| line.starts_with(' ')).collect()
}

/// Each method and path, with the parameters' names.
fn described() -> BTreeMap<String, BTreeSet<&'static str>> {
    let names = parameter_names();
    let mut all = BTreeMap::new();
    let (mut path, mut operation) = ("", String::new());
    for line in section(FOR_MACHINES, "paths") {
        let indent = line.len() - line.trim_start().len();
        let word = line.trim().trim_end_matches(':');
        match indent {
            2 => path = word,
            4 => {
                operation = format!("{} {path}", word.to_uppercase());
                all.insert(operation.clone(), BTreeSet::new());
            }
            _ => {
                let parameter = line
                    .trim()
                    .strip_prefix("- $ref: '#/components/parameters/");
                if let Some(parameter) = parameter {
                    let name = names[parameter.trim_end_matches('\'')];
                    all.get_mut(&operation).unwrap().insert(name);
                }
            }
        }
    }
    all
}

/// What each parameter of the components is called in a request.
fn parameter_names() -> BTreeMap<&'static str, &'static str> {
    let mut names = BTreeMap::new();
    let mut key = "";
    for line in section(FOR_MACHINES, "components") {
        if let Some(word) = line
            .strip_prefix("    ")
            .filter(|rest| !rest.starts_with(' '))
        {
            key = word.trim_end_matches(':');
        } else if let Some(name) = line.strip_prefix("      name: ") {
            names.insert(key, name);
        }
    }
    names
}

#[test]
fn every_route_is_described() {
    let described = described();
    let routes: BTreeSet<_> = ROUTES.iter().map(|entry| entry.name.to_owned()).collect();
    assert_eq!(described.keys().cloned().collect::<BTreeSet<_>>(), routes);
    for entry in &ROUTES {
        let mut parameters = described[entry.name].clone();
        parameters.remove("If-Match");
        let known: BTreeSet<_> = entry.parameters.iter().copied().collect();
        assert_eq!(parameters, known, "{}", entry.name);
        let heading = format!("## `{}`\n", entry.name);
        assert!(FOR_PEOPLE.contains(&heading), "api.md has no {heading}");
    }
}

#[test]
fn every_event_is_described() {
    for kind in EventKind::ALL.map(EventKind::name).into_iter().chain([GAP]) {
        assert!(
            FOR_PEOPLE.contains(&format!("`{kind}`")),
            "api.md has no event {kind}"
        );
    }
}

/// The names of all members of a document; those of maps by name are none.
fn members(document: &Value, all: &mut BTreeSet<String>) {
    match document {
        Value::Object(object) => {
            for (name, value) in object {
                all.insert(name.clone());
                members(value, all);
            }
        }
        Value::Array(array) => array.iter().for_each(|value| members(value, all)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[test]
fn every_field_is_described() {
    let mut fake = Fake::new(1, &["10.0.1.11", "10.0.1.12", "10.0.1.13"]);
    fake.disable("vip0", "10.0.1.11");
    fake.set_health("vip0", "10.0.1.12", Health::Unhealthy);
    fake.add("vip0", "10.0.1.99");
    let (handle, view) = (fake.handle(), fake.view());
    let measured = RefCell::new(fake.measurements());
    let source = Source::new(&handle, &view, &measured, SystemTime::now());
    let mut all = BTreeSet::new();
    members(
        &serde_json::from_slice(&source.status(None).unwrap()).unwrap(),
        &mut all,
    );
    for document in others() {
        members(&document, &mut all);
    }
    all.extend(["last_reload", "problems"].map(str::to_owned));
    assert!(all.len() > 80, "{all:?}");
    for name in &all {
        assert!(
            FOR_MACHINES.contains(&format!("\n        {name}:\n")),
            "openapi.yaml: {name}"
        );
        let quoted = [format!("`{name}`"), format!("\"{name}\"")];
        assert!(
            quoted.iter().any(|name| FOR_PEOPLE.contains(name)),
            "api.md: {name}"
        );
    }
}

/// One of each document that the status has no part of.
fn others() -> [Value; 5] {
    let event = Event {
        id: 1,
        at: String::new(),
        kind: String::new(),
        vip: None,
        backend: None,
        text: String::new(),
        codes: Vec::new(),
        by: None,
    };
    let patch = BackendPatch {
        weight: Some(None),
        state: Some(None),
        health: Some(None),
        for_seconds: Some(1),
        reason: Some(String::new()),
    };
    let reloaded = Reloaded {
        schema: 1,
        dry_run: false,
        generation: 1,
        changes: Vec::new(),
        overrides_ended: Vec::new(),
    };
    let problem = Problem {
        status: 422,
        title: String::new(),
        detail: String::new(),
        field: Some(String::new()),
        problems: vec![String::new()],
    };
    let liveness = Liveness {
        ok: true,
        workers: vec![WorkerLiveness {
            id: 0,
            ok: true,
            heartbeat_age_seconds: 0.0,
        }],
    };
    [
        serde_json::to_value(event),
        serde_json::to_value(patch),
        serde_json::to_value(reloaded),
        serde_json::to_value(problem),
        serde_json::to_value(liveness),
    ]
    .map(Result::unwrap)
}
