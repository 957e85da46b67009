//! The kernels: WGSL files, put together from what they share, and their bindings.

/// A kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    AddNormalized,
    Attention,
    AttentionMerge,
    Bandwidth,
    Embed,
    EmbedTernary,
    LinearFused,
    LinearGroups,
    LinearInt8,
    LinearTernary,
    LinearTiled,
    NormQuantize,
    Rope,
    TopK,
}

/// The source of a kernel and the kinds of its bindings.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KernelSource {
    name: &'static str,
    parts: &'static [&'static str],
    bindings: &'static str,
}

pub(crate) const NUMBERS: &str = include_str!("shaders/numbers.wgsl");
const REPORT: &str = include_str!("shaders/report.wgsl");
const NORM: &str = include_str!("shaders/norm.wgsl");
const LINEAR: &str = include_str!("shaders/linear.wgsl");
const SUMS: &str = include_str!("shaders/sums.wgsl");
const TERNARY: &str = include_str!("shaders/ternary.wgsl");

impl Source {
    /// Every kernel.
    #[cfg(test)]
    pub(crate) const ALL: [Self; 14] = [
        Self::AddNormalized,
        Self::Attention,
        Self::AttentionMerge,
        Self::Bandwidth,
        Self::Embed,
        Self::EmbedTernary,
        Self::LinearFused,
        Self::LinearGroups,
        Self::LinearInt8,
        Self::LinearTernary,
        Self::LinearTiled,
        Self::NormQuantize,
        Self::Rope,
        Self::TopK,
    ];

    /// Returns the source. Bindings are `u` for uniforms, `d` for those with an offset that a
    /// dispatch gives, `r` for buffers that are read and `w` for others.
    #[expect(clippy::too_many_lines, reason = "a table")]
    pub(crate) fn kernel(self) -> KernelSource {
        let (name, parts, bindings): (_, &'static [_], _) = match self {
            Self::AddNormalized => (
                "add_normalized",
                &[
                    NUMBERS,
                    REPORT,
                    NORM,
                    include_str!("shaders/add_normalized.wgsl"),
                ],
                "urrww",
            ),
            Self::Attention => (
                "attention",
                &[NUMBERS, include_str!("shaders/attention.wgsl")],
                "urrrrwd",
            ),
            Self::AttentionMerge => (
                "attention_merge",
                &[
                    NUMBERS,
                    REPORT,
                    include_str!("shaders/attention_merge.wgsl"),
                ],
                "urrwwd",
            ),
            Self::Bandwidth => (
                "bandwidth",
                &[include_str!("shaders/bandwidth.wgsl")],
                "urw",
            ),
            Self::Embed => (
                "embed",
                &[NUMBERS, REPORT, include_str!("shaders/embed.wgsl")],
                "urrww",
            ),
            Self::EmbedTernary => (
                "embed_ternary",
                &[NUMBERS, REPORT, include_str!("shaders/embed_ternary.wgsl")],
                "urrrww",
            ),
            Self::LinearFused => (
                "linear_fused",
                &[
                    NUMBERS,
                    REPORT,
                    NORM,
                    LINEAR,
                    TERNARY,
                    SUMS,
                    include_str!("shaders/linear_fused.wgsl"),
                ],
                "urrrrww",
            ),
            Self::LinearGroups => (
                "linear_groups",
                &[
                    NUMBERS,
                    REPORT,
                    LINEAR,
                    TERNARY,
                    include_str!("shaders/linear_groups.wgsl"),
                ],
                "urrrrrww",
            ),
            Self::LinearInt8 => (
                "linear_int8",
                &[
                    NUMBERS,
                    REPORT,
                    LINEAR,
                    SUMS,
                    include_str!("shaders/linear_int8.wgsl"),
                ],
                "urrrrrww",
            ),
            Self::LinearTernary => (
                "linear_ternary",
                &[
                    NUMBERS,
                    REPORT,
                    LINEAR,
                    TERNARY,
                    SUMS,
                    include_str!("shaders/linear_ternary.wgsl"),
                ],
                "urrrrrww",
            ),
            Self::LinearTiled => (
                "linear_tiled",
                &[
                    NUMBERS,
                    REPORT,
                    LINEAR,
                    TERNARY,
                    include_str!("shaders/linear_tiled.wgsl"),
                ],
                "urrrrrww",
            ),
            Self::NormQuantize => (
                "norm_quantize",
                &[
                    NUMBERS,
                    REPORT,
                    NORM,
                    include_str!("shaders/norm_quantize.wgsl"),
                ],
                "urrrwwww",
            ),
            Self::Rope => (
                "rope",
                &[NUMBERS, REPORT, include_str!("shaders/rope.wgsl")],
                "urwrrwww",
            ),
            Self::TopK => ("top_k", &[include_str!("shaders/top_k.wgsl")], "urrwd"),
        };
        KernelSource {
            name,
            parts,
            bindings,
        }
    }
}

impl KernelSource {
    /// Returns a kernel of a test: its text after that of the shared arithmetic.
    #[cfg(test)]
    pub(crate) fn of_test(parts: &'static [&'static str], bindings: &'static str) -> Self {
        Self {
            name: "test",
            parts,
            bindings,
        }
    }

    pub(crate) fn name(&self) -> &'static str {
        self.name
    }

    /// Returns the text, with constants declared before it.
    pub(crate) fn text(&self, constants: &[(&str, u32)]) -> String {
        let constants = constants
            .iter()
            .map(|(name, value)| format!("const {name}: u32 = {value}u;\n"));
        constants
            .chain(self.parts.iter().map(|part| (*part).to_owned()))
            .collect()
    }
}

/// A compiled kernel.
#[derive(Clone, Debug)]
pub(crate) struct Kernel {
    pipeline: wgpu::ComputePipeline,
    layout: wgpu::BindGroupLayout,
}

/// A buffer, or a part of one, for a kernel.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Binding<'a> {
    buffer: &'a wgpu::Buffer,
    /// The bytes bound from the start, or all.
    size: Option<u64>,
}

impl<'a> Binding<'a> {
    pub(crate) fn all(buffer: &'a wgpu::Buffer) -> Self {
        Self { buffer, size: None }
    }

    /// Binds the bytes of one entry of uniforms with offsets.
    pub(crate) fn entry(buffer: &'a wgpu::Buffer) -> Self {
        let size = Some(16);
        Self { buffer, size }
    }
}

impl Kernel {
    pub(crate) fn compile(device: &wgpu::Device, source: &KernelSource, text: &str) -> Self {
        let entries = source.bindings.chars().zip(0..).map(|(kind, binding)| {
            let ty = match kind {
                'u' | 'd' => wgpu::BufferBindingType::Uniform,
                kind => wgpu::BufferBindingType::Storage {
                    read_only: kind == 'r',
                },
            };
            wgpu::BindGroupLayoutEntry {
                binding,
                visibility: wgpu::ShaderStages::COMPUTE,
                ty: wgpu::BindingType::Buffer {
                    ty,
                    has_dynamic_offset: kind == 'd',
                    min_binding_size: None,
                },
                count: None,
            }
        });
        let layout = device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
            label: Some(source.name),
            entries: &entries.collect::<Vec<_>>(),
        });
        let descriptor = wgpu::PipelineLayoutDescriptor {
            label: Some(source.name),
            bind_group_layouts: &[Some(&layout)],
            immediate_size: 0,
        };
        let pipeline_layout = device.create_pipeline_layout(&descriptor);
        let checks = wgpu::ShaderRuntimeChecks {
            // A counter in every loop would cost more than some of the loops do.
            force_loop_bounding: false,
            ..wgpu::ShaderRuntimeChecks::checked()
        };
        let descriptor = wgpu::ShaderModuleDescriptor {
            label: Some(source.name),
            source: wgpu::ShaderSource::Wgsl(text.into()),
        };
        // SAFETY: all checks but one are on, and no loop of the kernels is infinite: each runs
        // from a start to an end that does not change, by steps that are not 0 (halving ends at
        // 0), and sizes are far below 2^32, so that no step wraps around.
        let module = unsafe { device.create_shader_module_trusted(descriptor, checks) };
        let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(source.name),
            layout: Some(&pipeline_layout),
            module: &module,
            entry_point: Some("main"),
            compilation_options: wgpu::PipelineCompilationOptions {
                // Every kernel writes what it reads of the memory of its workgroup.
                zero_initialize_workgroup_memory: false,
                ..Default::default()
            },
            cache: None,
        });
        Self { pipeline, layout }
    }

    pub(crate) fn pipeline(&self) -> &wgpu::ComputePipeline {
        &self.pipeline
    }

    pub(crate) fn bind(&self, device: &wgpu::Device, bindings: &[Binding<'_>]) -> wgpu::BindGroup {
        let entries = bindings
            .iter()
            .zip(0..)
            .map(|(binding, i)| wgpu::BindGroupEntry {
                binding: i,
                resource: wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                    buffer: binding.buffer,
                    offset: 0,
                    size: binding.size.and_then(std::num::NonZero::new),
                }),
            });
        device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: None,
            layout: &self.layout,
            entries: &entries.collect::<Vec<_>>(),
        })
    }
}
