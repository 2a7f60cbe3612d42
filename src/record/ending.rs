//! What is left to do with a recording's file when all of it is written: its name, and the last line of its events. On the disk's thread.

use std::io;
use std::path::PathBuf;

use serde_json::{Value, json};

use super::complete::make_whole;
use super::sidecar::{Sidecar, UNFINISHED};

pub struct Ending {
    pub room: String,
    pub session: String,
    pub path: PathBuf,
    /// How long it is, and the wall clock then.
    pub at_millis: i64,
    pub unix_millis: i64,
}

impl Ending {
    /// `written`: whether all of it was. False if it is no whole recording.
    pub fn end(self, written: io::Result<()>, bytes: u64, gaps: u64) -> bool {
        let name = self.path.to_string_lossy().replace(&format!("{UNFINISHED}."), ".");
        match written.and_then(|()| std::fs::rename(&self.path, &name)) {
            Ok(()) => {
                self.tell(&PathBuf::from(&name), "end", json!({ "file": name, "bytes": bytes, "gaps": gaps }));
                tracing::info!(room = self.room, session = self.session, file = name, bytes, "recording ended");
                true
            }
            Err(error) => {
                tracing::error!(room = self.room, session = self.session, %error, "recording failed: it could not be ended");
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
        let whole = self.path.to_string_lossy().replace(&format!("{UNFINISHED}."), ".");
        self.tell(&PathBuf::from(whole), "failed", json!({ "reason": error.to_string() }));
        false
    }

    fn tell(&self, file: &std::path::Path, event: &str, fields: Value) {
        // Losing a line loses no media.
        if let Ok(mut sidecar) = Sidecar::append(&file.with_extension("jsonl")) {
            sidecar.write(event, self.at_millis, self.unix_millis, fields);
        }
    }
}
