//! Whom an egress records: the seam between what is asked (a room and an identity, or ids of tracks) and what the server can record.
//!
//! That is a publisher with all its tracks, found by [`Sources::find`]: by its identity, or where its token had none by its id in
//! `/api/v1/rooms`; a track by its sid, or as `SESSION:MID`. An egress of one track has all of its publisher's, then.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use super::super::twirp::{Code, Fault};
use crate::config::{Plan, RecordFormat, RecordPlan};
use crate::record::files::{self, Piece};
use crate::record::store;
use crate::signal::api::{Handle, Refusal, SessionView};
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

/// Whether a session sends anything that can be recorded.
fn publishes(session: &SessionView) -> bool {
    session.purpose == "publish" || (session.purpose == "member" && session.tracks.iter().any(|track| track.direction == "in"))
}

/// What can be recorded here, and what became of it.
pub struct Sources {
    handle: Handle,
    record: Option<RecordPlan>,
    folder: PathBuf,
    store: Option<Store>,
}

impl Sources {
    pub fn new(plan: &Plan, handle: Handle) -> Sources {
        let store = plan.storage.as_ref().map(|plan| Store { address: store::address(plan), prefix: plan.prefix.clone() });
        let folder = plan.record.as_ref().map(|record| record.folder.clone()).unwrap_or_default();
        Sources { handle, record: plan.record.clone(), folder, store }
    }

    pub fn format(&self) -> RecordFormat {
        self.record.as_ref().map(|record| record.format).unwrap_or_default()
    }

    pub fn store(&self) -> Option<&Store> {
        self.store.as_ref()
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Begins to record; the session that is.
    pub async fn start(&self, wanted: &Wanted) -> Result<String, Fault> {
        if self.record.is_none() {
            return Err(Refusal::NoRecorder.into());
        }
        let session = self.find(wanted).await?;
        if !self.handle.record_session(session.clone()).await?.publishing {
            self.stop(&session).await;
            let text = format!("The publisher of {:?} is not connected yet, or has just left. Try again.", wanted.room);
            return Err(Fault::new(Code::Unavailable, text));
        }
        Ok(session)
    }

    /// Ends it.
    pub async fn stop(&self, session: &str) {
        match self.handle.stop_recording_session(session.to_owned()).await {
            // The publisher has left, which has ended it.
            Ok(()) | Err(Refusal::UnknownSession) => {}
            Err(refusal) => tracing::warn!(session, %refusal, "the recording of an egress cannot be ended"),
        }
    }

    /// The session that is meant.
    async fn find(&self, wanted: &Wanted) -> Result<String, Fault> {
        let rooms = self.handle.rooms().await?;
        let Some(room) = rooms.into_iter().find(|room| room.room == wanted.room) else {
            return Err(Fault::new(Code::NotFound, format!("There is nobody in room {:?}.", wanted.room)));
        };
        let mut publishers = room.sessions.into_iter().filter(publishes);
        let found = match &wanted.source {
            Source::Participant(identity) => {
                publishers.find(|session| session.identity.as_deref() == Some(identity) || session.id == *identity)
            }
            Source::Tracks(ids) => publishers.find(|session| {
                let has = |id: &String| {
                    if session.tracks.iter().any(|track| track.sid.as_ref() == Some(id)) {
                        return true;
                    }
                    let (of, mid) = id.split_once(':').unwrap_or((id, ""));
                    session.id == of && (mid.is_empty() || session.tracks.iter().any(|track| track.mid == mid))
                };
                ids.iter().all(has)
            }),
        };
        let missing = || match &wanted.source {
            Source::Participant(identity) => format!("Nobody in room {:?} publishes as {identity:?}.", wanted.room),
            Source::Tracks(ids) => format!("Nobody in room {:?} publishes {}.", wanted.room, ids.join(" and ")),
        };
        found.map(|session| session.id).ok_or_else(|| Fault::new(Code::NotFound, missing()))
    }

    /// Ids of all sessions that publish; none if that cannot be known now.
    pub async fn publishing(&self) -> Option<HashSet<String>> {
        let rooms = self.handle.rooms().await.ok()?;
        let sessions = rooms.into_iter().flat_map(|room| room.sessions);
        Some(sessions.filter(|session| publishes(session) && session.state != "closing").map(|session| session.id).collect())
    }

    /// The files that a session became.
    pub async fn pieces(&self, room: &str, session: &str) -> Vec<Piece> {
        let (folder, room, session) = (self.folder.clone(), room.to_owned(), session.to_owned());
        tokio::task::spawn_blocking(move || files::of_session(&folder, &room, &session)).await.unwrap_or_default()
    }
}
