//! A client made of the server's own protocol parts, for what a well-behaved stack cannot be made to send: its datagrams go into
//! a worker as they are, without a network between.

use std::net::SocketAddr;

use distributary::secure::dtls::{Association, Identity, Role};
use distributary::secure::srtp::{KeyingMaterial, Receiver, Sender};
use distributary::signal::api::{Purpose, SessionPath};
use distributary::units::{Micros, PayloadType, RtpTime, SequenceNumber, Ssrc};
use distributary::wire::rtp;
use distributary::wire::stun::{IntegrityKey, Request, Role as IceRole, write_request};

use super::World;

/// What [`offer`] announces.
pub const AUDIO: PayloadType = PayloadType(111);
pub const VIDEO: PayloadType = PayloadType(96);
pub const AUDIO_SSRC: Ssrc = Ssrc(0x0a0a_0a0a);
pub const VIDEO_SSRC: Ssrc = Ssrc(0x0b0b_0b0b);
/// And [`with_redundancy`], [`with_level`].
pub const RED: PayloadType = PayloadType(63);
pub const LEVEL: u8 = 1;

pub struct Native {
    pub address: SocketAddr,
    pub path: SessionPath,
    pub server_ufrag: String,
    pub server_password: String,
    pub answer: String,
    identity: Identity,
    handshake: Option<Association>,
    pub keys: Option<(Sender, Receiver)>,
    transactions: u64,
}

/// An offer with audio and VP8 whose sender does DTLS as a client.
pub fn offer(purpose: Purpose, identity: &Identity) -> String {
    let direction = if purpose == Purpose::Publish { "sendonly" } else { "recvonly" };
    let transport = format!(
        "c=IN IP4 0.0.0.0\r\na=rtcp-mux\r\na=ice-ufrag:nativ\r\na=ice-pwd:0123456789012345678901234567\r\n\
         a=fingerprint:{}\r\na=setup:active\r\na={direction}\r\n",
        identity.fingerprint()
    );
    let ssrc = |ssrc: Ssrc| {
        if purpose == Purpose::Publish { format!("a=ssrc:{} cname:native\r\n", ssrc.0) } else { String::new() }
    };
    format!(
        "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=group:BUNDLE 0 1\r\n\
         m=audio 9 UDP/TLS/RTP/SAVPF 111\r\n{transport}a=mid:0\r\na=rtpmap:111 opus/48000/2\r\n{}\
         m=video 9 UDP/TLS/RTP/SAVPF 96\r\n{transport}a=mid:1\r\na=rtpmap:96 VP8/90000\r\na=rtcp-fb:96 nack\r\n\
         a=rtcp-fb:96 nack pli\r\n{}",
        ssrc(AUDIO_SSRC),
        ssrc(VIDEO_SSRC)
    )
}

/// An offer whose sound may be redundant, and is asked for again.
pub fn with_redundancy(offer: String) -> String {
    let opus = "a=rtpmap:111 opus/48000/2\r\n";
    let more = format!("{opus}a=rtcp-fb:111 nack\r\na=rtpmap:63 red/48000/2\r\na=fmtp:63 111/111\r\n");
    offer.replace("SAVPF 111\r\n", "SAVPF 111 63\r\n").replace(opus, &more)
}

/// An offer whose sound says how loud it is.
pub fn with_level(offer: String) -> String {
    let opus = "a=rtpmap:111 opus/48000/2\r\n";
    offer.replace(opus, &format!("a=extmap:{LEVEL} urn:ietf:params:rtp-hdrext:ssrc-audio-level\r\n{opus}"))
}

impl Native {
    /// Joins, no more: the server has not heard of its address.
    pub fn join(world: &mut World, room: &str, purpose: Purpose) -> Native {
        Native::join_with(world, room, purpose, "")
    }

    /// With further lines about its video, and its RTX as 97.
    pub fn join_with(world: &mut World, room: &str, purpose: Purpose, lines: &str) -> Native {
        Native::join_as(world, room, purpose, |offer| {
            let offer = offer + lines;
            if lines.contains("apt=96") { offer.replace("SAVPF 96\r\n", "SAVPF 96 97\r\n") } else { offer }
        })
    }

    /// With another offer.
    pub fn join_as(world: &mut World, room: &str, purpose: Purpose, change: impl FnOnce(String) -> String) -> Native {
        let identity = Identity::generate().expect("a certificate");
        let offer = change(offer(purpose, &identity));
        let joined = world.server.join(room, purpose, offer).unwrap_or_else(|refusal| panic!("{refusal}"));
        let value = |name: &str| joined.answer.lines().find_map(|line| line.strip_prefix(name)).expect("in the answer").to_owned();
        let address = world.new_address();
        world.listen.push(address);
        Native {
            address,
            path: super::path(room, purpose, joined.session),
            server_ufrag: value("a=ice-ufrag:"),
            server_password: value("a=ice-pwd:"),
            answer: joined.answer,
            identity,
            handshake: None,
            keys: None,
            transactions: 0,
        }
    }

    /// A connectivity check with any user name and password.
    pub fn check_with(&mut self, ufrag: &str, password: &str) -> Vec<u8> {
        self.transactions += 1;
        let mut transaction_id = [0; 12];
        transaction_id[..8].copy_from_slice(&self.transactions.to_be_bytes());
        let request = Request {
            transaction_id,
            remote_ufrag: ufrag.as_bytes(),
            local_ufrag: b"nativ",
            priority: 1,
            role: IceRole::Controlling(1),
            use_candidate: true,
        };
        let mut space = [0; 256];
        let len = write_request(&mut space, &request, &IntegrityKey::new(password.as_bytes())).expect("room enough");
        space[..len].to_vec()
    }

    pub fn check(&mut self) -> Vec<u8> {
        let (ufrag, password) = (self.server_ufrag.clone(), self.server_password.clone());
        self.check_with(&ufrag, &password)
    }

    /// Checks its address: the session is claimed.
    pub fn claim(&mut self, world: &mut World) {
        let check = self.check();
        world.server.deliver(self.address, &check);
        world.run_millis(3);
    }

    /// DTLS up to the keys. `claim` comes first.
    pub fn connect(&mut self, world: &mut World) {
        let fingerprint = self.answer.lines().find_map(|line| line.strip_prefix("a=fingerprint:")).expect("a fingerprint");
        let fingerprint = fingerprint.trim().parse().expect("a fingerprint");
        let mut handshake =
            Association::new(&self.identity, Role::Client, vec![fingerprint], Micros(world.now)).expect("a handshake");
        for _ in 0..3_000 {
            while let Some(datagram) = handshake.poll_transmit() {
                world.server.deliver(self.address, &datagram);
            }
            world.tick();
            for (to, bytes) in std::mem::take(&mut world.heard) {
                if to == self.address && matches!(bytes.first(), Some(20..=63)) {
                    handshake.handle(&bytes, Micros(world.now)).expect("no DTLS error");
                }
            }
            if let Some(keys) = handshake.keys() {
                let material = KeyingMaterial::from_exporter(keys.profile, &keys.exporter).expect("keys");
                let (local, remote) = material.split(false);
                self.keys = Some((Sender::new(&local), Receiver::new(&remote, 4)));
                while let Some(datagram) = handshake.poll_transmit() {
                    world.server.deliver(self.address, &datagram);
                }
                self.handshake = Some(handshake);
                world.run_millis(5);
                return;
            }
            if handshake.poll_timeout().is_some_and(|at| at <= Micros(world.now)) {
                handshake.handle_timeout(Micros(world.now)).expect("no DTLS error");
            }
        }
        panic!("no keys: {}", world.server.tally());
    }

    /// An RTP packet, encrypted.
    pub fn rtp(&mut self, ssrc: Ssrc, payload_type: PayloadType, number: u16, payload: &[u8]) -> Vec<u8> {
        let (packet, header_len) = plain_rtp(ssrc, payload_type, number, payload);
        self.seal(&packet, header_len, number as u64)
    }

    /// A packet that was made elsewhere, encrypted; its header's length, and its index (RFC 3711 §3.3.1).
    pub fn seal(&mut self, packet: &[u8], header_len: usize, index: u64) -> Vec<u8> {
        let mut space = packet.to_vec();
        space.resize(packet.len() + 64, 0);
        let (sender, _) = self.keys.as_mut().expect("keys");
        let len = sender.protect_rtp(&mut space, header_len, packet.len(), index).expect("room enough");
        space.truncate(len);
        space
    }

    /// A packet of sound, encrypted. `index`: roll-overs and sequence number; `level`: what it says of itself in [`LEVEL`].
    pub fn sound(&mut self, payload_type: PayloadType, index: u64, time: RtpTime, level: Option<u8>, payload: &[u8]) -> Vec<u8> {
        let mut space = vec![0; 64 + payload.len() + 64];
        let level = level.map(|level| [level]);
        let elements = level.iter().map(|level| (LEVEL, &level[..]));
        let number = SequenceNumber(index as u16);
        let header_len =
            rtp::write_header(&mut space, false, payload_type, number, time, AUDIO_SSRC, elements).expect("room enough");
        let end = header_len + payload.len();
        space[header_len..end].copy_from_slice(payload);
        let (sender, _) = self.keys.as_mut().expect("keys");
        let len = sender.protect_rtp(&mut space, header_len, end, index).expect("room enough");
        space.truncate(len);
        space
    }

    /// The RTP packets that have come for it, decrypted; what came for others is forgotten.
    pub fn heard(&mut self, world: &mut World) -> Vec<Vec<u8>> {
        let (_, receiver) = self.keys.as_mut().expect("keys");
        let mut packets = Vec::new();
        for (to, mut bytes) in std::mem::take(&mut world.heard) {
            // RFC 5761 §4: what is RTCP.
            let is_rtp = bytes.len() > 12 && bytes[0] >> 6 == 2 && !(64..=95).contains(&(bytes[1] & 0x7f));
            if to != self.address || !is_rtp {
                continue;
            }
            let header_len = rtp::Header::parse(&bytes).expect("a header").header_len;
            let (len, _) = receiver.unprotect_rtp(&mut bytes, header_len).expect("authentic, and new");
            bytes.truncate(len);
            packets.push(bytes);
        }
        packets
    }

    /// RTCP of any content, encrypted.
    pub fn rtcp(&mut self, compound: &[u8]) -> Vec<u8> {
        let mut space = compound.to_vec();
        space.resize(compound.len() + 64, 0);
        let (sender, _) = self.keys.as_mut().expect("keys");
        let len = sender.protect_rtcp(&mut space, compound.len()).expect("room enough");
        space.truncate(len);
        space
    }
}

/// An RTP packet in the clear, and its header's length.
pub fn plain_rtp(ssrc: Ssrc, payload_type: PayloadType, number: u16, payload: &[u8]) -> (Vec<u8>, usize) {
    let mut space = vec![0; 64];
    let time = RtpTime(number as u32 * 3_000);
    let header_len = rtp::write_header(&mut space, true, payload_type, SequenceNumber(number), time, ssrc, std::iter::empty())
        .expect("room enough");
    space.truncate(header_len);
    space.extend_from_slice(payload);
    (space, header_len)
}
