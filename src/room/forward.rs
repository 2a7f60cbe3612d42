//! One turn's packets, grouped by track, so that the fan-out can go receiver by receiver: all packets of the turn for one
//! receiver together, its keys and numbering touched once, sent as one train.

use super::shard::{NONE, Shard, Shards};
use crate::limits::TURN_MEDIA;
use crate::metrics::DropReason;
use crate::rtp::media::Media;
use crate::units::TrackId;

/// The media packets of one turn.
pub struct Turn {
    media: Vec<Media>,
    /// Next packet of the same track.
    next: Vec<u32>,
    tracks: Vec<TrackId>,
}

impl Default for Turn {
    fn default() -> Self {
        Turn { media: Vec::with_capacity(TURN_MEDIA), next: Vec::with_capacity(TURN_MEDIA), tracks: Vec::with_capacity(TURN_MEDIA) }
    }
}

impl Turn {
    /// Adds a packet to its track's list.
    pub fn push(&mut self, media: Media, shards: &mut Shards) -> Result<(), DropReason> {
        if self.media.len() >= TURN_MEDIA {
            return Err(DropReason::TurnFull);
        }
        // No shard: the track was closed while the packet was on its way.
        let Some(shard) = shards.get_mut(media.track) else { return Err(DropReason::NotPublishing) };
        let index = self.media.len() as u32;
        match &mut shard.turn {
            Some((_, last)) => self.next[std::mem::replace(last, index) as usize] = index,
            none => {
                *none = Some((index, index));
                self.tracks.push(media.track);
            }
        }
        self.media.push(media);
        self.next.push(NONE);
        Ok(())
    }

    pub fn is_full(&self) -> bool {
        self.media.len() >= TURN_MEDIA
    }

    pub fn is_empty(&self) -> bool {
        self.media.is_empty()
    }

    /// Tracks with packets in this turn.
    pub fn tracks(&self) -> &[TrackId] {
        &self.tracks
    }

    /// This turn's packets of one track, in order of arrival.
    pub fn packets(&self, shard: &Shard) -> impl Iterator<Item = &Media> {
        let mut index = shard.turn.map_or(NONE, |(first, _)| first);
        std::iter::from_fn(move || {
            let media = self.media.get(index as usize)?;
            index = self.next[index as usize];
            Some(media)
        })
    }

    /// Ends the turn: the packets go to their tracks' retransmission caches.
    pub fn finish(&mut self, shards: &mut Shards) {
        for track in self.tracks.drain(..) {
            if let Some(shard) = shards.by_slot_mut(track.slot) {
                shard.turn = None;
            }
        }
        for media in self.media.drain(..) {
            if let Some(shard) = shards.get_mut(media.track)
                && shard.has_subscribers()
            {
                shard.cache.insert(media);
            }
        }
        self.next.clear();
    }
}
