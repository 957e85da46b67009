//! The part of the policy that is about what broke once.

use std::collections::BTreeSet;

use serde::Deserialize;

use super::{Policy, RatioPolicy};
use crate::scope::Scope;
use crate::test_id::TestId;

/// What broke once and is looked at in every change, whatever the change risks.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Monitor {
    /// What to call it.
    pub name: String,
    /// A test: the tests of its package are run.
    pub test: Option<TestId>,
    /// A benchmark, as a part of its name: it is measured.
    pub bench: Option<String>,
    /// A command, as a shell would split it: it is run in a checkout of each revision, without
    /// a shell, and ends with 0 where all is well, with 125 where nothing can be said.
    pub command: Option<String>,
    /// A ratio of this policy, by its name: its benchmarks are measured.
    pub ratio: Option<String>,
    /// What broke it.
    pub reason: Option<String>,
}

impl Monitor {
    /// Program and arguments of its command, if it has one.
    pub fn words(&self) -> Option<Vec<String>> {
        shlex::split(self.command.as_ref()?).filter(|words| !words.is_empty())
    }

    /// What is wrong with it, beside these ratios.
    pub(super) fn problem(&self, ratios: &[RatioPolicy]) -> Option<&'static str> {
        let watched = [
            self.test.is_some(),
            self.bench.is_some(),
            self.command.is_some(),
            self.ratio.is_some(),
        ];
        if watched.iter().filter(|is_it| **is_it).count() != 1 {
            return Some("needs a test, a bench, a command or a ratio, one of them");
        }
        if self.command.is_some() && self.words().is_none() {
            return Some("has no command that a shell could split");
        }
        let is_known = |name: &String| ratios.iter().any(|ratio| ratio.name == *name);
        let is_missing = self.ratio.as_ref().is_some_and(|name| !is_known(name));
        is_missing.then_some("names a ratio that no [[ratio]] is called")
    }
}

impl Policy {
    /// The tests that a change can affect, with the packages of those that are monitored.
    pub fn with_monitored(&self, scope: Option<Scope>) -> Option<Scope> {
        let tests = self.monitor.iter().filter_map(|m| m.test.as_ref());
        let monitored: BTreeSet<String> = tests.map(|test| test.package.clone()).collect();
        Scope::with_packages(scope, &monitored)
    }

    /// The ratios that are monitored.
    pub fn monitored_ratios(&self) -> impl Iterator<Item = &RatioPolicy> {
        let is_monitored = |ratio: &&RatioPolicy| {
            let mut names = self.monitor.iter().filter_map(|m| m.ratio.as_ref());
            names.any(|name| *name == ratio.name)
        };
        self.ratio.iter().filter(is_monitored)
    }

    /// Parts of the names of the benchmarks that are monitored, by themselves or as those
    /// of a ratio that holds on this machine.
    pub fn monitored_benches(&self) -> Vec<String> {
        let benches = self.monitor.iter().filter_map(|m| m.bench.clone());
        let ratios = self.monitored_ratios().filter(|r| r.is_for_this_machine());
        let of_ratios = ratios.flat_map(|ratio| [ratio.of.clone(), ratio.to.clone()]);
        benches.chain(of_ratios).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::policy::PolicyError;

    fn parse(text: &str) -> Result<Policy, PolicyError> {
        Policy::parse(text, Path::new("palisade.toml"))
    }

    const RATIO: &str = "[[ratio]]\nname = \"simd\"\nof = \"a\"\nto = \"b\"\nat_least = 2.0\n";

    #[test]
    fn a_monitor_says_what_it_watches_and_one_thing_only() {
        for (entry, expected) in [
            ("test = \"a/lib/tests::x\"", true),
            ("bench = \"a\"", true),
            ("command = \"sh -c 'exit 1'\"", true),
            ("ratio = \"simd\"", true),
            ("", false),
            ("bench = \"a\"\nratio = \"simd\"", false),
            ("command = \"\"", false),
            ("command = \"a 'b\"", false),
            ("ratio = \"no such ratio\"", false),
        ] {
            let text = format!("{RATIO}[[monitor]]\nname = \"m\"\n{entry}\n");
            let found = parse(&text);
            assert_eq!(found.is_ok(), expected, "{entry}: {found:?}");
        }
    }

    #[test]
    fn what_is_monitored_joins_every_scope() {
        let text = "[[monitor]]\nname = \"m\"\ntest = \"a/lib/tests::x\"\n";
        let policy = parse(text).expect("valid");
        let packages = |names: &[&str]| {
            let names = names.iter().map(|name| (*name).to_owned());
            Scope::Packages(names.collect())
        };
        for (scope, expected) in [
            (None, packages(&["a"])),
            (Some(packages(&["b"])), packages(&["a", "b"])),
            (
                Some(Scope::Doctests(["b".to_owned()].into())),
                packages(&["a", "b"]),
            ),
            (Some(Scope::Workspace), Scope::Workspace),
        ] {
            assert_eq!(policy.with_monitored(scope), Some(expected));
        }
        assert_eq!(Policy::default().with_monitored(None), None);
    }

    #[test]
    fn the_benchmarks_of_a_ratio_are_monitored_where_it_holds() {
        let monitors = "[[monitor]]\nname = \"m\"\nratio = \"simd\"\n[[monitor]]\nname = \"n\"\nbench = \"c\"\n";
        let policy = parse(&format!("{RATIO}{monitors}")).expect("valid");
        assert_eq!(policy.monitored_benches(), ["c", "a", "b"]);
        let elsewhere = format!("{RATIO}arch = [\"no such processor\"]\n{monitors}");
        let policy = parse(&elsewhere).expect("valid");
        assert_eq!(policy.monitored_benches(), ["c"]);
    }
}
