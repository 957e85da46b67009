//! What is remembered of speed and memory: measurements of a commit, and what a machine
//! shows of equal programs.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};

use super::Measure;
use crate::observation::{Millis, Subject};

/// What besides the program decides a measurement: processor, microcode, cores,
/// governor, kernel, compiler, flags, memory, virtual machine, by these names. Values
/// that change while nothing changes, such as a load, do not belong here.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Fingerprint(pub BTreeMap<String, String>);

impl Fingerprint {
    /// The part that says which program measured what was imported.
    const SOURCE: &'static str = "source";

    /// That of what another program measured, who knows where.
    pub fn imported(program: &str) -> Self {
        Self([(Self::SOURCE.to_owned(), program.to_owned())].into())
    }

    /// Which program measured what was imported; `None` of what the guard measured.
    pub fn source(&self) -> Option<&str> {
        self.0.get(Self::SOURCE).map(String::as_str)
    }

    /// In which parts two of them differ, as `processor: A here, B there`; empty if
    /// their measurements can be compared.
    pub fn differences(&self, there: &Self) -> Vec<String> {
        let names: BTreeSet<&String> = self.0.keys().chain(there.0.keys()).collect();
        let compare = |name: &String| {
            let (here, there) = (self.0.get(name), there.0.get(name));
            let say = |value: Option<&String>| value.map_or("unknown", String::as_str).to_owned();
            (here != there).then(|| format!("{name}: {} here, {} there", say(here), say(there)))
        };
        names.into_iter().filter_map(compare).collect()
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts: Vec<String> = self.0.iter().map(|(k, v)| format!("{k}: {v}")).collect();
        f.write_str(&parts.join(", "))
    }
}

/// Why speed was measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SpeedPurpose {
    /// To know how fast a tree is; the only purpose whose runs are a history.
    Series,
    /// To compare it with another one: both revisions have runs with one comparison id.
    Comparison,
    /// To learn what equal programs show, or an injected slowdown.
    Calibration,
}

impl SpeedPurpose {
    /// The word for it in the store.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Series => "series",
            Self::Comparison => "comparison",
            Self::Calibration => "calibration",
        }
    }

    /// The purpose a word of the store stands for.
    pub fn from_word(word: &str) -> Option<Self> {
        let all = [Self::Series, Self::Comparison, Self::Calibration];
        all.into_iter().find(|purpose| purpose.as_str() == word)
    }
}

/// All launches of one measure of one benchmark in a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measurement {
    /// The benchmark.
    pub benchmark: String,
    /// What was measured.
    pub measure: Measure,
    /// One value per launch, in order, in the measure's unit. In the two runs of
    /// a comparison, the values at the same place are a pair.
    pub values: Vec<f64>,
}

/// One tree measured once.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SpeedRun {
    /// The record's name.
    pub id: String,
    /// What was measured together, alternately: runs with the same id are the two revisions
    /// of a comparison. JSON and the stores call it `session`.
    #[serde(rename = "session")]
    pub comparison_id: String,
    /// When it began.
    pub started_ms: Millis,
    /// When it ended.
    pub finished_ms: Millis,
    /// Why it was made.
    pub purpose: SpeedPurpose,
    /// What was measured.
    pub subject: Subject,
    /// On what.
    pub fingerprint: Fingerprint,
    /// What was seen.
    pub measurements: Vec<Measurement>,
}

/// What a benchmark shows between equal programs on one machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KnownSpread {
    /// The benchmark.
    pub benchmark: String,
    /// What was measured.
    pub measure: Measure,
    /// How many comparisons of equal programs were made.
    pub comparisons: u32,
    /// What they show: [`super::same_code_spread`].
    pub spread: f64,
}

/// How often something was found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proportion {
    /// How often it was.
    pub found: u32,
    /// How often it was looked for.
    pub of: u32,
}

/// How often slowdowns of one size were found.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Detection {
    /// The injected slowdown: .05 takes 5 % longer.
    pub slowdown: f64,
    /// How often it was found.
    pub rate: Proportion,
}

/// What the guard is worth on one machine, measured there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Calibration {
    /// The record's name.
    pub id: String,
    /// When it was made.
    pub at_ms: Millis,
    /// On what.
    pub fingerprint: Fingerprint,
    /// The spread of each benchmark.
    pub spreads: Vec<KnownSpread>,
    /// How many comparisons of equal programs ended with an alarm.
    pub false_alarms: Proportion,
    /// How many injected slowdowns were found, by their size.
    pub detections: Vec<Detection>,
}

impl Calibration {
    /// The spread of one measure of a benchmark, if it was learnt.
    pub fn spread(&self, benchmark: &str, measure: Measure) -> Option<f64> {
        let mut known = self.spreads.iter();
        let known = known.find(|known| known.benchmark == benchmark && known.measure == measure)?;
        Some(known.spread)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fingerprints_differ_in_words() {
        let of = |parts: &[(&str, &str)]| {
            let own = |(k, v): &(&str, &str)| ((*k).to_owned(), (*v).to_owned());
            Fingerprint(parts.iter().map(own).collect())
        };
        let here = of(&[("cores", "2"), ("processor", "A")]);
        assert!(here.differences(&here).is_empty());
        let there = of(&[
            ("governor", "powersave"),
            ("processor", "B"),
            ("cores", "2"),
        ]);
        assert_eq!(
            here.differences(&there),
            [
                "governor: unknown here, powersave there",
                "processor: A here, B there"
            ]
        );
        assert_eq!(here.to_string(), "cores: 2, processor: A");
    }
}
