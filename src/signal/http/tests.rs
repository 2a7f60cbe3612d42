//! Every status of WHIP and WHEP, with a director that gives scripted answers on a thread of its own.

use std::collections::BTreeMap;
use std::sync::mpsc::{self, Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, Request as HttpRequest, StatusCode, header};
use tower::ServiceExt;

use super::*;
use crate::config::{IceServer, Keys};
use crate::signal::api::{Join, Joined, Patched, Purpose, Refusal, Request, SessionPath, SessionView};
use crate::signal::auth::{Claims, VideoGrants, sign};
use crate::signal::negotiate::NegotiateError;

const SECRET: &str = "0123456789abcdef0123456789abcdef";
const OFFER: &str = "v=0\r\n";

/// What the director was asked, as text.
type Seen = Arc<Mutex<Vec<String>>>;

/// A director that decides by the room's name.
fn director(requests: Receiver<Request>, seen: Seen) {
    let note = |text: String| seen.lock().unwrap().push(text);
    let known = |path: &SessionPath| path.session == "S-e_1" && path.room == "röom 1" && path.purpose == Purpose::Publish;
    for request in requests {
        match request {
            Request::Join { join, reply } => {
                note(format!("{:?} {} {:?} {:?} {}", join.purpose, join.room, join.identity, join.user_agent, join.offer.len()));
                reply.send(joined(&join));
            }
            Request::Patch { path, if_match, fragment, reply } => reply.send(match () {
                () if !known(&path) => Err(Refusal::UnknownSession),
                () if !if_match.accepts("gen1") => Err(Refusal::StaleTag { current: "gen1".into() }),
                () if fragment.contains("ice-ufrag:new") => {
                    Ok(Patched::Restarted { etag: "gen2".into(), fragment: "a=ice-ufrag:mine\r\n".into() })
                }
                () if fragment == "bad" => Err(Refusal::Offer(NegotiateError::NotSdp { reason: "no line".into() })),
                () => Ok(Patched::NoContent),
            }),
            Request::Leave { path, reply } => reply.send(if known(&path) { Ok(()) } else { Err(Refusal::UnknownSession) }),
            Request::Probe { path, reply } => {
                reply.send(if known(&path) { Ok("gen1".into()) } else { Err(Refusal::UnknownSession) });
            }
            Request::Describe { path, reply } if path.session == "S-e_1" => {
                reply.send(Ok(SessionView { target_bitrate: Some(900_000), ..SessionView::default() }))
            }
            Request::Describe { reply, .. } => reply.send(Err(Refusal::UnknownSession)),
            Request::Layer { path, wish, reply } => reply.send(match wish.encoding_id.as_deref() {
                _ if path.session != "S-e_1" => Err(Refusal::UnknownSession),
                Some("x") => Err(Refusal::Layer { reason: "the encodings are: q, h, f".into() }),
                _ => {
                    note(format!("{wish:?}"));
                    Ok(())
                }
            }),
            Request::Seen { path, seen, reply } => {
                note(format!("{seen:?}"));
                reply.send(if path.session == "S-e_1" { Ok(()) } else { Err(Refusal::UnknownSession) });
            }
            Request::Record { reply, .. } => reply.send(Err(Refusal::NoRecorder)),
            Request::RecordSession { reply, .. } => reply.send(Err(Refusal::NoRecorder)),
            Request::StopRecordingLabelled { reply, .. } => reply.send(Err(Refusal::NoRecorder)),
            Request::PauseRecording { reply, .. } => reply.send(Err(Refusal::NoRecorder)),
            Request::StopRecording { reply, .. } => reply.send(Err(Refusal::NoRecorder)),
            Request::Attend { attend, reply } => {
                note(format!("{} {} {}", attend.room, attend.identity, attend.permission.can_publish));
                reply.send(Err(Refusal::RoomFull { room: attend.room, sessions_max: 3 }));
            }
            Request::Room { reply, .. } => reply.send(Err(Refusal::NoSuchRoom { room: "b".into() })),
            Request::Signal { .. } | Request::Hung { .. } | Request::Farewell => {}
            Request::Rooms { reply } => reply.send(Vec::new()),
        }
    }
}

fn joined(join: &Join) -> Result<Joined, Refusal> {
    let room = join.room.clone();
    match join.room.as_str() {
        "malformed" => Err(Refusal::Offer(NegotiateError::NotSdp { reason: "it is not".into() })),
        "nothing" => Err(Refusal::Offer(NegotiateError::NothingToSend)),
        "taken" => Err(Refusal::PublisherExists { room }),
        "full" => Err(Refusal::RoomFull { room, sessions_max: 2 }),
        "server-full" => Err(Refusal::ServerFull { sessions_max: 2 }),
        "busy" => Err(Refusal::Overloaded { busy: 93, load_max: 90 }),
        "draining" => Err(Refusal::Draining),
        _ => Ok(Joined { session: "S-e_1".into(), etag: "gen1".into(), answer: "v=0\r\nanswer\r\n".into() }),
    }
}

fn plan(dev: bool) -> Plan {
    Plan {
        dev,
        keys: Keys(BTreeMap::from([("k".to_owned(), SECRET.to_owned())])).into(),
        ice_servers: vec![
            IceServer { urls: vec!["stun:stun.example.org".into()], ..IceServer::default() },
            IceServer {
                urls: vec!["turn:turn.example.org?transport=udp".into()],
                username: Some("us\"er".into()),
                credential: Some("pass".into()),
            },
        ],
        ..Plan::default()
    }
}

fn handle(director: impl FnOnce(Receiver<Request>) + Send + 'static, places: usize) -> Handle {
    let (sender, receiver): (SyncSender<Request>, _) = sync_channel(places);
    let thread = std::thread::spawn(move || director(receiver));
    Handle::new(sender, thread.thread().clone(), Arc::default())
}

fn server(dev: bool) -> (Router, Seen) {
    let seen = Seen::default();
    let log = seen.clone();
    let handle = handle(move |requests| director(requests, log), 16);
    (finish(routes(Services::new(&plan(dev), handle))), seen)
}

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: String,
}

impl Answer {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

async fn send(router: &Router, method: &str, path: &str, headers: &[(&str, &str)], body: impl Into<Body>) -> Answer {
    let mut request = HttpRequest::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = router.clone().oneshot(request.body(body.into()).unwrap()).await.unwrap();
    let (parts, body) = response.into_parts();
    let body = String::from_utf8(to_bytes(body, 1 << 20).await.unwrap().to_vec()).unwrap();
    Answer { status: parts.status, headers: parts.headers, body }
}

async fn post(router: &Router, path: &str, body: impl Into<Body>) -> Answer {
    send(router, "POST", path, &[("content-type", "application/sdp")], body).await
}

const SDPFRAG: (&str, &str) = ("content-type", "application/trickle-ice-sdpfrag");

async fn patch(router: &Router, headers: &[(&str, &str)], body: &'static str) -> Answer {
    let headers: Vec<_> = headers.iter().copied().chain([SDPFRAG]).collect();
    send(router, "PATCH", "/whip/r%C3%B6om%201/S-e_1", &headers, body).await
}

#[tokio::test]
async fn a_session_is_made_with_all_its_headers() {
    let (router, seen) = server(true);
    let headers = [("content-type", "Application/SDP; charset=utf-8"), ("user-agent", "Test/1")];
    let answer = send(&router, "POST", "/whip/r%C3%B6om%201", &headers, OFFER).await;
    assert_eq!((answer.status, answer.body.as_str()), (StatusCode::CREATED, "v=0\r\nanswer\r\n"));
    assert_eq!(answer.header("content-type"), "application/sdp");
    assert_eq!(answer.header("location"), "/whip/r%C3%B6om%201/S-e_1");
    assert_eq!(answer.header("etag"), "\"gen1\"");
    assert_eq!(answer.header("accept-patch"), "application/trickle-ice-sdpfrag");
    assert_eq!(answer.header("access-control-allow-origin"), "*");
    assert!(answer.header("access-control-expose-headers").contains("Location"));
    let links: Vec<_> = answer.headers.get_all(header::LINK).iter().map(|link| link.to_str().unwrap()).collect();
    let turn = "<turn:turn.example.org?transport=udp>; rel=\"ice-server\"; username=\"us\\\"er\"; credential=\"pass\"; \
                credential-type=\"password\"";
    assert_eq!(links, ["<stun:stun.example.org>; rel=\"ice-server\"", turn]);
    assert_eq!(seen.lock().unwrap()[0], "Publish röom 1 None \"Test/1\" 5");
    let answer = post(&router, "/whep/a", OFFER).await;
    assert_eq!((answer.status, answer.header("location")), (StatusCode::CREATED, "/whep/a/S-e_1"));
}

#[tokio::test]
async fn what_the_director_refuses_has_its_status() {
    let (router, _) = server(true);
    for (room, status, retry, words) in [
        ("malformed", 400, "", "not an SDP"),
        ("nothing", 422, "", "recvonly"),
        ("taken", 409, "", "already has a publisher"),
        ("full", 503, "30", "Room \"full\" is full"),
        ("server-full", 503, "30", "server is full"),
        ("busy", 503, "10", "a worker is 93 % busy"),
        ("draining", 503, "10", "shutting down"),
    ] {
        let answer = post(&router, &format!("/whip/{room}"), OFFER).await;
        assert_eq!(answer.status.as_u16(), status, "{room}");
        assert_eq!(answer.header("retry-after"), retry, "{room}");
        assert!(answer.body.contains(words), "{}", answer.body);
        assert!(answer.header("content-type").starts_with("text/plain"));
    }
}

#[tokio::test]
async fn what_is_wrong_with_a_post_is_said() {
    let (router, seen) = server(true);
    for content_type in [&[][..], &[("content-type", "text/plain")], &[("content-type", "application/sdpx")]] {
        let answer = send(&router, "POST", "/whip/a", content_type, OFFER).await;
        assert_eq!(answer.status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
        assert_eq!(answer.header("accept-post"), "application/sdp");
    }
    let most = crate::limits::SDP_BYTES_MAX;
    assert_eq!(post(&router, "/whip/a", "x".repeat(most)).await.status, StatusCode::CREATED);
    assert_eq!(post(&router, "/whip/a", "x".repeat(most + 1)).await.status, StatusCode::PAYLOAD_TOO_LARGE);
    let answer = post(&router, "/whip/a", "x".repeat(1 << 20)).await;
    assert!(answer.status == StatusCode::PAYLOAD_TOO_LARGE && answer.body.contains("65536"));
    assert_eq!(post(&router, "/whip/a", vec![0xff, 0xfe]).await.status, StatusCode::BAD_REQUEST);
    assert_eq!(seen.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn room_names_are_bounded() {
    let (router, _) = server(true);
    let longest = "é".repeat(128);
    let encoded = |name: &str| name.replace('é', "%C3%A9");
    assert_eq!(post(&router, &format!("/whip/{}", encoded(&longest)), OFFER).await.status, StatusCode::CREATED);
    let answer = post(&router, &format!("/whip/{}a", encoded(&longest)), OFFER).await;
    assert!(answer.status == StatusCode::BAD_REQUEST && answer.body.contains("129 characters"), "{}", answer.body);
    let answer = post(&router, "/whip/a%0Ab", OFFER).await;
    assert!(answer.status == StatusCode::BAD_REQUEST && answer.body.contains("U+000A"), "{}", answer.body);
    assert_eq!(post(&router, "/whip/a%2Fb", OFFER).await.header("location"), "/whip/a%2Fb/S-e_1");
    assert_eq!(post(&router, "/whip/a%FF", OFFER).await.status, StatusCode::BAD_REQUEST);
    assert_eq!(post(&router, "/whip/", OFFER).await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn tokens_are_wanted_and_read() {
    let (router, seen) = server(false);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let token = |exp, can_publish| {
        let video = VideoGrants { room: Some("a".into()), room_join: true, can_publish, ..VideoGrants::default() };
        sign(&Claims { iss: "k".into(), sub: Some("ada".into()), exp, video, ..Claims::default() }, SECRET).unwrap()
    };
    let with = async |path: &str, token: &str| {
        let bearer = format!("Bearer {token}");
        send(&router, "POST", path, &[("content-type", "application/sdp"), ("authorization", &bearer)], OFFER).await
    };
    let answer = post(&router, "/whip/a", OFFER).await;
    assert_eq!((answer.status, answer.header("www-authenticate")), (StatusCode::UNAUTHORIZED, "Bearer realm=\"distributary\""));
    let answer = with("/whip/a", &token(now - 100, None)).await;
    assert!(answer.status == StatusCode::UNAUTHORIZED && answer.body.contains("expired"));
    assert!(answer.header("www-authenticate").contains("invalid_token"));
    let answer = with("/whip/b", &token(now + 100, None)).await;
    assert!(answer.status == StatusCode::FORBIDDEN && answer.body.contains("\"a\", not \"b\""), "{}", answer.body);
    assert_eq!(with("/whip/a", &token(now + 100, Some(false))).await.status, StatusCode::FORBIDDEN);
    assert_eq!(with("/whep/a", &token(now + 100, Some(false))).await.status, StatusCode::CREATED);
    assert_eq!(with("/whip/a", &token(now + 100, None)).await.status, StatusCode::CREATED);
    assert!(seen.lock().unwrap().iter().all(|line| line.contains("Some(\"ada\")")));
    // The session's URL is a secret itself.
    let answer = send(&router, "DELETE", "/whip/r%C3%B6om%201/S-e_1", &[], "").await;
    assert_eq!(answer.status, StatusCode::OK);
}

#[tokio::test]
async fn a_patch_trickles_or_restarts() {
    let (router, _) = server(true);
    let answer = patch(&router, &[("if-match", "\"gen1\"")], "a=candidate:x").await;
    assert_eq!((answer.status, answer.header("etag"), answer.body.as_str()), (StatusCode::NO_CONTENT, "", ""));
    let answer = patch(&router, &[("if-match", "*")], "a=ice-ufrag:new").await;
    assert_eq!((answer.status, answer.header("etag")), (StatusCode::OK, "\"gen2\""));
    assert_eq!(answer.header("content-type"), "application/trickle-ice-sdpfrag");
    assert_eq!(answer.body, "a=ice-ufrag:mine\r\n");
    let answer = patch(&router, &[("if-match", "\"gen0\"")], "").await;
    assert!(answer.status == StatusCode::PRECONDITION_FAILED && answer.body.contains("\"gen1\""));
    assert_eq!(patch(&router, &[], "bad").await.status, StatusCode::BAD_REQUEST);
    let sdp = [("content-type", "application/sdp")];
    let answer = send(&router, "PATCH", "/whip/r%C3%B6om%201/S-e_1", &sdp, OFFER).await;
    assert_eq!(answer.status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    assert_eq!(answer.header("accept-patch"), "application/trickle-ice-sdpfrag");
    let answer = send(&router, "PATCH", "/whip/a/S-e_1", &[SDPFRAG], "x".repeat(70_000)).await;
    assert_eq!(answer.status, StatusCode::PAYLOAD_TOO_LARGE);
}

#[tokio::test]
async fn tags_are_taken_as_clients_send_them() {
    let (router, _) = server(true);
    // Nothing, a quoted star, no quotes, a weakened tag, a list, and the tag in a request header of the wrong name.
    for good in [
        &[][..],
        &[("if-match", "\"*\"")],
        &[("if-match", "gen1")],
        &[("if-match", "W/\"gen1\"")],
        &[("if-match", "\"gen0\", \"gen1\"")],
        &[("etag", "\"gen1\"")],
        &[("etag", "gen1")],
        &[("if-match", "")],
    ] {
        assert_eq!(patch(&router, good, "a=candidate:x").await.status, StatusCode::NO_CONTENT, "{good:?}");
    }
    for bad in [("if-match", "gen0"), ("etag", "\"gen0\""), ("if-match", "\"gen\"")] {
        assert_eq!(patch(&router, &[bad], "").await.status, StatusCode::PRECONDITION_FAILED, "{bad:?}");
    }
}

#[tokio::test]
async fn sessions_are_known_by_all_parts_of_their_url() {
    let (router, _) = server(true);
    let at = "/whip/r%C3%B6om%201/S-e_1";
    for (method, status) in [("GET", 204), ("HEAD", 204), ("DELETE", 200)] {
        let answer = send(&router, method, at, &[], "").await;
        assert_eq!((answer.status.as_u16(), answer.body.as_str()), (status, ""));
        assert_eq!(answer.header("content-length"), if method == "DELETE" { "0" } else { "" });
        assert_eq!(answer.header("etag"), if method == "DELETE" { "" } else { "\"gen1\"" });
    }
    for path in ["/whep/r%C3%B6om%201/S-e_1", "/whip/other/S-e_1", "/whip/r%C3%B6om%201/S-e_2", "/whip/a/%00", "/whip/a/..x"] {
        for method in ["GET", "DELETE", "PATCH"] {
            assert_eq!(send(&router, method, path, &[SDPFRAG], "").await.status, StatusCode::NOT_FOUND, "{method} {path}");
        }
    }
    for method in ["POST", "PUT", "TRACE"] {
        let answer = send(&router, method, at, &[], "").await;
        assert_eq!(answer.status, StatusCode::METHOD_NOT_ALLOWED);
        assert_eq!(answer.header("allow"), "PATCH, DELETE, GET, HEAD, OPTIONS");
    }
}

#[tokio::test]
async fn an_endpoint_has_nothing_to_get_and_says_what_it_takes() {
    let (router, _) = server(false);
    for method in ["GET", "HEAD"] {
        assert_eq!(send(&router, method, "/whep/a", &[], "").await.status, StatusCode::NO_CONTENT);
    }
    for method in ["PUT", "PATCH", "DELETE"] {
        let answer = send(&router, method, "/whip/a", &[], "").await;
        assert_eq!(answer.status, StatusCode::METHOD_NOT_ALLOWED);
        assert_eq!(answer.header("allow"), "POST, GET, HEAD, OPTIONS");
        assert!(answer.body.contains("POST an SDP offer"));
    }
    let answer = send(&router, "GET", "/nowhere", &[], "").await;
    assert!(answer.status == StatusCode::NOT_FOUND && answer.body.contains("/whip/ROOM"), "{}", answer.body);
}

#[tokio::test]
async fn preflights_are_answered_without_a_token() {
    let (router, _) = server(false);
    let wants = [("origin", "https://a"), ("access-control-request-headers", "authorization,x-new")];
    let answer = send(&router, "OPTIONS", "/whip/a", &wants, "").await;
    assert_eq!((answer.status, answer.header("accept-post")), (StatusCode::OK, "application/sdp"));
    assert_eq!(answer.header("access-control-allow-headers"), "authorization,x-new");
    assert!(answer.header("access-control-allow-methods").contains("POST"));
    let answer = send(&router, "OPTIONS", "/whep/a/x", &[("authorization", "nonsense")], "").await;
    assert_eq!((answer.status, answer.header("accept-patch")), (StatusCode::OK, "application/trickle-ice-sdpfrag"));
    assert!(answer.header("access-control-allow-methods").contains("PATCH"));
    assert!(answer.header("access-control-allow-headers").contains("Authorization"));
}

#[tokio::test]
async fn a_director_that_is_behind_or_gone_is_503_at_once() {
    let (hold, held) = mpsc::channel::<()>();
    // It takes nothing, and its queue has no place.
    let stuck = handle(
        move |requests| {
            let _ = held.recv();
            drop(requests);
        },
        0,
    );
    let router = finish(routes(Services::new(&plan(true), stuck)));
    let before = Instant::now();
    for _ in 0..2 {
        let answer = post(&router, "/whip/a", OFFER).await;
        assert_eq!((answer.status, answer.header("retry-after")), (StatusCode::SERVICE_UNAVAILABLE, "2"));
    }
    assert!(before.elapsed().as_secs() < 5);
    drop(hold);
    // One that dies with a request in hand.
    let dying = handle(|requests| drop(requests.recv()), 4);
    let router = finish(routes(Services::new(&plan(true), dying)));
    assert_eq!(post(&router, "/whip/a", OFFER).await.status, StatusCode::SERVICE_UNAVAILABLE);
}

/// One request over a real socket, read to the end.
fn exchange(address: std::net::SocketAddr, request: &str) -> String {
    use std::io::{Read, Write};
    let mut socket = std::net::TcpStream::connect(address).unwrap();
    socket.set_read_timeout(Some(std::time::Duration::from_secs(10))).unwrap();
    socket.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    answer
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_tcp_the_answer_has_its_length_and_the_server_stops_at_once() {
    let (router, _) = server(true);
    let listener = Listener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let (address, stop) = (listener.address(), listener.stopper());
    assert!(Listener::bind(address).is_err_and(|error| error.to_string().contains("--http-port")));
    let serving = tokio::spawn(listener.serve(router, None));
    let request = "POST /whip/a HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Type: application/sdp\r\nContent-Length: 5\r\n\r\nv=0\r\n";
    let answer = tokio::task::spawn_blocking(move || exchange(address, request)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 201 ") && answer.contains("\r\ncontent-length: 13\r\n"), "{answer}");
    assert!(!answer.contains("chunked"));
    // Its sender gets to read what is wrong with a megabyte.
    let head = "POST /whip/a HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Type: application/sdp\r\n";
    let huge = format!("{head}Content-Length: 1000000\r\n\r\n{}", "x".repeat(1_000_000));
    let answer = tokio::task::spawn_blocking(move || exchange(address, &huge)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    let before = Instant::now();
    let _idle = std::net::TcpStream::connect(address).unwrap();
    stop();
    serving.await.unwrap().unwrap();
    assert!(before.elapsed().as_millis() < 1_000);
}

#[tokio::test]
async fn a_bad_certificate_is_named() {
    let files = crate::config::TlsFiles { cert: "/dev/null".into(), key: "/dev/null".into() };
    let Err(error) = super::Certificate::read(&files).await else { panic!("nothing is a certificate") };
    assert!(error.to_string().contains("/dev/null"), "{error}");
}

#[tokio::test]
async fn connections_beyond_the_limit_are_closed() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut listener = Listener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    listener.connections_max = 2;
    let (address, stop) = (listener.address(), listener.stopper());
    let serving = tokio::spawn(listener.serve(super::finish(Router::new()), None));
    let ask = async || {
        let mut connection = tokio::net::TcpStream::connect(address).await.unwrap();
        // The server may have closed already.
        let _ = connection.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await;
        let mut answer = [0; 12];
        let read = connection.read_exact(&mut answer).await;
        (connection, read.is_ok() && answer == *b"HTTP/1.1 404")
    };
    let (first, answered) = ask().await;
    assert!(answered);
    let (_second, answered) = ask().await;
    assert!(answered);
    assert!(!ask().await.1, "a third one");
    drop(first);
    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    assert!(ask().await.1, "after the first has gone");
    stop();
    serving.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_viewer_tells_how_often_its_picture_stood_still() {
    let (router, seen) = server(true);
    let (path, json) = ("/whep/a/S-e_1/seen", "application/json");
    let good = r#"{"freezeCount":2,"totalFreezesDuration":1.5}"#;
    let answer = send(&router, "POST", path, &[("content-type", json)], good).await;
    assert_eq!(answer.status, StatusCode::NO_CONTENT);
    assert_eq!(seen.lock().unwrap().last().unwrap(), "Seen { freeze_count: 2, total_freezes_duration: 1.5 }");
    for (method, path, content_type, body, status, words) in [
        ("POST", path, json, r#"{"freezeCount":-1,"totalFreezesDuration":0}"#, 400, "-1"),
        ("POST", path, json, r#"{"freezeCount":1,"totalFreezesDuration":-0.5}"#, 400, "negative"),
        ("POST", path, json, r#"{"freezeCount":1,"totalFreezesDuration":1e999}"#, 400, "number out of range"),
        ("POST", path, json, "{}", 400, "freezeCount"),
        ("POST", path, "text/plain", good, 415, "takes application/json"),
        ("GET", path, json, "", 405, "POST what was seen"),
        ("POST", "/whep/a/other/seen", json, good, 404, "No such session"),
    ] {
        let answer = send(&router, method, path, &[("content-type", content_type)], body).await;
        assert_eq!(answer.status.as_u16(), status, "{body}: {}", answer.body);
        assert!(answer.body.contains(words), "{}", answer.body);
    }
}

#[tokio::test]
async fn a_viewer_says_which_layers_it_wants() {
    let (router, seen) = server(true);
    let made = post(&router, "/whep/a", OFFER).await;
    assert!(
        made.headers
            .get_all(header::LINK)
            .iter()
            .any(|link| { link.to_str().unwrap() == "</whep/a/S-e_1/layer>; rel=\"urn:ietf:params:whep:ext:core:layer\"" })
    );
    let json = [("content-type", "application/json")];
    let path = "/whep/a/S-e_1/layer";
    let answer = send(&router, "POST", path, &json, r#"{"encodingId":"h","temporalLayerId":1}"#).await;
    assert_eq!(answer.status, StatusCode::NO_CONTENT);
    let noted = seen.lock().unwrap().last().cloned().unwrap();
    assert!(noted.contains("encoding_id: Some(\"h\")") && noted.contains("max_temporal_layer_id: Some(1)"), "{noted}");
    for (method, path, content_type, body, status, words) in [
        ("POST", path, "application/json", r#"{"encodingId":"x"}"#, 422, "q, h, f"),
        ("POST", path, "application/json", r#"{"encoding":"h"}"#, 400, "unknown field `encoding`"),
        ("POST", path, "application/json", "{", 400, "no wish for a picture"),
        ("POST", path, "application/json", r#"{"width":-1,"height":5}"#, 400, "invalid value: integer `-1`, expected u32"),
        ("POST", path, "application/json", r#"{"width":"640","height":360}"#, 400, "invalid type: string \"640\", expected u32"),
        ("POST", path, "application/json", r#"{"priority":1.5}"#, 400, "expected u32"),
        ("POST", path, "application/json", r#"{"maxSpatialLayerId":900}"#, 400, "900"),
        ("POST", path, "application/sdp", "{}", 415, "takes application/json"),
        ("PUT", path, "application/json", "", 405, "POST which layers"),
        ("POST", "/whep/a/other/layer", "application/json", "{}", 404, "No such session"),
    ] {
        let answer = send(&router, method, path, &[("content-type", content_type)], body).await;
        assert_eq!(answer.status.as_u16(), status, "{body}: {}", answer.body);
        assert!(answer.body.contains(words), "{}", answer.body);
    }
    let answer = send(&router, "GET", path, &[], "").await;
    assert!(answer.status == StatusCode::OK && answer.body.contains(r#""target_bitrate":900000"#), "{}", answer.body);
    let answer = send(&router, "POST", "/whip/a/S-e_1/layer", &json, "{}").await;
    assert_eq!(answer.status, StatusCode::METHOD_NOT_ALLOWED, "publishers want none");
    let answer = send(&router, "GET", "/whip/a/S-e_1/layer", &[], "").await;
    assert!(answer.status == StatusCode::OK && answer.body.contains(r#""unwatched":[]"#), "{}", answer.body);
}
