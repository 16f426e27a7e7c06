//! What the real client of the store makes of answers: a small HTTP server gives each of them.

use super::*;
use crate::error::Kind::{self, Config, Halt, Retry};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

#[derive(Clone, Copy)]
enum Answer {
    /// Status and S3's code, to everything but HEAD, which is answered 404.
    Refusal(u16, &'static str),
    /// 200, and an error in the body.
    Masked(&'static str),
    Silence,
    HangUp,
}

/// A store on a server that answers everything alike.
async fn answering(answer: Answer) -> Store {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let endpoint = format!("http://{}", listener.local_addr().expect("address"));
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            tokio::spawn(serve(client, answer));
        }
    });
    at(&endpoint)
}

fn at(endpoint: &str) -> Store {
    let options = [
        ("AWS_ENDPOINT", endpoint),
        ("AWS_ALLOW_HTTP", "true"),
        ("AWS_ACCESS_KEY_ID", "key"),
        ("AWS_SECRET_ACCESS_KEY", "secret"),
        ("AWS_TIMEOUT", "400ms"),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()));
    Store::open("s3://bucket/lake", &options).expect("a store")
}

async fn serve(mut client: TcpStream, answer: Answer) -> Option<()> {
    let mut request = Vec::new();
    let mut piece = vec![0; 4096];
    let head = loop {
        let read = client.read(&mut piece).await.ok().filter(|n| *n > 0)?;
        request.extend_from_slice(&piece[..read]);
        let text = String::from_utf8_lossy(&request).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            let is_length = name.eq_ignore_ascii_case("content-length");
            is_length.then(|| value.trim().parse::<usize>().ok()).flatten()
        });
        if body.len() >= length.unwrap_or(0) {
            break head.to_owned();
        }
    };
    let is_head = head.starts_with("HEAD ");
    let (status, code) = match answer {
        Answer::HangUp => return None,
        Answer::Silence => {
            // Until the client goes.
            while client.read(&mut piece).await.is_ok_and(|n| n > 0) {}
            return None;
        }
        Answer::Refusal(..) | Answer::Masked(_) if is_head => (404, ""),
        Answer::Refusal(status, code) => (status, code),
        Answer::Masked(code) => (200, code),
    };
    let body = match code {
        "" => String::new(),
        code => format!(
            "<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>no</Message></Error>"
        ),
    };
    let answer = format!(
        "HTTP/1.1 {status} X\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{}",
        body.len(),
        if is_head { "" } else { &body }
    );
    client.write_all(answer.as_bytes()).await.ok()
}

struct Case {
    answer: Answer,
    /// Of putting a part and of ending an upload.
    staging: Kind,
    /// Of copying a committed file to its name.
    completing: Kind,
    reading: Kind,
    starting: Kind,
    words: &'static str,
}

const fn case(
    answer: Answer,
    staging: Kind,
    completing: Kind,
    reading: Kind,
    starting: Kind,
    words: &'static str,
) -> Case {
    Case { answer, staging, completing, reading, starting, words }
}

use Answer::{HangUp, Masked, Refusal, Silence};

const CASES: [Case; 25] = [
    case(Refusal(403, "AccessDenied"), Retry, Retry, Retry, Config, "AWS_ACCESS_KEY_ID"),
    case(Refusal(403, "InvalidAccessKeyId"), Retry, Retry, Retry, Config, "AWS_ACCESS_KEY_ID"),
    case(Refusal(403, "SignatureDoesNotMatch"), Retry, Retry, Retry, Config, "AWS_SECRET_ACCESS"),
    case(Refusal(403, "RequestTimeTooSkewed"), Retry, Retry, Retry, Config, "clock is wrong"),
    case(Refusal(401, ""), Retry, Retry, Retry, Config, "AWS_ACCESS_KEY_ID"),
    case(Refusal(400, "ExpiredToken"), Retry, Retry, Retry, Config, "AWS_ACCESS_KEY_ID"),
    case(Refusal(400, "RequestTimeout"), Retry, Retry, Retry, Retry, ""),
    case(Refusal(400, "InvalidPart"), Retry, Halt, Halt, Config, ""),
    case(Refusal(400, "InvalidPartOrder"), Retry, Halt, Halt, Config, ""),
    case(Refusal(400, "EntityTooSmall"), Halt, Halt, Halt, Config, "limits on parts"),
    case(Refusal(400, "InvalidRequest"), Halt, Halt, Halt, Config, "refuses the request"),
    case(Refusal(400, "AuthorizationHeaderMalformed"), Halt, Halt, Halt, Config, "AWS_REGION"),
    case(Refusal(301, "PermanentRedirect"), Halt, Halt, Halt, Config, "AWS_REGION"),
    case(Refusal(404, "NoSuchBucket"), Retry, Retry, Retry, Config, "create it or correct --lake"),
    case(Refusal(404, "NoSuchKey"), Retry, Halt, Halt, Config, ""),
    case(Refusal(404, "NoSuchUpload"), Retry, Halt, Halt, Config, ""),
    case(Refusal(409, "OperationAborted"), Retry, Retry, Retry, Retry, ""),
    case(Refusal(412, "PreconditionFailed"), Halt, Halt, Halt, Config, "refuses the request"),
    case(Refusal(429, "TooManyRequests"), Retry, Retry, Retry, Retry, ""),
    case(Refusal(500, "InternalError"), Retry, Retry, Retry, Retry, ""),
    case(Refusal(501, "NotImplemented"), Halt, Halt, Halt, Config, "cannot do this"),
    case(Refusal(503, "SlowDown"), Retry, Retry, Retry, Retry, ""),
    case(Refusal(507, "XMinioStorageFull"), Retry, Retry, Retry, Retry, "free some space"),
    case(Silence, Retry, Retry, Retry, Retry, ""),
    case(HangUp, Retry, Retry, Retry, Retry, ""),
];

async fn holds(case: &Case) {
    let store = answering(case.answer).await;
    let upload = UploadId("11111111-1111-4111-8111-111111111111/id".into());
    let told = |what: &str, error: Error, kind: Kind| {
        assert_eq!(error.kind, kind, "{what}: {error}");
        let is_told = error.context.contains(case.words);
        assert!(is_told || what == "complete" && kind == Halt, "{what}: {error}");
    };
    let (part, seal, complete, read, probe) = tokio::join!(
        store.put_part("x", &upload, 0, Bytes::from_static(b"part")),
        async { store.seal("x", &upload, &["tag".to_owned()]).await },
        store.complete("x", &upload, 4),
        store.read("x"),
        store.probe(),
    );
    let error = part.expect_err("put");
    assert_eq!(error.kind, case.staging, "put: {error}");
    told("seal", seal.expect_err("seal"), case.staging);
    told("complete", complete.expect_err("complete"), case.completing);
    told("read", read.expect_err("read"), case.reading);
    told("probe", probe.expect_err("probe"), case.starting);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_answer_of_a_store_is_what_the_table_says() {
    futures::future::join_all(CASES.iter().map(holds)).await;
}

#[tokio::test]
async fn an_error_behind_status_200_is_no_success() {
    for code in ["InternalError", "SlowDown"] {
        let store = answering(Masked(code)).await;
        let upload = UploadId("11111111-1111-4111-8111-111111111111/id".into());
        let error = store.complete("x", &upload, 4).await.expect_err(code);
        assert_eq!(error.kind, Retry, "{error}");
        let error = store.seal("x", &upload, &["tag".to_owned()]).await.expect_err(code);
        assert_eq!(error.kind, Retry, "{error}");
    }
}

#[tokio::test]
async fn no_server_and_no_tls_are_waited_for() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("address");
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            tokio::spawn(serve(client, HangUp));
        }
    });
    for endpoint in ["http://127.0.0.1:1".to_owned(), format!("https://{address}")] {
        let store = at(&endpoint);
        let upload = UploadId("11111111-1111-4111-8111-111111111111/id".into());
        for error in [
            store.begin("x").await.expect_err("begin"),
            store.seal("x", &upload, &["tag".to_owned()]).await.expect_err("seal"),
            store.complete("x", &upload, 4).await.expect_err("complete"),
            store.probe().await.expect_err("probe"),
        ] {
            assert_eq!(error.kind, Retry, "{endpoint}: {error}");
        }
    }
}
