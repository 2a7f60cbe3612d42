//! What operators look at: health, metrics, the JSON API and the page.

mod api;
mod assets;
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
use crate::metrics::WorkerMetrics;
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
}

impl Views {
    /// `tables`: as in [`Running::metrics`](crate::topology::Running::metrics).
    pub fn new(plan: &Plan, handle: Handle, tables: Vec<Arc<WorkerMetrics>>) -> Arc<Views> {
        let count = tables.len();
        let tcp = usize::from(plan.tcp_port.is_some());
        let recorder = usize::from(plan.record.is_some());
        let label = |index: usize| match index.checked_sub(plan.workers) {
            None => index.to_string(),
            Some(thread) if thread < plan.handshake_threads => format!("handshakes{thread}"),
            Some(_) if index + tcp >= count => "tcp".to_owned(),
            Some(_) if index + tcp + recorder >= count => "recorder".to_owned(),
            Some(_) => "xdp".to_owned(),
        };
        let workers = tables.into_iter().enumerate().map(|(index, table)| (label(index), table)).collect();
        let recordings = plan.record.as_ref().map(|record| record.folder.clone());
        Arc::new(Views { handle, gate: Gate::new(&plan.keys, plan.dev), workers, started: SystemTime::now(), recordings })
    }
}

pub fn routes(views: Arc<Views>) -> Router {
    Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .route("/metrics", get(scrape))
        .route("/api/v1/rooms", get(api::rooms))
        .route("/api/v1/rooms/{room}", get(api::room))
        .route("/api/v1/recordings", get(recordings::list).post(recordings::start))
        .route("/api/v1/recordings/{room}", delete(recordings::stop))
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
