//! The HTTP side of signalling: the routes of WHIP and WHEP, what all answers have in common, and the server that carries them.
//!
//! Every failure is a status with a plain-text sentence ([`Failure`]); every answer may be read by pages of other origins
//! (`cors`). Handlers hold no state: they check, ask the director through its [`Handle`], and write down what it says.

mod cors;
mod failure;
mod resource;
mod server;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::middleware;
use axum::response::{IntoResponse, Response};

use super::api::Handle;
use super::auth::Gate;
use super::{livekit, whep, whip};
use crate::config::{IceServer, Plan};

pub use failure::Failure;
pub use resource::check_room_name;
pub(super) use resource::{endpoint, layer, seen, session};
pub use server::{Certificate, Listener, ServeError};

/// What the handlers need.
pub struct Services {
    pub handle: Handle,
    pub gate: Gate,
    /// Values of the `Link` headers of a 201 (RFC 9725 §4.6).
    links: Vec<axum::http::HeaderValue>,
}

impl Services {
    pub fn new(plan: &Plan, handle: Handle) -> Arc<Services> {
        let links = plan.ice_servers.iter().flat_map(ice_server_links).filter_map(|link| link.parse().ok()).collect();
        Arc::new(Services { handle, gate: Gate::new(&plan.keys, plan.dev), links })
    }
}

/// `/whip/…`, `/whep/…` and `/rtc…`.
pub fn routes(services: Arc<Services>) -> Router {
    Router::new().merge(whip::routes()).merge(whep::routes()).merge(livekit::routes()).with_state(services)
}

/// What holds for all routes of the server together: answers for paths and methods that none has, and CORS.
pub fn finish(routes: Router) -> Router {
    routes.fallback(unknown_path).method_not_allowed_fallback(method_not_allowed).layer(middleware::map_response(cors::open))
}

async fn unknown_path(uri: Uri) -> Failure {
    let path: String = uri.path().chars().take(100).collect();
    Failure::new(
        StatusCode::NOT_FOUND,
        format!("Nothing is at {path}. Publish to /whip/ROOM, watch from /whep/ROOM, or open the page at /."),
    )
}

/// The router adds `Allow`.
async fn method_not_allowed(method: Method, request: Request) -> Response {
    if method == Method::OPTIONS {
        return cors::preflight(request.headers(), "GET, HEAD, OPTIONS", HeaderMap::new());
    }
    Failure::new(StatusCode::METHOD_NOT_ALLOWED, format!("{method} is not allowed here.")).into_response()
}

/// One link per URL: `<turn:t>; rel="ice-server"; username="u"; credential="p"; credential-type="password"`.
fn ice_server_links(server: &IceServer) -> Vec<String> {
    let quoted = |text: &str| format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""));
    let mut parameters = String::from("; rel=\"ice-server\"");
    if let (Some(username), Some(credential)) = (&server.username, &server.credential) {
        parameters += &format!("; username={}; credential={}; credential-type=\"password\"", quoted(username), quoted(credential));
    }
    server.urls.iter().map(|url| format!("<{url}>{parameters}")).collect()
}
