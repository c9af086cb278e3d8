//! The setup of a point of an experiment: disk, RAM, devices, link, workload, limits and faults.

use toml::de::DeTable;
use workload::spec::PRESETS;
use workload::{Arrival, Offsets, Spec};

use crate::policy::Limits;
use crate::reader::{LabError, Source, Table, suggestion};
use crate::units;

/// The sections that a sweep can change.
pub const SECTIONS: [&str; 8] = ["disk", "ram", "source", "target", "link", "workload", "limits", "faults"];

/// Everything that runs at a point.
#[derive(Clone, Debug)]
pub struct Setup {
    /// The disk, if one moves.
    pub disk: Option<Disk>,
    /// The guest's RAM, if it moves.
    pub ram: Option<Ram>,
    /// The device of the source image.
    pub source: Device,
    /// The device of the target image.
    pub target: Device,
    /// The link between the two.
    pub link: Link,
    /// The requests of the guest.
    pub workload: Spec,
    /// The limits.
    pub limits: Limits,
    /// The faults, in the order of the file.
    pub faults: Vec<Fault>,
}

/// A disk.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Disk {
    /// Its size in bytes.
    pub size: u64,
    /// The share of it that holds data, 0 to 1.
    pub allocated: f64,
    /// Bytes that a bit of the copy's bitmap stands for.
    pub granule: u64,
}

/// The RAM of a guest.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Ram {
    /// Its size in bytes.
    pub size: u64,
    /// The share of it that is not zero, 0 to 1.
    pub used: f64,
    /// Bytes that the guest writes each second, in pages.
    pub dirty: f64,
    /// Bytes that it writes to.
    pub working_set: u64,
    /// The variation of `dirty`: standard deviation, as a share of the mean.
    pub variation: f64,
    /// Seconds for which a variation lasts.
    pub variation_time: f64,
    /// Seconds that a round costs besides its transfer.
    pub round_cost: f64,
    /// Seconds that the stop costs besides the transfer.
    pub switch_cost: f64,
}

/// A device.
#[derive(Clone, PartialEq, Debug)]
pub struct Device {
    /// Its name in experiments.
    pub name: String,
    /// Bytes read each second.
    pub read_rate: f64,
    /// Bytes written each second.
    pub write_rate: f64,
    /// Seconds of a small read.
    pub read_latency: f64,
    /// Seconds of a small write.
    pub write_latency: f64,
    /// Small requests a second.
    pub iops: f64,
    /// Seconds of a flush.
    pub flush: f64,
}

/// Names of the devices. Their figures are round ones of the class, not of a product; `[source]` and
/// `[target]` can change each.
pub const DEVICES: [&str; 4] = ["nvme", "sata-ssd", "hdd-7200", "network"];

/// A link.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Link {
    /// Bytes each second, in each direction.
    pub rate: f64,
    /// Seconds to the other side.
    pub delay: f64,
    /// The standard deviation of the delay, in seconds.
    pub jitter: f64,
}

/// The victim of a fault.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Party {
    /// The host of the source.
    Source,
    /// The host of the target.
    Target,
    /// The link.
    Link,
}

/// The time of a fault.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum When {
    /// Seconds since the command.
    At(f64),
    /// When this share of what is to be copied was copied.
    Copied(f64),
}

/// A fault.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Fault {
    /// Its victim.
    pub party: Party,
    /// Its begin.
    pub when: When,
    /// Its length in seconds; infinite for a death.
    pub length: f64,
}

impl Device {
    /// Returns the device of this name.
    pub fn preset(name: &str) -> Option<Device> {
        let device = |read_rate, write_rate, read_latency, write_latency, iops, flush| Device {
            name: name.to_owned(),
            read_rate,
            write_rate,
            read_latency,
            write_latency,
            iops,
            flush,
        };
        Some(match name {
            "nvme" => device(3.0e9, 2.0e9, 80e-6, 25e-6, 400e3, 0.5e-3),
            "sata-ssd" => device(530e6, 480e6, 120e-6, 60e-6, 80e3, 3e-3),
            "hdd-7200" => device(180e6, 170e6, 8e-3, 8e-3, 120.0, 15e-3),
            "network" => device(250e6, 250e6, 1e-3, 1.2e-3, 8e3, 5e-3),
            _ => return None,
        })
    }

    fn read(table: Option<Table<'_>>) -> Result<Device, LabError> {
        let Some(mut table) = table else {
            return Ok(Device::preset("nvme").unwrap_or_else(unreachable_device));
        };
        let mut device = match table.text("device", "the name of a device", |text| Some(text.to_owned()))? {
            None => Device::preset("nvme").unwrap_or_else(unreachable_device),
            Some(name) => Device::preset(&name).ok_or_else(|| {
                let hint = suggestion(&name, DEVICES);
                table.error_at(
                    "device",
                    format!("unknown device '{name}'{hint}; there are {}", DEVICES.join(", ")),
                )
            })?,
        };
        device.read_rate = table.rate("read-rate")?.unwrap_or(device.read_rate);
        device.write_rate = table.rate("write-rate")?.unwrap_or(device.write_rate);
        device.read_latency = table.time("read-latency")?.unwrap_or(device.read_latency);
        device.write_latency = table.time("write-latency")?.unwrap_or(device.write_latency);
        device.iops = table.number("iops", 1.0, 1e9)?.unwrap_or(device.iops);
        device.flush = table.time("flush")?.unwrap_or(device.flush);
        table.finish()?;
        Ok(device)
    }
}

/// A device without limits, which nothing names.
fn unreachable_device() -> Device {
    Device {
        name: String::new(),
        read_rate: 1e9,
        write_rate: 1e9,
        read_latency: 0.0,
        write_latency: 0.0,
        iops: 1e6,
        flush: 0.0,
    }
}

impl Setup {
    /// Reads the sections of a setup.
    ///
    /// # Errors
    /// The first unknown key or impossible value, with its line.
    pub fn read(source: Source<'_>, root: &DeTable<'_>) -> Result<Setup, LabError> {
        let mut table = Table::new(source, "", 0..0, root);
        let disk = table.table("disk")?.map(read_disk).transpose()?;
        let ram = table.table("ram")?.map(read_ram).transpose()?;
        let from = Device::read(table.table("source")?)?;
        let to = Device::read(table.table("target")?)?;
        let link = read_link(table.table("link")?)?;
        let workload = read_workload(table.table("workload")?, disk.map_or(1 << 40, |disk| disk.size))?;
        let limits = read_limits(table.table("limits")?)?;
        let faults = table.table("faults")?.map(read_faults).transpose()?.unwrap_or_default();
        Ok(Setup { disk, ram, source: from, target: to, link, workload, limits, faults })
    }
}

fn read_disk(mut table: Table<'_>) -> Result<Disk, LabError> {
    let size =
        table.size("size")?.ok_or_else(|| table.error("disk.size is missing, as in size = \"64G\""))?;
    let allocated = table.number("allocated", 0.0, 1.0)?.unwrap_or(1.0);
    let granule = table.size("granule")?.unwrap_or(64 << 10);
    if !granule.is_power_of_two() || granule < 512 || granule > size {
        return Err(table.error_at("granule", "give a power of two from 512 to the disk's size"));
    }
    table.finish()?;
    Ok(Disk { size, allocated, granule })
}

fn read_ram(mut table: Table<'_>) -> Result<Ram, LabError> {
    let size = table.size("size")?.ok_or_else(|| table.error("ram.size is missing, as in size = \"8G\""))?;
    let ram = Ram {
        size,
        used: table.number("used", 0.0, 1.0)?.unwrap_or(1.0),
        dirty: table.rate("dirty")?.unwrap_or(0.0),
        working_set: table.size("working-set")?.unwrap_or(size),
        variation: table.number("variation", 0.0, 1.0)?.unwrap_or(0.0),
        variation_time: table.time("variation-time")?.unwrap_or(1.0),
        round_cost: table.time("round-cost")?.unwrap_or(0.01),
        switch_cost: table.time("switch-cost")?.unwrap_or(0.05),
    };
    if ram.working_set as f64 > size as f64 * ram.used {
        return Err(table.error_at("working-set", "give at most what is used of the RAM"));
    }
    if ram.variation_time <= 0.0 {
        return Err(table.error_at("variation-time", "give a time above 0"));
    }
    table.finish()?;
    Ok(ram)
}

fn read_link(table: Option<Table<'_>>) -> Result<Link, LabError> {
    let mut link = Link { rate: 1.25e9, delay: 1e-4, jitter: 0.0 };
    let Some(mut table) = table else { return Ok(link) };
    link.rate = table.rate("rate")?.unwrap_or(link.rate);
    link.delay = table.time("delay")?.unwrap_or(link.delay);
    link.jitter = table.time("jitter")?.unwrap_or(link.jitter);
    table.finish()?;
    Ok(link)
}

fn read_workload(table: Option<Table<'_>>, disk: u64) -> Result<Spec, LabError> {
    let idle = Spec::preset("idle").unwrap_or_default();
    let Some(mut table) = table else { return Ok(idle) };
    let mut spec = match table.text("preset", "the name of a workload", |text| Some(text.to_owned()))? {
        None => Spec::default(),
        Some(name) => Spec::preset(&name).ok_or_else(|| {
            let hint = suggestion(&name, PRESETS);
            table.error_at(
                "preset",
                format!("unknown workload '{name}'{hint}; there are {}", PRESETS.join(", ")),
            )
        })?,
    };
    let (depth, rate) = (table.whole("depth", 1, 65536)?, table.number("rate", 0.001, 1e9)?);
    match (depth, rate) {
        (Some(_), Some(_)) => return Err(table.error_at("depth", "give a depth or a rate")),
        (Some(depth), None) => {
            spec.arrival = Arrival::Closed { depth: depth as u32 };
            (spec.flush_every, spec.burst) = (0, 1.0);
        }
        (None, Some(rate)) => spec.arrival = Arrival::Open { rate, poisson: true },
        (None, None) => {}
    }
    spec.read = table.number("read", 0.0, 1.0)?.unwrap_or(spec.read);
    spec.burst = table.number("burst", 1.0, 2.0)?.unwrap_or(spec.burst);
    let period = table.time("burst-period")?.map(|seconds| (seconds * 1e9) as u64);
    spec.burst_period = period.unwrap_or(spec.burst_period);
    if let Some(size) = table.size("request-size")? {
        spec.sizes = vec![(size, 1.0)];
    }
    let zipf = table.number("zipf", 0.0, 5.0)?;
    if let Some(theta) = zipf {
        spec.offsets = Offsets::Zipf(theta);
    }
    let kinds = "\"uniform\", \"sequential\", or a stride as in \"stride 64K\", or a hotspot as in \"hotspot 0.9 0.1\"";
    if let Some(offsets) = table.text("offsets", kinds, offsets)? {
        if zipf.is_some() {
            return Err(table.error_at("offsets", "give offsets or zipf, which says what they are"));
        }
        spec.offsets = offsets;
    }
    spec.working_set = table.size("working-set")?.or(spec.working_set);
    let every = table.time("fsync")?;
    if let Some(every) = every {
        (spec.flush_every, spec.flush_writes) = ((every * 1e9) as u64, 0);
    }
    if let Some(writes) = table.whole("fsync-writes", 0, 1_000_000_000)? {
        if every.is_some() {
            return Err(table.error_at("fsync-writes", "give fsync or fsync-writes"));
        }
        (spec.flush_writes, spec.flush_every) = (writes as u32, 0);
    }
    spec.check(disk).map_err(|invalid| {
        let key = match invalid.key {
            "flush-every" => "fsync",
            "sizes" => "request-size",
            key => key,
        };
        table.error_at(key, invalid.text)
    })?;
    table.finish()?;
    Ok(spec)
}

fn offsets(text: &str) -> Option<Offsets> {
    let words: Vec<&str> = text.split_whitespace().collect();
    Some(match words[..] {
        ["uniform"] => Offsets::Uniform,
        ["sequential"] => Offsets::Sequential,
        ["stride", stride] => Offsets::Strided(units::size(stride)?),
        ["hotspot", requests, space] => {
            Offsets::Hotspot { requests: requests.parse().ok()?, space: space.parse().ok()? }
        }
        _ => return None,
    })
}

fn read_limits(table: Option<Table<'_>>) -> Result<Limits, LabError> {
    let mut limits = Limits::default();
    let Some(mut table) = table else { return Ok(limits) };
    limits.downtime = table.time("downtime")?.unwrap_or(limits.downtime);
    limits.deadline = table.time("deadline")?.unwrap_or(limits.deadline);
    limits.p99 = table.time("p99")?.unwrap_or(limits.p99);
    if !(limits.deadline > 0.0 && limits.deadline <= 864_000.0) {
        return Err(table.error_at("deadline", "give a time above 0 and at most 240h"));
    }
    table.finish()?;
    Ok(limits)
}

fn read_faults(mut table: Table<'_>) -> Result<Vec<Fault>, LabError> {
    let mut faults = Vec::new();
    for (key, party, death) in [
        ("link-cut", Party::Link, false),
        ("source-death", Party::Source, true),
        ("target-death", Party::Target, true),
    ] {
        let form =
            if death { "a list as in [\"40%\"] or [\"90s\"]" } else { "a list as in [\"40% for 5s\"]" };
        for (text, span) in table.texts(key)? {
            let (at, length) = match text.split_once(" for ") {
                Some((at, length)) if !death => (at, units::time(length)),
                None if death => (text.as_str(), Some(f64::INFINITY)),
                _ => ("", None),
            };
            let when = units::percent(at).filter(|share| *share <= 1.0).map(When::Copied);
            match (when.or_else(|| units::time(at).map(When::At)), length) {
                (Some(when), Some(length)) => faults.push(Fault { party, when, length }),
                _ => return Err(table.source().error(span, format!("faults.{key}: give {form}"))),
            }
        }
    }
    table.finish()?;
    Ok(faults)
}
