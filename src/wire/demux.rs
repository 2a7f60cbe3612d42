//! Which protocol a datagram on a multiplexed port is: the first byte tells (RFC 7983 §7), and RTP from RTCP the second
//! (RFC 5761 §4).

use crate::metrics::DropReason;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    Stun,
    Dtls,
    Rtp,
    Rtcp,
}

/// The protocol of a datagram. ZRTP (16..=19) and TURN channels (64..=79) have no business here and are unknown.
#[inline]
pub fn classify(datagram: &[u8]) -> Result<Protocol, DropReason> {
    match datagram {
        [] => Err(DropReason::Empty),
        [0..=3, ..] => Ok(Protocol::Stun),
        [20..=63, ..] => Ok(Protocol::Dtls),
        // RTCP packet types occupy 192..=223 with what would be RTP's marker bit, so RTP may not use payload types 64..=95.
        [128..=191, 192..=223, ..] => Ok(Protocol::Rtcp),
        [128..=191, _, ..] => Ok(Protocol::Rtp),
        [128..=191] => Err(DropReason::RtpMalformed),
        _ => Err(DropReason::UnknownProtocol),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_first_byte_has_its_protocol() {
        for first in 0..=255u8 {
            let expected = match first {
                0..=3 => Ok(Protocol::Stun),
                20..=63 => Ok(Protocol::Dtls),
                128..=191 => Ok(Protocol::Rtp),
                _ => Err(DropReason::UnknownProtocol),
            };
            assert_eq!(classify(&[first, 0, 0]), expected, "first byte {first}");
        }
        assert_eq!(classify(&[]), Err(DropReason::Empty));
        assert_eq!(classify(&[128]), Err(DropReason::RtpMalformed));
    }

    #[test]
    fn rtcp_is_told_by_its_packet_type() {
        for second in 0..=255u8 {
            let expected = if (192..=223).contains(&second) { Protocol::Rtcp } else { Protocol::Rtp };
            assert_eq!(classify(&[0x80, second]), Ok(expected), "second byte {second}");
        }
    }
}
