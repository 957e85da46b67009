//! `--device`: which device computes, and why.

use std::str::FromStr;

use bitnet_inference::{Device, DeviceInfo, DeviceKind};

/// `--device`
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeviceArg {
    /// The fastest for the model.
    Auto,
    Kind {
        kind: DeviceKind,
        /// A part of the name of an adapter.
        adapter: Option<String>,
    },
}

impl DeviceArg {
    /// The CPU.
    pub const CPU: Self = Self::Kind {
        kind: DeviceKind::Cpu,
        adapter: None,
    };
}

impl FromStr for DeviceArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (kind, adapter) = match text.split_once(':') {
            Some((kind, adapter)) => (kind, Some(adapter.to_owned())),
            None => (text, None),
        };
        let kind = match kind {
            "auto" if adapter.is_none() => return Ok(Self::Auto),
            "cpu" if adapter.is_none() => DeviceKind::Cpu,
            "cuda" => DeviceKind::Cuda,
            "metal" => DeviceKind::Metal,
            "vulkan" => DeviceKind::Vulkan,
            "dx12" => DeviceKind::Dx12,
            _ => {
                let expected = "expected auto, cpu, cuda, metal, vulkan or dx12; a GPU's name \
                                may follow, as in vulkan:NAME";
                return Err(expected.to_owned());
            }
        };
        Ok(Self::Kind { kind, adapter })
    }
}

/// The device that computes.
#[derive(Debug)]
pub struct ChosenDevice {
    pub device: Device,
    /// Why it was chosen, in a few words.
    pub why: String,
}

impl ChosenDevice {
    /// Returns a line about the device.
    pub fn describe(&self) -> String {
        let Self { device, why } = self;
        let software = if device.is_software() {
            " (a program on the CPU)"
        } else {
            ""
        };
        format!(
            "device: {}, {}{software}, {why}",
            device.kind(),
            device.name()
        )
    }
}

/// Returns what is known of a GPU, in a few words.
pub fn describe_adapter(info: &DeviceInfo) -> Option<String> {
    let adapter = info.adapter.as_ref()?;
    let mib = |bytes: u64| bytes >> 20;
    let [smallest, largest] = adapter.subgroup_sizes;
    let memory = (adapter.memory_bytes).map_or(String::new(), |n| format!(", {} MiB", mib(n)));
    Some(format!(
        "{}, {}{memory}, subgroups of {smallest} to {largest}, buffers up to {} MiB, {} MiB bound",
        adapter.kind,
        adapter.driver,
        mib(adapter.max_buffer_bytes),
        mib(adapter.max_binding_bytes),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_a_kind_and_maybe_a_name() {
        let vulkan = |adapter: Option<&str>| DeviceArg::Kind {
            kind: DeviceKind::Vulkan,
            adapter: adapter.map(str::to_owned),
        };
        for (text, expected) in [
            ("auto", Some(DeviceArg::Auto)),
            ("cpu", Some(DeviceArg::CPU)),
            ("vulkan", Some(vulkan(None))),
            ("vulkan:Radeon RX: 7", Some(vulkan(Some("Radeon RX: 7")))),
            ("cpu:x", None),
            ("opencl", None),
            ("", None),
        ] {
            assert_eq!(text.parse().ok(), expected, "{text:?}");
        }
    }
}
