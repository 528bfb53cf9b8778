//! HTTP/1.1 by hand: a client that can leave in the middle of an answer.

use std::collections::BTreeMap;
use std::time::Duration;
use tiermesh_harness::Daemon;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// An exchange as far as it came.
#[derive(Debug, Default)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: String,
}

impl Reply {
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("no JSON: {self:?}"))
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    /// The text of a stream of chat chunks, and the last event's id.
    pub(crate) fn said(&self) -> (String, Option<String>) {
        let (mut text, mut last) = (String::new(), None);
        // The last one may have come in part.
        let whole = self.body.rfind("\n\n").map_or("", |end| &self.body[..end]);
        for event in whole.split("\n\n") {
            for line in event.lines() {
                if let Some(id) = line.strip_prefix("id: ") {
                    last = Some(id.to_owned());
                }
                let Some(data) = line.strip_prefix("data: ").filter(|d| *d != "[DONE]") else {
                    continue;
                };
                let chunk: serde_json::Value = serde_json::from_str(data).unwrap();
                assert!(chunk["error"].is_null(), "{chunk}");
                let delta = &chunk["choices"][0]["delta"]["content"];
                text.push_str(delta.as_str().unwrap_or_default());
            }
        }
        (text, last)
    }
}

/// Posts JSON, and reads until the end or until `enough`; then the connection
/// is dropped.
pub(crate) async fn post(
    daemon: &Daemon,
    path: &str,
    headers: &[(&str, &str)],
    body: &serde_json::Value,
    enough: impl Fn(&Reply) -> bool,
) -> Reply {
    let address = daemon.endpoint().trim_start_matches("http://");
    let mut socket = TcpStream::connect(address).await.unwrap();
    let body = body.to_string();
    let mut head = format!(
        "POST {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n",
        body.len()
    );
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    let request = format!("{head}\r\n{body}");
    socket.write_all(request.as_bytes()).await.unwrap();
    let (mut bytes, mut part) = (Vec::new(), [0; 4096]);
    loop {
        let read = socket.read(&mut part);
        let read = tokio::time::timeout(Duration::from_secs(60), read).await;
        let read = read.expect("the door answers").unwrap();
        bytes.extend_from_slice(&part[..read]);
        let reply = parse(&bytes);
        if read == 0 || enough(&reply) {
            return reply;
        }
    }
}

fn parse(bytes: &[u8]) -> Reply {
    let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else {
        return Reply::default();
    };
    let head = std::str::from_utf8(&bytes[..end]).unwrap();
    let mut lines = head.split("\r\n");
    let status = lines.next().unwrap().split(' ').nth(1).unwrap();
    let headers: BTreeMap<_, _> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let chunked = headers
        .get("transfer-encoding")
        .is_some_and(|v| v == "chunked");
    let rest = &bytes[end + 4..];
    let body = if chunked { joined(rest) } else { rest.to_vec() };
    Reply {
        status: status.parse().unwrap(),
        headers,
        // A character may have come in part.
        body: String::from_utf8_lossy(&body).into_owned(),
    }
}

fn joined(mut chunks: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    while let Some(end) = chunks.windows(2).position(|two| two == b"\r\n") {
        let size = std::str::from_utf8(&chunks[..end]).unwrap();
        let size = usize::from_str_radix(size, 16).unwrap_or(0);
        let there = &chunks[end + 2..];
        if size == 0 || there.len() < size + 2 {
            body.extend_from_slice(&there[..there.len().min(size)]);
            break;
        }
        body.extend_from_slice(&there[..size]);
        chunks = &there[size + 2..];
    }
    body
}
