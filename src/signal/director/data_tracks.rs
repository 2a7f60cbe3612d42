//! Data tracks (protocol 17 of LiveKit's clients): what a member publishes in packets of a format of their own, under a name, and others
//! subscribe to one by one. Packets go on the channel `_data_track`, and say by a number of 16 bits which track they are of: going in, the
//! publisher's number; going out, one that each subscriber was told. Only that number is read and written here, so that payloads may be
//! encrypted.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use livekit_protocol as proto;
use proto::data_track_subscriber_handles::PublishedDataTrack;
use proto::request_response::{Reason, Request};
use proto::signal_response::Message;

use super::Director;
use super::data::DATA_TRACK;
use super::members::Member;
use crate::limits::{DATA_MESSAGE_BYTES_MAX, DATA_SUBSCRIPTIONS_MAX, DATA_TRACKS_MAX, NAME_BYTES_MAX};
use crate::signal::api::MemberKey;
use crate::signal::handshakes::Order;
use crate::units::PeerId;

/// Where a packet's number is, after flags and a byte that is reserved.
const HANDLE: std::ops::Range<usize> = 2..4;
/// Bytes of a packet's fixed header.
const HEADER: usize = 12;

/// What a member publishes and has subscribed to.
#[derive(Default)]
pub(super) struct DataTracks {
    pub published: Vec<proto::DataTrackInfo>,
    /// Ids of others' tracks, by the number that this member was told.
    pub wanted: BTreeMap<u16, String>,
    /// The number that was given last.
    last: u16,
}

impl DataTracks {
    /// A number for a track: the one it has, or a new one; none if there are too many.
    fn number(&mut self, sid: &str) -> Option<u16> {
        if let Some((number, _)) = self.wanted.iter().find(|(_, own)| *own == sid) {
            return Some(*number);
        }
        if self.wanted.len() >= DATA_SUBSCRIPTIONS_MAX {
            return None;
        }
        // 0 is none; a number comes again only after all others, so that late packets are not taken for another track's.
        loop {
            self.last = self.last.wrapping_add(1).max(1);
            if !self.wanted.contains_key(&self.last) {
                self.wanted.insert(self.last, sid.to_owned());
                return Some(self.last);
            }
        }
    }
}

/// What is wrong with what a member wants to publish.
fn refusal(member: &Member, asked: &proto::PublishDataTrackRequest) -> Option<(Reason, &'static str)> {
    let others = || member.data.published.iter();
    if !member.permission.can_publish_data {
        Some((Reason::NotAllowed, "The token does not allow publishing data."))
    } else if asked.pub_handle == 0 || asked.pub_handle > u32::from(u16::MAX) {
        Some((Reason::InvalidHandle, "The handle is to be from 1 to 65535."))
    } else if others().any(|own| own.pub_handle == asked.pub_handle) {
        Some((Reason::DuplicateHandle, "Another data track has the handle."))
    } else if asked.name.is_empty() || asked.name.len() > NAME_BYTES_MAX {
        Some((Reason::InvalidName, "The name is to have 1 to 256 bytes."))
    } else if others().any(|own| own.name == asked.name) {
        Some((Reason::DuplicateName, "Another data track has the name."))
    } else if member.data.published.len() >= DATA_TRACKS_MAX {
        Some((Reason::LimitExceeded, "No more data tracks can be published."))
    } else {
        None
    }
}

impl Director {
    pub(super) fn publish_data_track(&mut self, key: &MemberKey, asked: proto::PublishDataTrackRequest) {
        let sid = format!("DTR_{}", self.token(12));
        let Some(member) = self.speaker_for(key) else { return };
        if let Some((reason, text)) = refusal(member, &asked) {
            return self.refuse(key, 0, reason, text, Some(Request::PublishDataTrack(asked)));
        }
        let proto::PublishDataTrackRequest { pub_handle, name, encryption, frame_encoding, schema } = asked;
        let info = proto::DataTrackInfo { pub_handle, sid, name, encryption, frame_encoding, schema };
        member.data.published.push(info.clone());
        member.tell(Message::PublishDataTrackResponse(proto::PublishDataTrackResponse { info: Some(info) }));
        self.tell_of(&key.room, &key.identity);
    }

    pub(super) fn unpublish_data_track(&mut self, key: &MemberKey, asked: proto::UnpublishDataTrackRequest) {
        let Some(member) = self.speaker_for(key) else { return };
        let Some(index) = member.data.published.iter().position(|own| own.pub_handle == asked.pub_handle) else {
            let text = "There is no data track with the handle.";
            return self.refuse(key, 0, Reason::InvalidHandle, text, Some(Request::UnpublishDataTrack(asked)));
        };
        let info = member.data.published.remove(index);
        let sid = info.sid.clone();
        member.tell(Message::UnpublishDataTrackResponse(proto::UnpublishDataTrackResponse { info: Some(info) }));
        self.forget_data_tracks(&key.room, &[sid]);
        self.tell_of(&key.room, &key.identity);
    }

    /// Data tracks have ended: nobody is subscribed to them any more.
    pub(super) fn forget_data_tracks(&mut self, room: &str, sids: &[String]) {
        let members = self.rooms.get_mut(room).into_iter().flat_map(|room| room.members.values_mut());
        members.for_each(|member| member.data.wanted.retain(|_, sid| !sids.contains(sid)));
    }

    /// A member wants others' data tracks, or no longer.
    pub(super) fn subscribe_to_data(&mut self, key: &MemberKey, asked: proto::UpdateDataSubscription) {
        for update in asked.updates.into_iter().take(DATA_SUBSCRIPTIONS_MAX) {
            let granted = self.rooms.get(&key.room).is_some_and(|room| {
                let by = room.members.get(&key.identity).filter(|by| by.permission.can_subscribe);
                let of = room.members.values().find(|of| of.data.published.iter().any(|own| own.sid == update.track_sid));
                by.zip(of).is_some_and(|(by, of)| of.may_be_watched(by, &update.track_sid))
            });
            let Some(member) = self.speaker_for(key) else { return };
            match update.subscribe {
                true if granted => drop(member.data.number(&update.track_sid)),
                true => {}
                false => member.data.wanted.retain(|_, sid| *sid != update.track_sid),
            }
        }
        self.tell_data_numbers(key);
    }

    /// Tells a member under which numbers it is sent what.
    fn tell_data_numbers(&mut self, key: &MemberKey) {
        let Some(room) = self.rooms.get(&key.room) else { return };
        let Some(wanted) = room.members.get(&key.identity).map(|member| &member.data.wanted) else { return };
        let publisher = |sid: &String| room.members.values().find(|of| of.data.published.iter().any(|own| own.sid == *sid));
        let told = wanted.iter().filter_map(|(number, sid)| {
            let of = publisher(sid)?;
            let (publisher_identity, publisher_sid, track_sid) = (of.identity.clone(), of.sid.clone(), sid.clone());
            Some((u32::from(*number), PublishedDataTrack { publisher_identity, publisher_sid, track_sid }))
        });
        let sub_handles: HashMap<u32, PublishedDataTrack> = told.collect();
        if let Some(member) = self.speaker_for(key) {
            member.tell(Message::DataTrackSubscriberHandles(proto::DataTrackSubscriberHandles { sub_handles }));
        }
    }

    /// A packet of a data track goes to each who wants that, under the number that it knows.
    pub(super) fn forward_data_track(&self, room: &str, identity: &str, payload: &[u8]) {
        let Some([high, low]) = payload.get(HANDLE).and_then(|bytes| <[u8; 2]>::try_from(bytes).ok()) else { return };
        if payload.len() < HEADER || payload.len() > DATA_MESSAGE_BYTES_MAX {
            return;
        }
        let handle = u32::from(u16::from_be_bytes([high, low]));
        let Some(room) = self.rooms.get(room) else { return };
        let Some(from) = room.members.get(identity) else { return };
        let Some(track) = from.data.published.iter().find(|own| own.pub_handle == handle) else { return };
        let wants = |member: &Member| member.data.wanted.iter().find(|(_, sid)| **sid == track.sid).map(|(number, _)| *number);
        let receivers =
            room.members.values().filter(|member| member.permission.can_subscribe && from.may_be_watched(member, &track.sid));
        let receivers = receivers.filter_map(|member| Some((self.sessions.get(&member.subscriber?)?.id, wants(member)?)));
        let receivers: Vec<(PeerId, u16)> = receivers.collect();
        for (peer, number) in receivers {
            let mut own = payload.to_vec();
            own[HANDLE].copy_from_slice(&number.to_be_bytes());
            let (peers, label, payload) = (Arc::from([peer]), Arc::from(DATA_TRACK), Arc::from(own));
            self.order(peer, Order::SendData { peers, label, binary: true, payload, keep: false });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stay_and_come_again_late() {
        let mut tracks = DataTracks::default();
        assert_eq!([tracks.number("a"), tracks.number("b"), tracks.number("a")], [Some(1), Some(2), Some(1)]);
        tracks.wanted.remove(&1);
        assert_eq!(tracks.number("c"), Some(3));
        tracks.last = u16::MAX;
        assert_eq!(tracks.number("d"), Some(1), "2 and 3 are taken, 0 is none");
        for track in 0..DATA_SUBSCRIPTIONS_MAX {
            tracks.number(&format!("{track}"));
        }
        assert_eq!((tracks.wanted.len(), tracks.number("one more"), tracks.number("b")), (DATA_SUBSCRIPTIONS_MAX, None, Some(2)));
    }
}
