//! `cargo palisade risk`

use super::Context;
use super::check::ChangeArgs;
use crate::error::CommandError;
use palisade::flow::change::assess_change;
use palisade::report::risk_text;
use serde_json::json;

#[derive(Debug, clap::Args)]
#[command(after_help = "Example: cargo palisade risk --base main")]
pub struct Args {
    #[command(flatten)]
    pub change: ChangeArgs,
}

pub fn run(context: &mut Context<'_>, args: &Args) -> Result<u8, CommandError> {
    let session = &context.session;
    let (base, candidate) = session.revisions(&args.change.base(), &args.change.candidate())?;
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
