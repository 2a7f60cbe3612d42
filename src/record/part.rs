//! A file that is being written, and the events beside it.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use serde_json::{Value, json};

use super::assemble::PATIENCE;
use super::container::{Container, FRAGMENT_MICROS, Kind, TrackEntry};
use super::disk::Disk;
use super::ending::Ending;
use super::sidecar::{Sidecar, UNFINISHED, stamp};
use crate::config::{RecordPlan, RecordSync};
use crate::metrics::{Counter, WorkerMetrics};
use crate::units::Micros;

/// Names that are tried for a part whose name is taken.
const NAMES_TRIED: u32 = 1_000;

/// Where the file is while it is being written, once the disk's thread has made it.
pub type MediaPath = Arc<OnceLock<PathBuf>>;

/// Times are microseconds of the server's clock.
pub struct Part {
    file: Container,
    sidecar: Sidecar,
    path: MediaPath,
    /// The file's beginning; pauses move it.
    pub zero: i64,
    /// The last frame, whatever its track.
    pub written: i64,
    /// The wall clock at time 0, in milliseconds.
    epoch: i64,
    sync: RecordSync,
    /// Those who were there when it began are told.
    pub introduced: bool,
}

impl Part {
    /// Begins a file in `folder`. `name` is what it has in its name between the time and `number`; `start` goes into the first event.
    pub fn open(
        plan: &RecordPlan,
        disk: &Disk,
        folder: PathBuf,
        (name, number): (&str, u32),
        entries: &[TrackEntry],
        (zero, epoch): (i64, i64),
        start: Value,
    ) -> io::Result<Part> {
        let unix_millis = epoch + zero / 1_000;
        let (kind, name, path) =
            (Kind::of(plan.format, entries), format!("{}-{name}{number}", stamp(unix_millis)), MediaPath::default());
        let made = path.clone();
        let [media, events] = disk.create(move || {
            let (path, files) = create(&folder, &name, kind.extension())
                .map_err(|error| io::Error::new(error.kind(), format!("no file can be made in {}: {error}", folder.display())))?;
            tracing::info!(file = %path.display(), "recording begun");
            let _ = made.set(path);
            Ok(files)
        });
        let (file, mut sidecar) = (Container::new(kind, media, entries, unix_millis)?, Sidecar::new(events));
        let mut fields = start;
        (fields["part"], fields["unix_ms"]) = (json!(number), json!(unix_millis));
        sidecar.write("start", 0, unix_millis, fields);
        Ok(Part { file, sidecar, path, zero, written: zero, epoch, sync: plan.sync, introduced: false })
    }

    /// Adds a frame of the track of that number.
    pub fn frame(&mut self, number: u8, at: i64, key: bool, data: &[u8], metrics: &WorkerMetrics) -> io::Result<()> {
        self.written = at.max(self.written);
        let before = self.file.bytes();
        let ended = self.file.frame(number, at - self.zero, key, data);
        metrics.add(Counter::RecordedFrames, 1);
        metrics.add(Counter::RecordedBytes, self.file.bytes() - before);
        if ended? { self.sync() } else { Ok(()) }
    }

    /// Whether frames have waited to be written for so long that nothing that follows will have them written in time.
    pub fn is_idle(&self, now: Micros) -> bool {
        let idle = FRAGMENT_MICROS + PATIENCE.0 as i64;
        self.file.unwritten_since().is_some_and(|since| now.0 as i64 - self.zero > since + idle)
    }

    /// Writes what there is.
    pub fn flush(&mut self, metrics: &WorkerMetrics) -> io::Result<()> {
        let before = self.file.bytes();
        let flushed = self.file.flush().and_then(|()| self.sync());
        metrics.add(Counter::RecordedBytes, self.file.bytes() - before);
        flushed
    }

    /// Forces to the disk what was just written, if that is wanted.
    fn sync(&self) -> io::Result<()> {
        match self.sync {
            RecordSync::Cluster => self.file.out().sync(),
            RecordSync::End => Ok(()),
        }
    }

    /// Ends the file, and has it given its name. `fields` go into the last event.
    pub fn end(mut self, mut fields: Value, metrics: &WorkerMetrics) -> io::Result<()> {
        let before = self.file.bytes();
        if let Err(error) = self.file.finish() {
            self.fail(&error);
            return Err(error);
        }
        metrics.add(Counter::RecordedBytes, self.file.bytes() - before);
        fields["bytes"] = json!(self.file.bytes());
        let ending = self.ending();
        self.sidecar.settle(ending.at_millis, ending.unix_millis);
        self.file.into_out().end(move |written| ending.end(written, fields));
        Ok(())
    }

    /// Gives up. What was written is made a whole file, if that can be done.
    pub fn fail(self, error: &io::Error) {
        let (ending, error) = (self.ending(), io::Error::other(error.to_string()));
        self.file.into_out().end(move |_| ending.fail(&error));
    }

    fn ending(&self) -> Ending {
        let (at_millis, unix_millis) = ((self.written - self.zero) / 1_000, self.epoch + self.written / 1_000);
        Ending { path: self.path.clone(), at_millis, unix_millis }
    }

    /// Tells an event, unless there are too many. `paused`: nothing is being kept, so the file's time stands still.
    pub fn tell(&mut self, event: &str, now: Micros, paused: bool, mut fields: Value) {
        let now = now.0 as i64;
        if paused {
            fields["paused"] = json!(true);
        }
        let at = if paused { self.written } else { now };
        self.sidecar.tell(event, (at - self.zero) / 1_000, self.epoch + now / 1_000, fields);
    }

    pub fn bytes(&self) -> u64 {
        self.file.bytes()
    }
}

/// Makes a media file and its sidecar, under the first name that is free: no file is ever written over. Gives the path of the former.
fn create(folder: &Path, name: &str, extension: &str) -> io::Result<(PathBuf, [File; 2])> {
    std::fs::create_dir_all(folder)?;
    let mut tried = 1;
    let (name, events) = loop {
        let name = if tried == 1 { name.to_owned() } else { format!("{name}-{tried}") };
        match File::create_new(folder.join(format!("{name}.jsonl"))) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && tried < NAMES_TRIED => tried += 1,
            events => break (name, events?),
        }
    };
    let path = folder.join(format!("{name}{UNFINISHED}.{extension}"));
    Ok((path.clone(), [File::create_new(path)?, events]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_file_is_written_over() {
        let folder = std::env::temp_dir().join(format!("distributary-part-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        let named = |extension| create(&folder, "a-1", extension).unwrap().0;
        assert_eq!(named("webm"), folder.join("a-1.part.webm"));
        assert_eq!(named("mp4"), folder.join("a-1-2.part.mp4"), "the events of both would have one name");
        std::fs::remove_file(folder.join("a-1.jsonl")).unwrap();
        assert!(create(&folder, "a-1", "webm").is_err_and(|error| error.kind() == io::ErrorKind::AlreadyExists));
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 4, "it got its events before it failed");
        std::fs::remove_dir_all(folder).unwrap();
    }
}
