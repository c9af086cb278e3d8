//! QAPI's `SocketAddressLegacy`.

use crate::schema::{qapi_struct, qapi_union};

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
