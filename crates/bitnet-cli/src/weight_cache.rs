//! Where packed weights are kept for the next start.

use std::path::PathBuf;

use anyhow::Context;
use bitnet_inference::{Model, Saved, WeightCache, WeightCacheLimits};
use clap::Args;
use etcetera::BaseStrategy as _;
use indicatif::HumanBytes;

use crate::error::{Interrupted, UsageError};
use crate::interrupt::{self, Deferred};
use crate::memory::parse_bytes;
use crate::ui::Ui;

/// The environment variables, which `bitnet cache --help` explains.
const FOLDER: &str = "BITNET_CACHE_DIR";
const SIZE: &str = "BITNET_CACHE_SIZE";
const MIN_MODEL: &str = "BITNET_CACHE_MIN_MODEL";

/// A few models of some billion weights.
const DEFAULT_SIZE: u64 = 8 << 30;
/// Packing less takes about 20 ms.
const DEFAULT_MIN_MODEL: usize = 32 << 20;

/// The argument that turns the weight cache off.
#[derive(Clone, Copy, Debug, Default, Args)]
pub struct WeightCacheArg {
    /// Pack weights anew, keep none (see `bitnet cache`)
    #[arg(long, help_heading = "Model")]
    pub no_cache: bool,
}

impl WeightCacheArg {
    /// Opens the cache, unless it is turned off or its folder cannot be made.
    ///
    /// # Errors
    ///
    /// Returns an error if a variable is not a size.
    pub fn open(self, ui: &Ui) -> Result<Option<WeightCache>, UsageError> {
        if self.no_cache {
            return Ok(None);
        }
        match open() {
            Ok(cache) => Ok(Some(cache)),
            Err(error) if error.is::<UsageError>() => Err(UsageError(error.to_string())),
            Err(error) => {
                ui.detail(&format!("no weight cache: {error:#}"));
                Ok(None)
            }
        }
    }
}

/// Opens the weight cache of the environment.
///
/// # Errors
///
/// Returns an error if a variable is not a size, or the folder cannot be made.
pub fn open() -> anyhow::Result<WeightCache> {
    let limits = WeightCacheLimits {
        max_bytes: size(SIZE)?.map_or(DEFAULT_SIZE, |n| n as u64),
        min_model_bytes: size(MIN_MODEL)?.unwrap_or(DEFAULT_MIN_MODEL),
    };
    let folder = folder().with_context(|| format!("there is no home folder, and no {FOLDER}"))?;
    WeightCache::open(&folder, limits)
        .with_context(|| format!("failed to open {}", folder.display()))
}

fn folder() -> Option<PathBuf> {
    if let Some(folder) = std::env::var_os(FOLDER).filter(|folder| !folder.is_empty()) {
        return Some(folder.into());
    }
    let base = etcetera::choose_base_strategy().ok()?;
    Some(base.cache_dir().join("bitnet").join("weights"))
}

/// Returns the size that a variable sets.
fn size(variable: &str) -> Result<Option<usize>, UsageError> {
    let text = std::env::var_os(variable).unwrap_or_default();
    let text = text.to_string_lossy();
    if text.is_empty() {
        return Ok(None);
    }
    let size = parse_bytes(&text);
    size.map(Some)
        .map_err(|expected| UsageError(format!("{variable} is {text:?}: {expected}")))
}

/// Saves the packed weights of a model that does not come from the cache, when the work is
/// done.
///
/// # Errors
///
/// Returns an error if the user interrupts it. Without a file, the next start packs again,
/// which is only told.
pub fn save(cache: &WeightCache, model: &Model, ui: &Ui) -> Result<(), Interrupted> {
    let _deferred = Deferred::new();
    let mut progress = ui.progress("saving packed weights");
    let saved = model.save_packed(cache, |done, total| {
        progress.set(done, total);
        interrupt::poll()
    });
    drop(progress);
    match saved {
        Ok(Saved::Written { n_bytes, .. }) => ui.note(&format!(
            "note: for a faster start, packed weights of {} are kept in {}; `bitnet cache clear` \
             removes them",
            HumanBytes(n_bytes),
            cache.path().display()
        )),
        Ok(Saved::Nothing) => {}
        Ok(Saved::NoSpace { n_bytes, available }) => ui.detail(&format!(
            "packed weights of {} are not kept: {} has {} left",
            HumanBytes(n_bytes),
            cache.path().display(),
            HumanBytes(available)
        )),
        Ok(Saved::Cancelled) => return Err(Interrupted),
        Err(error) => ui.note(&format!(
            "note: packed weights are not kept: {}: {error}",
            cache.path().display()
        )),
    }
    Ok(())
}
