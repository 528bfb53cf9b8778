//! The door over loopback, with a scripted answerer behind it.
#![allow(clippy::unwrap_used, reason = "tests")]

mod auth;
mod fake;
mod grpc;
mod grpc_bounds;
mod http;
mod openai;
mod raw_http;
mod resume;
mod serve;
