//! What the API and the metrics show of the director's state.

use std::sync::atomic::Ordering;

use super::rooms::Room;
use super::{Director, Part, Session, State};
use crate::rtp::config::{Direction, MediaConfig, MediaKind};
use crate::signal::api::{RoomView, SessionView, TrackView};
use crate::units::{Micros, TrackId};
use crate::worker::mail::PeerStats;

impl Session {
    /// Statistics of the last second.
    pub(super) fn take_stats(&mut self, stats: PeerStats, now: Micros) {
        let elapsed = now.since(self.stats_at).max(1) as u128;
        let rate = |new: u64, old: u64| (new.saturating_sub(old) as u128 * 8_000_000 / elapsed) as u64;
        self.bitrate_in = rate(stats.inbound.octets, self.stats.inbound.octets);
        self.bitrate_out = rate(stats.outbound.octets, self.stats.outbound.octets);
        let lost = stats.inbound.lost.saturating_sub(self.stats.inbound.lost);
        let came = stats.inbound.packets.saturating_sub(self.stats.inbound.packets);
        self.loss_in = lost as f64 / (lost + came).max(1) as f64;
        (self.stats, self.stats_at, self.address) = (stats, now, stats.address.or(self.address));
    }
}

impl Session {
    /// Its m-lines.
    pub(super) fn media(&self) -> impl Iterator<Item = &MediaConfig> {
        self.agreed.media.iter().chain(&self.lines)
    }

    /// The track of sound that it publishes.
    pub(super) fn sound(&self) -> Option<TrackId> {
        let received = self.agreed.media.iter();
        received.zip(&self.tracks).find(|(media, _)| media.kind == MediaKind::Audio).map(|(_, track)| *track)
    }
}

impl Director {
    pub(super) fn room_views(&self, now: Micros) -> Vec<RoomView> {
        let mut views: Vec<RoomView> = self
            .rooms
            .iter()
            .map(|(name, room)| RoomView {
                room: name.clone(),
                publishers: room.publishers().count(),
                viewers: room.viewers.len(),
                recording: self.records(room),
                speaker: room.speakers.dominant().and_then(|track| self.speaker(room, track)),
                sessions: (room.all_sessions().iter())
                    .filter_map(|slot| self.sessions.get(slot))
                    .map(|session| self.session_view(session, now))
                    .collect(),
            })
            .collect();
        views.sort_by(|a, b| a.room.cmp(&b.room));
        views
    }

    /// Id of the session that publishes a track.
    pub(super) fn speaker(&self, room: &Room, track: TrackId) -> Option<String> {
        let mut publishers = room.publishers().filter_map(|slot| self.sessions.get(&slot));
        Some(publishers.find(|session| session.tracks.contains(&track))?.name.clone())
    }

    pub(super) fn session_view(&self, session: &Session, now: Micros) -> SessionView {
        let (inbound, outbound) = (&session.stats.inbound, &session.stats.outbound);
        let (layer_wanted, layer_sent) = self.layer_views(session);
        let path = session.stats.path;
        let told = path.map_or(Micros::ZERO, |path| path.round_trip);
        let reported = outbound.round_trip.max(inbound.round_trip);
        let round_trip = if reported > Micros::ZERO { reported } else { told };
        let speakers = self.rooms.get(&session.room).map(|room| &room.speakers);
        let sound = session.sound().zip(speakers).map(|(track, speakers)| speakers.activity(track, now));
        SessionView {
            id: session.name.clone(),
            purpose: session.part.name(),
            identity: session.identity.clone(),
            state: match session.state {
                State::New => "new",
                State::Connecting => "connecting",
                State::Connected => "connected",
                State::Ending => "closing",
            },
            worker: session.worker.map(|worker| worker.0),
            remote_address: session.address,
            client: Some(session.client),
            user_agent: session.user_agent.clone(),
            srtp_profile: session.profile.map(|profile| profile.name()),
            since_seconds: now.since(session.since) / 1_000_000,
            rtt_ms: (round_trip > Micros::ZERO).then_some(round_trip.0 as f64 / 1_000.0),
            target_bitrate: path.and_then(|path| path.target).map(|target| target.0),
            acknowledged_bitrate: path.and_then(|path| path.acknowledged).map(|rate| rate.0),
            loss: path.map(|path| path.loss),
            waiting_bytes: path.map(|path| path.waiting_bytes),
            freezes: session.seen.map(|seen| seen.freeze_count),
            frozen_seconds: session.seen.map(|seen| seen.total_freezes_duration),
            bitrate_in: session.bitrate_in,
            bitrate_out: session.bitrate_out,
            packets_in: inbound.packets,
            packets_out: outbound.packets,
            packets_lost: inbound.lost + outbound.lost as u64,
            packets_retransmitted: outbound.retransmitted,
            nacks: inbound.nacks + outbound.nacks,
            plis: inbound.key_frame_requests + outbound.key_frame_requests,
            layer_wanted,
            layer_sent,
            layers: self.quality_views(session),
            unwatched: self.unwatched(session, now),
            speaking: sound.map(|sound| sound.speaking),
            audio_level: sound.map(|sound| -(sound.level.below_full as i8)),
            tracks: self.track_views(session),
        }
    }

    fn track_views(&self, session: &Session) -> Vec<TrackView> {
        (session.media())
            .map(|media| {
                let sends = media.direction == Direction::SendOnly;
                let codec =
                    if sends { self.watched_codec(session, media) } else { media.codecs.first().map(|codec| codec.codec.name()) };
                let own = session.sources.iter().position(|(mid, _)| *mid == media.mid).filter(|_| !sends);
                let track = own.and_then(|index| session.tracks.get(index)).copied();
                TrackView {
                    mid: media.mid.to_string(),
                    sid: track.and_then(|track| self.sid_of(&session.room, track)),
                    kind: kind_name(media.kind),
                    codec,
                    direction: if sends { "out" } else { "in" },
                    paused: sends && self.is_paused(session, media),
                }
            })
            .collect()
    }

    fn is_paused(&self, session: &Session, media: &MediaConfig) -> bool {
        let sender = session.lines.iter().position(|line| line.mid == media.mid);
        sender.is_some_and(|sender| session.stats.paused.checked_shr(sender as u32).unwrap_or(0) & 1 != 0)
    }

    /// The codec that is sent on an m-line, which is the publisher's.
    fn watched_codec(&self, session: &Session, media: &MediaConfig) -> Option<&'static str> {
        let sender = session.lines.iter().position(|line| line.mid == media.mid)?;
        let feed = session.feeds.iter().find(|feed| feed.sender as usize == sender)?;
        Some(self.track(feed.sent)?.codec.codec.name())
    }

    pub(super) fn publish_gauges(&self) {
        let live = || self.sessions.values().filter(|session| session.state != State::Ending);
        let publishes = |session: &&Session| session.part == Part::Publisher || !session.tracks.is_empty();
        let watches = |session: &&Session| session.part == Part::Viewer || !session.feeds.is_empty();
        let store = |gauge: &std::sync::atomic::AtomicU64, value: usize| gauge.store(value as u64, Ordering::Relaxed);
        store(&self.gauges.rooms, self.rooms.len());
        store(&self.gauges.publishers, live().filter(publishes).count());
        store(&self.gauges.viewers, live().filter(watches).count());
        store(&self.gauges.connected, self.sessions.values().filter(|session| session.state == State::Connected).count());
        self.gauges.ready.store(!self.draining && self.overload().is_none(), Ordering::Relaxed);
    }
}

pub(super) fn kind_name(kind: MediaKind) -> &'static str {
    match kind {
        MediaKind::Audio => "audio",
        MediaKind::Video => "video",
    }
}
