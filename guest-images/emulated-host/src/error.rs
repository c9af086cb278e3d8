//! The crate's one error. Each prints as one line that says what failed, and the end of the console if
//! that helps.

/// The reason why a command did not run in the emulated host.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or program that the emulated host needs is missing, or could not be made or started.
    #[error(transparent)]
    Preparation(#[from] guest_images::Error),
    /// The machine did not return the command's exit status.
    #[error("the emulated host {text}; its console ended:\n{console}")]
    Lost {
        /// The event, such as 'did not end within 60 s'.
        text: String,
        /// The tail of the machine's console.
        console: String,
    },
}

/// The crate's result.
pub type Result<T> = std::result::Result<T, Error>;
