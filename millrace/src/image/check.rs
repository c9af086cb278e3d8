//! `millrace image check`, with the exit status of `qemu-img check`.

use std::process::ExitCode;

use block::check::{Repair, Report, check, check_in_use};
use block::{ErrorKind, Kind};
use serde_json::{Value, json};

use super::super::Failure;

/// Exit status for formats without checks, the same as of `qemu-img`.
const UNSUPPORTED: u8 = 63;

pub(super) async fn run(
    file: &str,
    format: Kind,
    repair: Option<Repair>,
    share: bool,
    json: bool,
) -> Result<ExitCode, Failure> {
    let checked = match (share, repair) {
        (false, _) => check(&super::opener(), file, format, repair).await,
        (true, None) => check_in_use(&super::opener(), file, format).await,
        (true, Some(_)) => return Err("-U and --repair exclude each other".into()),
    };
    let report = match checked {
        Ok(report) => report,
        Err(e) if format == Kind::Raw && e.kind() == ErrorKind::Unsupported => {
            eprintln!("millrace: {e}");
            return Ok(UNSUPPORTED.into());
        }
        Err(e) => return Err(e.to_string()),
    };
    if json {
        println!("{:#}", to_json(file, format, &report));
    } else {
        print(&report);
    }
    Ok(match (report.corruptions, report.leaks) {
        (0, 0) => ExitCode::SUCCESS,
        (0, _) => 3.into(),
        _ => 2.into(),
    })
}

fn to_json(file: &str, format: Kind, report: &Report) -> Value {
    let mut value = json!({
        "filename": file,
        "format": format.name(),
        "check-errors": 0,
        "image-end-offset": report.image_end,
        "total-clusters": report.total_clusters,
        "allocated-clusters": report.allocated_clusters,
        "fragmented-clusters": report.fragmented_clusters,
        "compressed-clusters": report.compressed_clusters,
    });
    // As in QEMU, members that are 0 are left out.
    for (key, n) in [
        ("corruptions", report.corruptions),
        ("leaks", report.leaks),
        ("corruptions-fixed", report.corruptions_fixed),
        ("leaks-fixed", report.leaks_fixed),
    ] {
        if n > 0 {
            value[key] = n.into();
        }
    }
    value
}

fn print(report: &Report) {
    for problem in &report.problems {
        println!("{problem}");
    }
    if report.corruptions_fixed + report.leaks_fixed > 0 {
        println!("repaired: {} corruptions, {} leaks", report.corruptions_fixed, report.leaks_fixed);
    }
    println!("corruptions: {}, leaked clusters: {}", report.corruptions, report.leaks);
    println!(
        "clusters: {} of {} allocated, {} fragmented, {} compressed",
        report.allocated_clusters,
        report.total_clusters,
        report.fragmented_clusters,
        report.compressed_clusters
    );
    println!("image end: {} bytes", report.image_end);
}
