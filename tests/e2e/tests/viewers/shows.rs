//! Every viewer shows the screen.

use harness::screen::{ScreenServer, Synthetic};
use harness::{Failure, STEP, check, viewer, vncdo};
use rfb::Config;

use crate::rig::{HEIGHT, Rig, Viewer, WIDTH};

/// Keeps a picture of what a viewer showed, if a folder for that is named.
fn keep(name: &str, pixels: &[u32]) -> Result<(), Failure> {
    if let Some(folder) = std::env::var_os("MILLRACE_PICTURES") {
        let size = rfb::Size { width: WIDTH, height: HEIGHT };
        let file = std::path::Path::new(&folder).join(format!("{name}.png"));
        std::fs::write(file, rfb::picture::png(size, pixels)?)?;
    }
    Ok(())
}

/// The largest and the mean difference of two pictures, of any colour.
fn difference(one: &[u32], other: &[u32]) -> (u8, f64) {
    let parts = |pixels: &[u32]| pixels.iter().flat_map(|pixel| pixel.to_be_bytes()).collect::<Vec<u8>>();
    let differences: Vec<u8> =
        parts(one).iter().zip(parts(other)).map(|(one, other)| one.abs_diff(other)).collect();
    let sum: u64 = differences.iter().map(|difference| u64::from(*difference)).sum();
    (differences.iter().copied().max().unwrap_or(0), sum as f64 / (3 * one.len()) as f64)
}

fn shows(viewer: Viewer) -> Result<(), Failure> {
    if !viewer.is_here() {
        return Ok(());
    }
    let rig = Rig::new(None)?;
    rig.password.set("foobar1")?;
    let lossy = viewer == Viewer::Vncsnapshot;
    if lossy {
        rig.screen.draw_smooth();
    }
    let shown = rig.shown_by(viewer, "foobar1")?;
    keep(&format!("{viewer:?}").replace(|c: char| !c.is_alphanumeric(), ""), &shown)?;
    let expected = rig.screen.state().pixels.clone();
    let (largest, mean) = difference(&shown, &expected);
    println!("{viewer:?}: differs by {largest} at most, {mean:.2} in the mean");
    check(shown.len() == expected.len(), "the whole screen")?;
    match lossy {
        true => check(largest <= 24 && mean < 2.0, "within the error of JPEG"),
        false => check(largest == 0, format!("{viewer:?} shows the screen pixel for pixel")),
    }
}

#[test]
fn vncdotool() -> Result<(), Failure> {
    shows(Viewer::Vncdotool)
}

#[test]
fn gvnccapture() -> Result<(), Failure> {
    shows(Viewer::Gvnccapture)
}

#[test]
fn tigervnc() -> Result<(), Failure> {
    shows(Viewer::Tigervnc)
}

#[test]
fn libvncclient_raw() -> Result<(), Failure> {
    shows(Viewer::Libvncclient("raw"))
}

#[test]
fn libvncclient_zrle() -> Result<(), Failure> {
    shows(Viewer::Libvncclient("zrle"))
}

#[test]
fn vncsnapshot_of_rfb_3_3() -> Result<(), Failure> {
    shows(Viewer::Vncsnapshot)
}

#[test]
fn the_largest_screen_of_a_guest() -> Result<(), Failure> {
    let screen = Synthetic::new(2560, 1600);
    screen.draw_pattern();
    let server = ScreenServer::start(&screen, Config::default())?;
    let mut viewer = viewer::Viewer::tcp(server.address.port(), STEP)?;
    let is_right = |viewer: &viewer::Viewer| Ok(viewer.picture.pixels == screen.state().pixels);
    viewer.until("the pattern", STEP, is_right)?;
    screen.invert();
    viewer.until("the pattern, inverted", STEP, is_right)?;
    let folder = tempfile::tempdir()?;
    let shown = vncdo::capture(server.address.port(), &folder.path().join("large.png"))?;
    check(shown.size == (2560, 1600) && shown.pixels == screen.state().pixels, "vncdotool shows all pixels")
}
