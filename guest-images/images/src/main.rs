//! A program for users: prepares a guest's kernel, initramfs and disk.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use guest_images::debian::Debian;
use guest_images::{Result, boot, initramfs, kernel, vmlinux};

#[derive(Parser)]
#[command(about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Fetch the guest's kernel, make it the default kernel of `millrace run`, and print its path
    Kernel,
    /// Build the initramfs of the tests' guest and print its path
    Initrd,
    /// Make a disk image with a Debian system that `millrace run` boots to a login; root has no password
    Debian {
        /// The new raw image
        image: PathBuf,
        /// The release's code name
        #[arg(long, default_value = "bookworm")]
        suite: String,
        /// The disk's size in MiB; it takes space only as it is filled
        #[arg(long, default_value_t = 2048, value_parser = clap::value_parser!(u64).range(512..1 << 24))]
        size: u64,
    },
    /// Extract the ELF kernel from the guest's kernel, or from another release's, and print its path
    Vmlinux {
        /// The release's code name; by default, the guest's kernel is used
        #[arg(long)]
        suite: Option<String>,
        /// The package that stands for the release's current kernel
        #[arg(long, default_value = "linux-image-cloud-amd64")]
        package: String,
    },
}

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("guest-images: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<()> {
    match command {
        Command::Kernel => {
            let kernel = kernel::find()?;
            boot::publish(&kernel)?;
            println!("{}", kernel.vmlinuz.display());
        }
        Command::Initrd => println!("{}", initramfs::guest(&kernel::find()?)?.display()),
        Command::Debian { image, suite, size } => {
            let kernel = kernel::find()?;
            boot::publish(&kernel)?;
            Debian { suite, size: size << 20 }.make(&kernel, &image)?;
            let (program, image) = ("cargo run --release -- run", image.display());
            println!("made {image}; boot it by: {program} --drive id=virtio0,file={image},format=raw");
            println!("log in as root, without a password; `poweroff` or Ctrl-A x ends it");
        }
        Command::Vmlinux { suite, package } => {
            let kernel = match suite {
                Some(suite) => kernel::of_suite(&suite, &package)?,
                None => kernel::find()?,
            };
            println!("{}", vmlinux::find(&kernel)?.display());
        }
    }
    Ok(())
}
