//! What the source says without compiling it: where the tests are and a hash of
//! each one's body, whether two versions of a file differ only in comments, and
//! which public items a file declares.
//!
//! Everything is compared as tokens, so layout, comments and line numbers do not
//! count; text inside of strings and macros does.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use proc_macro2::{TokenStream, TokenTree};
use quote::ToTokens as _;
use syn::visit::Visit;

use crate::hash::hash;
use crate::risk::{Contents, RustFile};
use crate::test_id::{TargetKind, TestId};
use crate::workspace::Package;

/// The tests found in the source of some packages.
#[derive(Debug, Default)]
pub struct TestBodies {
    /// By package and function name: module path and hash of each test.
    found: BTreeMap<(String, String), Vec<FoundTest>>,
}

#[derive(Debug)]
struct FoundTest {
    modules: String,
    body: String,
}

impl TestBodies {
    /// Reads the tests of a package from the files under its folder. Files that
    /// are not Rust are left out: their tests have no body hash.
    pub fn read<'a>(packages: impl IntoIterator<Item = &'a Package>) -> Self {
        let mut bodies = Self::default();
        for package in packages {
            for folder in ["src", "tests", "examples", "benches"] {
                let root = package.root.join(folder);
                bodies.read_folder(&package.name, &root, &root);
            }
        }
        bodies
    }

    fn read_folder(&mut self, package: &str, root: &Path, folder: &Path) {
        let Ok(entries) = fs::read_dir(folder) else {
            return;
        };
        for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
            if path.is_dir() {
                self.read_folder(package, root, &path);
            } else if path.extension().is_some_and(|extension| extension == "rs")
                && let Ok(text) = fs::read_to_string(&path)
            {
                self.read_file(package, &file_modules(root, &path), &text);
            }
        }
    }

    fn read_file(&mut self, package: &str, modules: &[String], text: &str) {
        // Most files hold no test, and parsing is what costs.
        if !text.contains("test") {
            return;
        }
        let Ok(file) = parse(text) else {
            return;
        };
        let mut visitor = TestVisitor {
            modules: modules.to_vec(),
            tests: Vec::new(),
        };
        visitor.visit_file(&file);
        for (name, found) in visitor.tests {
            let key = (package.to_owned(), name);
            self.found.entry(key).or_default().push(found);
        }
    }

    /// The package and the function of each test.
    pub fn functions(&self) -> impl Iterator<Item = (&str, &str)> {
        self.found.iter().flat_map(|((package, function), found)| {
            found.iter().map(|_| (package.as_str(), function.as_str()))
        })
    }

    /// The hash of a test's body, if exactly one function can be it.
    pub fn hash(&self, test: &TestId) -> Option<&str> {
        if test.kind == TargetKind::Doc {
            return None;
        }
        // Macros such as `rstest` make modules named after the function.
        let parts = test.path.split("::").collect::<Vec<_>>();
        for end in (1..=parts.len()).rev() {
            let key = (test.package.clone(), parts[end - 1].to_owned());
            let Some(found) = self.found.get(&key) else {
                continue;
            };
            let modules = parts[..end - 1].join("::");
            let mut exact = found.iter().filter(|test| test.modules == modules);
            return match (exact.next(), exact.next(), found.as_slice()) {
                (Some(one), None, _) | (None, None, [one]) => Some(&one.body),
                _ => None,
            };
        }
        None
    }
}

/// The modules that a file's place stands for, below its target's root.
pub(super) fn file_modules(root: &Path, path: &Path) -> Vec<String> {
    let relative = path.strip_prefix(root).unwrap_or(path).with_extension("");
    let mut modules: Vec<String> = relative
        .components()
        .map(|part| part.as_os_str().to_string_lossy().into_owned())
        .collect();
    let is_src = root.file_name().is_some_and(|name| name == "src");
    if !is_src || modules.first().is_some_and(|name| name == "bin") {
        // `tests/it.rs` and `tests/it/main.rs` are targets of their own.
        modules.drain(..modules.len().min(if is_src { 2 } else { 1 }));
    }
    if modules
        .last()
        .is_some_and(|name| matches!(name.as_str(), "mod" | "lib" | "main"))
    {
        modules.pop();
    }
    modules
}

struct TestVisitor {
    modules: Vec<String>,
    tests: Vec<(String, FoundTest)>,
}

impl<'ast> Visit<'ast> for TestVisitor {
    fn visit_item_mod(&mut self, module: &'ast syn::ItemMod) {
        self.modules.push(module.ident.to_string());
        syn::visit::visit_item_mod(self, module);
        self.modules.pop();
    }

    fn visit_item_fn(&mut self, function: &'ast syn::ItemFn) {
        if is_test(function) {
            let found = FoundTest {
                modules: self.modules.join("::"),
                body: hash(&function.block.to_token_stream().to_string()),
            };
            self.tests.push((function.sig.ident.to_string(), found));
        }
    }
}

/// Whether a function has an attribute that makes tests of it, such as `test` or `rstest`.
pub(super) fn is_test(function: &syn::ItemFn) -> bool {
    function.attrs.iter().any(|attribute| {
        let last = attribute.path().segments.last();
        last.is_some_and(|last| last.ident.to_string().contains("test"))
    })
}

/// Parses a file as the compiler does, for which `\r\n` is one line end also inside of a
/// string: git may write the one or the other to the disk.
pub(super) fn parse(text: &str) -> syn::Result<syn::File> {
    syn::parse_file(&unix_lines(text))
}

/// A text with its line ends as git keeps them.
pub(crate) fn unix_lines(text: &str) -> Cow<'_, str> {
    if text.contains("\r\n") {
        Cow::Owned(text.replace("\r\n", "\n"))
    } else {
        Cow::Borrowed(text)
    }
}

/// Reads a Rust file; `None` if it does not parse.
pub fn contents(text: &str) -> Option<Contents> {
    let file = parse(text).ok()?;
    let mut contents = Contents::default();
    split_docs(
        file.to_token_stream(),
        &mut contents.code,
        &mut contents.docs,
    );
    let shipped = file.items.iter().filter(|item| !is_test_item(item));
    for item in shipped {
        split_docs(
            item.to_token_stream(),
            &mut contents.shipped,
            &mut String::new(),
        );
    }
    let mut words = BTreeSet::new();
    collect_words(file.to_token_stream(), &mut words);
    contents.is_unsafe = words.contains("unsafe");
    contents.has_target_feature = words.contains("target_feature");
    collect_doc_readers(file.to_token_stream(), &mut contents.doc_readers);
    contents.has_ffi = words.contains("no_mangle") || file.items.iter().any(is_ffi);
    let mut visitor = PublicVisitor {
        path: Vec::new(),
        public: &mut contents.public,
    };
    for item in &file.items {
        visitor.visit_item(item);
    }
    Some(contents)
}

/// One revision of a Rust file, by its text; `None` if it has none.
pub fn rust_file(text: Option<&str>) -> RustFile {
    match text.map(contents) {
        None => RustFile::Absent,
        Some(None) => RustFile::Unreadable,
        Some(Some(contents)) => RustFile::Parsed(contents),
    }
}

/// The tests of a Rust file that are marked as ignored, by their names, and whether the mark
/// gives a reason; `None` if the file does not parse.
pub fn ignored_tests(text: &str) -> Option<BTreeMap<String, bool>> {
    struct Ignored(BTreeMap<String, bool>);
    impl<'ast> Visit<'ast> for Ignored {
        fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
            let mark = item
                .attrs
                .iter()
                .find(|attribute| attribute.path().is_ident("ignore"));
            if let Some(mark) = mark {
                let has_reason = matches!(mark.meta, syn::Meta::NameValue(_));
                self.0.insert(item.sig.ident.to_string(), has_reason);
            }
            syn::visit::visit_item_fn(self, item);
        }
    }
    let mut ignored = Ignored(BTreeMap::new());
    ignored.visit_file(&parse(text).ok()?);
    Some(ignored.0)
}

/// Whether each item of a file is in another version of it as it was, or is gone. New items do
/// not count, nor do comments, documentation and layout. Of a file that does not parse, every
/// character counts.
pub(crate) fn keeps_items(before: &str, after: &str) -> bool {
    let (Ok(old), Ok(new)) = (parse(before), parse(after)) else {
        return unix_lines(before) == unix_lines(after);
    };
    code(&old.attrs) == code(&new.attrs) && keeps_all(&old.items, &new.items)
}

fn keeps_all(before: &[syn::Item], after: &[syn::Item]) -> bool {
    before.iter().all(|item| match item {
        syn::Item::Mod(module) => {
            let same = after.iter().filter_map(|other| match other {
                syn::Item::Mod(other) if other.ident == module.ident => Some(other),
                _ => None,
            });
            let items = |module: &syn::ItemMod| match &module.content {
                Some((_, items)) => items.clone(),
                None => Vec::new(),
            };
            let mut same = same.peekable();
            same.peek().is_none()
                || same.any(|other| {
                    code(&module.attrs) == code(&other.attrs)
                        && keeps_all(&items(module), &items(other))
                })
        }
        // These list the benchmarks of a file.
        syn::Item::Macro(list) if names_benchmarks(list) => {
            let words = words(list);
            let others = after.iter().filter_map(|other| match other {
                syn::Item::Macro(other) if names_benchmarks(other) => Some(other),
                _ => None,
            });
            let mut others =
                others.filter(|other| code([&other.mac.path]) == code([&list.mac.path]));
            others.any(|other| words.is_subset(&self::words(other)))
        }
        item => {
            let name = item_name(item);
            let mut same = after
                .iter()
                .filter(|other| item_name(other) == name)
                .peekable();
            let is_gone = name.is_some() && same.peek().is_none();
            is_gone || same.any(|other| code([other]) == code([item]))
        }
    })
}

/// The name of an item that has one of its own, with its kind.
fn item_name(item: &syn::Item) -> Option<(std::mem::Discriminant<syn::Item>, String)> {
    let name = match item {
        syn::Item::Fn(item) => &item.sig.ident,
        syn::Item::Const(item) => &item.ident,
        syn::Item::Static(item) => &item.ident,
        syn::Item::Struct(item) => &item.ident,
        syn::Item::Enum(item) => &item.ident,
        syn::Item::Union(item) => &item.ident,
        syn::Item::Trait(item) => &item.ident,
        syn::Item::Type(item) => &item.ident,
        _ => return None,
    };
    Some((std::mem::discriminant(item), name.to_string()))
}

fn names_benchmarks(list: &syn::ItemMacro) -> bool {
    let path = &list.mac.path;
    let last = path.segments.last().map(|last| last.ident.to_string());
    matches!(last.as_deref(), Some("criterion_group" | "criterion_main"))
}

fn words(list: &syn::ItemMacro) -> BTreeSet<String> {
    let mut words = BTreeSet::new();
    collect_words(list.mac.tokens.clone(), &mut words);
    words
}

/// The code of something, without documentation.
fn code<'a, T: quote::ToTokens + 'a>(parts: impl IntoIterator<Item = &'a T>) -> String {
    let mut code = String::new();
    for part in parts {
        split_docs(part.to_token_stream(), &mut code, &mut String::new());
    }
    code
}

/// The modules that a file has in other files: their names, and where `#[path]` says that they
/// are.
fn module_files(text: &str) -> Vec<(String, Option<String>)> {
    let items = parse(text).map(|file| file.items).unwrap_or_default();
    let of_module = |module: syn::ItemMod| {
        let path = module
            .attrs
            .iter()
            .find_map(|attribute| match &attribute.meta {
                syn::Meta::NameValue(path) if path.path.is_ident("path") => match &path.value {
                    syn::Expr::Lit(literal) => match &literal.lit {
                        syn::Lit::Str(text) => Some(text.value()),
                        _ => None,
                    },
                    _ => None,
                },
                _ => None,
            });
        module
            .content
            .is_none()
            .then(|| (module.ident.to_string(), path))
    };
    let modules = items.into_iter().filter_map(|item| match item {
        syn::Item::Mod(module) => of_module(module),
        _ => None,
    });
    modules.collect()
}

/// A file of a target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ModuleFile {
    /// The path of its module, empty for the root of the target.
    pub(crate) module: String,
    /// Where it is.
    pub(crate) path: PathBuf,
    /// What is in it.
    pub(crate) text: String,
}

/// The root of a target, and the files that its modules are in, each once. Those that cannot be
/// read are left out.
pub(crate) fn module_tree(root: &Path) -> Vec<ModuleFile> {
    let mut found = Vec::new();
    collect_modules(root, "", &mut BTreeSet::new(), &mut found);
    found
}

fn collect_modules(
    path: &Path,
    module: &str,
    seen: &mut BTreeSet<PathBuf>,
    found: &mut Vec<ModuleFile>,
) {
    // `#[path]` may lead back to a file.
    let is_new = fs::canonicalize(path).is_ok_and(|real| seen.insert(real));
    let Some(text) = fs::read_to_string(path).ok().filter(|_| is_new) else {
        return;
    };
    let modules = module_files(&text);
    found.push(ModuleFile {
        module: module.to_owned(),
        path: path.to_owned(),
        text,
    });
    for (name, attribute) in modules {
        let is_root = module.is_empty();
        if let Some(place) = module_place(path, &name, attribute.as_deref(), is_root) {
            collect_modules(&place, &format!("{module}::{name}"), seen, found);
        }
    }
}

/// Where the file of a module is that another file declares, with what `#[path]` says; the root
/// of a target is like a `mod.rs`.
fn module_place(
    file: &Path,
    name: &str,
    attribute: Option<&str>,
    is_root: bool,
) -> Option<PathBuf> {
    let folder = file.parent()?;
    if let Some(path) = attribute {
        return Some(folder.join(path));
    }
    let below = if is_root || file.file_name()? == "mod.rs" {
        folder.to_owned()
    } else {
        folder.join(file.file_stem()?)
    };
    let places = [
        below.join(format!("{name}.rs")),
        below.join(name).join("mod.rs"),
    ];
    places.into_iter().find(|place| place.exists())
}

/// The functions of a file that are marked as `#[bench]`: their names and code.
pub(crate) fn bench_functions(text: &str) -> Vec<(String, String)> {
    struct Benches(Vec<(String, String)>);
    impl<'ast> Visit<'ast> for Benches {
        fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
            if item.attrs.iter().any(|mark| mark.path().is_ident("bench")) {
                self.0.push((item.sig.ident.to_string(), code([item])));
            }
            syn::visit::visit_item_fn(self, item);
        }
    }
    let mut benches = Benches(Vec::new());
    if let Ok(file) = parse(text) {
        benches.visit_file(&file);
    }
    benches.0
}

fn is_ffi(item: &syn::Item) -> bool {
    matches!(item, syn::Item::ForeignMod(_))
        || matches!(item, syn::Item::Fn(function) if function.sig.abi.is_some())
}

/// Collects the derived macros that may read documentation comments, as those do that make help
/// texts and schemas: all but some that do not.
fn collect_doc_readers(tokens: TokenStream, readers: &mut BTreeSet<String>) {
    const NO_READERS: [&str; 12] = [
        "Debug",
        "Clone",
        "Copy",
        "PartialEq",
        "Eq",
        "PartialOrd",
        "Ord",
        "Hash",
        "Default",
        "Serialize",
        "Deserialize",
        "Error",
    ];
    let mut tokens = tokens.into_iter().peekable();
    while let Some(token) = tokens.next() {
        match (token, tokens.peek()) {
            (TokenTree::Ident(word), Some(TokenTree::Group(list))) if word == "derive" => {
                let list = list.stream().to_string();
                let last = |path: &str| path.rsplit("::").next().unwrap_or(path).trim().to_owned();
                let names = list.split(',').map(last).filter(|name| !name.is_empty());
                readers.extend(names.filter(|name| !NO_READERS.contains(&name.as_str())));
            }
            (TokenTree::Group(group), _) => collect_doc_readers(group.stream(), readers),
            _ => {}
        }
    }
}

fn attributes(item: &syn::Item) -> &[syn::Attribute] {
    match item {
        syn::Item::Fn(item) => &item.attrs,
        syn::Item::Mod(item) => &item.attrs,
        syn::Item::Use(item) => &item.attrs,
        syn::Item::Struct(item) => &item.attrs,
        syn::Item::Enum(item) => &item.attrs,
        syn::Item::Impl(item) => &item.attrs,
        syn::Item::Const(item) => &item.attrs,
        syn::Item::Static(item) => &item.attrs,
        _ => &[],
    }
}

fn is_test_item(item: &syn::Item) -> bool {
    attributes(item)
        .iter()
        .any(|attribute| match &attribute.meta {
            syn::Meta::Path(path) => path.is_ident("test"),
            syn::Meta::List(list) => list.path.is_ident("cfg") && list.tokens.to_string() == "test",
            syn::Meta::NameValue(_) => false,
        })
}

/// Writes tokens as text, with the attributes that documentation comments are
/// apart from the code.
fn split_docs(tokens: TokenStream, code: &mut String, docs: &mut String) {
    let mut tokens = tokens.into_iter().peekable();
    while let Some(token) = tokens.next() {
        match token {
            TokenTree::Punct(punct) if punct.as_char() == '#' => {
                let inner =
                    matches!(tokens.peek(), Some(TokenTree::Punct(p)) if p.as_char() == '!');
                if inner {
                    tokens.next();
                }
                let is_doc = |group: &proc_macro2::Group| {
                    let first = group.stream().into_iter().next();
                    first.is_some_and(|word| word.to_string() == "doc")
                };
                match tokens.next() {
                    Some(TokenTree::Group(group)) if is_doc(&group) => {
                        docs.push_str(&group.stream().to_string());
                        docs.push('\n');
                    }
                    Some(other) => {
                        code.push('#');
                        split_docs(other.into(), code, docs);
                    }
                    None => {}
                }
            }
            TokenTree::Group(group) => {
                let (open, close) = match group.delimiter() {
                    proc_macro2::Delimiter::Parenthesis => ("(", ")"),
                    proc_macro2::Delimiter::Brace => ("{", "}"),
                    proc_macro2::Delimiter::Bracket => ("[", "]"),
                    proc_macro2::Delimiter::None => ("", ""),
                };
                code.push_str(open);
                split_docs(group.stream(), code, docs);
                code.push_str(close);
            }
            other => {
                code.push_str(&other.to_string());
                code.push(' ');
            }
        }
    }
}

fn collect_words(tokens: TokenStream, words: &mut BTreeSet<String>) {
    for token in tokens {
        match token {
            TokenTree::Group(group) => collect_words(group.stream(), words),
            TokenTree::Ident(word) => {
                words.insert(word.to_string());
            }
            _ => {}
        }
    }
}

struct PublicVisitor<'a> {
    path: Vec<String>,
    public: &'a mut BTreeMap<String, String>,
}

impl PublicVisitor<'_> {
    fn add(&mut self, visibility: &syn::Visibility, name: &dyn ToString, signature: TokenStream) {
        if matches!(visibility, syn::Visibility::Public(_)) {
            let name = name.to_string();
            let path = self
                .path
                .iter()
                .map(String::as_str)
                .chain([&*name])
                .collect::<Vec<_>>();
            let mut code = String::new();
            split_docs(signature, &mut code, &mut String::new());
            self.public.insert(path.join("::"), code);
        }
    }
}

impl<'ast> Visit<'ast> for PublicVisitor<'_> {
    fn visit_item_mod(&mut self, module: &'ast syn::ItemMod) {
        self.add(&module.vis, &module.ident, TokenStream::new());
        self.path.push(module.ident.to_string());
        syn::visit::visit_item_mod(self, module);
        self.path.pop();
    }

    fn visit_item_impl(&mut self, block: &'ast syn::ItemImpl) {
        self.path.push(block.self_ty.to_token_stream().to_string());
        syn::visit::visit_item_impl(self, block);
        self.path.pop();
    }

    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        self.add(&item.vis, &item.sig.ident, item.sig.to_token_stream());
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.add(&item.vis, &item.sig.ident, item.sig.to_token_stream());
    }

    fn visit_item_struct(&mut self, item: &'ast syn::ItemStruct) {
        self.add(&item.vis, &item.ident, item.to_token_stream());
    }

    fn visit_item_enum(&mut self, item: &'ast syn::ItemEnum) {
        self.add(&item.vis, &item.ident, item.to_token_stream());
    }

    fn visit_item_trait(&mut self, item: &'ast syn::ItemTrait) {
        self.add(&item.vis, &item.ident, item.to_token_stream());
    }

    fn visit_item_type(&mut self, item: &'ast syn::ItemType) {
        self.add(&item.vis, &item.ident, item.to_token_stream());
    }

    fn visit_item_const(&mut self, item: &'ast syn::ItemConst) {
        self.add(&item.vis, &item.ident, item.ty.to_token_stream());
    }

    fn visit_item_static(&mut self, item: &'ast syn::ItemStatic) {
        self.add(&item.vis, &item.ident, item.ty.to_token_stream());
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.add(&item.vis, &item.tree.to_token_stream(), TokenStream::new());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bodies(files: &[(&str, &str)]) -> TestBodies {
        let mut bodies = TestBodies::default();
        for (path, text) in files {
            let root = Path::new(path.split('/').next().expect("a folder"));
            bodies.read_file("a", &file_modules(root, Path::new(path)), text);
        }
        bodies
    }

    #[test]
    fn a_renamed_or_moved_test_keeps_its_hash() {
        let before = bodies(&[(
            "src/m.rs",
            "mod tests { #[test] fn old() { assert_eq!(1 + 1, 2); } }",
        )]);
        let after = bodies(&[(
            "src/n/mod.rs",
            "mod t {\n #[test]\n // why\n fn new() {\n  assert_eq!(1 + 1, 2);\n } }",
        )]);
        let old = before.hash(&TestId::new("a", TargetKind::Lib, "", "m::tests::old"));
        let new = after.hash(&TestId::new("a", TargetKind::Lib, "", "n::t::new"));
        assert!(old.is_some());
        assert_eq!(old, new);
    }

    #[test]
    fn line_ends_are_no_part_of_the_source() {
        let text = "/// Says.\npub fn f() -> &'static str { \"one\ntwo\" }\n\
                    mod tests { #[test] fn t() { assert_eq!(f(), \"one\ntwo\"); } }\n";
        let crlf = text.replace('\n', "\r\n");
        assert_eq!(contents(text), contents(&crlf));
        let test = TestId::new("a", TargetKind::Lib, "", "tests::t");
        let hash = |text: &str| {
            let found = bodies(&[("src/lib.rs", text)]);
            found.hash(&test).map(str::to_owned)
        };
        assert!(hash(text).is_some());
        assert_eq!(hash(text), hash(&crlf));
    }

    #[test]
    fn tests_of_one_name_are_told_apart_by_module() {
        let found = bodies(&[
            ("src/lib.rs", "mod x { #[test] fn t() { one() } }"),
            ("src/y.rs", "#[tokio::test] async fn t() { two() }"),
            ("tests/it.rs", "#[test] fn t() { three() }"),
        ]);
        let hash = |kind, target, path| found.hash(&TestId::new("a", kind, target, path));
        let all = BTreeSet::from([
            hash(TargetKind::Lib, "", "x::t"),
            hash(TargetKind::Lib, "", "y::t"),
            hash(TargetKind::Test, "it", "t"),
        ]);
        assert_eq!(all.len(), 3);
        assert!(!all.contains(&None));
        assert_eq!(hash(TargetKind::Lib, "", "z::t"), None);
    }

    #[test]
    fn comments_are_no_code_and_docs_are_apart() {
        let before = contents("/// Adds.\npub fn f(a: u8) -> u8 { a + 1 }").expect("parses");
        let after = contents("// note\n/// Adds one.\npub fn f(a: u8)\n  -> u8 { a + 1 /* x */ }");
        let after = after.expect("parses");
        assert_eq!(before.code, after.code);
        assert_ne!(before.docs, after.docs);
        let other = contents("/// Adds.\npub fn f(a: u8) -> u8 { a + 2 }").expect("parses");
        assert_ne!(before.code, other.code);
        let text = contents("fn f() -> &'static str { \"a // b\" }").expect("parses");
        assert!(text.code.contains("a // b"));
    }

    #[test]
    fn a_file_keeps_its_items_if_others_are_new() {
        let before = "//! Benches.\nuse a::f;\nconst N: u32 = 4;\nfn one(c: &mut C) { c.x(f(N)) }\n\
                      mod m { fn two() { g() } }\ncriterion_group!(benches, one);\n";
        let keeps = |from: &str, to: &str| {
            assert!(before.contains(from), "{from}");
            keeps_items(before, &before.replace(from, to))
        };
        for (from, to) in [
            ("//! Benches.", "//! Others."),
            ("fn one", "/// One.\nfn one"),
            ("fn one", "fn new() {}\nfn one"),
            ("{ fn two", "{ fn new() {} fn two"),
            ("(benches, one)", "(benches, one, new)"),
            ("use a::f;", "use a::f;\nuse b::g;"),
            // It measures nothing any more.
            ("fn two() { g() }", ""),
        ] {
            assert!(keeps(from, to), "{from} → {to}");
        }
        for (from, to) in [
            ("= 4", "= 5"),
            ("f(N)", "f(2 * N)"),
            ("{ g() }", "{ g(); g() }"),
            ("use a::f", "use b::f"),
            ("(benches, one)", "(others, one)"),
            ("mod m", "#[inline]\nmod m"),
        ] {
            assert!(!keeps(from, to), "{from} → {to}");
        }
        assert!(keeps_items("no rust (", "no rust ("));
        assert!(!keeps_items("no rust (", "no rust (("));
    }

    #[test]
    fn modules_in_other_files_are_known() {
        let text = "mod a;\n#[path = \"../b/c.rs\"]\nmod b;\nmod inline {}\n";
        let expected = [("a", None), ("b", Some("../b/c.rs"))];
        let expected = expected.map(|(name, path)| (name.to_owned(), path.map(str::to_owned)));
        assert_eq!(module_files(text), expected);
    }

    #[test]
    fn derived_macros_may_read_documentation() {
        let reads = |text| !contents(text).expect("parses").doc_readers.is_empty();
        assert!(reads("#[derive(Debug, clap::Parser)] struct A;"));
        assert!(reads("mod m { #[derive(JsonSchema)] struct A; }"));
        assert!(!reads(
            "#[derive(Debug, serde::Serialize, thiserror::Error,)] struct A;"
        ));
        assert!(!reads("fn derive() {}"));
    }

    #[test]
    fn risky_things_are_seen_as_tokens_not_as_text() {
        let plain = contents("fn f() { let s = \"unsafe extern\"; } // unsafe").expect("parses");
        assert!(!plain.is_unsafe && !plain.has_ffi && !plain.has_target_feature);
        let risky = contents(
            "#[target_feature(enable = \"avx2\")] unsafe fn f() {}\nextern \"C\" fn g() {}",
        );
        let risky = risky.expect("parses");
        assert!(risky.is_unsafe && risky.has_ffi && risky.has_target_feature);
        let in_macro = contents("fn f() { m!(unsafe { x() }) }").expect("parses");
        assert!(in_macro.is_unsafe);
    }

    #[test]
    fn public_items_have_their_signature() {
        let text = "pub struct S { pub x: u8 } impl S { pub fn m(&self) -> u8 { 1 } fn p() {} }
                    pub(crate) fn hidden() {} mod m { pub fn inner() {} }";
        let public = contents(text).expect("parses").public;
        assert_eq!(public.keys().collect::<Vec<_>>(), ["S", "S::m", "m::inner"]);
        assert!(public["S::m"].contains("u8"));
    }

    #[test]
    fn tests_are_no_part_of_what_is_shipped() {
        let before = contents("pub fn f() {} #[cfg(test)] mod tests { fn a() {} }");
        let after = contents("pub fn f() {} #[cfg(test)] mod tests { fn b() {} }");
        let (before, after) = (before.expect("parses"), after.expect("parses"));
        assert_eq!(before.shipped, after.shipped);
        assert_ne!(before.code, after.code);
    }
}
