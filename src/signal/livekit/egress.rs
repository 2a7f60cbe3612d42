//! LiveKit's Egress service, as far as it is about files: `StartTrackEgress`, `StartParticipantEgress`, `StartTrackCompositeEgress`,
//! `ListEgress`, `StopEgress`. What wants a browser or a transcoder (room composites, web pages, streams, segments, images, encoding
//! options) is refused with a sentence that says so.
//!
//! An egress is a recording of [`crate::record`] that somebody has asked for by its publisher or track ([`Sources`]), beside whatever else
//! records the same. Files come as they are received, in the server's format or in MP4, and lie where `record.folder` and `record.s3` say; `filepath` is what they are called besides: the
//! object's name in the store, or, without one, a second name (a hard link) below the folder.
//!
//! Egresses are known until the server ends, [`EGRESSES_MAX`] of them: an ended one makes room for another. What they recorded stays in any
//! case.

mod output;
mod source;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::extract::{Path, Request, State};
use axum::response::Response;
use axum::routing::any;
use livekit_protocol as proto;
use proto::EgressStatus;
use proto::egress_info::Request as Asked;
use tokio::runtime::Handle as Runtime;

use super::twirp::{self, Call, Code, Fault};
use super::webhook::{Target, Webhooks};
use crate::limits::EGRESSES_MAX;
use crate::record::files::{Piece, State as PieceState, stem};
use crate::signal::auth::Gate;
use output::{Name, wanted_file};
pub use source::Sources;
use source::Wanted;

const SERVICE: &str = "Egress";
/// Time between two looks at what has become of the recordings.
const LOOK: Duration = Duration::from_millis(500);
/// A recording of which no file has come after so long, its publisher being there, sends nothing that can be recorded.
const FIRST_FILE: Duration = Duration::from_secs(30);

/// The service.
pub struct Egress {
    gate: Gate,
    sources: Sources,
    webhooks: Webhooks,
    jobs: Mutex<BTreeMap<String, Job>>,
}

/// One egress.
#[derive(Clone)]
struct Job {
    info: proto::EgressInfo,
    wanted: Wanted,
    /// Id of the session that is recorded.
    session: String,
    name: Name,
    hooks: Vec<Target>,
    /// Its files as they were seen last: one that is uploaded may be deleted.
    pieces: Vec<Piece>,
}

impl Job {
    /// Takes in what files there are. One that has gone had ended: nothing else deletes files.
    fn see(&mut self, mut pieces: Vec<Piece>) {
        for known in self.pieces.drain(..) {
            if !pieces.iter().any(|piece| stem(&piece.path) == stem(&known.path)) {
                pieces.push(Piece { state: PieceState::Ended, ..known });
            }
        }
        pieces.sort_by_key(|piece| piece.began);
        self.pieces = pieces;
    }

    fn is_active(&self) -> bool {
        use EgressStatus::*;
        matches!(self.info.status(), EgressStarting | EgressActive | EgressEnding)
    }
}

impl Egress {
    /// Looks after its recordings on `runtime`.
    pub fn start(gate: Gate, sources: Sources, webhooks: Webhooks, runtime: &Runtime) -> Arc<Egress> {
        let egress = Arc::new(Egress { gate, sources, webhooks, jobs: Mutex::default() });
        let own = Arc::downgrade(&egress);
        runtime.spawn(async move {
            while let Some(egress) = own.upgrade() {
                egress.look().await;
                drop(egress);
                tokio::time::sleep(LOOK).await;
            }
        });
        egress
    }

    async fn call(&self, method: &str, call: Call) -> Result<Response, Fault> {
        self.gate.record(&call.headers, None)?;
        match method {
            "StartTrackEgress" => {
                let asked: proto::TrackEgressRequest = call.read()?;
                let wanted = Wanted::track(&asked.room_name, &asked.track_id)?;
                let output = output::of_track(&asked)?;
                let hooks = asked.webhooks.clone();
                call.answer(&self.begin(wanted, output, hooks, Asked::Track(asked)).await?)
            }
            "StartParticipantEgress" => {
                let asked: proto::ParticipantEgressRequest = call.read()?;
                let wanted = Wanted::participant(&asked.room_name, &asked.identity)?;
                let output = output::of_participant(&asked)?;
                let hooks = asked.webhooks.clone();
                call.answer(&self.begin(wanted, output, hooks, Asked::Participant(asked)).await?)
            }
            "StartTrackCompositeEgress" => {
                let asked: proto::TrackCompositeEgressRequest = call.read()?;
                let wanted = Wanted::tracks(&asked.room_name, &asked.audio_track_id, &asked.video_track_id)?;
                let output = output::of_track_composite(&asked)?;
                let hooks = asked.webhooks.clone();
                call.answer(&self.begin(wanted, output, hooks, Asked::TrackComposite(asked)).await?)
            }
            "ListEgress" => call.answer(&self.list(&call.read()?)),
            "StopEgress" => call.answer(&self.stop(&call.read::<proto::StopEgressRequest>()?.egress_id).await?),
            "UpdateLayout" => Err(self.no_such_update(&call.read::<proto::UpdateLayoutRequest>()?.egress_id, "layout")),
            "UpdateStream" => Err(self.no_such_update(&call.read::<proto::UpdateStreamRequest>()?.egress_id, "stream")),
            "StartRoomCompositeEgress" | "StartWebEgress" | "StartEgress" => Err(Fault::new(
                Code::Unimplemented,
                format!(
                    "{method} is not for this server, which records what is sent as it is, without a browser: use StartParticipantEgress, StartTrackCompositeEgress or StartTrackEgress."
                ),
            )),
            _ => Err(Fault::no_method(SERVICE, method)),
        }
    }

    async fn begin(
        &self,
        wanted: Wanted,
        file: output::File,
        hooks: Vec<proto::WebhookConfig>,
        asked: Asked,
    ) -> Result<proto::EgressInfo, Fault> {
        let hooks = hooks.into_iter().map(|hook| self.hook(hook)).collect::<Result<Vec<Target>, Fault>>()?;
        let file = wanted_file(file)?;
        self.make_room()?;
        let egress_id = format!("EG_{}", super::random_id());
        let session = self.sources.start(&wanted, &egress_id, file.format()).await?;
        let now = unix_nanos();
        let info = proto::EgressInfo {
            egress_id,
            room_name: wanted.room.clone(),
            source_type: proto::EgressSourceType::Sdk as i32,
            status: EgressStatus::EgressStarting as i32,
            started_at: now,
            updated_at: now,
            request: Some(asked),
            ..Default::default()
        };
        let name = Name::new(file, &wanted, &session);
        tracing::info!(egress = info.egress_id, room = wanted.room, session, "egress begun");
        let job = Job { info: info.clone(), wanted, session, name, hooks, pieces: Vec::new() };
        self.tell("egress_started", &job);
        self.jobs().insert(info.egress_id.clone(), job);
        Ok(info)
    }

    fn hook(&self, hook: proto::WebhookConfig) -> Result<Target, Fault> {
        if !(hook.url.starts_with("https://") || hook.url.starts_with("http://")) {
            return Err(Fault::invalid(format!("webhooks: {:?} is no address that begins with https:// or http://.", hook.url)));
        }
        if !self.webhooks.has_key(&hook.signing_key) {
            return Err(Fault::invalid(format!("webhooks: the signing_key {:?} is no API key of this server.", hook.signing_key)));
        }
        Ok(Target { url: hook.url, key: hook.signing_key })
    }

    fn list(&self, asked: &proto::ListEgressRequest) -> proto::ListEgressResponse {
        let fits = |job: &&Job| {
            (asked.room_name.is_empty() || job.info.room_name == asked.room_name)
                && (asked.egress_id.is_empty() || job.info.egress_id == asked.egress_id)
                && (!asked.active || job.is_active())
        };
        let mut items: Vec<proto::EgressInfo> = self.jobs().values().filter(fits).map(|job| job.info.clone()).collect();
        items.sort_by_key(|info| std::cmp::Reverse(info.started_at));
        proto::ListEgressResponse { items, ..Default::default() }
    }

    async fn stop(&self, id: &str) -> Result<proto::EgressInfo, Fault> {
        let job = {
            let mut jobs = self.jobs();
            let job = jobs.get_mut(id).ok_or_else(|| unknown(id))?;
            let status = job.info.status();
            if !matches!(status, EgressStatus::EgressStarting | EgressStatus::EgressActive) {
                let text = format!("Egress {id} with status {} cannot be stopped.", status.as_str_name());
                return Err(Fault::new(Code::FailedPrecondition, text));
            }
            set_status(job, EgressStatus::EgressEnding);
            job.clone()
        };
        self.tell("egress_updated", &job);
        self.sources.stop(id).await;
        Ok(job.info)
    }

    /// What an update that cannot be made is answered with.
    fn no_such_update(&self, id: &str, what: &str) -> Fault {
        match self.jobs().contains_key(id) {
            true => {
                Fault::new(Code::FailedPrecondition, format!("Egress {id} writes a file, and has no {what} that could be updated."))
            }
            false => unknown(id),
        }
    }

    /// Forgets the oldest of those that have ended, if there is no room for another.
    fn make_room(&self) -> Result<(), Fault> {
        let mut jobs = self.jobs();
        if jobs.len() < EGRESSES_MAX {
            return Ok(());
        }
        let ended = jobs.values().filter(|job| !job.is_active()).min_by_key(|job| job.info.ended_at);
        let id = ended.map(|job| job.info.egress_id.clone());
        match id.and_then(|id| jobs.remove(&id)) {
            Some(_) => Ok(()),
            None => {
                Err(Fault::new(Code::ResourceExhausted, format!("{EGRESSES_MAX} egresses are active, which is all there may be.")))
            }
        }
    }

    /// Sees what has become of the recordings.
    async fn look(&self) {
        let active: Vec<Job> = self.jobs().values().filter(|job| job.is_active()).cloned().collect();
        if active.is_empty() {
            return;
        }
        let Some(publishing) = self.sources.publishing().await else { return };
        for mut job in active {
            let (before, there) = (job.info.clone(), job.wanted.is_there(&job.session, &publishing));
            let pieces = self.sources.pieces(&job.info.room_name, &job.info.egress_id).await;
            job.see(pieces);
            self.follow(&mut job, there);
            let ended = !job.is_active();
            if let Some(known) = self.jobs().get_mut(&job.info.egress_id) {
                // It may have been stopped in the meantime.
                if known.info.status() == before.status() {
                    *known = job.clone();
                } else {
                    continue;
                }
            }
            if ended && before.status() != EgressStatus::EgressEnding {
                self.sources.stop(&job.info.egress_id).await;
            }
            if job.info.status() != before.status() {
                tracing::info!(
                    egress = job.info.egress_id,
                    status = job.info.status().as_str_name(),
                    error = job.info.error,
                    "egress"
                );
                self.tell(if ended { "egress_ended" } else { "egress_updated" }, &job);
            }
        }
    }

    /// `there`: what it records is still published.
    fn follow(&self, job: &mut Job, there: bool) {
        let pieces = job.pieces.clone();
        let status = job.info.status();
        let recording = pieces.iter().any(|piece| piece.state == PieceState::Recording);
        let failed = pieces.iter().find_map(|piece| match &piece.state {
            PieceState::Failed { reason } => Some(reason.clone()),
            _ => None,
        });
        for (index, piece) in pieces.iter().enumerate() {
            job.name.announce(piece, index, &self.sources);
        }
        let age = unix_nanos().saturating_sub(job.info.started_at) as u128;
        if let Some(reason) = failed {
            job.info.error = reason;
            set_status(job, EgressStatus::EgressFailed);
        } else if status == EgressStatus::EgressStarting && !pieces.is_empty() {
            set_status(job, EgressStatus::EgressActive);
        } else if pieces.is_empty() && (!there || status == EgressStatus::EgressEnding || age > FIRST_FILE.as_nanos()) {
            job.info.error = "nothing came of it that could be recorded".to_owned();
            set_status(job, EgressStatus::EgressAborted);
        } else if !recording && !pieces.is_empty() && (!there || status == EgressStatus::EgressEnding) {
            set_status(job, EgressStatus::EgressComplete);
        }
        if !job.is_active() {
            job.info.ended_at = unix_nanos();
            job.info.file_results =
                pieces.iter().enumerate().map(|(index, piece)| job.name.result(piece, index, &self.sources)).collect();
        }
    }

    fn tell(&self, event: &str, job: &Job) {
        let event = proto::WebhookEvent { event: event.to_owned(), egress_info: Some(job.info.clone()), ..Default::default() };
        self.webhooks.send(event, &job.hooks);
    }

    /// Held for moments only, and never while anything is waited for.
    fn jobs(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Job>> {
        self.jobs.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

fn unknown(id: &str) -> Fault {
    let id: String = id.chars().take(64).collect();
    Fault::new(Code::NotFound, format!("There is no egress {id:?}."))
}

fn set_status(job: &mut Job, status: EgressStatus) {
    job.info.status = status as i32;
    job.info.updated_at = unix_nanos();
}

/// LiveKit's times of egresses are nanoseconds of Unix time.
fn unix_nanos() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as i64)
}

/// The service's route.
pub fn routes(egress: Arc<Egress>) -> Router {
    Router::new().route("/twirp/livekit.Egress/{method}", any(handle)).with_state(egress)
}

async fn handle(State(egress): State<Arc<Egress>>, Path(method): Path<String>, request: Request) -> Response {
    twirp::serve(request, async |call| egress.call(&method, call).await).await
}
