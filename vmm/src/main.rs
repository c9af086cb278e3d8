//! The `millrace` program; see `millrace --help`.

fn main() -> std::process::ExitCode {
    vmm::program::main()
}
