//! Models of the repository, and engines for them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bitnet_core::{ComputeContext, HybridMemoryPool, Isa, ThreadPool};
use bitnet_inference::{Checkpoint, Engine, Model, Packing, Plan, PlanOptions};

/// Returns the path of a file or folder under `models/`.
pub fn models(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../models")
        .join(name)
}

/// Loads the weights of a checkpoint.
pub fn load(checkpoint: &Checkpoint, isa: Isa, packing: impl Into<Packing>) -> Arc<Model> {
    let (pool, mut threads) = (HybridMemoryPool::new(), ThreadPool::new(2));
    let ctx = &mut ComputeContext::new(isa, &mut threads);
    let model = Model::load(checkpoint, &pool, ctx, packing, |_, _| ());
    Arc::new(model.unwrap())
}

/// Makes an engine.
pub fn engine(model: &Arc<Model>, options: PlanOptions) -> Engine {
    let plan = Plan::new(model.config(), options).unwrap();
    Engine::new(Arc::clone(model), plan).unwrap()
}
