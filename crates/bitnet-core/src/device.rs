//! What can compute: the processor, and the kinds of graphics processors that
//! programs of this family know.
//!
//! A kind that is not compiled in is listed with the reason, so that nobody has
//! to guess why it is not used.

use std::fmt;
use std::sync::OnceLock;

use crate::machine;

/// A kind of device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DeviceKind {
    /// The processor.
    Cpu,
    /// NVIDIA GPUs.
    Cuda,
    /// Apple GPUs.
    Metal,
    /// GPUs of any maker.
    Vulkan,
}

/// A device of this machine, or a kind of which it has none that is usable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Its kind.
    pub kind: DeviceKind,
    /// As the system calls it, or the name of the kind.
    pub name: String,
    /// Why it cannot be used, if it cannot.
    pub unusable: Option<Unusable>,
}

/// Why a device cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Unusable {
    /// The code for it is not part of this program.
    #[error("this build has no {} support", .0.title())]
    NotCompiledIn(DeviceKind),
}

/// A device was asked for that cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("device {kind} cannot be used: {reason}")]
pub struct DeviceError {
    /// What was asked for.
    pub kind: DeviceKind,
    /// Why it cannot be used.
    pub reason: Unusable,
}

/// A kind of device, and how to find out whether it can be used.
struct Known {
    kind: DeviceKind,
    /// Returns the device's name.
    probe: fn() -> Result<String, Unusable>,
}

/// Every kind, the fastest first: the order in which they are chosen.
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

/// The first usable kind of [`KNOWN`]: chosen where none is asked for.
static FASTEST: OnceLock<DeviceKind> = OnceLock::new();

impl Device {
    /// Returns what this machine has and what it lacks, in the order in which
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

    /// Returns the kind that was asked for, or the fastest usable one if none
    /// was.
    ///
    /// The fastest is found by the first call; the process remembers it. Any
    /// number of threads may ask at once: one of them looks, the others wait,
    /// and all get the same answer. If the one that looks panics, the next one looks.
    ///
    /// # Errors
    ///
    /// Returns an error if the kind asked for cannot be used: never another one
    /// in its place.
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

    /// Returns the name that people use.
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
