//! The adapters of this machine: what a driver offers.

use std::fmt;
use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use crate::error::GpuError;

/// A programming interface of GPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Api {
    /// Vulkan, on Linux and Windows.
    Vulkan,
    /// Metal, on macOS.
    Metal,
    /// DirectX 12, on Windows.
    Dx12,
}

impl Api {
    /// Every interface.
    pub const ALL: [Self; 3] = [Self::Vulkan, Self::Metal, Self::Dx12];

    /// Returns the name as in `--device`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Vulkan => "vulkan",
            Self::Metal => "metal",
            Self::Dx12 => "dx12",
        }
    }

    /// Returns whether this build can use the interface on this system.
    pub fn is_built_in(self) -> bool {
        wgpu::Instance::enabled_backend_features().contains(self.backend())
    }

    fn backend(self) -> wgpu::Backends {
        match self {
            Self::Vulkan => wgpu::Backends::VULKAN,
            Self::Metal => wgpu::Backends::METAL,
            Self::Dx12 => wgpu::Backends::DX12,
        }
    }
}

impl fmt::Display for Api {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Vulkan => "Vulkan",
            Self::Metal => "Metal",
            Self::Dx12 => "DirectX 12",
        })
    }
}

/// The kind of an adapter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdapterKind {
    /// With memory of its own.
    Discrete,
    /// Sharing the memory of the processor.
    Integrated,
    /// Of a virtual machine.
    Virtual,
    /// A program on the processor.
    Software,
    /// The driver does not say.
    Unknown,
}

impl AdapterKind {
    /// Returns the kind in one word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Discrete => "discrete",
            Self::Integrated => "integrated",
            Self::Virtual => "virtual",
            Self::Software => "software",
            Self::Unknown => "unknown",
        }
    }
}

/// An adapter and the limits of it that matter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdapterInfo {
    /// The interface.
    pub api: Api,
    /// The name that the driver gives.
    pub name: String,
    /// The driver and its version.
    pub driver: String,
    /// The kind of device.
    pub kind: AdapterKind,
    /// The memory of the device in bytes, used or not; that of the machine if they share it.
    /// `None` where the interface does not say: only Vulkan does.
    pub memory_bytes: Option<u64>,
    /// The largest part of a buffer that a kernel can read, in bytes.
    pub max_binding_bytes: u64,
    /// The largest buffer, in bytes.
    pub max_buffer_bytes: u64,
    /// The memory that a workgroup shares, in bytes.
    pub workgroup_bytes: u32,
    /// The number of invocations in a subgroup, the smallest and the largest; the kernels
    /// do not depend on it.
    pub subgroup_sizes: [u32; 2],
    /// What the adapter lacks that the kernels need, by name; `None` if it is usable.
    pub unusable: Option<String>,
}

impl AdapterInfo {
    /// Returns whether the adapter is a program on the processor.
    pub fn is_software(&self) -> bool {
        self.kind == AdapterKind::Software
    }

    /// Returns the name with the interface, as errors have it.
    pub(crate) fn device(&self) -> String {
        format!("{} ({})", self.name, self.api)
    }
}

/// The invocations of the largest workgroup of the kernels.
const GROUP: u32 = 256;
/// The buffers that a kernel binds.
const BUFFERS: u32 = 8;
/// The memory that a workgroup of a kernel shares at most, where a larger limit is not used.
pub(crate) const WORKGROUP_BYTES: u32 = 16 * 1024;

/// Returns the usable and unusable adapters of an interface, or of all; none where no driver
/// is installed.
pub fn adapters(api: Option<Api>) -> Vec<AdapterInfo> {
    enumerate(api).into_iter().map(|(info, _)| info).collect()
}

/// Returns the first adapter whose name contains `name` in any case, or without a name, the
/// first discrete, integrated, virtual or software adapter in this order.
pub(crate) fn find(api: Api, name: Option<&str>) -> Result<(AdapterInfo, wgpu::Adapter), GpuError> {
    let mut all = enumerate(Some(api));
    let found = all.iter().map(|(info, _)| info.name.clone()).collect();
    let wanted = name.map(str::to_lowercase);
    let position = match wanted {
        Some(wanted) => {
            let is_wanted =
                |(info, _): &(AdapterInfo, _)| info.name.to_lowercase().contains(&wanted);
            all.iter().position(is_wanted)
        }
        None => (0..all.len()).min_by_key(|i| {
            let info = &all[*i].0;
            (info.unusable.is_some(), info.kind as usize)
        }),
    };
    let Some(position) = position else {
        return Err(GpuError::NoAdapter {
            wanted: match name {
                Some(name) => format!("{api} adapter named {name:?}"),
                None => format!("{api} adapter"),
            },
            found,
            hint: hint(api),
        });
    };
    let (info, adapter) = all.swap_remove(position);
    match &info.unusable {
        Some(missing) => Err(GpuError::Unusable {
            device: info.device(),
            missing: missing.clone(),
        }),
        None => Ok((info, adapter)),
    }
}

/// Returns what might be the reason that an adapter is missing: a variable that replaces the
/// drivers that are installed, or a system without the interface.
fn hint(api: Api) -> Option<String> {
    if !api.is_built_in() {
        return Some(format!("{api} is not built in on this system"));
    }
    if api != Api::Vulkan {
        return None;
    }
    ["VK_DRIVER_FILES", "VK_ICD_FILENAMES"]
        .into_iter()
        .find_map(|variable| {
            let value = std::env::var_os(variable)?;
            let missing = std::env::split_paths(&value).find(|path| !path.exists());
            Some(match missing {
                Some(path) => format!("{variable} names {}, which does not exist", path.display()),
                None => format!("{variable} is set to {}", value.display()),
            })
        })
}

fn enumerate(api: Option<Api>) -> Vec<(AdapterInfo, wgpu::Adapter)> {
    let backends = api.map_or(
        Api::ALL
            .iter()
            .fold(wgpu::Backends::empty(), |all, api| all | api.backend()),
        Api::backend,
    );
    let backends = backends & wgpu::Instance::enabled_backend_features();
    if backends.is_empty() {
        return Vec::new();
    }
    let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle();
    descriptor.backends = backends;
    // No validation layers, also not in builds for debugging.
    descriptor.flags = wgpu::InstanceFlags::empty();
    // Beyond, the system would move buffers to memory that the device reads slowly.
    descriptor.memory_budget_thresholds.for_resource_creation = Some(97);
    let instance = wgpu::Instance::new(descriptor);
    let adapters = ready(instance.enumerate_adapters(backends)).unwrap_or_default();
    let described = adapters.into_iter().filter_map(|adapter| {
        let info = describe(&adapter)?;
        Some((info, adapter))
    });
    described.collect()
}

fn describe(adapter: &wgpu::Adapter) -> Option<AdapterInfo> {
    let (info, limits) = (adapter.get_info(), adapter.limits());
    let api = match info.backend {
        wgpu::Backend::Vulkan => Api::Vulkan,
        wgpu::Backend::Metal => Api::Metal,
        wgpu::Backend::Dx12 => Api::Dx12,
        _ => return None,
    };
    let downlevel = adapter.get_downlevel_capabilities();
    let flags = [
        (wgpu::DownlevelFlags::COMPUTE_SHADERS, "compute shaders"),
        (
            wgpu::DownlevelFlags::SHADER_F16_IN_F32,
            "conversions of f16",
        ),
    ];
    let lacks = flags
        .iter()
        .find(|(flag, _)| !downlevel.flags.contains(*flag));
    let needs = [
        (
            "max_compute_invocations_per_workgroup",
            limits.max_compute_invocations_per_workgroup,
            GROUP,
        ),
        (
            "max_compute_workgroup_size_x",
            limits.max_compute_workgroup_size_x,
            GROUP,
        ),
        (
            "max_storage_buffers_per_shader_stage",
            limits.max_storage_buffers_per_shader_stage,
            BUFFERS,
        ),
        (
            "max_compute_workgroup_storage_size",
            limits.max_compute_workgroup_storage_size,
            WORKGROUP_BYTES,
        ),
    ];
    let too_small = needs.iter().find(|(_, limit, needed)| limit < needed);
    let unusable = match (lacks, too_small) {
        (Some((_, what)), _) => Some(format!("it has no {what}")),
        (_, Some((name, limit, needed))) => Some(format!("{name} is {limit}, {needed} is needed")),
        (None, None) => None,
    };
    let driver = [info.driver, info.driver_info];
    Some(AdapterInfo {
        api,
        name: info.name,
        driver: driver.join(" ").trim().to_owned(),
        kind: match info.device_type {
            wgpu::DeviceType::DiscreteGpu => AdapterKind::Discrete,
            wgpu::DeviceType::IntegratedGpu => AdapterKind::Integrated,
            wgpu::DeviceType::VirtualGpu => AdapterKind::Virtual,
            wgpu::DeviceType::Cpu => AdapterKind::Software,
            wgpu::DeviceType::Other => AdapterKind::Unknown,
        },
        memory_bytes: memory_bytes(adapter),
        max_binding_bytes: limits.max_storage_buffer_binding_size,
        max_buffer_bytes: limits.max_buffer_size,
        workgroup_bytes: limits.max_compute_workgroup_storage_size,
        subgroup_sizes: [info.subgroup_min_size, info.subgroup_max_size],
        unusable,
    })
}

/// Returns the memory of the device, if the interface says it.
#[cfg(any(target_os = "linux", target_os = "windows"))]
fn memory_bytes(adapter: &wgpu::Adapter) -> Option<u64> {
    // SAFETY: the adapter of wgpu-hal is only asked for its handles; nothing is destroyed.
    let adapter = unsafe { adapter.as_hal::<wgpu::hal::api::Vulkan>() }?;
    let instance = adapter.shared_instance().raw_instance();
    // SAFETY: the physical device is of this instance, which lives as long as the adapter.
    let memory =
        unsafe { instance.get_physical_device_memory_properties(adapter.raw_physical_device()) };
    // Bit 0 of the flags: local to the device.
    let heaps = memory
        .memory_heaps
        .iter()
        .take(memory.memory_heap_count as usize);
    let local = heaps.filter(|heap| heap.flags.as_raw() & 1 == 1);
    local.map(|heap| heap.size).max()
}

#[cfg(not(any(target_os = "linux", target_os = "windows")))]
fn memory_bytes(_: &wgpu::Adapter) -> Option<u64> {
    None
}

/// Returns the output of a future of wgpu. Except in browsers, they are ready at once.
pub(crate) fn ready<F: Future>(future: F) -> Option<F::Output> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => Some(output),
        Poll::Pending => None,
    }
}
