//! Parts of a running mesh die, stall and return under load.
#![allow(clippy::unwrap_used, reason = "tests and their helpers")]
#![expect(
    clippy::print_stdout,
    reason = "the counts are for whoever reads the run"
)]

mod continuity;
mod gateway;
mod kill;
mod resume;
mod stall;

use std::path::{Path, PathBuf};
use tiermesh_harness::MeshSpec;

/// Two edges, a device and a stand-in, on the tiny model.
fn spec() -> MeshSpec {
    let model: PathBuf =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("crates/engine/tests/fixtures/tiny-llama");
    MeshSpec::new(env!("CARGO_BIN_EXE_tiermesh"), model)
}
