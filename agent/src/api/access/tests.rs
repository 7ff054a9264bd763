use super::*;
use crate::config::TokenSource;
use crate::error::describe;
use redwind_link::Secret;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use std::path::Path;

const READER: &str = "reader-0123456789abcdef";
const OPERATOR: &str = "operator-0123456789abcdef";

fn given(text: &str) -> Option<TokenSource> {
    Some(TokenSource::Given(Secret::from(text.to_owned())))
}

fn peer(certificate: Option<ClientCertificate>) -> Peer {
    Peer { address: ([127, 0, 0, 1], 9).into(), certificate, is_known: Arc::default() }
}

async fn load(config: &AccessConfig) -> (Access, AccessKeeper) {
    Access::load(config).await.unwrap()
}

async fn refused(config: AccessConfig) -> String {
    describe(&Access::load(&config).await.err().unwrap())
}

fn judged(access: &Access, authorization: Option<&str>) -> Result<Role, Refusal> {
    access.judge(&peer(None), authorization.map(str::as_bytes)).map(|caller| caller.role)
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
    assert!(access.encryption(Protocol::Http1).is_none());
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
    let (peer, known) = (peer(None), peer(None));
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
    let chain = [CertificateDer::from_pem_file(folder.path().join("cert.pem")).unwrap()];
    let shown = access.encryption(Protocol::Http1).unwrap().certificate(Some(&chain));
    let header = format!("Bearer {READER}");
    let role = |certificate: &Option<ClientCertificate>, header: Option<&str>| {
        access.judge(&peer(certificate.clone()), header.map(str::as_bytes)).map(|caller| caller.role)
    };
    assert_eq!(role(&None, Some(&header)), Err(Refusal::NoCertificate));
    assert_eq!(role(&shown, None), Err(Refusal::NoToken));
    assert_eq!(role(&shown, Some(&header)), Ok(Role::Reader));
    let certificates_alone = AccessConfig { reader: None, ..config };
    let (access, _keeper) = load(&certificates_alone).await;
    assert_eq!(access.judge(&peer(shown), None).map(|caller| caller.role), Ok(Role::Operator));
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
async fn a_token_that_is_no_longer_in_its_file_opens_nothing_whatever_else_the_file_holds() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokens");
    let config = AccessConfig { operator: Some(TokenSource::File(path.clone())), ..AccessConfig::default() };
    for left in [Some(""), Some("# none\n"), Some("short\n"), None] {
        std::fs::write(&path, format!("{OPERATOR}\n{READER}")).unwrap();
        let (access, mut keeper) = load(&config).await;
        let judged = |token: &str| judged(&access, Some(&format!("Bearer {token}")));
        assert_eq!((judged(OPERATOR), judged(READER)), (Ok(Role::Operator), Ok(Role::Operator)));
        match left {
            Some(left) => std::fs::write(&path, left).unwrap(),
            None => std::fs::remove_file(&path).unwrap(),
        }
        let told = keeper.look_again().await.join("");
        assert!(told.starts_with("operator-token: ") && told.ends_with("; it opens nothing"), "{told}");
        assert_eq!(judged(OPERATOR), Err(Refusal::UnknownToken), "{left:?}");
        // Without any token left it is still asked for.
        assert_eq!(access.judge(&peer(None), None).map(|caller| caller.role), Err(Refusal::NoToken), "{left:?}");
        // It counts again as soon as it is there again, beside a line that is no token.
        std::fs::write(&path, format!("short\n{READER}")).unwrap();
        assert!(keeper.look_again().await.join("").contains("line 1 is no token"));
        assert_eq!((judged(OPERATOR), judged(READER)), (Err(Refusal::UnknownToken), Ok(Role::Operator)), "{left:?}");
    }
}

#[tokio::test]
async fn a_token_that_is_taken_away_counts_no_more_while_another_file_cannot_be_used() {
    let folder = tempfile::tempdir().unwrap();
    let [readers, operators] = ["readers", "operators"].map(|name| folder.path().join(name));
    let config = AccessConfig {
        reader: Some(TokenSource::File(readers.clone())),
        operator: Some(TokenSource::File(operators.clone())),
        client_ca: None,
        ..write_identity(folder.path())
    };
    std::fs::write(&readers, READER).unwrap();
    std::fs::write(&operators, OPERATOR).unwrap();
    let (access, mut keeper) = load(&config).await;
    let judged = |token: &str| judged(&access, Some(&format!("Bearer {token}")));
    // The certificate has been renewed, its key not yet; one file is a folder, which cannot be read.
    let other = tempfile::tempdir().unwrap();
    std::fs::copy(write_identity(other.path()).cert.unwrap(), config.cert.as_ref().unwrap()).unwrap();
    std::fs::remove_file(&operators).unwrap();
    std::fs::create_dir(&operators).unwrap();
    std::fs::write(&readers, format!("new-{READER}")).unwrap();
    let told = keeper.look_again().await;
    let [certificate, tokens] = &told[..] else { panic!("{told:?}") };
    assert!(certificate.starts_with("listen-key: ") && tokens.starts_with("operator-token-file: "), "{told:?}");
    assert!(told.iter().all(|problem| problem.ends_with("; what was read before stays in force")), "{told:?}");
    assert_eq!(judged(READER), Err(Refusal::UnknownToken));
    assert_eq!(judged(&format!("new-{READER}")), Ok(Role::Reader));
    assert_eq!(judged(OPERATOR), Ok(Role::Operator), "a file that cannot be read does not say that it went");
    assert!(access.encryption(Protocol::Http2).is_some());
}
