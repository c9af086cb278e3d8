//! `lab calibrate`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::{End, print};
use lab::calibrate::{Measured, fit};
use lab::reader::Source;

/// The options of `lab calibrate`.
#[derive(Args)]
pub struct Calibrate {
    /// The experiment: its [ram] has the size, and the rate at which the guest writes.
    experiment: PathBuf,
    /// The measurements, as lab/figures/kubevirt-291/without.toml has them. No other file is read.
    measurements: PathBuf,
    /// Migrations that were measured.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..=60))]
    repetitions: u16,
    /// Write the parameters to this new file, instead of printing them.
    #[arg(long)]
    out: Option<PathBuf>,
}

impl Calibrate {
    /// Finds the parameters.
    pub fn start(self) -> End {
        let experiment = super::run::read(&self.experiment)?;
        let file = self.measurements.to_string_lossy().into_owned();
        let text = std::fs::read_to_string(&self.measurements)
            .map_err(|e| format!("{file}: cannot be read: {e}"))?;
        let measured = Measured::read(Source { file: &file, text: &text })?;
        if experiment.points.len() > 1 {
            return Err(format!(
                "{}: calibrate needs an experiment without a sweep",
                self.experiment.display()
            )
            .into());
        }
        let setup = &experiment.points[0].setup;
        let ram = setup.ram.filter(|ram| ram.dirty > 0.0).ok_or_else(|| {
            format!("{}: calibrate needs [ram] with size and dirty", self.experiment.display())
        })?;
        let text = fit(setup, &ram, &measured, usize::from(self.repetitions)).text();
        match self.out {
            None => print(&text),
            Some(out) => {
                use std::io::Write;
                let new =
                    std::fs::File::create_new(&out).and_then(|mut file| file.write_all(text.as_bytes()));
                new.map_err(|e| format!("{}: cannot be written: {e}", out.display()))?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}
