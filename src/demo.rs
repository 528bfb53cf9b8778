//! `tiermesh demo`: a whole mesh on this machine, real titles through it, and
//! what happens when parts of it die.

use crate::client::inference;
use crate::infer::{Shown, read, seam_in_words};
use crate::out;
use anyhow::Context as _;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tiermesh_harness::Mesh;
use tiermesh_proto::v1;
use tiermesh_proto::v1::inference_client::InferenceClient;
use tokio::time::Instant;
use tonic::transport::Channel;

pub(crate) mod mesh;
mod report;
mod scenario;
mod survival;

use mesh::{CloudArg, cloud_note, spec};
use report::{Outcome, Report};
use scenario::{Door, EDGE_GONE, EDGES_GONE, HEALTHY, Step};

/// No request of the demonstration may take longer.
const REQUEST_WITHIN: Duration = Duration::from_secs(10);
/// The gateway must have noticed a dead node by then.
const NOTICED_WITHIN: Duration = Duration::from_secs(10);

/// Arguments of `tiermesh demo`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  tiermesh demo
  tiermesh demo --json
  tiermesh demo --cloud standin --model ./my-model")]
pub(crate) struct Args {
    /// Print one JSON object a line instead of text and a table.
    #[arg(long)]
    json: bool,
    /// A model's directory instead of the one inside the program.
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
    /// The cloud tier; `auto` is Amazon Bedrock when AWS credentials are found, else the stand-in.
    #[arg(long, value_enum, default_value_t = CloudArg::Auto)]
    cloud: CloudArg,
}

/// The doors' clients. A killed door's is never used again.
struct Doors {
    gateway: InferenceClient<Channel>,
    device: InferenceClient<Channel>,
    edges: Vec<InferenceClient<Channel>>,
}

/// Runs the demonstration.
///
/// # Errors
/// When the mesh does not start, or anything landed where it must not.
pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let started = Instant::now();
    let scratch = tempfile::Builder::new()
        .prefix("tiermesh-model-")
        .tempdir()?;
    let spec = spec(args.model, args.cloud, scratch.path())?;
    let cloud = cloud_note(&spec);
    out::note(&cloud);
    out::note("starting a cloud gateway, two edge nodes and a device agent");
    let demonstration = async {
        let mut mesh = Mesh::start(&spec).await?;
        out::note(&format!(
            "healthy after {:.1} s",
            started.elapsed().as_secs_f64()
        ));
        let mut report = Report::new(args.json);
        play(&mut mesh, &spec.models[0], &mut report).await?;
        let wrong = report.finish(started.elapsed(), &cloud);
        mesh.stop().await?;
        anyhow::ensure!(wrong == 0, "{wrong} requests landed where they must not");
        Ok(())
    };
    tokio::select! {
        ended = demonstration => ended,
        // The children die with the mesh.
        _ = tiermesh_daemon::stop_requested() => anyhow::bail!("interrupted"),
    }
}

async fn play(mesh: &mut Mesh, model: &Path, report: &mut Report) -> anyhow::Result<()> {
    let device = mesh
        .device
        .as_ref()
        .context("the demonstration has a device")?;
    let mut edges = Vec::new();
    for edge in &mesh.edges {
        edges.push(inference(edge.endpoint()).await?);
    }
    let mut doors = Doors {
        gateway: inference(mesh.gateway.endpoint()).await?,
        device: inference(device.endpoint()).await?,
        edges,
    };
    let mut titles = include_str!("demo/titles.tsv").lines().cycle();
    let mut steps = async |steps: &[Step], report: &mut Report| -> anyhow::Result<()> {
        for step in steps {
            let line = titles.next().context("there are titles")?;
            let title = line.split('\t').next().unwrap_or(line);
            report.add(ask(&mut doors, *step, title, report.is_json()).await);
        }
        Ok(())
    };
    steps(HEALTHY, report).await?;
    let survived = survival::play(mesh, model, report.is_json()).await?;
    report.fault(
        "edge-1",
        "killed (SIGKILL) under a running answer, and nobody was told",
    );
    report.survived(survived);
    steps(EDGE_GONE, report).await?;
    for edge in mesh.edges.iter_mut().skip(1) {
        edge.kill().await?;
        report.fault(&edge.name, "killed (SIGKILL): no edge is left");
    }
    wait_until_noticed(mesh).await?;
    steps(EDGES_GONE, report).await
}

/// One request; its text is shown as it comes.
async fn ask(doors: &mut Doors, step: Step, title: &str, json: bool) -> Outcome {
    let client = match step.door {
        Door::Gateway => &mut doors.gateway,
        Door::Device => &mut doors.device,
        Door::Edge(index) => &mut doors.edges[index],
    };
    if !json {
        let model = if step.model.is_empty() {
            String::new()
        } else {
            format!(", {}", step.model)
        };
        out::line(&format!(
            "[{} at {}{model}] {title}",
            step.policy,
            step.door.name()
        ));
        out::text("    ");
    }
    let mut request = tonic::Request::new(v1::InferRequest {
        policy: step.policy.to_owned(),
        model: step.model.to_owned(),
        content: Some(v1::infer_request::Content::Prompt(title.to_owned())),
        sampling: Some(v1::Sampling {
            max_tokens: Some(64),
            ..v1::Sampling::default()
        }),
        ..v1::InferRequest::default()
    });
    request.set_timeout(REQUEST_WITHIN);
    let answer = match client.infer(request).await {
        Ok(stream) => {
            let show = |shown: Shown<'_>| match shown {
                Shown::Text(piece) if !json => out::text(piece),
                Shown::Text(_) => {}
                Shown::Seam(seam) => out::note(&format!("[{}]", seam_in_words(seam))),
            };
            read(stream.into_inner(), show).await
        }
        Err(status) => Err(status),
    };
    let outcome = Outcome::new(step, title, answer);
    if !json {
        out::line(
            &outcome
                .refusal()
                .map_or_else(String::new, |reason| format!("refused: {reason}")),
        );
    }
    outcome
}

/// The leases of dead edges run out.
async fn wait_until_noticed(mesh: &Mesh) -> anyhow::Result<()> {
    let until = Instant::now() + NOTICED_WITHIN;
    loop {
        let nodes = mesh.nodes().await?;
        if !nodes.iter().any(|node| node.node.starts_with("edge-")) {
            return Ok(());
        }
        anyhow::ensure!(
            Instant::now() < until,
            "the gateway does not notice that its edges are dead"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
