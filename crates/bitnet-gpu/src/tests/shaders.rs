//! Every kernel is valid WGSL, and naga translates it for every driver.

use naga::back::{hlsl, msl, spv};
use naga::valid::{Capabilities, ValidationFlags, Validator};

use crate::kernels::Source;

/// What the kernels need of a driver: `unpack2x16float`, which naga counts as a capability.
const CAPABILITIES: Capabilities = Capabilities::SHADER_FLOAT16_IN_FLOAT32;

/// Returns sets of constants: the smallest, and the largest that models need.
fn constants() -> [Vec<(&'static str, u32)>; 2] {
    let small = [1, 1, 1, 0, 0, 16, 8, 1, 0, 1];
    let large = [2, 3, 2, 2, 2, 2048, 256, 4, 2, 3];
    let names = [
        "TOKENS",
        "PARTS",
        "PANELS",
        "TAIL",
        "ACTIVATION",
        "ACT_STRIDE",
        "HEAD_DIM",
        "HEADS",
        "ENCODING",
        "GROUP_CHUNKS",
    ];
    [small, large].map(|values| names.into_iter().zip(values).collect())
}

#[test]
fn every_shader_is_valid_and_translated_for_every_api() {
    for source in Source::ALL {
        for constants in constants() {
            let kernel = source.kernel();
            let text = kernel.text(&constants);
            let module = naga::front::wgsl::parse_str(&text)
                .unwrap_or_else(|error| panic!("{}", error.emit_to_string(&text)));
            let flags = ValidationFlags::all();
            let info = Validator::new(flags, CAPABILITIES)
                .validate(&module)
                .unwrap_or_else(|error| panic!("{source:?}: {}", error.emit_to_string(&text)));

            let words = spv::write_vec(&module, &info, &spv::Options::default(), None).unwrap();
            assert_eq!(words[0], 0x0723_0203, "the magic number of SPIR-V");

            let options = msl::Options {
                lang_version: (2, 4),
                fake_missing_bindings: true,
                ..msl::Options::default()
            };
            let pipeline = msl::PipelineOptions::default();
            let (metal, _) = msl::write_string(&module, &info, &options, &pipeline).unwrap();
            assert!(metal.contains("kernel void"), "{source:?}");

            let mut direct = String::new();
            // `dot4I8Packed` needs shader model 6.4; wgpu polyfills it below.
            let options = hlsl::Options {
                shader_model: hlsl::ShaderModel::V6_4,
                fake_missing_bindings: true,
                ..hlsl::Options::default()
            };
            let pipeline = hlsl::PipelineOptions::default();
            let mut writer = hlsl::Writer::new(&mut direct, &options, &pipeline);
            writer.write(&module, &info, None).unwrap();
            assert!(direct.contains("[numthreads("), "{source:?}");
        }
    }
}
