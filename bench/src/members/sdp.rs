//! The offers of a member, which get more m-lines with time, and what it reads of the answers: what is sent on which, and under which SSRC.

use distributary::secure::dtls::Fingerprint;

use crate::media::Kind;
use crate::sdp::{ABS_SEND_TIME_ID, AUDIO_LEVEL_ID, Credentials, MID_ID, OPUS, TRANSPORT_SEQUENCE_ID, VP8, VP8_RTX};

/// One m-line; its mid is its number.
#[derive(Clone, Debug)]
pub struct Line {
    pub kind: Kind,
    /// What is sent on it: the name of the track, and the SSRCs of media and retransmissions. Else it is for receiving.
    pub source: Option<(String, u32, u32)>,
}

pub fn offer(lines: &[Line], version: u32, credentials: &Credentials, fingerprint: &Fingerprint) -> String {
    let mids: Vec<String> = (0..lines.len()).map(|mid| mid.to_string()).collect();
    let mut sdp = format!(
        "v=0\r\no=- 4611731400430051336 {version} IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=group:BUNDLE {}\r\n\
         a=extmap-allow-mixed\r\na=msid-semantic: WMS *\r\n",
        mids.join(" ")
    );
    for (mid, line) in lines.iter().enumerate() {
        let (kind, formats) = match line.kind {
            Kind::Audio => ("audio", format!("{OPUS}")),
            Kind::Video => ("video", format!("{VP8} {VP8_RTX}")),
        };
        let direction = if line.source.is_some() { "sendonly" } else { "recvonly" };
        sdp += &format!(
            "m={kind} 9 UDP/TLS/RTP/SAVPF {formats}\r\nc=IN IP4 0.0.0.0\r\na=rtcp:9 IN IP4 0.0.0.0\r\na=ice-ufrag:{}\r\n\
             a=ice-pwd:{}\r\na=ice-options:trickle\r\na=fingerprint:{fingerprint}\r\na=setup:actpass\r\na=mid:{mid}\r\n\
             a=extmap:{ABS_SEND_TIME_ID} http://www.webrtc.org/experiments/rtp-hdrext/abs-send-time\r\n\
             a=extmap:{MID_ID} urn:ietf:params:rtp-hdrext:sdes:mid\r\na={direction}\r\na=rtcp-mux\r\n",
            credentials.ufrag, credentials.pwd
        );
        // Feedback on the path is wanted of what is sent, and not given of what is received: as publishers and viewers by default.
        if line.source.is_some() {
            let uri = "http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01";
            sdp += &format!("a=extmap:{TRANSPORT_SEQUENCE_ID} {uri}\r\n");
        }
        write_codec(&mut sdp, line);
        if let Some((name, media, retransmissions)) = &line.source {
            sdp += &format!("a=msid:load {name}\r\n");
            if line.kind == Kind::Video {
                sdp += &format!("a=ssrc-group:FID {media} {retransmissions}\r\na=ssrc:{retransmissions} cname:load\r\n");
            }
            sdp += &format!("a=ssrc:{media} cname:load\r\na=ssrc:{media} msid:load {name}\r\n");
        }
    }
    sdp
}

fn write_codec(sdp: &mut String, line: &Line) {
    let feedback = |number: u8| if line.source.is_some() { format!("a=rtcp-fb:{number} transport-cc\r\n") } else { String::new() };
    *sdp += &match line.kind {
        Kind::Audio => format!(
            "a=extmap:{AUDIO_LEVEL_ID} urn:ietf:params:rtp-hdrext:ssrc-audio-level\r\na=rtpmap:{OPUS} opus/48000/2\r\n{}\
             a=fmtp:{OPUS} minptime=10;useinbandfec=1\r\n",
            feedback(OPUS)
        ),
        Kind::Video => format!(
            "a=rtcp-rsize\r\na=rtpmap:{VP8} VP8/90000\r\n{}a=rtcp-fb:{VP8} ccm fir\r\na=rtcp-fb:{VP8} nack\r\n\
             a=rtcp-fb:{VP8} nack pli\r\na=rtpmap:{VP8_RTX} rtx/90000\r\na=fmtp:{VP8_RTX} apt={VP8}\r\n",
            feedback(VP8)
        ),
    };
}

/// Of each m-line that an answer sends on: its mid and the SSRC.
pub fn sent(answer: &str) -> Vec<(String, u32)> {
    let mut sent = Vec::new();
    for section in answer.split("\r\nm=").skip(1) {
        let value = |name: &str| section.lines().find_map(|line| line.strip_prefix("a=")?.strip_prefix(name)?.strip_prefix(':'));
        let ssrc = value("ssrc").and_then(|value| value.split(' ').next()?.parse().ok());
        if let (Some(mid), Some(ssrc), true) = (value("mid"), ssrc, section.lines().any(|line| line == "a=sendonly")) {
            sent.push((mid.trim().to_owned(), ssrc));
        }
    }
    sent
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_says_what_it_sends() {
        let answer = "v=0\r\ns=-\r\nm=audio 9 UDP/TLS/RTP/SAVPF 111\r\na=mid:0\r\na=recvonly\r\nm=audio 9 UDP/TLS/RTP/SAVPF 111\r\n\
             a=mid:1\r\na=sendonly\r\na=ssrc:77 cname:x\r\na=ssrc:77 msid:a b\r\nm=audio 9 UDP/TLS/RTP/SAVPF 111\r\na=mid:2\r\n\
             a=inactive\r\n";
        assert_eq!(sent(answer), [("1".to_owned(), 77)]);
    }
}
