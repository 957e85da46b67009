//! Which tests the source has behind features that a build leaves out, without compiling it: by
//! `cfg` on tests, modules and files, and by the features that targets require.
//!
//! What macros make is not seen, so there are at least as many as are found.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use syn::punctuated::Punctuated;
use syn::visit::Visit;
use syn::{Attribute, Expr, Lit, Meta, Token};

use super::source::{file_modules, is_test, parse};
use crate::baseline::TestSet;
use crate::coverage::Part;
use crate::test_id::{TargetKind, TestId};
use crate::workspace::Package;

/// How many of the tests of some packages are behind features and not among those that were
/// `seen`; `None` if none is.
pub fn behind_features<'a>(
    packages: impl IntoIterator<Item = &'a Package>,
    seen: &TestSet,
) -> Option<Part> {
    let is_seen = |package: &Package, gated: &GatedTest| {
        let mut tests = seen.tests.keys();
        tests.any(|test| test.package == package.name && gated.is(test))
    };
    let packages = packages
        .into_iter()
        .filter(|package| !package.left_out_features.is_empty());
    let left_out = packages.map(|package| {
        let gated = gated_tests(package);
        gated.iter().filter(|test| !is_seen(package, test)).count()
    });
    let left_out = left_out.sum();
    let visible = seen.tests.keys();
    let visible = visible.filter(|test| test.kind != TargetKind::Doc).count();
    let all = visible + left_out;
    (left_out > 0).then_some(Part { left_out, all })
}

/// A test that some features switch on.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct GatedTest {
    modules: Vec<String>,
    function: String,
}

impl GatedTest {
    fn is(&self, test: &TestId) -> bool {
        let mut parts = test.path.split("::");
        let is_in = self
            .modules
            .iter()
            .all(|module| parts.next() == Some(module));
        is_in && parts.next() == Some(&self.function)
    }
}

/// What decides whether code is built with all features.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Gate {
    /// Whether a feature is a part of it.
    has_feature: bool,
    /// Whether it is open with all features on this machine.
    is_open: bool,
}

impl Gate {
    const NONE: Self = Self {
        has_feature: false,
        is_open: true,
    };

    fn and(self, other: Self) -> Self {
        Self {
            has_feature: self.has_feature || other.has_feature,
            is_open: self.is_open && other.is_open,
        }
    }

    /// The gate that the `cfg` attributes of an item are.
    fn of(attributes: &[Attribute]) -> Self {
        let cfgs = attributes
            .iter()
            .filter(|found| found.path().is_ident("cfg"));
        let gates = cfgs.map(|cfg| {
            cfg.parse_args::<Meta>()
                .map_or(Self::NONE, |meta| of(&meta))
        });
        gates.fold(Self::NONE, Self::and)
    }
}

/// The gate of one condition.
fn of(condition: &Meta) -> Gate {
    let gate = |is_open| Gate {
        has_feature: false,
        is_open,
    };
    match condition {
        Meta::Path(path) if path.is_ident("test") => gate(true),
        Meta::Path(path) if path.is_ident("unix") => gate(cfg!(unix)),
        Meta::Path(path) if path.is_ident("windows") => gate(cfg!(windows)),
        Meta::Path(path) => gate(path.is_ident("debug_assertions")),
        Meta::NameValue(pair) => match &pair.value {
            Expr::Lit(value) => match &value.lit {
                Lit::Str(text) => of_pair(pair, &text.value()),
                _ => gate(false),
            },
            _ => gate(false),
        },
        Meta::List(list) => {
            let parse = Punctuated::<Meta, Token![,]>::parse_terminated;
            let inner = list.parse_args_with(parse).unwrap_or_default();
            let inner: Vec<Gate> = inner.iter().map(of).collect();
            let is_open = match list.path.get_ident() {
                Some(word) if word == "any" => inner.iter().any(|gate| gate.is_open),
                Some(word) if word == "not" => !inner.iter().any(|gate| gate.is_open),
                _ => inner.iter().all(|gate| gate.is_open),
            };
            Gate {
                has_feature: inner.iter().any(|gate| gate.has_feature),
                is_open,
            }
        }
    }
}

fn of_pair(pair: &syn::MetaNameValue, value: &str) -> Gate {
    let is = |name: &str| pair.path.is_ident(name);
    let has_feature = is("feature");
    let is_here = (is("target_os") && value == std::env::consts::OS)
        || (is("target_arch") && value == std::env::consts::ARCH)
        || (is("target_family") && value == std::env::consts::FAMILY)
        || (is("target_pointer_width") && value == usize::BITS.to_string())
        || (is("panic") && value == "unwind");
    Gate {
        has_feature,
        is_open: has_feature || is_here,
    }
}

/// The tests of a package that are behind features and are built with all of them here.
fn gated_tests(package: &Package) -> BTreeSet<GatedTest> {
    let mut found = BTreeSet::new();
    for folder in ["src", "tests", "examples", "benches"] {
        let root = package.root.join(folder);
        let mut files = Vec::new();
        push_files(&root, &mut files);
        found.extend(Folder::new(&root, &files).tests(package));
    }
    found
}

fn push_files(folder: &Path, files: &mut Vec<PathBuf>) {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    for path in entries.map(|entry| entry.path()) {
        if path.is_dir() {
            push_files(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// The files of a folder that targets are in.
struct Folder<'a> {
    files: Vec<File<'a>>,
    /// The gates of the modules that are files of their own.
    modules: BTreeMap<Vec<String>, Gate>,
}

struct File<'a> {
    path: &'a Path,
    modules: Vec<String>,
    text: String,
    /// What was found in it; `None` while it was not parsed, which is what costs.
    tests: Option<Vec<(GatedTest, Gate)>>,
}

impl<'a> Folder<'a> {
    /// Reads files, and parses those that speak of features.
    fn new(root: &Path, paths: &'a [PathBuf]) -> Self {
        let mut folder = Self {
            files: Vec::new(),
            modules: BTreeMap::new(),
        };
        for path in paths {
            let text = fs::read_to_string(path).unwrap_or_default();
            let mut file = File {
                path,
                modules: file_modules(root, path),
                text,
                tests: None,
            };
            if file.text.contains("feature") {
                let (tests, modules) = file.parse();
                file.tests = Some(tests);
                folder.modules.extend(modules);
            }
            folder.files.push(file);
        }
        folder
    }

    fn tests(&self, package: &Package) -> Vec<GatedTest> {
        let mut found = Vec::new();
        for file in &self.files {
            let above = self.above(file).and(required(package, file.path));
            if !above.has_feature && file.tests.is_none() || !file.text.contains("test") {
                continue;
            }
            let tests = file.tests.clone().unwrap_or_else(|| file.parse().0);
            let gated = tests.into_iter().filter(|(_, gate)| {
                let gate = gate.and(above);
                gate.has_feature && gate.is_open
            });
            found.extend(gated.map(|(test, _)| test));
        }
        found
    }

    /// The gate of the modules that a file is in.
    fn above(&self, file: &File<'_>) -> Gate {
        let ends = 1..=file.modules.len();
        let gates = ends.filter_map(|end| self.modules.get(&file.modules[..end]));
        gates.fold(Gate::NONE, |gate, other| gate.and(*other))
    }
}

/// The gate that the features are which the target of a file requires.
fn required(package: &Package, path: &Path) -> Gate {
    let holds = |source: &Path| {
        let is_folder = source.file_name().is_some_and(|name| name == "main.rs");
        path == source || is_folder && source.parent().is_some_and(|dir| path.starts_with(dir))
    };
    let mut targets = package.targets.iter();
    let has_feature =
        targets.any(|target| !target.required_features.is_empty() && holds(&target.source));
    Gate {
        has_feature,
        is_open: true,
    }
}

type Modules = BTreeMap<Vec<String>, Gate>;

impl File<'_> {
    /// Its tests, and the modules that it says are other files.
    fn parse(&self) -> (Vec<(GatedTest, Gate)>, Modules) {
        let mut visitor = GateVisitor {
            modules: self.modules.clone(),
            gate: Gate::NONE,
            tests: Vec::new(),
            files: Modules::new(),
        };
        if let Ok(file) = parse(&self.text) {
            visitor.gate = Gate::of(&file.attrs);
            visitor.visit_file(&file);
        }
        (visitor.tests, visitor.files)
    }
}

struct GateVisitor {
    modules: Vec<String>,
    gate: Gate,
    tests: Vec<(GatedTest, Gate)>,
    files: Modules,
}

impl<'ast> Visit<'ast> for GateVisitor {
    fn visit_item_mod(&mut self, module: &'ast syn::ItemMod) {
        let before = self.gate;
        self.gate = before.and(Gate::of(&module.attrs));
        self.modules.push(module.ident.to_string());
        if module.content.is_none() {
            self.files.insert(self.modules.clone(), self.gate);
        }
        syn::visit::visit_item_mod(self, module);
        self.modules.pop();
        self.gate = before;
    }

    fn visit_item_fn(&mut self, function: &'ast syn::ItemFn) {
        if is_test(function) {
            let test = GatedTest {
                modules: self.modules.clone(),
                function: function.sig.ident.to_string(),
            };
            self.tests
                .push((test, self.gate.and(Gate::of(&function.attrs))));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::baseline::Expected;
    use crate::workspace::Target;

    fn write(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().expect("a folder")).expect("created");
        fs::write(path, text).expect("written");
    }

    #[test]
    fn tests_are_behind_features_by_their_modules_files_and_targets() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let test = "#[test]\nfn works() {}\n";
        write(
            dir.path(),
            "src/lib.rs",
            &format!(
                "#[cfg(feature = \"net\")]\nmod net;\nmod plain;\n\
                 #[cfg(all(test, feature = \"net\"))]\nmod inline {{ {test} }}\n\
                 #[cfg(not(feature = \"std\"))]\nmod without {{ {test} }}\n\
                 #[cfg(all(feature = \"net\", target_os = \"none\"))]\nmod elsewhere {{ {test} }}\n\
                 #[cfg(all(feature = \"net\", any(unix, windows)))]\n#[test]\nfn here() {{}}\n"
            ),
        );
        write(dir.path(), "src/net.rs", &format!("mod deep;\n{test}"));
        write(dir.path(), "src/net/deep.rs", test);
        write(dir.path(), "src/plain.rs", test);
        write(
            dir.path(),
            "tests/whole.rs",
            &format!("#![cfg(feature = \"net\")]\n{test}"),
        );
        write(dir.path(), "tests/it/main.rs", "mod part;\n");
        write(dir.path(), "tests/it/part.rs", test);
        let target = Target {
            name: "it".to_owned(),
            kind: Some(TargetKind::Test),
            source: dir.path().join("tests/it/main.rs"),
            tested: true,
            doctests: false,
            build_script: false,
            required_features: vec!["net".to_owned()],
        };
        let package = Package {
            root: dir.path().to_owned(),
            targets: vec![target],
            left_out_features: ["net".to_owned()].into(),
            ..Package::new("a", "")
        };
        let paths: Vec<String> = gated_tests(&package)
            .into_iter()
            .map(|test| [test.modules, vec![test.function]].concat().join("::"))
            .collect();
        assert_eq!(
            paths,
            [
                "here",
                "works",
                "inline::works",
                "net::works",
                "net::deep::works",
                "part::works"
            ]
        );
        // One that was seen is not left out, whatever it is behind.
        let mut seen = TestSet::default();
        for path in ["plain::works", "net::works"] {
            let test = TestId::new("a", TargetKind::Lib, "a", path);
            seen.tests.insert(test, Expected::default());
        }
        let part = behind_features([&package], &seen);
        assert_eq!(
            part,
            Some(Part {
                left_out: 5,
                all: 7
            })
        );
        let package = Package {
            left_out_features: BTreeSet::new(),
            ..package
        };
        assert_eq!(behind_features([&package], &seen), None);
    }
}
