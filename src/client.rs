//! What commands ask of a running server, by its HTTP API.

use std::time::Duration;

use serde_json::Value;
use ureq::tls::TlsConfig;
use ureq::{Agent, Body};

/// A server's answer is waited for so long.
const TIME_MAX: Duration = Duration::from_secs(15);

/// A server, as the operator names it.
pub struct Client {
    agent: Agent,
    /// Without a slash at its end.
    base: String,
    /// None: the server is asked without one, as `--dev` allows.
    token: Option<String>,
}

impl Client {
    /// `insecure`: any certificate will do.
    pub fn new(base: &str, token: Option<String>, insecure: bool) -> Client {
        let tls = TlsConfig::builder().disable_verification(insecure).build();
        let config = Agent::config_builder().http_status_as_error(false).timeout_global(Some(TIME_MAX)).tls_config(tls).build();
        Client { agent: config.new_agent(), base: base.trim_end_matches('/').to_owned(), token }
    }

    /// Has what `wish` names in its `room` recorded; the server's answer.
    pub fn record(&self, wish: &Value) -> Result<Value, String> {
        let body = wish.to_string();
        let request = self.agent.post(format!("{}/api/v1/recordings", self.base)).header("Content-Type", "application/json");
        json(&self.answer(self.allowed(request).send(body))?)
    }

    /// Has nothing kept of it for now, or everything again.
    pub fn pause_recording(&self, room: &str, name: Option<&str>, paused: bool) -> Result<(), String> {
        let body = serde_json::json!({ "paused": paused }).to_string();
        let request = self.agent.patch(self.recording(room, name));
        self.answer(self.allowed(request.header("Content-Type", "application/json")).send(body)).map(drop)
    }

    /// Ends that.
    pub fn stop_recording(&self, room: &str, name: Option<&str>) -> Result<(), String> {
        let request = self.agent.delete(self.recording(room, name));
        self.answer(self.allowed(request).call()).map(drop)
    }

    fn recording(&self, room: &str, name: Option<&str>) -> String {
        let name = name.map(|name| format!("?name={}", in_path(name))).unwrap_or_default();
        format!("{}/api/v1/recordings/{}{name}", self.base, in_path(room))
    }

    /// The recordings there are.
    pub fn recordings(&self) -> Result<Value, String> {
        let request = self.agent.get(format!("{}/api/v1/recordings", self.base));
        json(&self.answer(self.allowed(request).call())?)
    }

    fn allowed<B>(&self, request: ureq::RequestBuilder<B>) -> ureq::RequestBuilder<B> {
        match &self.token {
            Some(token) => request.header("Authorization", format!("Bearer {token}")),
            None => request,
        }
    }

    /// The body of an answer that says yes; of another, what it says.
    fn answer(&self, answer: Result<ureq::http::Response<Body>, ureq::Error>) -> Result<String, String> {
        let mut answer = answer
            .map_err(|error| format!("{} does not answer: {error}. Is the server running there? See --server.", self.base))?;
        let text = answer.body_mut().read_to_string().map_err(|error| error.to_string())?;
        match answer.status() {
            status if status.is_success() => Ok(text),
            status => Err(format!("{} says {}: {}", self.base, status.as_u16(), text.trim())),
        }
    }
}

fn json(text: &str) -> Result<Value, String> {
    serde_json::from_str(text).map_err(|error| format!("that is no answer of this server: {error}"))
}

/// A room's name as one segment of a path (RFC 3986 §3.3).
fn in_path(room: &str) -> String {
    let mut path = String::new();
    for byte in room.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => path.push(byte as char),
            _ => path.push_str(&format!("%{byte:02X}")),
        }
    }
    path
}
