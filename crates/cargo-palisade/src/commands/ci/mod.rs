//! `cargo palisade ci`

use crate::args::CiSystem;
use crate::ui::Ui;

const GITHUB: &str = include_str!("github.yml");
const GITLAB: &str = include_str!("gitlab.yml");

pub fn run(ui: &Ui, system: CiSystem, shards: u32, postgres: bool) -> anyhow::Result<u8> {
    ui.out(&workflow(system, shards.max(1), postgres))?;
    Ok(0)
}

/// The workflow's text. Lines that begin with `#file` or `#postgres` belong to one kind of
/// store only.
fn workflow(system: CiSystem, shards: u32, postgres: bool) -> String {
    let template = match system {
        CiSystem::Github => GITHUB,
        CiSystem::Gitlab => GITLAB,
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
        for system in [CiSystem::Github, CiSystem::Gitlab] {
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
        assert!(workflow(CiSystem::Github, 2, false).contains("shard: [1, 2]\n"));
        assert!(workflow(CiSystem::Gitlab, 2, false).contains("parallel: 2\n"));
    }
}
