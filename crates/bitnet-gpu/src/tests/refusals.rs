//! What a device refuses, and what it says then.

use std::time::Duration;

use bitnet_core::Scales;

use super::passes::{Weights, session, shape};
use super::{Random, device};

use crate::{
    Api, DeviceLimits, EmbeddingEncoding, Gpu, GpuError, LoadError, ModelLoader, ModelShape,
    Output, OutputKind, OutputValues, Part, PassError, RopeTable, Row, Session, SessionOptions,
};

fn loader(gpu: &Gpu, shape: &ModelShape, n_threads: usize) -> Result<ModelLoader, GpuError> {
    let len = shape.context_len * shape.rope_dims[0] / 2;
    let table = vec![0.0; len];
    let rope = RopeTable {
        cos: &table,
        sin: &table,
    };
    ModelLoader::new(gpu, shape.clone(), &[rope], n_threads)
}

/// Opens the tested device again, with lower limits.
fn limited(gpu: &Gpu, limits: DeviceLimits) -> Gpu {
    Gpu::with_limits(gpu.info().api, Some(&gpu.info().name), limits).unwrap()
}

#[test]
fn an_adapter_by_a_wrong_name_lists_those_that_are_there() {
    let Some(gpu) = device() else { return };
    let error = Gpu::open(gpu.info().api, Some("no such device")).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("\"no such device\""), "{text}");
    assert!(text.contains(&gpu.info().name), "{text}");
}

#[test]
fn an_interface_that_the_system_lacks_is_named() {
    let missing = if cfg!(target_os = "macos") {
        Api::Vulkan
    } else {
        Api::Metal
    };
    let text = Gpu::open(missing, None).unwrap_err().to_string();
    assert!(
        text.contains(&missing.to_string()) && text.contains("not built in"),
        "{text}"
    );
}

#[test]
fn a_matrix_above_the_limit_of_bindings_is_refused_with_both_numbers() {
    let Some(gpu) = device() else { return };
    let limits = DeviceLimits {
        binding_bytes: Some(8192),
        ..DeviceLimits::default()
    };
    let error = loader(&limited(&gpu, limits), &shape(), 1).unwrap_err();
    let GpuError::Limit { needed, limit, .. } = &error else {
        panic!("{error}");
    };
    assert!(*needed > 8192 && *limit == 8192);
    let text = error.to_string();
    assert!(text.contains("max_storage_buffer_binding_size"), "{text}");
    assert!(text.contains(&gpu.device()), "{text}");
}

#[test]
fn a_cache_above_the_limit_of_bindings_is_refused() {
    let Some(gpu) = device() else { return };
    let weights = Weights::new(&shape(), 1);
    let limits = DeviceLimits {
        binding_bytes: Some(1 << 20),
        ..DeviceLimits::default()
    };
    let model = weights.load(&limited(&gpu, limits));
    // A page of keys of a layer is 8 KiB.
    let options = |n_pages| SessionOptions {
        n_pages,
        batch_tokens: 8,
    };
    let error = Session::new(model.clone(), options(129)).unwrap_err();
    assert!(error.to_string().contains("the keys of a layer"), "{error}");
    assert!(Session::new(model, options(128)).is_ok());
}

#[test]
fn small_limits_change_no_result() {
    let Some(gpu) = device() else { return };
    let small = ModelShape {
        embedding: EmbeddingEncoding::F32,
        ..shape()
    };
    let weights = Weights::new(&small, 2);
    let all = |gpu: &Gpu| {
        let mut session = session(gpu, &weights, 3);
        let rows: Vec<Row> = (0..40)
            .map(|position| Row {
                token: position * 61 % 2500,
                position,
                page_table: 0,
            })
            .collect();
        let outputs = [39, 0].map(|row| Output {
            row,
            kind: OutputKind::Logits,
        });
        let mut logits = Vec::new();
        let mut take = |_: usize, values: OutputValues<'_>| match values {
            OutputValues::Values(values) => logits.extend_from_slice(values),
            OutputValues::Top(_) => panic!("logits were asked for"),
        };
        session.pass(&rows, &[&[2]], &outputs, &mut take).unwrap();
        // One row, whose linear layers quantize it.
        let row = Row {
            token: 5,
            position: 40,
            page_table: 0,
        };
        let output = Output {
            row: 0,
            ..outputs[0]
        };
        session.pass(&[row], &[&[2]], &[output], &mut take).unwrap();
        logits
    };
    let expected = all(&gpu);
    // The embedding and the output matrix are split, and attention is in several tiles.
    let limits = DeviceLimits {
        binding_bytes: Some(128 << 10),
        workgroup_bytes: Some(16 << 10),
        ..DeviceLimits::default()
    };
    assert!(all(&limited(&gpu, limits)) == expected);
}

#[test]
fn a_row_that_cannot_be_decoded_is_the_error_of_the_lowest() {
    let Some(gpu) = device() else { return };
    let mut loader = loader(&gpu, &shape(), 3).unwrap();
    let decode = |row: usize, _: &mut [i8]| if row < 41 { Ok(()) } else { Err(row) };
    let error = loader.linear(0, Part::Up, &Scales::Tensor(1.0), decode);
    // Rows of a panel are decoded in order, and panels are handed out in order.
    assert!(matches!(error, Err(LoadError::Row(41))), "{error:?}");
}

#[test]
fn hostile_names_of_drivers_are_errors_that_name_the_variable() {
    // In a process of its own: drivers are looked for once.
    let program = std::env::current_exe().unwrap();
    for (variable, value) in [
        ("VK_ICD_FILENAMES", "/nonexistent/driver.json"),
        ("VK_DRIVER_FILES", "/dev/null"),
        ("VK_ICD_FILENAMES", "\u{1}"),
    ] {
        let output = std::process::Command::new(&program)
            .args(["--exact", "--nocapture", "--ignored"])
            .arg("tests::refusals::prints_the_error_of_opening_vulkan")
            .env_remove("VK_DRIVER_FILES")
            .env_remove("VK_ICD_FILENAMES")
            .env(variable, value)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{text}");
        if cfg!(any(target_os = "linux", target_os = "windows")) {
            assert!(text.contains("there is no Vulkan adapter"), "{text}");
            assert!(text.contains(variable), "{text}");
        }
    }
}

#[test]
#[ignore = "run by another test, with other variables"]
#[expect(clippy::print_stdout, reason = "read by the test that runs this one")]
fn prints_the_error_of_opening_vulkan() {
    match Gpu::open(Api::Vulkan, None) {
        Ok(gpu) => println!("opened {}", gpu.device()),
        Err(error) => println!("{error}"),
    }
}

#[test]
#[cfg(target_os = "linux")]
fn a_device_without_memory_is_an_error_that_says_for_what() {
    let Some(gpu) = device() else { return };
    if !gpu.info().is_software() {
        // The limit below is of the memory of a process.
        return;
    }
    let program = std::env::current_exe().unwrap();
    let output = std::process::Command::new("sh")
        .args(["-c", "ulimit -v 3000000 && exec \"$0\" \"$@\""])
        .arg(program)
        .args(["--exact", "--nocapture", "--ignored"])
        .arg("tests::refusals::prints_the_error_of_a_model_of_eight_gigabytes")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}");
    let expected = format!("{} is out of memory for ", gpu.device());
    assert!(
        text.contains(&expected) && text.contains(" of layer "),
        "{text}"
    );
    assert!(text.contains("a small model is loaded"), "{text}");
}

#[test]
#[ignore = "run by another test, in less memory"]
#[expect(clippy::print_stdout, reason = "read by the test that runs this one")]
fn prints_the_error_of_a_model_of_eight_gigabytes() {
    let Some(gpu) = device() else { return };
    let large = ModelShape {
        hidden_dim: 8192,
        ffn_dim: 16384,
        layers: vec![shape().layers[0]; 80],
        ..shape()
    };
    match loader(&gpu, &large, 1) {
        Ok(_) => println!("{} bytes fit", large.required_bytes()),
        Err(error) => println!("{error}"),
    }
    let small = loader(&gpu, &shape(), 1);
    println!(
        "a small model is {}",
        if small.is_ok() { "loaded" } else { "refused" }
    );
}

#[test]
#[should_panic(expected = "pages of the cache")]
fn a_page_that_does_not_exist_is_not_read() {
    let Some(gpu) = device() else {
        panic!("pages of the cache: no device to test on");
    };
    let weights = Weights::new(&shape(), Random(1).bits());
    let mut session = session(&gpu, &weights, 2);
    let row = Row {
        token: 0,
        position: 0,
        page_table: 0,
    };
    let _ = session.pass(&[row], &[&[2]], &[], &mut |_, _| ());
}

#[test]
fn a_lost_device_is_an_error_of_every_later_pass() {
    let Some(gpu) = device() else { return };
    let gpu = limited(&gpu, DeviceLimits::default());
    let weights = Weights::new(&shape(), 3);
    let mut session = session(&gpu, &weights, 1);
    let row = Row {
        token: 0,
        position: 0,
        page_table: 0,
    };
    let output = Output {
        row: 0,
        kind: OutputKind::Top(1),
    };
    let mut pass = |on_output: &mut dyn FnMut(usize, OutputValues<'_>)| {
        session.pass(&[row], &[&[0]], &[output], on_output)
    };
    pass(&mut |_, _| ()).unwrap();
    gpu.destroy();
    for _ in 0..2 {
        let error = pass(&mut |_, _| panic!("values of a lost device")).unwrap_err();
        let PassError::Device(error) = error else {
            panic!("{error}");
        };
        assert!(matches!(error, GpuError::Lost { .. }), "{error}");
        assert!(error.to_string().contains(&gpu.device()), "{error}");
    }
    assert!(session.copy_page(0, 0).is_err());
    assert!(session.read_page(0).is_err());
}

#[test]
fn a_device_that_does_not_finish_is_an_error_and_not_used_again() {
    let Some(gpu) = device() else { return };
    let limits = DeviceLimits {
        timeout: Some(Duration::from_nanos(1)),
        ..DeviceLimits::default()
    };
    let gpu = limited(&gpu, limits);
    let error = gpu.read_bandwidth().unwrap_err();
    assert!(matches!(error, GpuError::Timeout { .. }), "{error}");
    assert!(error.to_string().contains(&gpu.device()), "{error}");
    assert!(matches!(gpu.check(), Err(GpuError::Timeout { .. })));
}
