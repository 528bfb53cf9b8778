//! What every policy comes to, what no plan does, and what a refusal says.

mod exploring;
mod plans;
mod properties;
mod table;
pub(crate) mod world;
