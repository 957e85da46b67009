//! `cargo palisade recover`

use palisade::recover::{RecoverOptions, recover};

use super::{Context, bisect, launcher, write};
use crate::args::RecoverArgs;

pub fn run(context: &mut Context<'_>, args: &RecoverArgs) -> anyhow::Result<u8> {
    let ui = context.ui;
    let options = RecoverOptions {
        incident: args.incident.clone(),
        search: bisect::options(context, &args.search)?,
        only: args.step.map(crate::args::Step::stage),
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
