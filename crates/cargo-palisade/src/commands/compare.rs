//! `cargo palisade compare`

use palisade::benchmark_comparison::{CompareOptions, compare};

use super::{Context, check, launcher};
use crate::args::CompareArgs;

pub fn run(context: &mut Context<'_>, args: &CompareArgs) -> anyhow::Result<u8> {
    let ui = context.ui;
    let options = CompareOptions {
        base: args.base.clone(),
        candidate: args.candidate.clone(),
        selection: args.selection.selection(),
        budget: args.budget.map(|budget| budget.0),
        injections: args.inject.clone(),
    };
    let launcher = launcher()?;
    let report = compare(&mut context.session, &launcher, &options, &|event| {
        ui.event(event);
    })?;
    check::tell(context, report, &args.reports)
}
