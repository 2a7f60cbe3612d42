//! Why an upload did not come to its end, in words that say what to do.

use std::error::Error;
use std::fmt::Write;
use std::io;

use crate::config::StoragePlan;

/// Characters of what a store says that are passed on.
const CHARS_MAX: usize = 300;

#[derive(Debug)]
pub enum Failure {
    /// The recording itself, or its journal.
    Local(io::Error),
    Store(object_store::Error),
    /// The store has accepted everything, and has something else under the name.
    Unconfirmed {
        key: String,
        wanted: u64,
        found: Option<u64>,
    },
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        Failure::Local(error)
    }
}

impl From<object_store::Error> for Failure {
    fn from(error: object_store::Error) -> Failure {
        Failure::Store(error)
    }
}

impl Failure {
    /// Whether there is no such file here.
    pub fn is_gone(&self) -> bool {
        matches!(self, Failure::Local(error) if error.kind() == io::ErrorKind::NotFound)
    }

    pub fn is_of_store(&self) -> bool {
        !matches!(self, Failure::Local(_))
    }

    /// Whether the store was reached, and answered that it has failed.
    pub fn is_answer(&self) -> bool {
        matches!(self, Failure::Store(error) if error.to_string().contains("Server returned"))
    }

    /// What happened, and what can be done. `address`: of the bucket.
    pub fn told(&self, plan: &StoragePlan, address: &str) -> String {
        match self {
            Failure::Local(error) => format!("the recording cannot be read: {error}"),
            Failure::Unconfirmed { key, wanted, found: None } => {
                format!("the store accepted {key} ({wanted} bytes), and has it not")
            }
            Failure::Unconfirmed { key, wanted, found: Some(found) } => {
                format!("the store has {found} bytes as {key}, not the {wanted} that it accepted")
            }
            Failure::Store(error) => {
                let said = said(error);
                let code = said.split(':').next().unwrap_or_default();
                match error {
                    object_store::Error::NotFound { .. } if code == "NoSuchBucket" => {
                        format!("there is no bucket {:?} at {address} ({said}): make it, or correct record.s3.bucket", plan.bucket)
                    }
                    object_store::Error::PermissionDenied { .. } | object_store::Error::Unauthenticated { .. } => {
                        let place = match plan.credentials {
                            Some(_) => "record.s3.access_key_id and secret_access_key",
                            None => "the credentials of the environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY)",
                        };
                        format!("the store at {address} refuses ({said}): check {place}, and what they allow with the bucket")
                    }
                    _ if said.contains("169.254.") => format!(
                        "there are no credentials ({said}): set record.s3.access_key_id and secret_access_key, or AWS_ACCESS_KEY_ID and \
                         AWS_SECRET_ACCESS_KEY"
                    ),
                    _ => format!("the store at {address} cannot be used: {said}"),
                }
            }
        }
    }
}

/// Code and message of an answer in XML, else the errors one below the other, without those that name the request and its time: a
/// reason that stays the same is not told again.
fn said(error: &object_store::Error) -> String {
    let whole = error.to_string();
    let mut text = String::new();
    if let Some(code) = element(&whole, "Code") {
        return format!("{code}: {}", element(&whole, "Message").unwrap_or_default()).chars().take(CHARS_MAX).collect();
    }
    let mut source = error.source();
    while let Some(error) = source {
        let said = error.to_string();
        if !said.contains("Error performing") && !text.contains(&said) {
            let _ = write!(text, "{}{said}", if text.is_empty() { "" } else { ": " });
        }
        source = error.source();
    }
    let text = if text.is_empty() { whole } else { text };
    text.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(CHARS_MAX).collect()
}

fn element<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let from = text.find(&format!("<{name}>"))? + name.len() + 2;
    let length = text[from..].find("</")?;
    Some(text[from..from + length].trim())
}
