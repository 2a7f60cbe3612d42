//! The peer connections of members: what is agreed on with each, again whenever more is published or watched.
//!
//! A client of today has one, on which it makes all offers: it is asked for one when there is something new to watch, with as many
//! further m-lines as that takes. Older ones have two: one on which they publish and offer, and one on which the server offers what
//! there is to watch, one offer at a time.

use arrayvec::ArrayString;
use livekit_protocol as proto;
use proto::signal_response::Message;

use super::feeds::decodable;
use super::floor::Share;
use super::members::AWAY_MAX;
use super::{Director, Opening, Part};
use crate::limits::MEDIA_PER_PEER;
use crate::peer::Growth;
use crate::rtp::config::{CodecConfig, Direction, MediaConfig, MediaKind, Mid, StreamPair};
use crate::signal::handshakes::Order;
use crate::signal::negotiate::{self, Agreed, Described, Msid, NegotiateError, OwnLine, Standing, Ways};
use crate::units::{Micros, Ssrc, TrackId};
use crate::worker::mail::{Command, IcePassword, Ufrag};

/// How long a client that closed its peer connection may take to say why.
const FAREWELL: Micros = Micros::from_secs(2);

/// What a client with two peer connections is offered.
#[derive(Default)]
pub(super) struct Watching {
    credentials: Option<(Ufrag, IcePassword)>,
    session_id: u64,
    lines: Vec<OfferedLine>,
    /// Of the last offer.
    version: u32,
    unanswered: bool,
    /// There is more to offer than the last one had.
    stale: bool,
    restart: bool,
}

struct OfferedLine {
    mid: Mid,
    kind: MediaKind,
    stream: StreamPair,
    track: Option<TrackId>,
    /// It has had a track before.
    used: bool,
}

/// Something that a member is sent, or may be at once.
#[derive(Clone, Debug)]
struct Watched {
    track: TrackId,
    kind: MediaKind,
    codec: CodecConfig,
    sid: String,
    msid: Msid,
    /// Or it was sent not long ago and may be again: what was negotiated for it is kept.
    flows: bool,
}

impl Director {
    /// What a member is to be sent: everything that others publish and it wants and may watch, as far as the room's floor goes.
    fn watched(&self, room: &str, identity: &str) -> Vec<Watched> {
        let Some(room) = self.rooms.get(room) else { return Vec::new() };
        let Some(member) = room.members.get(identity) else { return Vec::new() };
        let session = member.subscriber.and_then(|slot| self.sessions.get(&slot));
        let told = |track| session.is_some_and(|session| session.told.iter().any(|(_, own)| *own == track));
        let mut watched = Vec::new();
        for other in room.members.values().filter(|other| other.identity != identity) {
            for publication in &other.publications {
                let Some(track) = publication.track.and_then(|id| self.track(id)) else { continue };
                let sid = publication.info.sid.clone();
                if !member.wants(&sid) || !other.may_be_watched(member, &sid) {
                    continue;
                }
                let share = room.share(member, publication, track.id);
                if share == Share::None || (share == Share::Kept && !told(track.id)) {
                    continue;
                }
                // LiveKit's clients find the member in the stream's name, and the track in that of the track.
                let stream = format!("{}|{sid}", other.sid);
                let msid = Msid { stream, track: sid.clone() };
                let flows = share == Share::Flows;
                watched.push(Watched { track: track.id, kind: track.kind, codec: track.codec, sid, msid, flows });
            }
        }
        // What flows goes before what may.
        watched.sort_by_key(|own| !own.flows);
        watched.truncate(MEDIA_PER_PEER);
        watched
    }

    /// Sees to it that all members of a room are sent what they are to be sent now.
    pub(super) fn resubscribe(&mut self, room: &str) {
        self.settle_floors(room);
        self.resubscribe_all(room);
    }

    pub(super) fn resubscribe_all(&mut self, room: &str) {
        let members = self.rooms.get(room).into_iter().flat_map(|room| room.members.values());
        let identities: Vec<String> = members.filter(|member| !member.whip).map(|member| member.identity.clone()).collect();
        identities.iter().for_each(|identity| self.resubscribe_member(room, identity));
    }

    /// The same for one of them: what is no longer wanted ends at once, what was negotiated before begins at once, and what is new takes a
    /// negotiation.
    pub(super) fn resubscribe_member(&mut self, room: &str, identity: &str) {
        let watched = self.watched(room, identity);
        let Some(member) = self.member(room, identity) else { return };
        let (single, slot, unanswered) = (member.single, member.subscriber, member.watching.unanswered);
        let session = slot.and_then(|slot| self.sessions.get(&slot));
        let feeds = session.map(|session| session.feeds.clone()).unwrap_or_default();
        let told = session.map(|session| session.told.clone()).unwrap_or_default();
        let stale = told.iter().any(|(_, track)| watched.iter().all(|own| own.track != *track));
        let flows = |track| watched.iter().any(|own| own.flows && own.track == track);
        let fed = |track| feeds.iter().any(|feed| feed.track == track);
        let known = |track| told.iter().any(|(_, own)| *own == track);
        if let Some(slot) = slot {
            let ended = feeds.iter().filter(|feed| !flows(feed.track));
            ended.for_each(|feed| self.starve(slot, feed.sender));
            // While a client thinks about an offer, what its answer will say counts.
            let begins = told.iter().filter(|(_, track)| !fed(*track) && !unanswered);
            let begins: Vec<(Mid, TrackId)> = begins.copied().collect();
            self.feed_told(room, identity, slot, &begins, &watched);
        }
        let new: Vec<&Watched> = watched.iter().filter(|own| own.flows && !fed(own.track) && !known(own.track)).collect();
        match single {
            true if slot.is_some() => self.ask_for_offer(room, identity, &new, stale),
            // It comes with an offer of its own.
            true => {}
            false => self.offer_watched(room, identity, &watched),
        }
    }

    /// Has a client with one peer connection make an offer with enough m-lines for what is new.
    fn ask_for_offer(&mut self, room: &str, identity: &str, new: &[&Watched], stale: bool) {
        let Some(member) = self.member(room, identity) else { return };
        if member.asked || (new.is_empty() && !stale) {
            return;
        }
        let Some(session) = member.subscriber.and_then(|slot| self.sessions.get(&slot)) else { return };
        let unused = |kind| {
            let used = |line: &MediaConfig| session.told.iter().any(|(mid, _)| *mid == line.mid);
            session.lines.iter().filter(|line| line.kind == kind && !used(line)).count()
        };
        let missing = |kind| (new.iter().filter(|own| own.kind == kind).count()).saturating_sub(unused(kind)) as u32;
        let (num_audios, num_videos) = (missing(MediaKind::Audio), missing(MediaKind::Video));
        if let Some(member) = self.member_mut(room, identity) {
            member.asked = true;
            member.tell(Message::MediaSectionsRequirement(proto::MediaSectionsRequirement { num_audios, num_videos }));
        }
    }

    /// An offer of a client: the first makes a session, further ones change it. The answer goes back, or why there is none.
    pub(super) fn take_offer(&mut self, room: &str, identity: &str, offer: &proto::SessionDescription) {
        let Some(member) = self.member_mut(room, identity) else { return };
        member.asked = false;
        let slot = member.publisher;
        let outcome = match slot {
            Some(slot) => self.renegotiate(room, identity, slot, &offer.sdp),
            None => self.negotiate(room, identity, &offer.sdp),
        };
        let (slot, sdp, assigned) = match outcome {
            Ok(outcome) => outcome,
            Err(error) => {
                tracing::warn!(room, identity, %error, "the offer of a member was refused");
                let reason = proto::DisconnectReason::StateMismatch;
                self.dismiss(room, identity, reason, proto::leave_request::Action::Disconnect);
                return;
            }
        };
        let names = self.watched(room, identity);
        let sid_of = |track: &TrackId| names.iter().find(|own| own.track == *track).map(|own| own.sid.clone());
        let mid_to_track_id = assigned.iter().filter_map(|(mid, track)| Some((mid.to_string(), sid_of(track)?))).collect();
        if let Some(member) = self.member_mut(room, identity) {
            let answer = proto::SessionDescription { r#type: "answer".into(), sdp, id: offer.id, mid_to_track_id };
            member.tell(Message::Answer(answer));
        }
        if let Some(session) = self.sessions.get_mut(&slot) {
            session.used.extend(assigned.iter().map(|(mid, _)| *mid));
        }
        self.tell(slot, &assigned);
        self.feed_told(room, identity, slot, &assigned, &names);
        self.attach(room, identity, slot);
        // What came meanwhile.
        self.resubscribe_member(room, identity);
        self.tell_qualities(room);
    }

    /// A client knows now what is sent on which of its m-lines: what is sent otherwise ends.
    fn tell(&mut self, slot: u32, told: &[(Mid, TrackId)]) {
        let Some(session) = self.sessions.get_mut(&slot) else { return };
        session.told = told.to_vec();
        let mid = |sender: u16| session.lines.get(sender as usize).map(|line| line.mid);
        let known = |sender: u16, track| mid(sender).is_some_and(|mid| told.contains(&(mid, track)));
        let feeds = session.feeds.iter();
        let others: Vec<u16> = feeds.filter(|feed| !known(feed.sender, feed.track)).map(|feed| feed.sender).collect();
        others.into_iter().for_each(|sender| self.starve(slot, sender));
    }

    /// Feeds the m-lines of which a client knows what is sent on them, as far as it flows.
    fn feed_told(&mut self, room: &str, identity: &str, slot: u32, told: &[(Mid, TrackId)], watched: &[Watched]) {
        for (mid, track) in told {
            let line = self.sessions.get(&slot).and_then(|session| session.lines.iter().position(|line| line.mid == *mid));
            let Some(line) = line.filter(|_| watched.iter().any(|own| own.flows && own.track == *track)) else { continue };
            self.feed(slot, line as u16, *track);
            self.apply_wish(room, identity, *track);
            self.tell_undecodable(room, identity, slot, *track);
        }
    }

    #[allow(clippy::type_complexity)]
    fn negotiate(
        &mut self,
        room: &str,
        identity: &str,
        offer: &str,
    ) -> Result<(u32, String, Vec<(Mid, TrackId)>), Box<dyn std::error::Error>> {
        let credentials = self.credentials();
        let (mut agreed, assigned) = self.answer_member(room, identity, offer, credentials, None)?;
        let sdp = std::mem::take(&mut agreed.answer);
        let slot = self.open_member_session(room, identity, credentials, agreed)?;
        if let Some(member) = self.member_mut(room, identity) {
            member.publisher = Some(slot);
            if member.single {
                member.subscriber = Some(slot);
            }
        }
        self.published(slot);
        Ok((slot, sdp, assigned))
    }

    fn open_member_session(
        &mut self,
        room: &str,
        identity: &str,
        credentials: (Ufrag, IcePassword),
        agreed: Agreed,
    ) -> Result<u32, crate::signal::api::Refusal> {
        let member = self.member(room, identity).ok_or(crate::signal::api::Refusal::UnknownSession)?;
        self.open_session(Opening {
            room: room.to_owned(),
            part: Part::Member { identity: identity.to_owned() },
            identity: Some(identity.to_owned()),
            client: member.client,
            user_agent: member.user_agent.clone(),
            credentials,
            agreed,
        })
    }

    #[allow(clippy::type_complexity)]
    fn renegotiate(
        &mut self,
        room: &str,
        identity: &str,
        slot: u32,
        offer: &str,
    ) -> Result<(u32, String, Vec<(Mid, TrackId)>), Box<dyn std::error::Error>> {
        let session = self.sessions.get(&slot).ok_or(crate::signal::api::Refusal::UnknownSession)?;
        let mut credentials = session.credentials.last().copied().ok_or(crate::signal::api::Refusal::UnknownSession)?;
        if let Some(remote) = negotiate::ufrag_of(offer).filter(|remote| *remote != session.remote_ufrag) {
            credentials = self.restart_ice(slot, remote);
        }
        let (mut agreed, assigned) = self.answer_member(room, identity, offer, credentials, Some(slot))?;
        let sdp = std::mem::take(&mut agreed.answer);
        self.regrow(slot, agreed);
        Ok((slot, sdp, assigned))
    }

    /// Answers an offer, and decides what is sent on which of its m-lines: what was there already stays where it is.
    fn answer_member(
        &mut self,
        room: &str,
        identity: &str,
        offer: &str,
        credentials: (Ufrag, IcePassword),
        slot: Option<u32>,
    ) -> Result<(Agreed, Vec<(Mid, TrackId)>), NegotiateError> {
        let single = self.member(room, identity).is_some_and(|member| member.single);
        let watched = if single { self.watched(room, identity) } else { Vec::new() };
        let session = slot.and_then(|slot| self.sessions.get(&slot));
        let told = session.map(|session| session.told.clone()).unwrap_or_default();
        // Another track on an m-line has other SSRCs: under the same ones Chromium decodes it and shows nothing.
        let stays = |mid: &Mid| told.iter().any(|(own, track)| own == mid && watched.iter().any(|own| own.track == *track));
        let keeps = |line: &&MediaConfig| stays(&line.mid) || session.is_some_and(|session| !session.used.contains(&line.mid));
        let lines = session.into_iter().flat_map(|session| &session.lines).filter(keeps);
        let previous: Vec<(Mid, StreamPair)> = lines.filter_map(|line| Some((line.mid, line.local_stream?))).collect();
        let publications = self.member(room, identity).into_iter().flat_map(|member| &member.publications);
        let described: Vec<Described> = publications.flat_map(|own| own.described()).collect();
        let mut assigned: Vec<(Mid, TrackId)> = Vec::new();
        let mut assign = |media: &[MediaConfig], _: &[Option<String>]| {
            let mut sent: Vec<Option<Msid>> = vec![None; media.len()];
            let lines = || media.iter().enumerate().filter(|(_, media)| media.direction == Direction::SendOnly);
            for (index, line) in lines() {
                let stays = told.iter().find(|(mid, _)| *mid == line.mid);
                let own = stays.and_then(|(_, track)| watched.iter().find(|own| own.track == *track));
                if let Some(own) = own {
                    sent[index] = Some(own.msid.clone());
                    assigned.push((line.mid, own.track));
                }
            }
            for own in &watched {
                if assigned.iter().any(|(_, track)| *track == own.track) {
                    continue;
                }
                // An m-line that sent something else rests once: clients see a new track where there was none.
                let rests = |line: &MediaConfig| told.iter().any(|(mid, _)| *mid == line.mid);
                let free = |(index, line): &(usize, &MediaConfig)| sent[*index].is_none() && line.kind == own.kind && !rests(line);
                // If none can decode it, it may come in another codec.
                if let Some((index, line)) = lines().filter(free).min_by_key(|(_, line)| !decodable(line, &own.codec)) {
                    sent[index] = Some(own.msid.clone());
                    assigned.push((line.mid, own.track));
                }
            }
            sent
        };
        let agreed = self.with_local(credentials, |local, ssrc, codecs| {
            let standing = Standing { previous: &previous, described: &described, assign: &mut assign };
            negotiate::answer_further(offer, Ways::Each, local, ssrc, codecs, standing)
        })?;
        Ok((agreed, assigned))
    }

    /// Follows a further agreement: tracks that are no longer sent end, new ones begin, and there are senders for new m-lines.
    fn regrow(&mut self, slot: u32, mut agreed: Agreed) {
        let Some(session) = self.sessions.get(&slot) else { return };
        let (id, room) = (session.id, session.room.clone());
        let mut before: Vec<((Mid, Option<String>), TrackId)> =
            session.sources.iter().cloned().zip(session.tracks.iter().copied()).collect();
        let mut lines = session.lines.clone();
        let count = lines.len();
        let (mut tracks, mut sources, mut received, mut replaced) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for (media, source) in agreed.media.iter().zip(&agreed.sources) {
            match media.direction {
                Direction::SendOnly => match lines.iter().position(|line| line.mid == media.mid) {
                    Some(index) => {
                        if lines[index].local_stream != media.local_stream {
                            replaced.push(index as u16);
                        }
                        lines[index] = media.clone();
                    }
                    None => lines.push(media.clone()),
                },
                _ => {
                    let same = |((mid, name), track): &((Mid, Option<String>), TrackId)| {
                        let codec = self.track(*track).map(|track| track.codec);
                        *mid == media.mid && name == source && codec.as_ref() == media.codecs.first()
                    };
                    let kept = before.iter().position(same).map(|index| before.swap_remove(index).1);
                    let Some(track) = kept.or_else(|| self.open_track(id, media)) else { continue };
                    tracks.push(track);
                    sources.push((media.mid, source.clone()));
                    received.push(media.clone());
                }
            }
        }
        let seed = &mut self.random;
        let sent = agreed.media.iter().filter(|media| media.direction == Direction::SendOnly);
        let media: Vec<MediaConfig> = received.iter().chain(sent).cloned().collect();
        let growth = Box::new(Growth::new(&media, &tracks, &lines, count, &replaced, seed));
        let changed = self.sessions.get(&slot).is_some_and(|session| session.tracks != tracks);
        let data = agreed.data;
        if let Some(session) = self.sessions.get_mut(&slot) {
            agreed.take_sent();
            (session.tracks, session.sources, session.lines, session.agreed) = (tracks, sources, lines, agreed);
        }
        if let Some(data) = data {
            self.order(id, Order::AgreeData { peer: id, data });
        }
        replaced.iter().for_each(|sender| self.starve(slot, *sender));
        self.deliver(slot, growth);
        for (_, track) in before {
            if let Some(room) = self.rooms.get_mut(&room) {
                room.speakers.forget(track);
            }
            self.close_track(track);
        }
        if changed {
            self.published(slot);
        }
    }

    fn deliver(&mut self, slot: u32, mut growth: Box<Growth>) {
        let Some(session) = self.sessions.get_mut(&slot) else { return };
        let peer = session.id;
        if let Some(office) = session.worker.and_then(|worker| self.workers.get_mut(worker.0 as usize)) {
            return office.send(Command::Grow { peer, growth });
        }
        match self.handoff.take(slot) {
            Some(mut unclaimed) => {
                unclaimed.grow(&mut growth);
                self.handoff.put(slot, unclaimed);
            }
            // A worker has it, and will say so.
            None => session.growth.push(growth),
        }
    }

    /// Offers a client with two peer connections what it is to be sent, unless it still thinks about the last offer.
    fn offer_watched(&mut self, room: &str, identity: &str, watched: &[Watched]) {
        let Some(member) = self.member(room, identity) else { return };
        if member.watching.unanswered {
            if let Some(member) = self.member_mut(room, identity) {
                member.watching.stale = true;
            }
            return;
        }
        let first = member.watching.version == 0;
        let mut watching = match self.member_mut(room, identity) {
            Some(member) => std::mem::take(&mut member.watching),
            None => return,
        };
        let changed = self.assign_lines(&mut watching, watched);
        let restart = std::mem::take(&mut watching.restart);
        if changed || first || restart {
            if watching.credentials.is_none() {
                (watching.credentials, watching.session_id) = (Some(self.credentials()), (self.random)() >> 2);
            }
            watching.version += 1;
            watching.unanswered = true;
            let message = self.offer_of(&watching, watched);
            if let Some(member) = self.member_mut(room, identity) {
                member.tell(Message::Offer(message));
            }
        }
        watching.stale = false;
        if let Some(member) = self.member_mut(room, identity) {
            member.watching = watching;
        }
    }

    /// Gives each of what is watched an m-line; whether any changed.
    fn assign_lines(&mut self, watching: &mut Watching, watched: &[Watched]) -> bool {
        let mut changed = false;
        // An m-line that sends something rests once before it sends something else: clients see a new track where there was none.
        let resting: Vec<bool> = watching.lines.iter().map(|line| line.track.is_some()).collect();
        for line in &mut watching.lines {
            if line.track.is_some_and(|track| watched.iter().all(|own| own.track != track)) {
                line.track = None;
                changed = true;
            }
        }
        for own in watched {
            if watching.lines.iter().any(|line| line.track == Some(own.track)) {
                continue;
            }
            changed = true;
            let rests = |index: usize| resting.get(index).copied().unwrap_or(false);
            let mut lines = watching.lines.iter_mut().enumerate();
            let free = lines.find(|(index, line)| line.track.is_none() && line.kind == own.kind && !rests(*index));
            let mut ssrc = || Ssrc(((self.random)() as u32).max(1));
            let rtx = (own.kind == MediaKind::Video).then(&mut ssrc);
            let stream = StreamPair { media: ssrc(), rtx };
            match free {
                Some((_, line)) => {
                    line.track = Some(own.track);
                    // As in `answer_member`.
                    line.stream = if line.used { stream } else { line.stream };
                    line.used = true;
                }
                None => {
                    let mid = ArrayString::from(&format!("{}", watching.lines.len() + 1)).unwrap_or_default();
                    watching.lines.push(OfferedLine { mid, kind: own.kind, stream, track: Some(own.track), used: true });
                }
            }
        }
        changed
    }

    fn offer_of(&mut self, watching: &Watching, watched: &[Watched]) -> proto::SessionDescription {
        let own_of = |track: TrackId| watched.iter().find(|own| own.track == track);
        let line = |line: &OfferedLine| OwnLine {
            mid: line.mid,
            kind: line.kind,
            stream: line.stream,
            sent: line.track.and_then(own_of).map(|own| own.msid.clone()),
        };
        let lines: Vec<OwnLine> = watching.lines.iter().map(line).collect();
        let names = watching.lines.iter().filter_map(|line| Some((line.mid.to_string(), own_of(line.track?)?.sid.clone())));
        let mid_to_track_id = names.collect();
        let credentials = watching.credentials.unwrap_or_default();
        let (session_id, version) = (watching.session_id, u64::from(watching.version));
        let sdp = self.with_local(credentials, |local, _, codecs| {
            let local = negotiate::LocalTransport { session_id, ..*local };
            negotiate::offer_to_watch(&lines, "0", &local, version, codecs)
        });
        proto::SessionDescription { r#type: "offer".into(), sdp, id: watching.version, mid_to_track_id }
    }

    /// The answer to the server's offer.
    pub(super) fn take_answer(&mut self, room: &str, identity: &str, answer: &proto::SessionDescription) {
        let Some(member) = self.member_mut(room, identity) else { return };
        let watching = &mut member.watching;
        if !watching.unanswered || (answer.id != 0 && answer.id != watching.version) {
            return;
        }
        watching.unanswered = false;
        let (credentials, slot) = (watching.credentials.unwrap_or_default(), member.subscriber);
        let told: Vec<(Mid, TrackId)> = watching.lines.iter().filter_map(|line| Some((line.mid, line.track?))).collect();
        let previous: Vec<(Mid, StreamPair)> = watching.lines.iter().map(|line| (line.mid, line.stream)).collect();
        let agreed = match negotiate::read_answer(&answer.sdp, &self.settings.codecs, &previous) {
            Ok(agreed) => agreed,
            Err(error) => {
                tracing::warn!(room, identity, %error, "the answer of a member was refused");
                let reason = proto::DisconnectReason::StateMismatch;
                return self.dismiss(room, identity, reason, proto::leave_request::Action::Disconnect);
            }
        };
        let slot = match slot {
            Some(slot) => {
                self.regrow(slot, agreed);
                slot
            }
            None => {
                let Ok(slot) = self.open_member_session(room, identity, credentials, agreed) else {
                    let reason = proto::DisconnectReason::JoinFailure;
                    return self.dismiss(room, identity, reason, proto::leave_request::Action::Disconnect);
                };
                if let Some(member) = self.member_mut(room, identity) {
                    member.subscriber = Some(slot);
                }
                self.open_channels(slot);
                slot
            }
        };
        self.tell(slot, &told);
        let watched = self.watched(room, identity);
        self.feed_told(room, identity, slot, &told, &watched);
        self.tell_qualities(room);
        if self.member(room, identity).is_some_and(|member| member.watching.stale || member.watching.restart) {
            self.resubscribe_member(room, identity);
        }
    }

    /// Has the peer connection on which a client is sent find a new way: its ICE is restarted by the next offer.
    pub(super) fn restart_watching(&mut self, room: &str, identity: &str) {
        let Some(member) = self.member(room, identity).filter(|member| !member.single) else { return };
        let Some(slot) = member.subscriber else {
            // It never answered: the offer is made again.
            if let Some(member) = self.member_mut(room, identity) {
                (member.watching.unanswered, member.watching.restart) = (false, member.watching.version > 0);
            }
            return self.resubscribe_member(room, identity);
        };
        let remote = self.sessions.get(&slot).map(|session| session.remote_ufrag.clone()).unwrap_or_default();
        let credentials = self.restart_ice(slot, remote);
        if let Some(member) = self.member_mut(room, identity) {
            let watching = &mut member.watching;
            (watching.credentials, watching.restart, watching.unanswered) = (Some(credentials), true, false);
        }
        self.resubscribe_member(room, identity);
    }

    /// A peer connection of a member has ended by itself.
    pub(super) fn transport_ended(&mut self, room: &str, identity: &str, slot: u32) {
        let (now, closed) = (self.now, self.sessions.get(&slot).is_some_and(|session| session.closed));
        let Some(member) = self.member_mut(room, identity) else { return };
        if member.publisher == Some(slot) || member.subscriber == Some(slot) {
            // What is left of it is of no use: it comes back whole, or not at all.
            member.publisher = member.publisher.filter(|own| *own != slot);
            member.subscriber = member.subscriber.filter(|own| *own != slot);
            if closed {
                // It leaves, and is about to say so; or it comes anew.
                member.away = Some(Micros(now.0.saturating_sub(AWAY_MAX.0 - FAREWELL.0)));
                return;
            }
            let reason = proto::DisconnectReason::ConnectionTimeout;
            self.dismiss(room, identity, reason, proto::leave_request::Action::Reconnect);
        }
    }
}
