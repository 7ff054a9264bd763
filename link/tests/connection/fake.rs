//! Servers that answer by a script.

use std::sync::Arc;
use std::time::Duration;

use redwind_link::{AuthRefusal, Connection, LinkError, Reply, ServerUrl, TlsError, TlsOptions};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use crate::certificates::Certificates;

const LIMIT: Duration = Duration::from_secs(10);

/// How the script's answers go out.
#[derive(Clone, Copy, PartialEq)]
enum Pace {
    AtOnce,
    ByteByByte,
}

/// Answers each read of one connection with the next of `answers`; returns all it has read when
/// the client is gone.
async fn play<S>(mut stream: S, answers: Vec<Vec<u8>>, pace: Pace) -> String
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut heard = Vec::new();
    for answer in answers {
        if stream.read_buf(&mut heard).await.unwrap_or(0) == 0 {
            break;
        }
        let step = if pace == Pace::AtOnce { answer.len().max(1) } else { 1 };
        for piece in answer.chunks(step) {
            if stream.write_all(piece).await.is_err() {
                break;
            }
            tokio::task::yield_now().await;
        }
    }
    let _gone = stream.read_to_end(&mut heard).await;
    String::from_utf8_lossy(&heard).into_owned()
}

async fn server(answers: &[&[u8]], pace: Pace) -> (u16, JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let answers = answers.iter().map(|answer| answer.to_vec()).collect();
    let task = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        play(stream, answers, pace).await
    });
    (port, task)
}

async fn connect(url: &str) -> Result<Connection, LinkError> {
    let url: ServerUrl = url.parse().unwrap();
    Connection::connect(&url, &TlsOptions::default(), LIMIT).await
}

#[tokio::test]
async fn the_first_command_is_the_login() {
    for (userinfo, expected) in [
        ("", "*1\r\n$4\r\nPING\r\n"),
        (":pw@", "*2\r\n$4\r\nAUTH\r\n$2\r\npw\r\n"),
        ("me:pw@", "*3\r\n$4\r\nAUTH\r\n$2\r\nme\r\n$2\r\npw\r\n"),
    ] {
        let (port, server) = server(&[b"+OK\r\n"], Pace::AtOnce).await;
        drop(connect(&format!("redis://{userinfo}127.0.0.1:{port}")).await.unwrap());
        assert_eq!(server.await.unwrap(), expected);
    }
}

#[tokio::test]
async fn a_server_that_cannot_answer_ping_yet_is_connected_to() {
    for answer in ["-LOADING Redis is loading\r\n", "-MISCONF Redis is configured\r\n", "-NOPERM\r\n"] {
        let (port, _server) = server(&[answer.as_bytes()], Pace::AtOnce).await;
        connect(&format!("redis://127.0.0.1:{port}")).await.unwrap();
    }
    let (port, _server) = server(&[b"-NOAUTH Authentication required.\r\n"], Pace::AtOnce).await;
    let error = connect(&format!("redis://127.0.0.1:{port}")).await.unwrap_err();
    assert!(matches!(error, LinkError::Auth(AuthRefusal::Required)), "{error}");
}

#[tokio::test]
async fn replies_may_come_byte_by_byte() {
    let answers: [&[u8]; 2] = [b"+PONG\r\n", b"*2\r\n$5\r\nhe\r\no\r\n:5\r\n"];
    let (port, _server) = server(&answers, Pace::ByteByByte).await;
    let mut connection = connect(&format!("redis://127.0.0.1:{port}")).await.unwrap();
    let reply = connection.command(&[b"X"]).await.unwrap();
    assert_eq!(reply, Reply::Array(vec![Reply::Bulk("he\r\no".into()), Reply::Integer(5)]));
}

#[tokio::test]
async fn an_abandoned_command_ends_the_connection() {
    let (port, _server) = server(&[b"+PONG\r\n", b"", b"+late\r\n"], Pace::AtOnce).await;
    let mut connection = connect(&format!("redis://127.0.0.1:{port}")).await.unwrap();
    let outcome = connection.command_within(&[b"CONFIG", b"GET", b"x"], Duration::from_millis(20));
    let error = outcome.await.unwrap_err();
    assert!(matches!(error, LinkError::Timeout { .. }), "{error}");
    assert!(error.is_retryable() && error.to_string().contains("CONFIG GET"), "{error}");
    let error = connection.command(&[b"PING"]).await.unwrap_err();
    assert!(matches!(error, LinkError::Closed { .. }), "{error}");
}

#[tokio::test]
async fn what_is_no_redis_is_refused() {
    let (port, _server) = server(&[b"HTTP/1.1 400 Bad Request\r\n\r\n"], Pace::AtOnce).await;
    let error = connect(&format!("redis://127.0.0.1:{port}")).await.unwrap_err();
    assert!(matches!(error, LinkError::NotRedis { .. }) && !error.is_retryable(), "{error}");
}

#[tokio::test]
async fn nobody_there_is_worth_a_retry() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let error = connect(&format!("redis://127.0.0.1:{port}")).await.unwrap_err();
    assert!(matches!(error, LinkError::Connect { .. }) && error.is_retryable(), "{error}");
}

#[tokio::test]
async fn a_line_is_read_past_newlines_and_the_rest_is_kept() {
    let answers: [&[u8]; 2] = [b"+PONG\r\n", b"\n\n+FULLRESYNC abc 7\r\n\n$4\r\nRDB!*1"];
    for pace in [Pace::AtOnce, Pace::ByteByByte] {
        let (port, server) = server(&answers, pace).await;
        let mut connection = connect(&format!("redis://127.0.0.1:{port}")).await.unwrap();
        connection.send(&[b"PSYNC", b"?", b"-1"]).await.unwrap();
        assert_eq!(connection.read_line(LIMIT).await.unwrap(), "+FULLRESYNC abc 7");
        assert_eq!(connection.read_line(LIMIT).await.unwrap(), "$4");
        let (transport, mut ahead) = connection.into_stream();
        let (mut reader, writer) = transport.into_split().unwrap();
        while ahead.len() < 6 {
            assert_ne!(reader.read_buf(&mut ahead).await.unwrap(), 0);
        }
        assert_eq!(&ahead[..], b"RDB!*1");
        drop(writer);
        assert!(server.await.unwrap().ends_with("PSYNC\r\n$1\r\n?\r\n$2\r\n-1\r\n"));
    }
}

#[tokio::test]
async fn an_endless_line_is_refused() {
    let (port, _server) = server(&[b"+PONG\r\n", &[b'x'; 20_000]], Pace::AtOnce).await;
    let mut connection = connect(&format!("redis://127.0.0.1:{port}")).await.unwrap();
    connection.send(&[b"PSYNC"]).await.unwrap();
    let error = connection.read_line(LIMIT).await.unwrap_err();
    assert!(matches!(error, LinkError::Protocol { .. }), "{error}");
}

#[tokio::test]
async fn silence_instead_of_a_line_is_a_timeout() {
    let (port, _server) = server(&[b"+PONG\r\n"], Pace::AtOnce).await;
    let mut connection = connect(&format!("redis://127.0.0.1:{port}")).await.unwrap();
    let error = connection.read_line(Duration::from_millis(20)).await.unwrap_err();
    assert!(matches!(error, LinkError::Timeout { .. }), "{error}");
}

/// A TLS server for several connections, of which those that fail do not count.
async fn tls_server(certificates: &Certificates, answers: Vec<Vec<u8>>) -> u16 {
    let chain =
        CertificateDer::pem_file_iter(certificates.file("server.pem")).unwrap().collect::<Result<Vec<_>, _>>().unwrap();
    let key = PrivateKeyDer::from_pem_file(certificates.file("server.key")).unwrap();
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            if let Ok(stream) = acceptor.accept(stream).await {
                play(stream, answers.clone(), Pace::AtOnce).await;
            }
        }
    });
    port
}

#[tokio::test]
async fn tls_carries_the_stream_in_halves() {
    let certificates = Certificates::create();
    let port = tls_server(&certificates, vec![b"+PONG\r\n".to_vec(), b"stream".to_vec()]).await;
    let url: ServerUrl = format!("rediss://localhost:{port}").parse().unwrap();
    let connection = Connection::connect(&url, &certificates.anonymous(), LIMIT).await.unwrap();
    assert!(connection.is_tls());
    let (mut reader, mut writer) = connection.into_stream().0.into_split().unwrap();
    writer.write_all(b"go").await.unwrap();
    writer.flush().await.unwrap();
    let mut stream = [0; 6];
    reader.read_exact(&mut stream).await.unwrap();
    assert_eq!(&stream, b"stream");
}

#[tokio::test]
async fn disagreement_about_tls_is_named() {
    let certificates = Certificates::create();
    let port = tls_server(&certificates, vec![]).await;
    let error = connect(&format!("redis://127.0.0.1:{port}")).await.unwrap_err();
    assert!(matches!(error, LinkError::Tls(TlsError::ServerIsTls { .. })), "{error}");

    let (port, _server) = server(&[b"-ERR unknown command\r\n"], Pace::AtOnce).await;
    let url: ServerUrl = format!("rediss://127.0.0.1:{port}").parse().unwrap();
    let outcome = Connection::connect(&url, &certificates.anonymous(), LIMIT).await;
    let error = outcome.unwrap_err();
    assert!(matches!(error, LinkError::Tls(TlsError::ServerIsPlain { .. })), "{error}");

    let url: ServerUrl = "redis://127.0.0.1:1".parse().unwrap();
    let error = Connection::connect(&url, &certificates.anonymous(), LIMIT).await.unwrap_err();
    assert!(matches!(error, LinkError::Tls(TlsError::NotEncrypted { .. })), "{error}");
}

/// As Redis does: a TLS greeting holds no line, so it waits for more.
#[tokio::test]
async fn a_plain_port_that_is_silent_to_tls_is_found_long_before_the_time_limit() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let mut silent = Vec::new();
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            if stream.read_u8().await.unwrap() == b'*' {
                stream.write_all(b"+PONG\r\n").await.unwrap();
            }
            silent.push(stream);
        }
    });
    let certificates = Certificates::create();
    let url: ServerUrl = format!("rediss://127.0.0.1:{port}").parse().unwrap();
    let limit = Duration::from_secs(600);
    let options = certificates.anonymous();
    let connecting = Connection::connect(&url, &options, limit);
    let error = tokio::time::timeout(limit / 10, connecting).await.unwrap().unwrap_err();
    assert!(matches!(error, LinkError::Tls(TlsError::ServerIsPlain { .. })), "{error}");
}

#[tokio::test]
async fn a_certificate_of_another_authority_is_refused() {
    let certificates = Certificates::create();
    let port = tls_server(&certificates, vec![]).await;
    let url: ServerUrl = format!("rediss://127.0.0.1:{port}").parse().unwrap();
    let outcome = Connection::connect(&url, &Certificates::create().anonymous(), LIMIT).await;
    let error = outcome.unwrap_err();
    assert!(matches!(error, LinkError::Tls(TlsError::Refused { .. })), "{error}");
    assert!(!error.is_retryable());
}

#[tokio::test]
async fn unread_bytes_are_counted_by_the_kernel() {
    let (port, _server) = server(&[b"+PONG\r\n", b"12345"], Pace::AtOnce).await;
    let mut connection = connect(&format!("redis://127.0.0.1:{port}")).await.unwrap();
    connection.send(&[b"GO"]).await.unwrap();
    let (mut transport, mut ahead) = connection.into_stream();
    let deadline = tokio::time::Instant::now() + LIMIT;
    while transport.unread_bytes().unwrap() < 5 {
        assert!(tokio::time::Instant::now() < deadline);
        tokio::task::yield_now().await;
    }
    assert_eq!(transport.read_buf(&mut ahead).await.unwrap(), 5);
    assert_eq!(transport.unread_bytes().unwrap(), 0);
}
