//! `millrace-web`: see the library beside it.

use std::process::ExitCode;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    web::run().await
}
