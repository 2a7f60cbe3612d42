//! Tokens for members who are there, so that their clients can come back after the token has run out with which they came. They say what
//! the member may now, and nothing of what the first one allowed outside the room.

use proto::signal_response::Message;

use livekit_protocol as proto;

use super::Director;
use super::members::Member;
use crate::signal::auth::{self, Claims};
use crate::signal::livekit::join::{grants, kind_name};
use crate::units::Micros;

/// As LiveKit's server: how often, and for how long each is good.
const INTERVAL: Micros = Micros::from_secs(300);
const VALID_SECS: u64 = 600;

impl Director {
    /// Gives new tokens to those whose time has come: at once after they came, and then every few minutes. Where the API key is gone with which
    /// somebody came, there is none.
    pub(super) fn renew_tokens(&mut self) {
        let now = self.now;
        let unix_secs = (self.settings.epoch as u64 + now.0 / 1_000) / 1_000;
        for (name, room) in &mut self.rooms {
            for member in room.members.values_mut().filter(|member| now >= member.renewal && member.outbox.is_some()) {
                member.renewal = now + INTERVAL;
                let secret = self.settings.keys.secret(&member.key);
                let token = secret.and_then(|secret| auth::sign(&claims(name, member, unix_secs), &secret).ok());
                if let Some(token) = token {
                    member.tell(Message::RefreshToken(token));
                }
            }
        }
    }
}

fn claims(room: &str, member: &Member, unix_secs: u64) -> Claims {
    Claims {
        iss: member.key.clone(),
        sub: Some(member.identity.clone()),
        exp: unix_secs + VALID_SECS,
        nbf: Some(unix_secs),
        name: Some(member.name.clone()).filter(|name| !name.is_empty()),
        metadata: Some(member.metadata.clone()).filter(|metadata| !metadata.is_empty()),
        attributes: member.attributes.clone().into_iter().collect(),
        kind: kind_name(member.kind),
        video: grants(room, &member.permission),
    }
}
