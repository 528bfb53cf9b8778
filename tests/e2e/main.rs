//! The whole product from outside: real processes, real sockets, and a client
//! that knows nothing but the API.
#![allow(clippy::unwrap_used, reason = "tests and their helpers")]

mod accounts;
mod bad_input;
mod cloud;
mod commands;
mod daemons;
mod deadlines;
mod decisions;
mod doors;
mod encoders;
mod http;
mod hub;
mod model_run;
mod models;
mod policies;
mod privacy;
mod resume;
mod streams;
mod support;
mod tenants;
