//! What operators look at: health, metrics, the JSON API and the page; and the meeting page.

mod api;
mod assets;
mod meet;
pub mod metrics;
mod recordings;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get};

use crate::config::Plan;
use crate::signal::api::Handle;
use crate::signal::auth::Gate;

/// Version and commit of this binary.
pub const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " (", env!("DISTRIBUTARY_COMMIT"), ")");

/// What the handlers look at.
pub struct Views {
    handle: Handle,
    gate: Gate,
    workers: Vec<metrics::Table>,
    started: SystemTime,
    /// Where recordings are, if any are made.
    recordings: Option<PathBuf>,
    /// Whether the server gives tokens to whoever asks, and over what.
    dev: bool,
    tls: bool,
}

impl Views {
    /// `workers`: the tables of all threads that count.
    pub fn new(plan: &Plan, handle: Handle, workers: Vec<metrics::Table>) -> Arc<Views> {
        let recordings = plan.record.as_ref().map(|record| record.folder.clone());
        Arc::new(Views {
            handle,
            gate: Gate::new(&plan.keys, plan.dev),
            workers,
            started: SystemTime::now(),
            recordings,
            dev: plan.dev,
            tls: plan.tls.is_some(),
        })
    }
}

pub fn routes(views: Arc<Views>) -> Router {
    Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .route("/metrics", get(scrape))
        .route("/meet/{room}/token", get(meet::can_make).post(meet::make))
        .route("/api/v1/rooms", get(api::rooms))
        .route("/api/v1/rooms/{room}", get(api::room))
        .route("/api/v1/recordings", get(recordings::list).post(recordings::start))
        .route("/api/v1/recordings/{room}", delete(recordings::stop).patch(recordings::change))
        .route("/api/v1/recordings/{room}/{file}", get(recordings::download))
        .with_state(views)
        .merge(assets::routes())
}

/// 503 tells a load balancer to send new sessions elsewhere; the running ones are served on.
async fn ready(State(views): State<Arc<Views>>) -> Response {
    match views.handle.ready() {
        true => "ready\n".into_response(),
        false => {
            (StatusCode::SERVICE_UNAVAILABLE, "not ready: starting, shutting down, or at its limit (limits.load)\n").into_response()
        }
    }
}

async fn scrape(State(views): State<Arc<Views>>) -> Response {
    let text = metrics::render(&views.workers, views.handle.gauges(), views.started);
    ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response()
}
