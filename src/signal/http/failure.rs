//! An answer that says no: a status, a sentence for people, and the headers that go with the status.

use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use crate::signal::api::Refusal;
use crate::signal::auth::Denied;

#[derive(Clone, Debug)]
pub struct Failure {
    status: StatusCode,
    text: String,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl Failure {
    pub fn new(status: StatusCode, text: impl Into<String>) -> Self {
        Failure { status, text: text.into(), headers: Vec::new() }
    }

    /// The sentence.
    pub fn text(&self) -> &str {
        &self.text
    }

    pub fn with(mut self, name: HeaderName, value: impl Into<HeaderValue>) -> Self {
        self.headers.push((name, value.into()));
        self
    }
}

impl From<Denied> for Failure {
    fn from(denied: Denied) -> Self {
        Failure::new(denied.status(), denied.to_string())
            .with(header::WWW_AUTHENTICATE, HeaderValue::from_static(denied.challenge()))
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        let status = StatusCode::from_u16(refusal.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let failure = Failure::new(status, refusal.to_string());
        match refusal.retry_after_secs() {
            Some(seconds) => failure.with(header::RETRY_AFTER, seconds),
            None => failure,
        }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let mut response = (self.status, self.text + "\n").into_response();
        for (name, value) in self.headers {
            response.headers_mut().insert(name, value);
        }
        response
    }
}
