//! The machine that measures: what it is, and how busy it is.

use std::fs;
use std::process::Command;
use std::time::Duration;

use crate::speed::Fingerprint;

/// This machine, with the compiler and the settings of a build: what a measured time
/// depends on besides the program.
pub fn fingerprint(rustc: &str, flags: &str) -> Fingerprint {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let of_cpu = |key: &str| of_cpu(&cpuinfo, key);
    let processor = processor_of(&cpuinfo).or_else(name_of_processor);
    let governor = "/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor";
    let governor = fs::read_to_string(governor).ok();
    let total = fs::read_to_string("/proc/meminfo").ok().and_then(|text| {
        let line = text.lines().find(|line| line.starts_with("MemTotal:"))?;
        line.split_ascii_whitespace().nth(1)?.parse::<u64>().ok()
    });
    let is_virtual = of_cpu("flags").map(|flags| flags.split(' ').any(|f| f == "hypervisor"));
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let parts = [
        ("processor", processor),
        ("architecture", Some(std::env::consts::ARCH.to_owned())),
        ("microcode", of_cpu("microcode")),
        ("cores", Some(cores.to_string())),
        ("governor", governor.map(|text| text.trim().to_owned())),
        (
            "kernel",
            Some(format!("{} {}", std::env::consts::OS, kernel())),
        ),
        ("compiler", Some(rustc.to_owned())),
        ("flags", (!flags.is_empty()).then(|| flags.to_owned())),
        (
            "memory",
            total.map(|kib| format!("{} GiB", (kib + (1 << 19)) >> 20)),
        ),
        (
            "virtual",
            is_virtual.map(|is_virtual| is_virtual.to_string()),
        ),
    ];
    let known = parts
        .into_iter()
        .filter_map(|(name, value)| Some((name.to_owned(), value?)));
    Fingerprint(known.collect())
}

/// The processor: its name, and on Linux what kind it is. Virtual machines call processors of
/// several generations alike.
pub fn processor() -> String {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    processor_of(&cpuinfo)
        .or_else(name_of_processor)
        .unwrap_or_else(|| "unknown".to_owned())
}

/// The processor that Linux describes.
fn processor_of(cpuinfo: &str) -> Option<String> {
    let of_cpu = |key| of_cpu(cpuinfo, key);
    if let (Some(name), Some(family), Some(model)) =
        (of_cpu("model name"), of_cpu("cpu family"), of_cpu("model"))
    {
        return Some(format!("{name}, family {family} model {model}"));
    }
    // ARM64 has no names.
    let (by, part) = (of_cpu("CPU implementer")?, of_cpu("CPU part")?);
    Some(format!("implementer {by} part {part}"))
}

fn of_cpu(cpuinfo: &str, key: &str) -> Option<String> {
    let mut lines = cpuinfo.lines();
    let line = lines.find(|line| line.split(':').next().map(str::trim) == Some(key))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

/// What macOS and Windows call the processor; Windows sets that for every process.
fn name_of_processor() -> Option<String> {
    sysctl("machdep.cpu.brand_string").or_else(|| std::env::var("PROCESSOR_IDENTIFIER").ok())
}

#[cfg(unix)]
fn kernel() -> String {
    let uname = rustix::system::uname();
    uname.release().to_string_lossy().into_owned()
}

#[cfg(not(unix))]
fn kernel() -> String {
    // "Microsoft Windows [Version 10.0.22631.4317]", in the user's language.
    let output = Command::new("cmd").args(["/c", "ver"]).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    let version = text.ok().filter(|text| !text.is_empty());
    version.unwrap_or_else(|| "unknown".to_owned())
}

/// What macOS says about itself.
fn sysctl(name: &str) -> Option<String> {
    if !cfg!(target_os = "macos") {
        return None;
    }
    let output = Command::new("sysctl").args(["-n", name]).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    (!text.is_empty()).then_some(text)
}

/// The processors that this process may run on, and that [`run_on`] can name; none where
/// the system does not say.
pub fn cores() -> Vec<usize> {
    // A set of fixed size, as the system call takes one, would fail where the system has
    // more processors than it holds.
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mut lines = status.lines();
    let list = lines.find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    let mut cores = list.map(numbers).unwrap_or_default();
    cores.retain(|core| *core < MOST_CORES);
    cores
}

/// How many processors a set of them holds.
#[cfg(target_os = "linux")]
const MOST_CORES: usize = rustix::thread::CpuSet::MAX_CPU;

#[cfg(not(target_os = "linux"))]
const MOST_CORES: usize = usize::MAX;

/// The numbers of a list such as `0-3,8`.
fn numbers(list: &str) -> Vec<usize> {
    let parts = list.trim().split(',').filter_map(|part| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.parse().ok()?..=last.parse().ok()?)
    });
    parts.flatten().collect()
}

/// Binds this thread, and what it starts, to some processors.
#[cfg(target_os = "linux")]
pub fn run_on(cores: &[usize]) -> std::io::Result<()> {
    use rustix::thread::{CpuSet, sched_setaffinity};
    let mut set = CpuSet::new();
    for core in cores {
        if *core >= MOST_CORES {
            return Err(std::io::ErrorKind::InvalidInput.into());
        }
        set.set(*core);
    }
    Ok(sched_setaffinity(None, &set)?)
}

/// Binds this thread, and what it starts, to some processors.
#[cfg(not(target_os = "linux"))]
pub fn run_on(_cores: &[usize]) -> std::io::Result<()> {
    // macOS has no such call; Windows has one that needs unsafe code. It runs anywhere.
    Ok(())
}

/// Which share of the processors' time is used, over a span of time; `None` where the
/// system does not say.
pub fn busy_share(span: Duration) -> Option<f64> {
    let before = ticks()?;
    std::thread::sleep(span);
    let after = ticks()?;
    let (used, all) = (after.used - before.used, after.all - before.all);
    (all > 0).then(|| used as f64 / all as f64)
}

/// The time of all processors since the system started, in ticks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticks {
    /// Those in which they did something.
    pub used: u64,
    /// All.
    pub all: u64,
}

impl Ticks {
    /// How long one is: Linux shows hundredths of a second to programs, whatever it
    /// counts itself.
    pub const NANOSECONDS: f64 = 1e7;
}

/// The ticks until now; `None` where the system does not say.
pub fn ticks() -> Option<Ticks> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    let numbers = stat.lines().next()?.split_ascii_whitespace().skip(1);
    // user, nice, system, idle, waiting for a disk, interrupts …; guests count twice.
    let numbers: Vec<u64> = numbers.take(8).filter_map(|n| n.parse().ok()).collect();
    let idle = numbers.get(3)? + numbers.get(4)?;
    let all = numbers.iter().sum::<u64>();
    Some(Ticks {
        used: all - idle,
        all,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_is_itself_and_says_what_differs() {
        let here = fingerprint("rustc 1.95.0", "");
        let is_known = cfg!(any(target_os = "linux", windows));
        assert!(here.0.contains_key("processor") || !is_known);
        // Virtual machines call several generations alike.
        let named = here.0.get("processor").cloned();
        assert_eq!(named.unwrap_or_else(|| "unknown".to_owned()), processor());
        assert_eq!(
            here.differences(&fingerprint("rustc 1.95.0", "")),
            Vec::<String>::new()
        );
        assert_eq!(
            here.differences(&fingerprint("rustc 1.94.0", "")),
            ["compiler: rustc 1.95.0 here, rustc 1.94.0 there"]
        );
    }

    #[test]
    fn a_processor_is_told_from_others_of_its_name() {
        let zen = |family: u32| {
            format!(
                "processor\t: 0\ncpu family\t: {family}\nmodel\t\t: 2\nmodel name\t: AMD EPYC\n"
            )
        };
        let found = processor_of(&zen(26));
        assert_eq!(found.as_deref(), Some("AMD EPYC, family 26 model 2"));
        assert_ne!(processor_of(&zen(25)), found);
        let arm = "processor\t: 0\nCPU implementer\t: 0x41\nCPU part\t: 0xd40\n";
        let found = processor_of(arm);
        assert_eq!(found.as_deref(), Some("implementer 0x41 part 0xd40"));
        assert_eq!(processor_of(""), None);
    }

    #[test]
    fn lists_of_processors_are_read() {
        assert_eq!(numbers("\t0-3,8\n"), [0, 1, 2, 3, 8]);
        assert_eq!(numbers("1500"), [1500]);
        assert!(numbers("").is_empty());
        if cfg!(target_os = "linux") {
            assert!(!cores().is_empty());
        }
    }

    #[test]
    fn a_busy_share_is_a_share() {
        if let Some(share) = busy_share(Duration::from_millis(50)) {
            assert!((0.0..=1.0).contains(&share), "{share}");
        }
    }
}
