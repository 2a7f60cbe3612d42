//! Network byte order with every bound checked: how the rest of `wire` reads and writes.

/// `N` bytes at `at`, if they are there.
pub(super) fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

pub(super) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    array(bytes, at).map(u16::from_be_bytes)
}

pub(super) fn u24_at(bytes: &[u8], at: usize) -> Option<u32> {
    array(bytes, at).map(|[a, b, c]| u32::from_be_bytes([0, a, b, c]))
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    array(bytes, at).map(u32::from_be_bytes)
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    array(bytes, at).map(u64::from_be_bytes)
}

/// Writes one thing after the other into a slice; `None` when the slice is full, and then what was written is of no use.
pub(super) struct Writer<'a> {
    space: &'a mut [u8],
    len: usize,
}

impl<'a> Writer<'a> {
    pub fn new(space: &'a mut [u8]) -> Self {
        Writer { space, len: 0 }
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn written(&self) -> &[u8] {
        self.space.get(..self.len).unwrap_or_default()
    }

    #[inline]
    pub fn bytes(&mut self, bytes: &[u8]) -> Option<()> {
        let end = self.len.checked_add(bytes.len())?;
        self.space.get_mut(self.len..end)?.copy_from_slice(bytes);
        self.len = end;
        Some(())
    }

    pub fn u8(&mut self, value: u8) -> Option<()> {
        self.bytes(&[value])
    }

    pub fn u16(&mut self, value: u16) -> Option<()> {
        self.bytes(&value.to_be_bytes())
    }

    /// The low 24 bits.
    pub fn u24(&mut self, value: u32) -> Option<()> {
        let [_, a, b, c] = value.to_be_bytes();
        self.bytes(&[a, b, c])
    }

    pub fn u32(&mut self, value: u32) -> Option<()> {
        self.bytes(&value.to_be_bytes())
    }

    pub fn u64(&mut self, value: u64) -> Option<()> {
        self.bytes(&value.to_be_bytes())
    }

    /// Zeros up to a multiple of four bytes.
    #[inline]
    pub fn align(&mut self) -> Option<()> {
        while !self.len.is_multiple_of(4) {
            self.u8(0)?;
        }
        Some(())
    }

    /// Takes back what was written after `len`.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// Overwrites two bytes written before.
    pub fn set_u16(&mut self, at: usize, value: u16) -> Option<()> {
        self.space.get_mut(at..at.checked_add(2)?)?.copy_from_slice(&value.to_be_bytes());
        Some(())
    }
}
