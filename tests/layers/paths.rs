//! Reads Rust sources and says which absolute paths they use, where, and where they are `unsafe`.
//!
//! Looks into `use` trees, macro arguments and attributes too, and leaves out `#[cfg(test)]` items.
//! It does not know types: a method call needs no path, but its value was made through one. What a
//! path means is worked out in `resolve.rs`.

use proc_macro2::{Delimiter, Ident, TokenStream, TokenTree};
use syn::visit::{self, Visit};
use syn::{Attribute, ImplItem, Item, Meta, UseTree};

use super::resolve::{Segments, Tree, Written};

/// One thing that a source does which a rule may forbid.
#[derive(Debug)]
pub(crate) struct Fact {
    /// The source file, relative to the package.
    pub(crate) file: String,
    /// The line, from 1.
    pub(crate) line: usize,
    /// The module that contains it, without `crate`.
    pub(crate) module: Segments,
    /// What is done.
    pub(crate) kind: FactKind,
}

/// What a [`Fact`] is about.
#[derive(Debug)]
pub(crate) enum FactKind {
    /// An absolute path is named.
    Path(Segments),
    /// An absolute path is imported whole (`use path::*`).
    Glob(Segments),
    /// A macro is called by this name.
    Macro(String),
    /// `unsafe`, or an attribute that permits it.
    Unsafe,
}

/// The facts of the given (file, text) pairs; `externs` are the names of the crates in use.
pub(crate) fn facts(sources: &[(String, String)], externs: &[String]) -> Vec<Fact> {
    let mut tree = Tree {
        externs: externs.iter().cloned().collect(),
        ..Tree::default()
    };
    let mut mentions = Vec::new();
    for (file, text) in sources {
        let parsed = syn::parse_file(text).unwrap_or_else(|e| panic!("{file}: not Rust: {e}"));
        let module = module_of(file);
        tree.modules.insert(module.clone());
        if parsed.attrs.iter().any(is_test_only) {
            tree.test_only.push(module.clone());
        }
        let mut reader = Reader {
            file,
            module,
            tree: &mut tree,
            mentions: &mut mentions,
        };
        reader.visit_file(&parsed);
    }
    mentions.retain(|m| !tree.test_only.iter().any(|t| m.module.starts_with(t)));
    mentions.into_iter().flat_map(|m| m.settle(&tree)).collect()
}

/// `src/packet/ipv4.rs` is `packet::ipv4`; the library's root is empty, the binary's is `main`.
fn module_of(file: &str) -> Segments {
    let inner = file.trim_start_matches("src/").trim_end_matches(".rs");
    let mut module: Segments = inner.split('/').map(str::to_owned).collect();
    if module == ["lib"] || module.last().is_some_and(|last| last == "mod") {
        module.pop();
    }
    module
}

struct Mention {
    file: String,
    line: usize,
    module: Segments,
    what: Raw,
}

enum Raw {
    Path(Written),
    Glob(Written),
    Macro(String),
    Unsafe,
}

impl Mention {
    fn settle(self, tree: &Tree) -> Vec<Fact> {
        let resolved = |written: &Written| tree.resolve(&self.module, written);
        let kinds: Vec<FactKind> = match &self.what {
            Raw::Path(written) => resolved(written).into_iter().map(FactKind::Path).collect(),
            Raw::Glob(written) => resolved(written).into_iter().map(FactKind::Glob).collect(),
            Raw::Macro(name) => vec![FactKind::Macro(name.clone())],
            Raw::Unsafe => vec![FactKind::Unsafe],
        };
        let (file, line, module) = (self.file, self.line, self.module);
        let fact = |kind| Fact {
            file: file.clone(),
            line,
            module: module.clone(),
            kind,
        };
        kinds.into_iter().map(fact).collect()
    }
}

/// Collects the mentions of one file.
struct Reader<'a> {
    file: &'a str,
    module: Segments,
    tree: &'a mut Tree,
    mentions: &'a mut Vec<Mention>,
}

impl Reader<'_> {
    fn note(&mut self, line: usize, what: Raw) {
        let (file, module) = (self.file.to_owned(), self.module.clone());
        self.mentions.push(Mention {
            file,
            line,
            module,
            what,
        });
    }

    fn use_tree(&mut self, tree: &UseTree, prefix: &[String], global: bool) {
        let joined = |ident: &Ident| [prefix, &[ident.to_string()]].concat();
        match tree {
            UseTree::Path(path) => self.use_tree(&path.tree, &joined(&path.ident), global),
            UseTree::Name(name) if name.ident == "self" => {
                let alias = prefix.last().cloned().unwrap_or_default();
                self.import(
                    name.ident.span().start().line,
                    prefix.to_vec(),
                    alias,
                    global,
                );
            }
            UseTree::Name(name) => {
                self.import(
                    name.ident.span().start().line,
                    joined(&name.ident),
                    name.ident.to_string(),
                    global,
                );
            }
            UseTree::Rename(rename) => {
                let whole = if rename.ident == "self" {
                    prefix.to_vec()
                } else {
                    joined(&rename.ident)
                };
                self.import(
                    rename.ident.span().start().line,
                    whole,
                    rename.rename.to_string(),
                    global,
                );
            }
            UseTree::Glob(star) => {
                let written = Written {
                    segments: prefix.to_vec(),
                    global,
                };
                self.tree
                    .globs
                    .entry(self.module.clone())
                    .or_default()
                    .push(written.clone());
                self.note(star.star_token.spans[0].start().line, Raw::Glob(written));
            }
            UseTree::Group(group) => group
                .items
                .iter()
                .for_each(|item| self.use_tree(item, prefix, global)),
        }
    }

    fn import(&mut self, line: usize, segments: Segments, alias: String, global: bool) {
        let written = Written { segments, global };
        self.tree
            .imports
            .entry((self.module.clone(), alias))
            .or_default()
            .push(written.clone());
        self.note(line, Raw::Path(written));
    }

    /// Finds paths, macro calls and `unsafe` in tokens that nobody has parsed.
    fn tokens(&mut self, stream: TokenStream) {
        let trees: Vec<TokenTree> = stream.into_iter().collect();
        let mut at = 0;
        while at < trees.len() {
            match &trees[at] {
                TokenTree::Group(group) => self.tokens(group.stream()),
                TokenTree::Ident(ident) => at = self.token_path(&trees, at, ident),
                TokenTree::Punct(_) | TokenTree::Literal(_) => {}
            }
            at += 1;
        }
    }

    /// Notes the path or macro call that starts with the identifier at `start`; returns its last index.
    fn token_path(&mut self, trees: &[TokenTree], start: usize, first: &Ident) -> usize {
        let line = first.span().start().line;
        let mut segments = vec![first.to_string()];
        let mut end = start;
        while is_punct(trees, end + 1, ':') && is_punct(trees, end + 2, ':') {
            let Some(TokenTree::Ident(next)) = trees.get(end + 3) else {
                break;
            };
            segments.push(next.to_string());
            end += 3;
        }
        let after_colons =
            start >= 2 && is_punct(trees, start - 1, ':') && is_punct(trees, start - 2, ':');
        // `Vec::<u8>::new`: what follows the `>` belongs to a path that was noted already.
        let continues = after_colons && start >= 3 && is_punct(trees, start - 3, '>');
        if first == "unsafe" {
            self.note(line, Raw::Unsafe);
        } else if is_punct(trees, end + 1, '!')
            && matches!(trees.get(end + 2), Some(TokenTree::Group(_)))
        {
            self.note(line, Raw::Macro(segments[segments.len() - 1].clone()));
        }
        if segments.len() > 1 && !continues {
            self.note(
                line,
                Raw::Path(Written {
                    segments,
                    global: after_colons,
                }),
            );
        }
        end
    }
}

fn is_punct(trees: &[TokenTree], at: usize, wanted: char) -> bool {
    matches!(trees.get(at), Some(TokenTree::Punct(punct)) if punct.as_char() == wanted)
}

impl<'ast> Visit<'ast> for Reader<'_> {
    fn visit_item(&mut self, item: &'ast Item) {
        if !attributes(item).iter().any(is_test_only) {
            visit::visit_item(self, item);
        } else if let Item::Mod(module) = item {
            let path = [self.module.as_slice(), &[module.ident.to_string()]].concat();
            self.tree.test_only.push(path);
        }
    }

    fn visit_impl_item(&mut self, item: &'ast ImplItem) {
        let ImplItem::Fn(function) = item else {
            return visit::visit_impl_item(self, item);
        };
        if !function.attrs.iter().any(is_test_only) {
            visit::visit_impl_item(self, item);
        }
    }

    fn visit_item_mod(&mut self, module: &'ast syn::ItemMod) {
        module.attrs.iter().for_each(|a| self.visit_attribute(a));
        self.visit_visibility(&module.vis);
        self.module.push(module.ident.to_string());
        self.tree.modules.insert(self.module.clone());
        for item in module.content.iter().flat_map(|(_, items)| items) {
            self.visit_item(item);
        }
        self.module.pop();
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        item.attrs
            .iter()
            .for_each(|attr| self.visit_attribute(attr));
        self.use_tree(&item.tree, &[], item.leading_colon.is_some());
    }

    fn visit_item_extern_crate(&mut self, item: &'ast syn::ItemExternCrate) {
        let name = item.ident.to_string();
        let alias = item
            .rename
            .as_ref()
            .map_or(name.clone(), |(_, alias)| alias.to_string());
        self.import(item.ident.span().start().line, vec![name], alias, true);
    }

    fn visit_expr_path(&mut self, expression: &'ast syn::ExprPath) {
        if !of_a_type(expression.qself.as_ref()) {
            return visit::visit_expr_path(self, expression);
        }
        expression.qself.iter().for_each(|q| self.visit_qself(q));
    }

    fn visit_type_path(&mut self, named: &'ast syn::TypePath) {
        if !of_a_type(named.qself.as_ref()) {
            return visit::visit_type_path(self, named);
        }
        named.qself.iter().for_each(|q| self.visit_qself(q));
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let segments: Segments = path.segments.iter().map(|s| s.ident.to_string()).collect();
        // One segment is a local name, or an import that was noted where it was made.
        if segments.len() > 1 || path.leading_colon.is_some() {
            let line = path.segments[0].ident.span().start().line;
            self.note(
                line,
                Raw::Path(Written {
                    segments,
                    global: path.leading_colon.is_some(),
                }),
            );
        }
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, call: &'ast syn::Macro) {
        let last = &call.path.segments[call.path.segments.len() - 1].ident;
        self.note(last.span().start().line, Raw::Macro(last.to_string()));
        self.tokens(call.tokens.clone());
        visit::visit_macro(self, call);
    }

    fn visit_attribute(&mut self, attribute: &'ast Attribute) {
        let Meta::List(list) = &attribute.meta else {
            return;
        };
        self.visit_path(&list.path);
        let permits = ["allow", "expect", "warn"]
            .iter()
            .any(|level| list.path.is_ident(level));
        if permits && names(&list.tokens, "unsafe_code") {
            self.note(list.path.segments[0].ident.span().start().line, Raw::Unsafe);
        }
        self.tokens(list.tokens.clone());
    }

    fn visit_expr_unsafe(&mut self, block: &'ast syn::ExprUnsafe) {
        self.note(block.unsafe_token.span.start().line, Raw::Unsafe);
        visit::visit_expr_unsafe(self, block);
    }

    fn visit_signature(&mut self, signature: &'ast syn::Signature) {
        if let syn::Safety::Unsafe(token) = &signature.safety {
            self.note(token.span.start().line, Raw::Unsafe);
        }
        visit::visit_signature(self, signature);
    }

    fn visit_item_impl(&mut self, item: &'ast syn::ItemImpl) {
        if let Some(token) = &item.unsafety {
            self.note(token.span.start().line, Raw::Unsafe);
        }
        visit::visit_item_impl(self, item);
    }

    fn visit_item_trait(&mut self, item: &'ast syn::ItemTrait) {
        if let Some(token) = &item.unsafety {
            self.note(token.span.start().line, Raw::Unsafe);
        }
        visit::visit_item_trait(self, item);
    }

    fn visit_item_foreign_mod(&mut self, item: &'ast syn::ItemForeignMod) {
        self.note(item.abi.extern_token.span.start().line, Raw::Unsafe);
        visit::visit_item_foreign_mod(self, item);
    }
}

/// `<[u8]>::len`: the path names something of the type, which is visited by itself.
fn of_a_type(qself: Option<&syn::QSelf>) -> bool {
    qself.is_some_and(|qself| qself.position == 0)
}

/// `#[cfg(test)]`, `#[cfg(all(test, …))]` or `#[test]`.
fn is_test_only(attribute: &Attribute) -> bool {
    match &attribute.meta {
        Meta::Path(path) => path.is_ident("test"),
        Meta::List(list) if list.path.is_ident("cfg") => requires_test(&list.tokens),
        Meta::List(_) | Meta::NameValue(_) => false,
    }
}

fn requires_test(tokens: &TokenStream) -> bool {
    let trees: Vec<TokenTree> = tokens.clone().into_iter().collect();
    match trees.as_slice() {
        [TokenTree::Ident(only)] => only == "test",
        [TokenTree::Ident(all), TokenTree::Group(group)]
            if group.delimiter() == Delimiter::Parenthesis =>
        {
            all == "all" && names(&group.stream(), "test")
        }
        _ => false,
    }
}

/// Whether `name` stands at the top level of `tokens`.
fn names(tokens: &TokenStream, name: &str) -> bool {
    tokens
        .clone()
        .into_iter()
        .any(|tree| matches!(tree, TokenTree::Ident(ident) if ident == name))
}

#[allow(
    clippy::wildcard_enum_match_arm,
    reason = "syn's Item may grow, so it needs a wildcard"
)]
fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(i) => &i.attrs,
        Item::Enum(i) => &i.attrs,
        Item::ExternCrate(i) => &i.attrs,
        Item::Fn(i) => &i.attrs,
        Item::ForeignMod(i) => &i.attrs,
        Item::Impl(i) => &i.attrs,
        Item::Macro(i) => &i.attrs,
        Item::Mod(i) => &i.attrs,
        Item::Static(i) => &i.attrs,
        Item::Struct(i) => &i.attrs,
        Item::Trait(i) => &i.attrs,
        Item::Type(i) => &i.attrs,
        Item::Union(i) => &i.attrs,
        Item::Use(i) => &i.attrs,
        _ => &[],
    }
}
