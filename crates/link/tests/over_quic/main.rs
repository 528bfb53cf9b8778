//! Nodes and gateways over real QUIC on loopback: what strangers get, how
//! answers travel, and what happens when one end goes silent.
#![allow(clippy::unwrap_used, reason = "tests and their helpers")]

mod answers;
mod leases;
mod strangers;
mod support;
