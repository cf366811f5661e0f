//! `longlora devices`

use anyhow::Result;
use burn::tensor::Device;
use bytesize::ByteSize;
use comfy_table::{CellAlignment, Table, presets};
use longlora_llama::device_memory;
use sysinfo::System;

use crate::device::{DeviceKind, DeviceName, description, quietly};
use crate::print;

/// Where the memory stands among the columns.
const MEMORY: usize = 2;

/// List what this build and this machine have to compute on.
///
/// The first column is what --device takes. What this build or this machine lacks stands below, with how to get it.
#[derive(clap::Args)]
pub(crate) struct Devices {
    /// Those of one kind alone: flex (the CPU), cuda, wgpu, vulkan or metal
    #[arg(long, value_name = "KIND")]
    device: Option<DeviceKind>,
}

impl Devices {
    pub(crate) fn run(self) -> Result<()> {
        let mut table = Table::new();
        table.load_style(presets::UTF8_FULL_CONDENSED);
        table.set_header(["device", "kind", "memory", "name"]);
        let lacking = match self.device {
            None => add_all(&mut table),
            Some(kind) => {
                add(&mut table, kind, &kind.found()?);
                vec![]
            }
        };
        if let Some(column) = table.column_mut(MEMORY) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        print(&table.to_string());
        lacking.iter().for_each(|line| print(line));
        Ok(())
    }
}

/// Adds the devices of every kind; returns what there is to say of kinds without any.
fn add_all(table: &mut Table) -> Vec<String> {
    let mut lacking = vec![];
    for kind in DeviceKind::ALL {
        let name = kind.name();
        match kind.devices() {
            None => lacking.push(format!("{name}: not in this build; {}", kind.how_to_build())),
            Some(none) if none.is_empty() => {
                lacking.push(format!("{name}: not on this machine; {}", kind.needs()));
            }
            Some(devices) => add(table, kind, &devices),
        }
    }
    lacking
}

fn add(table: &mut Table, kind: DeviceKind, devices: &[Device]) {
    let numbered = devices.iter().enumerate();
    table.add_rows(numbered.map(|(number, device)| row(DeviceName { kind, number }, device)));
}

/// The cells of a device. One that cannot be opened says why.
fn row(name: DeviceName, device: &Device) -> [String; 4] {
    let opened = quietly(|| {
        let memory = match name.kind {
            DeviceKind::Flex => Some(memory_of_the_machine()),
            _ => device_memory(device),
        };
        let memory = memory.map_or("-".to_owned(), |bytes| format!("{:.1}", ByteSize(bytes)));
        let (kind, model) = description(device);
        Ok([name.to_string(), kind.to_owned(), memory, model])
    });
    opened.unwrap_or_else(|reason| [name.to_string(), "-".into(), "-".into(), reason])
}

/// In bytes, within the limits of a container.
fn memory_of_the_machine() -> u64 {
    let mut system = System::new();
    system.refresh_memory();
    let in_container = system.cgroup_limits().map_or(u64::MAX, |limits| limits.total_memory);
    system.total_memory().min(in_container)
}
