//! Where an egress goes, and what its files are called.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use livekit_protocol as proto;
use proto::EncodedFileType;
use proto::track_composite_egress_request::Output as CompositeOutput;
use proto::track_egress_request::Output as TrackOutput;

use super::super::twirp::Fault;
use super::source::{Sources, Wanted};
use crate::config::RecordFormat;
use crate::record::files::{Piece, State, stem};
use crate::record::store::Journal;

/// Bytes of a path, and of one name in it.
const PATH_BYTES_MAX: usize = 1_000;
const NAME_BYTES_MAX: usize = 200;

/// A file that was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// Empty: the server chooses.
    filepath: String,
    kind: EncodedFileType,
}

pub fn of_track(asked: &proto::TrackEgressRequest) -> Result<File, Fault> {
    match &asked.output {
        Some(TrackOutput::File(file)) => {
            uploads_by_config(file.output.is_some())?;
            Ok(File { filepath: file.filepath.clone(), kind: EncodedFileType::DefaultFiletype })
        }
        Some(TrackOutput::WebsocketUrl(_)) => Err(only_files("a WebSocket")),
        None => Err(no_file()),
    }
}

pub fn of_participant(asked: &proto::ParticipantEgressRequest) -> Result<File, Fault> {
    if asked.screen_share {
        return Err(Fault::invalid("screen_share: a participant is recorded whole; for one source use StartTrackCompositeEgress."));
    }
    others(&asked.stream_outputs, &asked.segment_outputs, &asked.image_outputs, asked.options.is_some())?;
    encoded(&asked.file_outputs)
}

#[allow(deprecated)] // of LiveKit's fields: its SDKs still fill them in beside the new ones
pub fn of_track_composite(asked: &proto::TrackCompositeEgressRequest) -> Result<File, Fault> {
    others(&asked.stream_outputs, &asked.segment_outputs, &asked.image_outputs, asked.options.is_some())?;
    match &asked.output {
        Some(CompositeOutput::Stream(_)) => Err(only_files("a stream")),
        Some(CompositeOutput::Segments(_)) => Err(only_files("segments")),
        Some(CompositeOutput::File(file)) if asked.file_outputs.is_empty() => encoded(std::slice::from_ref(file)),
        _ => encoded(&asked.file_outputs),
    }
}

fn others(
    streams: &[proto::StreamOutput],
    segments: &[proto::SegmentedFileOutput],
    images: &[proto::ImageOutput],
    encoding: bool,
) -> Result<(), Fault> {
    match (streams, segments, images, encoding) {
        ([_, ..], ..) => Err(only_files("a stream")),
        (_, [_, ..], ..) => Err(only_files("segments")),
        (_, _, [_, ..], _) => Err(only_files("images")),
        (.., true) => {
            Err(Fault::invalid("Encoding options have no effect here, where media is recorded as it is sent: leave them out."))
        }
        _ => Ok(()),
    }
}

fn encoded(files: &[proto::EncodedFileOutput]) -> Result<File, Fault> {
    let [file] = files else {
        return Err(if files.is_empty() {
            no_file()
        } else {
            Fault::invalid("One file is written: give one file output, not several.")
        });
    };
    uploads_by_config(file.output.is_some())?;
    let kind = EncodedFileType::try_from(file.file_type).unwrap_or(EncodedFileType::DefaultFiletype);
    Ok(File { filepath: file.filepath.clone(), kind })
}

fn no_file() -> Fault {
    Fault::invalid("A file output is needed: that is what this server records into.")
}

fn only_files(what: &str) -> Fault {
    Fault::invalid(format!("This server records into files; {what} is no output here."))
}

fn uploads_by_config(asked: bool) -> Result<(), Fault> {
    let text = "Where files are uploaded to is in the server's configuration (record.s3): leave the storage out of the request.";
    if asked { Err(Fault::invalid(text)) } else { Ok(()) }
}

impl File {
    /// What was asked for in place of the server's own format.
    pub fn format(&self) -> Option<RecordFormat> {
        (self.kind == EncodedFileType::Mp4).then_some(RecordFormat::Mp4)
    }
}

/// Checks its type, and the path.
pub fn wanted_file(file: File) -> Result<File, Fault> {
    if !matches!(file.kind, EncodedFileType::DefaultFiletype | EncodedFileType::Mp4) {
        return Err(Fault::invalid(format!(
            "file_type {}: this server records into MP4 if that is asked for, else as record.format says, sound alone into Ogg. Leave file_type out.",
            file.kind.as_str_name()
        )));
    }
    let filepath = clean(&file.filepath)?;
    Ok(File { filepath, ..file })
}

/// A path that leads nowhere but below where it is put.
fn clean(filepath: &str) -> Result<String, Fault> {
    let wrong = |reason: &str| Err(Fault::invalid(format!("filepath {filepath:?} {reason}.")));
    if filepath.len() > PATH_BYTES_MAX {
        return wrong("is too long");
    }
    let names: Vec<&str> = filepath.split('/').filter(|name| !name.is_empty()).collect();
    for name in &names {
        if name.starts_with('.') {
            return wrong("has a name that begins with a dot");
        }
        if name.len() > NAME_BYTES_MAX || name.contains(|sign: char| sign.is_control() || sign == '\\') {
            return wrong("has a name that is too long or has characters that no file should have");
        }
    }
    // A folder: the server chooses the name in it.
    let end = if filepath.ends_with('/') && !names.is_empty() { "/" } else { "" };
    Ok(names.join("/") + end)
}

/// What files are called besides the server's own names; `None`: nothing else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name(Option<String>);

impl Name {
    /// `file` is checked.
    pub fn new(file: File, wanted: &Wanted, session: &str) -> Name {
        if file.filepath.is_empty() {
            return Name(None);
        }
        let flat = |text: &str| text.replace(['/', '\\'], "_").trim_start_matches('.').to_owned();
        let time = crate::record::time_of_now();
        let path = file.filepath.replace("{room_name}", &flat(&wanted.room)).replace("{time}", &time).replace("{utc}", &time);
        let path = path.replace("{publisher_identity}", &flat(wanted.identity().unwrap_or(session)));
        let path = path.replace("{track_id}", &flat(wanted.track_id().unwrap_or(session)));
        Name(Some(if path.ends_with('/') { format!("{path}{time}-{session}") } else { path }))
    }

    /// The path of the `index`-th file, with the extension that it really has.
    fn path(&self, piece: &Piece, index: usize) -> Option<String> {
        let extension = piece.path.extension()?.to_str()?;
        let path = self.0.as_ref()?;
        let known = crate::record::EXTENSIONS.iter().find_map(|known| path.strip_suffix(&format!(".{known}")));
        let number = if index > 0 { format!("-{}", index + 1) } else { String::new() };
        Some(format!("{}{number}.{extension}", known.unwrap_or(path)))
    }

    /// Tells the uploads what the object is to be called, before there is anything to upload.
    pub fn announce(&self, piece: &Piece, index: usize, sources: &Sources) {
        if sources.store().is_some()
            && piece.state == State::Recording
            && let Some(path) = self.path(piece, index)
        {
            Journal::name(&stem(&piece.path), path);
        }
    }

    /// What became of a file. Without a store it gets its second name now.
    pub fn result(&self, piece: &Piece, index: usize, sources: &Sources) -> proto::FileInfo {
        let own = || {
            let name = |path: Option<&Path>| path.and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned());
            format!("{}/{}", name(piece.path.parent()).unwrap_or_default(), name(Some(&piece.path)).unwrap_or_default())
        };
        let nanos = |millis: i64| millis.saturating_mul(1_000_000);
        let (filename, location) = match (sources.store(), self.path(piece, index)) {
            (Some(store), path) => {
                let filename = format!("{}{}", store.prefix, path.unwrap_or_else(own));
                (filename.clone(), format!("{}/{filename}", store.address))
            }
            (None, Some(path)) => match link(sources.folder(), &piece.path, &path) {
                Ok(linked) => (path, linked.to_string_lossy().into_owned()),
                Err(error) => {
                    tracing::warn!(file = %piece.path.display(), path, %error, "a recording cannot have the name it was asked for by");
                    (own(), piece.path.to_string_lossy().into_owned())
                }
            },
            (None, None) => (own(), piece.path.to_string_lossy().into_owned()),
        };
        proto::FileInfo {
            filename,
            started_at: nanos(piece.began),
            ended_at: nanos(piece.began + piece.length),
            duration: nanos(piece.length),
            size: piece.bytes as i64,
            location,
        }
    }
}

fn link(folder: &Path, media: &Path, path: &str) -> std::io::Result<PathBuf> {
    let linked = folder.join(path);
    if let Some(parent) = linked.parent() {
        fs::create_dir_all(parent)?;
    }
    let is_there = |error: &std::io::Error| {
        let inode = |path: &Path| fs::metadata(path).map(|metadata| metadata.ino());
        error.kind() == std::io::ErrorKind::AlreadyExists
            && inode(media).is_ok_and(|own| inode(&linked).is_ok_and(|other| other == own))
    };
    match fs::hard_link(media, &linked) {
        Err(error) if !is_there(&error) => Err(error),
        _ => Ok(linked),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_lead_nowhere_but_below() {
        assert_eq!(clean("/a//b.mp4").unwrap(), "a/b.mp4");
        assert_eq!((clean("").unwrap(), clean("a/").unwrap()), (String::new(), "a/".into()));
        for bad in ["..", "../a", "a/../b", "a/..", ".lock", "a/.b", "a\0b", "a\\b", &"x/".repeat(600)] {
            assert!(clean(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn names_are_filled_in_and_have_the_extension_of_the_file() {
        let wanted = Wanted::participant("../room", "a/b").unwrap();
        let file = |filepath: &str| File { filepath: filepath.into(), kind: EncodedFileType::DefaultFiletype };
        let piece = Piece { path: "/r/x.webm".into(), began: 0, length: 0, bytes: 0, state: State::Ended };
        let name = |filepath: &str, index| Name::new(file(filepath), &wanted, "s1").path(&piece, index);
        assert_eq!(name("", 0), None);
        assert_eq!(name("{room_name}/{publisher_identity}.mp4", 0).unwrap(), "_room/a_b.webm");
        assert_eq!(name("x", 1).unwrap(), "x-2.webm");
        assert!(name("x/", 0).unwrap().ends_with("-s1.webm"));
    }

    #[test]
    fn what_is_no_file_is_refused_with_a_reason() {
        let refused = |asked: proto::ParticipantEgressRequest| of_participant(&asked).unwrap_err().message;
        let asked = proto::ParticipantEgressRequest::default;
        assert!(refused(asked()).contains("file output is needed"));
        assert!(
            refused(proto::ParticipantEgressRequest { stream_outputs: vec![Default::default()], ..asked() }).contains("a stream")
        );
        let options = Some(proto::participant_egress_request::Options::Preset(1));
        assert!(refused(proto::ParticipantEgressRequest { options, ..asked() }).contains("leave them out"));
        let two = vec![proto::EncodedFileOutput::default(); 2];
        assert!(refused(proto::ParticipantEgressRequest { file_outputs: two, ..asked() }).contains("not several"));
        let file = |kind| File { filepath: String::new(), kind };
        assert_eq!(wanted_file(file(EncodedFileType::Mp4)).unwrap().format(), Some(RecordFormat::Mp4));
        assert_eq!(wanted_file(file(EncodedFileType::DefaultFiletype)).unwrap().format(), None);
        assert!(wanted_file(file(EncodedFileType::Ogg)).unwrap_err().message.contains("record.format"));
    }
}
