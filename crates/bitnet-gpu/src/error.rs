//! Errors of devices and of passes.

use crate::shape::Place;

/// An error of a GPU, or of a model that it cannot compute. Every text names the device.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GpuError {
    /// There is no such adapter.
    #[error("there is no {wanted}; {}", found_text(.found, .hint.as_deref()))]
    NoAdapter {
        /// What was asked for.
        wanted: String,
        /// The names of the adapters that are there.
        found: Vec<String>,
        /// What might be the reason, such as a variable that names a driver.
        hint: Option<String>,
    },
    /// The adapter lacks something that the kernels need.
    #[error("{device} cannot be used: {missing}")]
    Unusable {
        /// The device.
        device: String,
        /// What is missing, by name.
        missing: String,
    },
    /// A limit of the device is too small for the model or the options.
    #[error("{device} cannot hold {what}: {needed} needed, its limit is {limit}")]
    Limit {
        /// The device.
        device: String,
        /// What exceeds the limit, and the name of the limit.
        what: String,
        /// The number needed.
        needed: u64,
        /// The device's limit.
        limit: u64,
    },
    /// The kernels do not compute models of this kind.
    #[error("{device} does not compute {what}")]
    Unsupported {
        /// The device.
        device: String,
        /// What is not computed.
        what: String,
    },
    /// The device is out of memory.
    #[error("{device} is out of memory for {what}")]
    OutOfMemory {
        /// The device.
        device: String,
        /// What was to be allocated.
        what: String,
    },
    /// The device was lost.
    #[error("{device} was lost: {reason}")]
    Lost {
        /// The device.
        device: String,
        /// The driver's reason.
        reason: String,
    },
    /// The driver did not finish in time.
    #[error("{device} did not finish within {seconds} s")]
    Timeout {
        /// The device.
        device: String,
        /// The time waited.
        seconds: u64,
    },
    /// The driver, or wgpu on its behalf, refused an operation.
    #[error("{device} refused an operation: {error}")]
    Refused {
        /// The device.
        device: String,
        /// Its message.
        error: String,
    },
}

fn found_text(found: &[String], hint: Option<&str>) -> String {
    let found = if found.is_empty() {
        "no adapter was found".to_owned()
    } else {
        format!("there is {}", found.join(", "))
    };
    match hint {
        Some(hint) => format!("{found} ({hint})"),
        None => found,
    }
}

/// An error of [`Session::pass`](crate::Session::pass).
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PassError {
    /// A value is not finite.
    #[error("a value is not finite: {place}")]
    NotFinite {
        /// The first place where one was found.
        place: Place,
    },
    /// The device failed.
    #[error(transparent)]
    Device(#[from] GpuError),
}

/// An error of loading weights.
#[derive(Clone, Debug, thiserror::Error)]
pub enum LoadError<E> {
    /// The lowest row that could not be decoded.
    #[error(transparent)]
    Row(E),
    /// The device failed.
    #[error(transparent)]
    Device(#[from] GpuError),
}
