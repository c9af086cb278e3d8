//! Writes the corpora for cargo-fuzz:
//! `cargo run -p hostile --example corpus -- tests/hostile/fuzz/corpus`.

use std::path::PathBuf;

fn main() -> std::io::Result<()> {
    let folder =
        PathBuf::from(std::env::args().nth(1).unwrap_or_else(|| "tests/hostile/fuzz/corpus".to_owned()));
    for target in hostile::TARGETS {
        let folder = folder.join(target.name);
        std::fs::create_dir_all(&folder)?;
        for (n, input) in (target.corpus)().iter().enumerate() {
            std::fs::write(folder.join(format!("seed-{n:02}")), input)?;
        }
        println!("{}", folder.display());
    }
    Ok(())
}
