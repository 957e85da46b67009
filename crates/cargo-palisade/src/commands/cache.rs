//! `cargo palisade cache`

use super::Context;
use crate::error::CommandError;
use palisade::host::git::cache::{CachedPlace, folder, places};
use palisade::host::now;
use palisade::policy::Bytes;
use palisade::record::{age, counted};
use serde_json::json;
use std::fmt::Write as _;
use std::time::SystemTime;

#[derive(Debug, clap::Args)]
#[command(after_help = "Example: cargo palisade cache clear")]
pub struct Args {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Remove the checkouts of this repository and what was built from them
    #[command(after_help = "Example: cargo palisade cache clear --all")]
    Clear {
        /// Those of all repositories
        #[arg(long)]
        all: bool,
    },
}

pub fn run(context: &Context<'_>, args: &Args) -> Result<u8, CommandError> {
    match args.command {
        None => show(context),
        Some(Command::Clear { all }) => clear(context, all),
    }
}

fn show(context: &Context<'_>) -> Result<u8, CommandError> {
    let found = places();
    let bytes: u64 = found.iter().map(|place| place.bytes).sum();
    let limit = context.session.policy.run.cache_limit;
    let dir = folder();
    let mut text = format!("{}: {} of at most {limit}\n", dir.display(), Bytes(bytes));
    for place in &found {
        let used = milliseconds(place.used);
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "  {:>10}  used {} ago  {}",
            Bytes(place.bytes).to_string(),
            age(used, now()),
            owner(context, place)
        );
    }
    let listed: Vec<_> = found
        .iter()
        .map(|place| {
            json!({
                "dir": place.dir,
                "repository": place.repository,
                "bytes": place.bytes,
                "used_ms": milliseconds(place.used),
            })
        })
        .collect();
    let json = json!({
        "schema": 1,
        "dir": dir,
        "bytes": bytes,
        "limit": limit.0,
        "places": listed,
    });
    context.print(&json, &text)?;
    Ok(0)
}

fn owner(context: &Context<'_>, place: &CachedPlace) -> String {
    if place.is_of(context.session.repo.common_dir()) {
        return "this repository".to_owned();
    }
    let known = place.repository.as_ref();
    known.map_or_else(
        || "of a repository that is not known".to_owned(),
        |path| path.display().to_string(),
    )
}

fn milliseconds(time: SystemTime) -> i64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH);
    since.unwrap_or_default().as_millis() as i64
}

fn clear(context: &Context<'_>, all: bool) -> Result<u8, CommandError> {
    let common_dir = context.session.repo.common_dir();
    let chosen = places();
    let chosen = chosen.iter().filter(|place| all || place.is_of(common_dir));
    let (cleared, busy): (Vec<_>, Vec<_>) = chosen.partition(|place| place.clear());
    let bytes: u64 = cleared.iter().map(|place| place.bytes).sum();
    let mut text = format!(
        "removed {} from {}\n",
        Bytes(bytes),
        counted(cleared.len(), "place")
    );
    if !busy.is_empty() {
        let count = counted(busy.len(), "place");
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{count} in use, left as it is");
    }
    let json = json!({
        "schema": 1,
        "removed_bytes": bytes,
        "removed": cleared.iter().map(|place| &place.dir).collect::<Vec<_>>(),
        "in_use": busy.iter().map(|place| &place.dir).collect::<Vec<_>>(),
    });
    context.print(&json, &text)?;
    Ok(0)
}
