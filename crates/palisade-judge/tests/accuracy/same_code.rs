//! Real measurements of equal programs: whatever is found between two of them is a
//! false alarm.

use palisade_judge::speed::{
    Decision, DecisionRules, InterimLooks, Judge, JudgeStep, Measure, NoiseThreshold,
    RegressionAction,
};

/// One benchmark, measured again and again on one commit, in order.
pub struct Row {
    pub values: Vec<f64>,
}

/// Reads `benchmark,unit,values separated by spaces` below a heading.
pub fn read(text: &str) -> Vec<Row> {
    let row = |line: &str| {
        let (_, values) = line.rsplit_once(',').expect("two columns");
        let values = values.split_whitespace();
        Row {
            values: values.map(|n| n.parse().expect("a number")).collect(),
        }
    };
    text.lines().skip(1).map(row).collect()
}

/// Judges a row as if every second launch had been a candidate, in ABBA order; the
/// other way round if `swapped`. An alarm is confirmed by what is left of the row.
pub fn judge(row: &Row, swapped: bool) -> Decision {
    let pairs = row.values.len() / 2;
    let interim_looks: Vec<usize> = [6, 10, 16, 24, 40]
        .into_iter()
        .filter(|n| *n < pairs)
        .collect();
    let rules = DecisionRules {
        interim_looks: InterimLooks::new(&[interim_looks, vec![pairs.min(40)]].concat()),
        ..DecisionRules::new(Measure::Time, NoiseThreshold::of(Measure::Time))
    };
    let mut judge = Judge::new(rules);
    for (at, pair) in row.values.chunks_exact(2).enumerate() {
        let (base, candidate) = if (at % 2 == 1) == swapped {
            (pair[0], pair[1])
        } else {
            (pair[1], pair[0])
        };
        // A few benchmarks take no time at all: nothing to judge.
        match judge.push(base, candidate) {
            Ok(JudgeStep::Done) | Err(_) => break,
            Ok(_) => {}
        }
    }
    judge.decision()
}

/// How many comparisons there were, warned and blocked.
pub fn false_alarms(rows: &[Row]) -> (usize, usize, usize) {
    let mut found = (0, 0, 0);
    for row in rows {
        for swapped in [false, true] {
            let decision = judge(row, swapped);
            found.0 += 1;
            found.1 += usize::from(decision.confirmation.is_some());
            found.2 += usize::from(decision.action == Some(RegressionAction::Block));
        }
    }
    found
}

/// In how many of the same comparisons the candidate's median is larger by more than a
/// share.
pub fn medians_apart(rows: &[Row], share: f64) -> usize {
    let mut found = 0;
    for row in rows {
        let (mut even, mut odd) = (Vec::new(), Vec::new());
        for (at, pair) in row.values.chunks_exact(2).enumerate() {
            even.push(pair[at % 2]);
            odd.push(pair[1 - at % 2]);
        }
        let of = |values: &[f64]| palisade_judge::stats::median(values).unwrap_or(0.0);
        let (even, odd) = (of(&even), of(&odd));
        found += usize::from(odd > even * (1.0 + share)) + usize::from(even > odd * (1.0 + share));
    }
    found
}
