//! The cloud tier: a client of Amazon Bedrock, and the wire of Bedrock's
//! Converse API that the doors serve.
//!
//! - [`BedrockCloud`] is the client, an [`Infer`](tiermesh_core::Infer) like
//!   every other place that can answer.
//! - [`wire`] turns Converse's JSON and event-stream framing into core's
//!   requests and events and back, so that an application written with an AWS
//!   SDK can point its endpoint URL at the mesh.
//! - [`standin`] is a server that speaks that wire over any `Infer`, for
//!   machines without AWS credentials and for tests.

pub mod client;
pub mod config;
pub mod standin;
pub mod wire;

pub use client::errors::{ACCESS_DENIED_REASON, CREDENTIALS_REASON};
pub use client::{BedrockCloud, ConnectError, CredentialSource, Wiring};
pub use config::{BedrockConfig, BedrockModel, ConfigError};
pub use standin::{Fault, Standin, StandinHandle, StandinOptions};
pub use wire::{ConverseDoor, DoorFuture, VIA_HEADER, routes};
