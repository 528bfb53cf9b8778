//! The mesh that `demo` and `up` start.

use crate::shipped;
use std::path::{Path, PathBuf};
use tiermesh_harness::{Cloud, MeshSpec};

/// Which cloud tier to use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum CloudArg {
    /// Amazon Bedrock when AWS credentials are found, else the stand-in.
    Auto,
    /// Amazon Bedrock.
    Aws,
    /// A local process that speaks Bedrock's wire.
    Standin,
    /// None.
    None,
}

/// The demonstration's mesh: two edges and a device.
///
/// # Errors
/// When the model cannot be unpacked.
pub(crate) fn spec(
    model: Option<PathBuf>,
    cloud: CloudArg,
    scratch: &Path,
) -> anyhow::Result<MeshSpec> {
    let model = match model {
        Some(model) => model,
        None => shipped::unpack(scratch)?,
    };
    let mut spec = MeshSpec::new(std::env::current_exe()?, model);
    let aws = match cloud {
        CloudArg::Auto => aws_credentials_found(),
        CloudArg::Aws => true,
        CloudArg::Standin | CloudArg::None => false,
    };
    spec.standin = !aws && cloud != CloudArg::None;
    if aws {
        spec.cloud = Cloud::Aws;
    }
    Ok(spec)
}

/// What the cloud tier is, said before anything is sent to it.
pub(crate) fn cloud_note(spec: &MeshSpec) -> String {
    match (&spec.cloud, spec.standin) {
        (_, true) => "cloud tier: no AWS credentials in use; a local stand-in speaks Bedrock's Converse API, backed by the engine".into(),
        (Cloud::Aws, _) => "cloud tier: Amazon Bedrock with your AWS credentials; its answers are billed to you".into(),
        (Cloud::Endpoint(url), _) => format!("cloud tier: {url}"),
        (Cloud::None, _) => "cloud tier: none".into(),
    }
}

/// Whether the SDK's usual chain has something to start from. The metadata
/// service is not asked: a demonstration should not wait for it.
fn aws_credentials_found() -> bool {
    const VARIABLES: [&str; 5] = [
        "AWS_ACCESS_KEY_ID",
        "AWS_PROFILE",
        "AWS_WEB_IDENTITY_TOKEN_FILE",
        "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
        "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    ];
    let in_environment = VARIABLES
        .iter()
        .any(|name| std::env::var_os(name).is_some());
    let in_home =
        std::env::home_dir().is_some_and(|home| home.join(".aws").join("credentials").is_file());
    in_environment || in_home
}
