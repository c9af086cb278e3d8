//! The monitor: wire protocol, typed commands and events, HMP, server and client.
