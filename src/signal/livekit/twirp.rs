//! Twirp, the RPC that LiveKit's server SDKs speak: `POST /twirp/livekit.SERVICE/METHOD` with a message in JSON or protobuf, the answer in
//! the same, errors in JSON (<https://twitchtv.github.io/twirp/docs/spec_v7.html>).
//!
//! A service has one route, `/twirp/livekit.SERVICE/{method}`, whose handler gives the request to [`serve`] with a closure that knows the
//! methods: it reads a message from the [`Call`], does what is to be done, and makes the answer with [`Call::answer`].

use axum::body::{Bytes, to_bytes};
use axum::extract::Request;
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use prost::Message;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::limits::TWIRP_BYTES_MAX;
use crate::signal::api::Refusal;
use crate::signal::auth::Denied;

/// Twirp's error codes, those that are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    InvalidArgument,
    /// The body is no message.
    Malformed,
    NotFound,
    /// No such method, or not called as methods are.
    BadRoute,
    AlreadyExists,
    PermissionDenied,
    Unauthenticated,
    ResourceExhausted,
    FailedPrecondition,
    Unimplemented,
    Internal,
    Unavailable,
}

impl Code {
    fn name(self) -> &'static str {
        match self {
            Code::InvalidArgument => "invalid_argument",
            Code::Malformed => "malformed",
            Code::NotFound => "not_found",
            Code::BadRoute => "bad_route",
            Code::AlreadyExists => "already_exists",
            Code::PermissionDenied => "permission_denied",
            Code::Unauthenticated => "unauthenticated",
            Code::ResourceExhausted => "resource_exhausted",
            Code::FailedPrecondition => "failed_precondition",
            Code::Unimplemented => "unimplemented",
            Code::Internal => "internal",
            Code::Unavailable => "unavailable",
        }
    }

    fn status(self) -> StatusCode {
        match self {
            Code::InvalidArgument | Code::Malformed => StatusCode::BAD_REQUEST,
            Code::NotFound | Code::BadRoute => StatusCode::NOT_FOUND,
            Code::AlreadyExists => StatusCode::CONFLICT,
            Code::PermissionDenied => StatusCode::FORBIDDEN,
            Code::Unauthenticated => StatusCode::UNAUTHORIZED,
            Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
            Code::FailedPrecondition => StatusCode::PRECONDITION_FAILED,
            Code::Unimplemented => StatusCode::NOT_IMPLEMENTED,
            Code::Internal => StatusCode::INTERNAL_SERVER_ERROR,
            Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

/// An error as an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    pub code: Code,
    pub message: String,
}

impl Fault {
    pub fn new(code: Code, message: impl Into<String>) -> Fault {
        Fault { code, message: message.into() }
    }

    pub fn invalid(message: impl Into<String>) -> Fault {
        Fault::new(Code::InvalidArgument, message)
    }

    /// For a service's closure: it knows no such method.
    pub fn no_method(service: &str, method: &str) -> Fault {
        let method: String = method.chars().take(100).collect();
        Fault::new(Code::BadRoute, format!("livekit.{service} has no method {method:?} here."))
    }
}

impl From<Denied> for Fault {
    fn from(denied: Denied) -> Fault {
        let code = if denied.status() == StatusCode::FORBIDDEN { Code::PermissionDenied } else { Code::Unauthenticated };
        Fault::new(code, denied.to_string())
    }
}

impl From<Refusal> for Fault {
    fn from(refusal: Refusal) -> Fault {
        let code = match refusal.status() {
            404 => Code::NotFound,
            409 => Code::AlreadyExists,
            400..=499 => Code::InvalidArgument,
            501 => Code::Unimplemented,
            503 => Code::Unavailable,
            _ => Code::Internal,
        };
        Fault::new(code, refusal.to_string())
    }
}

impl IntoResponse for Fault {
    fn into_response(self) -> Response {
        let body = json!({ "code": self.code.name(), "msg": self.message }).to_string();
        (self.code.status(), [(header::CONTENT_TYPE, "application/json")], body).into_response()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Encoding {
    Json,
    Protobuf,
}

/// A method that is called.
pub struct Call {
    pub headers: HeaderMap,
    encoding: Encoding,
    body: Bytes,
}

impl Call {
    async fn of(request: Request) -> Result<Call, Fault> {
        if request.method() != Method::POST {
            return Err(Fault::new(
                Code::BadRoute,
                format!("{} is not allowed here: methods are called by POST.", request.method()),
            ));
        }
        let (parts, body) = request.into_parts();
        let kind = parts.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let encoding = match kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase().as_str() {
            "application/json" => Encoding::Json,
            "application/protobuf" => Encoding::Protobuf,
            _ => {
                let wanted = "Content-Type must be application/json or application/protobuf";
                return Err(Fault::new(Code::BadRoute, format!("{wanted}, not {kind:?}.")));
            }
        };
        let body = to_bytes(body, TWIRP_BYTES_MAX).await.map_err(|_| {
            Fault::new(Code::Malformed, format!("The body is longer than {TWIRP_BYTES_MAX} bytes, or was cut off."))
        })?;
        Ok(Call { headers: parts.headers, encoding, body })
    }

    /// What the method is called with. Fields that are not known are ignored.
    pub fn read<M: Message + Default + DeserializeOwned>(&self) -> Result<M, Fault> {
        let reason = match self.encoding {
            Encoding::Json => match serde_json::from_slice(&self.body) {
                Ok(message) => return Ok(message),
                Err(error) => error.to_string(),
            },
            Encoding::Protobuf => match M::decode(self.body.clone()) {
                Ok(message) => return Ok(message),
                Err(error) => error.to_string(),
            },
        };
        Err(Fault::new(Code::Malformed, format!("The body is not the message that this method takes: {reason}.")))
    }

    pub fn answer<M: Message + Serialize>(&self, message: &M) -> Result<Response, Fault> {
        let (kind, body) = match self.encoding {
            Encoding::Json => {
                ("application/json", serde_json::to_vec(message).map_err(|error| Fault::new(Code::Internal, error.to_string()))?)
            }
            Encoding::Protobuf => ("application/protobuf", message.encode_to_vec()),
        };
        Ok(([(header::CONTENT_TYPE, kind)], body).into_response())
    }
}

/// Answers a request to a service. `methods` does what is asked.
pub async fn serve<F: Future<Output = Result<Response, Fault>>>(request: Request, methods: impl FnOnce(Call) -> F) -> Response {
    match Call::of(request).await {
        Ok(call) => methods(call).await.unwrap_or_else(Fault::into_response),
        Err(fault) => fault.into_response(),
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use livekit_protocol as proto;

    use super::*;

    async fn call(method: &str, kind: &str, body: impl Into<Body>) -> (u16, String) {
        let request = Request::builder().method(method).header(header::CONTENT_TYPE, kind).body(body.into()).unwrap();
        let answer = serve(request, async |call| {
            let asked: proto::StopEgressRequest = call.read()?;
            call.answer(&proto::EgressInfo { egress_id: asked.egress_id, ..Default::default() })
        });
        let answer = answer.await;
        let status = answer.status().as_u16();
        (status, String::from_utf8_lossy(&to_bytes(answer.into_body(), 1 << 20).await.unwrap()).into_owned())
    }

    #[tokio::test]
    async fn both_encodings_are_read_and_answered_in() {
        let (status, body) = call("POST", "application/json; charset=UTF-8", r#"{"egressId":"EG_1","later":true}"#).await;
        assert!(status == 200 && body.contains("\"EG_1\""), "{status} {body}");
        let (_, snake) = call("POST", "application/json", r#"{"egress_id":"EG_2"}"#).await;
        assert!(snake.contains("\"EG_2\""), "{snake}");
        let message = proto::StopEgressRequest { egress_id: "EG_3".into() }.encode_to_vec();
        let (status, body) = call("POST", "application/protobuf", message).await;
        assert_eq!((status, body.as_str()), (200, "\n\u{4}EG_3"));
    }

    #[tokio::test]
    async fn errors_are_json_with_twirps_codes() {
        for (method, kind, body, status, code) in [
            ("GET", "application/json", "", 404, "bad_route"),
            ("POST", "text/plain", "{}", 404, "bad_route"),
            ("POST", "application/json", "{", 400, "malformed"),
            ("POST", "application/json", r#"{"egressId":7}"#, 400, "malformed"),
            ("POST", "application/protobuf", "\u{ff}\u{ff}", 400, "malformed"),
        ] {
            let (got, text) = call(method, kind, body).await;
            let told: serde_json::Value = serde_json::from_str(&text).unwrap();
            assert_eq!((got, told["code"].as_str()), (status, Some(code)), "{text}");
            assert!(told["msg"].as_str().is_some_and(|message| message.len() > 10), "{text}");
        }
        let (status, text) = call("POST", "application/json", vec![b' '; TWIRP_BYTES_MAX + 1]).await;
        assert!(status == 400 && text.contains("longer than"), "{text}");
    }
}
