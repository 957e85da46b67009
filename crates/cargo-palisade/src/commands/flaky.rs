//! `cargo palisade flaky`

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::time::Instant;

use super::Context;
use crate::error::{CommandError, NOT_MEASURED, UsageError};
use palisade::baseline::TestSet;
use palisade::flaky::{FlakyRecord, Ledger, QuarantineRequest, quarantine_entry, release_entry};
use palisade::flow::quarantine::release_due;
use palisade::host::session::Event;
use palisade::host::{new_id, now};
use palisade::observation::Purpose;
use palisade::policy::Span;
use palisade::record::counted;
use palisade::record::{Record, age};
use palisade::report::flaky_table;
use palisade::scope::Scope;
use palisade::test_id::TestId;
use serde_json::json;

/// The exit code of a stress that found something.
const FOUND: u8 = 1;

#[derive(Debug, clap::Subcommand)]
#[command(after_help = "Example: cargo palisade flaky list")]
pub enum Command {
    /// List the tests that passed and failed on the same tree
    #[command(after_help = "Example: cargo palisade flaky list")]
    List,
    /// Show what is known of a test
    #[command(after_help = "Example: cargo palisade flaky show tests::connects")]
    Show {
        /// The test, or the end of its name
        test: String,
    },
    /// Let a flaky test's failures not count, for a time
    #[command(
        after_help = "Example: cargo palisade flaky quarantine tests::connects --owner ada --reason 'race in setup'"
    )]
    Quarantine {
        /// The test, or the end of its name
        test: String,
        /// Who answers for it
        #[arg(long, value_name = "NAME")]
        owner: String,
        /// Why
        #[arg(long, value_name = "TEXT")]
        reason: String,
        /// A link to the issue
        #[arg(long, value_name = "URL")]
        issue: Option<String>,
        /// How long at most [default: flaky.quarantine of palisade.toml]
        #[arg(long = "for", value_name = "TIME")]
        lasts: Option<Span>,
    },
    /// Let a test's failures count again
    #[command(
        after_help = "Example: cargo palisade flaky release tests::connects --reason 'race removed'"
    )]
    Release {
        /// The test, or the end of its name
        test: String,
        /// Why
        #[arg(long, value_name = "TEXT")]
        reason: String,
    },
    /// Run tests many times to find out whether they are flaky
    #[command(
        visible_alias = "hunt",
        after_help = "Example: cargo palisade flaky stress a/lib/tests::connects --runs 200"
    )]
    Stress {
        /// The tests; all of the workspace if none is given
        tests: Vec<TestId>,
        /// How often at most
        #[arg(long, value_name = "N", default_value_t = 60)]
        runs: u32,
        /// How long at most
        #[arg(long, value_name = "TIME", default_value = "5m")]
        time: Span,
    },
}

pub fn run(context: &mut Context<'_>, command: &Command) -> Result<u8, CommandError> {
    for entry in release_due(context.session.store.as_mut(), now())? {
        context
            .ui
            .event(Event::Note(format!("{} left quarantine", entry.test)));
    }
    let ledger = palisade::flow::quarantine::ledger(context.session.store.as_ref())?;
    match command {
        Command::List => {
            let records = ledger.flaky();
            let json = json!({"schema": 1, "flaky": records});
            context.print(&json, &flaky_table(&records, now()))?;
        }
        Command::Show { test } => show(context, find(&ledger, test)?)?,
        Command::Quarantine {
            test,
            owner,
            reason,
            issue,
            lasts,
        } => {
            let record = find(&ledger, test)?;
            let lasts = lasts.unwrap_or(context.session.policy.flaky.quarantine);
            let request = QuarantineRequest {
                owner: owner.clone(),
                reason: reason.clone(),
                issue: issue.clone(),
                lasts_ms: lasts.0.as_millis() as i64,
            };
            let entry = quarantine_entry(new_id(), record, request, now())?;
            let json = json!({"schema": 1, "entry": entry});
            context.session.store.add(&Record::Quarantine(entry))?;
            let text = format!(
                "{} is in quarantine for {lasts}: it still runs and is still reported, and its failures do not count\n",
                record.test
            );
            context.print(&json, &text)?;
        }
        Command::Release { test, reason } => {
            let record = find(&ledger, test)?;
            let entry = release_entry(new_id(), &record.test, reason.clone(), now());
            let json = json!({"schema": 1, "entry": entry});
            context.session.store.add(&Record::Quarantine(entry))?;
            let text = format!("{} is released: its failures count\n", record.test);
            context.print(&json, &text)?;
        }
        Command::Stress { tests, runs, time } => {
            return stress(context, tests, *runs, time.0);
        }
    }
    Ok(0)
}

/// The one test that is called `name`, or ends with it.
pub(super) fn find<'a>(ledger: &'a Ledger, name: &str) -> Result<&'a FlakyRecord, UsageError> {
    match ledger.matching(name).as_slice() {
        [] => Err(UsageError::NoTest(name.to_owned())),
        [one] => Ok(*one),
        many => Err(UsageError::ManyTests {
            name: name.to_owned(),
            candidates: many
                .iter()
                .map(|record| record.test.to_string())
                .collect::<Vec<_>>()
                .join(", "),
        }),
    }
}

fn show(context: &Context<'_>, record: &FlakyRecord) -> Result<(), CommandError> {
    let tallies = context.session.store.tallies(Some(&record.test))?;
    let mut text = if record.is_flaky() || record.quarantine.is_some() {
        flaky_table(&[record], now())
    } else {
        format!("{} never passed and failed on the same tree\n", record.test)
    };
    text.push_str("\ntree        failed of  last seen\n");
    for tally in tallies.iter().rev() {
        let _ = writeln!(
            text,
            "{}  {:<9}  {} ago, at commit {}",
            palisade::hash::short(&tally.tree),
            format!("{} of {}", tally.failures, tally.failures + tally.passes),
            age(tally.last_ms, now()),
            palisade::hash::short(&tally.commit)
        );
    }
    let trees: Vec<_> = tallies
        .iter()
        .map(|tally| {
            json!({
                "tree": tally.tree,
                "commit": tally.commit,
                "failures": tally.failures,
                "passes": tally.passes,
                "last_ms": tally.last_ms,
            })
        })
        .collect();
    context.print(&json!({"schema": 1, "test": record, "trees": trees}), &text)?;
    Ok(())
}

fn stress(
    context: &mut Context<'_>,
    tests: &[TestId],
    runs: u32,
    time: std::time::Duration,
) -> Result<u8, CommandError> {
    let ui = context.ui;
    let scope = match tests {
        [] => Scope::Workspace,
        some => Scope::Tests(some.iter().cloned().collect::<BTreeSet<_>>()),
    };
    let mut revision = context.session.working_revision()?;
    let started = Instant::now();
    let mut set = TestSet::default();
    let mut rounds = 0;
    let mut gaps = Vec::new();
    while rounds < runs && (rounds == 0 || started.elapsed() < time) {
        rounds += 1;
        ui.event(Event::Step(format!("round {rounds} of {runs}")));
        let events = |event| ui.event(event);
        let (run, new_gaps) =
            context
                .session
                .run(&mut revision, &scope, Purpose::Stress, &events)?;
        gaps.extend(new_gaps);
        set.add(&run, &scope);
    }
    let missing = tests.iter().filter(|test| !set.tests.contains_key(test));
    gaps.extend(missing.map(|test| format!("there is no test {test}")));
    let failed: Vec<_> = set
        .tests
        .iter()
        .filter(|(_, seen)| seen.counts.failures > 0)
        .collect();
    let mut text = String::new();
    for (test, seen) in &failed {
        let kind = if seen.counts.is_mixed() {
            "flaky"
        } else {
            "broken"
        };
        let (failures, total) = (seen.counts.failures, seen.counts.total());
        let _ = writeln!(
            text,
            "{kind}: {test} failed {failures} of {}",
            counted(total as usize, "time")
        );
    }
    for gap in &gaps {
        let _ = writeln!(text, "no outcome: {gap}");
    }
    let seconds = started.elapsed().as_secs_f64();
    let count = set.tests.len();
    let _ = writeln!(
        text,
        "{} of {} in {seconds:.1} s, {} failed",
        counted(rounds as usize, "round"),
        counted(count, "test"),
        failed.len()
    );
    let json = json!({
        "schema": 1,
        "rounds": rounds,
        "tests": count,
        "failed": failed.iter().map(|(test, seen)| json!({
            "name": test,
            "failures": seen.counts.failures,
            "passes": seen.counts.passes,
            "flaky": seen.counts.is_mixed(),
        })).collect::<Vec<_>>(),
        "gaps": gaps,
    });
    context.print(&json, &text)?;
    Ok(match () {
        () if !failed.is_empty() => FOUND,
        () if !gaps.is_empty() || count == 0 => NOT_MEASURED,
        () => 0,
    })
}
