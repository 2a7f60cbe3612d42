//! `/api/v1/recordings`: what is recorded, what was, and the files. With keys it wants a token with `video.roomRecord`; where only a link
//! can be given (a player, a download), the token goes into its query, `?access_token=` (RFC 6750 §2.3).

use std::fs;
use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, Query, Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use tower::ServiceExt;
use tower_http::services::ServeFile;

use super::Views;
use super::api::fresh;
use crate::config::{RecordFiles, RecordFormat, RecordWish};
use crate::limits::RECORDINGS_LISTED;
use crate::record::files::{first_event, last_event};
use crate::record::store::Journal;
use crate::record::{EXTENSIONS, UNFINISHED, folder_of};
use crate::signal::api::Recorded;
use crate::signal::http::{Failure, check_room_name};

/// As long as a rid may be.
const LAYER_BYTES_MAX: usize = 16;
const NAME_BYTES_MAX: usize = 32;
const EGRESS: &str = "EG_";

#[derive(Deserialize)]
#[serde(default)]
#[derive(Default)]
pub struct Asked {
    room: Option<String>,
    name: Option<String>,
    access_token: Option<String>,
}

#[derive(Serialize)]
struct List {
    recordings: Vec<Recording>,
    /// There are more; `?room=` narrows it down.
    more: bool,
}

#[derive(Serialize)]
struct Recording {
    room: String,
    /// Id of the publisher's session; empty if it is of several.
    session: String,
    /// What was asked for under a name, or an egress' id; empty for the room's own recording.
    name: String,
    /// `recording`, `paused`, `ended`, `failed`, or `cut_off`: the server was killed, and has not completed it yet.
    state: &'static str,
    began: String,
    seconds: f64,
    bytes: u64,
    /// Losses that retransmission did not repair; none while it is not known.
    gaps: Option<u64>,
    /// Where it can be read, and the events beside it.
    url: String,
    events_url: String,
    /// How far it has come on its way to the store; none if there is no store.
    upload: Option<UploadView>,
}

#[derive(Serialize)]
struct UploadView {
    /// `waiting`, `uploading`, `failed` (it is tried again) or `uploaded`.
    state: &'static str,
    /// Bytes of the media file that the store has.
    bytes: u64,
    /// Why the last try failed.
    error: Option<String>,
    /// Where it is in the store.
    url: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Start {
    room: String,
    /// Makes it another recording, beside the room's own.
    name: Option<String>,
    /// As `record.format`, `record.files` and `record.layer`, which hold where nothing is said.
    format: Option<String>,
    files: Option<String>,
    layer: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Change {
    paused: bool,
}

/// The newest first.
pub async fn list(State(views): State<Arc<Views>>, Query(asked): Query<Asked>, headers: HeaderMap) -> Result<Response, Failure> {
    views.gate.record(&headers, asked.access_token.as_deref())?;
    let folder = folder(&views)?;
    let began = views.started.duration_since(UNIX_EPOCH).map_or(0, |time| time.as_millis() as i64);
    let list = tokio::task::spawn_blocking(move || listed(&folder, asked.room.as_deref(), began)).await;
    list.map(fresh).map_err(|error| Failure::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))
}

/// Has a room recorded, whoever publishes in it now and later.
pub async fn start(State(views): State<Arc<Views>>, headers: HeaderMap, body: Bytes) -> Result<Json<Recorded>, Failure> {
    views.gate.record(&headers, None)?;
    let Start { room, name, format, files, layer } = serde_json::from_slice(&body)
        .map_err(|error| Failure::new(StatusCode::BAD_REQUEST, format!("The body wants to be {{\"room\": \"NAME\"}}: {error}.")))?;
    check_room_name(&room)?;
    let format = chosen("format", format, RecordFormat::from_name, RecordFormat::NAMES)?;
    let files = chosen("files", files, RecordFiles::from_name, RecordFiles::NAMES)?;
    if layer.as_ref().is_some_and(|layer| layer.len() > LAYER_BYTES_MAX) {
        return Err(Failure::new(StatusCode::BAD_REQUEST, "layer wants to be \"best\" or the rid of a simulcast encoding."));
    }
    Ok(Json(views.handle.record(room, label(name)?, RecordWish { format, files, layer }).await?))
}

/// The name of a recording that has one: it is in the names of its files.
fn label(name: Option<String>) -> Result<String, Failure> {
    let Some(name) = name else { return Ok(String::new()) };
    let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    if !plain || name.is_empty() || name.len() > NAME_BYTES_MAX || name.starts_with(EGRESS) {
        let text = format!(
            "name is {name:?}; it wants to be 1 to {NAME_BYTES_MAX} letters, digits and _ that do not begin with {EGRESS}, as the ids of egresses do."
        );
        return Err(Failure::new(StatusCode::BAD_REQUEST, text));
    }
    Ok(name)
}

fn chosen<T>(field: &str, name: Option<String>, from_name: fn(&str) -> Option<T>, names: &[&str]) -> Result<Option<T>, Failure> {
    let wrong = |name: &str| {
        Failure::new(StatusCode::BAD_REQUEST, format!("{field} is {name:?}; it wants to be one of {}.", names.join(", ")))
    };
    name.map(|name| from_name(&name).ok_or_else(|| wrong(&name))).transpose()
}

/// Pauses a recording, or has it go on.
pub async fn change(
    State(views): State<Arc<Views>>,
    Path(room): Path<String>,
    Query(asked): Query<Asked>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<StatusCode, Failure> {
    views.gate.record(&headers, None)?;
    let Change { paused } = serde_json::from_slice(&body).map_err(|error| {
        Failure::new(StatusCode::BAD_REQUEST, format!("The body wants to be {{\"paused\": true}} or false: {error}."))
    })?;
    views.handle.pause_recording(room, label(asked.name)?, paused).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Ends that, and the recording of who publishes now.
pub async fn stop(
    State(views): State<Arc<Views>>,
    Path(room): Path<String>,
    Query(asked): Query<Asked>,
    headers: HeaderMap,
) -> Result<StatusCode, Failure> {
    views.gate.record(&headers, None)?;
    views.handle.stop_recording(room, label(asked.name)?).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// A file, or the part of it that is asked for (RFC 9110 §14).
pub async fn download(
    State(views): State<Arc<Views>>,
    Path((room, name)): Path<(String, String)>,
    Query(asked): Query<Asked>,
    request: Request,
) -> Result<Response, Failure> {
    views.gate.record(request.headers(), asked.access_token.as_deref())?;
    let known = |name: &str| name.rsplit_once('.').is_some_and(|(_, end)| end == "jsonl" || EXTENSIONS.contains(&end));
    let plain = |part: &str| !part.starts_with('.') && !part.contains(['/', '\\', '\0']);
    let path = folder(&views)?.join(&room).join(&name);
    if !(plain(&room) && plain(&name) && known(&name) && path.is_file()) {
        return Err(Failure::new(StatusCode::NOT_FOUND, "No such recording. GET /api/v1/recordings lists them."));
    }
    let Ok(response) = ServeFile::new(path).oneshot(request).await;
    Ok(response.into_response())
}

fn folder(views: &Views) -> Result<PathBuf, Failure> {
    views.recordings.clone().ok_or_else(|| crate::signal::api::Refusal::NoRecorder.into())
}

/// What is below the folder, of one room or of all. `began`: when this server did, in milliseconds of Unix time.
fn listed(folder: &FilePath, room: Option<&str>, began: i64) -> List {
    let rooms: Vec<PathBuf> = match room {
        Some(room) => vec![folder.join(folder_of(room))],
        None => entries(folder).collect(),
    };
    let mut files: Vec<PathBuf> = rooms.iter().flat_map(|room| entries(room)).filter(|file| is_media(file)).collect();
    // Names begin with the time.
    files.sort_by(|a, b| b.file_name().cmp(&a.file_name()));
    let more = files.len() > RECORDINGS_LISTED;
    files.truncate(RECORDINGS_LISTED);
    List { recordings: files.iter().filter_map(|file| recording(file, began)).collect(), more }
}

fn entries(folder: &FilePath) -> impl Iterator<Item = PathBuf> {
    fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path())
}

fn is_media(file: &FilePath) -> bool {
    file.extension().is_some_and(|extension| EXTENSIONS.iter().any(|known| extension == *known))
}

fn recording(file: &FilePath, began: i64) -> Option<Recording> {
    let metadata = fs::metadata(file).ok()?;
    let stem = file.file_stem()?.to_str()?;
    let (name, part) = stem.strip_suffix(UNFINISHED).map_or((stem, false), |name| (name, true));
    let sidecar = file.with_file_name(format!("{name}.jsonl"));
    let (first, last) = (first_event(&sidecar)?, last_event(&sidecar)?);
    let text = |field: &str| first[field].as_str().unwrap_or_default().to_owned();
    let state = match last["event"].as_str() {
        Some("failed") => "failed",
        _ if !part => "ended",
        _ if first["unix_ms"].as_i64().is_some_and(|at| at < began) => "cut_off",
        // Whatever happens in a pause is told with this.
        _ if last["paused"] == true => "paused",
        _ => "recording",
    };
    let told = last["at_ms"].as_i64().filter(|_| state != "recording");
    let written = || {
        let changed = metadata.modified().ok()?.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_millis() as i64;
        Some(changed - first["unix_ms"].as_i64()?)
    };
    let url = |file: &FilePath| {
        let name = |path: Option<&FilePath>| path.and_then(|path| Some(encoded(path.file_name()?.to_str()?))).unwrap_or_default();
        format!("/api/v1/recordings/{}/{}", name(file.parent()), name(Some(file)))
    };
    Some(Recording {
        room: text("room"),
        session: text("session"),
        name: text("name"),
        state,
        began: text("time"),
        seconds: told.or_else(written).unwrap_or(0).max(0) as f64 / 1_000.0,
        bytes: metadata.len(),
        gaps: last["gaps"].as_u64(),
        url: url(file),
        events_url: url(&sidecar),
        upload: Journal::load(file).map(|journal| UploadView {
            state: journal.state(),
            bytes: journal.media.sent(),
            url: journal.is_confirmed().then(|| journal.url()),
            error: journal.error,
        }),
    })
}

/// The `%` of folders' names is a character like others in a URL's path.
fn encoded(name: &str) -> String {
    name.replace('%', "%25")
}
