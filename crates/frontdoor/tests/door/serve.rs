//! The port: strangers, bounds, TLS and the drain.

use crate::fake::{End, Fake, Script, open, open_with};
use crate::grpc::{all, channel, prompt};
use crate::raw_http::{exchange, exchange_on, get};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tiermesh_proto::v1::inference_client::InferenceClient;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tonic::Code;
use tonic::transport::{Certificate, Channel, ClientTlsConfig};
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus};

#[tokio::test]
async fn garbage_hurts_nobody_else() {
    let fake = Fake::new(Script {
        end: End::Hang,
        ..Script::default()
    });
    let house = open(&fake).await;
    let mut client = InferenceClient::new(channel(house.address).await);
    let mut stream = client.infer(prompt()).await.unwrap().into_inner();
    stream.message().await.unwrap();
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let bad_frame = [&preface[..], &[0xff; 64]].concat();
    let garbage: [&[u8]; 5] = [
        &[0_u8; 512],
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET / HTTP/9.9\r\n\r\n",
        &bad_frame,
        b"PRI * HT",
    ];
    for bytes in garbage {
        let mut stranger = TcpStream::connect(house.address).await.unwrap();
        stranger.write_all(bytes).await.unwrap();
        stranger.shutdown().await.unwrap();
        let mut answer = Vec::new();
        let _ = stranger.read_to_end(&mut answer).await;
    }
    assert!(stream.message().await.unwrap().is_some());
    assert_eq!(exchange(house.address, &get("/health")).await.status, 200);
}

#[tokio::test]
async fn silent_connections_are_closed_and_counted() {
    let fake = Fake::new(Script::default());
    let house = open_with(&fake, None, |options| {
        options.read_timeout = Duration::from_millis(200);
        options.max_connections = 2;
    })
    .await;
    let mut silent = TcpStream::connect(house.address).await.unwrap();
    let mut slow = TcpStream::connect(house.address).await.unwrap();
    slow.write_all(b"PRI * HTTP/2.0").await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    let mut surplus = TcpStream::connect(house.address).await.unwrap();
    let mut nothing = [0_u8; 1];
    assert!(
        matches!(surplus.read(&mut nothing).await, Ok(0) | Err(_)),
        "closed at once"
    );
    let begun = Instant::now();
    assert!(matches!(silent.read(&mut nothing).await, Ok(0) | Err(_)));
    let mut rest = Vec::new();
    let _ = slow.read_to_end(&mut rest).await;
    assert!(
        begun.elapsed() < Duration::from_secs(2),
        "{:?}",
        begun.elapsed()
    );
    assert_eq!(exchange(house.address, &get("/health")).await.status, 200);
}

#[tokio::test]
async fn a_drain_lets_streams_finish_and_ends_watches() {
    let fake = Fake::new(Script {
        gap: Duration::from_millis(100),
        ..Script::default()
    });
    let mut house = open(&fake).await;
    let channel = channel(house.address).await;
    let mut health = HealthClient::new(channel.clone());
    let request = HealthCheckRequest::default();
    let mut watch = health.watch(request).await.unwrap().into_inner();
    let first = watch.message().await.unwrap().unwrap();
    assert_eq!(first.status(), ServingStatus::Serving);
    let response = InferenceClient::new(channel).infer(prompt()).await.unwrap();
    house.stop.take().unwrap().send(()).unwrap();
    let (events, end) = all(response.into_inner()).await;
    end.unwrap();
    assert_eq!(events.len(), 6);
    let drained = watch.message().await.unwrap().unwrap();
    assert_eq!(drained.status(), ServingStatus::NotServing);
    let served = tokio::time::timeout(Duration::from_secs(3), &mut house.served).await;
    served.expect("drained in time").unwrap().unwrap();
    assert!(TcpStream::connect(house.address).await.is_err());
}

#[tokio::test]
async fn a_drain_ends_in_bounded_time() {
    let fake = Fake::new(Script {
        end: End::Hang,
        ..Script::default()
    });
    let mut house = open_with(&fake, None, |options| {
        options.drain_timeout = Duration::from_millis(200);
    })
    .await;
    let mut client = InferenceClient::new(channel(house.address).await);
    let response = client.infer(prompt()).await.unwrap();
    let begun = Instant::now();
    house.stop.take().unwrap().send(()).unwrap();
    let (_, end) = all(response.into_inner()).await;
    assert!(end.is_err());
    (&mut house.served).await.unwrap().unwrap();
    assert!(begun.elapsed() < Duration::from_secs(2));
    fake.all_dropped().await;
}

#[tokio::test]
async fn dropping_the_door_cuts_everything_off() {
    let fake = Fake::new(Script {
        end: End::Hang,
        ..Script::default()
    });
    let house = open(&fake).await;
    let mut client = InferenceClient::new(channel(house.address).await);
    let response = client.infer(prompt()).await.unwrap();
    drop(house);
    let (_, end) = all(response.into_inner()).await;
    assert_ne!(end.unwrap_err().code(), Code::Ok);
    fake.all_dropped().await;
}

#[tokio::test]
async fn both_protocols_speak_tls_on_one_port() {
    let key = rcgen::generate_simple_self_signed(["door.test".to_owned()]).unwrap();
    let certificate = key.cert.der().clone();
    let private = rustls::pki_types::PrivateKeyDer::Pkcs8(key.signing_key.serialize_der().into());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], private)
        .unwrap();
    let house = open_with(
        &Fake::new(Script::default()),
        Some(Arc::new(config)),
        |_| {},
    )
    .await;

    let tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(key.cert.pem()))
        .domain_name("door.test");
    let endpoint = Channel::from_shared(format!("https://{}", house.address)).unwrap();
    let channel = endpoint.tls_config(tls).unwrap().connect().await.unwrap();
    let response = InferenceClient::new(channel).infer(prompt()).await.unwrap();
    assert_eq!(all(response.into_inner()).await.0.len(), 6);

    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate).unwrap();
    let client = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(client));
    let tcp = TcpStream::connect(house.address).await.unwrap();
    let name = "door.test".try_into().unwrap();
    let stream = connector.connect(name, tcp).await.unwrap();
    assert_eq!(exchange_on(stream, &get("/health")).await.status, 200);
}
