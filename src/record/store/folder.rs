//! What of a folder of recordings waits to be uploaded.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::journal::{CONFIRMED, Journal};
use crate::record::files::last_event;
use crate::record::{EXTENSIONS, UNFINISHED};

/// Times of files are as coarse as this at most: a folder that was changed so shortly before it was read is read again.
const COARSE: Duration = Duration::from_secs(2);
/// A recording whose events do not tell its end (they could not be written) is taken as ended after so long without a change.
const SETTLED: Duration = Duration::from_secs(10);

pub struct Folder {
    root: PathBuf,
    /// Rooms that need not be read again as long as they were changed last at this time.
    read: HashMap<PathBuf, SystemTime>,
    first: bool,
}

impl Folder {
    pub fn new(root: &Path) -> Folder {
        Folder { root: root.to_owned(), read: HashMap::new(), first: true }
    }

    /// Removes the folders of rooms that have nothing in them. Not while something is recorded: it may be about to make its first file.
    pub fn sweep(&self) {
        for room in rooms(&self.root) {
            // Fails for those that have something in them.
            let _ = fs::remove_dir(room);
        }
    }

    /// Recordings that have ended, are not confirmed and not `known`: `max` at most; the rest is found again.
    pub fn look(&mut self, max: usize, known: impl Fn(&Path) -> bool) -> Vec<PathBuf> {
        let (mut found, first) = (Vec::new(), std::mem::take(&mut self.first));
        let rooms: Vec<PathBuf> = rooms(&self.root).collect();
        self.read.retain(|room, _| rooms.binary_search(room).is_ok());
        for room in rooms {
            let Ok(changed) = fs::metadata(&room).and_then(|metadata| metadata.modified()) else { continue };
            if self.read.get(&room) == Some(&changed) {
                continue;
            }
            let mut whole = changed.elapsed().is_ok_and(|ago| ago > COARSE);
            let names: HashSet<String> = entries(&room).collect();
            for name in &names {
                let path = room.join(name);
                if first && name.ends_with(CONFIRMED) {
                    Journal::finish_deleting(&path);
                }
                let Some(stem) = ended(name) else { continue };
                if names.contains(&format!("{stem}{CONFIRMED}")) || known(&path) {
                    continue;
                }
                if found.len() < max && is_settled(&path) {
                    found.push(path);
                } else {
                    whole = false;
                }
            }
            // What was found is in the queue from now on, but not if the server ends before: hence only as long as it runs.
            if whole {
                self.read.insert(room, changed);
            }
        }
        found
    }
}

/// A media file's name without its extension, if it has its final name.
fn ended(name: &str) -> Option<&str> {
    let (stem, extension) = name.rsplit_once('.')?;
    (EXTENSIONS.contains(&extension) && !stem.ends_with(UNFINISHED)).then_some(stem)
}

/// Sorted.
fn rooms(root: &Path) -> impl Iterator<Item = PathBuf> {
    let mut names: Vec<String> = entries(root).filter(|name| !name.starts_with('.')).collect();
    names.sort();
    names.into_iter().map(|name| root.join(name)).filter(|path| path.is_dir())
}

/// Names in a folder; none that is not Unicode is ours.
fn entries(folder: &Path) -> impl Iterator<Item = String> {
    fs::read_dir(folder).into_iter().flatten().flatten().filter_map(|entry| entry.file_name().into_string().ok())
}

/// The file gets its name a moment before its events get their last line.
fn is_settled(media: &Path) -> bool {
    let sidecar = media.with_extension("jsonl");
    if last_event(&sidecar).is_some_and(|last| matches!(last["event"].as_str(), Some("end" | "failed" | "completed"))) {
        return true;
    }
    let quiet = |path: &Path| {
        let changed = fs::metadata(path).and_then(|metadata| metadata.modified());
        changed.is_ok_and(|changed| changed.elapsed().is_ok_and(|ago| ago > SETTLED))
    };
    quiet(media) && (quiet(&sidecar) || !sidecar.exists())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_ended_is_found_and_what_is_confirmed_or_being_written_is_not() {
        let root = std::env::temp_dir().join(format!("distributary-folder-{}", std::process::id()));
        let (room, empty) = (root.join("room"), root.join("empty"));
        fs::create_dir_all(&room).unwrap();
        fs::create_dir_all(&empty).unwrap();
        for name in ["1.webm", "1.jsonl", "2.part.webm", "3.mp4", "3.uploaded", "4.ogg", "5.mkv", "6.webm.txt"] {
            fs::write(room.join(name), "").unwrap();
        }
        fs::write(room.join("1.jsonl"), "{\"event\":\"start\"}\n{\"event\":\"end\"}\n").unwrap();
        fs::write(room.join("4.jsonl"), "{\"event\":\"start\"}\n").unwrap();
        fs::write(room.join("5.jsonl"), "{\"event\":\"start\"}\n{\"event\":\"completed\"}\n").unwrap();
        let mut folder = Folder::new(&root);
        folder.sweep();
        assert!(!empty.exists() && room.exists());
        let mut found = folder.look(10, |_| false);
        found.sort();
        assert_eq!(found, [room.join("1.webm"), room.join("5.mkv")]);
        assert_eq!(folder.look(1, |_| false).len(), 1, "no more than there is room for");
        assert_eq!(folder.look(10, |path| path == room.join("1.webm")), [room.join("5.mkv")]);
        fs::write(room.join("4.jsonl"), "{\"event\":\"start\"}\n{\"event\":\"end\"}\n").unwrap();
        assert!(folder.look(10, |_| false).contains(&room.join("4.ogg")));
        fs::remove_dir_all(root).unwrap();
    }
}
