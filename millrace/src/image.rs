//! `millrace image`: images without a machine.

use std::process::ExitCode;

use block::image;
use block::io::{Aio, Engine};
use block::storage::HostOpener;
use executor::Executor;

use super::Failure;
use super::options::{self, Image};

mod check;
mod create;
mod info;
mod map;

/// Runs one command.
pub(super) fn run(command: Image) -> Result<ExitCode, Failure> {
    let executor = Executor::new().map_err(|e| format!("event loop: {e}"))?;
    match command {
        Image::Check { format, json, repair, share, file } => {
            let repair = repair.map(|repair| match repair {
                options::Repair::Leaks => block::check::Repair::Leaks,
                options::Repair::All => block::check::Repair::All,
            });
            return executor.block_on(async move { check::run(&file, format, repair, share, json).await });
        }
        Image::Map { format, json, share, file } => {
            let done = executor.block_on(async move { map::run(&file, format, share, json).await });
            return done.map(|()| ExitCode::SUCCESS);
        }
        Image::Create { format, options, .. } if create::is_help(&options) => {
            create::print_help(format);
            Ok(())
        }
        Image::Create { format, backing, backing_format, options, file, size } => {
            let file = file.ok_or("the new image's FILE is missing")?;
            let options = create::options(format, size, backing.zip(backing_format), &options)?;
            executor.block_on(async move { image::create(&opener(), &file, format, &options).await })
        }
        Image::Info { format, json, share, file } => executor.block_on(async move {
            let info = match share {
                true => image::info_in_use(&opener(), &file, format).await?,
                false => image::info(&opener(), &file, format).await?,
            };
            if json {
                println!("{:#}", info::to_json(&info))
            } else {
                info::print(&info)
            }
            Ok(())
        }),
    }
    .map(|()| ExitCode::SUCCESS)
    .map_err(|e| e.to_string())
}

fn opener() -> HostOpener {
    HostOpener { engine: Engine::new(Aio::IoUring), direct: false }
}
