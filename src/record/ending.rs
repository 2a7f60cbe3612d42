//! What is left to do with a recording's file when all of it is written: its name, and the last line of its events. On the disk's thread.

use std::io;
use std::path::Path;

use serde_json::{Value, json};

use super::complete::make_whole;
use super::files;
use super::part::MediaPath;
use super::sidecar::Sidecar;

pub struct Ending {
    pub path: MediaPath,
    /// How long it is, and the wall clock then.
    pub at_millis: i64,
    pub unix_millis: i64,
}

impl Ending {
    /// `written`: whether all of it was; `fields` go into the last event. False if it is no whole recording.
    pub fn end(self, written: io::Result<()>, mut fields: Value) -> bool {
        let named = written.and_then(|()| {
            let path = self.path.get().ok_or(io::ErrorKind::NotFound)?;
            let whole = files::whole(path);
            std::fs::rename(path, &whole).map(|()| whole)
        });
        match named {
            Ok(whole) => {
                let name = whole.to_string_lossy();
                tracing::info!(file = %name, bytes = %fields["bytes"], "recording ended");
                fields["file"] = json!(name);
                self.tell(&whole, "end", fields);
                true
            }
            Err(error) => {
                tracing::error!(file = ?self.path.get(), %error, "recording failed: it could not be ended");
                self.fail(&error)
            }
        }
    }

    /// Makes of it what can be made of it.
    pub fn fail(self, error: &io::Error) -> bool {
        let Some(path) = self.path.get() else { return false };
        // What is torn goes, and leaves room for the index and for a line of the sidecar.
        if let Err(error) = make_whole(path) {
            tracing::warn!(file = %path.display(), %error, "what was recorded is left as it is");
        }
        self.tell(&files::whole(path), "failed", json!({ "reason": error.to_string() }));
        false
    }

    fn tell(&self, file: &Path, event: &str, fields: Value) {
        // Losing a line loses no media.
        if let Ok(mut sidecar) = Sidecar::append(&file.with_extension("jsonl")) {
            sidecar.write(event, self.at_millis, self.unix_millis, fields);
        }
    }
}
