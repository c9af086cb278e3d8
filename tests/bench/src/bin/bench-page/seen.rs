//! The time until a browser has the map of a disk, and until it shows a write.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bench::Spread;
use harness::browser::Browser;
use harness::nbd::{Command, Nbd};
use harness::{Failure, STEP, check};

use crate::Page;

const ROUNDS: u64 = 10;

/// Asks for everything anew, and waits until it is painted. Returns the time in milliseconds.
const PAINT: &str = "
    const begun = performance.now(), frame = () => new Promise(requestAnimationFrame);
    return millrace.whole().then(frame).then(frame).then(() => performance.now() - begun);";

/// Waits until a cell is data. Returns the time of day in milliseconds.
const CELL: &str = "
    return new Promise((resolve) => {
      const look = () => (millrace.map.cells[CELL] & 7) >= 3 ? resolve(Date.now()) : requestAnimationFrame(look);
      look();
    });";

/// Measures with a browser, if there is one.
pub fn measure(page: &Page, export: &Path) -> Result<(), Failure> {
    let Some(browser) = Browser::start(1280)? else {
        println!("map in a browser: not measured: there is no chromium here");
        return Ok(());
    };
    browser.open(&format!("http://127.0.0.1:{}/#t={}", page.port, page.token))?;
    browser.wait("globalThis.millrace?.map.cells.length > 1")?;
    let number = |script: &str| -> Result<f64, Failure> {
        Ok(browser.run(script)?.as_f64().ok_or("the page returned no number")?)
    };
    let (cells, each) =
        (number("return millrace.map.cells.length")?, number("return millrace.map.cellSize")?);
    let paints = (0..ROUNDS).map(|_| number(PAINT)).collect::<Result<Vec<_>, _>>()?;
    let mut disk = Nbd::connect(export, "disk", STEP)?;
    let mut lags = Vec::new();
    for round in 0..ROUNDS {
        // Far from what fio has written.
        let cell = cells as u64 / 2 + round * 7;
        let script = CELL.replace("CELL", &cell.to_string());
        let written = std::thread::scope(|scope| -> Result<(f64, f64), Failure> {
            let seen = scope.spawn(|| browser.run(&script).map_err(|e| e.to_string()));
            // The page looks already when it is written.
            std::thread::sleep(Duration::from_millis(300));
            disk.send(Command::Write(4096), cell * each as u64, &[7; 4096])?;
            check(disk.receive(&mut Vec::new())?.error == 0, "the write succeeds")?;
            let written = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64() * 1000.0;
            let seen = seen.join().map_err(|_| "the browser's thread panicked")??;
            Ok((written, seen.as_f64().ok_or("the page returned no time")?))
        });
        let (written, seen) = written?;
        lags.push(seen - written);
    }
    for (name, limit, values) in [
        (format!("a map of {cells} cells asked for and painted, ms"), "limit: 1000", paints),
        ("a write is on the map after, ms".to_owned(), "limit: 200", lags),
    ] {
        if let Some(spread) = Spread::of(values) {
            println!("{name:<50}{spread:<24}{limit}");
        }
    }
    Ok(())
}
