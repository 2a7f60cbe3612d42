//! Codecs of what members publish: which one a track is to be sent in, and what is sent beside it for those who cannot decode that.
//!
//! A client announces both with the track (LiveKit's clients call the second a backup codec). It begins to send the second only when it is
//! told that somebody needs it, announces that under the id of the track, and sends it as a track of its own, which nobody but the
//! server sees as one.

use livekit_protocol as proto;
use proto::request_response::{Reason, Request};
use proto::signal_response::Message;

use super::feeds::{Feed, decodable};
use super::members::{Publication, mime_of};
use super::{Director, Part, Session};
use crate::config::ALL_CODECS;
use crate::rtp::config::{Codec, MediaConfig, MediaKind};
use crate::signal::api::MemberKey;
use crate::signal::negotiate::{CodecPolicy, Described};
use crate::units::TrackId;

/// What a publisher sends of a track for those who cannot decode the first codec.
pub(super) struct Backup {
    pub codec: Codec,
    /// The client's name of it, once it is about to be sent.
    pub cid: Option<String>,
    /// Once it is agreed on.
    pub track: Option<TrackId>,
}

/// A codec by LiveKit's name of it, with its kind or without.
fn codec_named(name: &str, kind: MediaKind) -> Option<Codec> {
    let name = name.rsplit('/').next().unwrap_or(name);
    ALL_CODECS.into_iter().find(|codec| codec.kind() == kind && codec.name().eq_ignore_ascii_case(name))
}

fn kind_of(request: &proto::AddTrackRequest) -> MediaKind {
    if request.r#type == proto::TrackType::Audio as i32 { MediaKind::Audio } else { MediaKind::Video }
}

/// The codecs of an announced track, the first first, as far as the server forwards them. A client that wants to send what is not
/// forwarded is told of another one to send instead.
pub(super) fn announced(request: &proto::AddTrackRequest, policy: &CodecPolicy) -> Vec<(Codec, proto::SimulcastCodec)> {
    let kind = kind_of(request);
    let forwarded = |codec: &Codec| policy.allows(*codec);
    let mut codecs: Vec<(Codec, proto::SimulcastCodec)> = Vec::new();
    for (index, asked) in request.simulcast_codecs.iter().take(2).enumerate() {
        let known = codec_named(&asked.codec, kind).filter(forwarded);
        let other = || ALL_CODECS.into_iter().filter(|codec| codec.kind() == kind).find(forwarded).filter(|_| index == 0);
        if let Some(codec) = known.or_else(other)
            && codecs.iter().all(|(first, _)| *first != codec)
        {
            codecs.push((codec, asked.clone()));
        }
    }
    codecs
}

impl Publication {
    /// What the client said of what it sends of it, for negotiations.
    pub fn described(&self) -> impl Iterator<Item = Described> {
        let plain = self.is_plain();
        let own = self.cids.iter().map(move |name| Described { name: name.clone(), plain, codec: self.codec });
        let backup = self.backup.iter().filter_map(move |backup| {
            let name = backup.cid.clone()?;
            Some(Described { name, plain, codec: Some(backup.codec) })
        });
        own.chain(backup)
    }

    /// Its backup, if that is agreed on.
    pub fn backup_track(&self) -> Option<TrackId> {
        self.backup.as_ref().and_then(|backup| backup.track)
    }

    /// Everybody is to be sent the backup as soon as there is one.
    fn regresses(&self) -> bool {
        self.info.backup_codec_policy == proto::BackupCodecPolicy::Regression as i32
    }
}

impl Director {
    /// A client is about to send the second codec of a track.
    pub(super) fn add_backup(&mut self, key: &MemberKey, request: proto::AddTrackRequest) {
        let Some(member) = self.speaker_for(key) else { return };
        // The request need not say of which kind it is: the track does.
        let named = request.simulcast_codecs.first().map_or("", |asked| &asked.codec);
        let publication = member.publications.iter_mut().find(|publication| publication.info.sid == request.sid);
        let backup = publication.and_then(|publication| {
            let backup = publication.backup.as_mut().filter(|own| Some(own.codec) == codec_named(named, own.codec.kind()))?;
            Some((&mut publication.info, backup))
        });
        let Some((info, backup)) = backup else {
            let text = "The track was not announced with that codec as its second one.";
            return self.refuse(key, 0, Reason::NotAllowed, text, Some(Request::AddTrack(request)));
        };
        backup.cid = Some(request.cid.clone()).filter(|cid| !cid.is_empty());
        if let Some(codec) = info.codecs.get_mut(1) {
            codec.cid = request.cid.clone();
            codec.layers = request.simulcast_codecs.into_iter().next().map_or(request.layers, |asked| asked.layers);
        }
        let (cid, track) = (request.cid, Some(info.clone()));
        member.tell(Message::TrackPublished(proto::TrackPublishedResponse { cid, track }));
        if let Some(slot) = member.publisher {
            self.attach(&key.room, &key.identity, slot);
        }
    }

    /// Joins each track of a member to what is sent beside it. Whether anything has changed.
    pub(super) fn back_up_all(&mut self, room: &str, identity: &str) -> bool {
        let Some(member) = self.member(room, identity) else { return false };
        let publications = member.publications.iter();
        let pairs: Vec<(TrackId, Option<TrackId>, bool)> =
            publications.filter_map(|own| Some((own.track?, own.backup_track(), own.regresses()))).collect();
        let has = |track| self.track(track).and_then(|track| track.backup).map(|(backup, _)| backup);
        let changed: Vec<_> = pairs.into_iter().filter(|(track, backup, _)| has(*track) != *backup).collect();
        for (track, backup, always) in changed.iter().copied() {
            self.back_up(track, backup, always);
            let watching: Vec<String> = self.watching(track);
            watching.iter().for_each(|identity| self.apply_wish(room, identity, track));
            self.tell_qualities(room);
        }
        !changed.is_empty()
    }

    /// The members that are sent a track, or wait for it.
    fn watching(&self, track: TrackId) -> Vec<String> {
        let sessions = self.fed_from(track).into_iter().filter_map(|slot| self.sessions.get(&slot));
        let identity = |session: &Session| match &session.part {
            Part::Member { identity } => Some(identity.clone()),
            _ => None,
        };
        sessions.filter_map(identity).collect()
    }

    /// Of a publication's codecs, by which of them a feed of it is sent or would be; none: by neither.
    pub(super) fn codec_for(&self, slot: u32, feed: &Feed, publication: &Publication) -> Option<usize> {
        let track = self.track(feed.track)?;
        let line = self.sessions.get(&slot)?.lines.get(feed.sender as usize)?;
        let backup = publication.backup.as_ref();
        let takes_backup = backup.is_some_and(|backup| line.codecs.iter().any(|codec| codec.codec == backup.codec));
        let regressed = publication.backup_track().is_some() && publication.regresses();
        match decodable(line, &track.codec) {
            true if regressed && takes_backup => Some(1),
            true => Some(0),
            false => takes_backup.then_some(1),
        }
    }

    /// Tells a member that it will see nothing of a track that it was given, if that is so.
    pub(super) fn tell_undecodable(&mut self, room: &str, identity: &str, slot: u32, track: TrackId) {
        let feed = self.sessions.get(&slot).and_then(|session| session.feeds.iter().find(|feed| feed.track == track));
        let Some(publication) = self.publication_from(room, track) else { return };
        if feed.is_none_or(|feed| self.codec_for(slot, feed, publication).is_some()) {
            return;
        }
        let track_sid = publication.info.sid.clone();
        let err = proto::SubscriptionError::SeCodecUnsupported as i32;
        if let Some(member) = self.member_mut(room, identity) {
            member.tell(Message::SubscriptionResponse(proto::SubscriptionResponse { track_sid, err }));
        }
    }
}

/// Of which publication an m-line is the backup that its client was about to send, if it is one.
pub(super) fn backup_of<'a>(
    publications: &'a mut [Publication],
    name: Option<&str>,
    media: &MediaConfig,
) -> Option<&'a mut Backup> {
    let codec = media.codecs.first().map(|codec| codec.codec);
    let waits = |backup: &Backup| backup.track.is_none() && backup.cid.is_some() && Some(backup.codec) == codec;
    let named =
        |own: &Publication| own.backup.as_ref().is_some_and(|own| waits(own) && name.is_some() && own.cid.as_deref() == name);
    // Some clients' SDP has names of its own: then it is the first that waits, if no other track does.
    let known = |own: &Publication| name.is_some_and(|name| own.cids.iter().any(|cid| cid == name));
    let nothing_waits = publications.iter().all(|own| own.track.is_some()) && !publications.iter().any(known);
    let unnamed = |own: &Publication| nothing_waits && own.backup.as_ref().is_some_and(waits);
    let index = publications.iter().position(named).or_else(|| publications.iter().position(unnamed))?;
    publications.get_mut(index)?.backup.as_mut()
}

/// As LiveKit's messages name codecs.
pub(super) fn described(codec: Codec, asked: &proto::SimulcastCodec) -> proto::SimulcastCodecInfo {
    proto::SimulcastCodecInfo {
        mime_type: mime_of(codec).to_owned(),
        cid: asked.cid.clone(),
        layers: asked.layers.clone(),
        video_layer_mode: asked.video_layer_mode,
        ..Default::default()
    }
}
