//! Offers as Chromium makes them, with one video codec and one audio codec, and what the generator reads of an answer.

use std::net::SocketAddr;

use distributary::secure::dtls::{Fingerprint, Role};

pub const VP8: u8 = 96;
pub const VP8_RTX: u8 = 97;
pub const OPUS: u8 = 111;
/// Header extensions of the offers.
pub const MID_ID: u8 = 4;
pub const TRANSPORT_SEQUENCE_ID: u8 = 3;
pub const ABS_SEND_TIME_ID: u8 = 2;
pub const AUDIO_LEVEL_ID: u8 = 1;
pub const AUDIO_MID: &str = "0";
pub const VIDEO_MID: &str = "1";

/// Our part of ICE (RFC 8839 §5.4).
#[derive(Clone, Debug)]
pub struct Credentials {
    pub ufrag: String,
    pub pwd: String,
}

/// SSRCs of a publisher.
#[derive(Clone, Copy, Debug)]
pub struct Sources {
    pub audio: u32,
    pub video: u32,
    pub video_rtx: u32,
}

pub struct Offer<'a> {
    pub credentials: &'a Credentials,
    pub fingerprint: &'a Fingerprint,
    /// `actpass`, `active` or `passive`.
    pub setup: &'a str,
    pub audio: bool,
    pub video: bool,
    /// `None` for a viewer.
    pub sources: Option<Sources>,
    /// Transport-wide feedback is sent (a viewer) or wanted (a publisher).
    pub feedback: bool,
}

impl Offer<'_> {
    pub fn write(&self) -> String {
        let mids: Vec<&str> = [(self.audio, AUDIO_MID), (self.video, VIDEO_MID)].iter().filter(|m| m.0).map(|m| m.1).collect();
        let mut sdp = format!(
            "v=0\r\no=- 4611731400430051336 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=group:BUNDLE {}\r\n\
             a=extmap-allow-mixed\r\na=msid-semantic: WMS load\r\n",
            mids.join(" ")
        );
        if self.audio {
            self.write_media(&mut sdp, "audio", AUDIO_MID, &[OPUS]);
            sdp += &format!(
                "a=extmap:{AUDIO_LEVEL_ID} urn:ietf:params:rtp-hdrext:ssrc-audio-level\r\n\
                 a=rtpmap:{OPUS} opus/48000/2\r\n{}a=fmtp:{OPUS} minptime=10;useinbandfec=1\r\n",
                self.rtcp_feedback(OPUS)
            );
            if let Some(sources) = self.sources {
                sdp += &format!("a=ssrc:{} cname:load\r\na=ssrc:{} msid:load audio\r\n", sources.audio, sources.audio);
            }
        }
        if self.video {
            self.write_media(&mut sdp, "video", VIDEO_MID, &[VP8, VP8_RTX]);
            sdp += &format!(
                "a=rtcp-rsize\r\na=rtpmap:{VP8} VP8/90000\r\n{}\
                 a=rtcp-fb:{VP8} ccm fir\r\na=rtcp-fb:{VP8} nack\r\na=rtcp-fb:{VP8} nack pli\r\n\
                 a=rtpmap:{VP8_RTX} rtx/90000\r\na=fmtp:{VP8_RTX} apt={VP8}\r\n",
                self.rtcp_feedback(VP8)
            );
            if let Some(Sources { video, video_rtx, .. }) = self.sources {
                sdp += &format!(
                    "a=ssrc-group:FID {video} {video_rtx}\r\na=ssrc:{video} cname:load\r\na=ssrc:{video} msid:load video\r\n\
                     a=ssrc:{video_rtx} cname:load\r\na=ssrc:{video_rtx} msid:load video\r\n"
                );
            }
        }
        sdp
    }

    /// A viewer that does not mean to send feedback offers none.
    fn rtcp_feedback(&self, payload_type: u8) -> String {
        if self.feedback { format!("a=rtcp-fb:{payload_type} transport-cc\r\n") } else { String::new() }
    }

    fn write_media(&self, sdp: &mut String, kind: &str, mid: &str, payload_types: &[u8]) {
        let Credentials { ufrag, pwd } = self.credentials;
        let formats: Vec<String> = payload_types.iter().map(u8::to_string).collect();
        let direction = if self.sources.is_some() { "sendonly" } else { "recvonly" };
        *sdp += &format!(
            "m={kind} 9 UDP/TLS/RTP/SAVPF {}\r\nc=IN IP4 0.0.0.0\r\na=rtcp:9 IN IP4 0.0.0.0\r\na=ice-ufrag:{ufrag}\r\n\
             a=ice-pwd:{pwd}\r\na=ice-options:trickle\r\na=fingerprint:{}\r\na=setup:{}\r\na=mid:{mid}\r\n\
             a=extmap:{ABS_SEND_TIME_ID} http://www.webrtc.org/experiments/rtp-hdrext/abs-send-time\r\n\
             a=extmap:{MID_ID} urn:ietf:params:rtp-hdrext:sdes:mid\r\na={direction}\r\n",
            formats.join(" "),
            self.fingerprint,
            self.setup
        );
        if self.feedback {
            let uri = "http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01";
            *sdp += &format!("a=extmap:{TRANSPORT_SEQUENCE_ID} {uri}\r\n");
        }
        if self.sources.is_some() {
            *sdp += &format!("a=msid:load {kind}\r\n");
        }
        *sdp += "a=rtcp-mux\r\n";
    }
}

/// What matters of an answer. All m-lines share one transport (BUNDLE).
#[derive(Clone, Debug)]
pub struct Answer {
    pub ufrag: String,
    pub pwd: String,
    pub fingerprints: Vec<Fingerprint>,
    /// Our role.
    pub role: Role,
    /// The first host candidate over UDP.
    pub address: SocketAddr,
    /// Ids that were answered with an `a=extmap`.
    pub extensions: Vec<u8>,
    /// m-lines that were accepted.
    pub sections: usize,
}

impl Answer {
    pub fn read(sdp: &str) -> Result<Answer, String> {
        let value = |name: &str| sdp.lines().find_map(|line| line.strip_prefix("a=")?.strip_prefix(name)?.strip_prefix(':'));
        let wanted = |name: &str| value(name).map(str::trim).ok_or_else(|| format!("the answer has no a={name}"));
        let fingerprints = sdp
            .lines()
            .filter_map(|line| line.strip_prefix("a=fingerprint:"))
            .filter_map(|fingerprint| fingerprint.parse().ok())
            .collect();
        let role = match wanted("setup")? {
            "passive" => Role::Client,
            "active" => Role::Server,
            other => return Err(format!("the answer has a=setup:{other}")),
        };
        let extension = |line: &str| line.strip_prefix("a=extmap:")?.split([' ', '/']).next()?.parse().ok();
        let open = |line: &&str| line.starts_with("m=") && line.split(' ').nth(1) != Some("0");
        Ok(Answer {
            ufrag: wanted("ice-ufrag")?.to_owned(),
            pwd: wanted("ice-pwd")?.to_owned(),
            fingerprints,
            role,
            address: sdp.lines().find_map(candidate).ok_or("the answer has no candidate over UDP")?,
            extensions: sdp.lines().filter_map(extension).collect(),
            sections: sdp.lines().filter(open).count(),
        })
    }
}

/// RFC 8839 §5.1.
fn candidate(line: &str) -> Option<SocketAddr> {
    let fields: Vec<&str> = line.strip_prefix("a=candidate:")?.split_ascii_whitespace().collect();
    let &[_, _, transport, _, address, port, ..] = fields.as_slice() else { return None };
    if !transport.eq_ignore_ascii_case("udp") {
        return None;
    }
    Some(SocketAddr::new(address.parse().ok()?, port.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read() {
        let fingerprint = ["AB"; 32].join(":");
        let sdp = format!(
            "v=0\r\nm=audio 0 UDP/TLS/RTP/SAVPF 111\r\nm=video 7882 UDP/TLS/RTP/SAVPF 96\r\na=ice-ufrag:abcd\r\na=ice-pwd:{}\r\n\
             a=fingerprint:sha-256 {fingerprint}\r\na=setup:passive\r\na=extmap:4 urn:ietf:params:rtp-hdrext:sdes:mid\r\n\
             a=candidate:1 1 tcp 1 127.0.0.1 9 typ host\r\na=candidate:0 1 udp 2130706431 127.0.0.1 7882 typ host\r\n",
            "p".repeat(22)
        );
        let answer = Answer::read(&sdp).expect("valid");
        assert_eq!((answer.role, answer.sections), (Role::Client, 1));
        assert_eq!(answer.address, "127.0.0.1:7882".parse::<SocketAddr>().expect("an address"));
        assert_eq!((answer.extensions, answer.fingerprints.len()), (vec![4], 1));
        assert!(Answer::read("v=0\r\n").is_err());
    }
}
