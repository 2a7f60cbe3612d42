//! Messages of the Data Channel Establishment Protocol (RFC 8832).

use std::sync::Arc;

use super::Reliability;
use crate::limits::CHANNEL_NAME_BYTES_MAX;

const ACK: u8 = 0x02;
const OPEN: u8 = 0x03;
const OPEN_HEADER: usize = 12;
const UNORDERED: u8 = 0x80;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Open {
    pub label: Arc<str>,
    pub protocol: Arc<str>,
    pub ordered: bool,
    pub reliability: Reliability,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    Open(Open),
    Ack,
}

impl Message {
    /// None for what is neither, has a name longer than we keep, or one that is not UTF-8.
    pub fn read(bytes: &[u8]) -> Option<Message> {
        match bytes {
            [ACK, ..] => Some(Message::Ack),
            [OPEN, channel_type, _, _, p0, p1, p2, p3, l0, l1, q0, q1, names @ ..] => {
                let parameter = u32::from_be_bytes([*p0, *p1, *p2, *p3]);
                let label_length = usize::from(u16::from_be_bytes([*l0, *l1]));
                let protocol_length = usize::from(u16::from_be_bytes([*q0, *q1]));
                if label_length.max(protocol_length) > CHANNEL_NAME_BYTES_MAX {
                    return None;
                }
                let (label, rest) = names.split_at_checked(label_length)?;
                let protocol = rest.get(..protocol_length)?;
                let reliability = match channel_type & !UNORDERED {
                    0x00 => Reliability::Reliable,
                    0x01 => Reliability::MaxRetransmits(parameter),
                    0x02 => Reliability::MaxLifetimeMillis(parameter),
                    _ => return None,
                };
                Some(Message::Open(Open {
                    label: std::str::from_utf8(label).ok()?.into(),
                    protocol: std::str::from_utf8(protocol).ok()?.into(),
                    ordered: channel_type & UNORDERED == 0,
                    reliability,
                }))
            }
            _ => None,
        }
    }

    pub fn write(&self) -> Vec<u8> {
        let Message::Open(open) = self else { return vec![ACK] };
        let (channel_type, parameter) = match open.reliability {
            Reliability::Reliable => (0x00, 0),
            Reliability::MaxRetransmits(count) => (0x01, count),
            Reliability::MaxLifetimeMillis(millis) => (0x02, millis),
        };
        let mut bytes = Vec::with_capacity(OPEN_HEADER + open.label.len() + open.protocol.len());
        // Priority 256, "normal" (RFC 8831 §6.4): nothing here weighs channels.
        bytes.extend([OPEN, channel_type | if open.ordered { 0 } else { UNORDERED }, 1, 0]);
        bytes.extend(parameter.to_be_bytes());
        bytes.extend((open.label.len() as u16).to_be_bytes());
        bytes.extend((open.protocol.len() as u16).to_be_bytes());
        bytes.extend(open.label.as_bytes());
        bytes.extend(open.protocol.as_bytes());
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        for reliability in [Reliability::Reliable, Reliability::MaxRetransmits(0), Reliability::MaxLifetimeMillis(500)] {
            for ordered in [true, false] {
                let open = Open { label: "_lossy".into(), protocol: "é".into(), ordered, reliability };
                let bytes = Message::Open(open.clone()).write();
                assert_eq!(Message::read(&bytes), Some(Message::Open(open)));
                (0..bytes.len()).for_each(|end| assert_eq!(Message::read(&bytes[..end]), None, "cut to {end} bytes"));
            }
        }
    }

    #[test]
    fn the_layout_of_rfc_8832() {
        let open = Open { label: "a".into(), protocol: "bc".into(), ordered: false, reliability: Reliability::MaxRetransmits(7) };
        assert_eq!(Message::Open(open).write(), [3, 0x81, 1, 0, 0, 0, 0, 7, 0, 1, 0, 2, b'a', b'b', b'c']);
        assert_eq!(Message::Ack.write(), [2]);
    }

    #[test]
    fn no_unknown_type_and_no_long_name() {
        assert_eq!(Message::read(&[3, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]), None);
        let mut long = vec![3, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0];
        long.extend([b'x'; 0xffff]);
        assert_eq!(Message::read(&long), None);
        assert_eq!(Message::read(&[3, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0xff]), None);
    }
}
