//! LiveKit's interfaces towards applications: its services over Twirp ([`twirp`]), of which this is [`egress`], and what it tells by
//! itself ([`webhook`]). Messages are those of the crate `livekit-protocol`.

pub mod egress;
pub mod twirp;
pub mod webhook;

/// Letters and digits of an id that nobody can guess.
fn random_id() -> String {
    const ALPHABET: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
    let mut bytes = [0u8; 16];
    // As for sessions: without randomness nothing is safe.
    getrandom::fill(&mut bytes).expect("the operating system's random numbers");
    bytes.iter().map(|byte| char::from(ALPHABET[*byte as usize % ALPHABET.len()])).collect()
}
