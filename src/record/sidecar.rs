//! Beside each recording: what happened while it was made, a JSON object a line, and the names of both files.
//!
//! Each has `event`, `at_ms` (milliseconds of the file; negative if it was before its first frame) and `time` (the wall clock). Of the file:
//! `start` (its tracks, and whose they are), `end` (with `why` if another follows), `failed`, `completed` (after a crash), `paused`,
//! `resumed`, `omitted` (events, of too many in a second). Of its tracks: `gap`, `malformed`, `undescribed`, `clock` (it leapt), `layer` (another
//! encoding is recorded), `behind` (packets that the recorder missed). Of the room's members: `present` (when the file began), `joined`, `left`,
//! `published`, `unpublished`, `muted`, `unmuted`, `speakers` (who speaks now, with levels in dBov).

use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;

use serde_json::{Value, json};

use crate::limits::EVENTS_PER_SECOND;

/// What a file's name ends in while it is being recorded.
pub const UNFINISHED: &str = ".part";

/// The lines. Losing one loses no media: what cannot be written is left out.
pub struct Sidecar {
    file: Option<Box<dyn Write + Send>>,
    /// Told in this second of Unix time, and what was too much.
    second: i64,
    told: u32,
    omitted: u64,
}

impl Sidecar {
    pub fn new(file: impl Write + Send + 'static) -> Sidecar {
        Sidecar { file: Some(Box::new(file)), second: 0, told: 0, omitted: 0 }
    }

    /// Goes on behind the last line, which may have been cut off.
    pub fn append(path: &Path) -> std::io::Result<Sidecar> {
        let torn = std::fs::read(path).is_ok_and(|lines| lines.last().is_some_and(|last| *last != b'\n'));
        let mut file = OpenOptions::new().create(true).append(true).open(path)?;
        if torn {
            file.write_all(b"\n")?;
        }
        Ok(Sidecar::new(file))
    }

    /// The same as [`Sidecar::write`] for what may happen very often: [`EVENTS_PER_SECOND`] at most, and how many more there were.
    pub fn tell(&mut self, event: &str, at: i64, unix_millis: i64, fields: Value) {
        let second = unix_millis.div_euclid(1_000);
        if second != self.second {
            (self.second, self.told) = (second, 0);
            self.settle(at, unix_millis);
        }
        match self.told < EVENTS_PER_SECOND {
            true => self.write(event, at, unix_millis, fields),
            false => self.omitted += 1,
        }
        self.told = self.told.saturating_add(1);
    }

    /// Tells how many events were left out, if any were.
    pub fn settle(&mut self, at: i64, unix_millis: i64) {
        let omitted = std::mem::take(&mut self.omitted);
        if omitted > 0 {
            self.write("omitted", at, unix_millis, json!({ "events": omitted }));
        }
    }

    /// Writes an event. `at`: milliseconds of the recording, `unix_millis`: the wall clock then.
    pub fn write(&mut self, event: &str, at: i64, unix_millis: i64, mut fields: Value) {
        fields["event"] = json!(event);
        fields["at_ms"] = json!(at);
        fields["time"] = json!(time(unix_millis));
        let line = format!("{fields}\n");
        if self.file.as_mut().is_some_and(|file| file.write_all(line.as_bytes()).is_err()) {
            self.file = None;
        }
    }
}

/// A room's name as one part of a path: letters, digits, `-` and `_` stay, a dot too unless it comes first; of anything else the bytes
/// in hexadecimal after `%`. So two rooms never share a folder, and no name leads out of it.
pub fn folder_of(room: &str) -> String {
    let mut name = String::new();
    for byte in room.bytes() {
        let plain = byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_' || byte == b'.' && !name.is_empty();
        if plain {
            name.push(byte as char);
        } else {
            name.push_str(&format!("%{byte:02x}"));
        }
    }
    match name.len() {
        0 => "%".to_owned(),
        1..=200 => name,
        // A file system takes 255 bytes. What tells long names apart is a sum of all of it (FNV-1a).
        _ => {
            let sum = room.bytes().fold(0xcbf2_9ce4_8422_2325u64, |sum, byte| (sum ^ byte as u64).wrapping_mul(0x100_0000_01b3));
            format!("{}%{sum:016x}", &name[..180])
        }
    }
}

/// RFC 3339 in UTC, to the millisecond.
pub fn time(unix_millis: i64) -> String {
    let (year, month, day) = date(unix_millis.div_euclid(86_400_000));
    let millis = unix_millis.rem_euclid(86_400_000);
    let (hour, minute, second) = (millis / 3_600_000, millis / 60_000 % 60, millis / 1_000 % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z", millis % 1_000)
}

/// The same, short and safe in a file's name.
pub fn stamp(unix_millis: i64) -> String {
    time(unix_millis).replace(['-', ':'], "").replace('.', "-")
}

/// Year, month and day of a day since 1970, in the Gregorian calendar; years begin in March, so that leap days come last.
fn date(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let (era, of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (year + era * 400 + (month <= 2) as i64, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_room_leads_out_of_the_folder() {
        let long = "x/".repeat(120);
        for room in ["..", ".", "", "/etc/passwd", "../../x", "a\\b", "a b", "Zürich", "\0", &long] {
            let name = folder_of(room);
            assert!(!name.is_empty() && !name.starts_with('.') && !name.contains(['/', '\\', '\0']), "{room:?}: {name}");
            assert!(name.len() <= 200 && std::path::Path::new(&name).components().count() == 1, "{room:?}: {name}");
        }
        assert_eq!(folder_of("lesson-7_a.b"), "lesson-7_a.b");
        assert_eq!(folder_of("../x"), "%2e.%2fx");
        assert_ne!(folder_of("a/b"), folder_of("a%2fb"));
    }

    #[test]
    fn no_more_is_told_than_a_second_may_have_and_how_much_more_there_was() {
        let path = std::env::temp_dir().join(format!("distributary-sidecar-{}.jsonl", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let mut sidecar = Sidecar::append(&path).unwrap();
        for number in 0..EVENTS_PER_SECOND as i64 + 5 {
            sidecar.tell("gap", number, 5_000, json!({}));
        }
        sidecar.write("end", 0, 5_000, json!({}));
        sidecar.tell("gap", 0, 6_000, json!({}));
        let told = std::fs::read_to_string(&path).unwrap();
        assert_eq!(told.matches("\"gap\"").count() as u32, EVENTS_PER_SECOND + 1);
        assert!(told.contains("\"event\":\"end\"") && told.contains("\"events\":5"), "{told}");
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn times_are_those_of_the_calendar() {
        assert_eq!(time(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(time(951_782_400_000), "2000-02-29T00:00:00.000Z");
        assert_eq!(time(1_735_689_599_999), "2024-12-31T23:59:59.999Z");
        assert_eq!(stamp(951_782_400_001), "20000229T000000-001Z");
    }
}
