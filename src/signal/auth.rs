//! Access tokens: JSON Web Tokens signed with HS256, with the claims that LiveKit's SDKs and tools make.
//!
//! `iss` names the API key, whose secret verifies the signature; `sub` is the identity; `exp` is required. `video` holds the
//! grants: `room` and `roomJoin` must be there and fit, `canPublish` and `canSubscribe` count as granted when left out (as they
//! do for LiveKit). A token that is missing or proves nothing is 401 (RFC 6750 §3.1 `invalid_token`); one that is genuine but
//! does not allow what is asked is 403 (`insufficient_scope`).
//!
//! Tokens of one algorithm are a few lines of RFC 7515 on top of ring's HMAC. Every library of the whole standard brings RSA,
//! elliptic curves and a C library to compile, and a choice of algorithms that an attacker may try to make.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::http::{HeaderMap, StatusCode, header};
use ring::hmac;
use serde::{Deserialize, Serialize};

use super::api::Purpose;
use crate::config::KeyRing;

/// Seconds by which the clocks of issuer and server may differ.
const LEEWAY_SECS: u64 = 10;
/// Bytes of a token that is looked at.
const TOKEN_BYTES_MAX: usize = 8 * 1024;

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Claims {
    /// API key.
    pub iss: String,
    /// Identity of the participant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sub: Option<String>,
    /// Unix time in seconds.
    pub exp: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nbf: Option<u64>,
    /// What a participant is called, and what its application says of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub attributes: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    #[serde(default)]
    pub video: VideoGrants,
}

/// LiveKit's `VideoGrant`, the fields that mean something here. Others are ignored.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct VideoGrants {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub room: Option<String>,
    pub room_join: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub can_publish: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub can_subscribe: Option<bool>,
    /// Text or anything else through data channels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub can_publish_data: Option<bool>,
    /// If any: `camera`, `microphone`, `screen_share`, `screen_share_audio`; nothing else may be published then.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub can_publish_sources: Vec<String>,
    /// May change its own name, metadata and attributes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub can_update_own_metadata: Option<bool>,
    /// Others are not told of it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub hidden: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub recorder: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub agent: bool,
    /// May make and end rooms.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub room_create: bool,
    /// May look after the members of `room`.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub room_admin: bool,
    /// May read the rooms of `/api/v1`.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub room_list: bool,
    /// May have rooms recorded, and read what was.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub room_record: bool,
}

/// Why a request is not let through. `Display` is the plain-text body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Denied {
    Missing,
    NotBearer,
    TooLong,
    NotJwt,
    Algorithm { found: String },
    UnknownKey,
    Signature,
    Expired,
    NotYet,
    Claim { name: &'static str },
    Claims { reason: String },
    NoRoomJoin,
    NoRoom,
    OtherRoom { granted: String, asked: String },
    NoPublish,
    NoSubscribe,
    NoRoomList,
    NoRoomRecord,
    NoRoomCreate,
    NoRoomAdmin,
}

impl Denied {
    pub fn status(&self) -> StatusCode {
        use Denied::*;
        match self {
            Missing
            | NotBearer
            | TooLong
            | NotJwt
            | Algorithm { .. }
            | UnknownKey
            | Signature
            | Expired
            | NotYet
            | Claim { .. }
            | Claims { .. } => StatusCode::UNAUTHORIZED,
            NoRoomJoin
            | NoRoom
            | OtherRoom { .. }
            | NoPublish
            | NoSubscribe
            | NoRoomList
            | NoRoomRecord
            | NoRoomCreate
            | NoRoomAdmin => StatusCode::FORBIDDEN,
        }
    }

    /// `WWW-Authenticate`. A request without a token gets no error code (RFC 6750 §3.1).
    pub fn challenge(&self) -> &'static str {
        match self {
            Denied::Missing => "Bearer realm=\"distributary\"",
            denied if denied.status() == StatusCode::FORBIDDEN => "Bearer realm=\"distributary\", error=\"insufficient_scope\"",
            _ => "Bearer realm=\"distributary\", error=\"invalid_token\"",
        }
    }
}

impl fmt::Display for Denied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use Denied::*;
        match self {
            Missing => f.write_str("A token is needed: send it as `Authorization: Bearer …`. `distributary token` makes one."),
            NotBearer => f.write_str("The Authorization header is not of the form `Bearer TOKEN`."),
            TooLong => write!(f, "The token is longer than {TOKEN_BYTES_MAX} bytes."),
            NotJwt => f.write_str("The token is not a JSON Web Token: it wants three base64url parts separated by dots."),
            Algorithm { found } => write!(f, "The token is signed with {found:?}; only HS256 is accepted."),
            UnknownKey => f.write_str("The token's issuer (iss) is no API key of this server."),
            Signature => f.write_str("The token's signature is wrong: it was not made with the secret of its API key."),
            Expired => f.write_str("The token has expired (exp). Make a new one."),
            NotYet => f.write_str("The token is not valid yet (nbf). Check the clocks."),
            Claim { name } => write!(f, "The token's claim {name} is missing or of the wrong type."),
            Claims { reason } => write!(f, "The token's claims are not as they should be: {reason}."),
            NoRoomJoin => f.write_str("The token does not allow joining a room: video.roomJoin is not true."),
            NoRoom => f.write_str("The token is for no room: video.room is missing."),
            OtherRoom { granted, asked } => write!(f, "The token is for the room {granted:?}, not {asked:?}."),
            NoPublish => f.write_str("The token does not allow publishing: video.canPublish is false."),
            NoSubscribe => f.write_str("The token does not allow watching: video.canSubscribe is false."),
            NoRoomList => f.write_str("The token does not allow listing rooms: video.roomList is not true."),
            NoRoomCreate => f.write_str("The token does not allow making rooms: video.roomCreate is not true."),
            NoRoomAdmin => f.write_str("The token does not allow looking after a room: video.roomAdmin is not true."),
            NoRoomRecord => f.write_str("The token does not allow recording: video.roomRecord is not true."),
        }
    }
}

/// Lets requests through that prove what they may.
pub struct Gate {
    keys: KeyRing,
    open: bool,
}

/// Whether `exp` and `nbf` count.
#[derive(Clone, Copy, PartialEq, Eq)]
enum When {
    Now,
    AnyTime,
}

impl Gate {
    /// `open`: a request without a token is let through; one with a token is still checked.
    pub fn new(keys: &KeyRing, open: bool) -> Self {
        Gate { keys: keys.clone(), open }
    }

    /// Lets a join through and tells the identity.
    pub fn join(&self, headers: &HeaderMap, room: &str, purpose: Purpose) -> Result<Option<String>, Denied> {
        let Some(claims) = self.claims(headers)? else { return Ok(None) };
        claims.allows(room, purpose)?;
        Ok(claims.sub)
    }

    /// Lets a member in: who it is comes from its token, which a room cannot do without. `token`: of the URL.
    pub fn member(&self, headers: &HeaderMap, token: Option<&str>) -> Result<Claims, Denied> {
        let token = match token {
            Some(token) => token,
            None => bearer(headers)?.ok_or(Denied::Missing)?,
        };
        let claims = self.verify(token, When::Now)?;
        if !claims.video.room_join {
            return Err(Denied::NoRoomJoin);
        }
        if claims.video.room.as_deref().is_none_or(str::is_empty) {
            return Err(Denied::NoRoom);
        }
        if claims.sub.as_deref().is_none_or(str::is_empty) {
            return Err(Denied::Claim { name: "sub" });
        }
        Ok(claims)
    }

    /// Lets a request to a session's URL through. The URL is itself a secret that only its maker has been told (RFC 9725 §5),
    /// and a stream may outlive the token it was started with: so no token is needed, and an expired one will do. A token that
    /// is sent must still be genuine and for this room.
    pub fn session(&self, headers: &HeaderMap, room: &str, purpose: Purpose) -> Result<(), Denied> {
        match bearer(headers)? {
            None => Ok(()),
            Some(token) => self.verify(token, When::AnyTime)?.allows(room, purpose),
        }
    }

    /// Lets a request to the API through.
    pub fn list(&self, headers: &HeaderMap) -> Result<(), Denied> {
        match self.claims(headers)? {
            Some(claims) if !claims.video.room_list => Err(Denied::NoRoomList),
            _ => Ok(()),
        }
    }

    /// Lets a request that makes or ends rooms through. Without a token nobody does that, on an open server neither: LiveKit's SDKs send one.
    pub fn create(&self, headers: &HeaderMap) -> Result<(), Denied> {
        let token = bearer(headers)?.ok_or(Denied::Missing)?;
        if self.verify(token, When::Now)?.video.room_create { Ok(()) } else { Err(Denied::NoRoomCreate) }
    }

    /// Lets who looks after a room through.
    pub fn admin(&self, headers: &HeaderMap, room: &str) -> Result<(), Denied> {
        let video = self.verify(bearer(headers)?.ok_or(Denied::Missing)?, When::Now)?.video;
        if !video.room_admin {
            return Err(Denied::NoRoomAdmin);
        }
        match video.room {
            Some(granted) if granted == room => Ok(()),
            Some(granted) => Err(Denied::OtherRoom { granted, asked: room.to_owned() }),
            None => Err(Denied::NoRoom),
        }
    }

    /// Lets a request about recordings through. `token`: of the URL (RFC 6750 §2.3), for links.
    pub fn record(&self, headers: &HeaderMap, token: Option<&str>) -> Result<(), Denied> {
        let claims = match token {
            Some(token) => Some(self.verify(token, When::Now)?),
            None => self.claims(headers)?,
        };
        match claims {
            Some(claims) if !claims.video.room_record => Err(Denied::NoRoomRecord),
            _ => Ok(()),
        }
    }

    /// None: no token, and none needed.
    fn claims(&self, headers: &HeaderMap) -> Result<Option<Claims>, Denied> {
        match bearer(headers)? {
            Some(token) => self.verify(token, When::Now).map(Some),
            None if self.open => Ok(None),
            None => Err(Denied::Missing),
        }
    }

    fn verify(&self, token: &str, when: When) -> Result<Claims, Denied> {
        verify(token, when, |issuer| self.keys.secret(issuer).map(|secret| mac_key(&secret)))
    }
}

/// Checks a JWS in compact serialization (RFC 7515 §5.2) and its claims (RFC 7519 §4.1).
fn verify(token: &str, when: When, key_of: impl Fn(&str) -> Option<hmac::Key>) -> Result<Claims, Denied> {
    if token.len() > TOKEN_BYTES_MAX {
        return Err(Denied::TooLong);
    }
    let (signed, signature) = token.rsplit_once('.').ok_or(Denied::NotJwt)?;
    let (header, claims) = signed.split_once('.').ok_or(Denied::NotJwt)?;
    let (header, claims) = (base64url(header).ok_or(Denied::NotJwt)?, base64url(claims).ok_or(Denied::NotJwt)?);
    let header: Header = serde_json::from_slice(&header).map_err(|_| Denied::NotJwt)?;
    if header.alg != "HS256" {
        return Err(Denied::Algorithm { found: header.alg.chars().take(16).collect() });
    }
    // The issuer is read before the signature is checked only to find the secret to check it with.
    let issuer: Issuer = serde_json::from_slice(&claims).map_err(|_| Denied::Claim { name: "iss" })?;
    let key = key_of(&issuer.iss).ok_or(Denied::UnknownKey)?;
    let signature = base64url(signature).ok_or(Denied::NotJwt)?;
    hmac::verify(&key, signed.as_bytes(), &signature).map_err(|_| Denied::Signature)?;
    let claims: Claims = serde_json::from_slice(&claims).map_err(|error| Denied::Claims { reason: error.to_string() })?;
    if when == When::Now {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        if claims.exp.saturating_add(LEEWAY_SECS) <= now {
            return Err(Denied::Expired);
        }
        if claims.nbf.is_some_and(|nbf| nbf > now.saturating_add(LEEWAY_SECS)) {
            return Err(Denied::NotYet);
        }
    }
    Ok(claims)
}

/// Makes a token: of [`Claims`], or of others that mean nothing here.
pub fn sign(claims: &impl Serialize, secret: &str) -> serde_json::Result<String> {
    let header = r#"{"alg":"HS256","typ":"JWT"}"#;
    let signed = format!("{}.{}", to_base64url(header.as_bytes()), to_base64url(&serde_json::to_vec(claims)?));
    let signature = hmac::sign(&mac_key(secret), signed.as_bytes());
    Ok(format!("{signed}.{}", to_base64url(signature.as_ref())))
}

fn mac_key(secret: &str) -> hmac::Key {
    hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes())
}

impl Claims {
    fn allows(&self, room: &str, purpose: Purpose) -> Result<(), Denied> {
        if !self.video.room_join {
            return Err(Denied::NoRoomJoin);
        }
        let granted = self.video.room.as_deref().filter(|room| !room.is_empty()).ok_or(Denied::NoRoom)?;
        if granted != room {
            return Err(Denied::OtherRoom { granted: granted.to_owned(), asked: room.to_owned() });
        }
        match purpose {
            Purpose::Publish if self.video.can_publish == Some(false) => Err(Denied::NoPublish),
            Purpose::Watch if self.video.can_subscribe == Some(false) => Err(Denied::NoSubscribe),
            _ => Ok(()),
        }
    }
}

/// The part of a token's header that decides anything (RFC 7515 §4.1.1).
#[derive(Deserialize)]
struct Header {
    alg: String,
}

#[derive(Deserialize)]
struct Issuer {
    iss: String,
}

/// The token of `Authorization: Bearer …` (RFC 6750 §2.1; the scheme's case does not matter, RFC 9110 §11.1).
fn bearer(headers: &HeaderMap) -> Result<Option<&str>, Denied> {
    let Some(value) = headers.get(header::AUTHORIZATION) else { return Ok(None) };
    let (scheme, token) = value.to_str().ok().and_then(|value| value.trim().split_once(' ')).ok_or(Denied::NotBearer)?;
    let token = token.trim();
    if !scheme.eq_ignore_ascii_case("bearer") || token.is_empty() {
        return Err(Denied::NotBearer);
    }
    Ok(Some(token))
}

/// Base64url without padding (RFC 4648 §5).
pub(super) fn base64url(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len() * 3 / 4);
    let (mut bits, mut count) = (0u32, 0);
    for byte in text.bytes() {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'-' => 62,
            b'_' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
        }
    }
    Some(bytes)
}

fn to_base64url(bytes: &[u8]) -> String {
    encoded(bytes, b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")
}

/// Base64 with padding (RFC 4648 §4).
pub fn to_base64(bytes: &[u8]) -> String {
    let mut text = encoded(bytes, b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/");
    while !text.len().is_multiple_of(4) {
        text.push('=');
    }
    text
}

fn encoded(bytes: &[u8], alphabet: &[u8; 64]) -> String {
    let mut text = String::with_capacity(bytes.len() * 4 / 3 + 3);
    for chunk in bytes.chunks(3) {
        let bits = chunk.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for index in 0..=chunk.len() {
            text.push(char::from(alphabet[(bits >> (18 - 6 * index) & 63) as usize]));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::config::Keys;

    const SECRET: &str = "0123456789abcdef0123456789abcdef";

    fn now() -> u64 {
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
    }

    fn gate(open: bool) -> Gate {
        Gate::new(&Keys(BTreeMap::from([("k".to_owned(), SECRET.to_owned())])).into(), open)
    }

    fn claims() -> Claims {
        let video = VideoGrants { room: Some("a".into()), room_join: true, ..VideoGrants::default() };
        Claims { iss: "k".into(), sub: Some("ada".into()), exp: now() + 60, video, ..Claims::default() }
    }

    fn headers(token: &str) -> HeaderMap {
        HeaderMap::from_iter([(header::AUTHORIZATION, format!("Bearer {token}").parse().unwrap())])
    }

    fn refused(claims: &Claims) -> Denied {
        gate(false).join(&headers(&sign(claims, SECRET).unwrap()), "a", Purpose::Publish).unwrap_err()
    }

    /// A token with any header and claims, without a signature.
    fn forged(header: &str, claims: &str) -> String {
        format!("{}.{}.", to_base64url(header.as_bytes()), to_base64url(claims.as_bytes()))
    }

    /// RFC 7515 appendix A.1, made by others.
    #[test]
    fn the_rfcs_example_verifies() {
        let key = "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow";
        let signed = "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmN\
                      vbS9pc19yb290Ijp0cnVlfQ";
        let token = format!("{signed}.dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk");
        let key = hmac::Key::new(hmac::HMAC_SHA256, &base64url(key).unwrap());
        let verify = |token: &str, when| verify(token, when, |issuer| (issuer == "joe").then(|| key.clone()));
        assert_eq!(verify(&token, When::AnyTime).unwrap().exp, 1_300_819_380);
        assert_eq!(verify(&token, When::Now).unwrap_err(), Denied::Expired);
        assert_eq!(verify(&token.replace("dBjf", "dBjg"), When::AnyTime).unwrap_err(), Denied::Signature);
    }

    #[test]
    fn keys_that_are_replaced_count_at_once() {
        let keys = KeyRing::from(Keys(BTreeMap::from([("k".to_owned(), SECRET.to_owned())])));
        let gate = Gate::new(&keys, false);
        let join = |key: &str| {
            let token = sign(&Claims { iss: key.into(), ..claims() }, SECRET).unwrap();
            gate.join(&headers(&token), "a", Purpose::Publish)
        };
        assert!(join("k").is_ok() && join("new") == Err(Denied::UnknownKey));
        keys.replace(Keys(BTreeMap::from([("new".to_owned(), SECRET.to_owned())])));
        assert!(join("new").is_ok() && join("k") == Err(Denied::UnknownKey));
    }

    #[test]
    fn base64url_goes_both_ways() {
        for length in 0..70u8 {
            let bytes: Vec<u8> = (0..length).map(|byte| byte.wrapping_mul(89)).collect();
            assert_eq!(base64url(&to_base64url(&bytes)), Some(bytes));
        }
        assert_eq!((base64url("a+b/"), base64url("YQ=="), base64url("é")), (None, None, None));
    }

    #[test]
    fn base64_is_as_in_rfc_4648() {
        for (text, wanted) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")] {
            assert_eq!(to_base64(text.as_bytes()), wanted);
        }
        assert_eq!(to_base64(&[0xfb, 0xff]), "+/8=");
    }

    #[test]
    fn a_good_token_tells_the_identity() {
        let token = sign(&claims(), SECRET).unwrap();
        assert_eq!(gate(false).join(&headers(&token), "a", Purpose::Publish), Ok(Some("ada".into())));
        assert_eq!(gate(false).join(&headers(&token), "a", Purpose::Watch), Ok(Some("ada".into())));
        let lower = HeaderMap::from_iter([(header::AUTHORIZATION, format!("bearer  {token}").parse().unwrap())]);
        assert!(gate(false).join(&lower, "a", Purpose::Publish).is_ok());
    }

    #[test]
    fn what_proves_nothing_is_401() {
        let gate = gate(false);
        let join = |token: &str| gate.join(&headers(token), "a", Purpose::Publish).unwrap_err();
        assert_eq!(gate.join(&HeaderMap::new(), "a", Purpose::Publish), Err(Denied::Missing));
        let basic = HeaderMap::from_iter([(header::AUTHORIZATION, "Basic eDp5".parse().unwrap())]);
        assert_eq!(gate.join(&basic, "a", Purpose::Publish), Err(Denied::NotBearer));
        for junk in ["x", "x.y", "x.y.z", "..", "a.b.c.d", "é"] {
            assert_eq!(join(junk), if junk == "é" { Denied::NotBearer } else { Denied::NotJwt }, "{junk}");
        }
        assert_eq!(join(&"x".repeat(9_000)), Denied::TooLong);
        let body = format!("{{\"iss\":\"k\",\"exp\":{},\"video\":{{\"room\":\"a\",\"roomJoin\":true}}}}", now() + 60);
        for algorithm in ["none", "None", "RS256", "HS512", "ES256"] {
            let token = forged(&format!("{{\"alg\":\"{algorithm}\",\"typ\":\"JWT\"}}"), &body);
            assert_eq!(join(&token), Denied::Algorithm { found: algorithm.into() });
        }
        assert_eq!(join(&forged("{\"alg\":\"HS256\"}", &body)), Denied::Signature);
        assert_eq!(join(&sign(&claims(), "another secret of thirty-two bytes").unwrap()), Denied::Signature);
        assert_eq!(refused(&Claims { iss: "other".into(), ..claims() }), Denied::UnknownKey);
        assert_eq!(refused(&Claims { exp: now() - 60, ..claims() }), Denied::Expired);
        assert_eq!(refused(&Claims { nbf: Some(now() + 60), ..claims() }), Denied::NotYet);
        for claims in ["{}", "{\"iss\":\"k\"}", "{\"iss\":\"k\",\"exp\":\"soon\"}", "{\"iss\":7}", "[]"] {
            assert_eq!(join(&forged("{\"alg\":\"HS256\"}", claims)).status(), StatusCode::UNAUTHORIZED, "{claims}");
        }
    }

    #[test]
    fn a_signed_token_without_expiry_is_not_taken() {
        let forged = forged(r#"{"alg":"HS256"}"#, r#"{"iss":"k","video":{"room":"a","roomJoin":true}}"#);
        let signed = forged.trim_end_matches('.');
        let token = format!("{signed}.{}", to_base64url(hmac::sign(&mac_key(SECRET), signed.as_bytes()).as_ref()));
        let denied = gate(false).join(&headers(&token), "a", Purpose::Watch).unwrap_err();
        assert!(denied.status() == StatusCode::UNAUTHORIZED && denied.to_string().contains("exp"), "{denied}");
    }

    #[test]
    fn what_is_not_granted_is_403() {
        let with = |change: fn(&mut VideoGrants)| {
            let mut claims = claims();
            change(&mut claims.video);
            claims
        };
        assert_eq!(refused(&with(|video| video.room_join = false)), Denied::NoRoomJoin);
        assert_eq!(refused(&with(|video| video.room = None)), Denied::NoRoom);
        let other = refused(&with(|video| video.room = Some("b".into())));
        assert_eq!(other.to_string(), "The token is for the room \"b\", not \"a\".");
        assert_eq!(other.status(), StatusCode::FORBIDDEN);
        assert_eq!(refused(&with(|video| video.can_publish = Some(false))), Denied::NoPublish);
        let token = sign(&with(|video| video.can_subscribe = Some(false)), SECRET).unwrap();
        assert_eq!(gate(false).join(&headers(&token), "a", Purpose::Watch), Err(Denied::NoSubscribe));
        assert_eq!(gate(false).list(&headers(&token)), Err(Denied::NoRoomList));
        let token = sign(&with(|video| video.room_list = true), SECRET).unwrap();
        assert_eq!(gate(false).list(&headers(&token)), Ok(()));
    }

    #[test]
    fn an_open_server_still_checks_what_it_is_sent() {
        assert_eq!(gate(true).join(&HeaderMap::new(), "any", Purpose::Publish), Ok(None));
        assert_eq!(gate(true).list(&HeaderMap::new()), Ok(()));
        assert_eq!(gate(true).join(&headers("x.y.z"), "any", Purpose::Publish), Err(Denied::NotJwt));
    }

    #[test]
    fn a_session_outlives_its_token_but_not_another_rooms() {
        let old = sign(&Claims { exp: now() - 600, ..claims() }, SECRET).unwrap();
        assert_eq!(gate(false).session(&headers(&old), "a", Purpose::Publish), Ok(()));
        assert_eq!(gate(false).session(&HeaderMap::new(), "a", Purpose::Publish), Ok(()));
        assert!(matches!(gate(false).session(&headers(&old), "b", Purpose::Publish), Err(Denied::OtherRoom { .. })));
        assert!(gate(false).session(&headers("x.y.z"), "a", Purpose::Publish).is_err());
    }
}
