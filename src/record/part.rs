//! A file that is being written, and the events beside it.

use std::io;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::assemble::PATIENCE;
use super::container::{Container, FRAGMENT_MICROS, Kind, TrackEntry};
use super::disk::Disk;
use super::ending::Ending;
use super::sidecar::{Sidecar, UNFINISHED, stamp};
use crate::config::{RecordPlan, RecordSync};
use crate::metrics::{Counter, WorkerMetrics};
use crate::units::Micros;

/// Numbers that are tried for a part whose name is taken.
const NAMES_TRIED: u32 = 1_000;

/// Times are microseconds of the server's clock.
pub struct Part {
    file: Container,
    sidecar: Sidecar,
    pub path: PathBuf,
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
    /// Begins a file in `folder`. `name` is what it has in its name between the time and `number`, which is counted on; `start` goes into
    /// the first event.
    pub fn open(
        plan: &RecordPlan,
        disk: &Disk,
        folder: &Path,
        (name, number): (&str, &mut u32),
        entries: &[TrackEntry],
        (zero, epoch): (i64, i64),
        start: Value,
    ) -> io::Result<Part> {
        std::fs::create_dir_all(folder)?;
        let unix_millis = epoch + zero / 1_000;
        let kind = Kind::of(plan.format, entries);
        let (name, mut sidecar) = create(disk, folder, &format!("{}-{name}", stamp(unix_millis)), number)?;
        let path = folder.join(format!("{name}{UNFINISHED}.{}", kind.extension()));
        let file = Container::new(kind, disk.create_new(&path)?, entries, unix_millis)?;
        let mut fields = start;
        (fields["part"], fields["unix_ms"]) = (json!(*number), json!(unix_millis));
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

/// Makes the sidecar of the first part whose name is free: no file is ever written over.
fn create(disk: &Disk, folder: &Path, name: &str, number: &mut u32) -> io::Result<(String, Sidecar)> {
    let mut tried = 0;
    loop {
        *number += 1;
        tried += 1;
        let name = format!("{name}{number}");
        match Sidecar::create(disk, &folder.join(format!("{name}.jsonl"))) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && tried < NAMES_TRIED => {}
            sidecar => return Ok((name, sidecar?)),
        }
    }
}
