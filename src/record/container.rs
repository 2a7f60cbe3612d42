//! The kinds of files, behind one interface.

use std::io;

use super::disk::DiskFile;
use super::matroska::Matroska;
use super::mp4::Mp4;
use super::ogg::Ogg;
use crate::config::RecordFormat;
use crate::rtp::config::Codec;

/// A cluster, fragment or page is ended after so many microseconds: a crash loses no more, and what waits for a late packet.
pub const FRAGMENT_MICROS: i64 = 1_000_000;
/// And after so many bytes.
pub const FRAGMENT_BYTES: usize = 4 << 20;

/// A track of a file, numbered from 1 in the order given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrackEntry {
    pub codec: Codec,
    /// What a decoder needs before the first frame; empty if nothing.
    pub private: Vec<u8>,
    /// Width and height in pixels, of video.
    pub size: (u32, u32),
    /// Whose it is, and what it shows.
    pub title: String,
}

/// What tracks are written into: what was asked for, if it can hold them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// WebM, or Matroska with codecs that WebM has not.
    Matroska {
        webm: bool,
    },
    Mp4,
    /// Sound alone.
    Ogg,
}

impl Kind {
    pub fn of(format: RecordFormat, tracks: &[TrackEntry]) -> Kind {
        let has = |codec| tracks.iter().any(|track| track.codec == codec);
        match format {
            // It holds one track.
            _ if matches!(tracks, [TrackEntry { codec: Codec::Opus, .. }]) => Kind::Ogg,
            // Few players take VP8 in MP4.
            RecordFormat::Mp4 if !has(Codec::Vp8) => Kind::Mp4,
            _ => Kind::Matroska { webm: !has(Codec::H264) },
        }
    }

    pub fn extension(self) -> &'static str {
        match self {
            Kind::Matroska { webm: true } => "webm",
            Kind::Matroska { webm: false } => "mkv",
            Kind::Mp4 => "mp4",
            Kind::Ogg => "ogg",
        }
    }
}

/// A file being written. Times are microseconds since its beginning.
pub enum Container {
    Matroska(Box<Matroska<DiskFile>>),
    Mp4(Box<Mp4<DiskFile>>),
    Ogg(Box<Ogg<DiskFile>>),
}

impl Container {
    /// Writes what comes before all frames. `unix_millis`: the wall clock at time 0.
    pub fn new(kind: Kind, file: DiskFile, tracks: &[TrackEntry], unix_millis: i64) -> io::Result<Container> {
        Ok(match kind {
            Kind::Matroska { .. } => Container::Matroska(Box::new(Matroska::new(file, tracks, unix_millis)?)),
            Kind::Mp4 => Container::Mp4(Box::new(Mp4::new(file, tracks, unix_millis)?)),
            Kind::Ogg => Container::Ogg(Box::new(Ogg::new(file, tracks)?)),
        })
    }

    /// Adds a frame of track `number`. Frames of one track come in order; a few milliseconds between tracks do not matter. True if
    /// something was written because of it.
    pub fn frame(&mut self, number: u8, time: i64, key: bool, data: &[u8]) -> io::Result<bool> {
        match self {
            Container::Matroska(file) => file.frame(number, time, key, data),
            Container::Mp4(file) => file.frame(number, time, key, data),
            Container::Ogg(file) => file.frame(time, data),
        }
    }

    /// Time of the first frame that is not written yet.
    pub fn unwritten_since(&self) -> Option<i64> {
        match self {
            Container::Matroska(file) => file.unwritten_since(),
            Container::Mp4(file) => file.unwritten_since(),
            Container::Ogg(file) => file.unwritten_since(),
        }
    }

    /// Writes what there is.
    pub fn flush(&mut self) -> io::Result<()> {
        match self {
            Container::Matroska(file) => file.flush(),
            Container::Mp4(file) => file.flush(),
            Container::Ogg(file) => file.flush(),
        }
    }

    /// Writes the rest, and fills in what was left open.
    pub fn finish(&mut self) -> io::Result<()> {
        match self {
            Container::Matroska(file) => file.finish(),
            Container::Mp4(file) => file.finish(),
            Container::Ogg(file) => file.finish(),
        }
    }

    pub fn bytes(&self) -> u64 {
        match self {
            Container::Matroska(file) => file.bytes(),
            Container::Mp4(file) => file.bytes(),
            Container::Ogg(file) => file.bytes(),
        }
    }

    pub fn out(&self) -> &DiskFile {
        match self {
            Container::Matroska(file) => file.out(),
            Container::Mp4(file) => file.out(),
            Container::Ogg(file) => file.out(),
        }
    }

    pub fn into_out(self) -> DiskFile {
        match self {
            Container::Matroska(file) => file.into_out(),
            Container::Mp4(file) => file.into_out(),
            Container::Ogg(file) => file.into_out(),
        }
    }
}
