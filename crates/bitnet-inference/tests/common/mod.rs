//! Models of the repository, and engines for them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bitnet_core::{ComputeContext, HybridMemoryPool, Isa, ThreadPool};
use bitnet_inference::{
    Checkpoint, Device, Engine, LoadTarget, Model, Packing, Plan, PlanOptions, WeightCache,
};

/// Returns the path of a file or folder under `models/`.
pub fn models(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../models")
        .join(name)
}

/// Loads the weights of a checkpoint.
pub fn load(checkpoint: &Checkpoint, isa: Isa, packing: impl Into<Packing>) -> Arc<Model> {
    load_with(None, checkpoint, isa, packing)
}

/// Loads the weights of a checkpoint, from a cache if they are there.
pub fn load_with(
    cache: Option<&WeightCache>,
    checkpoint: &Checkpoint,
    isa: Isa,
    packing: impl Into<Packing>,
) -> Arc<Model> {
    let (pool, mut threads) = (HybridMemoryPool::new(), ThreadPool::new(2));
    let ctx = &mut ComputeContext::new(isa, &mut threads);
    let to = LoadTarget {
        device: &Device::Cpu,
        context_len: 0,
        cache,
    };
    let model = Model::load_on(to, checkpoint, &pool, ctx, packing.into(), |_, _| ());
    Arc::new(model.unwrap())
}

/// Makes an engine.
pub fn engine(model: &Arc<Model>, options: PlanOptions) -> Engine {
    let plan = Plan::new(model.config(), options).unwrap();
    Engine::new(Arc::clone(model), plan).unwrap()
}
