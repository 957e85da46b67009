//! `bitnet devices`

use bitnet_core::machine::memory_limit;
use bitnet_core::{HybridMemoryPool, Isa};
use bitnet_inference::Device;
use serde::Serialize;

use crate::machine::Machine;
use crate::memory;
use crate::ui::Ui;

/// Show the devices and kernels available
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Devices and kernels are listed in order of preference: the default is the first
usable one, unless --device or --kernel is given. --measure takes some seconds
and half a gigabyte of memory.

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
        devices: Device::all().into_iter().map(describe).collect(),
        kernels: Isa::known()
            .map(|(name, usable)| KernelReport { name, usable })
            .collect(),
        default: Device::select(None)?.name(),
        machine,
    };
    if args.json {
        return ui.json(&report);
    }
    print(&report, ui)
}

fn describe(device: Device) -> DeviceReport {
    DeviceReport {
        name: device.name,
        kind: device.kind.name(),
        usable: device.unusable.is_none(),
        reason: match device.unusable {
            None => format!("its best kernel is {}", Isa::best()),
            Some(reason) => reason.to_string(),
        },
    }
}

fn print(report: &Report, ui: &Ui) -> anyhow::Result<()> {
    let usable = |usable| if usable { "usable" } else { "-" };
    ui.line("devices")?;
    for device in &report.devices {
        let what = if device.usable {
            &device.name
        } else {
            &device.reason
        };
        ui.line(&format!(
            "  {:<26} {:<7} {what}",
            device.kind,
            usable(device.usable)
        ))?;
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
