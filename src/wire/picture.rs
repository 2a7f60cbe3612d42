//! The numbers that VP8 and VP9 payload descriptors give to pictures (RFC 7741 §4.2, RFC 9628 §4.2): where they lie in the
//! payload, so that they can be made continuous in place when a receiver's source changes.

/// A picture id or TL0PICIDX in a payload descriptor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PictureIds {
    /// Offset in the payload, whether it is 15 bits wide (7 otherwise), and value. `None`: no picture id.
    pub picture_id: Option<(u8, bool, u16)>,
    /// Offset in the payload and value.
    pub tl0_pic_idx: Option<(u8, u8)>,
    /// A receiver takes a gap in the picture ids for a loss (VP8). In VP9 their differences carry meaning, and gaps do not.
    pub gapless: bool,
}

impl PictureIds {
    /// The picture id, if pictures that are left out must leave no gap in them.
    pub fn gapless_id(&self) -> Option<u16> {
        self.picture_id.filter(|_| self.gapless).map(|(_, _, id)| id)
    }
}

impl PictureIds {
    /// Writes other numbers into a copy of the payload these were read from. Numbers that the descriptor lacks are not written,
    /// and of the others as many bits as there is room for.
    pub fn patch(&self, payload: &mut [u8], picture_id: u16, tl0_pic_idx: u8) {
        let [high, low] = picture_id.to_be_bytes();
        match self.picture_id {
            // The top bit says that there are two bytes.
            Some((offset, true, _)) => put(payload, offset, &[high | 0x80, low]),
            Some((offset, false, _)) => put(payload, offset, &[low & 0x7f]),
            None => {}
        }
        if let Some((offset, _)) = self.tl0_pic_idx {
            put(payload, offset, &[tl0_pic_idx]);
        }
    }
}

fn put(payload: &mut [u8], offset: u8, bytes: &[u8]) {
    let offset = offset as usize;
    if let Some(place) = payload.get_mut(offset..offset + bytes.len()) {
        place.copy_from_slice(bytes);
    }
}

/// Reads a picture id at `at`: offset, width and value as in [`PictureIds`], and the offset after it.
pub(super) fn read_picture_id(payload: &[u8], at: usize) -> Option<((u8, bool, u16), usize)> {
    let offset = at.try_into().ok()?;
    match payload.get(at..)? {
        [high @ 0x80..=0xff, low, ..] => Some(((offset, true, u16::from_be_bytes([high & 0x7f, *low])), at + 2)),
        [0x80..=0xff, ..] | [] => None,
        [id, ..] => Some(((offset, false, *id as u16), at + 1)),
    }
}
