#![doc = include_str!("../README.md")]

mod adapter;
mod buffers;
mod device;
mod error;
mod kernels;
mod layout;
mod loader;
mod model;
mod session;
mod shape;
mod steps;

pub use adapter::{AdapterInfo, AdapterKind, Api, adapters};
pub use buffers::SessionOptions;
pub use device::{DeviceLimits, Gpu};
pub use error::{GpuError, LoadError, PassError};
pub use loader::{ModelLoader, RopeTable};
pub use model::GpuModel;
pub use session::{Output, OutputKind, OutputValues, Row, Session};
pub use shape::{
    Activation, ActivationPrecision, EmbeddingEncoding, HeadKind, InputNorms, LayerShape,
    ModelShape, Multipliers, Norm, Part, Place,
};

#[cfg(test)]
mod tests;
