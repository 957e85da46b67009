//! Memory cgroups, if this process may create one.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{PROMPT, Run, bitnet};

/// A cgroup that is removed when dropped.
struct Cgroup(PathBuf);

impl Cgroup {
    /// Creates a group with this memory limit and no swap; `None` without permission.
    #[expect(clippy::print_stderr, reason = "what is skipped is said")]
    fn with_limit(name: &str, bytes: usize) -> Option<Self> {
        let name = format!("bitnet-test-{}-{name}", std::process::id());
        let tops = [
            ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
            ("/sys/fs/cgroup", "memory.max"),
        ];
        for (top, file) in tops {
            let group = Self(Path::new(top).join(&name));
            let made = fs::create_dir(&group.0).is_ok();
            if made && fs::write(group.0.join(file), bytes.to_string()).is_ok() {
                let _ = fs::write(group.0.join("memory.swap.max"), "0");
                return Some(group);
            }
        }
        eprintln!("SKIPPED: no memory cgroup can be made here; run this as root");
        None
    }

    /// Runs the program in the group.
    fn run(&self, args: &[&str]) -> Run {
        let output = Command::new("sh")
            .arg("-c")
            .arg("echo $$ > \"$0/cgroup.procs\" && exec \"$@\"")
            .arg(&self.0)
            .arg(env!("CARGO_BIN_EXE_bitnet"))
            .args(args)
            // Drivers of GPUs may take more than the group has.
            .env("VK_ICD_FILENAMES", "no-driver.json")
            .output();
        output.unwrap().into()
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

#[test]
fn what_does_not_fit_into_a_cgroup_is_refused_with_the_numbers() {
    let Some(group) = Cgroup::with_limit("small", 32 << 20) else {
        return;
    };
    let args = [
        "run", "-q", "-t", "2", "--temp", "0", "--kv", "f32", "-n", "900", PROMPT,
    ];
    let run = group.run(&args);
    assert_eq!((run.code, run.stdout.as_str()), (Some(1), ""), "{run:?}");
    let said = run.stderr;
    assert!(
        said.starts_with("error: the memory cgroup /sys/fs/cgroup/"),
        "{said}"
    );
    for part in [
        " has 32.00 MiB, ",
        " of them in use: the model takes ",
        ", more than the limit of ",
        "\nhint: what fits: `-c ",
    ] {
        assert!(said.contains(part), "{part} in {said}");
    }
    // The suggested options fit and the process is not killed.
    let (_, hint) = said.split_once("what fits: `").unwrap();
    let (options, _) = hint.split_once('`').unwrap();
    let mut fitting: Vec<_> = args.iter().copied().filter(|arg| !arg.is_empty()).collect();
    fitting.splice(1..1, options.split(' '));
    let run = group.run(&fitting);
    assert_eq!(run.code, Some(0), "{run:?}");

    // The report and measurements use the group's limit.
    let args = ["devices", "-q", "--json", "--measure"];
    let machine = &group.run(&args).json()["machine"];
    assert_eq!(machine["memory_bytes"], 32 << 20);
    let folder = machine["memory_cgroup"].as_str();
    assert_eq!(folder, group.0.to_str());
}

#[test]
fn keys_and_values_are_int8_by_auto_only_where_f16_does_not_fit() {
    let run = |kv, more: &[&str]| {
        // Scratch memory depends on the number of threads, and on the kernel.
        let args = [
            "run", "-v", "-t", "2", "--kernel", "scalar", "--temp", "0", "-n", "4", "-c", "640",
            "--kv", kv, PROMPT,
        ];
        bitnet(&[&args[..], more].concat())
    };
    let limit = ["--memory-limit", "24MiB"];
    let large = run("f16", &limit);
    assert_eq!(large.code, Some(1), "{large:?}");
    let limited = run("auto", &limit);
    assert_eq!(limited.code, Some(0), "{limited:?}");
    assert!(limited.stderr.contains("KV cache in int8"), "{limited:?}");
    assert_eq!(limited.stdout, run("int8", &limit).stdout);
    let free = run("auto", &[]);
    assert!(free.stderr.contains("KV cache in f16"), "{free:?}");
    let tiny = run("auto", &["--memory-limit", "8MB"]);
    assert_eq!(tiny.code, Some(1), "{tiny:?}");
}

#[test]
fn a_larger_cgroup_is_no_limit_and_a_smaller_limit_counts() {
    let Some(group) = Cgroup::with_limit("large", 512 << 20) else {
        return;
    };
    let run = group.run(&["run", "-q", "--temp", "0", "-n", "4", PROMPT]);
    assert_eq!(run.code, Some(0), "{run:?}");
    let run = group.run(&["run", "-q", "--memory-limit", "20MiB", PROMPT]);
    assert_eq!(run.code, Some(1), "{run:?}");
    assert!(
        run.stderr.starts_with("error: the model takes "),
        "{}",
        run.stderr
    );
    let limit = 64_u64 << 30;
    let run = group.run(&[
        "run",
        "-q",
        "-n",
        "2",
        "--memory-limit",
        &limit.to_string(),
        PROMPT,
    ]);
    assert_eq!(run.code, Some(0), "{run:?}");
}
