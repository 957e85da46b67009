//! Compute devices: the CPU, and kinds of GPUs.
//!
//! A kind that is not compiled in is listed with the reason.

use std::fmt;
use std::sync::OnceLock;

use bitnet_core::machine;

/// A kind of device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DeviceKind {
    /// The CPU.
    Cpu,
    /// NVIDIA GPUs.
    Cuda,
    /// Apple GPUs.
    Metal,
    /// GPUs of any vendor.
    Vulkan,
}

/// A device of this machine, or an unusable kind of device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// The kind.
    pub kind: DeviceKind,
    /// The name reported by the system, or the name of the kind.
    pub name: String,
    /// Why the device cannot be used, or `None` if it can.
    pub unusable: Option<Unusable>,
}

/// Why a device cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Unusable {
    /// This build has no support for the kind.
    #[error("this build has no {} support", .0.title())]
    NotCompiledIn(DeviceKind),
}

/// The requested device cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("device {kind} cannot be used: {reason}")]
pub struct DeviceError {
    /// The requested kind.
    pub kind: DeviceKind,
    /// Why it cannot be used.
    pub reason: Unusable,
}

/// A kind of device and its detection.
struct Known {
    kind: DeviceKind,
    /// Returns the device's name, or why it cannot be used.
    probe: fn() -> Result<String, Unusable>,
}

/// All kinds in order of preference, the fastest first.
const KNOWN: [Known; 4] = [
    Known {
        kind: DeviceKind::Cuda,
        probe: || Err(Unusable::NotCompiledIn(DeviceKind::Cuda)),
    },
    Known {
        kind: DeviceKind::Metal,
        probe: || Err(Unusable::NotCompiledIn(DeviceKind::Metal)),
    },
    Known {
        kind: DeviceKind::Vulkan,
        probe: || Err(Unusable::NotCompiledIn(DeviceKind::Vulkan)),
    },
    Known {
        kind: DeviceKind::Cpu,
        probe: || Ok(machine::cpu_name().unwrap_or_else(|| "unknown processor".to_owned())),
    },
];

/// The first usable kind of [`KNOWN`], the default.
static FASTEST: OnceLock<DeviceKind> = OnceLock::new();

impl Device {
    /// Returns the devices and the unusable kinds, in the order in which
    /// [`select`](Self::select) prefers them.
    pub fn all() -> Vec<Self> {
        let device = |Known { kind, probe }: &Known| match probe() {
            Ok(name) => Self {
                kind: *kind,
                name,
                unusable: None,
            },
            Err(reason) => Self {
                kind: *kind,
                name: kind.name().to_owned(),
                unusable: Some(reason),
            },
        };
        KNOWN.iter().map(device).collect()
    }

    /// Returns the requested kind, or the fastest usable one if `wish` is `None`.
    ///
    /// The first call detects the fastest kind, once per process. Concurrent calls wait for
    /// one of them to detect it and return the same result; if detection panics, the next
    /// call retries.
    ///
    /// # Errors
    ///
    /// Returns an error if the requested kind cannot be used; there is no fallback.
    pub fn select(wish: Option<DeviceKind>) -> Result<DeviceKind, DeviceError> {
        let Some(kind) = wish else {
            let fastest = FASTEST.get_or_init(|| {
                let usable = KNOWN.iter().find(|known| (known.probe)().is_ok());
                usable.expect("the processor is always usable").kind
            });
            return Ok(*fastest);
        };
        let known = KNOWN.iter().find(|known| known.kind == kind);
        match (known.expect("every kind is known").probe)() {
            Ok(_) => Ok(kind),
            Err(reason) => Err(DeviceError { kind, reason }),
        }
    }
}

impl DeviceKind {
    /// Returns the name on command lines and in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
            Self::Metal => "metal",
            Self::Vulkan => "vulkan",
        }
    }

    /// Returns the name for messages.
    fn title(self) -> &'static str {
        match self {
            Self::Cpu => "CPU",
            Self::Cuda => "CUDA",
            Self::Metal => "Metal",
            Self::Vulkan => "Vulkan",
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
    fn every_kind_is_listed_once_and_the_processor_is_usable() {
        let devices = Device::all();
        for kind in [
            DeviceKind::Cpu,
            DeviceKind::Cuda,
            DeviceKind::Metal,
            DeviceKind::Vulkan,
        ] {
            let of_kind: Vec<_> = devices.iter().filter(|d| d.kind == kind).collect();
            assert_eq!(of_kind.len(), 1, "{kind}");
            assert_eq!(of_kind[0].unusable.is_none(), kind == DeviceKind::Cpu);
            assert!(!of_kind[0].name.is_empty());
        }
    }

    #[test]
    fn what_is_asked_for_is_given_or_refused_with_the_reason() {
        for device in Device::all() {
            let selected = Device::select(Some(device.kind));
            match device.unusable {
                None => assert_eq!(selected, Ok(device.kind)),
                Some(reason) => {
                    let kind = device.kind;
                    assert_eq!(selected, Err(DeviceError { kind, reason }));
                }
            }
        }
        let error = Device::select(Some(DeviceKind::Cuda)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "device cuda cannot be used: this build has no CUDA support"
        );
    }

    #[test]
    fn the_fastest_is_the_first_usable_one_whoever_asks() {
        let usable = Device::all().into_iter().find(|d| d.unusable.is_none());
        let expected = usable.unwrap().kind;
        let ask = || Device::select(None);
        let threads: Vec<_> = (0..64).map(|_| std::thread::spawn(ask)).collect();
        for thread in threads {
            assert_eq!(thread.join().unwrap(), Ok(expected));
        }
    }
}
