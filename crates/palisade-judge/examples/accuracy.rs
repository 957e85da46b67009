//! What `docs/accuracy.md` reports: how often the guard errs, on real measurements of
//! equal programs and on simulated machines, beside the rules of other programs.
//!
//! `cargo run --release -p palisade-judge --example accuracy [PART…]`; a part is `same-code`,
//! `drift`, `budget`, `rivals`, `drip`, `history` or `bisect`, and all without one. `same-code FILE`
//! reads measurements from a file, and `bisect TEXT` makes the rows that begin with a text.
#![expect(clippy::print_stdout, reason = "the tables are the result")]
#![expect(
    clippy::disallowed_methods,
    reason = "it reads the measurements that it is given"
)]

#[path = "../tests/accuracy/budget.rs"]
mod budget;
#[path = "../tests/accuracy/culprit.rs"]
mod culprit;
#[path = "../tests/accuracy/drip.rs"]
mod drip;
#[path = "../tests/accuracy/rivals.rs"]
mod rivals;
#[path = "../tests/accuracy/same_code.rs"]
mod same_code;
#[path = "../tests/accuracy/simulation.rs"]
mod simulation;

use std::path::Path;

use culprit::{COMMITS, Failure, search, searches};
use drip::{Seen, drip};
use palisade_judge::history::{EDivisive, changes, pelt};
use palisade_judge::speed::{BenchmarkState, Measure, NoiseThreshold};
use rivals::{critcmp_shows, criterion_says_slower};
use simulation::{Machine, Noise, Random, judge, simulate};

const NOISES: [(&str, Noise); 2] = [("calm", Noise::CALM), ("drift of 1 %", Noise::DRIFTING)];

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let mut arguments = arguments.iter().map(String::as_str).peekable();
    if arguments.peek().is_none() {
        same_code_table(None);
        drift_table();
        budget_table();
        rivals_table();
        drip_table();
        history_table();
        bisect_table("");
    }
    while let Some(part) = arguments.next() {
        match part {
            "same-code" => same_code_table(arguments.next_if(|next| Path::new(next).is_file())),
            "drift" => drift_table(),
            "budget" => budget_table(),
            "rivals" => rivals_table(),
            "drip" => drip_table(),
            "history" => history_table(),
            "bisect" => bisect_table(arguments.next().unwrap_or_default()),
            other => {
                println!("unknown part {other:?}");
                std::process::exit(2);
            }
        }
    }
}

fn percent(count: usize, of: usize) -> String {
    shown(count as f64 / of as f64)
}

fn shown(share: f64) -> String {
    format!("{:.2} %", 100.0 * share)
}

fn same_code_table(file: Option<&str>) {
    let own = include_str!("../tests/data/same-code-benchmarks.csv").to_owned();
    let read = |file| std::fs::read_to_string(file).expect("the file can be read");
    let rows = same_code::read(&file.map_or(own, read));
    let (of, warned, blocked) = same_code::false_alarms(&rows);
    let naive = |threshold| same_code::medians_apart(&rows, threshold);
    println!(
        "\n## Equal programs, {} benchmarks, each side as the candidate\n",
        rows.len()
    );
    println!("| rule | false alarms | of {of} |\n|---|---|---|");
    println!("| blocking | {blocked} | {} |", percent(blocked, of));
    println!("| warning | {warned} | {} |", percent(warned, of));
    for threshold in [0.01, 0.03, 0.1] {
        let name = format!("medians more than {:.0} % apart", threshold * 100.0);
        println!(
            "| {name} | {} | {} |",
            naive(threshold),
            percent(naive(threshold), of)
        );
    }
}

fn drift_table() {
    const TRIALS: usize = 2000;
    println!("\n## Simulated machines, {TRIALS} comparisons each\n");
    println!(
        "| machine | true change | alarms | confirmed | equivalent | inconclusive | pairs, mean |"
    );
    println!("|---|---|---|---|---|---|---|");
    for (name, noise) in NOISES {
        for change in [0.0, 0.01, 0.02, 0.03, 0.05] {
            let said = simulate(noise, 1.0 + change, TRIALS, 10_000);
            println!(
                "| {name} | {:.0} % | {} | {} | {} | {} | {:.0} |",
                change * 100.0,
                shown(said.share(said.alarms)),
                shown(said.share(said.regressed)),
                shown(said.share(said.equivalent)),
                shown(said.share(said.inconclusive)),
                said.pairs as f64 / TRIALS as f64
            );
        }
    }
}

fn budget_table() {
    const COMPARISONS: usize = 200;
    let of = budget::BENCHMARKS;
    println!("\n## {of} benchmarks together, {COMPARISONS} comparisons each\n");
    println!(
        "| machine | slower | time for | pass | equivalent | within a wider margin | that margin, mean | wrongly equivalent |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    for (name, noise) in NOISES {
        for (changed, change) in [(0, 0.0), (1, 0.05), (1, 0.15), (of, 0.02)] {
            for pairs in [6, 12] {
                let said = budget::compare(noise, (changed, change), pairs, COMPARISONS, 70_000);
                println!(
                    "| {name} | {changed} by {:.0} % | {pairs} pairs | {} | {} | {} | ±{} | {} |",
                    change * 100.0,
                    percent(said.passed, said.comparisons),
                    shown(said.share(said.equivalent)),
                    shown(said.share(said.roughly)),
                    shown(said.margins / said.roughly.max(1) as f64),
                    shown(said.share(said.wrong))
                );
            }
        }
    }
}

/// How often each rule calls a change slower: Criterion, critcmp at 5 and 2 %, ours, and
/// how often ours says that the answer is open.
fn rivals_on(noise: Noise, change: f64, trials: usize, apart: usize) -> [usize; 5] {
    const SAMPLES: usize = 100;
    let mut said = [0; 5];
    for trial in 0..trials as u64 {
        let mut machine = Machine::new(noise, 20_000 + trial);
        let base = machine.process(100.0, SAMPLES);
        for _ in 0..apart {
            machine.launch(1.0);
        }
        let candidate = machine.process(100.0 * (1.0 + change), SAMPLES);
        let ours = judge(
            &mut machine,
            1.0 + change,
            NoiseThreshold::of(Measure::Time),
        )
        .state;
        let slower = [
            criterion_says_slower(&base, &candidate),
            critcmp_shows(&base, &candidate, 0.05),
            critcmp_shows(&base, &candidate, 0.02),
            ours == BenchmarkState::Regressed,
            ours == BenchmarkState::Inconclusive,
        ];
        for (count, is_slower) in said.iter_mut().zip(slower) {
            *count += usize::from(is_slower);
        }
    }
    said
}

fn rivals_table() {
    const TRIALS: usize = 2000;
    println!("\n## Beside other programs, {TRIALS} comparisons each\n");
    println!(
        "| machine | baseline | true change | Criterion | critcmp 5 % | critcmp 2 % | palisade | \
         palisade: open |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    for (name, noise) in NOISES {
        for (when, apart) in [("just before", 0), ("saved earlier", 500)] {
            for change in [0.0, 0.02, 0.05] {
                let said = rivals_on(noise, change, TRIALS, apart);
                let cells = said.map(|count| percent(count, TRIALS)).join(" | ");
                println!("| {name} | {when} | {:.0} % | {cells} |", change * 100.0);
            }
        }
    }
}

fn drip_table() {
    const TRIALS: usize = 300;
    println!("\n## A drip of ten steps of 3 %, {TRIALS} times\n");
    println!("| machine | compared with | seen by step 1 | by step 2 | by step 3 | by step 10 |");
    println!("|---|---|---|---|---|---|");
    for (name, noise) in NOISES {
        let seen: Vec<Seen> = (0..TRIALS)
            .map(|t| drip(noise, 1.03, 30_000 + t as u64))
            .collect();
        let at = |of: fn(&Seen) -> Option<usize>| seen.iter().filter_map(of).collect();
        let ways: [(&str, Vec<usize>); 3] = [
            ("the parent", at(|seen| seen.parent)),
            ("the milestone", at(|seen| seen.milestone)),
            ("the milestone, by the sum of steps", at(|seen| seen.sum)),
        ];
        for (way, steps) in ways {
            let by = |step| percent(steps.iter().filter(|at| **at <= step).count(), TRIALS);
            println!(
                "| {name} | {way} | {} | {} | {} | {} |",
                by(1),
                by(2),
                by(3),
                by(10)
            );
        }
    }
}

fn history_table() {
    const TRIALS: usize = 500;
    const POINTS: usize = 120;
    const STEP_AT: usize = 90;
    println!("\n## Histories of {POINTS} commits, {TRIALS} each, a step at commit {STEP_AT}\n");
    println!(
        "| noise per commit | step | found by both | by E-divisive | by PELT | others per history: \
         both | E-divisive | PELT |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    for (noise, spikes) in [(0.005, 0.0), (0.02, 0.03)] {
        for step in [0.0, 0.03, 0.05, 0.1] {
            let mut found = [0; 3];
            let mut others = [0; 3];
            for trial in 0..TRIALS as u64 {
                let mut random = Random::new(40_000 + trial);
                let mut value = |at: usize| {
                    let spike = if random.unit() < spikes {
                        0.1 * random.unit()
                    } else {
                        0.0
                    };
                    let level = if at < STEP_AT { 0.0 } else { f64::ln_1p(step) };
                    10.0 + level + noise * random.normal() + spike
                };
                let values: Vec<f64> = (0..POINTS).map(&mut value).collect();
                let both = changes(&values, 0.01)
                    .iter()
                    .map(|change| change.at)
                    .collect();
                let alone = EDivisive::default().splits(&values);
                let alone = alone.iter().map(|split| split.at).collect();
                let ways: [Vec<usize>; 3] = [both, alone, pelt(&values)];
                for (way, at) in ways.iter().enumerate() {
                    let is_step = |at: &&usize| step > 0.0 && at.abs_diff(STEP_AT) <= 5;
                    let hits = at.iter().filter(is_step).count();
                    found[way] += usize::from(hits > 0);
                    others[way] += at.len() - hits;
                }
            }
            let share = |count| percent(count, TRIALS);
            println!(
                "| {:.1} %{} | {:.0} % | {} | {} | {} | {:.2} | {:.2} | {:.2} |",
                noise * 100.0,
                if spikes > 0.0 { ", spikes" } else { "" },
                step * 100.0,
                share(found[0]),
                share(found[1]),
                share(found[2]),
                others[0] as f64 / TRIALS as f64,
                others[1] as f64 / TRIALS as f64,
                others[2] as f64 / TRIALS as f64
            );
        }
    }
}

fn bisect_table(rows: &str) {
    /// The limits, and how many searches are made within each.
    const LIMITS: [(usize, usize); 2] = [(40, 8000), (200, 2000)];
    let plus_minus = |share: f64, of: f64| {
        // One standard error.
        let error = (share * (1.0 - share) / of).sqrt();
        format!("{:.2} ± {:.2} %", 100.0 * share, 100.0 * error)
    };
    let rates = |old: f64, new: f64| {
        let what = format!("fails {:.0} % → {:.0} %", 100.0 * old, 100.0 * new);
        (what, Failure::Rates(old, new))
    };
    let slower = |name: &str, noise| (format!("5 % slower, {name}"), Failure::Slower(0.05, noise));
    println!("\n## Searches among {COMMITS} commits\n");
    if rows.is_empty() {
        let inside = |seed| search(Failure::Rates(0.0, 1.0), 200, seed).inside;
        let most = (0..2000).map(inside).max().unwrap_or(0);
        println!("At most {most} observations between the ends of what fails each time.\n");
    }
    println!(
        "| at the culprit | at most | searches | named right | sure of it | right if sure | observations, mean |"
    );
    println!("|---|---|---|---|---|---|---|");
    for (what, failure) in [
        rates(0.0, 1.0),
        rates(0.0, 0.5),
        rates(0.02, 0.5),
        rates(0.05, 0.8),
        rates(0.2, 0.9),
        rates(0.0, 0.2),
        rates(0.01, 0.2),
        rates(0.05, 0.3),
        rates(0.2, 0.6),
        rates(0.0, 0.1),
        slower(NOISES[0].0, NOISES[0].1),
        slower(NOISES[1].0, NOISES[1].1),
    ] {
        if !what.starts_with(rows) {
            continue;
        }
        for (limit, trials) in LIMITS {
            let found = searches(failure, limit, trials, 50_000);
            let sure = (found.sure * trials as f64).round();
            let right_if_sure = match sure {
                0.0 => "none".to_owned(),
                _ => format!("{} of {sure}", plus_minus(found.right_if_sure, sure)),
            };
            println!(
                "| {what} | {limit} | {trials} | {} | {} | {right_if_sure} | {:.1} |",
                plus_minus(found.right, trials as f64),
                shown(found.sure),
                found.runs
            );
        }
    }
}
