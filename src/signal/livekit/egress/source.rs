//! Whom an egress records: the seam between what is asked (a room and an identity, or ids of tracks) and what the server can record.
//!
//! That is a publisher with all its tracks or some of them, found by [`Sources::find`]: by its identity, or where its token had none by its
//! id in `/api/v1/rooms`; a track by its sid, or as `SESSION:MID`. Each egress is a recording of its own, with its id in the names of its
//! files.

use std::path::{Path, PathBuf};

use super::super::twirp::{Code, Fault};
use crate::config::{Plan, RecordFiles, RecordFormat, RecordWish};
use crate::record::files::{self, Piece};
use crate::record::store;
use crate::signal::api::{Handle, Refusal, SessionView, TrackView};
use crate::signal::http::check_room_name;

/// Whom to record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    pub room: String,
    source: Source,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Source {
    Participant(String),
    /// One track, or one of sound and one of pictures, of the same publisher.
    Tracks(Vec<String>),
}

impl Wanted {
    pub fn participant(room: &str, identity: &str) -> Result<Wanted, Fault> {
        if identity.is_empty() {
            return Err(Fault::invalid("identity is missing: whose tracks are to be recorded?"));
        }
        Wanted::new(room, Source::Participant(identity.to_owned()))
    }

    pub fn track(room: &str, id: &str) -> Result<Wanted, Fault> {
        if id.is_empty() {
            return Err(Fault::invalid("track_id is missing."));
        }
        Wanted::new(room, Source::Tracks(vec![id.to_owned()]))
    }

    pub fn tracks(room: &str, audio: &str, video: &str) -> Result<Wanted, Fault> {
        let ids: Vec<String> = [audio, video].into_iter().filter(|id| !id.is_empty()).map(str::to_owned).collect();
        if ids.is_empty() {
            return Err(Fault::invalid("audio_track_id and video_track_id are missing: one of them is needed."));
        }
        Wanted::new(room, Source::Tracks(ids))
    }

    fn new(room: &str, source: Source) -> Result<Wanted, Fault> {
        check_room_name(room).map_err(|failure| Fault::invalid(format!("room_name: {}", failure.text())))?;
        Ok(Wanted { room: room.to_owned(), source })
    }

    pub fn identity(&self) -> Option<&str> {
        match &self.source {
            Source::Participant(identity) => Some(identity),
            Source::Tracks(_) => None,
        }
    }

    /// Whether a track of a session is meant.
    fn has(&self, session: &SessionView, track: &TrackView) -> bool {
        match &self.source {
            Source::Participant(_) => true,
            Source::Tracks(ids) => ids.iter().any(|id| is(session, track, id)),
        }
    }

    /// Whether what is recorded of a session is there still: one of the tracks, if it is not all.
    pub fn is_there(&self, session: &str, publishing: &[SessionView]) -> bool {
        let session = publishing.iter().find(|other| other.id == session);
        session.is_some_and(|session| match &self.source {
            Source::Participant(_) => true,
            Source::Tracks(ids) => ids.iter().any(|id| sends(session, id)),
        })
    }

    pub fn track_id(&self) -> Option<&str> {
        match &self.source {
            Source::Tracks(ids) => ids.first().map(String::as_str),
            Source::Participant(_) => None,
        }
    }
}

/// The store that files go to.
pub struct Store {
    pub address: String,
    pub prefix: String,
}

/// Whether a session's track has this id: a sid, or `SESSION:MID`.
fn is(session: &SessionView, track: &TrackView, id: &str) -> bool {
    match id.split_once(':') {
        Some((of, mid)) => session.id == of && track.mid == mid,
        None => track.sid.as_deref() == Some(id),
    }
}

/// Whether a session sends a track of this id.
fn sends(session: &SessionView, id: &str) -> bool {
    session.tracks.iter().any(|track| track.direction == "in" && is(session, track, id))
}

/// Whether a session sends anything that can be recorded.
fn publishes(session: &SessionView) -> bool {
    session.purpose == "publish" || (session.purpose == "member" && session.tracks.iter().any(|track| track.direction == "in"))
}

/// What can be recorded here, and what became of it.
pub struct Sources {
    handle: Handle,
    records: bool,
    folder: PathBuf,
    store: Option<Store>,
}

impl Sources {
    pub fn new(plan: &Plan, handle: Handle) -> Sources {
        let store = plan.storage.as_ref().map(|plan| Store { address: store::address(plan), prefix: plan.prefix.clone() });
        let folder = plan.record.as_ref().map(|record| record.folder.clone()).unwrap_or_default();
        Sources { handle, records: plan.record.is_some(), folder, store }
    }

    pub fn store(&self) -> Option<&Store> {
        self.store.as_ref()
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Begins to record into one file, under the id of an egress; the session that is recorded. `format`: in place of the server's.
    pub async fn start(&self, wanted: &Wanted, egress: &str, format: Option<RecordFormat>) -> Result<String, Fault> {
        if !self.records {
            return Err(Refusal::NoRecorder.into());
        }
        let view = self.find(wanted).await?;
        let is_wanted = |track: &TrackView| track.direction == "in" && wanted.has(&view, track);
        if format == Some(RecordFormat::Mp4) && view.tracks.iter().any(|track| is_wanted(track) && track.codec == Some("VP8")) {
            let text =
                "file_type MP4: the picture is VP8, which few players take in MP4: it is recorded into WebM. Leave file_type out.";
            return Err(Fault::invalid(text));
        }
        let session = view.id;
        let tracks = match &wanted.source {
            Source::Participant(_) => None,
            Source::Tracks(ids) => {
                Some(ids.iter().map(|id| id.split_once(':').map_or(id.as_str(), |(_, mid)| mid).to_owned()).collect())
            }
        };
        let wish = RecordWish { format, files: Some(RecordFiles::Participant), layer: None };
        if !self.handle.record_session(session.clone(), tracks, egress.to_owned(), wish).await?.publishing {
            self.stop(egress).await;
            let text = format!("The publisher of {:?} is not connected yet, or has just left. Try again.", wanted.room);
            return Err(Fault::new(Code::Unavailable, text));
        }
        Ok(session)
    }

    /// Ends it.
    pub async fn stop(&self, egress: &str) {
        match self.handle.stop_recording_labelled(egress.to_owned()).await {
            // The publisher has left, which has ended it.
            Ok(()) | Err(Refusal::UnknownSession) => {}
            Err(refusal) => tracing::warn!(egress, %refusal, "the recording of an egress cannot be ended"),
        }
    }

    /// The session that is meant.
    async fn find(&self, wanted: &Wanted) -> Result<SessionView, Fault> {
        let rooms = self.handle.rooms().await?;
        let Some(room) = rooms.into_iter().find(|room| room.room == wanted.room) else {
            return Err(Fault::new(Code::NotFound, format!("There is nobody in room {:?}.", wanted.room)));
        };
        let mut publishers = room.sessions.into_iter().filter(publishes);
        let found = match &wanted.source {
            Source::Participant(identity) => {
                publishers.find(|session| session.identity.as_deref() == Some(identity) || session.id == *identity)
            }
            Source::Tracks(ids) => publishers.find(|session| ids.iter().all(|id| sends(session, id))),
        };
        let missing = || match &wanted.source {
            Source::Participant(identity) => format!("Nobody in room {:?} publishes as {identity:?}.", wanted.room),
            Source::Tracks(ids) => format!("Nobody in room {:?} publishes {}.", wanted.room, ids.join(" and ")),
        };
        found.ok_or_else(|| Fault::new(Code::NotFound, missing()))
    }

    /// All sessions that publish; none if that cannot be known now.
    pub async fn publishing(&self) -> Option<Vec<SessionView>> {
        let rooms = self.handle.rooms().await.ok()?;
        let sessions = rooms.into_iter().flat_map(|room| room.sessions);
        Some(sessions.filter(|session| publishes(session) && session.state != "closing").collect())
    }

    /// The files that an egress became.
    pub async fn pieces(&self, room: &str, egress: &str) -> Vec<Piece> {
        let (folder, room, egress) = (self.folder.clone(), room.to_owned(), egress.to_owned());
        tokio::task::spawn_blocking(move || files::labelled(&folder, &room, &egress)).await.unwrap_or_default()
    }
}
