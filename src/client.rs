//! A client of a tiermesh door, for the sub-commands.

use anyhow::{Context as _, anyhow};
use std::time::Duration;
use tiermesh_proto::v1;
use tiermesh_proto::v1::inference_client::InferenceClient;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};
use tonic_types::StatusExt as _;

/// How long a connection may take.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);

/// Where to find the door.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct DoorArgs {
    /// The door of a gateway, an edge node or a device agent.
    #[arg(
        long,
        value_name = "URL",
        env = "TIERMESH_ENDPOINT",
        default_value = "http://127.0.0.1:8080"
    )]
    pub(crate) endpoint: String,
    /// The API key, where the door asks for one.
    #[arg(
        long,
        value_name = "KEY",
        env = "TIERMESH_API_KEY",
        hide_env_values = true
    )]
    api_key: Option<String>,
}

impl DoorArgs {
    /// A message to the door, with the key where there is one.
    ///
    /// # Errors
    /// When the key cannot be sent in a header.
    pub(crate) fn request<T>(&self, message: T) -> anyhow::Result<tonic::Request<T>> {
        let mut request = tonic::Request::new(message);
        if let Some(key) = &self.api_key {
            let mut value: tonic::metadata::AsciiMetadataValue = format!("Bearer {key}")
                .parse()
                .context("the API key holds characters that no key has")?;
            value.set_sensitive(true);
            request.metadata_mut().insert("authorization", value);
        }
        Ok(request)
    }
}

/// What a request is to be, for `infer` and `route explain`.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct RequestArgs {
    /// What the model reads, for example a product title.
    pub(crate) text: String,
    /// The routing policy: gaming, automotive, healthcare, iot, interactive, batch, or your own.
    #[arg(long, value_name = "NAME", default_value = "")]
    pub(crate) policy: String,
    /// Milliseconds until the answer must be complete.
    #[arg(long, value_name = "MS")]
    pub(crate) deadline_ms: Option<u64>,
    /// How far the content may travel.
    #[arg(long, value_enum)]
    pub(crate) privacy: Option<PrivacyArg>,
    /// The only region that may see the content.
    #[arg(long, value_name = "REGION", default_value = "")]
    pub(crate) residency: String,
    /// The most the answer may cost, in US dollars.
    #[arg(long, value_name = "USD")]
    pub(crate) max_cost_usd: Option<f64>,
    /// A model's id, a family, or auto.
    #[arg(long, value_name = "MODEL", default_value = "auto")]
    pub(crate) model: String,
    /// The user; the door's default when absent.
    #[arg(long, value_name = "USER", default_value = "")]
    pub(crate) user: String,
    /// Fixes every draw; the door draws one when absent.
    #[arg(long)]
    pub(crate) seed: Option<u64>,
    /// 0 always takes the likeliest token.
    #[arg(long)]
    pub(crate) temperature: Option<f32>,
    /// Keep this many likeliest tokens; 0 keeps all.
    #[arg(long, value_name = "K")]
    pub(crate) top_k: Option<u32>,
    /// Keep the likeliest tokens until their probabilities sum to this.
    #[arg(long, value_name = "P")]
    pub(crate) top_p: Option<f32>,
    /// Keep tokens at least this much as likely as the likeliest.
    #[arg(long, value_name = "P")]
    pub(crate) min_p: Option<f32>,
    /// Make tokens that were read or written less likely; 1 changes nothing.
    #[arg(long, value_name = "X")]
    pub(crate) repetition_penalty: Option<f32>,
    /// Taken off the logit of every token already written, -2 to 2.
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub(crate) presence_penalty: Option<f32>,
    /// Taken off a token's logit as often as it was written, -2 to 2.
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub(crate) frequency_penalty: Option<f32>,
    /// The most tokens to write.
    #[arg(long, value_name = "N")]
    pub(crate) max_tokens: Option<u32>,
}

/// How far content may travel.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub(crate) enum PrivacyArg {
    /// It stays on its owner's device.
    Device,
    /// It stays on the device or in the edge zone.
    Edge,
    /// It stays in the region that --residency names.
    Region,
    /// Anywhere.
    Any,
}

impl From<RequestArgs> for v1::InferRequest {
    fn from(args: RequestArgs) -> Self {
        Self {
            user_id: args.user,
            content: Some(v1::infer_request::Content::Prompt(args.text)),
            model: args.model,
            policy: args.policy,
            deadline_ms: args.deadline_ms.map(|total| v1::DeadlineMs {
                first_token: None,
                total: Some(total),
            }),
            max_cost_usd: args.max_cost_usd,
            privacy: args.privacy.map_or(v1::Privacy::Unspecified, |p| match p {
                PrivacyArg::Device => v1::Privacy::Device,
                PrivacyArg::Edge => v1::Privacy::Edge,
                PrivacyArg::Region => v1::Privacy::Region,
                PrivacyArg::Any => v1::Privacy::Any,
            }) as i32,
            residency: args.residency,
            seed: args.seed,
            sampling: Some(v1::Sampling {
                temperature: args.temperature,
                top_k: args.top_k,
                top_p: args.top_p,
                min_p: args.min_p,
                repetition_penalty: args.repetition_penalty,
                presence_penalty: args.presence_penalty,
                frequency_penalty: args.frequency_penalty,
                max_tokens: args.max_tokens,
                ..v1::Sampling::default()
            }),
            ..Self::default()
        }
    }
}

/// A connection to a door.
///
/// # Errors
/// When nobody listens there; the error says what to start.
pub(crate) async fn connect(endpoint: &str) -> anyhow::Result<Channel> {
    Endpoint::from_shared(endpoint.to_owned())
        .with_context(|| format!("`{endpoint}` is not a URL such as http://127.0.0.1:8080"))?
        .connect_timeout(CONNECT_WITHIN)
        .connect()
        .await
        .with_context(|| {
            format!("nobody answers at {endpoint}: start a mesh with `tiermesh up`, or name a door with --endpoint or TIERMESH_ENDPOINT")
        })
}

/// The inference API of a door.
///
/// # Errors
/// As [`connect`].
pub(crate) async fn inference(endpoint: &str) -> anyhow::Result<InferenceClient<Channel>> {
    Ok(InferenceClient::new(connect(endpoint).await?))
}

/// A status as a person reads it: code, message, and when to try again.
pub(crate) fn explain(status: &Status) -> anyhow::Error {
    let details = status.get_error_details();
    let reason = details
        .error_info()
        .map(|info| format!(" [{}]", info.reason));
    let retry = details
        .retry_info()
        .and_then(|info| info.retry_delay)
        .map(|delay| format!("; try again in {} ms", delay.as_millis()));
    anyhow!(
        "{:?}{}: {}{}",
        status.code(),
        reason.unwrap_or_default(),
        status.message(),
        retry.unwrap_or_default()
    )
}

/// A tier's name from the wire.
pub(crate) fn tier_name(tier: i32) -> &'static str {
    match v1::Tier::try_from(tier) {
        Ok(v1::Tier::Device) => "DEVICE",
        Ok(v1::Tier::Mec) => "MEC",
        Ok(v1::Tier::Cloud) => "CLOUD",
        _ => "?",
    }
}
