//! What a crash left open: files under the folder whose names say that they were not ended. Each is cut to its last whole piece, gets its
//! length and its index, and its name.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::files;
use super::matroska::Matroska;
use super::mp4::Mp4;
use super::ogg;
use super::sidecar::{Sidecar, UNFINISHED};

/// Of the media files that are made.
pub const EXTENSIONS: [&str; 4] = ["webm", "mkv", "mp4", "ogg"];

/// Has the folder to itself as long as the file is open: another server would end what this one writes.
pub fn lock(folder: &Path) -> Result<File, String> {
    let file = File::create(folder.join(".lock")).map_err(|error| error.to_string())?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err("another server records into it; each wants a folder of its own".to_owned()),
        Err(TryLockError::Error(error)) => Err(error.to_string()),
    }
}

/// Recordings under a folder that were not ended: the server was killed, or its host went down.
pub fn unfinished(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for room in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        for file in std::fs::read_dir(room.path()).into_iter().flatten().flatten() {
            let path = file.path();
            let is_media = path.extension().is_some_and(|extension| EXTENSIONS.iter().any(|known| extension == *known));
            if is_media && path.file_stem().is_some_and(|stem| stem.to_string_lossy().ends_with(UNFINISHED)) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// Ends all of these files, and says in the log what became of each. `unix_millis`: the time, for the events. What cannot be ended stays as it is: it plays, or never did.
pub fn complete_all(paths: Vec<PathBuf>, unix_millis: i64) {
    for path in paths {
        match complete(&path, unix_millis) {
            Ok((ended, millis)) => {
                tracing::info!(file = %ended.display(), seconds = millis / 1_000, "recording that was cut off is whole")
            }
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                let _ = std::fs::remove_file(&path);
                tracing::info!(file = %path.display(), "recording that was cut off in its first second has nothing in it, and is gone");
            }
            Err(error) => tracing::warn!(file = %path.display(), %error, "recording that was cut off cannot be made whole"),
        }
    }
}

/// Not even the first cluster, fragment or page of sound is whole, of which so many bytes were written.
pub(super) fn nothing_whole(bytes: u64) -> io::Error {
    match bytes {
        0 => io::Error::new(io::ErrorKind::UnexpectedEof, "there is nothing behind its header"),
        _ => io::Error::other("not even its first second was written to the end"),
    }
}

/// Ends a file; its name then, and how many milliseconds it is long.
pub fn complete(path: &Path, unix_millis: i64) -> io::Result<(PathBuf, i64)> {
    let (ended, millis) = make_whole(path)?;
    let fields = json!({ "file": ended.to_string_lossy(), "bytes": ended.metadata()?.len() });
    Sidecar::append(&ended.with_extension("jsonl"))?.write("completed", millis, unix_millis, fields);
    Ok((ended, millis))
}

/// The same, without a word about it.
pub fn make_whole(path: &Path) -> io::Result<(PathBuf, i64)> {
    let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    let mut out = OpenOptions::new().read(true).write(true).open(path)?;
    let micros = match extension {
        "ogg" => ogg::mend(&mut out)?,
        "mp4" => {
            let mut file = Mp4::reopen(out.try_clone()?)?;
            file.finish()?;
            file.duration()
        }
        _ => {
            let mut file = Matroska::<File>::reopen(out.try_clone()?)?;
            file.finish()?;
            file.duration()
        }
    };
    out.sync_all()?;
    let ended = files::whole(path);
    std::fs::rename(path, &ended)?;
    Ok((ended, micros / 1_000))
}
