//! What a failed command answers.

use serde::{Deserialize, Serialize};

/// The class of an error: all that a program should decide by (QAPI `QapiErrorClass`; the last two
/// are those of the 2011 streaming commands).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum ErrorClass {
    /// Everything that has no class of its own.
    GenericError,
    /// No such command, or not now: before the negotiation of capabilities, or twice.
    CommandNotFound,
    /// The named device does not exist, or has nothing that the command needs.
    DeviceNotFound,
    /// The device exists and has not been made active.
    DeviceNotActive,
    /// KVM lacks a capability.
    KVMMissingCap,
    /// A conflicting operation holds the device.
    DeviceInUse,
    /// The device or its format cannot do that.
    NotSupported,
    /// A class that another server answered and that this crate does not know.
    #[serde(other)]
    Unknown,
}

/// A failed command's answer: a class for programs, a description for people.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, thiserror::Error)]
#[error("{desc}")]
pub struct Error {
    /// What a program may decide by.
    pub class: ErrorClass,
    /// What a person reads; its text may change.
    pub desc: String,
}

/// What a command answers.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An error of any class.
    pub fn new(class: ErrorClass, desc: impl Into<String>) -> Self {
        Error { class, desc: desc.into() }
    }

    /// An error that only people look at.
    pub fn generic(desc: impl Into<String>) -> Self {
        Self::new(ErrorClass::GenericError, desc)
    }

    /// No disk of that name, in QEMU's words.
    pub fn device_not_found(device: &str) -> Self {
        Self::new(ErrorClass::DeviceNotFound, format!("Device '{device}' not found"))
    }

    pub(crate) fn command_not_found(desc: impl Into<String>) -> Self {
        Self::new(ErrorClass::CommandNotFound, desc)
    }

    pub(crate) fn disabled(command: &str) -> Self {
        Self::command_not_found(format!("Command {command} has been disabled"))
    }
}
