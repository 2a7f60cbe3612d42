//! Cross-origin resource sharing: a page of any origin may publish and watch, because a token and not an origin is what
//! gives the right to (RFC 9725 §4.1 wants OPTIONS answered for CORS). No cookies are used, so `*` gives nothing away.

use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

const EXPOSED: HeaderValue =
    HeaderValue::from_static("Location, ETag, Link, Accept-Patch, Accept-Post, Retry-After, WWW-Authenticate");
/// What is allowed if the preflight does not say what it wants. `*` would not cover Authorization (Fetch §3.3.3).
const ALLOWED: HeaderValue = HeaderValue::from_static("Authorization, Content-Type, Accept, If-Match, ETag");
/// A day; browsers cap it at less.
const MAX_AGE_SECS: u32 = 86_400;

pub const ACCEPT_POST: HeaderName = HeaderName::from_static("accept-post");
pub const ACCEPT_PATCH: HeaderName = HeaderName::from_static("accept-patch");

/// The headers that every answer has.
pub async fn open(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
    response
}

/// The answer to OPTIONS: 200 (RFC 9725 §4.2), with `extra` and the methods there are.
pub fn preflight(request: &HeaderMap, methods: &'static str, extra: HeaderMap) -> Response {
    let mut response = StatusCode::OK.into_response();
    let headers = response.headers_mut();
    headers.extend(extra);
    headers.insert(header::ALLOW, HeaderValue::from_static(methods));
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static(methods));
    // Clients send headers nobody has thought of; none of them can do harm here.
    let wanted = request.get(header::ACCESS_CONTROL_REQUEST_HEADERS).cloned();
    headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, wanted.unwrap_or(ALLOWED));
    headers.insert(header::ACCESS_CONTROL_MAX_AGE, MAX_AGE_SECS.into());
    headers.insert(header::VARY, HeaderValue::from_static("Access-Control-Request-Headers"));
    response
}
