//! Whether the source of a benchmark is another one on the other revision. Then what it measures
//! may be, too, and a difference says nothing about the code that is measured.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::bench::{Bench, BenchKind, BenchTarget, Built};
use crate::host::source::{ModuleFile, bench_functions, keeps_items, module_tree};
use crate::test_id::TargetKind;

/// What was read of two revisions so far.
#[derive(Debug, Default)]
pub struct BenchSources {
    /// The file of a bench target that differs, by the target's place.
    targets: BTreeMap<String, Option<String>>,
    /// The functions marked as `#[bench]` of a library, on both revisions.
    libraries: BTreeMap<String, [BTreeMap<String, Vec<Function>>; 2]>,
}

/// The file of a function, and its code.
type Function = (PathBuf, String);

impl BenchSources {
    /// The file, from the root of its package, in which a benchmark that both revisions have
    /// differs; `None` if it does not. Benchmarks that are only added to a file change none of
    /// the others. A command has no source of its own: it is what is measured.
    pub fn changed(&mut self, bench: &Bench, built: &[Built; 2]) -> Option<String> {
        let BenchKind::Target(target, id) = &bench.kind else {
            return None;
        };
        if target.kind == TargetKind::Lib {
            return self.changed_function(target, id, built);
        }
        let changed = self.targets.entry(target.place()).or_insert_with(|| {
            let [base, candidate] = built.each_ref().map(|built| {
                let source = built.bench_sources.get(&target.place())?;
                Some((source, built.folder(target)))
            });
            let ((base, _), (candidate, root)) = base.zip(candidate)?;
            let file = changed_file(base, candidate)?;
            let path = file.strip_prefix(&root).unwrap_or(&file);
            Some(path.to_string_lossy().replace('\\', "/"))
        });
        changed.clone()
    }

    fn changed_function(
        &mut self,
        target: &BenchTarget,
        id: &str,
        built: &[Built; 2],
    ) -> Option<String> {
        let [base, candidate] = self.libraries.entry(target.place()).or_insert_with(|| {
            built.each_ref().map(|built| {
                let mut functions = BTreeMap::new();
                let root = built.folder(target);
                read_functions(&root, &root.join("src"), &mut functions);
                functions
            })
        });
        let name = id.rsplit("::").next().unwrap_or(id);
        let (base, candidate) = (base.get(name)?, candidate.get(name)?);
        let differs = |(_, code): &&Function| !base.iter().any(|(_, other)| other == code);
        let (path, _) = candidate.iter().find(differs)?;
        Some(path.to_string_lossy().replace('\\', "/"))
    }
}

fn read_functions(root: &Path, folder: &Path, functions: &mut BTreeMap<String, Vec<Function>>) {
    for path in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = path.path();
        if path.is_dir() {
            read_functions(root, &path, functions);
            continue;
        }
        let is_rust = path.extension().is_some_and(|extension| extension == "rs");
        let text = fs::read_to_string(&path).ok().filter(|_| is_rust);
        let text = text.filter(|text| text.contains("#[bench]"));
        for (name, code) in text.iter().flat_map(|text| bench_functions(text)) {
            let file = path.strip_prefix(root).unwrap_or(&path).to_owned();
            functions.entry(name).or_default().push((file, code));
        }
    }
}

/// The first file of a target that does not keep its items, of those that its modules are in.
fn changed_file(base: &Path, candidate: &Path) -> Option<PathBuf> {
    let [base, candidate] = [base, candidate].map(module_tree);
    let differs = |after: &ModuleFile| {
        let before = base.iter().find(|before| before.module == after.module);
        before.is_some_and(|before| !keeps_items(&before.text, &after.text))
    };
    candidate.into_iter().find(differs).map(|file| file.path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::measure::bench::Harness;

    /// Two revisions of a package that has some files.
    struct Revisions(tempfile::TempDir);

    impl Revisions {
        fn new(files: &[(&str, &str)]) -> Self {
            let revisions = Self(tempfile::tempdir().expect("a folder"));
            for (path, text) in files {
                revisions.write("base", path, text);
                revisions.write("candidate", path, text);
            }
            revisions
        }

        fn write(&self, revision: &str, path: &str, text: &str) {
            let path = self.0.path().join(revision).join(path);
            fs::create_dir_all(path.parent().expect("a folder")).expect("created");
            fs::write(path, text).expect("written");
        }

        fn changed(&self, kind: TargetKind, source: &str, id: &str) -> Option<String> {
            let target = BenchTarget {
                package: "a".to_owned(),
                kind,
                name: "b".to_owned(),
                harness: Harness::Own,
                required_features: Vec::new(),
                source: PathBuf::new(),
            };
            let built = ["base", "candidate"].map(|revision| {
                let root = self.0.path().join(revision);
                Built {
                    packages: [("a".to_owned(), root.clone())].into(),
                    bench_sources: [(target.place(), root.join(source))].into(),
                    ..Built::default()
                }
            });
            BenchSources::default().changed(&Bench::of_target(&target, id), &built)
        }
    }

    #[test]
    fn a_bench_changes_with_the_files_of_its_modules() {
        let files = [
            (
                "benches/b.rs",
                "mod data;\nmod deep;\nfn main() { data::go() }",
            ),
            ("benches/data.rs", "pub fn go() {}"),
            ("benches/deep/mod.rs", "mod inner;"),
            ("benches/deep/inner.rs", "fn f() {}"),
            ("src/lib.rs", "pub fn measured() {}"),
        ];
        let changed = |path: &str, text: &str| {
            let revisions = Revisions::new(&files);
            revisions.write("candidate", path, text);
            revisions.changed(TargetKind::Bench, "benches/b.rs", "x")
        };
        assert_eq!(changed("src/lib.rs", "pub fn measured() { slow() }"), None);
        assert_eq!(changed("benches/data.rs", "// Go.\npub fn go() {}"), None);
        for (path, text) in [
            (
                "benches/b.rs",
                "mod data;\nmod deep;\nfn main() { data::go(); data::go() }",
            ),
            ("benches/data.rs", "pub fn go() { twice() }"),
            ("benches/deep/inner.rs", "fn f() { 1; }"),
        ] {
            assert_eq!(changed(path, text).as_deref(), Some(path));
        }
    }

    #[test]
    fn a_bench_of_a_library_changes_with_its_own_function() {
        let text = "pub fn f() {}\nmod tests { #[bench] fn one(b: &mut B) { b.iter(f) } }";
        let changed = |text_of_candidate: &str, id: &str| {
            let revisions = Revisions::new(&[("src/lib.rs", text)]);
            revisions.write("candidate", "src/lib.rs", text_of_candidate);
            revisions.changed(TargetKind::Lib, "src/lib.rs", id)
        };
        let slower = text.replace("f() {}", "f() { slow() }");
        assert_eq!(changed(&slower, "tests::one"), None);
        let other = text.replace("b.iter(f)", "b.iter(|| f())");
        assert_eq!(changed(&other, "tests::one").as_deref(), Some("src/lib.rs"));
        assert_eq!(changed(&other, "tests::two"), None);
    }
}
