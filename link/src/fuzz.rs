//! Every parser of what a server says, and of where it is, fuzzed; see `redwind_fuzz`.

use bytes::Bytes;
use redwind_fuzz::{Fuzz, Memory, pieces};

use crate::reply::{MalformedReply, ReplyScanner};
use crate::{LinkError, Reply, ServerInfo, ServerUrl, Version, sanitised};

/// The replies in what a connection brings, until they end or are none.
fn replies(pieces: &[&[u8]]) -> (Vec<Reply>, Result<(), MalformedReply>) {
    let (mut replies, mut bytes, mut scanner) = (Vec::new(), Vec::new(), ReplyScanner::default());
    for piece in pieces {
        bytes.extend_from_slice(piece);
        loop {
            match scanner.scan(&bytes) {
                Ok(Some(length)) => {
                    let rest = bytes.split_off(length);
                    match Reply::decode(&Bytes::from(std::mem::replace(&mut bytes, rest))) {
                        Ok(reply) => replies.push(reply),
                        Err(error) => return (replies, Err(error)),
                    }
                    scanner = ReplyScanner::default();
                }
                Ok(None) => break,
                Err(error) => return (replies, Err(error)),
            }
        }
    }
    (replies, Ok(()))
}

#[test]
fn reply() {
    let seeds: [&[u8]; 4] = [
        b"*6\r\n+OK\r\n-ERR no\r\n:-7\r\n$4\r\na\r\nb\r\n$-1\r\n*2\r\n*0\r\n*-1\r\n+next",
        b"+FULLRESYNC 8de1787ba490483314a4d30f1c628bc5025eb761 7542\r\n",
        b"*2\r\n*2\r\n*2\r\n*2\r\n*2\r\n*2\r\n*2\r\n*1\r\n:1\r\n:2\r\n:3\r\n:4\r\n:5\r\n:6\r\n:7\r\n:8\r\n",
        b"-MISCONF Redis is configured to save RDB snapshots\r\n:9223372036854775807\r\n",
    ];
    let memory = Memory { bytes: 64 << 10, per_byte: 256 };
    Fuzz::of("reply").seeds(seeds).memory(memory).run(|input| {
        let whole = replies(&[input]);
        assert_eq!(replies(&pieces(input)), whole, "the pieces do not matter");
        let error = LinkError::from_server(&[b"PSYNC"], input);
        let shown = sanitised(input);
        assert!(shown.chars().all(|char| !char.is_control()), "harmless in a log");
        let kinds: Vec<_> = whole.0.iter().take(3).map(std::mem::discriminant).collect();
        format!("{kinds:?} {:?} {}", whole.1, error.is_retryable())
    });
}

#[test]
fn info() {
    let seeds = [
        "# Server\r\nredis_version:7.0.15\r\nredis_mode:standalone\r\nrun_id:ffffffffffffffffffffffffffffffffffffffff\r\n\
         # Replication\r\nrole:master\r\nconnected_slaves:0\r\nmaster_replid:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n\
         master_replid2:0000000000000000000000000000000000000000\r\nmaster_repl_offset:1000\r\nsecond_repl_offset:-1\r\n\
         repl_backlog_active:1\r\nrepl_backlog_size:1048576\r\nrepl_backlog_first_byte_offset:1\r\n\
         repl_backlog_histlen:1000\r\n# Keyspace\r\ndb0:keys=1,expires=0,avg_ttl=0\r\n",
        "redis_version:7.2.4\nserver_name:valkey\nvalkey_version:9.0.1\nredis_mode:cluster\nrole:slave\n\
         master_host:h\nmaster_port:6379\nmaster_link_status:down\nslave_repl_offset:7\n# Modules\n\
         module:name=graph,ver=41002,api=1,filters=0,usedby=[],using=[],options=[]\n",
        "redis_version:255.255.255\nloading:1\nshutdown_in_milliseconds:99\nmaxmemory:18446744073709551615\n",
    ];
    Fuzz::of("info").seeds(seeds).run(|input| match ServerInfo::parse(&String::from_utf8_lossy(input)) {
        Ok(info) => {
            let kind = std::mem::discriminant(&info.kind);
            format!("{kind:?} {:?} {}", info.replication.map(|is| is.role), info.modules.is_some())
        }
        Err(error) => error.to_string(),
    });
}

#[test]
fn server_url() {
    let seeds = [
        "redis://user:p%40ss@[::1]:6379",
        "rediss://db.internal",
        "unix:///run/redis.sock",
        "redis+unix:///a%20b?x=1",
        "redis://:a-long-secret@127.0.0.1:65535/0",
    ];
    Fuzz::of("server-url").seeds(seeds).run(|input| match String::from_utf8_lossy(input).parse::<ServerUrl>() {
        Ok(url) => {
            format!("{} {} {}", url.is_tls(), url.username().is_some(), url.password().is_some())
        }
        Err(error) => error.to_string(),
    });
}

#[test]
fn version() {
    Fuzz::of("version").seeds(["7.0.15", "8.0-rc1", "6.2.6-v3", "4294967295.0.0"]).run(|input| {
        let text = String::from_utf8_lossy(input);
        match text.parse::<Version>() {
            Ok(version) => {
                assert_eq!(version.to_string().parse::<Version>().ok(), Some(version));
                "a version".to_owned()
            }
            Err(error) => error.to_string(),
        }
    });
}
