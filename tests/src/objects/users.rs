//! Users of an S3 server that enforces policies: moto, which then checks signatures as well.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

use super::{Kind, ObjectServer};
use crate::redwind::StoreAddress;

/// Requests of one user's making: the user, the policy, the key.
const REQUESTS_EACH: usize = 3;

impl ObjectServer {
    /// Starts a server that lets each user do what the policy at the same place allows, and nothing else;
    /// tells how each reaches it. Or says that `story` is skipped.
    ///
    /// # Panics
    /// When it is installed and does not start, or takes no policy.
    pub fn start_guarded(policies: &[&str], story: &str) -> Option<(Self, Vec<StoreAddress>)> {
        // the bucket and the users are made before anybody is asked who he is
        let unguarded = (1 + REQUESTS_EACH * policies.len()).to_string();
        let server = Self::start_with(Kind::Moto, story, &[("INITIAL_NO_AUTH_ACTION_COUNT", &unguarded)])?;
        let users = policies.iter().enumerate().map(|(number, policy)| {
            let [key, secret] = make_user(server.addr, &format!("user-{number}"), policy);
            let mut store = server.store();
            for (name, value) in &mut store.env {
                match name.as_str() {
                    "AWS_ACCESS_KEY_ID" => value.clone_from(&key),
                    "AWS_SECRET_ACCESS_KEY" => value.clone_from(&secret),
                    _ => {}
                }
            }
            store
        });
        let users = users.collect();
        Some((server, users))
    }
}

/// Makes a user with one policy; gives its access key and secret.
fn make_user(addr: SocketAddr, name: &str, policy: &str) -> [String; 2] {
    ask(addr, &format!("Action=CreateUser&UserName={name}"));
    let document = percent_encoded(policy);
    ask(addr, &format!("Action=PutUserPolicy&UserName={name}&PolicyName=its&PolicyDocument={document}"));
    let made = ask(addr, &format!("Action=CreateAccessKey&UserName={name}"));
    let field = |tag: &str| {
        let (_, after) = made.split_once(&format!("<{tag}>")).expect("the answer holds a key");
        after.split_once('<').expect("the tag is closed").0.to_owned()
    };
    ["AccessKeyId", "SecretAccessKey"].map(field)
}

/// One request of the IAM query API.
fn ask(addr: SocketAddr, form: &str) -> String {
    let form = format!("{form}&Version=2010-05-08");
    let scope = "Credential=any/20240101/us-east-1/iam/aws4_request, SignedHeaders=host, Signature=0";
    let request = format!(
        "POST / HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\nAuthorization: AWS4-HMAC-SHA256 {scope}\r\n\
         Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n\r\n{form}",
        form.len()
    );
    let mut stream = TcpStream::connect(addr).expect("it listens");
    stream.write_all(request.as_bytes()).expect("it reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("it answers");
    assert_eq!(answer.split_whitespace().nth(1), Some("200"), "{form}: {answer}");
    answer
}

fn percent_encoded(text: &str) -> String {
    let encode =
        |byte: u8| if byte.is_ascii_alphanumeric() { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    text.bytes().map(encode).collect()
}
