//! `cargo palisade risk`

use palisade::check::assess_change;
use palisade::report::risk_text;
use serde_json::json;

use super::Context;
use crate::args::ChangeArgs;

pub fn run(context: &mut Context<'_>, args: &ChangeArgs) -> anyhow::Result<u8> {
    let session = &context.session;
    let (base, candidate) = session.revisions(&args.base(), &args.candidate())?;
    let risk = assess_change(session, &base.subject.tree, &candidate.subject.tree)?;
    let seconds = match &risk.scope {
        Some(scope) => session.expected_seconds(scope)?,
        None => Some(0.0),
    };
    let text = risk_text(&risk, seconds, context.ui.paint());
    let json =
        json!({"schema": 1, "base": base.commit.id, "risk": risk, "expected_seconds": seconds});
    context.print(&json, &text)?;
    Ok(0)
}
