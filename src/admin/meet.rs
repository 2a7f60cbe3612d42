//! `/meet/{room}/token`: with `--dev` the server makes the access token of who opens the meeting page, so that nothing has to be set up
//! to try it. GET tells whether it does, POST makes one.
//!
//! Asked and answered as LiveKit's SDKs do it of a token endpoint (`TokenSource.endpoint`), so that apps may be tried the same way. Outside
//! `--dev` tokens are for the operator's own programs to make: whoever holds a key decides who comes in.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::Views;
use super::api::fresh;
use crate::config::DEV_KEY;
use crate::signal::auth;
use crate::signal::http::{Failure, check_room_name};

const TOKEN_SECS: u64 = 6 * 3600;
/// Characters of an identity, and of a name.
const NAME_CHARS_MAX: usize = 128;

#[derive(Deserialize)]
struct Wish {
    participant_identity: String,
    #[serde(default)]
    participant_name: String,
}

#[derive(Serialize)]
struct Made {
    /// Where the room is, for apps that do not know.
    #[serde(skip_serializing_if = "Option::is_none")]
    server_url: Option<String>,
    participant_token: String,
}

/// 204 if POST makes tokens.
pub async fn can_make(State(views): State<Arc<Views>>) -> Result<Response, Failure> {
    open(&views)?;
    Ok(([(header::CACHE_CONTROL, "no-store")], StatusCode::NO_CONTENT).into_response())
}

/// A token that allows everything that a participant of a meeting does, and nothing else.
pub async fn make(
    State(views): State<Arc<Views>>,
    Path(room): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Failure> {
    open(&views)?;
    check_room_name(&room)?;
    let wish: Wish = serde_json::from_slice(&body).map_err(|error| {
        let text = format!("The body wants to be {{\"participant_identity\": \"ID\", \"participant_name\": \"NAME\"}}: {error}.");
        Failure::new(StatusCode::BAD_REQUEST, text)
    })?;
    check_name("participant_identity", &wish.participant_identity, 1)?;
    check_name("participant_name", &wish.participant_name, 0)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let (key, secret) = DEV_KEY;
    let claims = json!({
        "iss": key, "sub": wish.participant_identity, "name": wish.participant_name, "nbf": now, "exp": now + TOKEN_SECS,
        "video": {
            "room": room, "roomJoin": true, "canPublish": true, "canSubscribe": true, "canPublishData": true,
            // To raise a hand is to set an attribute of oneself.
            "canUpdateOwnMetadata": true,
        },
    });
    let participant_token =
        auth::sign(&claims, secret).map_err(|error| Failure::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let scheme = if views.tls { "wss" } else { "ws" };
    let server_url = host.map(|host| format!("{scheme}://{host}"));
    Ok((StatusCode::CREATED, fresh(Made { server_url, participant_token })).into_response())
}

fn open(views: &Views) -> Result<(), Failure> {
    match views.dev {
        true => Ok(()),
        false => Err(Failure::new(
            StatusCode::FORBIDDEN,
            "This server makes no tokens: it does not run with --dev. `distributary token --room ROOM` makes one, and so do \
             LiveKit's server SDKs with a key of this server.",
        )),
    }
}

fn check_name(field: &str, name: &str, least: usize) -> Result<(), Failure> {
    let length = name.chars().count();
    if (least..=NAME_CHARS_MAX).contains(&length) && !name.chars().any(char::is_control) {
        return Ok(());
    }
    let text = format!("{field} wants {least} to {NAME_CHARS_MAX} characters, none of them a control character.");
    Err(Failure::new(StatusCode::BAD_REQUEST, text))
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::sync_channel;

    use axum::Router;
    use axum::body::{Body, to_bytes};
    use axum::http::{HeaderMap, Request, StatusCode, header};
    use serde_json::{Value, json};
    use tower::ServiceExt;

    use super::{NAME_CHARS_MAX, Views};
    use crate::config::Plan;
    use crate::signal::api::{Handle, Purpose};
    use crate::signal::auth::Gate;

    async fn post(plan: &Plan, room: &str, body: String) -> (StatusCode, String) {
        let handle = Handle::new(sync_channel(1).0, std::thread::current(), Default::default());
        let routes: Router = super::super::routes(Views::new(plan, handle, Vec::new()));
        let request = Request::post(format!("/meet/{room}/token")).header(header::HOST, "localhost:7880");
        let response = routes.oneshot(request.body(Body::from(body)).unwrap()).await.unwrap();
        let status = response.status();
        (status, String::from_utf8(to_bytes(response.into_body(), 1 << 16).await.unwrap().to_vec()).unwrap())
    }

    #[tokio::test]
    async fn in_dev_a_token_opens_its_room_and_no_other() {
        let plan = Plan::default();
        let wish = json!({ "participant_identity": "ada-1", "participant_name": "Ada", "room_name": "ignored" });
        let (status, body) = post(&plan, "the%20room", wish.to_string()).await;
        assert_eq!(status, StatusCode::CREATED, "{body}");
        let made: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(made["server_url"], "ws://localhost:7880");
        let bearer = format!("Bearer {}", made["participant_token"].as_str().unwrap());
        let headers = HeaderMap::from_iter([(header::AUTHORIZATION, bearer.parse().unwrap())]);
        let gate = Gate::new(&plan.keys, false);
        assert_eq!(gate.join(&headers, "the room", Purpose::Publish), Ok(Some("ada-1".into())));
        assert!(gate.join(&headers, "another", Purpose::Watch).is_err() && gate.list(&headers).is_err());
    }

    #[tokio::test]
    async fn what_is_wrong_is_said() {
        let plan = Plan::default();
        let long = "x".repeat(NAME_CHARS_MAX + 1);
        let cases = [
            ("", "The body wants to be"),
            ("[]", "The body wants to be"),
            ("{\"participant_name\":\"Ada\"}", "participant_identity"),
            ("{\"participant_identity\":\"\"}", "participant_identity wants 1 to"),
            ("{\"participant_identity\":\"a\\u0000\"}", "control character"),
            (&format!("{{\"participant_identity\":\"a\",\"participant_name\":\"{long}\"}}"), "participant_name wants 0 to"),
        ];
        for (body, words) in cases {
            let (status, answer) = post(&plan, "a", body.to_owned()).await;
            assert!(status == StatusCode::BAD_REQUEST && answer.contains(words), "{body}: {status} {answer}");
        }
        let closed = Plan { dev: false, ..Plan::default() };
        let (status, answer) = post(&closed, "a", "{\"participant_identity\":\"a\"}".into()).await;
        assert!(status == StatusCode::FORBIDDEN && answer.contains("distributary token"), "{status} {answer}");
    }
}
