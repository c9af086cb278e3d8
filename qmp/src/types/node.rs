//! The nodes of `blockdev-add`: QAPI's `BlockdevOptions` and what belongs to it.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::command::BlockdevAdd;
use crate::error::{Error, Result};
use crate::schema::{Qapi, Type, qapi_enum, qapi_struct};

qapi_enum! {
    /// The driver of a node.
    enum BlockdevDriver {
        /// A regular file.
        File = "file",
        /// A block device of the host.
        HostDevice = "host_device",
        /// An export of an NBD server.
        Nbd = "nbd",
        /// An image without a format.
        Raw = "raw",
        /// A qcow2 image.
        Qcow2 = "qcow2",
        /// A QED image.
        Qed = "qed",
    }

    /// The treatment of discards by a node.
    enum BlockdevDiscardOptions {
        /// They do nothing.
        Ignore = "ignore",
        /// They free space.
        Unmap = "unmap",
    }
}

qapi_struct! {
    /// The caching of a node by the host.
    struct BlockdevCacheOptions {
        /// True to bypass the host's page cache.
        direct: Option<bool>,
        /// True to ignore flushes, which is refused.
        no_flush as "no-flush": Option<bool>,
    }
}

/// A node, by its name or by its description.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub enum BlockdevRef {
    /// The name of a node that is there.
    Name(String),
    /// A new node.
    New(Box<BlockdevAdd>),
}

impl Qapi for BlockdevRef {
    fn describe() -> Type {
        Type::Alternate { name: "BlockdevRef", of: || vec![Type::Str, BlockdevAdd::describe()] }
    }
    fn parse(path: &str, value: Value) -> Result<Self> {
        match value {
            Value::String(name) => Ok(BlockdevRef::Name(name)),
            value @ Value::Object(_) => BlockdevAdd::parse(path, value).map(Box::new).map(BlockdevRef::New),
            _ => {
                let text = format!("Invalid parameter type for '{path}', expected: BlockdevRef");
                Err(Error::generic(text))
            }
        }
    }
}

/// A node, or `null` for none. Only `null` and the names of nodes are taken.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub enum BlockdevRefOrNull {
    /// No node.
    Null,
    /// A node.
    Node(BlockdevRef),
}

impl Qapi for BlockdevRefOrNull {
    fn describe() -> Type {
        let of = || vec![Type::Str, BlockdevAdd::describe(), Type::Null];
        Type::Alternate { name: "BlockdevRefOrNull", of }
    }
    fn parse(path: &str, value: Value) -> Result<Self> {
        match value {
            Value::Null => Ok(BlockdevRefOrNull::Null),
            value @ (Value::String(_) | Value::Object(_)) => {
                BlockdevRef::parse(path, value).map(BlockdevRefOrNull::Node)
            }
            _ => {
                let text = format!("Invalid parameter type for '{path}', expected: BlockdevRefOrNull");
                Err(Error::generic(text))
            }
        }
    }
}

#[cfg(test)]
#[path = "node_tests.rs"]
mod tests;
