//! WHEP, the WebRTC-HTTP Egress Protocol (draft-ietf-wish-whep): a client watches a room.
//!
//! `POST /whep/{room}` makes a session; its URL, given in `Location`, takes PATCH and DELETE. The draft lets a server answer
//! an offer with a counter-offer (406); this one never does, so an SDP answer by PATCH is 415. A viewer who comes before the
//! publisher is admitted rather than sent away with 409. All the rest is in `http/resource.rs`, which WHIP shares.
//!
//! `POST {session}/layer` says what the viewer wants of the picture at most (a simulcast encoding, spatial and temporal layers, or
//! nothing), as the layer selection extension of the draft's first versions did (`urn:ietf:params:whep:ext:core:layer`); the 201 has
//! a `Link` to it. By `POST {session}/seen` a viewer may tell how often its picture stood still, for the API to show: nobody else knows.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, Request, State};
use axum::response::Response;
use axum::routing::any;

use super::api::{Purpose, SessionPath};
use super::http::{self, Failure, Services};

pub fn routes() -> Router<Arc<Services>> {
    Router::new()
        .route("/whep/{room}", any(endpoint))
        .route("/whep/{room}/{session}", any(session))
        .route("/whep/{room}/{session}/layer", any(layer))
        .route("/whep/{room}/{session}/seen", any(seen))
}

async fn endpoint(State(services): State<Arc<Services>>, Path(room): Path<String>, request: Request) -> Result<Response, Failure> {
    http::endpoint(&services, Purpose::Watch, room, request).await
}

async fn session(
    State(services): State<Arc<Services>>,
    Path((room, session)): Path<(String, String)>,
    request: Request,
) -> Result<Response, Failure> {
    http::session(&services, SessionPath { room, purpose: Purpose::Watch, session }, request).await
}

async fn layer(
    State(services): State<Arc<Services>>,
    Path((room, session)): Path<(String, String)>,
    request: Request,
) -> Result<Response, Failure> {
    http::layer(&services, SessionPath { room, purpose: Purpose::Watch, session }, request).await
}

async fn seen(
    State(services): State<Arc<Services>>,
    Path((room, session)): Path<(String, String)>,
    request: Request,
) -> Result<Response, Failure> {
    http::seen(&services, SessionPath { room, purpose: Purpose::Watch, session }, request).await
}
