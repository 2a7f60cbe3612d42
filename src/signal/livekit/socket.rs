//! The WebSocket of a member: `/rtc` for clients with two peer connections, `/rtc/v1` for those with one, who may also come to `/rtc` with
//! what they would say there (`join_request`). Messages are protobuf, or JSON
//! if the client speaks it first.
//!
//! Everything that can be said before the upgrade is said in HTTP: a token that proves nothing is 401, one that does not allow this 403,
//! a full room 503. `…/validate` says the same to clients that cannot read the answer to an upgrade.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade, rejection::WebSocketUpgradeRejection};
use axum::extract::{ConnectInfo, Query as Parameters, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use livekit_protocol as proto;
use prost::Message as _;
use tokio::sync::mpsc;

use super::join::{Query, Wish, kind, permission};
use crate::limits::{MEMBER_MESSAGES, SIGNAL_BYTES_MAX};
use crate::signal::api::{Attend, Handle, MemberKey, Refusal};
use crate::signal::auth::Claims;
use crate::signal::http::{Failure, Services, check_room_name};

/// A client that says nothing for so long is gone: some ping every few seconds, and all answer ours.
const SILENCE_MAX: Duration = Duration::from_secs(45);
/// Between two pings of ours (RFC 6455 §5.5.2).
const PING_INTERVAL: Duration = Duration::from_secs(15);
/// Time for a client to close its side.
const CLOSE_TIME_MAX: Duration = Duration::from_secs(1);
/// Messages of one client in a second; those after it wait.
const MESSAGES_A_SECOND: u32 = 200;
/// The SDK for Go (2.19) sets the offer that it joined with as its local description when it has been let in, while it reads on: an answer
/// that is there already finds none and is lost. So after the first message the rest waits for a word of such a client (it trickles
/// candidates next), and at most for this.
const ANSWER_DELAY_MAX: Duration = Duration::from_millis(100);
/// Why a connection is closed (RFC 6455 §7.4.1).
const POLICY: u16 = 1008;
const NORMAL: u16 = 1000;

pub fn routes() -> Router<Arc<Services>> {
    Router::new()
        .route("/rtc", get(two))
        .route("/rtc/v1", get(one))
        .route("/rtc/validate", get(validate))
        .route("/rtc/v1/validate", get(validate_v1))
}

type Upgrade = Result<WebSocketUpgrade, WebSocketUpgradeRejection>;
type Client = Option<axum::Extension<ConnectInfo<std::net::SocketAddr>>>;

async fn validate(
    State(services): State<Arc<Services>>,
    Parameters(query): Parameters<Query>,
    headers: HeaderMap,
) -> Result<&'static str, Failure> {
    admitted(&services, &query, &headers)?;
    if query.is_joining() {
        query.wish_v1().map_err(bad)?;
    }
    Ok("success")
}

async fn validate_v1(
    State(services): State<Arc<Services>>,
    Parameters(query): Parameters<Query>,
    headers: HeaderMap,
) -> Result<&'static str, Failure> {
    admitted(&services, &query, &headers)?;
    query.wish_v1().map_err(bad)?;
    Ok("success")
}

async fn two(
    State(services): State<Arc<Services>>,
    Parameters(query): Parameters<Query>,
    client: Client,
    headers: HeaderMap,
    upgrade: Upgrade,
) -> Result<Response, Failure> {
    let claims = admitted(&services, &query, &headers)?;
    let single = query.is_joining();
    let wish = if single { query.wish_v1().map_err(bad)? } else { query.wish() };
    connect(&services, claims, wish, single, client, upgrade).await
}

async fn one(
    State(services): State<Arc<Services>>,
    Parameters(query): Parameters<Query>,
    client: Client,
    headers: HeaderMap,
    upgrade: Upgrade,
) -> Result<Response, Failure> {
    let claims = admitted(&services, &query, &headers)?;
    let wish = query.wish_v1().map_err(bad)?;
    connect(&services, claims, wish, true, client, upgrade).await
}

fn bad(reason: String) -> Failure {
    Failure::new(StatusCode::BAD_REQUEST, reason)
}

fn admitted(services: &Services, query: &Query, headers: &HeaderMap) -> Result<Claims, Failure> {
    let claims = services.gate.member(headers, query.access_token.as_deref())?;
    check_room_name(claims.video.room.as_deref().unwrap_or_default())?;
    Ok(claims)
}

/// Joins the room, then upgrades: what the director refuses is an answer in HTTP.
async fn connect(
    services: &Services,
    claims: Claims,
    wish: Wish,
    single: bool,
    client: Client,
    upgrade: Upgrade,
) -> Result<Response, Failure> {
    let upgrade = match upgrade {
        Ok(upgrade) => upgrade.max_message_size(SIGNAL_BYTES_MAX),
        Err(rejection) => {
            let text = format!("LiveKit's clients come here by WebSocket: {}.", rejection.body_text());
            return Err(Failure::new(rejection.status(), text));
        }
    };
    let (outbox, inbox) = mpsc::channel(MEMBER_MESSAGES);
    let (comes_back, early) = (wish.resume.is_some(), wish.offers_before_it_may);
    let permission = permission(&claims);
    let mut attributes: std::collections::HashMap<String, String> = claims.attributes.clone().into_iter().collect();
    attributes.extend(wish.attributes.into_iter().filter(|_| permission.can_update_metadata));
    let attend = Attend {
        room: claims.video.room.clone().unwrap_or_default(),
        identity: claims.sub.clone().unwrap_or_default(),
        name: claims.name.clone().unwrap_or_default(),
        metadata: claims.metadata.clone().filter(|text| !text.is_empty()).unwrap_or(wish.metadata),
        attributes,
        kind: kind(&claims),
        key: claims.iss.clone(),
        permission,
        client: client.map_or(std::net::Ipv4Addr::UNSPECIFIED.into(), |client| client.0.0.ip()),
        user_agent: wish.client,
        single,
        auto_subscribe: wish.auto_subscribe,
        resume: wish.resume,
        tracks: wish.tracks,
        offer: wish.offer,
        outbox,
    };
    let handle = services.handle.clone();
    let member = match services.handle.attend(attend).await {
        Ok(attended) => Some(attended.member),
        // The message that tells it to join anew is in the queue.
        Err(Refusal::UnknownSession) if comes_back => None,
        Err(refusal) => return Err(refusal.into()),
    };
    let member = member.map(|member| Connected { handle, member });
    Ok(upgrade.on_upgrade(move |socket| serve(socket, member, inbox, early)).into_response())
}

/// A member's connection; its end is told however it comes.
struct Connected {
    handle: Handle,
    member: MemberKey,
}

impl Drop for Connected {
    fn drop(&mut self) {
        // A director that is too far behind to be told finds out when it writes.
        self.handle.hung(self.member.clone());
    }
}

/// `early`: the client has made its offer before it can take the answer.
async fn serve(
    mut socket: WebSocket,
    member: Option<Connected>,
    mut inbox: mpsc::Receiver<proto::SignalResponse>,
    mut early: bool,
) {
    let mut json = false;
    let (mut since, mut count) = (Instant::now(), 0u32);
    let mut heard = Instant::now();
    let mut held: Option<tokio::time::Instant> = None;
    let mut pings = tokio::time::interval_at(tokio::time::Instant::now() + PING_INTERVAL, PING_INTERVAL);
    let close = loop {
        tokio::select! {
            biased;
            () = tokio::time::sleep_until(held.unwrap_or_else(tokio::time::Instant::now)), if held.is_some() => held = None,
            message = inbox.recv(), if held.is_none() => {
                // The member is no longer there: it was told why.
                let Some(message) = message else { break (NORMAL, "") };
                if socket.send(written(&message, json)).await.is_err() {
                    return;
                }
                if std::mem::take(&mut early) {
                    held = Some(tokio::time::Instant::now() + ANSWER_DELAY_MAX);
                }
            }
            _ = pings.tick() => {
                if heard.elapsed() >= SILENCE_MAX {
                    break (POLICY, "nothing was heard for 45 s");
                }
                if socket.send(Message::Ping(Default::default())).await.is_err() {
                    return;
                }
            }
            received = socket.recv(), if member.is_some() => {
                let Some(Ok(received)) = received else { return };
                (heard, held) = (Instant::now(), None);
                let request = match read(&received) {
                    Ok(Some(request)) => request,
                    Ok(None) => continue,
                    Err(reason) => break (POLICY, reason),
                };
                json |= matches!(received, Message::Text(_));
                if let Some(Connected { handle, member }) = &member
                    && !handle.signal(member, request)
                {
                    break (POLICY, "the server is too busy");
                }
                count += 1;
                if since.elapsed() >= Duration::from_secs(1) {
                    (since, count) = (Instant::now(), 0);
                } else if count >= MESSAGES_A_SECOND {
                    tokio::time::sleep(Duration::from_secs(1).saturating_sub(since.elapsed())).await;
                }
            }
        }
    };
    let (code, reason) = close;
    let _ = socket.send(Message::Close(Some(CloseFrame { code, reason: reason.into() }))).await;
    // What it says meanwhile is read: unread, it would cost the client the reason (RFC 9293 §3.6.1, the connection is reset).
    let _ = tokio::time::timeout(CLOSE_TIME_MAX, async { while let Some(Ok(_)) = socket.recv().await {} }).await;
}

fn written(message: &proto::SignalResponse, json: bool) -> Message {
    match json {
        true => Message::Text(serde_json::to_string(message).unwrap_or_default().into()),
        false => Message::Binary(message.encode_to_vec().into()),
    }
}

/// None: a frame that says nothing; an error: why the connection cannot go on.
fn read(message: &Message) -> Result<Option<proto::SignalRequest>, &'static str> {
    match message {
        Message::Binary(bytes) => {
            proto::SignalRequest::decode(&**bytes).map(Some).map_err(|_| "a message is no SignalRequest in protobuf")
        }
        Message::Text(text) => serde_json::from_str(text).map(Some).map_err(|_| "a message is no SignalRequest in JSON"),
        Message::Close(_) => Ok(None),
        Message::Ping(_) | Message::Pong(_) => Ok(None),
    }
}
