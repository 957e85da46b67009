//! `cargo palisade bisect`

use palisade::culprit::{BisectOptions, Question, bisect};
use palisade::test_id::TestId;

use super::{Context, flaky, launcher, write};
use crate::args::{BisectArgs, SearchArgs};
use crate::error::UsageError;

pub fn run(context: &mut Context<'_>, args: &BisectArgs) -> anyhow::Result<u8> {
    let ui = context.ui;
    let options = BisectOptions {
        resume: args.resume,
        ..options(context, &args.search)?
    };
    let launcher = launcher()?;
    let report = bisect(&mut context.session, &launcher, &options, &|event| {
        ui.event(event);
    })?;
    if let Some(path) = &args.markdown {
        write(path, &report.markdown())?;
    }
    context.print(&serde_json::to_value(&report)?, &report.text())?;
    Ok(report.exit_code)
}

/// What is looked for, and where.
pub(super) fn options(context: &Context<'_>, args: &SearchArgs) -> anyhow::Result<BisectOptions> {
    let question = question(context, args)?;
    Ok(BisectOptions {
        good: args.good.clone(),
        bad: args.bad.clone(),
        first_parent: args.first_parent,
        model: args.mode.map(crate::args::SearchMode::model),
        max_runs: args.max_runs,
        ..BisectOptions::new(&context.session, question)
    })
}

fn question(context: &Context<'_>, args: &SearchArgs) -> anyhow::Result<Option<Question>> {
    let asked = &args.question;
    if let Some(name) = &asked.test {
        // A whole name need not have been seen before.
        let packages = &context.session.workspace.packages;
        let whole = name.parse::<TestId>().ok();
        let whole = whole.filter(|test| packages.contains_key(&test.package));
        let test = if let Some(test) = whole {
            test
        } else {
            let ledger = palisade::quarantine::ledger(context.session.store.as_ref())?;
            flaky::find(&ledger, name)?.test.clone()
        };
        return Ok(Some(Question::Test(test)));
    }
    if let Some(name) = &asked.bench {
        return Ok(Some(Question::Bench {
            name: name.clone(),
            measure: args.measure,
        }));
    }
    if let Some(name) = &asked.ratio {
        return Ok(Some(Question::Ratio(name.clone())));
    }
    let Some(command) = &asked.cmd else {
        return Ok(None);
    };
    let words = palisade::culprit::words(command);
    let words = words.ok_or_else(|| UsageError::NoCommand(command.clone()))?;
    Ok(Some(Question::Command(words)))
}
