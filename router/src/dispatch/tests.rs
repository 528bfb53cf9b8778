//! Dispatch over fakes: failover, deadlines, breakers, scope and accounting.

mod failover;
mod fakes;
mod handing_on;
mod limits;
