//! Keeps the cores awake. A core with nothing to do sleeps, and waking it takes time that is the machine's and not the server's: some
//! microseconds on hardware, and milliseconds on a virtual machine whose host gives a halted core to others. So one thread a core
//! turns in a circle, of a priority that everything else goes before at once (SCHED_IDLE); as a host tuned for latency keeps its
//! cores awake too (`idle=poll`).

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::JoinHandle;

use crate::sys;

/// The threads' names begin so.
pub const NAME: &str = "lg-awake";
/// Turns between two looks at whether to end.
const TURNS: u32 = 10_000;

pub struct Awake {
    end: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Awake {
    /// One thread for each core of the machine that this process may be put on.
    pub fn start() -> io::Result<Awake> {
        let mut awake = Awake { end: Arc::default(), threads: Vec::new() };
        for core in 0..sys::configured_cores() {
            let end = Arc::clone(&awake.end);
            let turn = move || {
                if sys::pin(&[core]).is_err() || !sys::yield_to_all() {
                    return;
                }
                while !end.load(Relaxed) {
                    (0..TURNS).for_each(|_| std::hint::spin_loop());
                }
            };
            awake.threads.push(std::thread::Builder::new().name(format!("{NAME}{core}")).spawn(turn)?);
        }
        Ok(awake)
    }
}

impl Drop for Awake {
    fn drop(&mut self) {
        self.end.store(true, Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}
