//! A writer of fragmented MP4 (ISO/IEC 14496-12 §8.8) with H264, AV1, VP9 and Opus: whatever is cut off behind a fragment still plays.
//!
//! Boxes are those of the crate `mp4-atom`; here stands what goes into them, and when. A fragment (`moof` and `mdat`) is written in one
//! write when it is a second old or a key frame begins another. The last sample of each track waits for the next one, which says how long
//! it lasts. A track that begins late is told to by an edit list (§8.6.6): of a decode time that begins late ffmpeg takes the length for longer.
//! So what stands before the fragments is written with the first of them. At the end the duration is filled in (`mehd`, of fixed size), and `mfra` tells where key frames are.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};

use mp4_atom::{
    Atom, Audio, Av01, Av1c, Avc1, Avcc, Codec as Entry, Decode, Dinf, Dops, Dref, DrefEntry, Edts, Elst, ElstEntry, Encode,
    FourCC, FragmentInfo, Ftyp, Hdlr, Mdhd, Mdia, Mehd, Mfhd, Mfra, Mfro, Minf, Moof, Moov, Mvex, Mvhd, Opus, Smhd, Stbl, Stsd,
    Tfdt, Tfhd, Tfra, Tkhd, Traf, Trak, Trex, Trun, TrunEntry, Url, Visual, Vmhd, Vp09, VpcC,
};

use super::complete::nothing_whole;
use super::container::{FRAGMENT_BYTES, FRAGMENT_MICROS, TrackEntry};
use crate::rtp::config::Codec;

/// Ticks a second of the movie's own times.
const MOVIE_SCALE: u32 = 1_000;
/// `sample_depends_on` of a key frame, and of others, which are no sync samples (§8.8.3.1).
const KEY: u32 = 0x0200_0000;
const NOT_KEY: u32 = 0x0101_0000;
/// Seconds from 1904, where the times of MP4 begin, to 1970.
const UNIX_EPOCH: i64 = 2_082_844_800;
/// Of a media data box.
const MDAT_HEADER: usize = 8;

struct Sample {
    at: u64,
    key: bool,
    bytes: usize,
}

struct Track {
    entry: TrackEntry,
    scale: u32,
    samples: Vec<Sample>,
    /// Time of the first one, in whole milliseconds of ticks.
    begins: u64,
    data: Vec<u8>,
    /// Of the sample before, in ticks: the best guess for one that nothing follows.
    duration: u64,
}

/// A file being written. Times are microseconds since its beginning.
pub struct Mp4<W> {
    out: W,
    /// Bytes written so far: none before the first fragment.
    at: u64,
    moov_at: u64,
    moov: Moov,
    tracks: Vec<Track>,
    /// Fragments that begin with a key frame, by track.
    entrances: Vec<Tfra>,
    fragments: u32,
    /// Time of the first sample that is not written yet.
    since: Option<i64>,
    end: i64,
}

impl<W: Write + Seek> Mp4<W> {
    /// `unix_millis`: the wall clock at time 0.
    pub fn new(out: W, tracks: &[TrackEntry], unix_millis: i64) -> io::Result<Mp4<W>> {
        let track = |entry: &TrackEntry| {
            let scale = if entry.codec == Codec::Opus { 48_000 } else { 90_000 };
            let duration = if entry.codec == Codec::Opus { 960 } else { 3_000 };
            Track { entry: entry.clone(), scale, samples: Vec::new(), begins: 0, data: Vec::new(), duration }
        };
        let tracks: Vec<Track> = tracks.iter().map(track).collect();
        let moov = movie(&tracks, unix_millis)?;
        let entrances = entrances(&moov);
        Ok(Mp4 { out, at: 0, moov_at: 0, moov, tracks, entrances, fragments: 0, since: None, end: 0 })
    }

    /// Writes what stands before the first fragment, in which each track begins.
    fn head(&mut self) -> io::Result<()> {
        let brands = [b"iso6", b"iso5", b"mp41"].map(FourCC::new).to_vec();
        let mut head = Vec::new();
        put(&Ftyp { major_brand: FourCC::new(b"iso6"), minor_version: 1, compatible_brands: brands }, &mut head)?;
        self.moov_at = head.len() as u64;
        for (track, trak) in self.tracks.iter_mut().zip(&mut self.moov.trak) {
            let millis = track.samples.first().map_or(0, |first| first.at * MOVIE_SCALE as u64 / track.scale as u64);
            track.begins = millis * track.scale as u64 / MOVIE_SCALE as u64;
            trak.edts = (millis > 0).then(|| late(millis));
        }
        put(&self.moov, &mut head)?;
        self.out.write_all(&head)?;
        self.at = head.len() as u64;
        Ok(())
    }

    /// Adds a frame of track `number`, from 1. Frames of one track come in order. True if a fragment was written because of it.
    pub fn frame(&mut self, number: u8, time: i64, key: bool, data: &[u8]) -> io::Result<bool> {
        let time = time.max(0);
        let Some(track) = self.tracks.get_mut(number as usize - 1) else { return Ok(false) };
        let mut at = time as u64 * track.scale as u64 / 1_000_000;
        if let Some(last) = track.samples.last() {
            at = at.max(last.at + 1);
            track.duration = at - last.at;
        }
        track.samples.push(Sample { at, key, bytes: data.len() });
        track.data.extend_from_slice(data);
        self.end = self.end.max(time);
        let since = *self.since.get_or_insert(time);
        let bytes: usize = self.tracks.iter().map(|track| track.data.len()).sum();
        let track = &self.tracks[number as usize - 1];
        let begins = key && track.entry.codec != Codec::Opus && track.samples.len() > 1;
        let full = time - since >= FRAGMENT_MICROS || bytes > FRAGMENT_BYTES;
        if begins || full {
            self.fragment(1)?;
            self.since = Some(time);
        }
        Ok(begins || full)
    }

    /// Time of the first frame that is not written yet.
    pub fn unwritten_since(&self) -> Option<i64> {
        self.since
    }

    /// Writes what there is.
    pub fn flush(&mut self) -> io::Result<()> {
        self.since = None;
        self.fragment(0)
    }

    /// Writes all samples but the last `kept` of each track.
    fn fragment(&mut self, kept: usize) -> io::Result<()> {
        if self.at == 0 && self.tracks.iter().any(|track| !track.samples.is_empty()) {
            self.head()?;
        }
        let (mut runs, mut data) = (Vec::new(), Vec::new());
        for (index, track) in self.tracks.iter_mut().enumerate() {
            let count = track.samples.len().saturating_sub(kept);
            if count == 0 {
                continue;
            }
            let ends = track.samples.iter().skip(1).map(|sample| sample.at);
            // What stood still before the end does not stand as long behind it.
            let last = track.samples[track.samples.len() - 1].at + track.duration.min(track.scale as u64 / 10);
            let entries = track.samples.iter().zip(ends.chain([last])).take(count).map(|(sample, end)| TrunEntry {
                duration: Some((end - sample.at) as u32),
                size: Some(sample.bytes as u32),
                flags: Some(if sample.key { KEY } else { NOT_KEY }),
                cts: None,
            });
            let samples = entries.collect::<Vec<_>>().into();
            let first = &track.samples[0];
            if first.key {
                self.entrances[index].entries.push(entrance(first.at - track.begins, self.at, runs.len()));
            }
            let tfhd = Tfhd { track_id: index as u32 + 1, default_base_is_moof: true, ..Default::default() };
            let tfdt = Some(Tfdt { base_media_decode_time: first.at - track.begins });
            let trun = vec![Trun { data_offset: Some(data.len() as i32), samples }];
            runs.push(Traf { tfhd, tfdt, trun, ..Default::default() });
            let rest = track.data.split_off(track.samples.iter().take(count).map(|sample| sample.bytes).sum());
            data.extend_from_slice(&std::mem::replace(&mut track.data, rest));
            track.samples.drain(..count);
        }
        if runs.is_empty() {
            return Ok(());
        }
        self.fragments += 1;
        let mut moof = Moof { mfhd: Mfhd { sequence_number: self.fragments }, traf: runs };
        let mut fragment = Vec::new();
        put(&moof, &mut fragment)?;
        // Where samples are counts from the beginning of `moof`, whose length is known now.
        let before = (fragment.len() + MDAT_HEADER) as i32;
        for run in moof.traf.iter_mut().flat_map(|run| &mut run.trun) {
            run.data_offset = run.data_offset.map(|offset| offset + before);
        }
        fragment.clear();
        put(&moof, &mut fragment)?;
        fragment.extend_from_slice(&((data.len() + MDAT_HEADER) as u32).to_be_bytes());
        fragment.extend_from_slice(b"mdat");
        fragment.append(&mut data);
        self.out.write_all(&fragment)?;
        self.at += fragment.len() as u64;
        Ok(())
    }

    /// Writes the rest and fills in what was left open.
    pub fn finish(&mut self) -> io::Result<()> {
        self.flush()?;
        if self.at == 0 {
            self.head()?;
        }
        let mut mfra = Mfra { tfra: std::mem::take(&mut self.entrances), mfro: Mfro::default() };
        let mut last = Vec::new();
        put(&mfra, &mut last)?;
        // Readers find it from the end.
        mfra.mfro.parent_size = last.len() as u32;
        last.clear();
        put(&mfra, &mut last)?;
        self.out.write_all(&last)?;
        self.at += last.len() as u64;
        self.moov.mvex.get_or_insert_default().mehd = Some(Mehd { fragment_duration: (self.end / 1_000) as u64 });
        let mut moov = Vec::new();
        put(&self.moov, &mut moov)?;
        self.out.seek(SeekFrom::Start(self.moov_at))?;
        self.out.write_all(&moov)?;
        self.out.seek(SeekFrom::Start(self.at))?;
        self.out.flush()
    }

    /// How long it is.
    pub fn duration(&self) -> i64 {
        self.end
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

impl Mp4<File> {
    /// A file that was cut off, up to its last whole fragment; the rest is gone when it is finished.
    pub fn reopen(mut out: File) -> io::Result<Mp4<File>> {
        let length = out.metadata()?.len();
        if length == 0 {
            return Err(nothing_whole(0));
        }
        let moov_at = box_end(&mut out, 0, length, b"ftyp")?;
        let moov_end = box_end(&mut out, moov_at, length, b"moov")?;
        let moov = Moov::decode(&mut read(&mut out, moov_at, moov_end)?.as_slice()).map_err(io::Error::other)?;
        let scales: Vec<u64> = moov.trak.iter().map(|trak| trak.mdia.mdhd.timescale.max(1) as u64).collect();
        let begins: Vec<i64> = moov.trak.iter().map(|trak| begin(trak) as i64 * 1_000_000 / MOVIE_SCALE as i64).collect();
        let mut file = Mp4 {
            out,
            at: moov_end,
            moov_at,
            entrances: entrances(&moov),
            moov,
            tracks: Vec::new(),
            fragments: 0,
            since: None,
            end: 0,
        };
        while let Ok(moof_end) = box_end(&mut file.out, file.at, length, b"moof")
            && let Ok(end) = box_end(&mut file.out, moof_end, length, b"mdat")
            && let Ok(moof) = Moof::decode(&mut read(&mut file.out, file.at, moof_end)?.as_slice())
        {
            for (index, run) in moof.traf.iter().enumerate() {
                let track = (run.tfhd.track_id as usize).wrapping_sub(1);
                let (Some(scale), Some(tfdt)) = (scales.get(track), &run.tfdt) else { continue };
                let mut at = tfdt.base_media_decode_time;
                let samples = || run.trun.iter().flat_map(|trun| trun.samples.iter());
                if samples().next().is_some_and(|first| first.flags == Some(KEY)) {
                    file.entrances[track].entries.push(entrance(at, file.at, index));
                }
                at += samples().map(|sample| sample.duration.unwrap_or_default() as u64).sum::<u64>();
                file.end = file.end.max(begins[track] + (at * 1_000_000 / scale) as i64);
            }
            file.at = end;
        }
        if file.at == moov_end {
            return Err(nothing_whole(length - moov_end));
        }
        file.out.set_len(file.at)?;
        file.out.seek(SeekFrom::Start(file.at))?;
        Ok(file)
    }
}

/// Where a box ends that begins there, if it is whole and of that kind.
fn box_end(file: &mut File, at: u64, length: u64, kind: &[u8; 4]) -> io::Result<u64> {
    let header = read(file, at, at + 8)?;
    let end = header.first_chunk().map_or(0, |size| at + u32::from_be_bytes(*size) as u64);
    if header.get(4..8) != Some(kind) || end < at + 8 || end > length {
        return Err(io::Error::other(format!("no {} box at {at}", String::from_utf8_lossy(kind))));
    }
    Ok(end)
}

fn read(file: &mut File, from: u64, to: u64) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; (to - from) as usize];
    file.seek(SeekFrom::Start(from))?;
    file.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn put(atom: &impl Encode, to: &mut Vec<u8>) -> io::Result<()> {
    atom.encode(to).map_err(io::Error::other)
}

/// No entrances yet, for each track.
fn entrances(moov: &Moov) -> Vec<Tfra> {
    moov.trak.iter().map(|trak| Tfra { track_id: trak.tkhd.track_id, entries: Vec::new() }).collect()
}

/// The first sample of the run at that place in a fragment.
fn entrance(time: u64, moof_offset: u64, run: usize) -> FragmentInfo {
    FragmentInfo { time, moof_offset, traf_number: run as u32 + 1, trun_number: 1, sample_delta: 1 }
}

/// A track that begins so many milliseconds after the others.
fn late(millis: u64) -> Edts {
    let nothing = ElstEntry { segment_duration: millis, media_time: None, media_rate: 1.into() };
    // Of length 0: all there is (§8.8.1).
    let all = ElstEntry { segment_duration: 0, media_time: Some(0), media_rate: 1.into() };
    Edts { elst: Some(Elst { entries: vec![nothing, all] }) }
}

/// And when a track begins, in milliseconds.
fn begin(trak: &Trak) -> u64 {
    let entries = trak.edts.iter().flat_map(|edts| &edts.elst).flat_map(|elst| &elst.entries);
    entries.take_while(|entry| entry.media_time.is_none()).map(|entry| entry.segment_duration).sum()
}

/// What stands before the fragments. It has the same length whatever the duration.
fn movie(tracks: &[Track], unix_millis: i64) -> io::Result<Moov> {
    let created = (unix_millis / 1_000 + UNIX_EPOCH).max(0) as u64;
    let mut trak = Vec::with_capacity(tracks.len());
    for (index, track) in tracks.iter().enumerate() {
        trak.push(track_box(index as u32 + 1, track, created)?);
    }
    let trex =
        (1..=tracks.len() as u32).map(|track_id| Trex { track_id, default_sample_description_index: 1, ..Default::default() });
    let mehd = Some(Mehd { fragment_duration: 0 });
    let mvhd = Mvhd {
        creation_time: created,
        modification_time: created,
        timescale: MOVIE_SCALE,
        rate: 1.into(),
        volume: 1.into(),
        next_track_id: tracks.len() as u32 + 1,
        ..Default::default()
    };
    Ok(Moov { mvhd, mvex: Some(Mvex { mehd, trex: trex.collect() }), trak, ..Default::default() })
}

fn track_box(track_id: u32, track: &Track, created: u64) -> io::Result<Trak> {
    let TrackEntry { codec, private, size, title } = &track.entry;
    let (width, height) = (size.0.min(u16::MAX as u32) as u16, size.1.min(u16::MAX as u32) as u16);
    let visual = Visual { data_reference_index: 1, width, height, ..Default::default() };
    let entry = match codec {
        Codec::Opus => {
            let audio = Audio { data_reference_index: 1, channel_count: 2, sample_size: 16, sample_rate: 48_000.into() };
            let dops =
                Dops { output_channel_count: 2, pre_skip: 0, input_sample_rate: 48_000, output_gain: 0, channel_mapping: None };
            Entry::Opus(Opus { audio, dops, btrt: None })
        }
        Codec::H264 => {
            let avcc = Avcc::decode_body(&mut private.as_slice()).map_err(io::Error::other)?;
            Entry::Avc1(Avc1 { visual, avcc, ..Default::default() })
        }
        Codec::Av1 => Entry::Av01(Av01 {
            visual,
            av1c: Av1c::decode_body(&mut private.as_slice()).map_err(io::Error::other)?,
            ..Default::default()
        }),
        // 4:2:0 of 8 bits is all that browsers send.
        Codec::Vp9 => {
            Entry::Vp09(Vp09 { visual, vpcc: VpcC { chroma_subsampling: 1, ..Default::default() }, ..Default::default() })
        }
        Codec::Vp8 => return Err(io::Error::other("VP8 goes into WebM")),
    };
    let sound = *codec == Codec::Opus;
    let handler = if sound { FourCC::new(b"soun") } else { FourCC::new(b"vide") };
    let minf = Minf {
        vmhd: (!sound).then(Vmhd::default),
        smhd: sound.then(Smhd::default),
        dinf: Dinf { dref: Dref { entries: vec![DrefEntry::Url(Url::default())] } },
        stbl: Stbl { stsd: Stsd { codecs: vec![entry] }, ..Default::default() },
        ..Default::default()
    };
    let mdhd = Mdhd {
        creation_time: created,
        modification_time: created,
        timescale: track.scale,
        language: "und".to_owned(),
        ..Default::default()
    };
    let tkhd = Tkhd {
        creation_time: created,
        modification_time: created,
        track_id,
        enabled: true,
        in_movie: true,
        volume: u8::from(sound).into(),
        width: width.into(),
        height: height.into(),
        ..Default::default()
    };
    Ok(Trak { tkhd, mdia: Mdia { mdhd, hdlr: Hdlr { handler, name: title.clone() }, minf }, ..Default::default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What ffprobe says of a file: its length, and when the first packet of each stream is.
    fn probe(path: &std::path::Path) -> (f64, Vec<f64>) {
        let args = ["-v", "error", "-of", "csv=p=0", "-show_entries", "format=duration:stream=start_time"];
        let out = std::process::Command::new("ffprobe").args(args).arg(path).output().expect("ffprobe");
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        let mut numbers: Vec<f64> = String::from_utf8_lossy(&out.stdout).lines().filter_map(|line| line.parse().ok()).collect();
        (numbers.pop().expect("a length"), numbers)
    }

    #[test]
    fn a_track_that_begins_late_makes_the_file_no_longer() {
        let entry = |codec| TrackEntry { codec, private: Vec::new(), size: (64, 48), title: String::new() };
        let path = std::env::temp_dir().join(format!("distributary-late-{}.mp4", std::process::id()));
        let open = || File::options().read(true).write(true).create(true).truncate(true).open(&path).expect("a file");
        let mut file = Mp4::new(open(), &[entry(Codec::Vp9), entry(Codec::Opus)], 0).expect("a beginning");
        for millis in (0..4_000).step_by(20) {
            file.frame(2, millis * 1_000, true, &[0xfc; 40]).expect("sound");
            if millis >= 700 && millis % 40 == 20 {
                file.frame(1, millis * 1_000, millis == 700, &[0x82; 400]).expect("a picture");
            }
        }
        drop(file);
        let check = |least: f64| {
            let (length, begins) = probe(&path);
            assert!((least..4.05).contains(&length), "{length} s");
            assert!((begins[0] - 0.7).abs() < 0.002 && begins[1].abs() < 0.002, "{begins:?}");
        };
        // As a crash leaves it, and made whole afterwards.
        check(2.5);
        let mut again = Mp4::reopen(File::options().read(true).write(true).open(&path).expect("the file")).expect("fragments");
        again.finish().expect("an end");
        check(2.5);
        assert!((probe(&path).0 - again.duration() as f64 / 1e6).abs() < 0.05, "{} us", again.duration());
        std::fs::remove_file(&path).expect("it is there");
    }
}
