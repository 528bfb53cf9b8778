//! The cloud tier over loopback: the real AWS SDK against the stand-in, and
//! against the doors' routes.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod brain;
mod client;
mod door;
mod faults;
