//! QAPI's `SocketAddressLegacy` and `SocketAddress`.

use crate::schema::{qapi_enum, qapi_struct, qapi_union};

qapi_struct! {
    /// A Unix socket.
    struct UnixSocketAddress {
        /// The path of its file.
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

qapi_enum! {
    /// The kind of a socket.
    enum SocketAddressType {
        /// A TCP socket.
        Inet = "inet",
        /// A Unix socket.
        Unix = "unix",
    }
}

qapi_struct! {
    /// The address of a server.
    struct SocketAddress {
        /// The kind of its socket.
        kind as "type": SocketAddressType,
        /// `inet`: a name or an address.
        host: Option<String>,
        /// `inet`: a number as text.
        port: Option<String>,
        /// `unix`: the path of its file.
        path: Option<String>,
    }
}

qapi_union! {
    /// The address that a server listens on.
    union SocketAddressLegacy {
        /// A Unix socket.
        Unix(UnixSocketAddress) = "unix",
        /// A TCP socket.
        Inet(InetSocketAddress) = "inet",
    }
}

#[cfg(test)]
#[path = "socket_tests.rs"]
mod tests;
