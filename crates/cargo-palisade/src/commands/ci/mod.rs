//! `cargo palisade ci`

use crate::error::CommandError;
use crate::ui::Ui;

const GITHUB: &str = include_str!("github.yml");
const GITLAB: &str = include_str!("gitlab.yml");

#[derive(Debug, clap::Args)]
#[command(after_help = "Example: cargo palisade ci github > .github/workflows/palisade.yml")]
pub struct Args {
    /// Which CI
    pub system: System,
    /// In how many parts the tests are run
    #[arg(long, value_name = "N", default_value_t = 3)]
    pub shards: u32,
    /// Keep the store on the PostgreSQL server that the secret PALISADE_STORE names
    #[arg(long)]
    pub postgres: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum System {
    Github,
    Gitlab,
}

pub fn run(ui: &Ui, args: &Args) -> Result<u8, CommandError> {
    ui.out(&workflow(args.system, args.shards.max(1), args.postgres))?;
    Ok(0)
}

/// The workflow's text. Lines that begin with `#file` or `#postgres` belong to one kind of
/// store only.
fn workflow(system: System, shards: u32, postgres: bool) -> String {
    let template = match system {
        System::Github => GITHUB,
        System::Gitlab => GITLAB,
    };
    let (kept, dropped) = if postgres {
        ("#postgres", "#file")
    } else {
        ("#file", "#postgres")
    };
    let list: Vec<String> = (1..=shards).map(|shard| shard.to_string()).collect();
    let features = if postgres { " --features postgres" } else { "" };
    let mut text = String::new();
    for line in template.lines().filter(|line| !line.starts_with(dropped)) {
        text.push_str(line.strip_prefix(kept).unwrap_or(line));
        text.push('\n');
    }
    text.replace("@SHARDS@", &shards.to_string())
        .replace("@LIST@", &format!("[{}]", list.join(", ")))
        .replace("@FEATURES@", features)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_place_is_filled() {
        for system in [System::Github, System::Gitlab] {
            for postgres in [false, true] {
                let text = workflow(system, 4, postgres);
                for rest in ["@SHARDS@", "@LIST@", "@FEATURES@", "#file", "#postgres"] {
                    assert!(!text.contains(rest), "{rest}\n{text}");
                }
                assert_eq!(text.contains("palisade-store"), !postgres);
                assert_eq!(text.contains("PALISADE_STORE"), postgres);
                assert!(text.contains("--features postgres") == postgres);
            }
        }
        assert!(workflow(System::Github, 2, false).contains("shard: [1, 2]\n"));
        assert!(workflow(System::Gitlab, 2, false).contains("parallel: 2\n"));
    }
}
