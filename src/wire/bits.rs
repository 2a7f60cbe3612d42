//! Numbers of any width, high bit first, as dependency descriptors (AV1 RTP specification, A.8.2) and codecs' headers have them.

/// Reads one number after the other; `None` at the end of the data.
pub struct Bits<'a> {
    data: &'a [u8],
    /// Bits read so far.
    at: usize,
}

impl<'a> Bits<'a> {
    pub fn new(data: &'a [u8], at: usize) -> Self {
        Bits { data, at }
    }

    pub fn at(&self) -> usize {
        self.at
    }

    /// f(n): an unsigned number of up to 32 bits.
    pub fn take(&mut self, width: usize) -> Option<u32> {
        let end = self.at + width;
        let bytes = self.data.get(self.at / 8..end.div_ceil(8))?;
        // 32 bits touch five bytes at most.
        let value = bytes.iter().fold(0u64, |value, byte| value << 8 | *byte as u64) >> (bytes.len() * 8 - self.at % 8 - width);
        self.at = end;
        Some((value & ((1 << width) - 1)) as u32)
    }

    pub fn flag(&mut self) -> Option<bool> {
        self.take(1).map(|bit| bit == 1)
    }

    /// ue(v): an Exp-Golomb code (ITU-T H.264 §9.1).
    pub fn golomb(&mut self) -> Option<u32> {
        let mut zeros = 0;
        while !self.flag()? {
            zeros += 1;
            if zeros > 31 {
                return None;
            }
        }
        Some(((1u64 << zeros) - 1 + self.take(zeros)? as u64) as u32)
    }

    /// ns(n): a number below `count` (at least 1), of which the lower ones take one bit less if `count` is no power of two.
    pub fn below(&mut self, count: u32) -> Option<u32> {
        let width = count.checked_ilog2()?;
        let short = (2 << width) - count;
        match self.take(width as usize)? {
            value if value < short => Some(value),
            value => Some((value << 1) - short + self.take(1)?),
        }
    }
}

/// Writes one number after the other into a slice; `None` when the slice is full, and then what was written is of no use.
pub struct BitWriter<'a> {
    space: &'a mut [u8],
    at: usize,
}

impl<'a> BitWriter<'a> {
    pub fn new(space: &'a mut [u8]) -> Self {
        BitWriter { space, at: 0 }
    }

    /// The low `width` bits, at most 32.
    pub fn put(&mut self, value: u32, width: usize) -> Option<()> {
        for shift in (0..width).rev() {
            let byte = self.space.get_mut(self.at / 8)?;
            let place = 7 - self.at % 8;
            // What was in the space before does not matter.
            *byte = if place == 7 { 0 } else { *byte } | ((value >> shift & 1) as u8) << place;
            self.at += 1;
        }
        Some(())
    }

    /// Copies bits up to the place `end` of what `bits` reads.
    pub fn copy(&mut self, bits: &mut Bits, end: usize) -> Option<()> {
        while bits.at() < end {
            let width = (end - bits.at()).min(32);
            self.put(bits.take(width)?, width)?;
        }
        Some(())
    }

    /// Bytes begun; the rest of the last one is zero.
    pub fn len(&self) -> usize {
        self.at.div_ceil(8)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_any_width() {
        let data = [0b1010_0110, 0xff, 0, 0x81, 0x42];
        let mut bits = Bits::new(&data, 0);
        assert_eq!([bits.take(1), bits.take(3), bits.take(0), bits.take(32)], [Some(1), Some(2), Some(0), Some(0x6ff0_0814)]);
        assert_eq!((bits.take(5), bits.take(4), bits.take(1)), (None, Some(2), None));

        let mut space = [0xff; 5];
        let mut writer = BitWriter::new(&mut space);
        let mut bits = Bits::new(&data, 3);
        assert!(writer.put(0b1_0101, 3).is_some() && writer.copy(&mut bits, 40).is_some() && writer.put(0, 1).is_none());
        assert_eq!((writer.len(), space), (5, data));
    }

    #[test]
    fn non_symmetric_numbers() {
        // A.8.2's table for five values, and the trivial count.
        for (value, code, width) in [(0, 0b00, 2), (1, 0b01, 2), (2, 0b10, 2), (3, 0b110, 3), (4, 0b111, 3)] {
            let data = [(code as u8) << (8 - width)];
            let mut bits = Bits::new(&data, 0);
            assert_eq!((bits.below(5), bits.at()), (Some(value), width));
        }
        let mut bits = Bits::new(&[], 0);
        assert_eq!((bits.below(1), bits.below(2), bits.below(0)), (Some(0), None, None));
    }
}
