//! What a client says when it opens its WebSocket: in the query of `/rtc`, or, with newer clients, in a message that the query of
//! `/rtc/v1` carries in base64, perhaps compressed.

use std::collections::HashMap;
use std::io::Read;

use livekit_protocol as proto;
use prost::Message;
use serde::Deserialize;

use crate::limits::SIGNAL_BYTES_MAX;
use crate::signal::auth::{Claims, VideoGrants, base64url};

/// The query of either URL.
#[derive(Debug, Default, Deserialize)]
pub struct Query {
    pub access_token: Option<String>,
    join_request: Option<String>,
    auto_subscribe: Option<String>,
    reconnect: Option<String>,
    sid: Option<String>,
    sdk: Option<String>,
    version: Option<String>,
    attributes: Option<String>,
}

/// What comes of it.
#[derive(Debug, Default, PartialEq)]
pub struct Wish {
    pub auto_subscribe: bool,
    pub resume: Option<String>,
    pub metadata: String,
    pub attributes: HashMap<String, String>,
    pub tracks: Vec<proto::AddTrackRequest>,
    pub offer: Option<proto::SessionDescription>,
    /// It cannot take the answer yet.
    pub offers_before_it_may: bool,
    /// The SDK and its version, for logs.
    pub client: String,
}

impl Query {
    /// Whether it is of a client with one peer connection: some ask for that at `/rtc` too.
    pub fn is_joining(&self) -> bool {
        self.join_request.as_deref().is_some_and(|request| !request.is_empty())
    }

    /// Of `/rtc`.
    pub fn wish(&self) -> Wish {
        let told = |value: &Option<String>| value.as_deref().is_some_and(|value| value == "1" || value == "true");
        let resume = self.sid.clone().filter(|_| told(&self.reconnect));
        let client = format!("{} {}", self.sdk.as_deref().unwrap_or("?"), self.version.as_deref().unwrap_or("?"));
        // Not said: everything (LiveKit's default).
        let auto_subscribe = self.auto_subscribe.is_none() || told(&self.auto_subscribe);
        // What cannot be read is as if it was not said, as with LiveKit's server.
        let text = self.attributes.as_deref().map(|text| text.trim_end_matches('=').chars().map(plain).collect::<String>());
        let attributes = text.and_then(|text| serde_json::from_slice(&base64url(&text)?).ok()).unwrap_or_default();
        Wish { auto_subscribe, resume, attributes, client: client.chars().take(120).collect(), ..Wish::default() }
    }

    /// Of `/rtc/v1`, or what is wrong with it.
    pub fn wish_v1(&self) -> Result<Wish, String> {
        let text = self.join_request.as_deref().ok_or("The query has no join_request.")?;
        let text: String = text.trim_end_matches('=').chars().map(plain).collect();
        let bytes = base64url(&text).ok_or("join_request is not base64.")?;
        let wrapped = proto::WrappedJoinRequest::decode(&*bytes).map_err(|error| format!("join_request: {error}."))?;
        let bytes = match wrapped.compression() {
            proto::wrapped_join_request::Compression::None => wrapped.join_request,
            proto::wrapped_join_request::Compression::Gzip => {
                let mut bytes = Vec::new();
                let limit = SIGNAL_BYTES_MAX as u64;
                let mut reader = flate2::read::GzDecoder::new(&*wrapped.join_request).take(limit);
                reader.read_to_end(&mut bytes).map_err(|error| format!("join_request is not gzip: {error}."))?;
                if bytes.len() as u64 == limit {
                    return Err(format!("join_request is longer than {limit} bytes."));
                }
                bytes
            }
        };
        let request = proto::JoinRequest::decode(&*bytes).map_err(|error| format!("join_request: {error}."))?;
        let settings = request.connection_settings.unwrap_or_default();
        let client = request.client_info.unwrap_or_default();
        let sdk = proto::client_info::Sdk::try_from(client.sdk).unwrap_or_default();
        let client = format!("{} {} {}", sdk.as_str_name(), client.version, client.browser);
        let offer = request.publisher_offer.filter(|offer| !offer.sdp.is_empty());
        Ok(Wish {
            offers_before_it_may: offer.is_some() && sdk == proto::client_info::Sdk::Go,
            auto_subscribe: settings.auto_subscribe,
            resume: (request.reconnect && !request.participant_sid.is_empty()).then_some(request.participant_sid),
            metadata: request.metadata,
            attributes: request.participant_attributes,
            tracks: request.add_track_requests,
            offer,
            client: client.chars().take(120).collect(),
        })
    }
}

/// Clients use both alphabets of RFC 4648.
fn plain(letter: char) -> char {
    match letter {
        '+' => '-',
        '/' => '_',
        other => other,
    }
}

/// Tokens' names of what is published.
const SOURCES: [(&str, proto::TrackSource); 4] = [
    ("camera", proto::TrackSource::Camera),
    ("microphone", proto::TrackSource::Microphone),
    ("screen_share", proto::TrackSource::ScreenShare),
    ("screen_share_audio", proto::TrackSource::ScreenShareAudio),
];

/// What a token says of a member that may this: the other way round.
#[allow(deprecated)]
pub fn grants(room: &str, permission: &proto::ParticipantPermission) -> VideoGrants {
    let name = |number: &i32| SOURCES.iter().find(|(_, source)| *source as i32 == *number).map(|(name, _)| (*name).to_owned());
    VideoGrants {
        room: Some(room.to_owned()),
        room_join: true,
        can_publish: Some(permission.can_publish),
        can_subscribe: Some(permission.can_subscribe),
        can_publish_data: Some(permission.can_publish_data),
        can_publish_sources: permission.can_publish_sources.iter().filter_map(name).collect(),
        can_update_own_metadata: Some(permission.can_update_metadata),
        hidden: permission.hidden,
        recorder: permission.recorder,
        ..VideoGrants::default()
    }
}

/// What a token allows a member.
#[allow(deprecated)] // where clients look for who records
pub fn permission(claims: &Claims) -> proto::ParticipantPermission {
    let video = &claims.video;
    let source = |name: &String| SOURCES.iter().find(|(known, _)| known == name).map(|(_, source)| *source as i32);
    proto::ParticipantPermission {
        can_subscribe: video.can_subscribe.unwrap_or(true),
        can_publish: video.can_publish.unwrap_or(true),
        can_publish_data: video.can_publish_data.unwrap_or(video.can_publish.unwrap_or(true)),
        can_publish_sources: video.can_publish_sources.iter().filter_map(source).collect(),
        hidden: video.hidden,
        recorder: video.recorder,
        can_update_metadata: video.can_update_own_metadata.unwrap_or(false),
        ..Default::default()
    }
}

/// LiveKit's number for the kind of participant that a token names.
pub fn kind(claims: &Claims) -> i32 {
    use proto::participant_info::Kind;
    let named = claims.kind.as_deref().and_then(|name| KINDS.iter().find(|(known, _)| *known == name));
    let unnamed = if claims.video.agent { Kind::Agent } else { Kind::Standard };
    named.map_or(unnamed, |(_, kind)| *kind) as i32
}

/// And the other way round; none for what is nothing special.
pub fn kind_name(number: i32) -> Option<String> {
    KINDS.iter().find(|(_, kind)| *kind as i32 == number).map(|(name, _)| (*name).to_owned())
}

/// Tokens' names of kinds of participants.
const KINDS: [(&str, proto::participant_info::Kind); 4] = [
    ("ingress", proto::participant_info::Kind::Ingress),
    ("egress", proto::participant_info::Kind::Egress),
    ("sip", proto::participant_info::Kind::Sip),
    ("agent", proto::participant_info::Kind::Agent),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_token_allows_can_be_said_in_another() {
        let video = VideoGrants {
            room: Some("a".into()),
            room_join: true,
            room_admin: true,
            can_subscribe: Some(false),
            can_publish_sources: vec!["camera".into(), "screen_share_audio".into()],
            hidden: true,
            recorder: true,
            ..VideoGrants::default()
        };
        let claims = Claims { video, kind: Some("agent".into()), ..Claims::default() };
        let again = Claims { video: grants("a", &permission(&claims)), kind: kind_name(kind(&claims)), ..Claims::default() };
        assert_eq!(permission(&again), permission(&claims));
        assert_eq!(kind(&again), kind(&claims));
        assert!(again.video.room_join && again.video.room.as_deref() == Some("a") && !again.video.room_admin);
    }
}
