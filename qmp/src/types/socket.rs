//! QAPI's `SocketAddressLegacy`, the one union of our commands: `{"type": T, "data": {...}}`.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::Result;
use crate::schema::{Member, Qapi, Type, choice, finish, member, object, qapi_struct};

qapi_struct! {
    /// A Unix socket.
    struct UnixSocketAddress {
        /// Its file.
        path: String,
    }

    /// A TCP socket.
    struct InetSocketAddress {
        /// A name or an address; empty: all addresses of this host.
        host: String,
        /// A number as text; 0: the host chooses.
        port: String,
    }
}

/// Where a server listens.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(tag = "type", content = "data", rename_all = "lowercase")]
pub enum SocketAddressLegacy {
    /// A Unix socket.
    Unix(UnixSocketAddress),
    /// A TCP socket.
    Inet(InetSocketAddress),
}

const KINDS: &[&str] = &["unix", "inet"];

/// The union's discriminator.
struct Kind(usize);

impl Qapi for Kind {
    fn describe() -> Type {
        Type::Enum { name: "SocketAddressType", values: KINDS }
    }
    fn parse(path: &str, value: Value) -> Result<Self> {
        choice(path, value, KINDS).map(Kind)
    }
}

impl Qapi for SocketAddressLegacy {
    fn describe() -> Type {
        fn members() -> Vec<Member> {
            vec![
                Member { name: "type", doc: "The kind of socket.", of: Kind::describe(), optional: false },
                Member { name: "data", doc: "Its address.", of: Type::Any, optional: false },
            ]
        }
        Type::Object { name: "SocketAddressLegacy", members }
    }

    fn parse(path: &str, value: Value) -> Result<Self> {
        let mut fields = object(path, value)?;
        let Kind(kind) = member(path, &mut fields, "type")?;
        let address = match kind {
            0 => SocketAddressLegacy::Unix(member(path, &mut fields, "data")?),
            _ => SocketAddressLegacy::Inet(member(path, &mut fields, "data")?),
        };
        finish(path, &fields)?;
        Ok(address)
    }
}

#[cfg(test)]
mod tests;
