//! What a check looked at besides the tests, and what it left out: a pass says of what it is one.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

/// What a check can look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Aspect {
    /// The tests.
    Tests,
    /// The cheap claims of the documents.
    Claims,
    /// Speed and memory of what the change can reach.
    Speed,
}

/// Why something was left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LeftOutReason {
    /// The command line asked for the tests alone.
    TestsOnly,
    /// The policy says so.
    Policy,
    /// The check was made in shards.
    Shards,
    /// The base is a stored one, which is not built.
    StoredBase,
    /// What is judged is not in the user's files.
    NotInFiles,
    /// Something became worse before it was its turn.
    Regression,
    /// No code changed that is shipped.
    NothingShipped,
    /// No benchmark is in the packages that the change can reach.
    NoBenchmark,
    /// The benchmarks of a revision do not build.
    BuildFailed,
    /// Benchmarks did not run on both revisions.
    NotComparable,
    /// What was measured differs too much from launch to launch.
    Noise,
    /// The time was over.
    Budget,
}

impl LeftOutReason {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::TestsOnly,
        Self::Policy,
        Self::Shards,
        Self::StoredBase,
        Self::NotInFiles,
        Self::Regression,
        Self::NothingShipped,
        Self::NoBenchmark,
        Self::BuildFailed,
        Self::NotComparable,
        Self::Noise,
        Self::Budget,
    ];
}

/// Something that was left out, or a part of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOut {
    /// What.
    pub what: Aspect,
    /// Why.
    pub why: LeftOutReason,
    /// Which part of it; `None` for all of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub part: Option<Part>,
}

/// So many of so many benchmarks or tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// How many were left out.
    pub left_out: usize,
    /// How many there are.
    pub all: usize,
}

/// What a check looked at, and what it left out that it could have looked at. What the change
/// cannot reach is neither.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Coverage {
    /// What was looked at.
    pub looked_at: BTreeSet<Aspect>,
    /// What was not, and why.
    pub left_out: Vec<LeftOut>,
    /// How many of the tests are behind features that the build leaves out, at least; `None` if
    /// none was found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub behind_features: Option<Part>,
}

impl Coverage {
    /// Leaves all of something out.
    pub fn leave_out(&mut self, what: Aspect, why: LeftOutReason) {
        self.left_out.push(LeftOut {
            what,
            why,
            part: None,
        });
    }

    /// Leaves a part of something out that was looked at; nothing where the part is none.
    pub fn leave_out_part(
        &mut self,
        what: Aspect,
        why: LeftOutReason,
        (left_out, all): (usize, usize),
    ) {
        if left_out > 0 {
            let part = (left_out < all).then_some(Part { left_out, all });
            self.left_out.push(LeftOut { what, why, part });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_that_is_all_is_no_part_and_one_that_is_nothing_is_not_told() {
        let mut coverage = Coverage::default();
        for left_out in [0, 2, 3] {
            coverage.leave_out_part(Aspect::Speed, LeftOutReason::Budget, (left_out, 3));
        }
        let parts: Vec<Option<Part>> = coverage.left_out.iter().map(|l| l.part).collect();
        let two = Part {
            left_out: 2,
            all: 3,
        };
        assert_eq!(parts, [Some(two), None]);
        let json = serde_json::to_value(&coverage).expect("serialises");
        assert_eq!(json["left_out"][1]["what"], "speed");
        assert_eq!(json["left_out"][1]["why"], "budget");
    }
}
