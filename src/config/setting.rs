//! How each type of option is read from TOML, from the text of a flag or variable, and written as TOML.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use toml::Value;

use super::{
    ALL_CODECS, Estimation, HoldChoice, HugePages, IceServer, IoChoice, Keys, LogFormat, RecordFiles, RecordFormat, RecordSync,
    Secret, Steer,
};
use crate::rtp::config::Codec;

/// Bytes of a secret: HS256 wants a key as long as its hash (RFC 7518 §3.2).
pub const SECRET_BYTES_MIN: usize = 32;

/// A type an option can have. `range` is inclusive and means something for numbers only.
pub trait Setting: Sized {
    /// None if the value is of the wrong type or out of range.
    fn read(value: &Value, range: (i64, i64)) -> Option<Self>;
    /// As a TOML value; None if there is nothing to write (an option without a default).
    fn write(&self) -> Option<String>;
    /// Completes the sentence "must be …".
    fn wanted(range: (i64, i64)) -> String;
    /// The text of a flag or an environment variable as TOML. Text that is no TOML of this type is left a string, which
    /// `read` then refuses.
    fn from_text(text: &str) -> Value {
        Value::String(text.to_owned())
    }
    /// Whether its flag may be given more than once.
    const LIST: bool = false;
    /// Whether its value must not end up in a log.
    const SECRET: bool = false;
}

/// Parses `text` as the right-hand side of a TOML assignment.
fn toml_value(text: &str) -> Option<Value> {
    format!("value = {text}").parse::<toml::Table>().ok()?.remove("value")
}

fn quoted(text: &str) -> String {
    Value::String(text.to_owned()).to_string()
}

macro_rules! whole_number {
    ($($type:ty),*) => {$(
        impl Setting for $type {
            fn read(value: &Value, range: (i64, i64)) -> Option<Self> {
                let number = value.as_integer().filter(|number| (range.0..=range.1).contains(number))?;
                <$type>::try_from(number).ok()
            }
            fn write(&self) -> Option<String> {
                Some(self.to_string())
            }
            fn wanted(range: (i64, i64)) -> String {
                format!("a whole number from {} to {}", range.0, range.1)
            }
            fn from_text(text: &str) -> Value {
                text.trim().parse().map_or_else(|_| Value::String(text.to_owned()), Value::Integer)
            }
        }
    )*};
}
whole_number!(u16, usize);

impl Setting for String {
    fn read(value: &Value, _: (i64, i64)) -> Option<Self> {
        value.as_str().filter(|text| !text.is_empty()).map(str::to_owned)
    }
    fn write(&self) -> Option<String> {
        Some(quoted(self))
    }
    fn wanted(_: (i64, i64)) -> String {
        "a text that is not empty".into()
    }
}

impl Setting for Secret {
    fn read(value: &Value, range: (i64, i64)) -> Option<Self> {
        String::read(value, range).map(Secret)
    }
    fn write(&self) -> Option<String> {
        None
    }
    fn wanted(range: (i64, i64)) -> String {
        String::wanted(range)
    }
    const SECRET: bool = true;
}

impl Setting for bool {
    fn read(value: &Value, _: (i64, i64)) -> Option<Self> {
        value.as_bool()
    }
    fn write(&self) -> Option<String> {
        Some(self.to_string())
    }
    fn wanted(_: (i64, i64)) -> String {
        "true or false".into()
    }
    fn from_text(text: &str) -> Value {
        text.trim().parse().map_or_else(|_| Value::String(text.to_owned()), Value::Boolean)
    }
}

impl Setting for IpAddr {
    fn read(value: &Value, _: (i64, i64)) -> Option<Self> {
        value.as_str()?.trim_matches(['[', ']']).parse().ok()
    }
    fn write(&self) -> Option<String> {
        Some(quoted(&self.to_string()))
    }
    fn wanted(_: (i64, i64)) -> String {
        "an IPv4 or IPv6 address without a port".into()
    }
}

impl Setting for PathBuf {
    fn read(value: &Value, _: (i64, i64)) -> Option<Self> {
        value.as_str().filter(|text| !text.is_empty()).map(PathBuf::from)
    }
    fn write(&self) -> Option<String> {
        Some(quoted(&self.to_string_lossy()))
    }
    fn wanted(_: (i64, i64)) -> String {
        "a path".into()
    }
}

impl<T: Setting> Setting for Option<T> {
    const SECRET: bool = T::SECRET;
    fn read(value: &Value, range: (i64, i64)) -> Option<Self> {
        T::read(value, range).map(Some)
    }
    fn write(&self) -> Option<String> {
        self.as_ref().and_then(T::write)
    }
    fn wanted(range: (i64, i64)) -> String {
        T::wanted(range)
    }
    fn from_text(text: &str) -> Value {
        T::from_text(text)
    }
}

impl<T: Setting> Setting for Vec<T> {
    const LIST: bool = true;
    fn read(value: &Value, range: (i64, i64)) -> Option<Self> {
        value.as_array()?.iter().map(|item| T::read(item, range)).collect()
    }
    fn write(&self) -> Option<String> {
        Some(format!("[{}]", self.iter().filter_map(T::write).collect::<Vec<_>>().join(", ")))
    }
    fn wanted(range: (i64, i64)) -> String {
        format!("a list, each item {}", T::wanted(range))
    }
    /// Items separated by commas, or a whole TOML array.
    fn from_text(text: &str) -> Value {
        if text.trim_start().starts_with('[')
            && let Some(array @ Value::Array(_)) = toml_value(text)
        {
            return array;
        }
        Value::Array(text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(T::from_text).collect())
    }
}

macro_rules! choice_setting {
    ($($type:ty),*) => {$(
        impl Setting for $type {
            fn read(value: &Value, _: (i64, i64)) -> Option<Self> {
                Self::from_name(value.as_str()?)
            }
            fn write(&self) -> Option<String> {
                Some(quoted(self.name().as_ref()))
            }
            fn wanted(_: (i64, i64)) -> String {
                one_of(Self::NAMES)
            }
        }
    )*};
}
choice_setting!(Estimation, HoldChoice, HugePages, IoChoice, LogFormat, RecordFiles, RecordFormat, RecordSync, Steer);

fn one_of(names: &[&str]) -> String {
    format!("one of {}", names.join(", "))
}

impl Setting for Codec {
    fn read(value: &Value, _: (i64, i64)) -> Option<Self> {
        let name = value.as_str()?;
        ALL_CODECS.into_iter().find(|codec| codec.name().eq_ignore_ascii_case(name))
    }
    fn write(&self) -> Option<String> {
        Some(quoted(self.name()))
    }
    fn wanted(_: (i64, i64)) -> String {
        one_of(&ALL_CODECS.map(Codec::name))
    }
}

impl Setting for Keys {
    const SECRET: bool = true;
    fn read(value: &Value, _: (i64, i64)) -> Option<Self> {
        let read = |(key, secret): (&String, &Value)| {
            let secret = secret.as_str().filter(|secret| secret.len() >= SECRET_BYTES_MIN)?;
            (!key.is_empty()).then(|| (key.clone(), secret.to_owned()))
        };
        Some(Keys(value.as_table()?.iter().map(read).collect::<Option<BTreeMap<_, _>>>()?))
    }
    fn write(&self) -> Option<String> {
        None
    }
    fn wanted(_: (i64, i64)) -> String {
        format!("pairs of a key and its secret of at least {SECRET_BYTES_MIN} bytes")
    }
    /// `key:secret`, several separated by commas.
    fn from_text(text: &str) -> Value {
        let pair = |pair: &str| pair.trim().split_once(':').map(|(key, secret)| (key.to_owned(), Value::String(secret.to_owned())));
        match text.split(',').map(pair).collect::<Option<toml::Table>>() {
            Some(pairs) => Value::Table(pairs),
            None => Value::String(text.to_owned()),
        }
    }
}

impl Setting for IceServer {
    fn read(value: &Value, _: (i64, i64)) -> Option<Self> {
        let table = value.as_table()?;
        if table.keys().any(|key| !["urls", "username", "credential"].contains(&key.as_str())) {
            return None;
        }
        let text = |key: &str| match table.get(key) {
            None => Some(None),
            Some(value) => value.as_str().map(|text| Some(text.to_owned())),
        };
        let urls = match table.get("urls")? {
            Value::String(url) => vec![url.clone()],
            urls => Vec::<String>::read(urls, (0, 0))?,
        };
        let server = IceServer { urls, username: text("username")?, credential: text("credential")? };
        let is_turn = |url: &String| url.starts_with("turn:") || url.starts_with("turns:");
        let known = |url: &String| is_turn(url) || url.starts_with("stun:") || url.starts_with("stuns:");
        // They end up in a quoted header field.
        let plain = |text: &String| text.bytes().all(|byte| (0x20..0x7f).contains(&byte) && !b"<>".contains(&byte));
        let complete = server.username.is_some() == server.credential.is_some();
        let texts_fit = server.urls.iter().chain(&server.username).chain(&server.credential).all(plain);
        (!server.urls.is_empty() && server.urls.iter().all(known) && complete && texts_fit).then_some(server)
    }
    fn write(&self) -> Option<String> {
        let mut text = format!("{{ urls = {}", self.urls.write()?);
        for (key, value) in [("username", &self.username), ("credential", &self.credential)] {
            if let Some(value) = value {
                text.push_str(&format!(", {key} = {}", quoted(value)));
            }
        }
        Some(text + " }")
    }
    fn wanted(_: (i64, i64)) -> String {
        "a table with urls (stun:, stuns:, turn: or turns:) and, together or not at all, username and credential, all in \
         printable ASCII"
            .into()
    }
    /// A bare URL, for a server without credentials.
    fn from_text(text: &str) -> Value {
        Value::Table(toml::Table::from_iter([("urls".to_owned(), Value::String(text.to_owned()))]))
    }
}
