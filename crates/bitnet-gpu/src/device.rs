//! An open device: buffers, submissions, and every way in which they fail.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

use crate::adapter::{AdapterInfo, Api, WORKGROUP_BYTES, find, ready};
use crate::error::GpuError;
use crate::kernels::{Binding, Kernel, KernelSource, Source};

/// How long a wait may take. A pass of hundreds of tokens takes seconds on a slow GPU; on a
/// software adapter, a large model may need minutes.
const TIMEOUT: Duration = Duration::from_mins(10);

/// Bytes uploaded before the device is waited for: the staging memory of uploads.
const UPLOAD_BYTES: usize = 64 << 20;

/// Limits below those of the adapter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeviceLimits {
    /// The largest part of a buffer that a kernel may read, in bytes.
    pub binding_bytes: Option<u64>,
    /// The memory that a workgroup may share, in bytes; at least 16 KiB.
    pub workgroup_bytes: Option<u32>,
    /// The longest wait for the device; after a longer one, it is not used again.
    pub timeout: Option<Duration>,
}

/// An open GPU. Clones share it.
#[derive(Clone, Debug)]
pub struct Gpu {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    info: AdapterInfo,
    device: wgpu::Device,
    queue: wgpu::Queue,
    limits: wgpu::Limits,
    timeout: Duration,
    failure: Failure,
    /// Compiled so far, by their text; all sessions use them.
    kernels: Mutex<HashMap<String, Kernel>>,
}

/// The first error that no call returned.
type Failure = Arc<Mutex<Option<GpuError>>>;

impl Gpu {
    /// Opens the first adapter whose name contains `name`, in any case; without a name, a
    /// discrete GPU before an integrated one before others.
    ///
    /// # Errors
    ///
    /// Returns an error if there is no such adapter, it lacks something, or the driver fails.
    pub fn open(api: Api, name: Option<&str>) -> Result<Self, GpuError> {
        Self::with_limits(api, name, DeviceLimits::default())
    }

    /// Opens an adapter as [`open`](Self::open) does, with lower limits.
    ///
    /// # Errors
    ///
    /// The same as for [`open`](Self::open).
    pub fn with_limits(
        api: Api,
        name: Option<&str>,
        lower: DeviceLimits,
    ) -> Result<Self, GpuError> {
        let (mut info, adapter) = find(api, name)?;
        let found = adapter.limits();
        let binding = lower.binding_bytes.unwrap_or(u64::MAX);
        let workgroup = lower
            .workgroup_bytes
            .unwrap_or(u32::MAX)
            .max(WORKGROUP_BYTES);
        info.max_binding_bytes = info.max_binding_bytes.min(binding);
        info.workgroup_bytes = info.workgroup_bytes.min(workgroup);
        let limits = wgpu::Limits {
            max_storage_buffer_binding_size: info.max_binding_bytes,
            max_buffer_size: found.max_buffer_size,
            max_compute_workgroup_storage_size: info.workgroup_bytes,
            max_storage_buffers_per_shader_stage: found.max_storage_buffers_per_shader_stage,
            ..wgpu::Limits::default()
        };
        let descriptor = wgpu::DeviceDescriptor {
            label: None,
            required_features: wgpu::Features::empty(),
            required_limits: limits.clone(),
            memory_hints: wgpu::MemoryHints::Performance,
            ..Default::default()
        };
        let name = info.device();
        let refused = |error: String| GpuError::Refused {
            device: name.clone(),
            error,
        };
        let opened = ready(adapter.request_device(&descriptor));
        let (device, queue) = opened
            .ok_or_else(|| refused("it does not open".to_owned()))?
            .map_err(|error| refused(error.to_string()))?;
        let failure = Failure::default();
        let (of_errors, of_loss) = (Arc::clone(&failure), Arc::clone(&failure));
        let (device_name, lost_name) = (name.clone(), name.clone());
        device.on_uncaptured_error(Arc::new(move |error: wgpu::Error| {
            keep_first(&of_errors, named(&device_name, "a buffer", error));
        }));
        device.set_device_lost_callback(move |reason, message| {
            let reason = format!("{reason:?} {message}").trim().to_owned();
            let device = lost_name.clone();
            keep_first(&of_loss, GpuError::Lost { device, reason });
        });
        Ok(Self {
            inner: Arc::new(Inner {
                info,
                device,
                queue,
                limits,
                timeout: lower.timeout.unwrap_or(TIMEOUT).min(TIMEOUT),
                failure,
                kernels: Mutex::default(),
            }),
        })
    }

    /// Returns the adapter, with the limits that the device was opened with.
    pub fn info(&self) -> &AdapterInfo {
        &self.inner.info
    }

    /// Returns the device's name with the interface, as errors have it.
    pub fn device(&self) -> String {
        self.inner.info.device()
    }

    /// Measures how many bytes per second a kernel reads from the memory of the device. Takes
    /// some tenths of a second, and some hundred megabytes of memory.
    ///
    /// # Errors
    ///
    /// Returns an error if the device fails or has no memory for it.
    pub fn read_bandwidth(&self) -> Result<f64, GpuError> {
        const GROUPS: u32 = 4096;
        let limit = self.inner.info.max_binding_bytes.min(512 << 20);
        let n_bytes = (limit / 4096 * 4096) as usize;
        let data = self.buffer("a buffer to measure", n_bytes, Usage::Data)?;
        let sums = self.buffer("sums", 4, Usage::Data)?;
        let params = self.uniform(&[(n_bytes / 16) as u32, GROUPS]);
        let kernel = self.kernel(&Source::Bandwidth.kernel(), &[])?;
        let group = self.bind(
            &kernel,
            &[
                Binding::all(&params),
                Binding::all(&data),
                Binding::all(&sums),
            ],
        );
        let run = |n: u32| -> Result<Duration, GpuError> {
            let start = Instant::now();
            let mut encoder = self.encoder();
            for _ in 0..n {
                let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
                pass.set_pipeline(kernel.pipeline());
                pass.set_bind_group(0, &group, &[]);
                pass.dispatch_workgroups(GROUPS, 1, 1);
            }
            let submitted = self.submit(encoder);
            self.wait(submitted)?;
            Ok(start.elapsed())
        };
        // The first run moves the buffer to the device and wakes it up.
        let once = run(1)?;
        let n = (0.2 / once.as_secs_f64().max(1e-4)).clamp(1.0, 200.0) as u32;
        run(n)?;
        // The difference of two lengths leaves out what a submission costs.
        let (short, long) = (run(n)?, run(3 * n)?);
        let seconds = long.saturating_sub(short).max(Duration::from_micros(1));
        Ok(f64::from(2 * n) * n_bytes as f64 / seconds.as_secs_f64())
    }

    /// Loses the device.
    #[cfg(test)]
    pub(crate) fn destroy(&self) {
        self.inner.device.destroy();
    }

    /// Returns the largest binding, in bytes, which weights are split by; a multiple of 256.
    pub(crate) fn max_binding(&self) -> usize {
        let limits = &self.inner.limits;
        let limit = (limits.max_storage_buffer_binding_size).min(limits.max_buffer_size);
        (limit / 256 * 256) as usize
    }

    /// Returns the most workgroups in a dimension.
    pub(crate) fn max_groups(&self) -> usize {
        self.inner.limits.max_compute_workgroups_per_dimension as usize
    }

    pub(crate) fn workgroup_bytes(&self) -> usize {
        self.inner.info.workgroup_bytes as usize
    }

    /// Allocates a zeroed buffer of at least 16 bytes.
    pub(crate) fn buffer(
        &self,
        what: &str,
        n_bytes: usize,
        usage: Usage,
    ) -> Result<wgpu::Buffer, GpuError> {
        let size = (n_bytes.next_multiple_of(16)).max(16) as u64;
        let inner = &*self.inner;
        let limit = match usage {
            Usage::Data => self.max_binding() as u64,
            Usage::ReadBack => inner.limits.max_buffer_size,
        };
        if size > limit {
            return Err(GpuError::Limit {
                device: self.device(),
                what: format!("{what} in one buffer (max_storage_buffer_binding_size, in bytes)"),
                needed: size,
                limit,
            });
        }
        let memory = inner
            .device
            .push_error_scope(wgpu::ErrorFilter::OutOfMemory);
        let validation = inner.device.push_error_scope(wgpu::ErrorFilter::Validation);
        let buffer = inner.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some(what),
            size,
            usage: match usage {
                Usage::Data => {
                    wgpu::BufferUsages::STORAGE
                        | wgpu::BufferUsages::COPY_DST
                        | wgpu::BufferUsages::COPY_SRC
                }
                Usage::ReadBack => wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
            },
            mapped_at_creation: false,
        });
        let refused = ready(validation.pop()).flatten();
        match ready(memory.pop()).flatten().or(refused) {
            Some(error) => Err(named(&self.device(), what, error)),
            None => Ok(buffer),
        }
    }

    /// Returns a uniform buffer of these words.
    pub(crate) fn uniform(&self, words: &[u32]) -> wgpu::Buffer {
        let mut padded = words.to_vec();
        padded.resize(words.len().next_multiple_of(4), 0);
        // Not mapped at creation, which panics without memory. The error is kept.
        let buffer = self.inner.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("parameters"),
            size: size_of_val(&*padded) as u64,
            usage: wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        self.write(&buffer, 0, bytemuck::cast_slice(&padded));
        buffer
    }

    /// Writes bytes, a multiple of 4, to a buffer, before what is submitted next.
    pub(crate) fn write(&self, buffer: &wgpu::Buffer, at: usize, bytes: &[u8]) {
        self.inner.queue.write_buffer(buffer, at as u64, bytes);
    }

    /// Writes many bytes to a buffer, a part at a time, and waits for them, so that the
    /// memory of uploads does not grow.
    pub(crate) fn upload(
        &self,
        buffer: &wgpu::Buffer,
        at: usize,
        bytes: &[u8],
    ) -> Result<(), GpuError> {
        for (i, part) in bytes.chunks(UPLOAD_BYTES).enumerate() {
            self.write(buffer, at + i * UPLOAD_BYTES, part);
            let submitted = self.inner.queue.submit([]);
            self.wait(submitted)?;
        }
        Ok(())
    }

    pub(crate) fn encoder(&self) -> wgpu::CommandEncoder {
        let descriptor = wgpu::CommandEncoderDescriptor::default();
        self.inner.device.create_command_encoder(&descriptor)
    }

    pub(crate) fn submit(&self, encoder: wgpu::CommandEncoder) -> wgpu::SubmissionIndex {
        self.inner.queue.submit([encoder.finish()])
    }

    /// Waits for a submission.
    pub(crate) fn wait(&self, submitted: wgpu::SubmissionIndex) -> Result<(), GpuError> {
        let waited = self.inner.device.poll(wgpu::PollType::Wait {
            submission_index: Some(submitted),
            timeout: Some(self.inner.timeout),
        });
        self.check()?;
        let device = self.device();
        let error = match waited {
            Ok(_) => return Ok(()),
            // What still runs may write to any buffer: the device is not used again.
            Err(wgpu::PollError::Timeout) => GpuError::Timeout {
                device,
                seconds: self.inner.timeout.as_secs(),
            },
            // A lost device takes no submission, so that there is none to wait for.
            Err(error) => GpuError::Lost {
                device,
                reason: error.to_string(),
            },
        };
        keep_first(&self.inner.failure, error.clone());
        Err(error)
    }

    /// Returns the first error that no call returned. It stays: after it, nothing that the
    /// device computed is used.
    pub(crate) fn check(&self) -> Result<(), GpuError> {
        let failure = self.inner.failure.lock();
        match &*failure.unwrap_or_else(PoisonError::into_inner) {
            Some(error) => Err(error.clone()),
            None => Ok(()),
        }
    }

    /// Waits for a submission and passes the first `n_bytes` of a read-back buffer to `use_bytes`.
    pub(crate) fn read_back<R>(
        &self,
        submitted: wgpu::SubmissionIndex,
        buffer: &wgpu::Buffer,
        n_bytes: usize,
        use_bytes: impl FnOnce(&[u8]) -> R,
    ) -> Result<R, GpuError> {
        let slice = buffer.slice(..n_bytes as u64);
        let (sender, receiver) = mpsc::channel();
        slice.map_async(wgpu::MapMode::Read, move |mapped| {
            // Without a receiver, the wait below has failed.
            let _ = sender.send(mapped);
        });
        self.wait(submitted)?;
        // Another thread that waits for the device may have taken the callback, and be about
        // to call it.
        let mapped = receiver.recv_timeout(self.inner.timeout);
        let refused = |error: String| GpuError::Refused {
            device: self.device(),
            error,
        };
        match mapped {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(refused(error.to_string())),
            Err(_) => return Err(refused("the result was not mapped".to_owned())),
        }
        let view = slice.get_mapped_range();
        let view = view.map_err(|error| refused(error.to_string()))?;
        let result = use_bytes(&view);
        drop(view);
        buffer.unmap();
        Ok(result)
    }

    /// Returns a kernel, and compiles it if it is new; `constants` are declared before its
    /// source.
    pub(crate) fn kernel(
        &self,
        source: &KernelSource,
        constants: &[(&str, u32)],
    ) -> Result<Kernel, GpuError> {
        let text = source.text(constants);
        let kernels = self.inner.kernels.lock();
        let mut kernels = kernels.unwrap_or_else(PoisonError::into_inner);
        if let Some(kernel) = kernels.get(&text) {
            return Ok(kernel.clone());
        }
        let device = &self.inner.device;
        let scope = device.push_error_scope(wgpu::ErrorFilter::Validation);
        let internal = device.push_error_scope(wgpu::ErrorFilter::Internal);
        let kernel = Kernel::compile(device, source, &text);
        let refused = ready(internal.pop()).flatten();
        if let Some(error) = ready(scope.pop()).flatten().or(refused) {
            return Err(named(&self.device(), source.name(), error));
        }
        kernels.insert(text, kernel.clone());
        Ok(kernel)
    }

    /// Binds buffers to a kernel, in the order of its bindings.
    pub(crate) fn bind(&self, kernel: &Kernel, bindings: &[Binding<'_>]) -> wgpu::BindGroup {
        kernel.bind(&self.inner.device, bindings)
    }
}

/// The use of a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Usage {
    /// Read and written by kernels.
    Data,
    /// Read by the host.
    ReadBack,
}

fn keep_first(failure: &Failure, error: GpuError) {
    let mut failure = failure.lock().unwrap_or_else(PoisonError::into_inner);
    failure.get_or_insert(error);
}

fn named(device: &str, what: &str, error: wgpu::Error) -> GpuError {
    let device = device.to_owned();
    match error {
        wgpu::Error::OutOfMemory { .. } => GpuError::OutOfMemory {
            device,
            what: what.to_owned(),
        },
        error => GpuError::Refused {
            device,
            error: format!("{what}: {error}"),
        },
    }
}
