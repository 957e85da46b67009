//! Tests on a device: on Mesa's software adapter where there is no GPU.

mod kernels;
mod passes;
mod refusals;
mod shaders;

use std::sync::OnceLock;

use crate::{AdapterKind, Api, Gpu, adapters};

/// Returns the device to test on: a GPU, or a software adapter. Without any, says that the
/// test is skipped; fails if `BITNET_GPU_TESTS` is `required`.
fn device() -> Option<Gpu> {
    static DEVICE: OnceLock<Result<Gpu, String>> = OnceLock::new();
    let opened = DEVICE.get_or_init(|| {
        let all = adapters(None);
        let usable = all.iter().filter(|info| info.unusable.is_none());
        let usable = usable.min_by_key(|info| info.kind as usize);
        let info = usable.ok_or_else(|| format!("no usable adapter among {all:?}"))?;
        Gpu::open(info.api, Some(&info.name)).map_err(|error| error.to_string())
    });
    match opened {
        Ok(gpu) => Some(gpu.clone()),
        Err(reason) => {
            skip(reason);
            None
        }
    }
}

#[expect(clippy::print_stderr, reason = "a skipped test must be seen")]
fn skip(reason: &str) {
    let is_required = std::env::var_os("BITNET_GPU_TESTS").is_some_and(|v| v == "required");
    assert!(!is_required, "a device is required: {reason}");
    eprintln!("SKIPPED: no GPU or software adapter to test on: {reason}");
}

/// Pseudo-random numbers.
struct Random(u32);

impl Random {
    fn bits(&mut self) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 17;
        self.0 ^= self.0 << 5;
        self.0
    }

    /// Returns a number in -1..1.
    fn float(&mut self) -> f32 {
        self.bits() as f32 / (u32::MAX as f32 / 2.0) - 1.0
    }

    fn floats(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.float()).collect()
    }

    fn trits(&mut self, n: usize) -> Vec<i8> {
        (0..n).map(|_| (self.bits() % 3) as i8 - 1).collect()
    }
}

#[test]
fn adapters_are_listed_with_what_they_are() {
    for info in adapters(None) {
        assert!(
            !info.name.is_empty() && info.max_binding_bytes > 0,
            "{info:?}"
        );
        if info.unusable.is_none() {
            assert!(info.workgroup_bytes >= 16 * 1024, "{info:?}");
        }
        if info.api == Api::Vulkan {
            assert!(info.memory_bytes > Some(1 << 28), "{info:?}");
        }
        if info.name.contains("llvmpipe") {
            assert_eq!((info.kind, info.api), (AdapterKind::Software, Api::Vulkan));
        }
    }
}

#[test]
fn a_device_reads_its_memory_at_some_speed() {
    let Some(gpu) = device() else { return };
    let bandwidth = gpu.read_bandwidth().unwrap();
    // Between a slow software adapter and any GPU.
    assert!((1e8..1e14).contains(&bandwidth), "{bandwidth} bytes/s");
}

#[test]
fn devices_models_and_sessions_move_between_threads() {
    fn moves<T: Send>() {}
    fn is_shared<T: Sync>() {}
    moves::<crate::Session>();
    moves::<crate::ModelLoader>();
    moves::<crate::GpuModel>();
    is_shared::<crate::GpuModel>();
    is_shared::<Gpu>();
}
