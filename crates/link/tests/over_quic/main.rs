//! Nodes and gateways over real QUIC on loopback: what strangers get, how
//! answers travel, and what happens when one end goes silent.

mod answers;
mod leases;
mod strangers;
mod support;
