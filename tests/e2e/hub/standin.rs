//! A hub on this machine: the listing, the redirects and the checksums of the
//! real one, a second host for the bytes, and ways to misbehave.

use ring::digest::{Algorithm, SHA1_FOR_LEGACY_USE_ONLY, SHA256, digest};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

/// The commit that `main` is.
pub(crate) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
pub(crate) const REPO: &str = "tests/tiny";
/// Where the hub keeps small files ready.
const CACHED: &str = "/api/resolve-cache/models";

/// A request that came.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) range: Option<String>,
    pub(crate) authorization: Option<String>,
}

/// What is answered.
#[derive(Debug, Clone, Default)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Vec<u8>,
    /// Hang up after so many bytes of the body.
    pub(crate) cut: Option<usize>,
    /// Do not hang up, but say nothing more.
    pub(crate) is_held: bool,
}

impl Reply {
    pub(crate) fn status(status: u16) -> Self {
        Self {
            status,
            ..Self::default()
        }
    }

    pub(crate) fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }
}

/// A connection, with or without TLS.
trait Connection: Read + Write {}
impl<T: Read + Write> Connection for T {}

/// TLS as a server speaks it.
pub(crate) type Tls = Option<Arc<rustls::ServerConfig>>;

/// A server of HTTP/1.1, one request a connection.
struct Server {
    port: u16,
    seen: Arc<Mutex<Vec<Seen>>>,
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    fn start(
        listener: TcpListener,
        tls: Tls,
        answer: impl Fn(&Seen) -> Reply + Send + 'static,
    ) -> Self {
        let port = listener.local_addr().unwrap().port();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let is_over = Arc::new(AtomicBool::new(false));
        let (log, over) = (Arc::clone(&seen), Arc::clone(&is_over));
        let thread = std::thread::spawn(move || {
            let mut held = Vec::new();
            for connection in listener.incoming() {
                if over.load(Ordering::Relaxed) {
                    return;
                }
                // A client that hangs up ends its own request alone.
                let connection = connection.unwrap();
                let mut connection: Box<dyn Connection> = match &tls {
                    None => Box::new(connection),
                    Some(tls) => {
                        let session = rustls::ServerConnection::new(Arc::clone(tls)).unwrap();
                        Box::new(rustls::StreamOwned::new(session, connection))
                    }
                };
                if let Ok(true) = serve(&mut *connection, &log, &answer) {
                    held.push(connection);
                }
            }
        });
        Self {
            port,
            seen,
            is_over,
            thread: Some(thread),
        }
    }

    fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(("127.0.0.1", self.port));
        self.thread.take().unwrap().join().unwrap();
    }
}

/// Answers one request; says whether the connection is to be held.
fn serve(
    connection: &mut dyn Connection,
    log: &Mutex<Vec<Seen>>,
    answer: &impl Fn(&Seen) -> Reply,
) -> std::io::Result<bool> {
    let mut lines = BufReader::new(&mut *connection).lines();
    let first = lines.next().unwrap_or_else(|| Ok(String::new()))?;
    let mut words = first.split(' ').map(str::to_owned);
    let mut seen = Seen {
        method: words.next().unwrap_or_default(),
        path: words.next().unwrap_or_default(),
        range: None,
        authorization: None,
    };
    for line in lines {
        let line = line?;
        let Some((name, value)) = line.split_once(": ") else {
            break;
        };
        match name.to_ascii_lowercase().as_str() {
            "range" => seen.range = Some(value.to_owned()),
            "authorization" => seen.authorization = Some(value.to_owned()),
            _ => {}
        }
    }
    log.lock().unwrap().push(seen.clone());
    let reply = answer(&seen);
    let mut head = format!("HTTP/1.1 {} x\r\nconnection: close\r\n", reply.status);
    for (name, value) in &reply.headers {
        write!(head, "{name}: {value}\r\n").unwrap();
    }
    if !reply
        .headers
        .iter()
        .any(|(name, _)| *name == "content-length")
    {
        write!(head, "content-length: {}\r\n", reply.body.len()).unwrap();
    }
    connection.write_all(head.as_bytes())?;
    connection.write_all(b"\r\n")?;
    if seen.method != "HEAD" {
        connection.write_all(&reply.body[..reply.cut.unwrap_or(reply.body.len())])?;
    }
    Ok(reply.is_held)
}

fn hex(algorithm: &'static Algorithm, bytes: &[u8]) -> String {
    let digest = digest(algorithm, bytes);
    digest.as_ref().iter().fold(String::new(), |mut hex, byte| {
        write!(hex, "{byte:02x}").unwrap();
        hex
    })
}

/// What the hub calls a file's ETag: SHA-256 of weights, which lie elsewhere,
/// git's id of everything else.
pub(crate) fn etag(file: &str, bytes: &[u8]) -> String {
    if is_large(file) {
        return hex(&SHA256, bytes);
    }
    let mut blob = format!("blob {}\0", bytes.len()).into_bytes();
    blob.extend_from_slice(bytes);
    hex(&SHA1_FOR_LEGACY_USE_ONLY, &blob)
}

fn is_large(file: &str) -> bool {
    file.ends_with(".safetensors")
}

type Files = BTreeMap<String, Vec<u8>>;
/// What is answered instead, if anything.
type Instead = Box<dyn FnMut(&Seen) -> Option<Reply> + Send>;

/// Both hosts.
pub(crate) struct FakeHub {
    endpoint: &'static str,
    hub: Server,
    bytes: Server,
}

impl FakeHub {
    /// A hub that has these files. `hub` and `bytes` may answer instead of it.
    pub(crate) fn start(files: Files, hub: Instead, bytes: Instead) -> Self {
        Self::with_tls(files, hub, bytes, [None, None])
    }

    /// The same; the hub's own host and the host of the bytes may speak TLS.
    pub(crate) fn with_tls(
        files: Files,
        mut hub: Instead,
        mut bytes: Instead,
        [hub_tls, bytes_tls]: [Tls; 2],
    ) -> Self {
        let scheme = |tls: &Tls| tls.as_ref().map_or("http", |_| "https");
        let endpoint = scheme(&hub_tls);
        let bind = || TcpListener::bind("127.0.0.1:0").unwrap();
        let blobs: BTreeMap<String, Vec<u8>> = files
            .iter()
            .map(|(file, content)| (etag(file, content), content.clone()))
            .collect();
        let (bytes_listener, hub_listener) = (bind(), bind());
        let port = bytes_listener.local_addr().unwrap().port();
        let blob = format!("{}://127.0.0.1:{port}/blob", scheme(&bytes_tls));
        let bytes = Mutex::new(move |seen: &Seen| {
            let name = seen.path.trim_start_matches("/blob/");
            let name = name.split('?').next().unwrap().to_owned();
            bytes(seen).unwrap_or_else(|| ranged(seen, &blobs[&name]))
        });
        let hub =
            Mutex::new(move |seen: &Seen| hub(seen).unwrap_or_else(|| answer(seen, &files, &blob)));
        Self {
            endpoint,
            bytes: Server::start(bytes_listener, bytes_tls, move |seen| {
                (bytes.lock().unwrap())(seen)
            }),
            hub: Server::start(hub_listener, hub_tls, move |seen| {
                (hub.lock().unwrap())(seen)
            }),
        }
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("{}://127.0.0.1:{}", self.endpoint, self.hub.port)
    }

    /// What the hub's own host was asked.
    pub(crate) fn asked(&self) -> Vec<Seen> {
        self.hub.seen()
    }

    /// What the host of the bytes was asked.
    pub(crate) fn fetched(&self) -> Vec<Seen> {
        self.bytes.seen()
    }
}

/// Nothing instead.
pub(crate) fn honest() -> Instead {
    Box::new(|_| None)
}

fn answer(seen: &Seen, files: &Files, blob: &str) -> Reply {
    let listings = ["main", COMMIT].map(|name| format!("/api/models/{REPO}/revision/{name}"));
    if listings.contains(&seen.path) {
        let siblings: Vec<_> = files
            .keys()
            .map(|f| serde_json::json!({"rfilename": f}))
            .collect();
        let listing = serde_json::json!({
            "id": REPO, "sha": COMMIT, "siblings": siblings, "tags": ["llama", "license:apache-2.0"],
        });
        return Reply::status(200).body(listing.to_string());
    }
    let path = seen.path.split('?').next().unwrap();
    let below = |place: &str| path.strip_prefix(&format!("{place}/{COMMIT}/"));
    let (asked, cached) = (format!("/{REPO}/resolve"), format!("{CACHED}/{REPO}"));
    let file = below(&asked).or_else(|| below(&cached));
    let Some((file, content)) = file.and_then(|file| Some((file, files.get(file)?))) else {
        return Reply::status(404);
    };
    let etag = etag(file, content);
    if !is_large(file) && path.starts_with(CACHED) {
        let mut reply = ranged(seen, content).with("etag", format!("\"{etag}\""));
        if seen.method == "HEAD" {
            reply = reply.with("content-length", content.len().to_string());
        }
        return reply;
    }
    if !is_large(file) {
        // A redirect within the hub, with a length of its own.
        return Reply::status(307)
            .with("x-linked-etag", format!("\"{etag}\""))
            .with(
                "location",
                format!("{cached}/{COMMIT}/{file}?etag=%22{etag}%22"),
            )
            .body("see there");
    }
    Reply::status(302)
        .with("x-linked-etag", format!("\"{etag}\""))
        .with("x-linked-size", content.len().to_string())
        // Signed addresses are credentials: their query must not be told.
        .with("location", format!("{blob}/{etag}?Signature=s3cret"))
}

/// A file, or the rest of it.
pub(crate) fn ranged(seen: &Seen, content: &[u8]) -> Reply {
    let from = seen.range.as_deref().map(|range| {
        let from = range
            .strip_prefix("bytes=")
            .unwrap()
            .strip_suffix('-')
            .unwrap();
        from.parse::<usize>().unwrap()
    });
    match from {
        None => Reply::status(200).body(content),
        Some(from) if from >= content.len() => Reply::status(416),
        Some(from) => Reply::status(206).body(&content[from..]).with(
            "content-range",
            format!("bytes {from}-{}/{}", content.len() - 1, content.len()),
        ),
    }
}

/// A proxy that tunnels. Returns its address and what it was asked for.
pub(crate) fn proxy() -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let asked = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&asked);
    // Lives as long as the test's process: it has nothing to end it.
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let mut client = client.unwrap();
            let mut lines = BufReader::new(&client).lines();
            let first = lines.next().unwrap().unwrap();
            while lines.next().unwrap().unwrap() != "" {}
            let target = first.split(' ').nth(1).unwrap().to_owned();
            let mut server = TcpStream::connect(&target).unwrap();
            log.lock().unwrap().push(first);
            client.write_all(b"HTTP/1.1 200 x\r\n\r\n").unwrap();
            let (mut from, mut to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
            std::thread::spawn(move || std::io::copy(&mut from, &mut to));
            std::thread::spawn(move || {
                let _ = std::io::copy(&mut server, &mut client);
                let _ = client.shutdown(std::net::Shutdown::Both);
            });
        }
    });
    (address, asked)
}
