//! `millrace image info`: with `--json`, prints what `qemu-img info --output=json` does and a little more.

use block::image::{Info, Qcow2Info};
use serde_json::{Value, json};

pub(super) fn to_json(info: &Info) -> Value {
    let mut map = json!({
        "filename": info.name,
        "format": info.format.name(),
        "virtual-size": info.virtual_size,
        "dirty-flag": info.dirty,
        "children": [{ "name": "file", "info": file(info) }],
        // Not in QEMU's output.
        "file-length": info.file_len,
    });
    let mut set = |key: &str, value: Option<Value>| {
        if let Some(value) = value {
            map[key] = value;
        }
    };
    set("actual-size", info.space.map(Value::from));
    set("cluster-size", info.cluster_size.map(Value::from));
    set("extended-l2", info.extended_l2.map(Value::from));
    set("backing-filename", info.backing.clone().map(Value::from));
    set("full-backing-filename", info.full_backing.clone().map(Value::from));
    set("backing-filename-format", info.backing_format.clone().map(Value::from));
    if let Some(qcow2) = &info.qcow2 {
        set("format-specific", Some(json!({ "type": "qcow2", "data": qcow2_data(qcow2, info) })));
        let snapshots = snapshots(qcow2);
        set("snapshots", (!snapshots.is_empty()).then_some(Value::Array(snapshots)));
    }
    map
}

/// Describes the file that holds the format.
fn file(info: &Info) -> Value {
    let mut file = json!({
        "filename": info.name,
        "format": if info.is_device { "host_device" } else { "file" },
        // Rounded up to whole sectors, as in QEMU.
        "virtual-size": info.file_len.next_multiple_of(512),
        "dirty-flag": false,
        "children": [],
        "format-specific": { "type": "file", "data": {} },
    });
    if let Some(space) = info.space {
        file["actual-size"] = space.into();
    }
    file
}

fn qcow2_data(qcow2: &Qcow2Info, info: &Info) -> Value {
    let mut data = json!({
        "compat": compat(qcow2),
        "compression-type": compression(qcow2),
        "refcount-bits": qcow2.refcount_bits,
    });
    if qcow2.version > 2 {
        data["lazy-refcounts"] = qcow2.lazy_refcounts.into();
        data["corrupt"] = qcow2.corrupt.into();
        data["extended-l2"] = info.extended_l2.into();
    }
    let bitmap = |bitmap: &block::image::Bitmap| json!({ "name": bitmap.name, "granularity": bitmap.granularity, "flags": bitmap.flags });
    if !qcow2.bitmaps.is_empty() {
        data["bitmaps"] = qcow2.bitmaps.iter().map(bitmap).collect();
    }
    data
}

fn snapshots(qcow2: &Qcow2Info) -> Vec<Value> {
    let snapshot = |snapshot: &block::image::Snapshot| {
        let mut value = json!({
            "id": snapshot.id,
            "name": snapshot.name,
            "date-sec": snapshot.date.0,
            "date-nsec": snapshot.date.1,
            "vm-clock-sec": snapshot.vm_clock / 1_000_000_000,
            "vm-clock-nsec": snapshot.vm_clock % 1_000_000_000,
            "vm-state-size": snapshot.vm_state_size,
        });
        if let Some(icount) = snapshot.icount {
            value["icount"] = icount.into();
        }
        value
    };
    qcow2.snapshots.iter().map(snapshot).collect()
}

fn compat(qcow2: &Qcow2Info) -> &'static str {
    if qcow2.version > 2 { "1.1" } else { "0.10" }
}

fn compression(qcow2: &Qcow2Info) -> &'static str {
    if qcow2.zstd { "zstd" } else { "zlib" }
}

pub(super) fn print(info: &Info) {
    println!("image: {}", info.name);
    println!("format: {}", info.format);
    println!("virtual size: {}", bytes(info.virtual_size));
    println!("file length: {}", bytes(info.file_len));
    if let Some(space) = info.space {
        println!("disk size: {}", bytes(space));
    }
    if let Some(size) = info.cluster_size {
        let subclusters = if info.extended_l2 == Some(true) { ", 32 subclusters each" } else { "" };
        println!("cluster size: {size} bytes{subclusters}");
    }
    if info.dirty {
        println!("not closed cleanly: it is repaired at its next use");
    }
    if let Some(backing) = &info.backing {
        let format = info.backing_format.as_deref().unwrap_or("not recorded");
        let full = info.full_backing.as_ref().filter(|full| *full != backing);
        let full = full.map_or(String::new(), |full| format!(", which is {full}"));
        println!("backing file: {backing}{full} (format: {format})");
    }
    let Some(qcow2) = &info.qcow2 else { return };
    println!("compat: {}", compat(qcow2));
    println!("compression type: {}", compression(qcow2));
    println!("refcount bits: {}", qcow2.refcount_bits);
    println!("lazy refcounts: {}", if qcow2.lazy_refcounts { "on" } else { "off" });
    if qcow2.corrupt {
        println!("marked corrupt: repair it with 'millrace image check --repair all'");
    }
    for snapshot in &qcow2.snapshots {
        let (id, name, size) = (&snapshot.id, &snapshot.name, bytes(snapshot.vm_state_size));
        println!("snapshot {id}: {name}, machine state {size}");
    }
    for bitmap in &qcow2.bitmaps {
        let flags: String = bitmap.flags.iter().map(|flag| format!(", {flag}")).collect();
        println!("bitmap: {}, granularity {} bytes{flags}", bitmap.name, bitmap.granularity);
    }
}

/// Formats a number of bytes, in a suitable unit and in full.
fn bytes(n: u64) -> String {
    let (mut value, mut unit) = (n as f64, "");
    for larger in ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"] {
        if value < 1024.0 {
            break;
        }
        (value, unit) = (value / 1024.0, larger);
    }
    if unit.is_empty() {
        return format!("{n} bytes");
    }
    let short = format!("{value:.2}");
    format!("{} {unit} ({n} bytes)", short.trim_end_matches('0').trim_end_matches('.'))
}
