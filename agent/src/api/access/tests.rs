use super::*;
use crate::config::TokenSource;
use redwind_link::Secret;
use std::path::Path;

const READER: &str = "reader-0123456789abcdef";
const OPERATOR: &str = "operator-0123456789abcdef";

fn given(text: &str) -> Option<TokenSource> {
    Some(TokenSource::Given(Secret::from(text.to_owned())))
}

fn peer(has_certificate: bool) -> Peer {
    Peer { address: ([127, 0, 0, 1], 9).into(), has_certificate, is_known: Arc::default() }
}

async fn load(config: &AccessConfig) -> (Access, AccessKeeper) {
    Access::load(config).await.unwrap()
}

async fn refused(config: AccessConfig) -> String {
    describe(&Access::load(&config).await.err().unwrap())
}

fn judged(access: &Access, authorization: Option<&str>) -> Result<Role, Refusal> {
    access.judge(&peer(false), authorization.map(str::as_bytes)).map(|caller| caller.role)
}

/// A certificate that is its own authority, in a folder; the settings that ask a client for the same.
pub(crate) fn write_identity(folder: &Path) -> AccessConfig {
    let rcgen::CertifiedKey { cert, signing_key } =
        rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let write = |name: &str, pem: String| {
        std::fs::write(folder.join(name), pem).unwrap();
        Some(folder.join(name))
    };
    AccessConfig {
        cert: write("cert.pem", cert.pem()),
        key: write("key.pem", signing_key.serialize_pem()),
        client_ca: write("ca.pem", cert.pem()),
        ..AccessConfig::default()
    }
}

#[tokio::test]
async fn without_anything_asked_for_everybody_is_an_operator() {
    let (access, _keeper) = load(&AccessConfig::default()).await;
    assert_eq!(judged(&access, None), Ok(Role::Operator));
    assert!(access.tls(Protocol::Http1).is_none());
}

#[tokio::test]
async fn a_token_tells_the_role() {
    let text = format!("# two, while they are changed\n\n{READER}\r\nsecond-{READER}\n");
    let config = AccessConfig { reader: given(&text), operator: given(OPERATOR), ..AccessConfig::default() };
    let (access, _keeper) = load(&config).await;
    for (header, expected) in [
        (format!("Bearer {READER}"), Ok(Role::Reader)),
        (format!("bearer second-{READER}"), Ok(Role::Reader)),
        (format!("Bearer {OPERATOR}"), Ok(Role::Operator)),
        (format!("Bearer {OPERATOR} "), Err(Refusal::UnknownToken)),
        (format!("Bearer {}", &OPERATOR[1..]), Err(Refusal::UnknownToken)),
        ("Bearer ".to_owned(), Err(Refusal::UnknownToken)),
        (format!("Basic {OPERATOR}"), Err(Refusal::NoToken)),
        (OPERATOR.to_owned(), Err(Refusal::NoToken)),
    ] {
        assert_eq!(judged(&access, Some(&header)), expected, "{header}");
    }
    assert_eq!(judged(&access, None), Err(Refusal::NoToken));
    let (peer, known) = (peer(false), peer(false));
    assert!(access.judge(&peer, None).is_err() && !peer.is_known.load(Ordering::Relaxed));
    assert!(access.judge(&known, Some(format!("Bearer {READER}").as_bytes())).is_ok());
    assert!(known.is_known.load(Ordering::Relaxed));
    assert!(!format!("{access:?}{config:?}").contains("0123456789abcdef"));
}

#[tokio::test]
async fn where_certificates_are_asked_for_no_token_does_instead() {
    let folder = tempfile::tempdir().unwrap();
    let config = AccessConfig { reader: given(READER), ..write_identity(folder.path()) };
    let (access, _keeper) = load(&config).await;
    let header = format!("Bearer {READER}");
    let role = |certificate, header: Option<&str>| {
        access.judge(&peer(certificate), header.map(str::as_bytes)).map(|caller| caller.role)
    };
    assert_eq!(role(false, Some(&header)), Err(Refusal::NoCertificate));
    assert_eq!(role(true, None), Err(Refusal::NoToken));
    assert_eq!(role(true, Some(&header)), Ok(Role::Reader));
    let certificates_alone = AccessConfig { reader: None, ..config };
    let (access, _keeper) = load(&certificates_alone).await;
    assert_eq!(access.judge(&peer(true), None).map(|caller| caller.role), Ok(Role::Operator));
}

#[tokio::test]
async fn a_file_that_cannot_be_used_is_named_and_not_repeated() {
    let folder = tempfile::tempdir().unwrap();
    let file = |text: &str| {
        let path = folder.path().join("file");
        std::fs::write(&path, text).unwrap();
        path
    };
    let token = |text| AccessConfig { reader: Some(TokenSource::File(file(text))), ..AccessConfig::default() };
    for (text, expected) in [
        ("\ncanary", "read-token: line 2 is no token"),
        ("canary canary canary canary", "read-token: line 1 is no token"),
        ("# nothing\n", "read-token: there is no token"),
    ] {
        let error = refused(token(text)).await;
        assert!(error.starts_with(expected) && !error.contains("canary"), "{error}");
    }
    let missing = AccessConfig { operator: Some(TokenSource::File("/nowhere".into())), ..AccessConfig::default() };
    assert!(refused(missing).await.starts_with("operator-token-file: cannot read /nowhere"));
    let identity = || write_identity(folder.path());
    let error = refused(AccessConfig { cert: Some(file("canary")), ..identity() }).await;
    assert!(error.starts_with("listen-cert: ") && !error.contains("canary"), "{error}");
    let error = refused(AccessConfig { client_ca: Some(file("canary")), ..identity() }).await;
    assert!(error.starts_with("listen-client-ca: ") && !error.contains("canary"), "{error}");
    let other = tempfile::tempdir().unwrap();
    let error = refused(AccessConfig { key: write_identity(other.path()).key, ..identity() }).await;
    assert!(error.starts_with("listen-key: "), "{error}");
}

#[tokio::test]
async fn a_file_that_changes_counts_and_one_that_breaks_does_not() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokens");
    std::fs::write(&path, READER).unwrap();
    let config = AccessConfig { reader: Some(TokenSource::File(path.clone())), ..AccessConfig::default() };
    let (access, mut keeper) = load(&config).await;
    let reader = || judged(&access, Some(&format!("Bearer {READER}")));
    assert_eq!(reader(), Ok(Role::Reader));
    std::fs::write(&path, "short").unwrap();
    assert!(keeper.look_again().await.is_err());
    assert_eq!(reader(), Ok(Role::Reader));
    std::fs::write(&path, OPERATOR).unwrap();
    keeper.look_again().await.unwrap();
    assert_eq!(reader(), Err(Refusal::UnknownToken));
}
