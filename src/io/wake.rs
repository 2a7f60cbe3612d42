//! Waking a worker that sleeps in [`Io::receive`](super::Io::receive), without a syscall when it is awake.
//!
//! ```text
//!   worker                                   another thread
//!   1  sleeping = true   (prepare_sleep)     a  push to a ring of the worker
//!   2  fence(SeqCst)                         b  fence(SeqCst)
//!   3  look at every ring once more          c  sleeping? ── swap it to false, then write the eventfd
//!   4  receive(wait): sleeps in the kernel
//!   5  sleeping = false  (receive does it)
//! ```
//!
//! No wake-up can be lost. The two fences are in one total order. If b comes first, then 3 sees what a pushed and the worker
//! does not sleep. If 2 comes first, then c sees the `true` of 1, or a later value: the `false` of 5 or of another waker. After
//! 5 the worker is awake and passes 1 to 3 again before it next sleeps, so the argument starts afresh. Another waker's `false`
//! means that the eventfd is being written for this very sleep, and an eventfd keeps what was written until it is seen:
//! between 3 and 4, too. The swap makes sure that one of many wakers pays the syscall, not all of them.
//!
//! A write that comes when the worker has woken by itself ends its next wait early, once. That is harmless.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};

/// Ends the wait of one worker, from any thread.
#[derive(Clone)]
pub struct Waker(Arc<Wake>);

struct Wake {
    /// The eventfd; none in the simulator, where nobody sleeps.
    event: Option<OwnedFd>,
    /// Apart from its neighbours: every waker reads it.
    sleeping: CacheLine<AtomicBool>,
}

#[repr(align(128))]
struct CacheLine<T>(T);

impl Waker {
    pub(super) fn new() -> io::Result<Waker> {
        // SAFETY: no pointers; the result is checked.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor was just made and nobody else owns it.
        Ok(Waker::over(Some(unsafe { OwnedFd::from_raw_fd(fd) })))
    }

    /// A waker of a worker that never sleeps.
    pub(super) fn silent() -> Waker {
        Waker::over(None)
    }

    fn over(event: Option<OwnedFd>) -> Waker {
        Waker(Arc::new(Wake { event, sleeping: CacheLine(AtomicBool::new(false)) }))
    }

    /// Wakes the worker if it sleeps or is about to. Call it after the push that it should see.
    pub fn wake(&self) {
        fence(Ordering::SeqCst);
        let sleeping = &self.0.sleeping.0;
        if !sleeping.load(Ordering::Relaxed) || !sleeping.swap(false, Ordering::AcqRel) {
            return;
        }
        if let Some(event) = &self.0.event {
            let one = 1u64;
            // It fails only if the count is at its limit, and then the eventfd is readable anyway.
            // SAFETY: eight bytes of a live local are read.
            unsafe { libc::write(event.as_raw_fd(), (&raw const one).cast(), size_of::<u64>()) };
        }
    }

    pub(super) fn set_sleeping(&self) {
        self.0.sleeping.0.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    pub(super) fn clear_sleeping(&self) {
        // The load keeps the line shared while the worker is busy and the flag is false.
        if self.0.sleeping.0.load(Ordering::Relaxed) {
            self.0.sleeping.0.store(false, Ordering::Relaxed);
        }
    }

    /// The eventfd, to wait on; -1 (which poll(2) ignores) in the simulator.
    pub(super) fn event(&self) -> RawFd {
        self.0.event.as_ref().map_or(-1, AsRawFd::as_raw_fd)
    }

    /// Takes what was written to the eventfd: true if there was something.
    pub(super) fn drain(&self) -> bool {
        let mut count = 0u64;
        // SAFETY: eight bytes of a live local are written; on a descriptor of -1 the call fails.
        unsafe { libc::read(self.event(), (&raw mut count).cast(), size_of::<u64>()) > 0 }
    }
}
