//! ICE as an ICE-lite agent with one component does it (RFC 8445 §2.5, §7.3): it answers checks and lets the client choose.

use std::net::SocketAddr;

use crate::metrics::DropReason;
pub use crate::wire::stun::IntegrityKey;
use crate::wire::stun::{Class, ErrorCode, Message, Role, write_error, write_success};

/// A connectivity check that asks for one of our sessions; not yet known to be authentic.
pub struct Check<'a> {
    message: Message<'a>,
    local_ufrag: &'a str,
}

impl<'a> Check<'a> {
    /// Reads a datagram. Everything but a binding request with user name, integrity and fingerprint is a drop: answering
    /// strangers would make the server a reflector.
    pub fn parse(datagram: &'a [u8]) -> Result<Check<'a>, DropReason> {
        let message = Message::parse(datagram)?;
        if message.class != Class::Request {
            return Err(DropReason::StunUnexpected);
        }
        // RFC 8445 §7.1: checks carry FINGERPRINT; RFC 8489 §9.1.3: and USERNAME.
        if !message.has_fingerprint() {
            return Err(DropReason::StunUnauthenticated);
        }
        let (local, _) = message.ufrags().ok_or(DropReason::StunUnauthenticated)?;
        let local_ufrag = std::str::from_utf8(local).map_err(|_| DropReason::StunUnknownUser)?;
        Ok(Check { message, local_ufrag })
    }

    /// The first half of the user name: ours.
    pub fn local_ufrag(&self) -> &str {
        self.local_ufrag
    }

    /// Whether MESSAGE-INTEGRITY was made with our password.
    pub fn authentic(&self, key: &IntegrityKey) -> bool {
        self.message.has_integrity(key)
    }

    /// The client chose this pair (RFC 8445 §7.3.1.5).
    pub fn nominates(&self) -> bool {
        self.message.use_candidate
    }

    /// Whether the check succeeds, so that its source address belongs to the session. False for a role conflict and other
    /// refusals.
    pub fn accepted(&self) -> bool {
        self.error().is_none()
    }

    fn error(&self) -> Option<ErrorCode> {
        match (self.message.unknown_attribute, self.message.role) {
            (Some(attribute), _) => Some(ErrorCode::UnknownAttribute(attribute)),
            // We are always controlled (a lite agent, RFC 8445 §6.1.1), so only a controlling client is in order (§7.3.1.1).
            (_, Some(Role::Controlled(_))) => Some(ErrorCode::RoleConflict),
            _ => None,
        }
    }

    /// Writes the answer to an authentic check; returns its length.
    pub fn answer(&self, key: &IntegrityKey, source: SocketAddr, space: &mut [u8]) -> Option<usize> {
        let id = &self.message.transaction_id;
        match self.error() {
            Some(error) => write_error(space, id, error, Some(key)),
            None => write_success(space, id, source, key),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::stun::{Request, verify_success, write_request};

    const PASSWORD: &[u8] = b"a password of 24 letters";

    fn request(role: Role, space: &mut [u8]) -> usize {
        let request = Request {
            transaction_id: [7; 12],
            remote_ufrag: b"server",
            local_ufrag: b"client",
            priority: 1,
            role,
            use_candidate: true,
        };
        write_request(space, &request, &IntegrityKey::new(PASSWORD)).expect("room enough")
    }

    #[test]
    fn a_good_check_is_answered_with_its_source() {
        let mut space = [0; 256];
        let len = request(Role::Controlling(1), &mut space);
        let check = Check::parse(&space[..len]).expect("a check");
        assert_eq!(check.local_ufrag(), "server");
        assert!(check.nominates());
        assert!(check.authentic(&IntegrityKey::new(PASSWORD)));
        assert!(!check.authentic(&IntegrityKey::new(b"another password")));
        let source: SocketAddr = "192.0.2.7:4000".parse().expect("an address");
        let mut answer = [0; 256];
        let written = check.answer(&IntegrityKey::new(PASSWORD), source, &mut answer).expect("room enough");
        assert!(check.accepted());
        assert_eq!(verify_success(&answer[..written], &[7; 12], &IntegrityKey::new(PASSWORD)), Some(source));
    }

    #[test]
    fn a_client_that_claims_our_role_is_told_of_the_conflict() {
        let mut space = [0; 256];
        let len = request(Role::Controlled(1), &mut space);
        let check = Check::parse(&space[..len]).expect("a check");
        let mut answer = [0; 256];
        let written = check
            .answer(&IntegrityKey::new(PASSWORD), "192.0.2.7:4000".parse().expect("an address"), &mut answer)
            .expect("room enough");
        assert!(!check.accepted());
        assert_eq!(Message::parse(&answer[..written]).expect("a message").error_code, Some(487));
    }

    #[test]
    fn strangers_get_no_answer() {
        let mut space = [0; 256];
        let len = request(Role::Controlling(1), &mut space);
        assert_eq!(Check::parse(&space[..len - 8]).err(), Some(DropReason::StunMalformed));
        space[len - 1] ^= 1;
        assert_eq!(Check::parse(&space[..len]).err(), Some(DropReason::StunUnauthenticated), "wrong fingerprint");
    }
}
