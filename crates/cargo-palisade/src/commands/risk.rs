//! `cargo palisade risk`

use palisade::check::assess_change;
use palisade::report::risk_text;
use serde_json::json;

use super::Context;
use crate::args::ChangeArgs;

pub fn run(context: &mut Context<'_>, args: &ChangeArgs) -> anyhow::Result<u8> {
    let guard = &context.guard;
    let base = match &args.base {
        Some(revision) => guard.repo.resolve(revision)?,
        None => guard.repo.default_base()?,
    };
    let candidate = if args.staged {
        guard.staged_side()?
    } else {
        guard.working_side()?
    };
    let risk = assess_change(guard, &base.tree, &candidate.subject.tree)?;
    let seconds = match &risk.scope {
        Some(scope) => guard.expected_seconds(scope)?,
        None => Some(0.0),
    };
    let text = risk_text(&risk, seconds, context.ui.paint());
    let json = json!({"schema": 1, "base": base.id, "risk": risk, "expected_seconds": seconds});
    context.print(&json, &text)?;
    Ok(0)
}
