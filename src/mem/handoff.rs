//! A table in which slow-path threads leave boxed values for whichever worker comes first.
//!
//! A session's state is made by the control plane and put here before its answer leaves; the worker on which its first
//! authenticated STUN check arrives takes it. Taking is one atomic swap, so exactly one worker owns a session.

use super::sync::{AtomicPtr, AtomicU8, Ordering};
use crate::units::WorkerId;

const NOBODY: u8 = u8::MAX;

/// Slots for boxed values, and who took each.
pub struct Handoff<T> {
    slots: Box<[AtomicPtr<T>]>,
    owners: Box<[AtomicU8]>,
}

impl<T: Send> Handoff<T> {
    pub fn new(capacity: usize) -> Self {
        Handoff {
            slots: (0..capacity).map(|_| AtomicPtr::new(std::ptr::null_mut())).collect(),
            owners: (0..capacity).map(|_| AtomicU8::new(NOBODY)).collect(),
        }
    }

    /// Leaves a value. Returns what was there and had not been taken.
    pub fn put(&self, slot: u32, value: Box<T>) -> Option<Box<T>> {
        let cell = self.slots.get(slot as usize)?;
        self.owners[slot as usize].store(NOBODY, Ordering::Release);
        let old = cell.swap(Box::into_raw(value), Ordering::AcqRel);
        // SAFETY: a non-null pointer in a slot came from `Box::into_raw`, and the swap took it out: nobody else has it.
        (!old.is_null()).then(|| unsafe { Box::from_raw(old) })
    }

    /// Takes the value for a worker: the claim. None if it was taken before or never left.
    pub fn claim(&self, slot: u32, worker: WorkerId) -> Option<Box<T>> {
        let value = self.take(slot)?;
        self.owners[slot as usize].store(worker.0, Ordering::Release);
        Some(value)
    }

    /// Takes the value back without owning the slot: for the control plane, when nobody claimed it in time.
    pub fn take(&self, slot: u32) -> Option<Box<T>> {
        let cell = self.slots.get(slot as usize)?;
        let value = cell.swap(std::ptr::null_mut(), Ordering::AcqRel);
        // SAFETY: as in `put`.
        (!value.is_null()).then(|| unsafe { Box::from_raw(value) })
    }

    /// Who claimed a slot.
    pub fn owner(&self, slot: u32) -> Option<WorkerId> {
        match self.owners.get(slot as usize)?.load(Ordering::Acquire) {
            NOBODY => None,
            worker => Some(WorkerId(worker)),
        }
    }
}

impl<T> Drop for Handoff<T> {
    fn drop(&mut self) {
        for cell in &self.slots {
            let value = cell.swap(std::ptr::null_mut(), Ordering::AcqRel);
            if !value.is_null() {
                // SAFETY: as in `put`.
                drop(unsafe { Box::from_raw(value) });
            }
        }
    }
}

#[cfg(all(test, not(feature = "model")))]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    #[test]
    fn exactly_one_of_many_threads_claims() {
        let handoff = Handoff::new(200);
        for slot in 0..200 {
            assert!(handoff.put(slot, Box::new(slot)).is_none());
        }
        let claimed = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for worker in 0..4 {
                let (handoff, claimed) = (&handoff, &claimed);
                scope.spawn(move || {
                    for slot in 0..200 {
                        if let Some(value) = handoff.claim(slot, WorkerId(worker)) {
                            assert_eq!(*value, slot);
                            assert_eq!(handoff.owner(slot), Some(WorkerId(worker)));
                            claimed.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                });
            }
        });
        assert_eq!(claimed.into_inner(), 200);
    }
}
