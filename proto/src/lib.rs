//! The wire of tiermesh: generated types and services, and the conversions
//! between them and the types of `tiermesh-core`.
//!
//! Conversions from the wire check everything: a peer's bytes yield a valid
//! core type or an error that names the field.

mod convert;
mod link_convert;

pub use convert::{WireError, error_class, request_to_wire};
pub use link_convert::{
    StartParts, failure_from_wire, failure_to_wire, start_from_wire, start_to_wire,
};

pub use generated::link::v1 as link;
pub use generated::v1;

/// The packages as protobuf nests them, which the generated paths rely on.
mod generated {
    #![allow(
        missing_docs,
        clippy::all,
        clippy::pedantic,
        unreachable_pub,
        reason = "generated code"
    )]

    /// `tiermesh.v1`: the client API.
    pub mod v1 {
        tonic::include_proto!("tiermesh.v1");
    }

    pub mod link {
        /// `tiermesh.link.v1`: what nodes and gateways say to each other.
        pub mod v1 {
            tonic::include_proto!("tiermesh.link.v1");
        }
    }
}

/// The encoded descriptor set of every service, for gRPC reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
