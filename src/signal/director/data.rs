//! Data between members: what one sends on its channels goes to those it is for, or to all others of its room.
//!
//! Clients send `DataPacket`s on two channels, `_reliable` and `_lossy`. Who a packet is from is written here, whatever its sender says. What
//! a receiver is too slow for is not kept (see [`crate::secure::sctp`]): it costs nobody else anything.

use std::sync::Arc;

use livekit_protocol as proto;
use prost::Message as _;
use proto::data_packet::Value;

use super::{Director, Part};
use crate::limits::DATA_MESSAGE_BYTES_MAX;
use crate::secure::sctp::{Open, Reliability};
use crate::signal::handshakes::Order;
use crate::units::PeerId;

pub(super) const RELIABLE: &str = "_reliable";
pub(super) const LOSSY: &str = "_lossy";
/// Of data tracks ([`super::data_tracks`]).
pub(super) const DATA_TRACK: &str = "_data_track";

impl Director {
    /// The channels that a client with two peer connections expects on the one it is sent on.
    pub(super) fn open_channels(&mut self, slot: u32) {
        let Some(peer) = self.sessions.get(&slot).map(|session| session.id) else { return };
        let channel = |label: &str, ordered, reliability| Open { label: label.into(), protocol: "".into(), ordered, reliability };
        let lossy = |label| channel(label, false, Reliability::MaxRetransmits(0));
        let channels = vec![channel(RELIABLE, true, Reliability::Reliable), lossy(LOSSY), lossy(DATA_TRACK)];
        self.order(peer, Order::OpenChannels { peer, channels });
    }

    /// Something came on a data channel.
    pub(super) fn data(&mut self, peer: PeerId, label: &str, payload: &[u8]) {
        let label = match label {
            RELIABLE => RELIABLE,
            LOSSY => LOSSY,
            DATA_TRACK => DATA_TRACK,
            _ => return,
        };
        let Some(session) = self.session(peer) else { return };
        let Part::Member { identity } = session.part.clone() else { return };
        let room = session.room.clone();
        let Some(member) = self.member(&room, &identity).filter(|member| member.permission.can_publish_data) else { return };
        if label == DATA_TRACK {
            return self.forward_data_track(&room, &identity, payload);
        }
        // What is no packet is nobody's.
        let Ok(mut packet) = proto::DataPacket::decode(payload) else { return };
        packet.participant_sid = member.sid.clone();
        packet.participant_identity = identity.clone();
        self.send_data(&room, label, packet, Some(&identity));
    }

    /// Sends a packet to those it names, or to all in a room but `from`.
    #[allow(deprecated)] // where older clients say who it is for, and look for whom it is from
    pub(super) fn send_data(&mut self, room: &str, label: &str, mut packet: proto::DataPacket, from: Option<&str>) {
        let mut sids = Vec::new();
        if let Some(Value::User(user)) = &mut packet.value {
            user.participant_sid.clone_from(&packet.participant_sid);
            user.participant_identity.clone_from(&packet.participant_identity);
            packet.destination_identities.append(&mut user.destination_identities);
            sids.append(&mut user.destination_sids);
        }
        let identities = std::mem::take(&mut packet.destination_identities);
        let Some(room) = self.rooms.get(room) else { return };
        let named = |identity: &String, sid: &String| identities.contains(identity) || sids.contains(sid);
        let all = identities.is_empty() && sids.is_empty();
        let receivers = room.members.values().filter(|member| Some(&*member.identity) != from && !member.whip);
        let receivers = receivers.filter(|member| all || named(&member.identity, &member.sid));
        let peers: Arc<[PeerId]> = receivers.filter_map(|member| Some(self.sessions.get(&member.subscriber?)?.id)).collect();
        let payload: Arc<[u8]> = packet.encode_to_vec().into();
        if peers.is_empty() || payload.len() > DATA_MESSAGE_BYTES_MAX {
            return;
        }
        let (reliable, label): (bool, Arc<str>) = (label == RELIABLE, label.into());
        for thread in &self.handshakes {
            let (peers, label, payload) = (peers.clone(), label.clone(), payload.clone());
            // Who has just joined is told all the same: its channels open later.
            self.order_of(thread, Order::SendData { peers, label, binary: true, payload, keep: reliable });
        }
    }
}
