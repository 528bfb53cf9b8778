//! Daemons that do not start, and what they say about it.

use crate::support::{run, text, tiny};
use std::net::{TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Output;

struct Files(tempfile::TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, content: &str) -> String {
        let path = self.path(name);
        std::fs::write(&path, content).unwrap();
        path.display().to_string()
    }

    /// An authority and the gateway's certificate.
    async fn gateway(&self, api: &str, link: &str) -> String {
        let dir = self.path("pki").display().to_string();
        let name = "spiffe://tiermesh/gateway/gateway-1";
        assert!(run(&["ca", "init", "--dir", &dir]).await.status.success());
        let issued = run(&["ca", "issue", name, "--dir", &dir]).await;
        assert!(issued.status.success());
        let content = format!(
            "node = 'gateway-1'\n[listen]\napi = '{api}'\nlink = '{link}'\n[link]\n\
             ca = '{dir}/ca.pem'\ncertificate = '{dir}/gateway-1.pem'\nkey = '{dir}/gateway-1.key'\n"
        );
        self.write("gateway.toml", &content)
    }
}

fn edge_config(api: &str, model: &Path) -> String {
    format!(
        "node = 'edge-1'\n[listen]\napi = '{api}'\n[engine]\nmodels = ['{}']\n",
        model.display()
    )
}

/// What it said on stderr, having failed.
fn failure(ended: &Output) -> String {
    let said = text(&ended.stderr);
    assert!(!ended.status.success(), "{said}");
    assert!(ended.stdout.is_empty(), "nothing was announced");
    said
}

#[tokio::test]
async fn printed_configuration_reads_back() {
    let files = Files::new();
    let gateway = files.gateway("127.0.0.1:0", "127.0.0.1:0").await;
    let edge = files.write("edge.toml", &edge_config("127.0.0.1:0", &tiny()));
    let owned = format!("owner = 'ann'\n{}", edge_config("127.0.0.1:0", &tiny()));
    let device = files.write("device.toml", &owned);
    for (daemon, config) in [
        ("cloud-gateway", &gateway),
        ("edge-node", &edge),
        ("device-agent", &device),
    ] {
        let checked = run(&[daemon, "--config", config, "--check-config"]).await;
        assert!(checked.status.success(), "{}", text(&checked.stderr));
        let printed = run(&[daemon, "--config", config, "--print-config"]).await;
        assert!(printed.status.success(), "{}", text(&printed.stderr));
        let first = text(&printed.stdout);
        let again = files.write("again.toml", &first);
        let printed = run(&[daemon, "--config", &again, "--print-config"]).await;
        assert!(printed.status.success(), "{}", text(&printed.stderr));
        assert_eq!(text(&printed.stdout), first, "{daemon}");
    }
}

#[tokio::test]
async fn configuration_errors_name_key_value_and_what_is_allowed() {
    let files = Files::new();
    let good = edge_config("127.0.0.1:0", &tiny());
    for (change, names) in [
        (
            format!("{good}streams = 9000\n"),
            ["engine.streams", "9000", "1024"],
        ),
        (
            format!("{good}stremas = 2\n"),
            ["stremas", "streams", "edge.toml"],
        ),
        (
            edge_config("0.0.0.0:8081", &tiny()),
            ["listen.api", "0.0.0.0:8081", "allow_plaintext"],
        ),
        (format!("owner = 'ann'\n{good}"), ["owner", "ann", "absent"]),
        (
            good.replace("edge-1", "edge 1"),
            ["node", "edge 1", "edge.toml"],
        ),
    ] {
        let config = files.write("edge.toml", &change);
        let ended = run(&["edge-node", "--config", &config, "--check-config"]).await;
        let said = failure(&ended);
        for name in names {
            assert!(said.contains(name), "`{name}` in: {said}");
        }
    }
    let missing = files.path("none.toml").display().to_string();
    let said = failure(&run(&["edge-node", "--config", &missing]).await);
    assert!(said.contains("none.toml"), "{said}");
}

#[tokio::test]
async fn port_in_use_is_named_with_the_key_to_change() {
    let files = Files::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let config = files.write("edge.toml", &edge_config(&address, &tiny()));
    let said = failure(&run(&["edge-node", "--config", &config]).await);
    assert!(
        said.contains(&address) && said.contains("listen.api"),
        "{said}"
    );

    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let link = udp.local_addr().unwrap().to_string();
    let config = files.gateway("127.0.0.1:0", &link).await;
    let said = failure(&run(&["cloud-gateway", "--config", &config]).await);
    assert!(
        said.contains(&link) && said.contains("listen.link"),
        "{said}"
    );
}

#[tokio::test]
async fn a_resume_key_that_others_can_read_is_refused() {
    use std::os::unix::fs::PermissionsExt as _;
    let files = Files::new();
    let config = files.gateway("127.0.0.1:0", "127.0.0.1:0").await;
    let key = files.write("resume.key", &tiermesh_identity::new_secret());
    let open = std::fs::Permissions::from_mode(0o644);
    std::fs::set_permissions(&key, open).unwrap();
    let mut text = std::fs::read_to_string(&config).unwrap();
    text.push_str(&format!("[resume]\nkey = '{key}'\n"));
    let config = files.write("gateway.toml", &text);
    let said = failure(&run(&["cloud-gateway", "--config", &config]).await);
    assert!(
        said.contains("resume.key") && said.contains("644"),
        "{said}"
    );
    let secret = std::fs::read_to_string(&key).unwrap();
    assert!(!said.contains(&secret), "{said}");
}

#[tokio::test]
async fn artifact_with_a_flipped_byte_is_refused_by_name() {
    let files = Files::new();
    let artifact = files.path("artifact");
    let quantization = tiermesh_engine::Quantization::Q8;
    let options = tiermesh_engine::ImportOptions::new(quantization);
    let told = &mut |_: tiermesh_engine::ImportProgress<'_>| std::ops::ControlFlow::Continue(());
    tiermesh_engine::import(&tiny(), &artifact, &options, told).unwrap();
    for file in ["model.safetensors", "tokenizer.json"] {
        let path = artifact.join(file);
        let good = std::fs::read(&path).unwrap();
        let mut bad = good.clone();
        let middle = bad.len() / 2;
        bad[middle] ^= 1;
        std::fs::write(&path, bad).unwrap();
        let config = files.write("edge.toml", &edge_config("127.0.0.1:0", &artifact));
        let said = failure(&run(&["edge-node", "--config", &config]).await);
        assert!(said.contains(file), "{said}");
        std::fs::write(&path, good).unwrap();
    }
}

#[tokio::test]
async fn certificate_of_another_node_is_refused_at_the_start() {
    let files = Files::new();
    let config = files.gateway("127.0.0.1:0", "127.0.0.1:0").await;
    let text = std::fs::read_to_string(&config).unwrap();
    let config = files.write(
        "gateway.toml",
        &text.replace("node = 'gateway-1'", "node = 'gateway-2'"),
    );
    let said = failure(&run(&["cloud-gateway", "--config", &config]).await);
    assert!(
        said.contains("gateway-1") && said.contains("gateway-2"),
        "{said}"
    );
}
