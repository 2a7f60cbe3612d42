//! Memory for an arena: on huge pages where that can be had, so that a core's TLB covers what it forwards.
//!
//! 1. **Reserved** ones (`vm.nr_hugepages`, explicit), if enough are free. They are filled at once, which says in a way that can be
//!    handled what would else be SIGBUS in the midst of a turn: a container may be allowed to map them and forbidden to use them.
//! 2. **Transparent** ones: the kernel gives them as slots are first used, 2 MiB at a time, if it has them. An arena's fresh
//!    slots are taken last, so what an idle worker occupies grows by a few MiB, not by the arena.
//! 3. **Small** ones of 4 KiB otherwise.
//!
//! Nothing is said to the kernel about NUMA nodes: memory comes from the node of the core that first touches it. So an arena is
//! to be mapped and used on its worker's core (`topology` does).

use std::fmt;
use std::fs;
use std::io;
use std::ptr::{self, NonNull};

use crate::config::HugePages;

/// Bytes of a huge page. Other sizes than this are for other uses.
const HUGE_PAGE_BYTES: usize = 2 << 20;

/// What an arena lies on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pages {
    /// Huge ones that the operator had reserved.
    Reserved,
    /// Huge ones where the kernel has them.
    Transparent,
    Small,
}

impl fmt::Display for Pages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Pages::Reserved => "2 MiB huge pages, reserved",
            Pages::Transparent => "2 MiB huge pages, transparent",
            Pages::Small => "4 KiB pages",
        })
    }
}

/// There is no memory of this size.
#[derive(Debug)]
pub struct MemoryError {
    pub bytes: usize,
    pub error: io::Error,
}

impl fmt::Display for MemoryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "cannot map {} MiB for a worker's packets: {}; start fewer workers (media.workers), or raise the limit of address \
             space (ulimit -v, LimitAS=) or of memory",
            self.bytes.div_ceil(1 << 20),
            self.error
        )
    }
}

impl std::error::Error for MemoryError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.error)
    }
}

/// Maps zeroed memory that begins at a page and is never given back. What is smaller than a huge page gets none.
pub(super) fn map(bytes: usize, huge: HugePages) -> Result<(NonNull<u8>, Pages), MemoryError> {
    let huge = if bytes < HUGE_PAGE_BYTES { HugePages::Off } else { huge };
    if huge == HugePages::Auto
        && let Some(base) = reserved(bytes)
    {
        return Ok((base, Pages::Reserved));
    }
    if huge != HugePages::Off && transparent_allowed() {
        // One more, so that the memory can begin where a huge page does.
        let base = anonymous(bytes.saturating_add(HUGE_PAGE_BYTES), 0).map_err(|error| MemoryError { bytes, error })?;
        let start = base.as_ptr().align_offset(HUGE_PAGE_BYTES);
        // SAFETY: the offset is less than a huge page, by which the mapping is longer than `bytes`.
        let base = unsafe { base.add(start) };
        // SAFETY: the range was mapped above; the advice changes nothing of its content.
        let advised = unsafe { libc::madvise(base.as_ptr().cast(), bytes, libc::MADV_HUGEPAGE) } == 0;
        return Ok((base, if advised { Pages::Transparent } else { Pages::Small }));
    }
    anonymous(bytes, 0).map(|base| (base, Pages::Small)).map_err(|error| MemoryError { bytes, error })
}

/// Reserved huge pages, all filled; none if there are not enough, or if the kernel (before 5.14) cannot fill them on demand.
fn reserved(bytes: usize) -> Option<NonNull<u8>> {
    let bytes = bytes.checked_next_multiple_of(HUGE_PAGE_BYTES)?;
    let base = anonymous(bytes, libc::MAP_HUGETLB | libc::MAP_HUGE_2MB).ok()?;
    // SAFETY: the range was just mapped and nobody else knows of it.
    let filled = unsafe { libc::madvise(base.as_ptr().cast(), bytes, libc::MADV_POPULATE_WRITE) } == 0;
    if !filled {
        // SAFETY: as above; it is not used after this.
        unsafe { libc::munmap(base.as_ptr().cast(), bytes) };
    }
    filled.then_some(base)
}

/// Private zeroed memory.
fn anonymous(bytes: usize, flags: libc::c_int) -> io::Result<NonNull<u8>> {
    let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | flags);
    // SAFETY: a new mapping at an address of the kernel's choice touches no memory that is in use.
    let base = unsafe { libc::mmap(ptr::null_mut(), bytes, protection, flags, -1, 0) };
    match NonNull::new(base.cast::<u8>()) {
        Some(base) if base.as_ptr().cast() != libc::MAP_FAILED => Ok(base),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Whether the kernel gives transparent huge pages to who asks: `always`, or `madvise`.
fn transparent_allowed() -> bool {
    fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled").is_ok_and(|choices| !choices.contains("[never]"))
}

#[cfg(all(test, not(feature = "model")))]
mod tests {
    use super::*;

    /// The first and last byte of a mapping can be written and were zero.
    fn assert_usable(base: NonNull<u8>, bytes: usize) {
        for at in [0, bytes - 1] {
            // SAFETY: the byte lies within the mapping, which this test alone knows.
            let byte = unsafe { base.add(at).as_mut() };
            assert_eq!(*byte, 0);
            *byte = 1;
        }
    }

    #[test]
    fn whatever_the_host_has_the_memory_is_there_and_aligned() {
        for (bytes, huge) in [
            (4096, HugePages::Auto),
            (8 << 20, HugePages::Off),
            (8 << 20, HugePages::Transparent),
            (3 << 20, HugePages::Auto),
            (8 << 20, HugePages::Auto),
        ] {
            let (base, pages) = map(bytes, huge).unwrap();
            assert_usable(base, bytes);
            let aligned_to = if pages == Pages::Small { 4096 } else { HUGE_PAGE_BYTES };
            assert_eq!(base.as_ptr().align_offset(aligned_to), 0);
            assert!(pages == Pages::Small || (bytes >= HUGE_PAGE_BYTES && huge != HugePages::Off));
            assert!(pages != Pages::Reserved || huge == HugePages::Auto);
        }
    }

    #[test]
    fn what_does_not_fit_is_an_error_that_names_the_size() {
        for huge in [HugePages::Auto, HugePages::Transparent, HugePages::Off] {
            let error = map(1 << 60, huge).unwrap_err();
            assert!(error.to_string().contains("1099511627776 MiB"), "{error}");
        }
    }
}
