//! RTP header extensions (RFC 8285): the kinds the server knows, which local id stands for which kind in one session, and the
//! elements as they lie in a packet.

use std::ops::Range;

use super::bytes::Writer;

/// A header extension the server reads or passes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ExtensionKind {
    Mid,
    Rid,
    RepairedRid,
    AudioLevel,
    AbsSendTime,
    TransportSequence,
    TransmissionOffset,
    VideoOrientation,
    PlayoutDelay,
    VideoContentType,
    VideoTiming,
    ColorSpace,
    DependencyDescriptor,
    AbsCaptureTime,
}

impl ExtensionKind {
    pub const ALL: [ExtensionKind; 14] = [
        ExtensionKind::Mid,
        ExtensionKind::Rid,
        ExtensionKind::RepairedRid,
        ExtensionKind::AudioLevel,
        ExtensionKind::AbsSendTime,
        ExtensionKind::TransportSequence,
        ExtensionKind::TransmissionOffset,
        ExtensionKind::VideoOrientation,
        ExtensionKind::PlayoutDelay,
        ExtensionKind::VideoContentType,
        ExtensionKind::VideoTiming,
        ExtensionKind::ColorSpace,
        ExtensionKind::DependencyDescriptor,
        ExtensionKind::AbsCaptureTime,
    ];

    /// URI in `a=extmap`.
    pub const fn uri(self) -> &'static str {
        match self {
            ExtensionKind::Mid => "urn:ietf:params:rtp-hdrext:sdes:mid",
            ExtensionKind::Rid => "urn:ietf:params:rtp-hdrext:sdes:rtp-stream-id",
            ExtensionKind::RepairedRid => "urn:ietf:params:rtp-hdrext:sdes:repaired-rtp-stream-id",
            ExtensionKind::AudioLevel => "urn:ietf:params:rtp-hdrext:ssrc-audio-level",
            ExtensionKind::AbsSendTime => "http://www.webrtc.org/experiments/rtp-hdrext/abs-send-time",
            ExtensionKind::TransportSequence => "http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01",
            ExtensionKind::TransmissionOffset => "urn:ietf:params:rtp-hdrext:toffset",
            ExtensionKind::VideoOrientation => "urn:3gpp:video-orientation",
            ExtensionKind::PlayoutDelay => "http://www.webrtc.org/experiments/rtp-hdrext/playout-delay",
            ExtensionKind::VideoContentType => "http://www.webrtc.org/experiments/rtp-hdrext/video-content-type",
            ExtensionKind::VideoTiming => "http://www.webrtc.org/experiments/rtp-hdrext/video-timing",
            ExtensionKind::ColorSpace => "http://www.webrtc.org/experiments/rtp-hdrext/color-space",
            ExtensionKind::DependencyDescriptor => {
                "https://aomediacodec.github.io/av1-rtp-spec/#dependency-descriptor-rtp-header-extension"
            }
            ExtensionKind::AbsCaptureTime => "http://www.webrtc.org/experiments/rtp-hdrext/abs-capture-time",
        }
    }

    pub fn from_uri(uri: &str) -> Option<ExtensionKind> {
        ExtensionKind::ALL.into_iter().find(|kind| kind.uri() == uri)
    }
}

/// Ids of one session's extensions: kind → id. Ids 1..=14 fit one-byte elements, 15..=255 need two-byte ones (RFC 8285 §4.3);
/// the server answers with ids up to 14 only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExtensionMap {
    /// 0: not negotiated.
    ids: [u8; ExtensionKind::ALL.len()],
}

impl ExtensionMap {
    pub fn set(&mut self, kind: ExtensionKind, id: u8) {
        self.ids[kind as usize] = id;
    }
    pub fn clear(&mut self, kind: ExtensionKind) {
        self.ids[kind as usize] = 0;
    }
    pub fn id(&self, kind: ExtensionKind) -> Option<u8> {
        match self.ids[kind as usize] {
            0 => None,
            id => Some(id),
        }
    }
    pub fn kind(&self, id: u8) -> Option<ExtensionKind> {
        if id == 0 {
            return None;
        }
        ExtensionKind::ALL.into_iter().find(|kind| self.ids[*kind as usize] == id)
    }
}

/// Profile of an extension whose elements have one-byte headers (RFC 8285 §4.2).
pub const ONE_BYTE_PROFILE: u16 = 0xbede;
/// Profile of an extension whose elements have two-byte headers; the low four bits are free (RFC 8285 §4.3).
pub const TWO_BYTE_PROFILE: u16 = 0x1000;

#[derive(Clone, Copy, Debug)]
enum Form {
    OneByte,
    TwoByte,
    /// A profile that is not RFC 8285's: no elements can be told apart.
    Opaque,
}

/// The elements of one packet's extension, as (id, data). Ends at the first element that makes no sense.
#[derive(Clone, Debug)]
pub struct Elements<'a> {
    data: &'a [u8],
    at: usize,
    form: Form,
}

impl<'a> Elements<'a> {
    /// `data` follows the extension's profile and length fields.
    pub fn new(profile: u16, data: &'a [u8]) -> Self {
        let form = match profile {
            ONE_BYTE_PROFILE => Form::OneByte,
            _ if profile & 0xfff0 == TWO_BYTE_PROFILE => Form::TwoByte,
            _ => Form::Opaque,
        };
        Elements { data, at: 0, form }
    }

    /// Id of the next element and where in the extension its data lies.
    fn next_range(&mut self) -> Option<(u8, Range<usize>)> {
        loop {
            let first = *self.data.get(self.at)?;
            let (id, start, len) = match self.form {
                Form::Opaque => return None,
                // A zero byte is padding in both forms (RFC 8285 §4.1).
                _ if first == 0 => {
                    self.at += 1;
                    continue;
                }
                // Id 0 with a length and id 15 end the extension (RFC 8285 §4.2).
                Form::OneByte if matches!(first >> 4, 0 | 15) => return None,
                Form::OneByte => (first >> 4, self.at + 1, (first & 15) as usize + 1),
                Form::TwoByte => (first, self.at + 2, *self.data.get(self.at + 1)? as usize),
            };
            let range = start..start + len;
            self.data.get(range.clone())?;
            self.at = range.end;
            return Some((id, range));
        }
    }

    /// The same elements as (id, place of the data), counted from `base` bytes before the extension's data.
    pub fn ranges(mut self, base: usize) -> impl Iterator<Item = (u8, Range<usize>)> + use<'a> {
        std::iter::from_fn(move || self.next_range().map(|(id, range)| (id, range.start + base..range.end + base)))
    }
}

impl<'a> Iterator for Elements<'a> {
    type Item = (u8, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (id, range) = self.next_range()?;
        Some((id, self.data.get(range)?))
    }
}

/// Writes profile, length and elements, or nothing if there are no elements. Elements get one-byte headers unless one of them
/// needs two. An element of id 0 or of more than 255 bytes cannot be written and is left out.
#[inline]
pub(super) fn write<'e>(writer: &mut Writer, elements: impl Iterator<Item = (u8, &'e [u8])> + Clone) -> Option<()> {
    let start = writer.len();
    // The two-byte form is rare and no shorter, so it is tried when the other has failed.
    match write_form(writer, ONE_BYTE_PROFILE, elements.clone()) {
        Some(true) => {}
        Some(false) => {
            writer.truncate(start);
            write_form(writer, TWO_BYTE_PROFILE, elements)?;
        }
        // No room: none is needed for no elements.
        None => {
            writer.truncate(start);
            return elements.clone().next().is_none().then_some(());
        }
    }
    let words = (writer.len() - start) / 4 - 1;
    if words == 0 {
        writer.truncate(start);
        return Some(());
    }
    writer.set_u16(start + 2, words.try_into().ok()?)
}

/// Writes the elements in one form, with a length yet to be set; false if one does not fit the form.
#[inline]
fn write_form<'e>(writer: &mut Writer, profile: u16, mut elements: impl Iterator<Item = (u8, &'e [u8])>) -> Option<bool> {
    let [high, low] = profile.to_be_bytes();
    writer.bytes(&[high, low, 0, 0])?;
    let mut fits = true;
    // Not `for`: chained iterators step much quicker from inside.
    let space = elements.try_for_each(|(id, data)| {
        match (profile, id, data.len()) {
            (_, 0, _) | (_, _, 256..) => return Some(()),
            (ONE_BYTE_PROFILE, 1..=14, len @ 1..=16) => writer.u8(id << 4 | (len - 1) as u8)?,
            (ONE_BYTE_PROFILE, _, _) => {
                fits = false;
                return None;
            }
            (_, _, len) => writer.bytes(&[id, len as u8])?,
        }
        writer.bytes(data)
    });
    if fits {
        space?;
        writer.align()?;
    }
    Some(fits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn elements(profile: u16, data: &[u8]) -> Vec<(u8, Vec<u8>)> {
        Elements::new(profile, data).map(|(id, data)| (id, data.to_vec())).collect()
    }

    #[test]
    fn one_byte_elements_with_padding_between() {
        // RFC 8285 §4.2's figure: lengths 0, 1 and 3 with padding.
        let data = [0x10, 0xaa, 0x21, 0xbb, 0xbb, 0, 0, 0x33, 1, 2, 3, 4];
        let expected = vec![(1, vec![0xaa]), (2, vec![0xbb, 0xbb]), (3, vec![1, 2, 3, 4])];
        assert_eq!(elements(0xbede, &data), expected);
        let ranges: Vec<_> = Elements::new(0xbede, &data).ranges(16).collect();
        assert_eq!(ranges, [(1, 17..18), (2, 19..21), (3, 24..28)]);
    }

    #[test]
    fn two_byte_elements_may_be_empty() {
        // RFC 8285 §4.3's figure.
        let data = [1, 0, 2, 1, 0xbb, 0, 3, 4, 1, 2, 3, 4];
        assert_eq!(elements(0x1000, &data), vec![(1, vec![]), (2, vec![0xbb]), (3, vec![1, 2, 3, 4])]);
        assert_eq!(elements(0x100f, &data).len(), 3);
        assert_eq!(elements(0x1010, &data), vec![], "not a profile of RFC 8285");
    }

    #[test]
    fn garbage_ends_the_elements() {
        assert_eq!(elements(0xbede, &[0x10, 0xaa, 0xf0, 1, 0x10, 0xbb]), vec![(1, vec![0xaa])], "id 15");
        assert_eq!(elements(0xbede, &[0x10, 0xaa, 0x01, 1, 0x10, 0xbb]), vec![(1, vec![0xaa])], "id 0 with a length");
        assert_eq!(elements(0xbede, &[0x10, 0xaa, 0x2f, 1]), vec![(1, vec![0xaa])], "longer than the extension");
        assert_eq!(elements(0x1000, &[1, 1, 0xaa, 2]), vec![(1, vec![0xaa])], "no length byte");
    }
}
