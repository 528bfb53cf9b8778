//! llama.cpp's server, as a process of its own, over its HTTP API.

use super::{Level, Request};
use crate::cli::say;
use crate::models::Models;
use anyhow::Context as _;
use serde_json::{Value, json};
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Prompt and answer of the longest request fit one slot.
const SLOT_TOKENS: usize = 512;
const STARTS_WITHIN: Duration = Duration::from_secs(60);

pub(crate) struct Server {
    child: Child,
    port: u16,
}

impl Server {
    /// None where it is not set up.
    pub(crate) fn start(
        models: &Models,
        slots: usize,
        threads: usize,
    ) -> anyhow::Result<Option<Self>> {
        let Some(place) = &models.place else {
            return Ok(None);
        };
        let program = place.join("llama-server/bin/llama-server");
        let weights = place.join("models/qwen-0.5b-q8_0.gguf");
        if let Some(missing) = [&program, &weights].into_iter().find(|path| !path.exists()) {
            say(&format!(
                "peer: no {} (benches/peers/models sets it up)",
                missing.display()
            ));
            return Ok(None);
        }
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let number = |n: usize| n.to_string();
        let child = Command::new(program)
            .arg("--model")
            .arg(weights)
            .args(["--host", "127.0.0.1", "--port", &port.to_string()])
            .args([
                "--threads",
                &number(threads),
                "--threads-batch",
                &number(threads),
            ])
            .args([
                "--parallel",
                &number(slots),
                "--ctx-size",
                &number(slots * SLOT_TOKENS),
            ])
            .args(["--cache-ram", "0"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("llama-server does not start")?;
        let server = Self { child, port };
        let asked = Instant::now();
        while !server.is_healthy() {
            anyhow::ensure!(
                asked.elapsed() < STARTS_WITHIN,
                "llama-server does not get healthy"
            );
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(Some(server))
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    fn is_healthy(&self) -> bool {
        let ask = || -> anyhow::Result<bool> {
            let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
            stream.write_all(b"GET /health HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")?;
            let mut line = String::new();
            BufReader::new(stream).read_line(&mut line)?;
            Ok(line.contains(" 200 "))
        };
        ask().unwrap_or(false)
    }

    pub(crate) fn run(&self, requests: &[Request], clients: usize) -> anyhow::Result<Level> {
        let level = Mutex::new(Level::default());
        let next = AtomicUsize::new(0);
        let began = Instant::now();
        std::thread::scope(|scope| {
            let client = || -> anyhow::Result<()> {
                while let Some(request) = requests.get(next.fetch_add(1, Ordering::Relaxed)) {
                    self.answer(request, &level)?;
                }
                Ok(())
            };
            let clients: Vec<_> = (0..clients).map(|_| scope.spawn(client)).collect();
            for client in clients {
                client
                    .join()
                    .map_err(|_| anyhow::anyhow!("a client panicked"))??;
            }
            Ok::<_, anyhow::Error>(())
        })?;
        let mut level = level.into_inner().unwrap_or_default();
        level.wall_s = began.elapsed().as_secs_f64();
        Ok(level)
    }

    fn answer(&self, request: &Request, level: &Mutex<Level>) -> anyhow::Result<()> {
        let body = json!({
            "prompt": request.ids, "n_predict": request.tokens, "temperature": 0,
            "stream": true, "cache_prompt": false, "ignore_eos": true,
        })
        .to_string();
        let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
        stream.set_nodelay(true)?;
        let asked = Instant::now();
        write!(
            stream,
            "POST /completion HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        )?;
        let (mut first, mut between, mut tokens) = (None, Vec::new(), 0);
        let mut last = asked;
        for line in BufReader::new(stream).lines() {
            let line = line?;
            let Some(event) = line.strip_prefix("data: ") else {
                continue;
            };
            let event: Value = serde_json::from_str(event)?;
            let now = Instant::now();
            if event["stop"] == Value::Bool(true) {
                tokens = event["tokens_predicted"].as_u64().unwrap_or(0);
                break;
            }
            match first {
                None => first = Some((now - asked).as_secs_f64() * 1e3),
                Some(_) => between.push((now - last).as_secs_f64() * 1e3),
            }
            last = now;
        }
        anyhow::ensure!(tokens > 0, "llama-server answered without tokens");
        let mut level = level
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        level.tokens += usize::try_from(tokens)?;
        level.first_ms.extend(first);
        level.between_ms.extend(between);
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
