//! What a path means: the crate's modules, imports and globs, and the walk through them.
//!
//! Knows nothing of syntax trees or rules; errs on the side of finding too many meanings, as where
//! two functions of a module import different things by one name.

use std::collections::{HashMap, HashSet};

/// Segments of a path; an absolute one starts with `crate` or with the name of a crate.
pub(crate) type Segments = Vec<String>;

/// What the whole crate declares: enough to resolve a path as the compiler does.
#[derive(Default)]
pub(crate) struct Tree {
    pub(crate) externs: HashSet<String>,
    pub(crate) modules: HashSet<Segments>,
    pub(crate) test_only: Vec<Segments>,
    /// (module, name) → what the `use` declarations in it bind to that name.
    pub(crate) imports: HashMap<(Segments, String), Vec<Written>>,
    /// Module → what it imports by `*`.
    pub(crate) globs: HashMap<Segments, Vec<Written>>,
}

/// A path as it stands in the source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Written {
    pub(crate) segments: Segments,
    /// It starts with `::`.
    pub(crate) global: bool,
}

/// Import chains longer than this do not occur; the bound keeps a cycle of them finite.
const CHAIN_LIMIT: u8 = 16;

impl Tree {
    /// Every absolute path that `path`, written in `module`, can mean.
    pub(crate) fn resolve(&self, module: &[String], path: &Written) -> Vec<Segments> {
        self.resolve_within(module, path, CHAIN_LIMIT)
    }

    fn resolve_within(&self, module: &[String], path: &Written, depth: u8) -> Vec<Segments> {
        let Some((first, rest)) = path.segments.split_first() else {
            return vec![vec!["crate".to_owned()]];
        };
        if path.global {
            return vec![absolute(path.segments.clone())];
        }
        match first.as_str() {
            "crate" => self.walk(&[], rest, depth),
            "self" => self.walk(module, rest, depth),
            "super" => self.resolve_super(module, rest, depth),
            "Self" => Vec::new(),
            _ => self.resolve_name(module, &path.segments, depth),
        }
    }

    fn resolve_super(&self, module: &[String], rest: &[String], depth: u8) -> Vec<Segments> {
        let parent = &module[..module.len().saturating_sub(1)];
        match rest.split_first() {
            Some((next, rest)) if next == "super" => self.resolve_super(parent, rest, depth),
            _ => self.walk(parent, rest, depth),
        }
    }

    /// A relative path: an import's name, a module beside it, a crate, or an item of `module`.
    fn resolve_name(&self, module: &[String], path: &[String], depth: u8) -> Vec<Segments> {
        if let Some(found) = self.imported(module, path, depth) {
            return found;
        }
        let local = [module, &path[..1]].concat();
        if !self.modules.contains(&local) && self.externs.contains(&path[0]) {
            return vec![absolute(path.to_vec())];
        }
        self.walk(module, path, depth)
    }

    /// Follows `rest` down from `base`, through modules and through what they import.
    fn walk(&self, base: &[String], rest: &[String], depth: u8) -> Vec<Segments> {
        let mut module = base.to_vec();
        for (i, name) in rest.iter().enumerate() {
            if let Some(found) = self.imported(&module, &rest[i..], depth) {
                return found;
            }
            module.push(name.clone());
            if !self.modules.contains(&module) {
                break;
            }
        }
        vec![[&["crate".to_owned()], base, rest].concat()]
    }

    /// What `path` means in `module` if a `use` there binds its first segment. A declaration says
    /// nothing about itself (`use libc;` needs the crate `libc`, not the import of that name).
    fn imported(&self, module: &[String], path: &[String], depth: u8) -> Option<Vec<Segments>> {
        let depth = depth.checked_sub(1)?;
        let (name, rest) = path.split_first()?;
        let about_itself =
            |t: &Written| !t.global && (t.segments == path || t.segments == path[..1]);
        let mut found = Vec::new();
        let bound = self.imports.get(&(module.to_vec(), name.clone()));
        for target in bound.into_iter().flatten().filter(|t| !about_itself(t)) {
            let segments = [target.segments.as_slice(), rest].concat();
            let whole = Written {
                segments,
                global: target.global,
            };
            found.extend(self.resolve_within(module, &whole, depth));
        }
        for glob in self.globs.get(module).into_iter().flatten() {
            found.extend(self.through_glob(module, glob, path, depth));
        }
        (!found.is_empty()).then_some(found)
    }

    /// What `path` means if `glob` covers a module of this crate that knows its first segment.
    fn through_glob(
        &self,
        module: &[String],
        glob: &Written,
        path: &[String],
        depth: u8,
    ) -> Vec<Segments> {
        let mut found = Vec::new();
        for place in self.resolve_within(module, glob, depth) {
            let inner = &place[1..];
            if place[0] != "crate" || inner == module {
                continue;
            }
            let child = [inner, &path[..1]].concat();
            if self.modules.contains(&child) {
                found.extend(self.walk(&child, &path[1..], depth));
            } else {
                found.extend(self.imported(inner, path, depth).into_iter().flatten());
            }
        }
        found
    }
}

/// `core` and `alloc` hold what `std` re-exports; `tunlb` is how the binary names this crate.
fn absolute(mut segments: Segments) -> Segments {
    match segments[0].as_str() {
        "core" | "alloc" => segments[0] = "std".to_owned(),
        "tunlb" => segments[0] = "crate".to_owned(),
        _ => {}
    }
    segments
}
