//! The page, embedded in the binary: plain files of `admin/page`, served as they are.

use axum::Router;
use axum::http::{HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

macro_rules! files {
    ($($file:literal)*) => {
        &[$(($file, include_bytes!(concat!("page/", $file)))),*]
    };
}

/// Every file of the page. `index.html` is at `/`, the others at their names.
const FILES: &[(&str, &[u8])] = files! {
    "index.html" "style.css" "favicon.svg" "app.js" "activity.js" "delta.js" "explain.js" "graph.js" "rooms.js" "source.js"
    "stats.js" "test-worker.js" "testcard.js" "unwatched.js" "whip.js"
};

/// The page loads nothing from elsewhere and runs nothing inline; another site must not frame it.
const SECURITY: [(HeaderName, HeaderValue); 5] = [
    (
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static(
            "default-src 'none'; script-src 'self'; worker-src 'self'; style-src 'self'; img-src 'self' data: blob:; \
             media-src 'self' blob: mediastream:; connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'self'",
        ),
    ),
    (
        HeaderName::from_static("permissions-policy"),
        HeaderValue::from_static("camera=(self), microphone=(self), display-capture=(self), geolocation=()"),
    ),
    (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    // A token may be in the page's address.
    (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    // A newer binary brings a newer page.
    (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
];

pub fn routes<S: Clone + Send + Sync + 'static>() -> Router<S> {
    FILES.iter().fold(Router::new(), |router, &(name, bytes)| {
        let path = if name == "index.html" { "/".to_owned() } else { format!("/{name}") };
        router.route(&path, get(async move || file(name, bytes)))
    })
}

fn file(name: &str, bytes: &'static [u8]) -> Response {
    let media_type = match name.rsplit('.').next() {
        Some("html") => "text/html; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("svg") => "image/svg+xml",
        _ => "application/octet-stream",
    };
    ([(header::CONTENT_TYPE, HeaderValue::from_static(media_type))], SECURITY, bytes).into_response()
}

#[cfg(test)]
mod tests {
    use super::FILES;

    #[test]
    fn every_file_of_the_page_is_served() {
        let directory = std::path::Path::new(file!()).with_file_name("page");
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
        let Ok(entries) = std::fs::read_dir(root.join(&directory)) else { return };
        for entry in entries {
            let name = entry.unwrap().file_name().into_string().unwrap();
            assert!(FILES.iter().any(|(file, _)| *file == name), "{name} is not in the list");
        }
    }
}
