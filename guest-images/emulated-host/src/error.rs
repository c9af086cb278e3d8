//! The crate's one error: each prints as one line that says what failed, and the console's end where it matters.

/// Why a command did not run in the emulated host.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Something that it takes is not there, or could not be made or started.
    #[error(transparent)]
    Preparation(#[from] guest_images::Error),
    /// The machine did not give the command's exit status.
    #[error("the emulated host {text}; its console ended:\n{console}")]
    Lost {
        /// What happened, as in 'did not end within 60 s'.
        text: String,
        /// The tail of the machine's console.
        console: String,
    },
}

/// The crate's result.
pub type Result<T> = std::result::Result<T, Error>;
