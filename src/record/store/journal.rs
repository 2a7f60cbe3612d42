//! Beside each recording that is uploaded: how much of it the store has. `NAME.upload` while it is not all, `NAME.uploaded` from then on.
//!
//! A journal that cannot be written (the disk is full) costs what it would have saved, a second upload of the same parts, and nothing else.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::limits::{UPLOAD_PART_BYTES, UPLOAD_PARTS_MAX};

/// What journals' names end in.
pub const UNDER_WAY: &str = ".upload";
pub const CONFIRMED: &str = ".uploaded";

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Journal {
    /// The bucket's address.
    pub store: String,
    /// What the object is to be called, below the prefix, if not as its file is below the folder.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    pub media: Object,
    /// The events.
    pub events: Object,
    /// Why the last try failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Tries in a row that the store has answered with a failure.
    #[serde(skip_serializing_if = "is_zero")]
    pub stalled: u32,
    /// Whether both files stay when they are confirmed.
    pub keep_local: bool,
}

/// A file on its way to the store.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Object {
    pub key: String,
    pub bytes: u64,
    pub part_bytes: u64,
    /// Id of the multipart upload.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upload: Option<String>,
    /// Entity tags of the parts that the store has, in order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<String>,
    /// What the store calls the whole, once it has confirmed it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub etag: Option<String>,
}

impl Object {
    pub fn new(key: String, bytes: u64) -> Object {
        let part_bytes = UPLOAD_PART_BYTES.max(bytes.div_ceil(UPLOAD_PARTS_MAX));
        Object { key, bytes, part_bytes, ..Object::default() }
    }

    /// Bytes that the store has.
    pub fn sent(&self) -> u64 {
        if self.etag.is_some() { self.bytes } else { self.bytes.min(self.parts.len() as u64 * self.part_bytes) }
    }

    /// Where the next part is, and how long; none: the store has all of them.
    pub fn next(&self) -> Option<(u64, usize)> {
        let from = self.sent();
        (from < self.bytes).then(|| (from, self.part_bytes.min(self.bytes - from) as usize))
    }
}

impl Journal {
    /// Of a media file.
    pub fn load(media: &Path) -> Option<Journal> {
        let read = |end| fs::read(named(media, end)).ok().and_then(|text| serde_json::from_slice(&text).ok());
        read(CONFIRMED).or_else(|| read(UNDER_WAY))
    }

    /// Has a recording called otherwise in the store; it must not be there yet. `stem`: the media file's path without its extension.
    pub fn name(stem: &Path, name: String) {
        // The extension is replaced.
        let media = stem.with_file_name(format!("{}.media", stem.file_name().unwrap_or_default().to_string_lossy()));
        let journal = Journal::load(&media).unwrap_or_default();
        if journal.name.is_none() && journal.media.key.is_empty() {
            Journal { name: Some(name), ..journal }.save(&media);
        }
    }

    pub fn save(&self, media: &Path) {
        if let Err(error) = self.write(media, UNDER_WAY) {
            tracing::debug!(file = %media.display(), %error, "the journal of an upload cannot be written");
        }
    }

    /// The store has confirmed both files: says so for good, or deletes them.
    pub fn confirm(&self, media: &Path) -> io::Result<()> {
        let written = self.write(media, CONFIRMED);
        if self.keep_local {
            written?;
        } else {
            remove(media)?;
            remove(&media.with_extension("jsonl"))?;
            remove(&named(media, CONFIRMED))?;
        }
        remove(&named(media, UNDER_WAY))
    }

    /// Goes on with what [`Journal::confirm`] was about when the server was killed. `confirmed`: the journal's own path.
    pub fn finish_deleting(confirmed: &Path) {
        let journal = fs::read(confirmed).ok().and_then(|text| serde_json::from_slice::<Journal>(&text).ok());
        let Some(journal) = journal.filter(|journal| !journal.keep_local && journal.is_confirmed()) else { return };
        let extension = journal.media.key.rsplit('.').next().unwrap_or_default();
        if let Err(error) = journal.confirm(&confirmed.with_extension(extension)) {
            tracing::warn!(file = %confirmed.display(), %error, "a recording that was uploaded cannot be deleted");
        }
    }

    pub fn is_confirmed(&self) -> bool {
        self.media.etag.is_some() && self.events.etag.is_some()
    }

    /// `waiting`, `uploading`, `failed` (and tried again) or `uploaded`.
    pub fn state(&self) -> &'static str {
        match self {
            _ if self.is_confirmed() => "uploaded",
            Journal { error: Some(_), .. } => "failed",
            _ if self.media.sent() > 0 || self.media.upload.is_some() => "uploading",
            _ => "waiting",
        }
    }

    pub fn url(&self) -> String {
        format!("{}/{}", self.store, self.media.key)
    }

    /// Whole or not at all: first under another name.
    fn write(&self, media: &Path, end: &str) -> io::Result<()> {
        let (path, draft) = (named(media, end), named(media, ".upload-draft"));
        fs::write(&draft, serde_json::to_vec(self)?)?;
        fs::rename(draft, path)
    }
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// What lies beside a media file.
fn named(media: &Path, end: &str) -> PathBuf {
    let stem = media.file_stem().unwrap_or_default().to_string_lossy();
    media.with_file_name(format!("{stem}{end}"))
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_cover_the_file_and_are_never_too_many() {
        for bytes in [0, 1, UPLOAD_PART_BYTES, UPLOAD_PART_BYTES + 1, 100 << 30, 5 << 40] {
            let mut object = Object::new("k".into(), bytes);
            let mut at = 0;
            while let Some((from, length)) = object.next() {
                assert!(from == at && length > 0 && object.parts.len() < UPLOAD_PARTS_MAX as usize);
                at += length as u64;
                object.parts.push("etag".into());
            }
            assert_eq!((at, object.sent()), (bytes, bytes));
        }
    }

    #[test]
    fn files_go_only_when_told_and_deleting_is_taken_up_again() {
        let folder = std::env::temp_dir().join(format!("distributary-journal-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let media = folder.join("a.webm");
        let names = || fs::read_dir(&folder).unwrap().count();
        let object = |key: &str| Object { etag: Some("e".into()), ..Object::new(format!("room/{key}"), 1) };
        let kept = Journal { media: object("a.webm"), events: object("a.jsonl"), keep_local: true, ..Journal::default() };
        let write = || ["a.webm", "a.jsonl"].map(|name| fs::write(folder.join(name), "x").unwrap());
        write();
        kept.save(&media);
        kept.confirm(&media).unwrap();
        assert_eq!((names(), Journal::load(&media)), (3, Some(kept.clone())));
        Journal::finish_deleting(&folder.join("a.uploaded"));
        assert_eq!(names(), 3);
        let gone = Journal { keep_local: false, ..kept };
        // As if killed between the journal and the files.
        gone.write(&media, CONFIRMED).unwrap();
        Journal::finish_deleting(&folder.join("a.uploaded"));
        assert_eq!(names(), 0);
        write();
        gone.save(&media);
        gone.confirm(&media).unwrap();
        assert_eq!(names(), 0);
        fs::remove_dir_all(folder).unwrap();
    }
}
