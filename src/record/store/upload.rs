//! The upload of one recording: its media, then its events.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use object_store::aws::AmazonS3;
use object_store::multipart::{MultipartStore, PartId};
use object_store::path::Path as Key;
use object_store::{ObjectStoreExt, PutPayload};

use super::failure::Failure;
use super::journal::{Journal, Object};
use crate::config::StoragePlan;
use crate::metrics::{Counter, WorkerMetrics};

/// After so many failures in a row that the store answered with, an upload begins anew.
const STALLED_MAX: u32 = 4;

pub struct Upload {
    media: PathBuf,
    plan: Arc<StoragePlan>,
    store: Arc<AmazonS3>,
    journal: Journal,
    metrics: Arc<WorkerMetrics>,
}

#[derive(Clone, Copy)]
enum Part {
    Media,
    Events,
}

impl Upload {
    /// `address`: of the bucket. Goes on where the journal says; what it says of another bucket is not taken.
    pub fn new(media: PathBuf, plan: Arc<StoragePlan>, store: Arc<AmazonS3>, address: &str, metrics: Arc<WorkerMetrics>) -> Upload {
        let known = Journal::load(&media).unwrap_or_default();
        // Some stores answer that they have failed where they have given up an upload.
        let usable = known.store == address && known.stalled < STALLED_MAX;
        let (name, keep_local) = (known.name.clone(), plan.keep_local);
        let journal = if usable { known } else { Journal::default() };
        let journal = Journal { store: address.to_owned(), name, keep_local, error: None, ..journal };
        Upload { media, plan, store, journal, metrics }
    }

    /// The journal as it was at the end: everything is confirmed, and was deleted if it was to be.
    pub async fn run(mut self) -> Result<Journal, Failure> {
        self.send(Part::Media).await?;
        self.send(Part::Events).await?;
        self.journal.confirm(&self.media)?;
        Ok(self.journal)
    }

    async fn send(&mut self, part: Part) -> Result<(), Failure> {
        let path = match part {
            Part::Media => self.media.clone(),
            Part::Events => self.media.with_extension("jsonl"),
        };
        let file = match (File::open(&path), part) {
            // Events that could not be written are not missed.
            (Err(error), Part::Events) if error.kind() == std::io::ErrorKind::NotFound => {
                self.object(part).etag = Some(String::new());
                return Ok(());
            }
            (file, _) => file?,
        };
        let bytes = file.metadata()?.len();
        let name = self.name(&path);
        let key = Key::parse(&name).map_err(object_store::Error::from)?;
        let resumed = self.object(part).key == name && self.object(part).bytes == bytes;
        if !resumed {
            *self.object(part) = Object::new(name, bytes);
        }
        if self.object(part).etag.is_some() {
            return Ok(());
        }
        match self.parts(part, &file, &key).await {
            // The store knows of no such upload: either it was completed and we did not hear of that, or it has been given up.
            Err(Failure::Store(object_store::Error::NotFound { .. })) if resumed => {
                if self.confirm(part, &key).await.is_ok() {
                    return Ok(());
                }
                *self.object(part) = Object::new(key.to_string(), bytes);
                self.parts(part, &file, &key).await?;
            }
            sent => sent?,
        }
        self.confirm(part, &key).await
    }

    /// Sends what the store has not yet. A file of one part is put at once.
    async fn parts(&mut self, part: Part, file: &File, key: &Key) -> Result<(), Failure> {
        if self.object(part).bytes <= self.object(part).part_bytes {
            let length = self.object(part).bytes as usize;
            self.store.put(key, read(file, 0, length)?).await?;
            self.metrics.add(Counter::UploadedBytes, length as u64);
            return Ok(());
        }
        let id = match self.object(part).upload.clone() {
            Some(id) => id,
            None => {
                let id = self.store.create_multipart(key).await?;
                self.object(part).upload = Some(id.clone());
                self.journal.save(&self.media);
                id
            }
        };
        while let Some((from, length)) = self.object(part).next() {
            let index = self.object(part).parts.len();
            let sent = self.store.put_part(key, &id, index, read(file, from, length)?).await?;
            self.object(part).parts.push(sent.content_id);
            self.journal.stalled = 0;
            self.journal.save(&self.media);
            self.metrics.add(Counter::UploadedBytes, length as u64);
        }
        let parts = self.object(part).parts.iter().map(|tag| PartId { content_id: tag.clone() }).collect();
        self.store.complete_multipart(key, &id, parts).await?;
        Ok(())
    }

    /// Asks the store what it has.
    async fn confirm(&mut self, part: Part, key: &Key) -> Result<(), Failure> {
        let found = match self.store.head(key).await {
            Ok(found) => Some(found),
            Err(object_store::Error::NotFound { .. }) => None,
            Err(error) => return Err(error.into()),
        };
        let object = self.object(part);
        match found {
            Some(found) if found.size == object.bytes => {
                (object.upload, object.etag) = (None, Some(found.e_tag.unwrap_or_default()));
                self.journal.save(&self.media);
                Ok(())
            }
            found => {
                let failure =
                    Failure::Unconfirmed { key: key.to_string(), wanted: object.bytes, found: found.map(|found| found.size) };
                *object = Object::default();
                self.journal.save(&self.media);
                Err(failure)
            }
        }
    }

    fn object(&mut self, part: Part) -> &mut Object {
        match part {
            Part::Media => &mut self.journal.media,
            Part::Events => &mut self.journal.events,
        }
    }

    /// `PREFIX/ROOM/FILE`, the room as its folder is called, or what was asked for.
    fn name(&self, path: &Path) -> String {
        let extension = path.extension().unwrap_or_default().to_string_lossy();
        if let Some((stem, _)) = self.journal.name.as_ref().and_then(|name| name.rsplit_once('.')) {
            return format!("{}{stem}.{extension}", self.plan.prefix);
        }
        let name = |path: Option<&Path>| path.and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned());
        let (room, file) = (name(path.parent()).unwrap_or_default(), name(Some(path)).unwrap_or_default());
        format!("{}{room}/{file}", self.plan.prefix)
    }
}

fn read(file: &File, from: u64, length: usize) -> std::io::Result<PutPayload> {
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, from)?;
    Ok(bytes.into())
}
