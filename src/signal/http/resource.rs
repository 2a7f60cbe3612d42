//! The two resources that WHIP (RFC 9725) and WHEP (draft-ietf-wish-whep) share: the endpoint of a room, which makes
//! sessions, and the session. The section numbers are RFC 9725's; the draft says the same at the same places.
//!
//! Neither resource has a representation, so GET and HEAD are answered with 204 (§4.1). PUT, and POST to a session, are 405.
//!
//! Lenient towards clients that are out there: an entity tag may be missing, unquoted, weak, `"*"`, or come in an `ETag`
//! request header; it must only not be another one than the current.

use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{ConnectInfo, Request};
use axum::http::header::{ALLOW, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, ETAG, IF_MATCH, LINK, LOCATION, USER_AGENT};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use http_body::{Body as HttpBody, Frame};

use super::cors::{self, ACCEPT_PATCH, ACCEPT_POST};
use super::{Failure, Services};
use crate::limits;
use crate::signal::api::{IfMatch, Join, Patched, Purpose, Refusal, Seen, SessionPath};

const SDP: &str = "application/sdp";
const FRAGMENT: &str = "application/trickle-ice-sdpfrag";
const ENDPOINT_METHODS: &str = "POST, GET, HEAD, OPTIONS";
const JSON: &str = "application/json";
const LAYER_METHODS: &str = "POST, GET, HEAD, OPTIONS";
const SEEN_METHODS: &str = "POST, OPTIONS";
const PUBLISHED_METHODS: &str = "GET, HEAD, OPTIONS";
const SESSION_METHODS: &str = "PATCH, DELETE, GET, HEAD, OPTIONS";
/// How long the body of a request may take.
const BODY_TIME_MAX: Duration = Duration::from_secs(10);
/// Bytes of a body that is too large which are still read, so that its sender gets to read the answer.
const BODY_BYTES_DRAINED: usize = 4 << 20;
const USER_AGENT_CHARS_MAX: usize = 120;
const SESSION_CHARS_MAX: usize = 64;

/// Any method on `/whip/{room}` or `/whep/{room}`.
pub async fn endpoint(services: &Services, purpose: Purpose, room: String, request: Request) -> Result<Response, Failure> {
    match *request.method() {
        Method::POST => join(services, purpose, room, request).await,
        Method::GET | Method::HEAD => Ok(no_content(HeaderMap::new())),
        Method::OPTIONS => Ok(cors::preflight(request.headers(), ENDPOINT_METHODS, one(ACCEPT_POST, SDP))),
        _ => Err(not_allowed(request.method(), ENDPOINT_METHODS, "POST an SDP offer to make a session")),
    }
}

/// Any method on a session's URL.
pub async fn session(services: &Services, path: SessionPath, request: Request) -> Result<Response, Failure> {
    let handle = &services.handle;
    match *request.method() {
        Method::OPTIONS => return Ok(cors::preflight(request.headers(), SESSION_METHODS, one(ACCEPT_PATCH, FRAGMENT))),
        Method::PATCH | Method::DELETE | Method::GET | Method::HEAD => {}
        _ => return Err(not_allowed(request.method(), SESSION_METHODS, "PATCH an SDP fragment, or DELETE the session")),
    }
    services.gate.session(request.headers(), &path.room, path.purpose)?;
    check_session_name(&path)?;
    match *request.method() {
        Method::PATCH => patch(services, path, request).await,
        Method::DELETE => {
            // §4.2: the tag is ignored here.
            handle.leave(path).await?;
            Ok(StatusCode::OK.into_response())
        }
        _ => {
            let tag = handle.probe(path).await?;
            Ok(no_content(one(ETAG, &quoted(&tag))))
        }
    }
}

/// What a viewer wants of the picture at most; and for those who ask, what it is sent with what is known of its path, or what of a
/// publisher's picture flows and is watched.
pub async fn layer(services: &Services, path: SessionPath, request: Request) -> Result<Response, Failure> {
    let (methods, hint) = match path.purpose {
        Purpose::Watch => (LAYER_METHODS, "POST which layers are wanted, in JSON, or GET what is sent"),
        Purpose::Publish => (PUBLISHED_METHODS, "GET what flows and what of it nobody watches"),
    };
    match *request.method() {
        Method::OPTIONS => return Ok(cors::preflight(request.headers(), methods, one(ACCEPT_POST, JSON))),
        Method::POST if path.purpose == Purpose::Watch => {}
        Method::GET | Method::HEAD => {}
        _ => return Err(not_allowed(request.method(), methods, hint)),
    }
    services.gate.session(request.headers(), &path.room, path.purpose)?;
    check_session_name(&path)?;
    if *request.method() != Method::POST {
        let view = services.handle.describe(path).await?;
        return Ok(([(CACHE_CONTROL, "no-store")], axum::Json(view)).into_response());
    }
    check_type(request.headers(), JSON, ACCEPT_POST)?;
    let text = text(request).await?;
    let wish = serde_json::from_str(&text).map_err(|error| {
        let text =
            format!("The body is no wish for a picture: {error}. For instance: {{\"encodingId\":\"h\",\"maxTemporalLayerId\":1}}, {{\"width\":640,\"height\":360,\"priority\":1}}");
        Failure::new(StatusCode::BAD_REQUEST, text)
    })?;
    services.handle.layer(path, wish).await?;
    Ok(no_content(HeaderMap::new()))
}

/// What a viewer tells of its picture: how often it stood still, and for how long.
pub async fn seen(services: &Services, path: SessionPath, request: Request) -> Result<Response, Failure> {
    match *request.method() {
        Method::OPTIONS => return Ok(cors::preflight(request.headers(), SEEN_METHODS, one(ACCEPT_POST, JSON))),
        Method::POST => {}
        _ => return Err(not_allowed(request.method(), SEEN_METHODS, "POST what was seen of the picture, in JSON")),
    }
    services.gate.session(request.headers(), &path.room, path.purpose)?;
    check_session_name(&path)?;
    check_type(request.headers(), JSON, ACCEPT_POST)?;
    let bad = |what: String| {
        let text = format!(
            "The body does not tell what was seen: {what}. For instance: {{\"freezeCount\":2,\"totalFreezesDuration\":1.5}}"
        );
        Failure::new(StatusCode::BAD_REQUEST, text)
    };
    let seen: Seen = serde_json::from_str(&text(request).await?).map_err(|error| bad(error.to_string()))?;
    if seen.total_freezes_duration < 0.0 {
        return Err(bad("totalFreezesDuration is negative".into()));
    }
    services.handle.seen(path, seen).await?;
    Ok(no_content(HeaderMap::new()))
}

fn check_session_name(path: &SessionPath) -> Result<(), Failure> {
    let url_safe = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    let known = path.session.len() <= SESSION_CHARS_MAX && path.session.bytes().all(url_safe);
    if known { Ok(()) } else { Err(Refusal::UnknownSession.into()) }
}

/// §4.2: an offer comes in, a session is made, its answer goes out.
async fn join(services: &Services, purpose: Purpose, room: String, request: Request) -> Result<Response, Failure> {
    check_room_name(&room)?;
    // Before the body is read: nobody without a token can make the server read.
    let identity = services.gate.join(request.headers(), &room, purpose)?;
    check_type(request.headers(), SDP, ACCEPT_POST)?;
    let client = client(&request);
    let user_agent = user_agent(request.headers());
    let offer = text(request).await?;
    let made = services.handle.join(Join { room: room.clone(), purpose, offer, identity, client, user_agent }).await?;

    let mut headers = one(CONTENT_TYPE, SDP);
    let kind = match purpose {
        Purpose::Publish => "whip",
        Purpose::Watch => "whep",
    };
    let location = format!("/{kind}/{}/{}", percent_encoded(&room), made.session);
    headers.extend(one(LOCATION, &location));
    headers.extend(one(ETAG, &quoted(&made.etag)));
    headers.extend(one(ACCEPT_PATCH, FRAGMENT));
    for link in &services.links {
        headers.append(LINK, link.clone());
    }
    if purpose == Purpose::Watch
        && let Ok(link) = format!("<{location}/layer>; rel=\"urn:ietf:params:whep:ext:core:layer\"").parse()
    {
        headers.append(LINK, link);
    }
    // A body of known length, so that it goes out with Content-Length: ffmpeg does not read a chunked answer.
    Ok((StatusCode::CREATED, headers, made.answer).into_response())
}

/// §4.3: more candidates (204), or an ICE restart (200).
async fn patch(services: &Services, path: SessionPath, request: Request) -> Result<Response, Failure> {
    check_type(request.headers(), FRAGMENT, ACCEPT_PATCH)?;
    let if_match = if_match(request.headers());
    let fragment = text(request).await?;
    Ok(match services.handle.patch(path, if_match, fragment).await? {
        // §4.3.2: no ETag here.
        Patched::NoContent => StatusCode::NO_CONTENT.into_response(),
        Patched::Restarted { etag, fragment } => {
            let mut headers = one(CONTENT_TYPE, FRAGMENT);
            headers.extend(one(ETAG, &quoted(&etag)));
            (StatusCode::OK, headers, fragment).into_response()
        }
    })
}

/// 400 with what is wrong with it.
pub fn check_room_name(room: &str) -> Result<(), Failure> {
    let length = room.chars().count();
    let what = if length == 0 {
        "is empty".to_owned()
    } else if length > limits::ROOM_NAME_CHARS_MAX {
        format!("has {length} characters")
    } else if let Some(character) = room.chars().find(|character| character.is_control()) {
        format!("has the control character U+{:04X}", u32::from(character))
    } else {
        return Ok(());
    };
    let most = limits::ROOM_NAME_CHARS_MAX;
    let text = format!("The room name {what}. It wants 1 to {most} characters, none of them a control character.");
    Err(Failure::new(StatusCode::BAD_REQUEST, text))
}

/// The media type must be `wanted`; its parameters do not matter.
fn check_type(headers: &HeaderMap, wanted: &'static str, accept: HeaderName) -> Result<(), Failure> {
    let sent = headers.get(CONTENT_TYPE).map(|value| String::from_utf8_lossy(value.as_bytes()));
    let essence = sent.as_deref().and_then(|value| value.split(';').next()).map(str::trim);
    if essence.is_some_and(|essence| essence.eq_ignore_ascii_case(wanted)) {
        return Ok(());
    }
    let sent = match essence {
        Some(essence) => format!("is {:?}", essence.chars().take(60).collect::<String>()),
        None => "is missing".to_owned(),
    };
    let text = format!("The Content-Type {sent}; this takes {wanted}.");
    Err(Failure::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, text).with(accept, HeaderValue::from_static(wanted)))
}

/// The whole body, if it is UTF-8 and not too large.
async fn text(request: Request) -> Result<String, Failure> {
    let length = request.headers().get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if length.is_some_and(|length| length > BODY_BYTES_DRAINED as u64) {
        return Err(too_large());
    }
    let read = tokio::time::timeout(BODY_TIME_MAX, read(request.into_body())).await;
    let bytes =
        read.map_err(|_| Failure::new(StatusCode::REQUEST_TIMEOUT, "The body of the request did not arrive in time."))??;
    String::from_utf8(bytes)
        .map_err(|error| Failure::new(StatusCode::BAD_REQUEST, format!("The body is not UTF-8 text: {}.", error.utf8_error())))
}

async fn read(mut body: Body) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    let mut length = 0;
    while let Some(frame) = std::future::poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
        let frame = frame.map_err(|_| Failure::new(StatusCode::BAD_REQUEST, "The body of the request broke off."))?;
        let Some(data) = frame.data_ref() else { continue };
        length += data.len();
        if length <= limits::SDP_BYTES_MAX {
            bytes.extend_from_slice(data);
        } else if length > BODY_BYTES_DRAINED {
            break;
        }
    }
    if length > limits::SDP_BYTES_MAX { Err(too_large()) } else { Ok(bytes) }
}

fn too_large() -> Failure {
    let text = format!("The body is too large: the server reads at most {} bytes of SDP.", limits::SDP_BYTES_MAX);
    Failure::new(StatusCode::PAYLOAD_TOO_LARGE, text)
}

/// The entity tags that the client holds (RFC 9110 §13.1.1), from `If-Match` or, as Eyevinn's WHIP client does it, `ETag`.
fn if_match(headers: &HeaderMap) -> IfMatch {
    let field = |name| headers.get_all(name).iter().filter_map(|value: &HeaderValue| value.to_str().ok());
    let mut values = field(IF_MATCH).chain(field(ETAG)).flat_map(|value| value.split(',')).map(|tag| {
        let tag = tag.trim();
        tag.strip_prefix("W/").unwrap_or(tag).trim_matches('"').to_owned()
    });
    let tags: Vec<String> = values.by_ref().filter(|tag| !tag.is_empty()).take(16).collect();
    if tags.is_empty() || tags.iter().any(|tag| tag == "*") { IfMatch::Any } else { IfMatch::Tags(tags) }
}

/// Address of the HTTP client; unspecified where the server was not told.
fn client(request: &Request) -> IpAddr {
    let info = request.extensions().get::<ConnectInfo<SocketAddr>>();
    info.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |ConnectInfo(address)| address.ip().to_canonical())
}

fn user_agent(headers: &HeaderMap) -> String {
    let value = headers.get(USER_AGENT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    value.chars().take(USER_AGENT_CHARS_MAX).collect()
}

fn not_allowed(method: &Method, methods: &'static str, hint: &str) -> Failure {
    Failure::new(StatusCode::METHOD_NOT_ALLOWED, format!("{method} is not allowed here: {hint}."))
        .with(ALLOW, HeaderValue::from_static(methods))
}

/// The answer to GET and HEAD.
fn no_content(headers: HeaderMap) -> Response {
    (StatusCode::NO_CONTENT, headers, Body::new(Nothing)).into_response()
}

/// An empty body that does not tell its length: axum would write it into the answer to HEAD, and a 204 must not have a
/// Content-Length (RFC 9110 §8.6).
struct Nothing;

impl HttpBody for Nothing {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(None)
    }
    fn is_end_stream(&self) -> bool {
        true
    }
}

/// A strong entity tag (RFC 9110 §8.8.3).
fn quoted(tag: &str) -> String {
    format!("\"{tag}\"")
}

/// One header. A value that is no header value (the director gives none such) is left out.
fn one(name: HeaderName, value: &str) -> HeaderMap {
    value.parse().ok().map(|value| (name, value)).into_iter().collect()
}

/// A path segment: everything but RFC 3986's unreserved characters is encoded.
fn percent_encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => encoded.push(char::from(byte)),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}
