//! `cargo palisade recover`

use super::bisect::{self, SearchArgs};
use super::{Context, launcher, write};
use crate::error::CommandError;
use palisade::flow::recover::{RecoverOptions, recover};
use palisade::record::Stage;
use std::path::PathBuf;

#[derive(Debug, clap::Args)]
#[command(after_help = "Example: cargo palisade recover --test tests::connects --good v1.0.0")]
pub struct Args {
    /// The incident to go on with [default: a new one if one of --test, --bench, --cmd and
    /// --ratio is given; else the newest that is open, or a new one about the test that fails
    /// in the newest run of HEAD]
    #[arg(conflicts_with_all = ["question", "good", "bad", "first_parent", "mode"])]
    pub incident: Option<String>,
    #[command(flatten)]
    pub search: SearchArgs,
    /// Do this step only
    #[arg(long, value_enum, value_name = "STEP")]
    pub step: Option<Step>,
    /// Write the incident as Markdown
    #[arg(long, value_name = "FILE")]
    pub markdown: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Step {
    Confirm,
    Bisect,
    Revert,
    Validate,
    Monitor,
}

impl Step {
    /// The same, as the library says it.
    pub fn stage(self) -> Stage {
        match self {
            Self::Confirm => Stage::Confirm,
            Self::Bisect => Stage::Bisect,
            Self::Revert => Stage::Revert,
            Self::Validate => Stage::Validate,
            Self::Monitor => Stage::Monitor,
        }
    }
}

pub fn run(context: &mut Context<'_>, args: &Args) -> Result<u8, CommandError> {
    let ui = context.ui;
    let options = RecoverOptions {
        incident: args.incident.clone(),
        search: bisect::options(context, &args.search)?,
        only: args.step.map(Step::stage),
    };
    let launcher = launcher()?;
    let incident = recover(&mut context.session, &launcher, &options, &|event| {
        ui.event(event);
    })?;
    if let Some(path) = &args.markdown {
        write(path, &incident.markdown())?;
    }
    let code = incident.exit_code();
    let mut json = serde_json::to_value(&incident)?;
    json["schema"] = 1.into();
    json["exit_code"] = code.into();
    let page = incident.page(&context.session.workspace.root);
    let text = format!("{}record: {}\n", incident.text(), page.display());
    context.print(&json, &text)?;
    Ok(code)
}
