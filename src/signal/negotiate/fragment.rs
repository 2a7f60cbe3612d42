//! SDP fragments of `application/trickle-ice-sdpfrag` (RFC 8840 §9), as WHIP and WHEP send them by PATCH (RFC 9725 §4.3).

use std::fmt::Write;
use std::net::SocketAddr;

use super::{LocalTransport, NegotiateError, candidate, offer};
use crate::limits;

/// What a PATCH told: more candidates, or (when `ufrag` is new) an ICE restart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IceFragment {
    /// Both or neither are there.
    pub ufrag: Option<String>,
    pub pwd: Option<String>,
    /// The first m-line's mid, if it has one.
    pub mid: Option<String>,
    /// At most [`limits::CANDIDATES_MAX`].
    pub candidates: Vec<SocketAddr>,
    pub end_of_candidates: bool,
}

/// Reads a fragment. Unknown lines are skipped: RFC 8840 §9.2 allows any attribute, and real clients send whole m-lines.
pub fn parse_fragment(body: &str) -> Result<IceFragment, NegotiateError> {
    if body.len() > limits::SDP_BYTES_MAX {
        return Err(NegotiateError::TooLong { bytes: body.len(), bytes_max: limits::SDP_BYTES_MAX });
    }
    let mut fragment = IceFragment::default();
    for line in body.lines() {
        let line = line.trim_end();
        if line.is_empty() {
            continue;
        }
        if line.as_bytes().get(1) != Some(&b'=') {
            return Err(NegotiateError::NotSdp { reason: "an SDP fragment consists of lines like a=candidate:…".into() });
        }
        let Some(attribute) = line.strip_prefix("a=") else { continue };
        let (name, value) = attribute.split_once(':').unwrap_or((attribute, ""));
        match name {
            // The same credentials may stand at session level and in each m-line; the first count.
            "ice-ufrag" if fragment.ufrag.is_none() => fragment.ufrag = Some(offer::ice_credential("ice-ufrag", value, 4)?),
            "ice-pwd" if fragment.pwd.is_none() => fragment.pwd = Some(offer::ice_credential("ice-pwd", value, 22)?),
            "mid" if fragment.mid.is_none() => fragment.mid = Some(value.chars().take(64).collect()),
            "candidate" if fragment.candidates.len() < limits::CANDIDATES_MAX => {
                fragment.candidates.extend(candidate::parse(value));
            }
            "end-of-candidates" => fragment.end_of_candidates = true,
            _ => {}
        }
    }
    if fragment.ufrag.is_some() != fragment.pwd.is_some() {
        return Err(NegotiateError::MissingIceCredentials);
    }
    Ok(fragment)
}

/// The answer to an ICE restart (RFC 9725 §4.3.3): our new credentials and all candidates. `ice-lite` and the options are
/// session-level (RFC 8839 §5.3); `kind` and `mid` are those of the offerer-tagged m-line, the only one with ICE of its own.
pub fn restart_fragment(local: &LocalTransport, kind: &str, mid: &str) -> String {
    let mut text = String::with_capacity(512);
    // Writing to a String cannot fail.
    let _ = write!(text, "a=ice-lite\r\na=ice-options:ice2 trickle\r\na=group:BUNDLE {mid}\r\n");
    let _ = write!(text, "m={kind} 9 UDP/TLS/RTP/SAVPF 0\r\na=mid:{mid}\r\n");
    let _ = write!(text, "a=ice-ufrag:{}\r\na=ice-pwd:{}\r\n", local.ufrag, local.pwd);
    for (index, address) in local.candidates.iter().enumerate() {
        let _ = write!(text, "a=candidate:{}\r\n", candidate::write(index, *address));
    }
    text.push_str("a=end-of-candidates\r\n");
    text
}
