//! How large a publisher's pictures are: each codec's key frames tell, and dependency descriptors. A viewer is given no larger ones than it
//! has a place for.

use crate::rtp::config::Codec;
use crate::rtp::layers::Sizes;
use crate::wire::{av1, h264, vp8, vp9};

/// Notes how large the pictures are that begin with this payload, if it tells. Cold: of key frames only, and kept out of what every packet
/// passes.
#[cold]
#[inline(never)]
pub(super) fn note(codec: Codec, payload: &[u8], sizes: &mut Sizes) {
    match codec {
        Codec::Opus => {}
        Codec::Vp8 => {
            if let Ok(Some((width, height))) = vp8::parse(payload).map(|descriptor| descriptor.resolution) {
                note_one(sizes, 0, (width.into(), height.into()));
            }
        }
        Codec::Vp9 => {
            let structure = vp9::parse(payload).ok().and_then(|descriptor| descriptor.structure);
            let told = structure.iter().flat_map(|structure| &structure.resolutions);
            told.zip(0..).for_each(|((width, height), spatial)| note_one(sizes, spatial, ((*width).into(), (*height).into())));
        }
        Codec::H264 => h264::size(payload).into_iter().for_each(|size| note_one(sizes, 0, size)),
        Codec::Av1 => av1::sequence(payload).into_iter().for_each(|sequence| note_one(sizes, 0, sequence.size)),
    }
}

#[cold]
#[inline(never)]
pub(super) fn note_one(sizes: &mut Sizes, spatial: u8, (width, height): (u32, u32)) {
    if let Some(place) = sizes.get_mut(spatial as usize) {
        *place = (width.min(u16::MAX.into()) as u16, height.min(u16::MAX.into()) as u16);
    }
}
