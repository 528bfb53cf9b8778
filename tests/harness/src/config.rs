//! The configuration files of a mesh.

use crate::mesh::Cloud;
use crate::{BEDROCK, BEDROCK_MODEL, CLOUD_MODEL, OWNER, REGION, STANDIN};
use std::path::{Path, PathBuf};

/// Bedrock's list prices of Nova Lite in US dollars a million tokens, and the
/// day they were read.
const NOVA_LITE: (f64, f64, &str) = (0.06, 0.24, "2026-11-20");
/// What an answer from an edge of the demonstration costs: electricity and a
/// share of a two-core machine, an assumption and marked as one in the README.
const EDGE_PRICE: (f64, f64) = (0.01, 0.02);

/// Where a gateway's cloud is, what it decides by, and where it listens.
pub(crate) struct GatewayPlace<'a> {
    pub(crate) dir: &'a Path,
    pub(crate) cloud: &'a Cloud,
    pub(crate) policies: Option<&'a Path>,
    pub(crate) cloud_idle_timeout_ms: Option<u64>,
    pub(crate) breaker_open_ms: Option<u64>,
    pub(crate) decisions: Option<&'a Path>,
    pub(crate) api_port: u16,
    pub(crate) link_port: u16,
}

pub(crate) fn gateway(name: &str, place: &GatewayPlace<'_>) -> String {
    let (dir, cloud) = (place.dir, place.cloud);
    let (api, link) = (place.api_port, place.link_port);
    let standin = matches!(cloud, Cloud::Endpoint(_));
    let policies = place.policies.map_or_else(String::new, |path| {
        format!("policies = {:?}\n", path.display().to_string())
    });
    let breaker = place
        .breaker_open_ms
        .map_or_else(String::new, |ms| format!("breaker_open_ms = {ms}\n"));
    let decisions = place.decisions.map_or_else(String::new, |path| {
        format!("\n[decisions]\nfile = {:?}\n", path.display().to_string())
    });
    let mut text = format!(
        "node = \"{name}\"\nregion = \"{REGION}\"\ndefault_user = \"{OWNER}\"\ncloud_standin = {standin}\n{policies}{breaker}\n\
         [listen]\napi = \"127.0.0.1:{api}\"\nlink = \"127.0.0.1:{link}\"\n\n\
         [link]\n{}{decisions}",
        identity(name, dir)
    );
    let (node, endpoint) = match cloud {
        Cloud::None => return text,
        Cloud::Endpoint(url) => (
            STANDIN,
            format!("endpoint_url = \"{url}\"\nregion = \"us-east-1\"\n"),
        ),
        Cloud::Aws => (BEDROCK, String::new()),
    };
    let idle = place
        .cloud_idle_timeout_ms
        .map_or_else(String::new, |ms| format!("idle_timeout_ms = {ms}\n"));
    let (input, output, day) = NOVA_LITE;
    text.push_str(&format!(
        "\n[bedrock]\nnode = \"{node}\"\n{endpoint}{idle}\n\
         [[bedrock.models]]\nid = \"{BEDROCK_MODEL}\"\nfamily = \"{CLOUD_MODEL}\"\n\
         model_id = \"{BEDROCK_MODEL}\"\ncontext_tokens = 300000\nquality = 0.9\n\
         input_usd_per_million = {input:?}\noutput_usd_per_million = {output:?}\n\
         priced_on = \"{day}\"\n"
    ));
    text
}

/// Where a node's gateway is, what it runs, and where it listens.
pub(crate) struct NodePlace<'a> {
    pub(crate) dir: &'a Path,
    pub(crate) models: &'a [PathBuf],
    pub(crate) link: &'a str,
    pub(crate) api_port: u16,
    pub(crate) streams: usize,
    pub(crate) queue: usize,
    pub(crate) kernel: Option<&'a str>,
}

pub(crate) fn edge(name: &str, place: &NodePlace<'_>) -> String {
    let (input, output) = EDGE_PRICE;
    format!(
        "node = \"{name}\"\nregion = \"{REGION}\"\ndefault_user = \"{OWNER}\"\n{}\n\
         [prices]\ninput_usd_per_million = {input:?}\noutput_usd_per_million = {output:?}\n",
        node(name, place)
    )
}

pub(crate) fn device(name: &str, place: &NodePlace<'_>) -> String {
    format!(
        "node = \"{name}\"\nowner = \"{OWNER}\"\nbattery_percent = 80\n{}",
        node(name, place)
    )
}

fn node(name: &str, place: &NodePlace<'_>) -> String {
    let models: Vec<_> = place
        .models
        .iter()
        .map(|path| format!("{:?}", path.display().to_string()))
        .collect();
    format!(
        "\n[listen]\napi = \"127.0.0.1:{}\"\n\n[gateway]\naddress = \"{}\"\n{}\n\
         [engine]\nmodels = [{}]\nstreams = {}\nthreads = 1\nqueue = {}\n{}",
        place.api_port,
        place.link,
        identity(name, place.dir),
        models.join(", "),
        place.streams,
        place.queue,
        place
            .kernel
            .map_or_else(String::new, |kernel| format!("kernel = {kernel:?}\n")),
    )
}

fn identity(name: &str, dir: &Path) -> String {
    let path = |file: String| format!("{:?}", dir.join(file).display().to_string());
    format!(
        "ca = {}\ncertificate = {}\nkey = {}\n",
        path("ca.pem".into()),
        path(format!("{name}.pem")),
        path(format!("{name}.key"))
    )
}
