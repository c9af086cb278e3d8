//! Runs a target with the content of files: `cargo run -p hostile --example replay -- TARGET FILE...`.

fn main() -> Result<(), String> {
    let mut arguments = std::env::args().skip(1);
    let name = arguments.next().ok_or("usage: replay TARGET FILE...")?;
    let target = hostile::TARGETS.iter().find(|target| target.name == name);
    let target = target.ok_or_else(|| format!("unknown target '{name}'"))?;
    for file in arguments {
        println!("{file}");
        (target.run)(&std::fs::read(&file).map_err(|e| format!("{file}: {e}"))?);
    }
    Ok(())
}
