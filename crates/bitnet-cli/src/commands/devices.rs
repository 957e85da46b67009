//! `bitnet devices`

use bitnet_core::machine::memory_limit;
use bitnet_core::{HybridMemoryPool, Isa};
use bitnet_inference::{Device, DeviceInfo};
use serde::Serialize;

use crate::device::describe_adapter;
use crate::machine::Machine;
use crate::memory;
use crate::ui::Ui;

/// Show the devices and kernels available
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Kernels are listed in order of preference. Without --device, a GPU computes if
an estimate from its measured bandwidth says that it is faster for the model;
`run -v` shows it. --measure takes some seconds and half a gigabyte of memory.

Examples:
  bitnet devices
  bitnet devices --measure --json")]
pub struct Args {
    /// Measure memory bandwidth and int8 throughput
    #[arg(long)]
    measure: bool,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// The document of `--json`.
#[derive(Debug, Serialize)]
struct Report {
    devices: Vec<DeviceReport>,
    kernels: Vec<KernelReport>,
    default: &'static str,
    machine: Machine,
}

#[derive(Debug, Serialize)]
struct DeviceReport {
    name: String,
    kind: &'static str,
    usable: bool,
    /// Why it is usable or not.
    reason: String,
    /// Of a GPU, if it was measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    read_gb_s: Option<f64>,
}

#[derive(Clone, Copy, Debug, Serialize)]
struct KernelReport {
    name: &'static str,
    usable: bool,
}

pub fn run(args: &Args, ui: &Ui) -> anyhow::Result<()> {
    let mut machine = Machine::identify();
    if args.measure {
        let pool = HybridMemoryPool::new();
        let mut threads = vec![1, machine.physical_cores, machine.cores];
        threads.retain(|&n| n <= machine.cores);
        threads.sort_unstable();
        threads.dedup();
        for n_threads in threads {
            machine.measure(&pool, Isa::best(), n_threads)?;
        }
    }
    let report = Report {
        devices: (DeviceInfo::all().into_iter())
            .map(|info| describe(info, args.measure))
            .collect(),
        kernels: Isa::known()
            .map(|(name, usable)| KernelReport { name, usable })
            .collect(),
        default: default_kind(),
        machine,
    };
    if args.json {
        return ui.json(&report);
    }
    print(&report, ui)
}

/// Returns the kind of the first usable device that is not a program on the CPU.
fn default_kind() -> &'static str {
    let is_hardware = |info: &DeviceInfo| {
        let is_software = info.adapter.as_ref().is_some_and(|gpu| gpu.is_software);
        info.unusable.is_none() && !is_software
    };
    let devices = DeviceInfo::all();
    let first = devices.iter().find(|info| is_hardware(info));
    first.expect("the CPU is usable").kind.name()
}

fn describe(info: DeviceInfo, measure: bool) -> DeviceReport {
    let about = describe_adapter(&info);
    let device = (measure && info.adapter.is_some() && info.unusable.is_none())
        .then(|| Device::open(info.kind, Some(&info.name)).ok())
        .flatten();
    DeviceReport {
        read_gb_s: (device.and_then(|device| device.read_bandwidth())).map(|read| read / 1e9),
        name: info.name,
        kind: info.kind.name(),
        usable: info.unusable.is_none(),
        reason: match info.unusable {
            None => about.unwrap_or_else(|| format!("its best kernel is {}", Isa::best())),
            Some(reason) => reason.to_string(),
        },
    }
}

fn print(report: &Report, ui: &Ui) -> anyhow::Result<()> {
    let usable = |usable| if usable { "usable" } else { "-" };
    ui.line("devices")?;
    for device in &report.devices {
        let what = match (device.usable, device.kind) {
            (true, "cpu") => device.name.clone(),
            (true, _) => format!("{} ({})", device.name, device.reason),
            (false, _) => device.reason.clone(),
        };
        ui.line(&format!(
            "  {:<26} {:<7} {what}",
            device.kind,
            usable(device.usable)
        ))?;
        if let Some(read) = device.read_gb_s {
            ui.line(&format!("  {:<26} {:<7} {read:.1} GB/s read", "", ""))?;
        }
    }
    ui.line("kernels of cpu")?;
    for kernel in &report.kernels {
        let line = format!("  {:<26} {}", kernel.name, usable(kernel.usable));
        ui.line(line.trim_end())?;
    }
    let machine = &report.machine;
    ui.line(&format!("chosen  {}, {}", report.default, Isa::best()))?;
    for line in machine.lines() {
        ui.line(&line)?;
    }
    if let Some(limit) = memory_limit() {
        ui.line(&memory::describe(&limit))?;
    }
    Ok(())
}
