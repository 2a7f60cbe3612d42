//! Uploads: recordings that have ended go to an S3-compatible store, on a thread of its own.
//!
//! **The folder is the queue.** Once a second it is looked at; what has ended and is not confirmed is uploaded, whether it ended a second
//! or a restart ago. Nothing is handed over, and so nothing gets lost on the way. Beside each recording lies a [`Journal`] of how much of
//! it the store has: after a crash the upload goes on behind the last part that was accepted.
//!
//! **What fails is tried again**, for ever, after 1 s, 2 s, … 5 min: `distributary_failed_uploads_total`, and a log line whenever the
//! reason is another. The file stays where it is.
//!
//! **Confirmed** is what the store says it has under its name, with the right number of bytes, after it has accepted every part (each is
//! signed with its SHA-256, which the store checks: AWS Signature Version 4). Only then, and only if `record.s3.keep_local` is false, the
//! file, its events and its journal are deleted, in this order.
//!
//! Bounded: `record.s3.uploads` at a time with one part each in memory, [`UPLOADS_WAITING`] known to wait.

mod failure;
mod folder;
mod journal;
mod upload;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey};
use object_store::{ClientOptions, RetryConfig};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use crate::config::StoragePlan;
use crate::limits::UPLOADS_WAITING;
use crate::metrics::{Counter, WorkerMetrics};
use failure::Failure;
use folder::Folder;
pub use journal::Journal;
use upload::Upload;

/// Time between two looks at the folder, and at whether the server stops.
const LOOK: Duration = Duration::from_secs(1);
const TICK: Duration = Duration::from_millis(100);
/// Time from a failed try to the next: the first, and the longest.
const RETRY_MIN: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(300);
/// A request may take so long: a part on a line of half a megabit a second.
const REQUEST_TIME_MAX: Duration = Duration::from_secs(150);
const CONNECT_TIME_MAX: Duration = Duration::from_secs(10);
/// A reason that has been told is told again after so long.
const TELL_AGAIN: Duration = Duration::from_secs(600);

/// Content types of what is uploaded.
const TYPES: [(&str, &str); 5] =
    [("webm", "video/webm"), ("mkv", "video/matroska"), ("mp4", "video/mp4"), ("ogg", "audio/ogg"), ("jsonl", "application/jsonl")];

/// All uploads. Runs in a runtime of one thread.
pub struct Storage {
    plan: Arc<StoragePlan>,
    store: Arc<AmazonS3>,
    /// The store and the bucket, as in the URLs of objects.
    address: String,
    folder: Folder,
    runtime: Option<Runtime>,
    metrics: Arc<WorkerMetrics>,
    waiting: BTreeMap<PathBuf, Waiting>,
    under_way: BTreeSet<PathBuf>,
    /// Tries in a row that the store has failed, and until when it is left alone.
    failures: u32,
    paused: Option<Instant>,
    told: Option<(String, Instant)>,
}

#[derive(Clone, Copy, Default)]
struct Waiting {
    tries: u32,
    due: Option<Instant>,
}

impl Storage {
    /// Folders of rooms that are empty are removed: nothing may be recorded yet.
    pub fn new(plan: StoragePlan, folder: &Path) -> Result<Storage, String> {
        // Fails only if it is installed already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| format!("cannot start the uploads: {error}"))?;
        let store = open(&plan).map_err(|error| format!("record.s3 cannot be used: {error}"))?;
        let address = address(&plan);
        let folder = Folder::new(folder);
        folder.sweep();
        Ok(Storage {
            plan: Arc::new(plan),
            store: Arc::new(store),
            address,
            folder,
            runtime: Some(runtime),
            metrics: Arc::default(),
            waiting: BTreeMap::new(),
            under_way: BTreeSet::new(),
            failures: 0,
            paused: None,
            told: None,
        })
    }

    /// For the operator.
    pub fn description(&self) -> String {
        let kept = if self.plan.keep_local { "" } else { ", and deleted here when they are there" };
        format!("record  uploaded to {}/{}{kept}", self.address, self.plan.prefix)
    }

    /// Uploads until `stopping` says so. What is under way then goes on at the next start. `metrics`: a table of its own.
    pub fn run(mut self, metrics: Arc<WorkerMetrics>, stopping: impl Fn() -> bool) {
        let Some(runtime) = self.runtime.take() else { return };
        self.metrics = metrics;
        runtime.block_on(self.upload(stopping));
        // A name that is being resolved is not waited for.
        runtime.shutdown_background();
    }

    async fn upload(mut self, stopping: impl Fn() -> bool) {
        let mut uploads = JoinSet::new();
        let mut next_look = Instant::now();
        while !stopping() {
            let now = Instant::now();
            if now >= next_look {
                next_look = now + LOOK;
                self.look();
            }
            while uploads.len() < self.plan.uploads
                && let Some(path) = self.next(now)
            {
                self.under_way.insert(path.clone());
                let upload = Upload::new(path.clone(), self.plan.clone(), self.store.clone(), &self.address, self.metrics.clone());
                uploads.spawn(async move { (path, upload.run().await) });
            }
            tokio::select! {
                Some(Ok((path, ended))) = uploads.join_next() => self.ended(path, ended),
                () = tokio::time::sleep(TICK) => {}
            }
        }
    }

    fn look(&mut self) {
        let room = UPLOADS_WAITING.saturating_sub(self.waiting.len());
        let known = |path: &Path| self.waiting.contains_key(path) || self.under_way.contains(path);
        for path in self.folder.look(room, known) {
            self.waiting.insert(path, Waiting::default());
        }
    }

    /// The recording to be uploaded now: of those that are due the one with the fewest tries, the oldest first.
    fn next(&mut self, now: Instant) -> Option<PathBuf> {
        if self.paused.is_some_and(|until| now < until) {
            return None;
        }
        let waits = |path: &PathBuf, waiting: &Waiting| waiting.due.is_none_or(|due| now >= due) && !self.under_way.contains(path);
        let due = self.waiting.iter().filter(|(path, waiting)| waits(path, waiting));
        // Names begin with the time, after the room's.
        due.min_by_key(|(path, waiting)| (waiting.tries, path.file_name())).map(|(path, _)| path.clone())
    }

    fn ended(&mut self, path: PathBuf, ended: Result<Journal, Failure>) {
        self.under_way.remove(&path);
        match ended {
            Ok(journal) => {
                self.waiting.remove(&path);
                self.metrics.add(Counter::Uploads, 1);
                (self.failures, self.paused, self.told) = (0, None, None);
                tracing::info!(file = %path.display(), url = journal.url(), bytes = journal.media.bytes, "recording uploaded");
            }
            // Somebody has deleted it: there is nothing to be uploaded.
            Err(failure) if failure.is_gone() && !path.exists() => {
                self.waiting.remove(&path);
                tracing::warn!(file = %path.display(), "recording has gone before it was uploaded");
            }
            Err(failure) => self.failed(path, &failure),
        }
    }

    fn failed(&mut self, path: PathBuf, failure: &Failure) {
        self.metrics.add(Counter::UploadsFailed, 1);
        let now = Instant::now();
        let waiting = self.waiting.entry(path.clone()).or_default();
        waiting.tries += 1;
        let after = backoff(waiting.tries);
        waiting.due = Some(now + after);
        if failure.is_of_store() {
            self.failures += 1;
            self.paused = Some(now + backoff(self.failures));
        }
        let reason = failure.told(&self.plan, &self.address);
        let mut journal = Journal { error: Some(reason.clone()), ..Journal::load(&path).unwrap_or_default() };
        journal.stalled += u32::from(failure.is_answer());
        journal.save(&path);
        let known = self.told.as_ref().is_some_and(|(told, at)| *told == reason && now.duration_since(*at) < TELL_AGAIN);
        if !known {
            let seconds = after.as_secs_f32();
            tracing::warn!(file = %path.display(), reason, "upload failed; the file is kept and tried again in {seconds:.0} s");
            self.told = Some((reason, now));
        }
    }
}

/// The bucket's URL.
pub fn address(plan: &StoragePlan) -> String {
    let host = plan.endpoint.clone().unwrap_or_else(|| "s3:/".to_owned());
    format!("{host}/{}", plan.bucket)
}

/// The n-th time to wait, from 1 on.
fn backoff(tries: u32) -> Duration {
    RETRY_MIN.saturating_mul(1 << (tries - 1).min(16)).min(RETRY_MAX)
}

fn open(plan: &StoragePlan) -> object_store::Result<AmazonS3> {
    let plain = plan.endpoint.as_ref().is_some_and(|endpoint| endpoint.starts_with("http://"));
    let options = ClientOptions::new().with_timeout(REQUEST_TIME_MAX).with_connect_timeout(CONNECT_TIME_MAX).with_allow_http(plain);
    let options = TYPES.iter().fold(options, |options, (suffix, mime)| options.with_content_type_for_suffix(*suffix, *mime));
    // Everything is tried again from here.
    let retries = RetryConfig { max_retries: 0, ..RetryConfig::default() };
    let builder = match &plan.credentials {
        Some((id, secret)) => AmazonS3Builder::new().with_access_key_id(id).with_secret_access_key(&secret.0),
        None => AmazonS3Builder::from_env(),
    };
    let region = plan.region.clone().or_else(|| std::env::var("AWS_REGION").ok().filter(|region| !region.is_empty()));
    let mut builder = builder.with_bucket_name(&plan.bucket).with_retry(retries).with_client_options(options);
    if let Some(region) = region {
        builder = builder.with_region(region);
    }
    if let Some(endpoint) = &plan.endpoint {
        builder = builder.with_config(AmazonS3ConfigKey::S3Endpoint, endpoint);
    }
    builder.build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_five_minutes() {
        assert_eq!([1, 2, 3, 9].map(|tries| backoff(tries).as_secs()), [1, 2, 4, 256]);
        assert_eq!((backoff(10), backoff(u32::MAX)), (RETRY_MAX, RETRY_MAX));
    }
}
