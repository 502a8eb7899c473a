//! No circle among the files of the core: each can be read once those are read that it uses.
//!
//! A folder's root file (`mod.rs`) declares its files and puts them together, so it is above all of them and no
//! part of a circle; what a file uses of it is the type that it implements a part of.

use std::collections::{BTreeMap, BTreeSet};

use crate::paths::{Fact, FactKind};

/// Which files of a layer a file uses, by the names of their modules.
type Uses = BTreeMap<String, BTreeSet<String>>;

/// The files of a circle in `layer`, each of which uses the next and the last one the first.
pub(crate) fn circle(facts: &[Fact], layer: &str) -> Option<Vec<String>> {
    let uses = uses(facts, layer);
    uses.keys().find_map(|start| way_back(&uses, start))
}

fn uses(facts: &[Fact], layer: &str) -> Uses {
    let files: BTreeSet<_> = facts.iter().filter_map(|fact| file(fact, layer)).collect();
    let mut uses = Uses::new();
    for fact in facts {
        let Some(user) = file(fact, layer) else {
            continue;
        };
        let (FactKind::Path(path) | FactKind::Glob(path)) = &fact.kind else {
            continue;
        };
        if let [root, of, used, ..] = path.as_slice()
            && root == "crate"
            && of == layer
            && used != user
            && files.contains(used)
        {
            uses.entry(user.clone()).or_default().insert(used.clone());
        }
    }
    uses
}

fn file<'a>(fact: &'a Fact, layer: &str) -> Option<&'a String> {
    let mut module = fact.module.iter();
    module.next().filter(|first| *first == layer)?;
    module.next()
}

/// The shortest way from `start` over what it uses back to it.
fn way_back(uses: &Uses, start: &str) -> Option<Vec<String>> {
    let mut ways = vec![vec![start.to_owned()]];
    let mut seen = BTreeSet::new();
    while !ways.is_empty() {
        let mut longer = Vec::new();
        for way in ways {
            for next in way
                .last()
                .and_then(|last| uses.get(last))
                .into_iter()
                .flatten()
            {
                if next == start {
                    return Some(way);
                }
                if seen.insert(next.clone()) {
                    longer.push([&way[..], std::slice::from_ref(next)].concat());
                }
            }
        }
        ways = longer;
    }
    None
}

#[test]
fn circles_are_found() {
    let source = |name: &str, text: &str| (format!("src/director/{name}.rs"), text.to_owned());
    let root = source("mod", "mod a; mod b; mod c; struct Whole; use a::A;");
    let a = source(
        "a",
        "use super::b::B; use super::Whole; pub(super) struct A;",
    );
    let b = source("b", "use super::c::C; pub(super) struct B;");
    let found = |c: &str| {
        let sources = [root.clone(), a.clone(), b.clone(), source("c", c)];
        circle(&crate::paths::facts(&sources, &[]), "director")
    };
    assert_eq!(found("pub(super) struct C;"), None);
    let through_c = found("use crate::director::a::A; pub(super) struct C(A);");
    assert_eq!(through_c, Some(["a", "b", "c"].map(str::to_owned).to_vec()));
    let of_tests = found("#[cfg(test)] mod tests { use crate::director::a::A; }");
    assert_eq!(of_tests, None);
}
