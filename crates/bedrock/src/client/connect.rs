//! Making the client: region, credentials, and an SDK that leaves time to us.

use super::prefill::takes_prefill;
use super::{BedrockCloud, ConnectError, CredentialSource, Mapper, Meter, Served, Shared, Wiring};
use crate::config::{BedrockConfig, ConfigError, check_region};
use aws_config::imds::client::error::ImdsError;
use aws_config::retry::RetryConfig;
use aws_config::stalled_stream_protection::StalledStreamProtectionConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, SdkConfig};
use aws_credential_types::Credentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider};
use aws_sdk_bedrockruntime::Client;
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};
use aws_types::service_config::ServiceConfigKey;
use std::error::Error;
use std::sync::Arc;
use tiermesh_core::Region;
use tokio::sync::Semaphore;

pub(super) async fn connect(
    config: BedrockConfig,
    wiring: Wiring,
) -> Result<BedrockCloud, ConnectError> {
    config.validate()?;
    let is_standin = matches!(wiring.credentials, CredentialSource::Standin);
    if is_standin {
        check_standin(&config)?;
    }
    let sdk = Box::pin(load(&config, &wiring.credentials)).await;
    // Credentials first: with nothing set up at all, that is what is missing.
    let is_chain = matches!(wiring.credentials, CredentialSource::Chain);
    if !(is_chain && has_bearer_token(&sdk)) {
        find_credentials(&config, &sdk).await?;
    }
    let region = sdk.region().ok_or(ConnectError::NoRegion)?.to_string();
    check_region(&region)?;
    let endpoint = match &config.endpoint_url {
        Some(url) => url.clone(),
        None => public_endpoint(&region),
    };
    let place = match (is_standin, &config.endpoint_url) {
        (true, _) => format!("the local stand-in for Bedrock at {endpoint}"),
        (false, None) => format!("Amazon Bedrock in {region}"),
        (false, Some(_)) => format!("Amazon Bedrock in {region} at {endpoint}"),
    };
    let mut client = aws_sdk_bedrockruntime::config::Builder::from(&sdk).endpoint_url(endpoint);
    if !is_chain {
        // An API key of the environment must not go out in the given keys' place.
        client = client.auth_scheme_preference(["sigv4".into()]);
    }
    let client = Client::from_conf(client.build());
    let region = Region::new(&region).ok();
    let most = config.max_streams;
    let shared = Shared {
        client,
        destination: super::destination(config.node.clone(), region),
        mapper: Mapper::new(place.clone()),
        place,
        via: wiring.gateway,
        idle_timeout: config.idle_timeout(),
        connect_timeout: config.connect_timeout(),
        max_streams: most,
        slots: Arc::new(Semaphore::new(most as usize)),
        clock: wiring.clock,
        models: config
            .models
            .iter()
            .map(|model| Served {
                offer: Arc::new(model.offer()),
                bedrock_id: model.model_id.clone(),
                priced_on: model.priced_on.clone(),
                takes_prefill: model
                    .assistant_prefill
                    .unwrap_or_else(|| takes_prefill(&model.model_id)),
                meter: Meter::new(model.first_token_ms, model.decode_tok_s),
            })
            .collect(),
    };
    Ok(BedrockCloud {
        shared: Arc::new(shared),
    })
}

/// Nothing is guessed for a stand-in, or its made-up keys would go to AWS.
fn check_standin(config: &BedrockConfig) -> Result<(), ConfigError> {
    let needed = [
        ("endpoint_url", &config.endpoint_url),
        ("region", &config.region),
    ];
    match needed.into_iter().find(|(_, value)| value.is_none()) {
        None => Ok(()),
        Some((key, _)) => Err(ConfigError::new(key, "absent", "needed for a stand-in")),
    }
}

async fn load(config: &BedrockConfig, credentials: &CredentialSource) -> SdkConfig {
    let needs_tls = matches!(credentials, CredentialSource::Chain)
        || !is_plaintext(config.endpoint_url.as_deref());
    let http = aws_smithy_http_client::Builder::new();
    // A stand-in is to run on machines without a certificate store too.
    let http = if needs_tls {
        http.tls_provider(Provider::Rustls(CryptoMode::Ring))
            .build_https()
    } else {
        http.build_http()
    };
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(config.connect_timeout())
        .build();
    let mut loader = aws_config::defaults(BehaviorVersion::latest())
        .http_client(http)
        .timeout_config(timeouts)
        .retry_config(RetryConfig::disabled())
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled());
    if let Some(region) = &config.region {
        loader = loader.region(aws_config::Region::new(region.clone()));
    }
    let provider =
        match credentials {
            CredentialSource::Chain => None,
            CredentialSource::Given(provider) => Some(provider.clone()),
            CredentialSource::Standin => Some(SharedCredentialsProvider::new(
                Credentials::from_keys("AKIDSTANDIN", "not-a-secret", None),
            )),
        };
    if let Some(provider) = provider {
        loader = loader.credentials_provider(provider);
    }
    loader.load().await
}

/// Bedrock's API keys replace the chain, as in every SDK.
fn has_bearer_token(sdk: &SdkConfig) -> bool {
    let key = ServiceConfigKey::builder()
        .service_id("bedrock")
        .env("AWS_BEARER_TOKEN")
        .profile("")
        .build();
    let (Some(config), Ok(key)) = (sdk.service_config(), key) else {
        return false;
    };
    config.load_config(key).is_some()
}

/// Asks the chain once, so that a missing login shows at start and not at the
/// first request.
async fn find_credentials(config: &BedrockConfig, sdk: &SdkConfig) -> Result<(), ConnectError> {
    let within = config.credentials_timeout();
    let none = ConnectError::NoCredentials { within };
    let Some(provider) = sdk.credentials_provider() else {
        return Err(none);
    };
    match tokio::time::timeout(within, provider.provide_credentials()).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(CredentialsError::CredentialsNotLoaded(_))) | Err(_) => Err(none),
        // Instance metadata is the chain's last resort: nothing was configured
        // before it, and off EC2 a stranger may answer at its address.
        Ok(Err(error)) if is_metadata_failure(&error) => Err(none),
        Ok(Err(error)) => Err(ConnectError::Credentials(error)),
    }
}

fn is_metadata_failure(error: &CredentialsError) -> bool {
    let mut cause = error.source();
    while let Some(inner) = cause {
        if inner.is::<ImdsError>() {
            return true;
        }
        cause = inner.source();
    }
    false
}

fn is_plaintext(url: Option<&str>) -> bool {
    url.is_some_and(|url| url.starts_with("http://"))
}

fn public_endpoint(region: &str) -> String {
    let domain = if region.starts_with("cn-") {
        "amazonaws.com.cn"
    } else {
        "amazonaws.com"
    };
    format!("https://bedrock-runtime.{region}.{domain}")
}
