//! Inbound bytes before the handshake library sees them: records, handshake fragments, and the ClientHello.
//!
//! Everything here is read in the clear from whoever sent a datagram, so every parser is total and every buffer bounded:
//! one association holds at most [`REASSEMBLY_WINDOW`] messages of [`MESSAGE_MAX`] bytes while it waits for the rest.

use std::collections::VecDeque;

use crate::secure::srtp::Profile;

/// Content types (RFC 6347 §4.1, RFC 5246 §A.1).
pub(super) mod content {
    pub const CHANGE_CIPHER_SPEC: u8 = 20;
    pub const ALERT: u8 = 21;
    pub const HANDSHAKE: u8 = 22;
    pub const APPLICATION_DATA: u8 = 23;
}

/// Handshake types (RFC 6347 §4.3.2).
pub(super) mod message {
    pub const CLIENT_HELLO: u8 = 1;
    pub const CERTIFICATE: u8 = 11;
    pub const SERVER_HELLO_DONE: u8 = 14;
    pub const CERTIFICATE_VERIFY: u8 = 15;
    pub const CLIENT_KEY_EXCHANGE: u8 = 16;
    pub const FINISHED: u8 = 20;
}

/// DTLS 1.2 on the wire (RFC 6347 §4.1).
pub(super) const VERSION: [u8; 2] = [0xfe, 0xfd];
const RECORD_HEADER: usize = 13;
const FRAGMENT_HEADER: usize = 12;

/// The longest handshake message taken. A certificate chain is the longest there is; an RSA-4096 one of ours is 1.5 kB.
pub(super) const MESSAGE_MAX: usize = 8 * 1024;
/// How many messages from the next expected one on are kept while an earlier one is missing: a whole flight has at most 5.
pub(super) const REASSEMBLY_WINDOW: usize = 8;
/// Separate holes of one message; a peer that sends more is not sending fragments in any useful order.
const RANGES_MAX: usize = 16;

/// One record of a datagram (RFC 6347 §4.1).
#[derive(Clone, Copy, Debug)]
pub(super) struct Record<'a> {
    pub content_type: u8,
    pub epoch: u16,
    /// 48 bits.
    pub sequence: u64,
    pub fragment: &'a [u8],
    /// Header and fragment as they came.
    pub bytes: &'a [u8],
}

/// The next record of `datagram` and what follows it; `None` when no more whole DTLS 1.x record is there.
pub(super) fn split_record(datagram: &[u8]) -> Option<(Record<'_>, &[u8])> {
    let (&[content_type, 0xfe, minor, epoch0, epoch1, s0, s1, s2, s3, s4, s5, length0, length1], body) =
        datagram.split_first_chunk::<RECORD_HEADER>()?
    else {
        return None;
    };
    // DTLS 1.0 is the version of a first ClientHello and of a HelloVerifyRequest (RFC 6347 §4.2.1).
    if !matches!(minor, 0xff | 0xfd) || !(content::CHANGE_CIPHER_SPEC..=content::APPLICATION_DATA).contains(&content_type) {
        return None;
    }
    let (fragment, rest) = body.split_at_checked(usize::from(u16::from_be_bytes([length0, length1])))?;
    let bytes = datagram.get(..RECORD_HEADER + fragment.len())?;
    let (epoch, sequence) = (u16::from_be_bytes([epoch0, epoch1]), u64::from_be_bytes([0, 0, s0, s1, s2, s3, s4, s5]));
    Some((Record { content_type, epoch, sequence, fragment, bytes }, rest))
}

/// A record of epoch 0 with our own sequence number.
pub(super) fn plain_record(content_type: u8, sequence: u64, parts: &[&[u8]]) -> Vec<u8> {
    record(content_type, sequence & 0xffff_ffff_ffff, parts)
}

/// A record of the epoch in the first 16 bits of `number`, with the sequence number in the others.
pub(super) fn record(content_type: u8, number: u64, parts: &[&[u8]]) -> Vec<u8> {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let mut record = Vec::with_capacity(RECORD_HEADER + length);
    record.push(content_type);
    record.extend_from_slice(&VERSION);
    record.extend_from_slice(&number.to_be_bytes());
    record.extend_from_slice(&(length as u16).to_be_bytes());
    parts.iter().for_each(|part| record.extend_from_slice(part));
    record
}

/// A fragment of a handshake message (RFC 6347 §4.2.2).
#[derive(Clone, Copy, Debug)]
pub(super) struct Fragment<'a> {
    pub kind: u8,
    pub length: usize,
    pub sequence: u16,
    pub offset: usize,
    pub bytes: &'a [u8],
}

/// The next fragment of a handshake record and what follows it: one record may carry several (RFC 6347 §4.2.3).
pub(super) fn split_fragment(record: &[u8]) -> Option<(Fragment<'_>, &[u8])> {
    let (&[kind, l0, l1, l2, s0, s1, o0, o1, o2, f0, f1, f2], body) = record.split_first_chunk::<FRAGMENT_HEADER>()?;
    let uint24 = |a, b, c| u32::from_be_bytes([0, a, b, c]) as usize;
    let (bytes, rest) = body.split_at_checked(uint24(f0, f1, f2))?;
    let (length, offset) = (uint24(l0, l1, l2), uint24(o0, o1, o2));
    if offset + bytes.len() > length {
        return None;
    }
    Some((Fragment { kind, length, sequence: u16::from_be_bytes([s0, s1]), offset, bytes }, rest))
}

/// A whole handshake message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Message {
    pub kind: u8,
    pub sequence: u16,
    pub body: Vec<u8>,
}

impl Message {
    /// The message in one record, as if it had never been fragmented. The transcript hash covers exactly this form of the
    /// header (RFC 6347 §4.2.6), so the handshake cannot tell the difference.
    pub fn to_record(&self, record_sequence: u64) -> Vec<u8> {
        let [_, l0, l1, l2] = (self.body.len() as u32).to_be_bytes();
        let [s0, s1] = self.sequence.to_be_bytes();
        let header = [self.kind, l0, l1, l2, s0, s1, 0, 0, 0, l0, l1, l2];
        plain_record(content::HANDSHAKE, record_sequence, &[&header, &self.body])
    }
}

/// What [`Reassembly::push`] did with a fragment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pushed {
    Kept,
    /// Of a message that was already taken out: the peer repeats its flight.
    Repeated,
    /// Too far ahead, too long, or in too many pieces.
    Refused,
}

/// Puts the peer's handshake messages together and in order (RFC 6347 §4.2.2, §4.2.3).
#[derive(Debug, Default)]
pub(super) struct Reassembly {
    /// Message sequence number of `pending[0]`.
    next: u16,
    pending: VecDeque<Option<Partial>>,
}

#[derive(Debug)]
struct Partial {
    kind: u8,
    body: Vec<u8>,
    /// Bytes received, as disjoint half-open ranges in ascending order.
    received: Vec<(usize, usize)>,
}

impl Reassembly {
    pub fn next_sequence(&self) -> u16 {
        self.next
    }

    pub fn push(&mut self, fragment: Fragment<'_>) -> Pushed {
        let Some(index) = fragment.sequence.checked_sub(self.next) else { return Pushed::Repeated };
        let index = usize::from(index);
        if index >= REASSEMBLY_WINDOW || fragment.length > MESSAGE_MAX {
            return Pushed::Refused;
        }
        if self.pending.len() <= index {
            self.pending.resize_with(index + 1, || None);
        }
        let Some(slot) = self.pending.get_mut(index) else { return Pushed::Refused };
        // A fragment that contradicts the earlier ones starts the message again: else one forged fragment would block it.
        if slot.as_ref().is_none_or(|partial| partial.kind != fragment.kind || partial.body.len() != fragment.length) {
            *slot = Some(Partial { kind: fragment.kind, body: vec![0; fragment.length], received: Vec::new() });
        }
        match slot.as_mut().is_some_and(|partial| partial.add(fragment.offset, fragment.bytes)) {
            true => Pushed::Kept,
            false => Pushed::Refused,
        }
    }

    /// The next message in order, once it is whole.
    pub fn pop(&mut self) -> Option<Message> {
        if !self.pending.front()?.as_ref()?.is_whole() {
            return None;
        }
        let partial = self.pending.pop_front()??;
        let sequence = self.next;
        self.next = self.next.wrapping_add(1);
        Some(Message { kind: partial.kind, sequence, body: partial.body })
    }

    /// Forgets that the last message was taken: it was not one, and the true one is still to come.
    pub fn reject_last(&mut self) {
        self.next = self.next.wrapping_sub(1);
        self.pending.push_front(None);
        self.pending.truncate(REASSEMBLY_WINDOW);
    }

    #[cfg(test)]
    pub fn bytes_held(&self) -> usize {
        self.pending.iter().flatten().map(|partial| partial.body.len()).sum()
    }
}

impl Partial {
    fn is_whole(&self) -> bool {
        self.body.is_empty() || self.received.as_slice() == [(0, self.body.len())]
    }

    fn add(&mut self, offset: usize, bytes: &[u8]) -> bool {
        let Some(target) = self.body.get_mut(offset..offset + bytes.len()) else { return false };
        if bytes.is_empty() {
            return true;
        }
        let (mut start, mut end) = (offset, offset + bytes.len());
        let mut merged: Vec<(usize, usize)> = Vec::with_capacity(self.received.len() + 1);
        for &(from, to) in &self.received {
            if to < start || end < from {
                merged.push((from, to));
            } else {
                (start, end) = (start.min(from), end.max(to));
            }
        }
        merged.push((start, end));
        if merged.len() > RANGES_MAX {
            return false;
        }
        merged.sort_unstable();
        self.received = merged;
        target.copy_from_slice(bytes);
        true
    }
}

/// What a server must know of a ClientHello before it hands it on (RFC 6347 §4.2.1, RFC 5246 §7.4.1.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ClientHello {
    pub random: [u8; 32],
    /// Whether the client asks to resume a session, which we never do.
    pub resumes: bool,
    /// The best SRTP profile of its `use_srtp` extension.
    pub profile: Option<Profile>,
}

impl ClientHello {
    /// `None` if `body` is not a ClientHello of DTLS 1.2 (or of 1.3, which says 1.2 here).
    pub fn parse(body: &[u8]) -> Option<Self> {
        let (version, body) = body.split_first_chunk::<2>()?;
        if *version != VERSION {
            return None;
        }
        let (random, body) = body.split_first_chunk::<32>()?;
        let (session_id, body) = vector8(body)?;
        let (_cookie, body) = vector8(body)?;
        let (_cipher_suites, body) = vector16(body)?;
        let (_compression_methods, body) = vector8(body)?;
        let (mut extensions, _) = vector16(body)?;
        let mut profile = None;
        while !extensions.is_empty() {
            let (kind, rest) = extensions.split_first_chunk::<2>()?;
            let (data, rest) = vector16(rest)?;
            if u16::from_be_bytes(*kind) == EXTENSION_USE_SRTP {
                profile = best_profile(vector16(data)?.0);
            }
            extensions = rest;
        }
        Some(ClientHello { random: *random, resumes: !session_id.is_empty(), profile })
    }
}

/// RFC 5764 §4.1.1.
const EXTENSION_USE_SRTP: u16 = 14;

/// The profile we would have of those offered, whatever the client's order: GCM is several times faster than CM with SHA-1,
/// and Chromium offers CM_SHA1_80 first.
fn best_profile(offered: &[u8]) -> Option<Profile> {
    Profile::ALL.into_iter().find(|profile| offered.as_chunks::<2>().0.contains(&profile.dtls_id().to_be_bytes()))
}

/// `opaque x<0..2^8-1>` (RFC 5246 §4.3).
fn vector8(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (&length, rest) = bytes.split_first()?;
    rest.split_at_checked(usize::from(length))
}

/// `opaque x<0..2^16-1>` (RFC 5246 §4.3).
fn vector16(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<2>()?;
    rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fragment(sequence: u16, length: usize, offset: usize, bytes: &[u8]) -> Fragment<'_> {
        Fragment { kind: 1, length, sequence, offset, bytes }
    }

    #[test]
    fn reassembles_out_of_order_and_overlapping() {
        let whole: Vec<u8> = (0..=255).collect();
        let mut reassembly = Reassembly::default();
        assert_eq!(reassembly.push(fragment(1, 3, 0, b"abc")), Pushed::Kept);
        assert_eq!(reassembly.push(fragment(0, 256, 200, &whole[200..])), Pushed::Kept);
        assert_eq!(reassembly.push(fragment(0, 256, 0, &whole[..90])), Pushed::Kept);
        assert_eq!(reassembly.pop(), None);
        assert_eq!(reassembly.push(fragment(0, 256, 80, &whole[80..210])), Pushed::Kept);
        assert_eq!(reassembly.pop(), Some(Message { kind: 1, sequence: 0, body: whole }));
        assert_eq!(reassembly.pop(), Some(Message { kind: 1, sequence: 1, body: b"abc".to_vec() }));
        assert_eq!(reassembly.push(fragment(1, 3, 0, b"abc")), Pushed::Repeated);
    }

    #[test]
    fn holds_only_so_much() {
        let mut reassembly = Reassembly::default();
        for sequence in 0..=u16::MAX {
            reassembly.push(fragment(sequence, MESSAGE_MAX, 1, b"x"));
            reassembly.push(fragment(sequence, MESSAGE_MAX + 1, 1, b"x"));
        }
        assert!(reassembly.bytes_held() <= REASSEMBLY_WINDOW * MESSAGE_MAX);
        let mut reassembly = Reassembly::default();
        let kept = (0..4000).filter(|i| reassembly.push(fragment(0, MESSAGE_MAX, 2 * i, b"x")) == Pushed::Kept).count();
        assert_eq!(kept, RANGES_MAX);
    }

    #[test]
    fn a_contradicting_fragment_does_not_block_the_message() {
        let mut reassembly = Reassembly::default();
        reassembly.push(fragment(0, 100, 0, b"forged"));
        reassembly.push(fragment(0, 3, 0, b"abc"));
        assert_eq!(reassembly.pop().unwrap().body, b"abc");
    }

    #[test]
    fn several_fragments_and_records() {
        let first = Message { kind: 11, sequence: 3, body: vec![7; 40] };
        let second = Message { kind: 16, sequence: 4, body: vec![] };
        let mut datagram = first.to_record(5);
        datagram.extend(second.to_record(6));
        let (record, rest) = split_record(&datagram).unwrap();
        assert_eq!((record.content_type, record.epoch), (content::HANDSHAKE, 0));
        let (fragment, none) = split_fragment(record.fragment).unwrap();
        assert_eq!((fragment.kind, fragment.sequence, fragment.bytes), (11, 3, &[7; 40][..]));
        assert!(none.is_empty());
        let (record, rest) = split_record(rest).unwrap();
        assert_eq!(split_fragment(record.fragment).unwrap().0.kind, 16);
        assert!(rest.is_empty());
        for length in 0..datagram.len() {
            let mut rest = &datagram[..length];
            while let Some((_, more)) = split_record(rest) {
                rest = more;
            }
        }
    }

    fn hello(session_id: &[u8], profiles: &[u16]) -> Vec<u8> {
        let mut body = VERSION.to_vec();
        body.extend([9; 32]);
        body.push(session_id.len() as u8);
        body.extend(session_id);
        body.extend([0, 0, 2, 0xc0, 0x2b, 1, 0]);
        let list: Vec<u8> = profiles.iter().flat_map(|id| id.to_be_bytes()).collect();
        let mut extensions = vec![0, 23, 0, 0, 0, 14];
        extensions.extend((list.len() as u16 + 3).to_be_bytes());
        extensions.extend((list.len() as u16).to_be_bytes());
        extensions.extend(&list);
        extensions.push(0);
        body.extend((extensions.len() as u16).to_be_bytes());
        body.extend(extensions);
        body
    }

    #[test]
    fn prefers_gcm_whatever_the_order() {
        let profile = |profiles: &[u16]| ClientHello::parse(&hello(&[], profiles)).unwrap().profile;
        // Chromium, Firefox, aiortc.
        assert_eq!(profile(&[1, 8, 7]), Some(Profile::AeadAes128Gcm));
        assert_eq!(profile(&[7, 8, 1, 2]), Some(Profile::AeadAes128Gcm));
        assert_eq!(profile(&[8, 1]), Some(Profile::AeadAes256Gcm));
        assert_eq!(profile(&[2, 1]), Some(Profile::Aes128CmSha1_80));
        assert_eq!(profile(&[2]), None);
        assert!(ClientHello::parse(&hello(b"session", &[7])).unwrap().resumes);
        let whole = hello(&[], &[7]);
        for length in 0..whole.len() {
            assert_eq!(ClientHello::parse(&whole[..length]), None);
        }
    }
}
