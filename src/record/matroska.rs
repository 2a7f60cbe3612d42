//! A writer of WebM and Matroska (RFC 9559; EBML: RFC 8794) that never needs to go back: whatever is cut off behind a cluster still plays.
//!
//! Own, and small, because none of the crates fits: `webm` wraps libwebm (C++), which knows no H264 and writes sizes by seeking, and
//! what is needed here is eight kinds of elements. The segment's size is unknown (RFC 8794 §6.2) until the end, each cluster is written
//! whole with its size in one write. At the end the places that were kept are filled in: the segment's size, the duration, and where the
//! cues are. If that does not happen, players count the duration and seek without cues.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};

use super::complete::nothing_whole;
use super::container::{FRAGMENT_BYTES, FRAGMENT_MICROS, TrackEntry};
use crate::rtp::config::Codec;

const EBML: u32 = 0x1a45_dfa3;
const SEGMENT: u32 = 0x1853_8067;
const SEEK_HEAD: u32 = 0x114d_9b74;
const INFO: u32 = 0x1549_a966;
const TRACKS: u32 = 0x1654_ae6b;
const CLUSTER: u32 = 0x1f43_b675;
const CUES: u32 = 0x1c53_bb6b;
const VOID: u32 = 0xec;
/// A place for a SeekHead with one entry, and for a Duration.
const SEEK_HEAD_BYTES: usize = 5 + 3 + 7 + 11;
const DURATION_BYTES: usize = 11;
/// Offsets in a cluster are 16 bits, signed.
const OFFSET_MAX: i64 = i16::MAX as i64;

struct Cluster {
    start: i64,
    blocks: Vec<u8>,
    /// The track at whose key frame it begins.
    cue: Option<u8>,
}

/// A file being written. Times are microseconds since its beginning; in the file they are milliseconds.
pub struct Matroska<W> {
    out: W,
    /// Bytes written so far.
    at: u64,
    /// Where the segment's content begins, and the places kept in it.
    segment: u64,
    duration_at: u64,
    /// The cluster being filled.
    cluster: Option<Cluster>,
    /// Time, place (within the segment) and track of clusters that begin with a key frame.
    cues: Vec<(i64, u64, u8)>,
    /// Numbers of the tracks that can be entered at key frames only; of sound alone, none.
    video: Vec<u8>,
    end: i64,
}

impl<W: Write + Seek> Matroska<W> {
    /// Writes everything before the first cluster. `unix_millis`: the wall clock at time 0.
    pub fn new(mut out: W, tracks: &[TrackEntry], unix_millis: i64) -> io::Result<Matroska<W>> {
        let webm = tracks.iter().all(|track| track.codec != Codec::H264);
        let mut head = Vec::new();
        master(&mut head, EBML, |head| {
            number(head, 0x4286, 1);
            number(head, 0x42f7, 1);
            number(head, 0x42f2, 4);
            number(head, 0x42f3, 8);
            element(head, 0x4282, if webm { b"webm" } else { b"matroska" });
            number(head, 0x4287, 4);
            number(head, 0x4285, 2);
        });
        id(&mut head, SEGMENT);
        // Unknown, in eight bytes, so that it can be told later.
        head.extend_from_slice(&[0x01, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]);
        let segment = head.len();
        void(&mut head, SEEK_HEAD_BYTES);
        let mut duration_at = 0;
        master(&mut head, INFO, |info| {
            number(info, 0x2a_d7_b1, 1_000_000);
            void(info, DURATION_BYTES);
            // Since 2001, in nanoseconds.
            element(info, 0x4461, &((unix_millis - 978_307_200_000) * 1_000_000).to_be_bytes());
            element(info, 0x4d80, b"distributary");
            element(info, 0x5741, b"distributary");
            duration_at = info.len();
        });
        // Behind TimestampScale (7 bytes); counted from the end, because the size before it is of a length of its own.
        let duration_at = head.len() - duration_at + 7;
        master(&mut head, TRACKS, |all| {
            for (index, track) in tracks.iter().enumerate() {
                master(all, 0xae, |entry| track_entry(entry, index as u64 + 1, track));
            }
        });
        out.write_all(&head)?;
        let video = (1..).zip(tracks).filter(|(_, track)| track.codec != Codec::Opus).map(|(number, _)| number).collect();
        let (at, segment, duration_at) = (head.len() as u64, segment as u64, duration_at as u64);
        Ok(Matroska { out, at, segment, duration_at, cluster: None, cues: Vec::new(), video, end: 0 })
    }

    /// Adds a frame of track `number`. Frames of one track come in order; a few milliseconds between tracks do not matter. True if a
    /// cluster was written because of it.
    pub fn frame(&mut self, number: u8, time: i64, key: bool, data: &[u8]) -> io::Result<bool> {
        let time = time.max(0) / 1_000;
        let is_cue = key && self.video.contains(&number);
        let mut written = false;
        if let Some(Cluster { start, blocks, .. }) = &self.cluster {
            let offset = time - start;
            let full = offset >= FRAGMENT_MICROS / 1_000
                || blocks.len() + data.len() > FRAGMENT_BYTES
                || !(-OFFSET_MAX..OFFSET_MAX).contains(&offset);
            if full || is_cue && offset > 0 {
                self.flush()?;
                written = true;
            }
        }
        self.end = self.end.max(time);
        let cue = (is_cue || self.video.is_empty()).then_some(number);
        let Cluster { start, blocks, .. } = self.cluster.get_or_insert_with(|| Cluster { start: time, blocks: Vec::new(), cue });
        let offset = (time - *start).clamp(-OFFSET_MAX, OFFSET_MAX) as i16;
        id(blocks, 0xa3);
        size(blocks, data.len() as u64 + 4);
        blocks.push(0x80 | number);
        blocks.extend_from_slice(&offset.to_be_bytes());
        blocks.push(if key { 0x80 } else { 0 });
        blocks.extend_from_slice(data);
        Ok(written)
    }

    /// Time of the first frame that is not written yet.
    pub fn unwritten_since(&self) -> Option<i64> {
        self.cluster.as_ref().map(|cluster| cluster.start * 1_000)
    }

    /// Writes what there is of the cluster.
    pub fn flush(&mut self) -> io::Result<()> {
        let Some(Cluster { start, blocks, cue }) = self.cluster.take() else { return Ok(()) };
        let mut cluster = Vec::with_capacity(blocks.len() + 24);
        master(&mut cluster, CLUSTER, |content| {
            number(content, 0xe7, start as u64);
            content.extend_from_slice(&blocks);
        });
        if let Some(track) = cue {
            self.cues.push((start, self.at - self.segment, track));
        }
        self.out.write_all(&cluster)?;
        self.at += cluster.len() as u64;
        Ok(())
    }

    /// Writes the rest and fills in what was left open.
    pub fn finish(&mut self) -> io::Result<()> {
        self.flush()?;
        let cues_at = self.at - self.segment;
        let mut cues = Vec::new();
        master(&mut cues, CUES, |all| {
            for (time, position, track) in &self.cues {
                master(all, 0xbb, |point| {
                    number(point, 0xb3, *time as u64);
                    master(point, 0xb7, |place| {
                        number(place, 0xf7, *track as u64);
                        number(place, 0xf1, *position);
                    });
                });
            }
        });
        if !self.cues.is_empty() {
            self.out.write_all(&cues)?;
            self.at += cues.len() as u64;
            let mut seek = vec![];
            id(&mut seek, SEEK_HEAD);
            seek.push(0x80 | (SEEK_HEAD_BYTES - 5) as u8);
            seek.extend_from_slice(&[0x4d, 0xbb, 0x80 | (SEEK_HEAD_BYTES - 8) as u8, 0x53, 0xab, 0x84]);
            seek.extend_from_slice(&CUES.to_be_bytes());
            seek.extend_from_slice(&[0x53, 0xac, 0x88]);
            seek.extend_from_slice(&cues_at.to_be_bytes());
            self.patch(self.segment, &seek)?;
        }
        let mut duration = vec![0x44, 0x89, 0x88];
        duration.extend_from_slice(&(self.end as f64).to_be_bytes());
        self.patch(self.duration_at, &duration)?;
        let length = (self.at - self.segment) | 1 << 56;
        self.patch(self.segment - 8, &length.to_be_bytes())?;
        self.out.seek(SeekFrom::Start(self.at))?;
        self.out.flush()
    }

    fn patch(&mut self, at: u64, bytes: &[u8]) -> io::Result<()> {
        self.out.seek(SeekFrom::Start(at))?;
        self.out.write_all(bytes)
    }

    /// How long it is.
    pub fn duration(&self) -> i64 {
        self.end * 1_000
    }

    pub fn bytes(&self) -> u64 {
        self.at
    }

    pub fn out(&self) -> &W {
        &self.out
    }

    pub fn into_out(self) -> W {
        self.out
    }
}

impl Matroska<File> {
    /// A file that was cut off, up to its last whole cluster; the rest is gone when it is finished.
    pub fn reopen(mut out: File) -> io::Result<Matroska<File>> {
        let wrong = |what| move || io::Error::other(format!("it does not begin as it was written: {what}"));
        let head = read(&mut out, 0, 1 << 20)?;
        let mut at = 0;
        let mut next = |name, what| {
            let (found, length, header) = open(&head[at..]).filter(|(found, ..)| *found == name).ok_or_else(wrong(what))?;
            let content = at + header;
            at = content + if found == SEGMENT { 0 } else { length as usize };
            head.get(content..at).map(|bytes| (content, bytes)).ok_or_else(wrong(what))
        };
        next(EBML, "EBML")?;
        let segment = next(SEGMENT, "segment")?.0;
        let first = open(&head[segment..]).map_or(VOID, |(first, ..)| first);
        next(if first == SEEK_HEAD { SEEK_HEAD } else { VOID }, "seek head")?;
        let duration_at = next(INFO, "info")?.0 + 7;
        let tracks = next(TRACKS, "tracks")?.1;
        let video = video_tracks(tracks);
        let (segment, duration_at) = (segment as u64, duration_at as u64);
        let mut file = Matroska { out, at: at as u64, segment, duration_at, cluster: None, cues: Vec::new(), video, end: 0 };
        let length = file.out.metadata()?.len();
        let mut last = None;
        loop {
            let start = read(&mut file.out, file.at, 64)?;
            let Some((CLUSTER, bytes, header)) = open(&start) else { break };
            let end = file.at + header as u64 + bytes;
            let Some((0xe7, width, before)) = start.get(header..).and_then(open) else { break };
            let from = header + before;
            let Some(time) = start.get(from..from + width as usize) else { break };
            if end > length {
                break;
            }
            let time = time.iter().fold(0, |time, byte| time << 8 | *byte as i64);
            let blocks = from + width as usize;
            let first = start.get(blocks..).and_then(block).filter(|(_, _, key, _)| *key);
            if let Some((track, ..)) = first.filter(|(track, ..)| file.video.is_empty() || file.video.contains(track)) {
                file.cues.push((time, file.at - segment, track));
            }
            last = Some((time, file.at + blocks as u64, end));
            file.at = end;
        }
        let (time, from, to) = last.ok_or_else(|| nothing_whole(length - file.at))?;
        let blocks = read(&mut file.out, from, (to - from) as usize)?;
        let mut rest = blocks.as_slice();
        while let Some((_, offset, _, after)) = block(rest) {
            file.end = file.end.max(time + offset as i64);
            rest = after;
        }
        file.out.set_len(file.at)?;
        file.out.seek(SeekFrom::Start(file.at))?;
        Ok(file)
    }
}

fn read(file: &mut File, from: u64, bytes: usize) -> io::Result<Vec<u8>> {
    let mut read = Vec::new();
    file.seek(SeekFrom::Start(from))?;
    file.take(bytes as u64).read_to_end(&mut read)?;
    Ok(read)
}

/// An element's ID and size, and how many bytes they take.
fn open(bytes: &[u8]) -> Option<(u32, u64, usize)> {
    let name = bytes.first()?.leading_zeros() as usize + 1;
    let id = bytes.get(..name).filter(|id| id.len() <= 4)?.iter().fold(0, |id, byte| id << 8 | *byte as u32);
    let width = bytes.get(name)?.leading_zeros() as usize + 1;
    let size = bytes.get(name..name + width)?.iter().fold(0, |size, byte| size << 8 | *byte as u64);
    Some((id, size & !(1 << (7 * width)), name + width))
}

/// Numbers of the video tracks among the entries of a track list.
fn video_tracks(entries: &[u8]) -> Vec<u8> {
    let mut video = Vec::new();
    let mut rest = entries;
    while let Some((0xae, size, header)) = open(rest)
        && let Some(entry) = rest.get(header..header + size as usize)
    {
        // Its number comes first, of one byte, and its type before what it is about.
        if let (Some([0xd7, 0x81, number]), true) = (entry.first_chunk(), entry.windows(3).any(|bytes| bytes == [0x83, 0x81, 1])) {
            video.push(*number);
        }
        rest = &rest[header + size as usize..];
    }
    video
}

/// A SimpleBlock's track, offset and whether it is a key frame, and what follows it.
fn block(bytes: &[u8]) -> Option<(u8, i16, bool, &[u8])> {
    let (0xa3, size, header) = open(bytes)? else { return None };
    let &[track, high, low, flags, ..] = bytes.get(header..)? else { return None };
    let rest = bytes.get(header + size as usize..).unwrap_or_default();
    Some((track & 0x7f, i16::from_be_bytes([high, low]), flags & 0x80 != 0, rest))
}

fn track_entry(entry: &mut Vec<u8>, track: u64, description: &TrackEntry) {
    let name: &[u8] = match description.codec {
        Codec::Opus => b"A_OPUS",
        Codec::Vp8 => b"V_VP8",
        Codec::Vp9 => b"V_VP9",
        Codec::H264 => b"V_MPEG4/ISO/AVC",
        Codec::Av1 => b"V_AV1",
    };
    number(entry, 0xd7, track);
    number(entry, 0x73c5, track);
    element(entry, 0x536e, description.title.as_bytes());
    // No lacing.
    number(entry, 0x9c, 0);
    element(entry, 0x86, name);
    if !description.private.is_empty() {
        element(entry, 0x63a2, &description.private);
    }
    if description.codec == Codec::Opus {
        number(entry, 0x83, 2);
        // SeekPreRoll: 80 ms in nanoseconds.
        number(entry, 0x56bb, 80_000_000);
        master(entry, 0xe1, |audio| {
            element(audio, 0xb5, &48_000f32.to_be_bytes());
            number(audio, 0x9f, 2);
        });
    } else {
        number(entry, 0x83, 1);
        master(entry, 0xe0, |video| {
            number(video, 0xb0, description.size.0.max(1) as u64);
            number(video, 0xba, description.size.1.max(1) as u64);
        });
    }
}

/// An ID as it is written, its length marker included.
fn id(to: &mut Vec<u8>, id: u32) {
    let bytes = id.to_be_bytes();
    to.extend_from_slice(&bytes[id.leading_zeros() as usize / 8..]);
}

/// A size in as few bytes as it takes (RFC 8794 §4).
fn size(to: &mut Vec<u8>, value: u64) {
    let length = (1..8).find(|length| value < (1 << (7 * length)) - 1).unwrap_or(8);
    let bytes = (value | 1 << (7 * length)).to_be_bytes();
    to.extend_from_slice(&bytes[8 - length..]);
}

fn element(to: &mut Vec<u8>, name: u32, data: &[u8]) {
    id(to, name);
    size(to, data.len() as u64);
    to.extend_from_slice(data);
}

fn number(to: &mut Vec<u8>, name: u32, value: u64) {
    let bytes = value.to_be_bytes();
    let skip = (value.leading_zeros() as usize / 8).min(7);
    element(to, name, &bytes[skip..]);
}

fn master(to: &mut Vec<u8>, name: u32, fill: impl FnOnce(&mut Vec<u8>)) {
    let mut content = Vec::new();
    fill(&mut content);
    element(to, name, &content);
}

/// An element of `bytes` bytes in all that says nothing; fewer than 128.
fn void(to: &mut Vec<u8>, bytes: usize) {
    element(to, VOID, &vec![0; bytes - 2]);
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    #[test]
    fn sizes_are_as_rfc_8794_says() {
        let written = |value: u64| {
            let mut bytes = Vec::new();
            size(&mut bytes, value);
            bytes
        };
        // Section 4.4: all ones are the unknown size, so 127 takes two bytes.
        assert_eq!(written(1), [0x81]);
        assert_eq!(written(126), [0xfe]);
        assert_eq!(written(127), [0x40, 0x7f]);
        assert_eq!(written(16_382), [0x7f, 0xfe]);
        assert_eq!(written(16_383), [0x20, 0x3f, 0xff]);
    }

    /// Places that are filled in at the end are where something was left open for them.
    #[test]
    fn filling_in_moves_nothing() {
        let tracks = [TrackEntry { codec: Codec::Vp8, private: Vec::new(), size: (640, 360), title: String::new() }];
        let mut file = Matroska::new(Cursor::new(Vec::new()), &tracks, 1_700_000_000_000).expect("memory");
        for index in 0..100 {
            file.frame(1, index * 33_000, index % 30 == 0, &[index as u8; 50]).expect("memory");
        }
        file.flush().expect("memory");
        let before = file.out().get_ref().clone();
        file.finish().expect("memory");
        let after = file.out().get_ref();
        let changed: Vec<usize> = (0..before.len()).filter(|at| before[*at] != after[*at]).collect();
        let segment = file.segment as usize;
        let duration = file.duration_at as usize;
        assert_eq!(before[duration], 0xec);
        assert_eq!(before[segment], 0xec);
        let kept = [segment - 8..segment, segment..segment + SEEK_HEAD_BYTES, duration..duration + DURATION_BYTES];
        assert!(changed.iter().all(|at| kept.iter().any(|range| range.contains(at))), "{changed:?}");
    }
}
