//! Who speaks, and what follows from it: who is on stage, what members are told of it, and, in rooms where not everything is sent
//! to everybody (`[room]` in the configuration), whose microphones and cameras are.
//!
//! That is decided once for a room, and its members differ only in what they said themselves. What flows then is a matter of
//! subscriptions, and costs a packet nothing. Who is not sent stays published: clients show its owner, and may ask for it by name.

use livekit_protocol as proto;
use proto::signal_response::Message;

use super::Director;
use super::members::{Member, Publication};
use super::rooms::Room;
use crate::room::speaker::Activity;
use crate::rtp::level::Level;
use crate::units::{Micros, PeerId, TrackId};

/// Between two messages on who speaks, if that has changed, and if only how loud they are has: LiveKit's server does both every half a second.
const TOLD_CHANGED: Micros = Micros::from_millis(100);
const TOLD_SAME: Micros = Micros::from_millis(500);

/// What a member gets of somebody's track.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Share {
    Flows,
    /// Nothing, but it had it not long ago.
    Kept,
    None,
}

/// Whether a track takes part in who is sent and who is not: a microphone or a camera, not what is shown on purpose.
fn takes_turns(info: &proto::TrackInfo) -> bool {
    let shown = [proto::TrackSource::ScreenShare as i32, proto::TrackSource::ScreenShareAudio as i32];
    !shown.contains(&info.source)
}

fn is_audio(info: &proto::TrackInfo) -> bool {
    info.r#type == proto::TrackType::Audio as i32
}

impl Room {
    /// What a member that wants a track gets of it.
    pub fn share(&self, member: &Member, publication: &Publication, track: TrackId) -> Share {
        let audio = is_audio(&publication.info);
        let floor = if audio { &self.heard } else { &self.seen };
        let Some(floor) = floor.as_ref().filter(|_| takes_turns(&publication.info)) else { return Share::Flows };
        let asked = member.said(&publication.info.sid) == Some(true);
        // Who is seen by all does not see itself: it sees one more instead.
        let own = || member.publications.iter().filter_map(|own| own.track).any(|own| floor.holds(own));
        let instead = !audio && floor.next() == Some(track) && own();
        match asked || instead || floor.holds(track) {
            true => Share::Flows,
            false if floor.held(track) => Share::Kept,
            false => Share::None,
        }
    }
}

impl Director {
    /// A publisher was so loud in the step before.
    pub(super) fn hear(&mut self, peer: PeerId, level: Level, at: Micros) {
        let Some(session) = self.sessions.get(&peer.slot).filter(|session| session.id == peer) else { return };
        let Some(track) = session.sound() else { return };
        let Some(room) = self.rooms.get_mut(&session.room) else { return };
        room.speakers.hear(track, level, at);
        room.stirred = true;
    }

    /// Looks at who speaks now, in all rooms where anybody does or did.
    pub(super) fn listen(&mut self) {
        let now = self.now;
        let mut names: Vec<String> = Vec::new();
        for (name, room) in &mut self.rooms {
            if std::mem::take(&mut room.stirred) || room.speakers.anybody() || !room.speaking.is_empty() || !room.noted.is_empty() {
                room.speakers.settle(now);
                names.push(name.clone());
            }
        }
        for name in names {
            self.set_stage(&name);
            if self.settle_floors(&name) {
                self.resubscribe_all(&name);
                self.tell_qualities(&name);
            }
            self.tell_speakers(&name);
            self.note_speakers(&name);
        }
    }

    /// Those who speak in a room now.
    pub(super) fn speaking<'a>(&self, room: &'a Room) -> Vec<(&'a Member, Activity)> {
        let activity = |member: &'a Member| {
            let session = member.publisher.and_then(|slot| self.sessions.get(&slot))?;
            Some((member, room.speakers.activity(session.sound()?, self.now)))
        };
        room.members.values().filter_map(activity).filter(|(_, activity)| activity.speaking).collect()
    }

    /// Decides anew who of a room is sent; whether that has changed.
    pub(super) fn settle_floors(&mut self, name: &str) -> bool {
        let now = self.now;
        let Some(room) = self.rooms.get_mut(name).filter(|room| room.heard.is_some() || room.seen.is_some()) else { return false };
        let (mut sounds, mut pictures) = (Vec::new(), Vec::new());
        let dominant = room.speakers.dominant();
        for member in room.members.values() {
            let published = || member.publications.iter().filter_map(|own| Some((&own.info, own.track?)));
            let dominates = dominant.is_some() && published().any(|(_, track)| Some(track) == dominant);
            for (info, track) in published().filter(|(info, _)| takes_turns(info)) {
                match is_audio(info) {
                    true => sounds.push((track, room.speakers.activity(track, now).speaking)),
                    false => pictures.push((track, dominates)),
                }
            }
        }
        let heard = room.heard.as_mut().is_some_and(|floor| floor.settle(&sounds, now));
        let seen = room.seen.as_mut().is_some_and(|floor| floor.settle(&pictures, now));
        heard || seen
    }

    /// Tells members who speaks, and how loud.
    fn tell_speakers(&mut self, name: &str) {
        let now = self.now;
        let Some(room) = self.rooms.get(name).filter(|room| room.members.values().any(|member| !member.whip)) else { return };
        let info = |(member, activity): (&Member, Activity)| {
            // RFC 6464 levels are in dB below full scale; LiveKit's are linear.
            let level = 10f32.powf(-f32::from(activity.level.below_full) / 20.0);
            proto::SpeakerInfo { sid: member.sid.clone(), level: level.clamp(0.0, 1.0), active: true }
        };
        let mut speakers: Vec<_> = self.speaking(room).into_iter().map(info).collect();
        let speaking: Vec<String> = speakers.iter().map(|speaker| speaker.sid.clone()).collect();
        let wait = if speaking == room.speaking { TOLD_SAME } else { TOLD_CHANGED };
        if speaking.is_empty() && room.speaking.is_empty() {
            return;
        }
        if now.since(room.told) < wait.0 {
            if let Some(room) = self.rooms.get_mut(name) {
                room.stirred = true;
            }
            return;
        }
        let silent = room.speaking.iter().filter(|sid| !speaking.contains(sid));
        let silent: Vec<_> = silent.map(|sid| proto::SpeakerInfo { sid: sid.clone(), level: 0.0, active: false }).collect();
        speakers.extend(silent);
        speakers.sort_by(|a, b| b.level.total_cmp(&a.level));
        if let Some(room) = self.rooms.get_mut(name) {
            (room.speaking, room.told) = (speaking, now);
        }
        self.tell_room(name, &Message::SpeakersChanged(proto::SpeakersChanged { speakers }));
    }
}
