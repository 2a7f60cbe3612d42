//! The connection that a handshake leaves behind: record protection of DTLS 1.2 (RFC 6347 §4.1) for what may still come after
//! it, in 232 bytes instead of the 13 kB that the library would keep for each session.
//!
//! The keys are derived from the master secret in the library's exported state. Whether that was read rightly is proven each
//! time: the SRTP keys derived from the same secret have to be those that the library exports.
//!
//! What can come is an alert, application data, or the peer's last flight once more. RFC 6347 §4.2.4 has whoever sent the last
//! flight of all repeat it for twice the maximum segment lifetime of TCP, which is four minutes. It is nothing but a
//! ChangeCipherSpec and 24 bytes of Finished, so it is kept for as long as the session lives, and there is no time and
//! no proof of its arrival to wait for.
//!
//! The expanded keys of *ring* are four times larger than all the rest. Records are rare here, so they are made anew for each.

use ring::{aead, hmac};
use rkyv::util::AlignedVec;
use rtc_dtls::state::State as LibraryState;

use super::flight::{self, Record, VERSION, content, message};

/// Answers to a repeated last flight of the peer, for it can be made to repeat it.
pub(super) const REPEATS_MAX: u8 = 8;
/// A Finished with its header: 12 bytes of verify_data (RFC 5246 §7.4.9).
const FINISHED_BYTES: usize = 12 + 12;
/// Record sequence numbers have 48 bits, and none may be used twice (RFC 6347 §4.1).
const SEQUENCE_END: u64 = 1 << 48;
/// Bytes of AES-GCM's nonce that come with each record (RFC 5288 §3).
const EXPLICIT_NONCE: usize = 8;

/// Record protection after the handshake: all is epoch 1.
pub(super) struct Connection {
    suite: Suite,
    read: TrafficKeys,
    write: TrafficKeys,
    /// Of the next record we send.
    next_sequence: u64,
    window: Window,
    /// If ours was the last flight of all.
    last_flight: Option<LastFlight>,
}

const _: () = assert!(size_of::<Connection>() <= 232);

/// An authentic record.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Received {
    ApplicationData(Vec<u8>),
    /// The peer has not seen our last flight: a datagram with it.
    LastFlight(Vec<u8>),
    CloseNotify,
    FatalAlert,
}

impl Connection {
    /// `state` is the library's after a handshake that ended with the record `last`, `exporter` the SRTP keys that the library
    /// exports from it, `sent` the datagrams that it sent in answer.
    pub fn new(state: &LibraryState, exporter: &[u8], last: Record<'_>, sent: &[Vec<u8>]) -> Result<Self, String> {
        let bytes = state.marshal_binary().map_err(|error| error.to_string())?;
        let mut aligned = AlignedVec::<16>::with_capacity(bytes.len());
        aligned.extend_from_slice(&bytes);
        let state =
            rkyv::access::<ArchivedExported, rkyv::rancor::Error>(&aligned).map_err(|error| format!("exported state: {error}"))?;
        let suite = Suite::from_id(state.cipher_suite_id.to_native()).ok_or("cipher suite is not one of ours")?;
        let (client, server) = match state.is_client {
            true => (&state.local_random, &state.remote_random),
            false => (&state.remote_random, &state.local_random),
        };
        let mut srtp = vec![0; exporter.len()];
        // RFC 5705 §4: the client's random comes first here, the server's in the key block.
        prf(&state.master_secret, &[b"EXTRACTOR-dtls_srtp", client, server], &mut srtp);
        if srtp != exporter {
            return Err("exported state does not yield the exported keys".to_owned());
        }
        let mut connection = Connection {
            suite,
            read: TrafficKeys::default(),
            write: TrafficKeys::default(),
            next_sequence: state.sequence_number.to_native(),
            window: Window::default(),
            last_flight: None,
        };
        let [of_client, of_server] = suite.key_block(&state.master_secret, client, server);
        (connection.write, connection.read) = if state.is_client { (of_client, of_server) } else { (of_server, of_client) };
        if last.epoch == 1 {
            connection.window.accept(last.sequence);
        }
        if !state.is_client {
            connection.last_flight = Some(connection.find_last_flight(sent).ok_or("the last flight was not found")?);
        }
        Ok(connection)
    }

    /// Reads our own last flight back, for its Finished can be made only from the whole transcript.
    fn find_last_flight(&self, sent: &[Vec<u8>]) -> Option<LastFlight> {
        let (mut next_plain, mut finished) = (None, None);
        for datagram in sent {
            let mut rest = datagram.as_slice();
            while let Some((record, more)) = flight::split_record(rest) {
                rest = more;
                match (record.epoch, record.content_type) {
                    (0, content::CHANGE_CIPHER_SPEC) => next_plain = Some(record.sequence + 1),
                    (1, content::HANDSHAKE) => finished = self.suite.open(&self.write, record)?.try_into().ok(),
                    _ => {}
                }
            }
        }
        Some(LastFlight { finished: finished?, next_plain: next_plain?, repeats_left: REPEATS_MAX })
    }

    /// What an authentic and new record says. `None` for all others, and for what has no meaning after the handshake: warnings,
    /// and any other handshake message, for there is no renegotiation (RFC 8827 §6.5).
    pub fn receive(&mut self, record: Record<'_>) -> Option<Received> {
        // Epoch 0 carries nothing new (RFC 6347 §4.1): only what is encrypted counts. The version is the one negotiated; what is
        // authenticated is ours, not the header's.
        if record.epoch != 1 || record.bytes.get(1..3) != Some(&VERSION[..]) || !self.window.is_new(record.sequence) {
            return None;
        }
        let data = self.suite.open(&self.read, record)?;
        self.window.accept(record.sequence);
        match (record.content_type, data.as_slice()) {
            (content::APPLICATION_DATA, _) => Some(Received::ApplicationData(data)),
            // RFC 5246 §7.2: the level, and the description.
            (content::ALERT, [_, 0]) => Some(Received::CloseNotify),
            (content::ALERT, [2, _]) => Some(Received::FatalAlert),
            (content::HANDSHAKE, [message::FINISHED, ..]) => self.repeat_last_flight().map(Received::LastFlight),
            _ => None,
        }
    }

    /// The same messages in records of new numbers (RFC 6347 §4.2.4, §4.1.2.6).
    fn repeat_last_flight(&mut self) -> Option<Vec<u8>> {
        let flight = self.last_flight.as_mut()?;
        flight.repeats_left = flight.repeats_left.checked_sub(1)?;
        let mut datagram = flight::plain_record(content::CHANGE_CIPHER_SPEC, flight.next_plain, &[&[1]]);
        flight.next_plain += 1;
        let finished = flight.finished;
        datagram.extend(self.seal(content::HANDSHAKE, &finished)?);
        Some(datagram)
    }

    /// `None` after 2^48 records.
    pub fn close_notify(&mut self) -> Option<Vec<u8>> {
        self.seal(content::ALERT, &[1, 0])
    }

    /// One record of `data`; `None` after 2^48.
    pub fn seal(&mut self, content_type: u8, data: &[u8]) -> Option<Vec<u8>> {
        if self.next_sequence >= SEQUENCE_END {
            return None;
        }
        let record = self.suite.seal(&self.write, content_type, self.next_sequence, data)?;
        self.next_sequence += 1;
        Some(record)
    }
}

struct LastFlight {
    finished: [u8; FINISHED_BYTES],
    /// The record number of the next ChangeCipherSpec, in epoch 0.
    next_plain: u64,
    repeats_left: u8,
}

/// What the library writes of its state, field for field: see `rtc_dtls::state`.
#[derive(rkyv::Archive)]
#[expect(dead_code, reason = "only its archived form is read")]
struct Exported {
    local_epoch: u16,
    remote_epoch: u16,
    local_random: [u8; 32],
    remote_random: [u8; 32],
    cipher_suite_id: u16,
    master_secret: Vec<u8>,
    sequence_number: u64,
    srtp_protection_profile: u16,
    peer_certificates: Vec<Vec<u8>>,
    identity_hint: Vec<u8>,
    is_client: bool,
}

/// Key and implicit part of the nonce of one direction; what the suite does not need of them is zero.
#[derive(Clone, Copy, Default)]
struct TrafficKeys {
    key: [u8; 32],
    iv: [u8; aead::NONCE_LEN],
}

/// The AEAD of a cipher suite, of those offered in [`super::Identity`].
#[derive(Clone, Copy)]
enum Suite {
    Aes128Gcm,
    ChaCha20Poly1305,
}

impl Suite {
    /// By the numbers of RFC 5289 §3.2 and RFC 7905 §2.
    fn from_id(id: u16) -> Option<Self> {
        match id {
            0xc02b | 0xc02f => Some(Suite::Aes128Gcm),
            0xcca8 | 0xcca9 => Some(Suite::ChaCha20Poly1305),
            _ => None,
        }
    }

    fn algorithm(self) -> &'static aead::Algorithm {
        match self {
            Suite::Aes128Gcm => &aead::AES_128_GCM,
            Suite::ChaCha20Poly1305 => &aead::CHACHA20_POLY1305,
        }
    }

    /// `fixed_iv_length` (RFC 5288 §3, RFC 7905 §2).
    fn iv_len(self) -> usize {
        match self {
            Suite::Aes128Gcm => 4,
            Suite::ChaCha20Poly1305 => aead::NONCE_LEN,
        }
    }

    /// The client's keys and the server's (RFC 5246 §6.3); an AEAD has no keys for a MAC.
    fn key_block(self, master_secret: &[u8], client: &[u8], server: &[u8]) -> [TrafficKeys; 2] {
        let (key_len, iv_len) = (self.algorithm().key_len(), self.iv_len());
        let mut block = vec![0; 2 * (key_len + iv_len)];
        prf(master_secret, &[b"key expansion", server, client], &mut block);
        let (keys, ivs) = block.split_at(2 * key_len);
        let mut sides = [TrafficKeys::default(); 2];
        for (side, (key, iv)) in sides.iter_mut().zip(keys.chunks_exact(key_len).zip(ivs.chunks_exact(iv_len))) {
            side.key[..key_len].copy_from_slice(key);
            side.iv[..iv_len].copy_from_slice(iv);
        }
        sides
    }

    fn key(self, keys: &TrafficKeys) -> Option<aead::LessSafeKey> {
        let key = keys.key.get(..self.algorithm().key_len())?;
        Some(aead::LessSafeKey::new(aead::UnboundKey::new(self.algorithm(), key).ok()?))
    }

    /// `explicit` is what comes with the record (AES-GCM), `number` its epoch and sequence number (ChaCha20-Poly1305, RFC 7905 §2).
    fn nonce(self, keys: &TrafficKeys, explicit: [u8; EXPLICIT_NONCE], number: u64) -> aead::Nonce {
        let mut nonce = keys.iv;
        let tail = match self {
            Suite::Aes128Gcm => explicit,
            Suite::ChaCha20Poly1305 => number.to_be_bytes(),
        };
        nonce[4..].iter_mut().zip(tail).for_each(|(byte, other)| *byte ^= other);
        aead::Nonce::assume_unique_for_key(nonce)
    }

    fn open(self, keys: &TrafficKeys, record: Record<'_>) -> Option<Vec<u8>> {
        let (explicit, sealed) = match self {
            Suite::Aes128Gcm => record.fragment.split_first_chunk::<EXPLICIT_NONCE>()?,
            Suite::ChaCha20Poly1305 => (&[0; EXPLICIT_NONCE], record.fragment),
        };
        let length = sealed.len().checked_sub(self.algorithm().tag_len())?;
        let number = number(record.epoch, record.sequence);
        let mut data = sealed.to_vec();
        let nonce = self.nonce(keys, *explicit, number);
        let header = additional_data(number, record.content_type, length);
        self.key(keys)?.open_in_place(nonce, aead::Aad::from(header), &mut data).ok()?;
        data.truncate(length);
        Some(data)
    }

    /// A record of epoch 1. The explicit nonce is the record's number, which is never used twice. The library's few records before
    /// had random nonces; that one of those is met again is as unlikely as it is between two of them.
    fn seal(self, keys: &TrafficKeys, content_type: u8, sequence: u64, data: &[u8]) -> Option<Vec<u8>> {
        let number = number(1, sequence);
        let explicit = number.to_be_bytes();
        let mut sealed = data.to_vec();
        let nonce = self.nonce(keys, explicit, number);
        let header = additional_data(number, content_type, data.len());
        self.key(keys)?.seal_in_place_append_tag(nonce, aead::Aad::from(header), &mut sealed).ok()?;
        Some(match self {
            Suite::Aes128Gcm => flight::record(content_type, number, &[&explicit, &sealed]),
            Suite::ChaCha20Poly1305 => flight::record(content_type, number, &[&sealed]),
        })
    }
}

/// Epoch and sequence number as they stand in a record's header.
fn number(epoch: u16, sequence: u64) -> u64 {
    u64::from(epoch) << 48 | sequence
}

/// RFC 5246 §6.2.3.3, RFC 6347 §4.1.2.1.
fn additional_data(number: u64, content_type: u8, length: usize) -> [u8; 13] {
    let mut data = [0; 13];
    data[..8].copy_from_slice(&number.to_be_bytes());
    data[8] = content_type;
    data[9..11].copy_from_slice(&VERSION);
    data[11..].copy_from_slice(&(length as u16).to_be_bytes());
    data
}

/// `P_SHA256(secret, label + seed)`, which is the pseudo-random function of these suites (RFC 5246 §5).
fn prf(secret: &[u8], label_and_seed: &[&[u8]], output: &mut [u8]) {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
    let sign = |first: &[u8], rest: &[&[u8]]| {
        let mut context = hmac::Context::with_key(&key);
        context.update(first);
        rest.iter().for_each(|part| context.update(part));
        context.sign()
    };
    let mut a = sign(&[], label_and_seed);
    for part in output.chunks_mut(a.as_ref().len()) {
        part.copy_from_slice(&sign(a.as_ref(), label_and_seed).as_ref()[..part.len()]);
        a = sign(a.as_ref(), &[]);
    }
}

/// The newest 64 record numbers of the peer: which of them have come (RFC 6347 §4.1.2.6).
#[derive(Default)]
struct Window {
    /// One more than the highest that came.
    end: u64,
    /// Bit n: `end - 1 - n` has come.
    seen: u64,
}

impl Window {
    fn is_new(&self, sequence: u64) -> bool {
        match self.end.checked_sub(sequence) {
            None | Some(0) => true,
            Some(age @ 1..=64) => self.seen >> (age - 1) & 1 == 0,
            Some(_) => false,
        }
    }

    /// To be called for authentic records only.
    fn accept(&mut self, sequence: u64) {
        match self.end.checked_sub(sequence) {
            None | Some(0) => {
                let ahead = sequence - self.end + 1;
                self.seen = if ahead < 64 { self.seen << ahead } else { 0 } | 1;
                self.end = sequence + 1;
            }
            Some(age @ 1..=64) => self.seen |= 1 << (age - 1),
            Some(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_number_is_new_once() {
        let mut window = Window::default();
        for (sequence, new) in
            [(0, true), (0, false), (2, true), (1, true), (1, false), (65, true), (2, false), (3, true), (1, false)]
        {
            assert_eq!(window.is_new(sequence), new, "{sequence}");
            window.accept(sequence);
        }
        for ahead in [63, 64, 65, 1 << 40] {
            let before = window.end - 1;
            window.accept(before + ahead);
            assert!(!window.is_new(before) && !window.is_new(before + ahead) && window.is_new(before + ahead + 1), "{ahead}");
            assert_eq!(window.is_new(before + 1), ahead <= 64, "{ahead}");
        }
    }

    /// The vector "TLS12PRF-SHA256" of the TLS working group's list.
    #[test]
    fn pseudo_random_function() {
        let secret = [0x9b, 0xbe, 0x43, 0x6b, 0xa9, 0x40, 0xf0, 0x17, 0xb1, 0x76, 0x52, 0x84, 0x9a, 0x71, 0xdb, 0x35];
        let seed = [0xa0, 0xba, 0x9f, 0x93, 0x6c, 0xda, 0x31, 0x18, 0x27, 0xa6, 0xf7, 0x96, 0xff, 0xd5, 0x19, 0x8c];
        let mut output = [0; 100];
        prf(&secret, &[b"test label", &seed], &mut output);
        let hex: String = output.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(
            hex,
            "e3f229ba727be17b8d122620557cd453c2aab21d07c3d495329b52d4e61edb5a6b301791e90d35c9c9a46b4e14baf9af0fa0\
             22f7077def17abfd3797c0564bab4fbc91666e9def9b97fce34f796789baa48082d122ee42c5a72e5a5110fff70187347b66"
        );
    }
}
