//! Which layer of a scalable stream a packet is of, told in the same words for every codec, so that who selects layers for a
//! receiver needs to know none of them.
//!
//! A receiver has two limits: a spatial and a temporal layer. It is sent what is within both ([`Layer::is_within`]). The limits go down
//! at any time. They go up only where what follows depends on nothing that the receiver lacks: the temporal limit where
//! [`Layer::temporal_limit`] allows it, the spatial limit with a key picture.
//!
//! With K-SVC, whose spatial layers refer to each other in key pictures only, the lower layers are sent to receivers of a higher one
//! all the same: a receiver that had not had them could not go down to them without a key frame.
//!
//! When the highest spatial layer of a picture is left out, the last packet of the highest one sent must say that the picture ends:
//! [`Layer::marker`].
//!
//! | from | by |
//! |---|---|
//! | VP8 | payload descriptor: `vp8::Descriptor::layer` |
//! | VP9 | payload descriptor: `vp9::Descriptor::layer` |
//! | H.264 | NAL unit headers, which only tell what is discardable: `h264::Descriptor::layer` |
//! | AV1, or any codec that sends it | dependency descriptor: `dependency::Descriptor::layer` |

/// Spatial or temporal layers of a stream: layer numbers are 0..=7 in every codec.
pub const LAYERS: usize = 8;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Layer {
    /// 0 is the smallest picture.
    pub spatial: u8,
    /// 0 is the lowest frame rate.
    pub temporal: u8,
    /// Who has had this spatial layer at least up to temporal layer `switch_from` ...
    pub switch_from: u8,
    /// ... may have it up to `switch_to` from this frame on. Below `switch_from`: no switching point.
    pub switch_to: u8,
    /// First packet of its frame (one spatial layer of one picture).
    pub start_of_frame: bool,
    /// Last packet of its frame.
    pub end_of_frame: bool,
    /// Refers to earlier pictures, or may.
    pub inter_picture: bool,
    /// Refers to a lower spatial layer of the same picture.
    pub inter_layer: bool,
    /// It is known that no other frame refers to this one.
    pub discardable: bool,
}

impl Layer {
    /// A layer of a stream with one spatial layer.
    pub(super) fn of_temporal(temporal: u8) -> Layer {
        Layer { temporal, ..Layer::default() }
    }

    /// Whether a receiver with these limits is sent the packet.
    #[inline]
    pub fn is_within(&self, spatial: u8, temporal: u8) -> bool {
        self.spatial <= spatial && self.temporal <= temporal
    }

    /// The temporal limit from this frame on, for a receiver of this spatial layer whose limit was `had` and shall be `wanted`.
    #[inline]
    pub fn temporal_limit(&self, had: u8, wanted: u8) -> u8 {
        if wanted <= had || !self.inter_picture {
            wanted
        } else if had >= self.switch_from {
            had.max(wanted.min(self.switch_to))
        } else {
            had
        }
    }

    /// Needs no other frame: the first packet of one from which decoding can begin.
    pub fn key_frame(&self) -> bool {
        self.start_of_frame && !self.inter_picture && !self.inter_layer
    }

    /// The marker bit for a receiver with this spatial limit, given the one that came: set on the last packet of a picture
    /// (RFC 9628 §4.1; AV1 RTP payload format §4.2: of a temporal unit), which is of another layer for other receivers.
    #[inline]
    pub fn marker(&self, marker: bool, spatial: u8) -> bool {
        marker || self.end_of_frame && self.spatial == spatial
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_rise_at_switching_points_only() {
        let layer = Layer { inter_picture: true, temporal: 1, switch_from: 1, switch_to: 2, ..Layer::default() };
        assert_eq!(layer.temporal_limit(1, 7), 2, "as far as the switching point reaches");
        assert_eq!(layer.temporal_limit(0, 2), 0, "has not had what it refers to");
        assert_eq!(layer.temporal_limit(2, 0), 0, "down at once");
        assert_eq!(layer.temporal_limit(3, 4), 3);
        let no_point = Layer { switch_from: 1, switch_to: 0, ..layer };
        assert_eq!(no_point.temporal_limit(1, 2), 1);
        assert_eq!(Layer { inter_picture: false, ..no_point }.temporal_limit(0, 2), 2, "refers to nothing earlier");
    }

    #[test]
    fn a_receiver_gets_what_is_within_its_limits() {
        let layer = Layer { spatial: 1, temporal: 1, end_of_frame: true, ..Layer::default() };
        assert!(layer.is_within(1, 1) && layer.is_within(2, 2) && layer.is_within(u8::MAX, u8::MAX));
        assert!(!layer.is_within(0, 2), "a smaller picture");
        assert!(!layer.is_within(1, 0), "a lower frame rate");
        assert!(layer.marker(false, 1) && !layer.marker(false, 2) && layer.marker(true, 2));
    }
}
