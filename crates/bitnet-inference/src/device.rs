//! Compute devices: the CPU, and GPUs by the interface that reaches them.
//!
//! A kind that cannot be used is listed with the reason. A device that was asked for is
//! opened or refused; there is no fallback.

use std::fmt;

use bitnet_core::{Isa, ThreadPool, machine};
#[cfg(feature = "gpu")]
use bitnet_gpu::{AdapterInfo, Api, Gpu, GpuError};

/// A kind of device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum DeviceKind {
    /// The CPU.
    #[default]
    Cpu,
    /// NVIDIA GPUs through CUDA.
    Cuda,
    /// Apple GPUs.
    Metal,
    /// GPUs of any vendor, on Linux and Windows.
    Vulkan,
    /// GPUs of any vendor, on Windows.
    Dx12,
}

/// A device of this machine, or an unusable kind of device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceInfo {
    /// The kind.
    pub kind: DeviceKind,
    /// The name reported by the system, or the name of the kind.
    pub name: String,
    /// What else is known of a GPU.
    pub adapter: Option<Adapter>,
    /// Why the device cannot be used, or `None` if it can.
    pub unusable: Option<Unusable>,
}

/// What is known of a GPU besides its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Adapter {
    /// The driver and its version.
    pub driver: String,
    /// `discrete`, `integrated`, `virtual`, `software` or `unknown`.
    pub kind: &'static str,
    /// Whether it is a program on the CPU.
    pub is_software: bool,
    /// The memory of the device in bytes, if the driver says.
    pub memory_bytes: Option<u64>,
    /// The largest part of a buffer that a kernel can read, in bytes.
    pub max_binding_bytes: u64,
    /// The largest buffer, in bytes.
    pub max_buffer_bytes: u64,
    /// The memory that a workgroup shares, in bytes.
    pub workgroup_bytes: u32,
    /// The number of invocations in a subgroup, the smallest and the largest.
    pub subgroup_sizes: [u32; 2],
}

/// Why a device cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Unusable {
    /// This build has no support for the kind.
    #[error("this build has no {} support", .0.title())]
    NotCompiledIn(DeviceKind),
    /// There is no adapter of this kind, or no driver.
    #[error("no adapter was found")]
    NotFound,
    /// The adapter lacks something.
    #[error("{0}")]
    Lacks(String),
}

/// The requested device cannot be used, or not for this model.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceError {
    /// The kind cannot be used.
    #[error("device {kind} cannot be used: {reason}")]
    Unusable {
        /// The requested kind.
        kind: DeviceKind,
        /// Why it cannot be used.
        reason: Unusable,
    },
    /// The model has linear layers that are not ternary.
    #[error("GPUs compute ternary linear layers only, and the model has dense ones")]
    Dense,
    /// A GPU has keys and values in f16 only.
    #[error("GPUs have keys and values in f16 only")]
    KvPrecision,
    /// A GPU has int8 output matrices only.
    #[error("GPUs compute with an int8 output matrix only")]
    Head,
    /// The GPU failed, or cannot compute the model. The text names the device.
    #[error("{0}")]
    Gpu(String),
}

#[cfg(feature = "gpu")]
impl From<GpuError> for DeviceError {
    fn from(error: GpuError) -> Self {
        Self::Gpu(error.to_string())
    }
}

/// A device that is ready for models.
#[derive(Clone, Debug, Default)]
pub enum Device {
    /// The CPU.
    #[default]
    Cpu,
    /// An open GPU.
    #[cfg(feature = "gpu")]
    Gpu(Gpu),
}

/// The fastest device for a model, and why it is.
#[derive(Clone, Debug)]
pub struct FastestDevice {
    /// The device.
    pub device: Device,
    /// The reason, in a few words.
    pub reason: String,
}

/// What a token costs on each device.
#[derive(Clone, Copy, Debug)]
struct TokenCost {
    /// Bytes of weights that are read.
    n_bytes: f64,
    /// Kernels that are started on a GPU.
    n_dispatches: f64,
}

impl TokenCost {
    /// The share of the measured bandwidth that decode reaches on a CPU (docs/performance.md:
    /// 0.77 to 0.90).
    const CPU_SHARE: f64 = 0.8;
    /// The share that is assumed of a GPU: others report 0.37 to 0.74 for ternary models.
    const GPU_SHARE: f64 = 0.5;
    /// Seconds to start a kernel of a recorded pass.
    const DISPATCH: f64 = 5e-6;

    /// Returns the seconds per token on a CPU that reads so many bytes per second.
    fn on_cpu(self, bandwidth: f64) -> f64 {
        self.n_bytes / (Self::CPU_SHARE * bandwidth)
    }

    /// Returns the seconds per token on a GPU that reads so many bytes per second.
    fn on_gpu(self, bandwidth: f64) -> f64 {
        self.n_bytes / (Self::GPU_SHARE * bandwidth) + self.n_dispatches * Self::DISPATCH
    }
}

impl Device {
    /// Opens a device. Of several GPUs, `adapter` selects the first whose name contains it,
    /// in any case; without it, a discrete GPU comes before an integrated one, and before a
    /// software adapter.
    ///
    /// # Errors
    ///
    /// Returns an error if there is no such device or it cannot be used.
    pub fn open(kind: DeviceKind, adapter: Option<&str>) -> Result<Self, DeviceError> {
        let reason = match kind {
            DeviceKind::Cpu => return Ok(Self::Cpu),
            #[cfg(feature = "gpu")]
            _ if kind.api().is_some_and(Api::is_built_in) => {
                let api = kind.api().expect("it is built in");
                return Ok(Self::Gpu(Gpu::open(api, adapter)?));
            }
            _ => {
                let _ = adapter;
                Unusable::NotCompiledIn(kind)
            }
        };
        Err(DeviceError::Unusable { kind, reason })
    }

    /// Returns the fastest device for a model that reads `n_bytes` of weights per token in
    /// `n_layers`, by an estimate: the CPU, or a GPU that measured faster. Software adapters
    /// are never returned. Where there is no GPU, nothing is measured.
    pub fn fastest(n_bytes: usize, n_layers: usize, n_threads: usize) -> FastestDevice {
        if !may_have_gpu() {
            return FastestDevice {
                device: Self::Cpu,
                reason: "this system has no GPU".to_owned(),
            };
        }
        let cost = TokenCost {
            n_bytes: n_bytes as f64,
            n_dispatches: 7.0 * n_layers as f64,
        };
        let gpus = DeviceInfo::all().into_iter().filter(|info| {
            let adapter = info.adapter.as_ref();
            info.unusable.is_none() && adapter.is_some_and(|adapter| !adapter.is_software)
        });
        let measured = gpus.filter_map(|info| {
            let device = Self::open(info.kind, Some(&info.name)).ok()?;
            let seconds = cost.on_gpu(device.read_bandwidth()?);
            Some((device, seconds))
        });
        let Some((gpu, seconds)) = measured.min_by(|a, b| a.1.total_cmp(&b.1)) else {
            return FastestDevice {
                device: Self::Cpu,
                reason: "there is no usable GPU".to_owned(),
            };
        };
        let pool = bitnet_core::HybridMemoryPool::new();
        let threads = &mut ThreadPool::new(n_threads);
        let Ok(read) = machine::read_bandwidth(&pool, Isa::best(), threads) else {
            return FastestDevice {
                device: Self::Cpu,
                reason: "it could not be measured beside the GPU".to_owned(),
            };
        };
        let on_cpu = cost.on_cpu(read);
        let reason = format!(
            "by an estimate of {:.2} ms a token on {}, {:.2} ms on the CPU",
            1e3 * seconds,
            gpu.name(),
            1e3 * on_cpu,
        );
        let device = if seconds < on_cpu { gpu } else { Self::Cpu };
        FastestDevice { device, reason }
    }

    /// Returns the kind.
    pub fn kind(&self) -> DeviceKind {
        match self {
            Self::Cpu => DeviceKind::Cpu,
            #[cfg(feature = "gpu")]
            Self::Gpu(gpu) => DeviceKind::of(gpu.info().api),
        }
    }

    /// Returns the name.
    pub fn name(&self) -> String {
        match self {
            Self::Cpu => cpu_name(),
            #[cfg(feature = "gpu")]
            Self::Gpu(gpu) => gpu.info().name.clone(),
        }
    }

    /// Returns whether this is a GPU that is a program on the CPU.
    pub fn is_software(&self) -> bool {
        match self {
            Self::Cpu => false,
            #[cfg(feature = "gpu")]
            Self::Gpu(gpu) => gpu.info().is_software(),
        }
    }

    /// Measures the bytes per second that a GPU reads from its memory; `None` for the CPU, or
    /// if it fails.
    pub fn read_bandwidth(&self) -> Option<f64> {
        match self {
            Self::Cpu => None,
            #[cfg(feature = "gpu")]
            Self::Gpu(gpu) => gpu.read_bandwidth().ok(),
        }
    }
}

impl DeviceInfo {
    /// Returns the devices, and the kinds of which there is none that is usable.
    pub fn all() -> Vec<Self> {
        let mut devices: Vec<_> = DeviceKind::GPUS.into_iter().flat_map(Self::gpus).collect();
        devices.push(Self {
            kind: DeviceKind::Cpu,
            name: cpu_name(),
            adapter: None,
            unusable: None,
        });
        devices
    }

    /// Returns the GPUs of a kind, or why there is none.
    fn gpus(kind: DeviceKind) -> Vec<Self> {
        let none = |reason| {
            vec![Self {
                kind,
                name: kind.name().to_owned(),
                adapter: None,
                unusable: Some(reason),
            }]
        };
        #[cfg(feature = "gpu")]
        if let Some(api) = kind.api().filter(|api| api.is_built_in()) {
            let found = bitnet_gpu::adapters(Some(api));
            if found.is_empty() {
                return none(Unusable::NotFound);
            }
            return found.into_iter().map(Self::of_adapter).collect();
        }
        none(Unusable::NotCompiledIn(kind))
    }

    #[cfg(feature = "gpu")]
    fn of_adapter(info: AdapterInfo) -> Self {
        Self {
            kind: DeviceKind::of(info.api),
            adapter: Some(Adapter {
                kind: info.kind.name(),
                is_software: info.is_software(),
                driver: info.driver,
                memory_bytes: info.memory_bytes,
                max_binding_bytes: info.max_binding_bytes,
                max_buffer_bytes: info.max_buffer_bytes,
                workgroup_bytes: info.workgroup_bytes,
                subgroup_sizes: info.subgroup_sizes,
            }),
            name: info.name,
            unusable: info.unusable.map(Unusable::Lacks),
        }
    }
}

/// Returns whether the system may have a GPU. On Linux, every driver of one has a device
/// file; looking for it is faster than loading the drivers.
fn may_have_gpu() -> bool {
    if !cfg!(target_os = "linux") {
        return true;
    }
    let is_of_gpu = |entry: std::io::Result<std::fs::DirEntry>| {
        let name = entry.map(|entry| entry.file_name());
        name.is_ok_and(|name| {
            let name = name.to_string_lossy();
            ["dri", "nvidia", "dxg", "kgsl", "mali", "pvr"]
                .iter()
                .any(|driver| name.starts_with(driver))
        })
    };
    std::fs::read_dir("/dev").is_ok_and(|mut entries| entries.any(is_of_gpu))
}

fn cpu_name() -> String {
    machine::cpu_name().unwrap_or_else(|| "unknown processor".to_owned())
}

impl DeviceKind {
    /// All kinds of GPUs.
    const GPUS: [Self; 4] = [Self::Cuda, Self::Metal, Self::Vulkan, Self::Dx12];

    /// Returns the name on command lines and in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
            Self::Metal => "metal",
            Self::Vulkan => "vulkan",
            Self::Dx12 => "dx12",
        }
    }

    /// Returns the name for messages.
    fn title(self) -> &'static str {
        match self {
            Self::Cpu => "CPU",
            Self::Cuda => "CUDA",
            Self::Metal => "Metal",
            Self::Vulkan => "Vulkan",
            Self::Dx12 => "DirectX 12",
        }
    }

    #[cfg(feature = "gpu")]
    fn api(self) -> Option<Api> {
        match self {
            Self::Cpu | Self::Cuda => None,
            Self::Metal => Some(Api::Metal),
            Self::Vulkan => Some(Api::Vulkan),
            Self::Dx12 => Some(Api::Dx12),
        }
    }

    /// Returns the kind of the devices that an interface reaches.
    #[cfg(feature = "gpu")]
    pub(crate) fn of(api: Api) -> Self {
        match api {
            Api::Metal => Self::Metal,
            Api::Vulkan => Self::Vulkan,
            Api::Dx12 => Self::Dx12,
        }
    }
}

impl fmt::Display for DeviceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_listed_and_the_processor_is_usable() {
        let devices = DeviceInfo::all();
        for kind in DeviceKind::GPUS {
            assert!(devices.iter().any(|device| device.kind == kind), "{kind}");
        }
        let of_cpu = devices.iter().filter(|d| d.kind == DeviceKind::Cpu);
        assert_eq!(of_cpu.filter(|d| d.unusable.is_none()).count(), 1);
        assert!(devices.iter().all(|device| !device.name.is_empty()));
    }

    #[test]
    fn what_is_asked_for_is_opened_or_refused_with_the_reason() {
        for info in DeviceInfo::all() {
            let opened = Device::open(info.kind, info.adapter.as_ref().map(|_| &*info.name));
            match info.unusable {
                None => assert_eq!(opened.unwrap().kind(), info.kind),
                Some(_) => assert!(opened.is_err(), "{info:?}"),
            }
        }
        let error = Device::open(DeviceKind::Cuda, None).unwrap_err();
        assert_eq!(
            error.to_string(),
            "device cuda cannot be used: this build has no CUDA support"
        );
    }

    #[test]
    fn software_adapters_are_never_the_fastest() {
        let fastest = Device::fastest(1, 1, 1);
        assert!(!fastest.device.is_software(), "{fastest:?}");
    }

    #[test]
    fn a_gpu_has_to_make_up_for_the_kernels_that_it_starts() {
        let cost = |n_bytes| TokenCost {
            n_bytes,
            n_dispatches: 210.0,
        };
        // A billion bytes: 1/25 s at 50 GB/s on the CPU, 1/250 s at 500 GB/s on the GPU.
        assert!((cost(1e9).on_cpu(50e9) - 0.025).abs() < 1e-12);
        assert!((cost(1e9).on_gpu(500e9) - 0.00505).abs() < 1e-12);
        // A small model is faster on the CPU, though the GPU reads ten times as fast.
        assert!(cost(1e7).on_cpu(50e9) < cost(1e7).on_gpu(500e9));
    }
}
