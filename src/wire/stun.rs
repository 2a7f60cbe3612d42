//! STUN as ICE uses it: binding requests, indications and responses (RFC 8489, RFC 8445).
//!
//! [`Message::parse`] walks the attributes once and checks structure only. Nothing in a message may be believed before
//! [`Message::has_fingerprint`] and [`Message::has_integrity`] said yes. A message is the whole datagram: ICE multiplexes
//! over UDP, so trailing bytes are an error.
//!
//! An [`IntegrityKey`] keeps the HMAC's keyed state, so a check costs the hash of the message and no key schedule.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use hmac::{Hmac, Mac};
use sha1::Sha1;

use super::bytes::{Writer, array, u16_at, u32_at};
use crate::metrics::DropReason;

const HEADER_LEN: usize = 20;
const COOKIE: u32 = 0x2112_a442;
const BINDING: u16 = 1;

const MAPPED_ADDRESS: u16 = 0x0001;
const USERNAME: u16 = 0x0006;
const MESSAGE_INTEGRITY: u16 = 0x0008;
const ERROR_CODE: u16 = 0x0009;
const UNKNOWN_ATTRIBUTES: u16 = 0x000a;
const REALM: u16 = 0x0014;
const NONCE: u16 = 0x0015;
const MESSAGE_INTEGRITY_SHA256: u16 = 0x001c;
const PASSWORD_ALGORITHM: u16 = 0x001d;
const USERHASH: u16 = 0x001e;
const XOR_MAPPED_ADDRESS: u16 = 0x0020;
const PRIORITY: u16 = 0x0024;
const USE_CANDIDATE: u16 = 0x0025;
const FINGERPRINT: u16 = 0x8028;
const ICE_CONTROLLED: u16 = 0x8029;
const ICE_CONTROLLING: u16 = 0x802a;

/// Longest USERNAME (RFC 8489 §14.3).
const USERNAME_BYTES_MAX: usize = 509;

/// RFC 8489 §5.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    Request,
    Indication,
    Success,
    Error,
}

impl Class {
    /// The class bits C1 and C0 in a message type.
    const fn bits(self) -> u16 {
        match self {
            Class::Request => 0x000,
            Class::Indication => 0x010,
            Class::Success => 0x100,
            Class::Error => 0x110,
        }
    }
}

/// The role the sender claims, with its tie-breaker (RFC 8445 §7.1.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Controlling(u64),
    Controlled(u64),
}

pub type TransactionId = [u8; 12];

/// A short-term credential's password (RFC 8489 §9.1), ready to hash with.
#[derive(Clone)]
pub struct IntegrityKey(Hmac<Sha1>);

impl IntegrityKey {
    pub fn new(password: &[u8]) -> Self {
        // HMAC takes keys of any length, so the error of `new_from_slice` cannot happen; the fallback keeps this total.
        IntegrityKey(Hmac::new_from_slice(password).unwrap_or_else(|_| Hmac::new(&Default::default())))
    }

    /// HMAC over a message that is taken to end right after a MESSAGE-INTEGRITY at `end` (RFC 8489 §14.5).
    fn hash(&self, message: &[u8], end: usize) -> Option<Hmac<Sha1>> {
        let length: u16 = (end + 24).checked_sub(HEADER_LEN)?.try_into().ok()?;
        let mut hmac = self.0.clone();
        hmac.update(message.get(..2)?);
        hmac.update(&length.to_be_bytes());
        hmac.update(message.get(4..end)?);
        Some(hmac)
    }
}

impl std::fmt::Debug for IntegrityKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("IntegrityKey")
    }
}

/// A well-formed binding message. Of attributes that repeat, the first counts (RFC 8489 §14).
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    bytes: &'a [u8],
    pub class: Class,
    pub transaction_id: TransactionId,
    pub username: Option<&'a [u8]>,
    pub priority: Option<u32>,
    pub use_candidate: bool,
    pub role: Option<Role>,
    /// XOR-MAPPED-ADDRESS, or MAPPED-ADDRESS where that is missing.
    pub mapped_address: Option<SocketAddr>,
    /// Code of an error response, 300..=699.
    pub error_code: Option<u16>,
    /// The first attribute that must be understood and is not (RFC 8489 §6.3.1).
    pub unknown_attribute: Option<u16>,
    integrity_at: Option<usize>,
    fingerprint_at: Option<usize>,
}

impl<'a> Message<'a> {
    /// Reads a datagram. A method other than Binding is [`DropReason::StunUnexpected`].
    pub fn parse(datagram: &'a [u8]) -> Result<Message<'a>, DropReason> {
        let mut message = Message::read_header(datagram).ok_or(DropReason::StunMalformed)??;
        let mut at = HEADER_LEN;
        while at < datagram.len() {
            at = message.read_attribute(at).ok_or(DropReason::StunMalformed)?;
        }
        Ok(message)
    }

    fn read_header(bytes: &'a [u8]) -> Option<Result<Message<'a>, DropReason>> {
        let message_type = u16_at(bytes, 0)?;
        let length = u16_at(bytes, 2)? as usize;
        // RFC 8489 §5: two zero bits, the cookie, and a length that counts all but the header, in steps of four.
        if message_type >> 14 != 0 || u32_at(bytes, 4)? != COOKIE || !length.is_multiple_of(4) || HEADER_LEN + length != bytes.len()
        {
            return None;
        }
        let class = match message_type & 0x110 {
            0x000 => Class::Request,
            0x010 => Class::Indication,
            0x100 => Class::Success,
            _ => Class::Error,
        };
        if message_type & !0x110 != BINDING {
            return Some(Err(DropReason::StunUnexpected));
        }
        Some(Ok(Message {
            bytes,
            class,
            transaction_id: array(bytes, 8)?,
            username: None,
            priority: None,
            use_candidate: false,
            role: None,
            mapped_address: None,
            error_code: None,
            unknown_attribute: None,
            integrity_at: None,
            fingerprint_at: None,
        }))
    }

    /// Reads the attribute at `at` and returns where the next one begins.
    fn read_attribute(&mut self, at: usize) -> Option<usize> {
        let kind = u16_at(self.bytes, at)?;
        let len = u16_at(self.bytes, at + 2)? as usize;
        let start = at + 4;
        let value = self.bytes.get(start..start + len)?;
        // FINGERPRINT is the last attribute (RFC 8489 §14.7).
        if self.fingerprint_at.is_some() {
            return None;
        }
        if kind == FINGERPRINT {
            (len == 4).then_some(())?;
            self.fingerprint_at = Some(at);
        } else if self.integrity_at.is_none() {
            // What follows MESSAGE-INTEGRITY is not protected by it and is ignored (RFC 8489 §14.5).
            self.read_value(kind, value, at)?;
        }
        Some(start + len.next_multiple_of(4))
    }

    fn read_value(&mut self, kind: u16, value: &'a [u8], at: usize) -> Option<()> {
        match kind {
            MESSAGE_INTEGRITY => {
                (value.len() == 20).then_some(())?;
                self.integrity_at = Some(at);
            }
            USERNAME => {
                (value.len() <= USERNAME_BYTES_MAX).then_some(())?;
                self.username.get_or_insert(value);
            }
            PRIORITY => {
                let value: &[u8; 4] = value.try_into().ok()?;
                self.priority.get_or_insert(u32::from_be_bytes(*value));
            }
            USE_CANDIDATE => self.use_candidate = true,
            ICE_CONTROLLING => {
                let value: &[u8; 8] = value.try_into().ok()?;
                self.role.get_or_insert(Role::Controlling(u64::from_be_bytes(*value)));
            }
            ICE_CONTROLLED => {
                let value: &[u8; 8] = value.try_into().ok()?;
                self.role.get_or_insert(Role::Controlled(u64::from_be_bytes(*value)));
            }
            XOR_MAPPED_ADDRESS => self.mapped_address = Some(read_address(value, Some(&self.transaction_id))?),
            MAPPED_ADDRESS => {
                let address = read_address(value, None)?;
                self.mapped_address.get_or_insert(address);
            }
            ERROR_CODE => {
                // RFC 8489 §14.8: hundreds in three bits, then 0..=99.
                let &[class, number] = value.get(2..4)?.first_chunk()?;
                let code = (class & 7) as u16 * 100 + number as u16;
                self.error_code.get_or_insert(code);
            }
            UNKNOWN_ATTRIBUTES | REALM | NONCE | MESSAGE_INTEGRITY_SHA256 | PASSWORD_ALGORITHM | USERHASH => {}
            // 0x8000 and above may be ignored (RFC 8489 §14).
            0x8000.. => {}
            _ => {
                self.unknown_attribute.get_or_insert(kind);
            }
        }
        Some(())
    }

    /// The fragments of USERNAME: first the receiver's, then the sender's (RFC 8445 §7.2.2).
    pub fn ufrags(&self) -> Option<(&'a [u8], &'a [u8])> {
        let mut parts = self.username?.splitn(2, |byte| *byte == b':');
        Some((parts.next()?, parts.next()?))
    }

    /// The message ends in a FINGERPRINT, and it is right (RFC 8489 §14.7).
    pub fn has_fingerprint(&self) -> bool {
        let check = |at: usize| Some(u32_at(self.bytes, at + 4)? == fingerprint(self.bytes.get(..at)?));
        self.fingerprint_at.and_then(check).unwrap_or(false)
    }

    /// The message has a MESSAGE-INTEGRITY made with `key` (RFC 8489 §14.5). Compares in constant time.
    pub fn has_integrity(&self, key: &IntegrityKey) -> bool {
        let check = |at: usize| Some(key.hash(self.bytes, at)?.verify_slice(self.bytes.get(at + 4..at + 24)?).is_ok());
        self.integrity_at.and_then(check).unwrap_or(false)
    }
}

/// CRC-32 of the message before the attribute, which the header's length already counts (RFC 8489 §14.7).
fn fingerprint(message: &[u8]) -> u32 {
    let step = |crc: u32, byte: &u8| (crc >> 8) ^ CRC_TABLE[(crc as u8 ^ byte) as usize];
    !message.iter().fold(u32::MAX, step) ^ 0x5354_554e
}

/// CRC-32 (ISO-HDLC) of every byte.
const CRC_TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0xedb8_8320 } else { crc >> 1 };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
};

/// MAPPED-ADDRESS, or with a transaction id XOR-MAPPED-ADDRESS (RFC 8489 §14.1, §14.2).
fn read_address(value: &[u8], xor: Option<&TransactionId>) -> Option<SocketAddr> {
    let port = u16_at(value, 2)? ^ if xor.is_some() { (COOKIE >> 16) as u16 } else { 0 };
    let mask = xor.map_or(0, address_mask);
    let ip = match (value.get(1)?, value.len()) {
        (1, 8) => IpAddr::V4(Ipv4Addr::from_bits(u32_at(value, 4)? ^ (mask >> 96) as u32)),
        (2, 20) => IpAddr::V6(Ipv6Addr::from_bits(u128::from_be_bytes(array(value, 4)?) ^ mask)),
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

/// Cookie and transaction id: what an IPv6 address is XORed with. The high 32 bits are for IPv4.
fn address_mask(transaction_id: &TransactionId) -> u128 {
    let mut mask = [0; 16];
    let (cookie, id) = mask.split_at_mut(4);
    cookie.copy_from_slice(&COOKIE.to_be_bytes());
    id.copy_from_slice(transaction_id);
    u128::from_be_bytes(mask)
}

/// A message being written: the header's length is kept right for MESSAGE-INTEGRITY and FINGERPRINT as attributes come.
struct Builder<'a> {
    writer: Writer<'a>,
}

impl<'a> Builder<'a> {
    fn new(space: &'a mut [u8], class: Class, transaction_id: &TransactionId) -> Option<Self> {
        let mut writer = Writer::new(space);
        writer.u16(BINDING | class.bits())?;
        writer.u16(0)?;
        writer.u32(COOKIE)?;
        writer.bytes(transaction_id)?;
        Some(Builder { writer })
    }

    fn attribute(&mut self, kind: u16, parts: &[&[u8]]) -> Option<()> {
        let len: usize = parts.iter().map(|part| part.len()).sum();
        self.writer.u16(kind)?;
        self.writer.u16(len.try_into().ok()?)?;
        for part in parts {
            self.writer.bytes(part)?;
        }
        self.writer.align()
    }

    fn xor_mapped_address(&mut self, address: SocketAddr, transaction_id: &TransactionId) -> Option<()> {
        let port = (address.port() ^ (COOKIE >> 16) as u16).to_be_bytes();
        let mask = address_mask(transaction_id);
        // A dual-stack socket shows IPv4 peers as mapped IPv6 addresses; the client asked from IPv4.
        match address.ip().to_canonical() {
            IpAddr::V4(ip) => {
                let xored = (ip.to_bits() ^ (mask >> 96) as u32).to_be_bytes();
                self.attribute(XOR_MAPPED_ADDRESS, &[&[0, 1], &port, &xored])
            }
            IpAddr::V6(ip) => self.attribute(XOR_MAPPED_ADDRESS, &[&[0, 2], &port, &(ip.to_bits() ^ mask).to_be_bytes()]),
        }
    }

    /// Ends the message with MESSAGE-INTEGRITY (if there is a key) and FINGERPRINT, and returns its length.
    fn finish(mut self, key: Option<&IntegrityKey>) -> Option<usize> {
        if let Some(key) = key {
            let hmac = key.hash(self.writer.written(), self.writer.len())?;
            self.attribute(MESSAGE_INTEGRITY, &[&hmac.finalize().into_bytes()])?;
        }
        let length = self.writer.len() + 8 - HEADER_LEN;
        self.writer.set_u16(2, length.try_into().ok()?)?;
        let crc = fingerprint(self.writer.written());
        self.attribute(FINGERPRINT, &[&crc.to_be_bytes()])?;
        Some(self.writer.len())
    }
}

/// Answers a request that came from `source` (RFC 8445 §7.3.1.2). `None`: `space` is too small.
pub fn write_success(space: &mut [u8], transaction_id: &TransactionId, source: SocketAddr, key: &IntegrityKey) -> Option<usize> {
    let mut builder = Builder::new(space, Class::Success, transaction_id)?;
    builder.xor_mapped_address(source, transaction_id)?;
    builder.finish(Some(key))
}

/// The errors an ICE agent answers with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorCode {
    /// 400: no USERNAME or no MESSAGE-INTEGRITY (RFC 8489 §9.1.3).
    BadRequest,
    /// 401: unknown user or wrong MESSAGE-INTEGRITY (RFC 8489 §9.1.3).
    Unauthenticated,
    /// 420: an attribute that must be understood is not (RFC 8489 §6.3.1).
    UnknownAttribute(u16),
    /// 487: both agents claim the same role (RFC 8445 §7.3.1.1).
    RoleConflict,
}

impl ErrorCode {
    pub const fn code(self) -> u16 {
        match self {
            ErrorCode::BadRequest => 400,
            ErrorCode::Unauthenticated => 401,
            ErrorCode::UnknownAttribute(_) => 420,
            ErrorCode::RoleConflict => 487,
        }
    }

    pub const fn reason(self) -> &'static str {
        match self {
            ErrorCode::BadRequest => "Bad Request",
            ErrorCode::Unauthenticated => "Unauthenticated",
            ErrorCode::UnknownAttribute(_) => "Unknown Attribute",
            ErrorCode::RoleConflict => "Role Conflict",
        }
    }
}

/// Refuses a request. `key` is left out where the request was not authenticated (RFC 8489 §9.1.3).
pub fn write_error(
    space: &mut [u8],
    transaction_id: &TransactionId,
    error: ErrorCode,
    key: Option<&IntegrityKey>,
) -> Option<usize> {
    let mut builder = Builder::new(space, Class::Error, transaction_id)?;
    let code = error.code();
    builder.attribute(ERROR_CODE, &[&[0, 0, (code / 100) as u8, (code % 100) as u8], error.reason().as_bytes()])?;
    if let ErrorCode::UnknownAttribute(kind) = error {
        builder.attribute(UNKNOWN_ATTRIBUTES, &[&kind.to_be_bytes()])?;
    }
    builder.finish(key)
}

/// A connectivity check as a client sends it (RFC 8445 §7.2.2).
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    pub transaction_id: TransactionId,
    pub remote_ufrag: &'a [u8],
    pub local_ufrag: &'a [u8],
    pub priority: u32,
    pub role: Role,
    pub use_candidate: bool,
}

/// Writes a connectivity check; `key` is the remote password's. `None`: `space` is too small.
pub fn write_request(space: &mut [u8], request: &Request, key: &IntegrityKey) -> Option<usize> {
    let mut builder = Builder::new(space, Class::Request, &request.transaction_id)?;
    builder.attribute(USERNAME, &[request.remote_ufrag, b":", request.local_ufrag])?;
    builder.attribute(PRIORITY, &[&request.priority.to_be_bytes()])?;
    match request.role {
        Role::Controlling(tie_breaker) => builder.attribute(ICE_CONTROLLING, &[&tie_breaker.to_be_bytes()])?,
        Role::Controlled(tie_breaker) => builder.attribute(ICE_CONTROLLED, &[&tie_breaker.to_be_bytes()])?,
    }
    if request.use_candidate {
        builder.attribute(USE_CANDIDATE, &[])?;
    }
    builder.finish(Some(key))
}

/// The client's address from an answer to its request; `None` if it is another transaction's, no success, or not authentic.
/// `key` is the one the request was written with.
pub fn verify_success(datagram: &[u8], transaction_id: &TransactionId, key: &IntegrityKey) -> Option<SocketAddr> {
    let message = Message::parse(datagram).ok()?;
    let genuine = message.class == Class::Success
        && message.transaction_id == *transaction_id
        && message.has_fingerprint()
        && message.has_integrity(key);
    if genuine { message.mapped_address } else { None }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PASSWORD: &[u8] = b"VOkJxbRl1RmTxUk/WvJxBt";
    const TRANSACTION: TransactionId = [0xb7, 0xe7, 0xa7, 0x01, 0xbc, 0x34, 0xd6, 0x86, 0xfa, 0x87, 0xdf, 0xae];

    fn hex(text: &str) -> Vec<u8> {
        let digits: Vec<u8> = text.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
        let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).expect("ASCII"), 16).expect("hex");
        digits.chunks(2).map(byte).collect()
    }

    /// RFC 5769 §2.1.
    fn sample_request() -> Vec<u8> {
        hex("00 01 00 58 21 12 a4 42 b7 e7 a7 01 bc 34 d6 86 fa 87 df ae 80 22 00 10 53 54 55 4e 20 74 65 73 74 20 63 6c 69 65 6e
             74 00 24 00 04 6e 00 01 ff 80 29 00 08 93 2f f9 b1 51 26 3b 36 00 06 00 09 65 76 74 6a 3a 68 36 76 59 20 20 20 00 08
             00 14 9a ea a7 0c bf d8 cb 56 78 1e f2 b5 b2 d3 f2 49 c1 b5 71 a2 80 28 00 04 e5 7a 3b cf")
    }

    #[test]
    fn rfc_5769_sample_request() {
        let bytes = sample_request();
        let message = Message::parse(&bytes).expect("a message");
        assert_eq!(message.class, Class::Request);
        assert_eq!(message.transaction_id, TRANSACTION);
        assert_eq!(message.ufrags(), Some((&b"evtj"[..], &b"h6vY"[..])));
        assert_eq!(message.priority, Some(0x6e0001ff));
        assert_eq!(message.role, Some(Role::Controlled(0x932ff9b151263b36)));
        assert!(!message.use_candidate);
        assert!(message.has_fingerprint());
        assert!(message.has_integrity(&IntegrityKey::new(PASSWORD)));
        assert!(!message.has_integrity(&IntegrityKey::new(b"another")));
    }

    #[test]
    fn rfc_5769_sample_responses() {
        // §2.2 and §2.3: the same response to an IPv4 and an IPv6 client.
        let v4 = hex("01 01 00 3c 21 12 a4 42 b7 e7 a7 01 bc 34 d6 86 fa 87 df ae 80 22 00 0b 74 65 73 74 20 76 65 63 74 6f 72 20
                      00 20 00 08 00 01 a1 47 e1 12 a6 43 00 08 00 14 2b 91 f5 99 fd 9e 90 c3 8c 74 89 f9 2a f9 ba 53 f0 6b e7 d7
                      80 28 00 04 c0 7d 4c 96");
        let v6 = hex("01 01 00 48 21 12 a4 42 b7 e7 a7 01 bc 34 d6 86 fa 87 df ae 80 22 00 0b 74 65 73 74 20 76 65 63 74 6f 72 20
                      00 20 00 14 00 02 a1 47 01 13 a9 fa a5 d3 f1 79 bc 25 f4 b5 be d2 b9 d9 00 08 00 14 a3 82 95 4e 4b e6 7b f1
                      17 84 c9 7c 82 92 c2 75 bf e3 ed 41 80 28 00 04 c8 fb 0b 4c");
        let key = IntegrityKey::new(PASSWORD);
        assert_eq!(verify_success(&v4, &TRANSACTION, &key), "192.0.2.1:32853".parse().ok());
        let address = "[2001:db8:1234:5678:11:2233:4455:6677]:32853".parse().ok();
        assert_eq!(verify_success(&v6, &TRANSACTION, &key), address);
        assert_eq!(verify_success(&v6, &[0; 12], &key), None, "another transaction");
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let key = IntegrityKey::new(PASSWORD);
        let genuine = sample_request();
        for bit in 0..genuine.len() * 8 {
            let mut bytes = genuine.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let believed = Message::parse(&bytes).is_ok_and(|m| m.has_fingerprint() && m.has_integrity(&key));
            assert!(!believed, "bit {bit}");
        }
    }

    #[test]
    fn attributes_after_integrity_are_ignored() {
        let mut space = [0; 256];
        let key = IntegrityKey::new(PASSWORD);
        let mut builder = Builder::new(&mut space, Class::Request, &TRANSACTION).expect("space");
        builder.attribute(USERNAME, &[b"a:b"]).expect("space");
        let hmac = key.hash(builder.writer.written(), builder.writer.len()).expect("a hash");
        builder.attribute(MESSAGE_INTEGRITY, &[&hmac.finalize().into_bytes()]).expect("space");
        builder.attribute(USE_CANDIDATE, &[]).expect("space");
        let len = builder.finish(None).expect("space");
        let message = Message::parse(&space[..len]).expect("a message");
        assert!(message.has_integrity(&key) && message.has_fingerprint());
        assert!(!message.use_candidate);
    }

    #[test]
    fn unknown_attributes_and_methods_are_told() {
        let mut space = [0; 256];
        let mut builder = Builder::new(&mut space, Class::Request, &TRANSACTION).expect("space");
        builder.attribute(0x8fff, &[b"x"]).expect("space");
        builder.attribute(0x7001, &[b"x"]).expect("space");
        builder.attribute(0x7002, &[b"x"]).expect("space");
        let len = builder.finish(None).expect("space");
        let message = Message::parse(&space[..len]).expect("a message");
        assert_eq!(message.unknown_attribute, Some(0x7001));
        assert!(!message.has_integrity(&IntegrityKey::new(b"")));
        space[1] = 3; // Allocate
        assert_eq!(Message::parse(&space[..len]).err(), Some(DropReason::StunUnexpected));
        assert_eq!(Message::parse(&space[..len - 4]).err(), Some(DropReason::StunMalformed));
    }

    #[test]
    fn written_messages_read_back() {
        let key = IntegrityKey::new(PASSWORD);
        let mut space = [0xff; 256];
        let request = Request {
            transaction_id: TRANSACTION,
            remote_ufrag: b"server",
            local_ufrag: b"cli",
            priority: 12345,
            role: Role::Controlling(u64::MAX),
            use_candidate: true,
        };
        let len = write_request(&mut space, &request, &key).expect("space");
        let message = Message::parse(&space[..len]).expect("a message");
        assert!(message.has_fingerprint() && message.has_integrity(&key) && message.use_candidate);
        assert_eq!(message.ufrags(), Some((&b"server"[..], &b"cli"[..])));
        assert_eq!((message.priority, message.role), (Some(12345), Some(Role::Controlling(u64::MAX))));
        assert_eq!(write_request(&mut space[..len - 1], &request, &key), None);

        for address in ["192.0.2.9:1", "[2001:db8::9]:65535"] {
            let address = address.parse().expect("an address");
            let len = write_success(&mut space, &TRANSACTION, address, &key).expect("space");
            assert_eq!(verify_success(&space[..len], &TRANSACTION, &key), Some(address));
        }
        let mapped = "[::ffff:192.0.2.9]:7".parse().expect("an address");
        let len = write_success(&mut space, &TRANSACTION, mapped, &key).expect("space");
        assert_eq!(verify_success(&space[..len], &TRANSACTION, &key), "192.0.2.9:7".parse().ok());

        for error in [ErrorCode::BadRequest, ErrorCode::Unauthenticated, ErrorCode::RoleConflict, ErrorCode::UnknownAttribute(9)] {
            let len = write_error(&mut space, &TRANSACTION, error, Some(&key)).expect("space");
            let message = Message::parse(&space[..len]).expect("a message");
            assert_eq!((message.class, message.error_code), (Class::Error, Some(error.code())));
            assert!(message.has_fingerprint() && message.has_integrity(&key));
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(tail in prop::collection::vec(any::<u8>(), 0..120), kind in any::<u8>()) {
            let mut bytes = hex("00 01 00 00 21 12 a4 42 b7 e7 a7 01 bc 34 d6 86 fa 87 df ae");
            bytes.extend_from_slice(&[0, kind % 0x30, 0, 4]);
            bytes.extend_from_slice(&tail);
            bytes.truncate(bytes.len() & !3);
            let length = (bytes.len() - HEADER_LEN) as u16;
            bytes[2..4].copy_from_slice(&length.to_be_bytes());
            if let Ok(message) = Message::parse(&bytes) {
                message.ufrags();
                prop_assert!(!message.has_fingerprint());
                prop_assert!(!message.has_integrity(&IntegrityKey::new(PASSWORD)));
            }
            let _ = Message::parse(&tail);
        }
    }
}
