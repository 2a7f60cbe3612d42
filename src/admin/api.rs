//! `/api/v1`: what is going on, as JSON. Read only; with keys it wants a token with `video.roomList`, because it tells
//! addresses and identities.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::Views;
use crate::signal::api::RoomView;
use crate::signal::http::Failure;

#[derive(Serialize)]
struct Rooms {
    rooms: Vec<Room>,
}

#[derive(Serialize)]
struct Room {
    #[serde(flatten)]
    view: RoomView,
    /// Whether somebody publishes.
    live: bool,
}

impl From<RoomView> for Room {
    fn from(view: RoomView) -> Self {
        Room { live: view.publishers > 0, view }
    }
}

/// Every room with its sessions and their statistics, by name.
pub async fn rooms(State(views): State<Arc<Views>>, headers: HeaderMap) -> Result<Response, Failure> {
    let rooms = list(&views, &headers).await?;
    Ok(fresh(Rooms { rooms: rooms.into_iter().map(Room::from).collect() }))
}

/// One of them.
pub async fn room(State(views): State<Arc<Views>>, Path(room): Path<String>, headers: HeaderMap) -> Result<Response, Failure> {
    let rooms = list(&views, &headers).await?;
    let found = rooms.into_iter().find(|view| view.room == room);
    found.map(|view| fresh(Room::from(view))).ok_or_else(|| Failure::new(StatusCode::NOT_FOUND, "Nobody is in this room."))
}

async fn list(views: &Views, headers: &HeaderMap) -> Result<Vec<RoomView>, Failure> {
    views.gate.list(headers)?;
    let mut rooms = views.handle.rooms().await?;
    rooms.sort_by(|left, right| left.room.cmp(&right.room));
    Ok(rooms)
}

pub(super) fn fresh(body: impl Serialize) -> Response {
    ([(header::CACHE_CONTROL, HeaderValue::from_static("no-store"))], Json(body)).into_response()
}
