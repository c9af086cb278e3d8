//! The error of a failed command.

use serde::{Deserialize, Serialize};

/// The class of an error, the only part that a program should act on (QAPI `QapiErrorClass`;
/// `DeviceInUse` and `NotSupported` are those of the 2011 streaming commands).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum ErrorClass {
    /// Everything that has no class of its own.
    GenericError,
    /// The command is unknown, or not allowed now: any before the negotiation of capabilities, or a
    /// second negotiation.
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
    /// A class of another server that this crate does not know.
    #[serde(other)]
    Unknown,
}

/// A failed command's answer: a class for programs, a description for people.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, thiserror::Error)]
#[error("{desc}")]
pub struct Error {
    /// The class, for programs.
    pub class: ErrorClass,
    /// The description, for people; its text may change.
    pub desc: String,
}

/// The result of a command.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// Creates an error of any class.
    pub fn new(class: ErrorClass, desc: impl Into<String>) -> Self {
        Error { class, desc: desc.into() }
    }

    /// Creates a `GenericError`, which only people look at.
    pub fn generic(desc: impl Into<String>) -> Self {
        Self::new(ErrorClass::GenericError, desc)
    }

    /// Creates the error for a disk that does not exist, in QEMU's words.
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
