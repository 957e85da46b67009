//! `--device vulkan`, on any adapter, also one that is a program on the CPU. Without one, the
//! tests say SKIPPED; with `BITNET_GPU_TESTS=required` they fail.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use super::serve::Server;
use super::{PROMPT, Run, command};

/// Returns the command with these arguments and the drivers of this system.
fn with_drivers(args: &[&str]) -> Command {
    let mut command = command(Path::new("."), args);
    command.env_remove("VK_ICD_FILENAMES");
    command
}

fn run(args: &[&str]) -> Run {
    let output = with_drivers(args).output().unwrap();
    Run {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// Returns the name of a usable Vulkan adapter.
#[expect(clippy::print_stderr, reason = "a test that is skipped says so")]
fn adapter(test: &str) -> Option<String> {
    let listed = run(&["devices", "--json"]);
    let document: Value = serde_json::from_str(&listed.stdout).unwrap();
    let devices = document["devices"].as_array().unwrap();
    let usable = |device: &&Value| device["kind"] == "vulkan" && device["usable"] == true;
    let name = devices.iter().find(usable).map(|device| &device["name"]);
    if name.is_none() {
        let is_required = std::env::var_os("BITNET_GPU_TESTS").is_some_and(|v| v == "required");
        assert!(!is_required, "no Vulkan adapter: {devices:?}");
        eprintln!("SKIPPED: {test}: no Vulkan adapter");
    }
    Some(name?.as_str().unwrap().to_owned())
}

#[test]
fn a_gpu_tells_the_story_of_the_cpu() {
    let Some(name) = adapter("a_gpu_tells_the_story_of_the_cpu") else {
        return;
    };
    let device = format!("vulkan:{}", name.to_uppercase());
    let greedy = ["run", "-v", "--temp", "0", "-n", "8", PROMPT, "--device"];
    let on_cpu = run(&[&greedy[..], &["cpu"]].concat());
    let on_gpu = run(&[&greedy[..], &[&device]].concat());
    assert_eq!(
        (on_gpu.code, &on_gpu.stdout),
        (Some(0), &on_cpu.stdout),
        "{on_gpu:?}"
    );
    for part in [
        format!("device: vulkan, {name}").as_str(),
        ", as requested\n",
        "device",
    ] {
        assert!(on_gpu.stderr.contains(part), "{part}: {}", on_gpu.stderr);
    }
}

#[test]
fn a_measurement_names_the_gpu() {
    let Some(name) = adapter("a_measurement_names_the_gpu") else {
        return;
    };
    let args = [
        "bench", "-p", "8", "-n", "4", "-r", "1", "-t", "1", "--json", "--device", "vulkan",
    ];
    let run = run(&args);
    let document: Value = serde_json::from_str(&run.stdout).unwrap_or_else(|_| panic!("{run:?}"));
    assert_eq!(document["gpu"]["name"], json!(name));
    assert!(document["gpu"]["read_gb_s"].as_f64().unwrap() > 0.0);
    let rows = document["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 2);
    for row in rows {
        assert_eq!(row["kernel"], "vulkan");
        assert!(row["bytes_per_token"].as_f64().unwrap() > 1e5, "{row}");
    }
    let categories = document["memory"]["categories"].as_array().unwrap();
    let device = categories
        .iter()
        .find(|c| c["category"] == "device")
        .unwrap();
    assert!(
        device["peak_bytes"].as_u64().unwrap() > 10_000_000,
        "{device}"
    );
}

#[test]
fn an_adapter_by_a_wrong_name_lists_those_that_are_there() {
    let Some(name) = adapter("an_adapter_by_a_wrong_name_lists_those_that_are_there") else {
        return;
    };
    let refused = run(&["run", "--device", "vulkan:no such adapter", PROMPT]);
    assert_eq!(refused.code, Some(1));
    for part in [
        "no such adapter",
        &name,
        "hint: `--device cpu` runs everywhere",
    ] {
        assert!(refused.stderr.contains(part), "{part}: {}", refused.stderr);
    }
}

#[test]
fn a_limit_of_a_gpus_memory_is_kept() {
    if adapter("a_limit_of_a_gpus_memory_is_kept").is_none() {
        return;
    }
    let args = [
        "run",
        "--device",
        "vulkan",
        "--gpu-memory-limit",
        "10MB",
        PROMPT,
    ];
    let refused = run(&args);
    assert_eq!(refused.code, Some(1), "{refused:?}");
    let expected = "more than the limit of 9.5 MiB: weights ";
    assert!(refused.stderr.contains(expected), "{}", refused.stderr);
}

#[test]
fn a_server_on_a_gpu_gives_the_same_answer_alone_and_among_others() {
    if adapter("a_server_on_a_gpu_gives_the_same_answer_alone_and_among_others").is_none() {
        return;
    }
    let args = [
        "serve",
        "--log-format",
        "none",
        "--port",
        "0",
        "--device",
        "vulkan",
        "-c",
        "256",
    ];
    let server = Server::spawn(&mut with_drivers(&args));
    let ask = |request: Value| {
        let agent: ureq::Agent = ureq::Agent::config_builder()
            .timeout_global(Some(Duration::from_mins(4)))
            .http_status_as_error(false)
            .build()
            .into();
        let url = format!("{}/v1/completions", server.address);
        let mut reply = agent.post(&url).send(request.to_string()).unwrap();
        let status = reply.status().as_u16();
        let text = reply.body_mut().read_to_string().unwrap();
        (status, serde_json::from_str::<Value>(&text).unwrap())
    };
    let request = |seed: u32| json!({"model": "builtin", "prompt": PROMPT, "max_tokens": 12, "seed": seed, "temperature": 0.8});
    let (status, alone) = ask(request(1));
    assert_eq!(status, 200, "{alone}");
    assert!(
        alone["choices"][0].get("receipt_digest").is_none(),
        "{alone}"
    );
    let among = std::thread::scope(|scope| {
        let threads = [1, 2, 3, 4].map(|seed| scope.spawn(move || ask(request(seed)).1));
        threads.map(|thread| thread.join().unwrap())
    });
    assert_eq!(among[0]["choices"], alone["choices"]);
    assert_ne!(among[1]["choices"], alone["choices"]);

    let mut with_receipt = request(1);
    with_receipt["receipt"] = true.into();
    let (status, refused) = ask(with_receipt);
    assert_eq!(status, 400);
    let message = refused["error"]["message"].as_str().unwrap();
    assert!(message.contains("the model is on a GPU"), "{message}");
}
