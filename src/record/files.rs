//! The files that a recording became, read from the folder: their events tell.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::sidecar::folder_of;
use super::{EXTENSIONS, UNFINISHED};

/// Of the first line of events, which names all tracks, and of all of them from the end, at most so many bytes.
const FIRST_BYTES: u64 = 128 * 1024;
const LAST_BYTES: u64 = 4 * 1024;

/// A file of a recording.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    pub path: PathBuf,
    /// Milliseconds of Unix time.
    pub began: i64,
    /// Milliseconds, of what has ended.
    pub length: i64,
    pub bytes: u64,
    pub state: State,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    Recording,
    Ended,
    Failed { reason: String },
}

/// Those of a recording with a label, the oldest first.
pub fn labelled(folder: &Path, room: &str, label: &str) -> Vec<Piece> {
    let room = folder.join(folder_of(room));
    let within = format!("-{label}-");
    let paths = fs::read_dir(room).into_iter().flatten().flatten().map(|entry| entry.path());
    let is_media = |path: &PathBuf| path.extension().is_some_and(|extension| EXTENSIONS.iter().any(|known| extension == *known));
    let is_of = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().contains(&within));
    let mut pieces: Vec<Piece> = paths.filter(|path| is_media(path) && is_of(path)).filter_map(piece).collect();
    pieces.sort_by(|a, b| (a.began, &a.path).cmp(&(b.began, &b.path)));
    pieces
}

fn piece(path: PathBuf) -> Option<Piece> {
    let stem = path.file_stem()?.to_str()?;
    let (name, unfinished) = stem.strip_suffix(UNFINISHED).map_or((stem, false), |name| (name, true));
    let events = path.with_file_name(format!("{name}.jsonl"));
    let (first, last) = (first_event(&events)?, last_event(&events)?);
    let state = match last["event"].as_str() {
        Some("failed") => State::Failed { reason: last["reason"].as_str().unwrap_or("its file could not be written").to_owned() },
        Some("end" | "completed") if !unfinished => State::Ended,
        _ => State::Recording,
    };
    let bytes = fs::metadata(&path).ok()?.len();
    Some(Piece { began: first["unix_ms"].as_i64()?, length: last["at_ms"].as_i64().unwrap_or(0), bytes, state, path })
}

/// A media file's path without its extension, also while it is being written.
pub fn stem(media: &Path) -> PathBuf {
    let whole = media.with_extension("");
    let name = whole.file_name().unwrap_or_default().to_string_lossy().into_owned();
    whole.with_file_name(name.strip_suffix(UNFINISHED).unwrap_or(&name))
}

/// Where a media file is once it is whole.
pub fn whole(media: &Path) -> PathBuf {
    let mut path = stem(media).into_os_string();
    for part in media.extension().map(|extension| [OsStr::new("."), extension]).into_iter().flatten() {
        path.push(part);
    }
    path.into()
}

pub fn first_event(sidecar: &Path) -> Option<Value> {
    let mut line = String::new();
    BufReader::new(File::open(sidecar).ok()?.take(FIRST_BYTES)).read_line(&mut line).ok()?;
    serde_json::from_str(&line).ok()
}

/// The last one that is whole.
pub fn last_event(sidecar: &Path) -> Option<Value> {
    let mut file = File::open(sidecar).ok()?;
    let size = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(size.saturating_sub(LAST_BYTES))).ok()?;
    let mut bytes = Vec::new();
    file.take(LAST_BYTES).read_to_end(&mut bytes).ok()?;
    String::from_utf8_lossy(&bytes).lines().rev().find_map(|line| serde_json::from_str(line).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_name_of_the_file_says_that_it_is_not_whole() {
        for (path, name) in [
            ("r/a.part.b/x-1.part.webm", "r/a.part.b/x-1.webm"),
            ("r/b.part/x-2.ogg", "r/b.part/x-2.ogg"),
            ("r/c/x.part.y.part.mp4", "r/c/x.part.y.mp4"),
        ] {
            assert_eq!(whole(Path::new(path)), Path::new(name));
        }
    }
}
