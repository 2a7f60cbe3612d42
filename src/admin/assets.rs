//! The pages, embedded in the binary: plain files, served as they are. Of `admin/page` at `/`, of `admin/console` at `/admin`, and of
//! `admin/meet/dist` at `/meet/{room}`.
//!
//! A browser asks each time whether a file is still what it has, by its entity tag (RFC 9110 §8.8.3), and gets a 304.

use axum::Router;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use ring::digest;

macro_rules! files {
    ($folder:literal $($file:literal)*) => {
        &[$(($file, include_bytes!(concat!($folder, $file)))),*]
    };
}

/// Every file of the page. `index.html` is at `/`, the others at their names.
const FILES: &[(&str, &[u8])] = files! {
    "page/" "index.html" "style.css" "favicon.svg" "app.js" "activity.js" "delta.js" "explain.js" "graph.js" "rooms.js" "source.js"
    "stats.js" "test-worker.js" "testcard.js" "unwatched.js" "whip.js"
};

/// The meeting page: where it is, its file, and what is in it. `admin/meet/build` makes the folder.
const MEETING: &[(&str, &str, &[u8])] = &[
    ("/meet", "index.html", include_bytes!("meet/dist/index.html")),
    ("/meet/{room}", "index.html", include_bytes!("meet/dist/index.html")),
    ("/meet.js", "meet.js", include_bytes!("meet/dist/meet.js")),
    ("/meet-e2ee.js", "meet-e2ee.js", include_bytes!("meet/dist/meet-e2ee.js")),
    ("/meet.css", "meet.css", include_bytes!("meet/dist/meet.css")),
    ("/meet-licenses.txt", "licenses.txt", include_bytes!("meet/dist/licenses.txt")),
];

/// The admin page, of `admin/console`: `index.html` is at `/admin`, the others below it at their names.
const CONSOLE: &[(&str, &[u8])] = files! {
    "console/" "index.html" "console.css" "console.js" "ask.js" "events.js" "load.js" "recordings.js" "rooms.js" "service.js"
};

/// A page loads nothing from elsewhere and runs nothing inline; another site must not frame it.
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
    let page = FILES.iter().map(|&(name, bytes)| {
        let path = if name == "index.html" { "/".to_owned() } else { format!("/{name}") };
        (path, name, bytes)
    });
    let console = CONSOLE.iter().map(|&(name, bytes)| {
        let path = if name == "index.html" { "/admin".to_owned() } else { format!("/admin/{name}") };
        (path, name, bytes)
    });
    let meeting = MEETING.iter().map(|&(path, name, bytes)| (path.to_owned(), name, bytes));
    page.chain(console).chain(meeting).fold(Router::new(), |router, (path, name, bytes)| {
        let tag = tag(bytes);
        router.route(&path, get(async move |headers: HeaderMap| file(name, bytes, tag, &headers)))
    })
}

fn file(name: &str, bytes: &'static [u8], tag: HeaderValue, request: &HeaderMap) -> Response {
    let media_type = match name.rsplit('.').next() {
        Some("html") => "text/html; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("svg") => "image/svg+xml",
        Some("txt") => "text/plain; charset=utf-8",
        _ => "application/octet-stream",
    };
    let known = request.get(header::IF_NONE_MATCH).is_some_and(|tags| tags == tag);
    let tag = [(header::ETAG, tag)];
    if known {
        return (StatusCode::NOT_MODIFIED, SECURITY, tag).into_response();
    }
    ([(header::CONTENT_TYPE, HeaderValue::from_static(media_type))], SECURITY, tag, bytes).into_response()
}

/// Half of the file's SHA-256.
fn tag(bytes: &[u8]) -> HeaderValue {
    let hash = digest::digest(&digest::SHA256, bytes);
    let hex: String = hash.as_ref()[..16].iter().map(|byte| format!("{byte:02x}")).collect();
    HeaderValue::try_from(format!("\"{hex}\"")).unwrap_or(HeaderValue::from_static("\"\""))
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::body::{Body, to_bytes};
    use axum::http::{Request, StatusCode, header};
    use tower::ServiceExt;

    use super::{CONSOLE, FILES};

    async fn ask(path: &str, tag: Option<&str>) -> axum::response::Response {
        let mut request = Request::get(path);
        if let Some(tag) = tag {
            request = request.header(header::IF_NONE_MATCH, tag);
        }
        let routes: Router = super::routes();
        routes.oneshot(request.body(Body::empty()).unwrap()).await.unwrap()
    }

    #[tokio::test]
    async fn a_file_that_the_browser_has_is_not_sent_again() {
        let first = ask("/meet/a%20room", None).await;
        assert_eq!(first.status(), StatusCode::OK);
        assert!(first.headers()[header::CONTENT_SECURITY_POLICY].to_str().unwrap().contains("script-src 'self'"));
        let tag = first.headers()[header::ETAG].to_str().unwrap().to_owned();
        let page = to_bytes(first.into_body(), 1 << 20).await.unwrap();
        assert!(String::from_utf8_lossy(&page).contains("/meet.js"));
        let again = ask("/meet/a%20room", Some(&tag)).await;
        assert_eq!(again.status(), StatusCode::NOT_MODIFIED);
        assert!(to_bytes(again.into_body(), 1 << 20).await.unwrap().is_empty());
        assert_eq!(ask("/meet.js", Some(&tag)).await.status(), StatusCode::OK);
        assert_eq!(ask("/meet/a/b", None).await.status(), StatusCode::NOT_FOUND);
    }

    #[test]
    fn every_file_of_the_pages_is_served() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
        for (folder, files) in [("page", FILES), ("console", CONSOLE)] {
            let Ok(entries) = std::fs::read_dir(root.join(std::path::Path::new(file!()).with_file_name(folder))) else { return };
            for entry in entries {
                let name = entry.unwrap().file_name().into_string().unwrap();
                assert!(files.iter().any(|(file, _)| *file == name), "{folder}/{name} is not in the list");
            }
        }
    }
}
