//! Asks the processor for memory that will be needed soon: a fan-out to thousands finds nothing of the next receiver in the cache, and
//! waits for one line after the other where it could have had all at once, while it worked for the receiver before.

use crate::limits::CACHE_LINE_BYTES;

/// Asks for the cache lines of a value, the first `lines` of them at most. A hint: nothing is read.
#[inline(always)]
pub fn prefetch<T>(value: &T, lines: usize) {
    let first: *const T = value;
    for line in 0..lines.min(size_of::<T>().div_ceil(CACHE_LINE_BYTES)) {
        let address = first.cast::<i8>().wrapping_add(line * CACHE_LINE_BYTES);
        #[cfg(target_arch = "x86_64")]
        // SAFETY: SSE is part of x86-64, and a prefetch of any address is allowed: it neither reads nor faults.
        unsafe {
            std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(address);
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = address;
    }
}
