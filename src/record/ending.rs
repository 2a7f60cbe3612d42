//! What is left to do with a recording's file when all of it is written: its name, and the last line of its events. On the disk's thread.

use std::io;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::complete::make_whole;
use super::files;
use super::sidecar::Sidecar;

pub struct Ending {
    pub path: PathBuf,
    /// How long it is, and the wall clock then.
    pub at_millis: i64,
    pub unix_millis: i64,
}

impl Ending {
    /// `written`: whether all of it was; `fields` go into the last event. False if it is no whole recording.
    pub fn end(self, written: io::Result<()>, mut fields: Value) -> bool {
        let whole = files::whole(&self.path);
        let name = whole.to_string_lossy();
        match written.and_then(|()| std::fs::rename(&self.path, &whole)) {
            Ok(()) => {
                tracing::info!(file = %name, bytes = %fields["bytes"], "recording ended");
                fields["file"] = json!(name);
                self.tell(&whole, "end", fields);
                true
            }
            Err(error) => {
                tracing::error!(file = %name, %error, "recording failed: it could not be ended");
                self.fail(&error)
            }
        }
    }

    /// Makes of it what can be made of it.
    pub fn fail(self, error: &io::Error) -> bool {
        // What is torn goes, and leaves room for the index and for a line of the sidecar.
        if let Err(error) = make_whole(&self.path) {
            tracing::warn!(file = %self.path.display(), %error, "what was recorded is left as it is");
        }
        self.tell(&files::whole(&self.path), "failed", json!({ "reason": error.to_string() }));
        false
    }

    fn tell(&self, file: &Path, event: &str, fields: Value) {
        // Losing a line loses no media.
        if let Ok(mut sidecar) = Sidecar::append(&file.with_extension("jsonl")) {
            sidecar.write(event, self.at_millis, self.unix_millis, fields);
        }
    }
}
