//! `millrace image`: images without a machine.

use std::process::ExitCode;

use block::image::{Create, Info, Preallocation};
use block::io::{Aio, Engine};
use block::storage::file::FileOpener;
use block::{Kind, image};
use executor::Executor;
use serde_json::{Map, Value};

use super::Failure;
use super::options::{self, Image};

mod check;
mod map;

/// Runs one command.
pub(super) fn run(command: Image) -> Result<ExitCode, Failure> {
    let executor = Executor::new().map_err(|e| format!("event loop: {e}"))?;
    match command {
        Image::Check { format, json, repair, file } => {
            let repair = repair.map(|repair| match repair {
                options::Repair::Leaks => block::check::Repair::Leaks,
                options::Repair::All => block::check::Repair::All,
            });
            return executor.block_on(async move { check::run(&file, format, repair, json).await });
        }
        Image::Map { format, json, file } => {
            let done = executor.block_on(async move { map::run(&file, format, json).await });
            return done.map(|()| ExitCode::SUCCESS);
        }
        Image::Create { format, backing, backing_format, options, file, size } => {
            let wish = wish(size, backing, backing_format, &options)?;
            executor.block_on(async move { image::create(&opener(), &file, format, &wish).await })
        }
        Image::Info { format, json, file } => executor.block_on(async move {
            let info = image::info(&opener(), &file, format).await?;
            if json {
                println!("{:#}", to_json(&info))
            } else {
                print(&info)
            }
            Ok(())
        }),
    }
    .map(|()| ExitCode::SUCCESS)
    .map_err(|e| e.to_string())
}

fn opener() -> FileOpener {
    FileOpener { engine: Engine::new(Aio::IoUring), direct: false }
}

fn wish(
    size: Option<u64>,
    backing: Option<String>,
    backing_format: Option<Kind>,
    options: &[String],
) -> Result<Create, Failure> {
    let mut wish = Create { size, ..Create::default() };
    let (mut backing, mut format) = (backing, backing_format);
    for list in options {
        for (key, value) in options::pairs(list)? {
            match key.as_str() {
                "cluster_size" => wish.cluster_size = Some(options::size(&value)?),
                "extended_l2" if value == "on" || value == "off" => wish.extended_l2 = Some(value == "on"),
                "lazy_refcounts" if value == "on" || value == "off" => {
                    wish.lazy_refcounts = Some(value == "on")
                }
                "compat" if value == "0.10" => wish.version = Some(2),
                "compat" if value == "1.1" => wish.version = Some(3),
                "preallocation" => {
                    wish.preallocation = match value.as_str() {
                        "off" => Preallocation::Off,
                        "metadata" => Preallocation::Metadata,
                        "falloc" => Preallocation::Falloc,
                        "full" => Preallocation::Full,
                        _ => {
                            return Err(format!("preallocation={value}: give off, metadata, falloc or full"));
                        }
                    }
                }
                "refcount_bits" => {
                    let bits = value.parse().map_err(|_| format!("refcount_bits={value}: give a number"))?;
                    wish.refcount_bits = Some(bits);
                }
                "table_size" => {
                    let size = value.parse().map_err(|_| format!("table_size={value}: give a number"))?;
                    wish.table_size = Some(size);
                }
                "backing_file" => backing = Some(value),
                "backing_fmt" => format = Some(value.parse::<Kind>().map_err(|e| e.to_string())?),
                _ => return Err(format!("-o {key}={value}: not known")),
            }
        }
    }
    wish.backing = match (backing, format) {
        (None, _) => None,
        (Some(file), Some(format)) => Some((file, format)),
        (Some(_), None) => return Err("give the backing file's format: formats are never guessed".into()),
    };
    Ok(wish)
}

fn to_json(info: &Info) -> Value {
    let mut map = Map::new();
    map.insert("filename".into(), info.name.clone().into());
    map.insert("format".into(), info.format.name().into());
    map.insert("virtual-size".into(), info.virtual_size.into());
    map.insert("file-length".into(), info.file_len.into());
    if let Some(size) = info.cluster_size {
        map.insert("cluster-size".into(), size.into());
    }
    if let Some(on) = info.extended_l2 {
        map.insert("extended-l2".into(), on.into());
    }
    if let Some(backing) = &info.backing {
        map.insert("backing-filename".into(), backing.clone().into());
    }
    if let Some(format) = &info.backing_format {
        map.insert("backing-filename-format".into(), format.clone().into());
    }
    Value::Object(map)
}

fn print(info: &Info) {
    println!("image: {}", info.name);
    println!("format: {}", info.format);
    println!("virtual size: {} bytes", info.virtual_size);
    println!("file length: {} bytes", info.file_len);
    if let Some(size) = info.cluster_size {
        let subclusters = if info.extended_l2 == Some(true) { ", 32 subclusters each" } else { "" };
        println!("cluster size: {size} bytes{subclusters}");
    }
    if let Some(backing) = &info.backing {
        let format = info.backing_format.as_deref().unwrap_or("not recorded");
        println!("backing file: {backing} (format: {format})");
    }
}
