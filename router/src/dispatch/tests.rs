//! Dispatch over fakes: failover, deadlines, breakers, scope and accounting.

mod advice;
mod clock;
mod continuity;
mod failover;
mod fakes;
mod handing_on;
mod hedges;
mod holding;
mod leaks;
mod learning;
mod limits;
mod money;
mod remembering;
mod slow;
