//! The thread that writes. A disk may take its time over a file that is made and over a write (when the kernel's memory for what is not on it
//! yet is full, or its journal has its turn), and over a sync always does; the recorder would lose packets of all publishers meanwhile. So
//! what it does to files is queued, in order, and it goes on. The queue is bounded ([`DISK_WAITING_BYTES`]): a disk that is too slow for longer
//! than that holds up the recorder after all, whose own queue says then what was lost.
//!
//! An error is known when the file is next written to, or ended.

use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use crate::limits::{DISK_WAITING, DISK_WAITING_BYTES};
use crate::metrics::{Counter, WorkerMetrics};

/// Between two looks at a queue that is full.
const FULL: Duration = Duration::from_millis(1);

type Job = Box<dyn FnOnce(&WorkerMetrics) + Send>;

/// The way to the thread.
#[derive(Clone)]
pub struct Disk(Way);

#[derive(Clone)]
enum Way {
    /// The jobs, and the bytes in the queue.
    Queue(SyncSender<(usize, Job)>, Arc<AtomicUsize>),
    /// There is no thread.
    Here(Arc<WorkerMetrics>),
}

/// The thread's end.
pub struct Writer {
    jobs: Receiver<(usize, Job)>,
    waiting: Arc<AtomicUsize>,
}

impl Disk {
    pub fn new() -> (Disk, Writer) {
        let (sender, jobs) = sync_channel(DISK_WAITING);
        let waiting = Arc::<AtomicUsize>::default();
        (Disk(Way::Queue(sender, waiting.clone())), Writer { jobs, waiting })
    }

    /// Without a thread: all is written at once, as a simulation wants it.
    pub fn at_once(metrics: Arc<WorkerMetrics>) -> Disk {
        Disk(Way::Here(metrics))
    }

    /// Has files made.
    pub fn create<const N: usize>(&self, make: impl FnOnce() -> io::Result<[File; N]> + Send + 'static) -> [DiskFile; N] {
        let files = std::array::from_fn(|_| DiskFile { disk: self.clone(), file: Arc::default(), failed: Arc::default(), at: 0 });
        let made = files.each_ref().map(|file: &DiskFile| (file.file.clone(), file.failed.clone()));
        let job = move |_: &WorkerMetrics| match make() {
            Ok(opened) => made.into_iter().zip(opened).for_each(|((file, _), opened)| drop(file.set(opened))),
            Err(error) => made.into_iter().for_each(|(_, failed)| drop(failed.set(error.to_string()))),
        };
        self.queue(0, Box::new(job));
        files
    }

    fn queue(&self, bytes: usize, job: Job) {
        let (jobs, waiting) = match &self.0 {
            Way::Queue(jobs, waiting) => (jobs, waiting),
            Way::Here(metrics) => return job(metrics),
        };
        while waiting.load(Ordering::Relaxed) > DISK_WAITING_BYTES {
            thread::sleep(FULL);
        }
        waiting.fetch_add(bytes, Ordering::Relaxed);
        // The writer ends after all who have something to write.
        let _ = jobs.send((bytes, job));
    }
}

impl Writer {
    /// Writes until nobody is left who could queue anything. `metrics`: a table of its own.
    pub fn run(self, metrics: &WorkerMetrics) {
        for (bytes, job) in self.jobs {
            job(metrics);
            self.waiting.fetch_sub(bytes, Ordering::Relaxed);
        }
    }
}

/// A file that is written by the thread.
pub struct DiskFile {
    disk: Disk,
    /// Once it is made.
    file: Arc<OnceLock<File>>,
    /// Why no more of it is written.
    failed: Arc<OnceLock<String>>,
    at: u64,
}

impl DiskFile {
    fn after(&self, bytes: usize, job: impl FnOnce(&File) -> io::Result<()> + Send + 'static) -> io::Result<()> {
        self.whole()?;
        let (file, failed) = (self.file.clone(), self.failed.clone());
        let job = move |_: &WorkerMetrics| {
            if let (Some(file), None) = (file.get(), failed.get())
                && let Err(error) = job(file)
            {
                let _ = failed.set(error.to_string());
            }
        };
        self.disk.queue(bytes, Box::new(job));
        self.whole()
    }

    /// Whether nothing has gone wrong yet.
    fn whole(&self) -> io::Result<()> {
        self.failed.get().map_or(Ok(()), |error| Err(io::Error::other(error.clone())))
    }

    /// Forces what was written to the disk.
    pub fn sync(&self) -> io::Result<()> {
        self.after(0, File::sync_data)
    }

    /// Ends it behind all that was written: `ended` is called with the file if all of that was, and if it could be forced to the disk; else
    /// with what went wrong, which is counted as a recording that failed.
    pub fn end(self, ended: impl FnOnce(io::Result<()>) -> bool + Send + 'static) {
        let DiskFile { disk, file, failed, .. } = self;
        let job = move |metrics: &WorkerMetrics| {
            let written = match (file.get(), failed.get()) {
                (Some(file), None) => file.sync_all(),
                (_, error) => Err(io::Error::other(error.cloned().unwrap_or_default())),
            };
            drop(file);
            if !ended(written) {
                metrics.add(Counter::RecordingsFailed, 1);
            }
        };
        disk.queue(0, Box::new(job));
    }
}

impl Write for DiskFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let (at, copy) = (self.at, bytes.to_vec());
        self.after(bytes.len(), move |file| file.write_all_at(&copy, at))?;
        self.at += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seek for DiskFile {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        match to {
            SeekFrom::Start(at) => self.at = at,
            SeekFrom::Current(by) => self.at = self.at.saturating_add_signed(by),
            SeekFrom::End(_) => return Err(io::ErrorKind::Unsupported.into()),
        }
        Ok(self.at)
    }
}
