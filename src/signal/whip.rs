//! WHIP, the WebRTC-HTTP Ingestion Protocol (RFC 9725): a client publishes into a room.
//!
//! `POST /whip/{room}` makes a session; its URL, given in `Location`, takes PATCH and DELETE. A room has one such publisher at a
//! time: a second one gets 409. Members may publish beside it ([`super::livekit`]). All the rest is in `http/resource.rs`, which WHEP shares.
//!
//! WHIP has no way for a server to say that nobody watches an encoding. A client that wants to know asks: `GET {session}/layer` tells
//! what flows, and under `unwatched` the simulcast encodings that it may switch off. Nothing happens if it does not.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, Request, State};
use axum::response::Response;
use axum::routing::any;

use super::api::{Purpose, SessionPath};
use super::http::{self, Failure, Services};

pub fn routes() -> Router<Arc<Services>> {
    Router::new()
        .route("/whip/{room}", any(endpoint))
        .route("/whip/{room}/{session}", any(session))
        .route("/whip/{room}/{session}/layer", any(layer))
}

async fn endpoint(State(services): State<Arc<Services>>, Path(room): Path<String>, request: Request) -> Result<Response, Failure> {
    http::endpoint(&services, Purpose::Publish, room, request).await
}

async fn session(
    State(services): State<Arc<Services>>,
    Path((room, session)): Path<(String, String)>,
    request: Request,
) -> Result<Response, Failure> {
    http::session(&services, SessionPath { room, purpose: Purpose::Publish, session }, request).await
}

async fn layer(
    State(services): State<Arc<Services>>,
    Path((room, session)): Path<(String, String)>,
    request: Request,
) -> Result<Response, Failure> {
    http::layer(&services, SessionPath { room, purpose: Purpose::Publish, session }, request).await
}
