//! A writer of Ogg (RFC 3533) with Opus (RFC 7845), for sound alone. Pages are the crate `ogg`'s; here stands what goes into them.
//!
//! Ogg has no times but the number of samples so far. Where nothing came, packets that say "nothing here" (RFC 6716 §3.1: a frame of no
//! bytes) keep the count, and decoders conceal them as they do on a network.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};

use ogg::{PacketWriteEndInfo, PacketWriter};

use super::complete::nothing_whole;
use super::container::{FRAGMENT_MICROS, TrackEntry};

/// One stream a file: any number does.
const SERIAL: u32 = 1;

/// A file being written. Times are microseconds since its beginning.
pub struct Ogg<W> {
    out: W,
    /// Bytes written so far.
    at: u64,
    /// Whole pages on their way to `out`.
    pages: PacketWriter<'static, Vec<u8>>,
    /// The last packet: the next one, or the end, says what follows it.
    pending: Option<Vec<u8>>,
    /// Samples up to `pending`'s end.
    samples: u64,
    since: Option<i64>,
}

impl<W: Write> Ogg<W> {
    /// Writes the two header packets, each in a page of its own (RFC 7845 §3).
    pub fn new(out: W, tracks: &[TrackEntry]) -> io::Result<Ogg<W>> {
        let mut ogg = Ogg { out, at: 0, pages: PacketWriter::new(Vec::new()), pending: None, samples: 0, since: None };
        let head = tracks.first().map(|track| track.private.clone()).unwrap_or_default();
        ogg.packet(head, PacketWriteEndInfo::EndPage, 0)?;
        let name = b"distributary";
        let mut tags = b"OpusTags".to_vec();
        tags.extend_from_slice(&(name.len() as u32).to_le_bytes());
        tags.extend_from_slice(name);
        let title = format!("TITLE={}", tracks.first().map_or("", |track| &track.title));
        tags.extend_from_slice(&1u32.to_le_bytes());
        tags.extend_from_slice(&(title.len() as u32).to_le_bytes());
        tags.extend_from_slice(title.as_bytes());
        ogg.packet(tags, PacketWriteEndInfo::EndPage, 0)?;
        ogg.write()?;
        Ok(ogg)
    }

    /// Adds a packet. True if a page was written because of it.
    pub fn frame(&mut self, time: i64, data: &[u8]) -> io::Result<bool> {
        let Some(length) = samples(data) else { return Ok(false) };
        let ends = self.since.is_some_and(|since| time - since >= FRAGMENT_MICROS);
        self.end_pending(if ends { PacketWriteEndInfo::EndPage } else { PacketWriteEndInfo::NormalPacket })?;
        // The same kind of frame, one of them, of no bytes.
        let nothing = data[0] & 0xfc;
        let short = samples(&[nothing]).unwrap_or(length);
        let begins = time.max(0) as u64 * 48 / 1_000;
        // Half a frame is what clocks may differ by, not a gap.
        while self.samples + short / 2 < begins {
            self.samples += short;
            self.packet(vec![nothing], PacketWriteEndInfo::NormalPacket, self.samples)?;
        }
        self.samples += length;
        self.pending = Some(data.to_vec());
        if ends || self.since.is_none() {
            self.since = Some(time);
        }
        self.write()?;
        Ok(ends)
    }

    fn end_pending(&mut self, end: PacketWriteEndInfo) -> io::Result<()> {
        match self.pending.take() {
            Some(packet) => self.packet(packet, end, self.samples),
            None => Ok(()),
        }
    }

    fn packet(&mut self, packet: Vec<u8>, end: PacketWriteEndInfo, samples: u64) -> io::Result<()> {
        self.pages.write_packet(packet, SERIAL, end, samples)
    }

    /// Writes the pages that are whole.
    fn write(&mut self) -> io::Result<()> {
        let pages = self.pages.inner_mut();
        self.out.write_all(pages)?;
        self.at += pages.len() as u64;
        pages.clear();
        Ok(())
    }

    /// Time of the first frame that is not written yet.
    pub fn unwritten_since(&self) -> Option<i64> {
        self.since
    }

    /// Writes what there is.
    pub fn flush(&mut self) -> io::Result<()> {
        self.since = None;
        self.end_pending(PacketWriteEndInfo::EndPage)?;
        self.write()
    }

    /// Writes the rest.
    pub fn finish(&mut self) -> io::Result<()> {
        self.since = None;
        self.end_pending(PacketWriteEndInfo::EndStream)?;
        self.write()?;
        self.out.flush()
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

/// Cuts a file that was cut off to its last whole page; says how long it is, in microseconds.
pub fn mend(file: &mut File) -> io::Result<i64> {
    const HEADER: usize = 27;
    let (length, mut at, mut samples) = (file.metadata()?.len(), 0, 0);
    loop {
        let mut page = [0; HEADER + 255];
        file.seek(SeekFrom::Start(at))?;
        let mut got = 0;
        while let read @ 1.. = file.read(&mut page[got..])? {
            got += read;
        }
        let page = &page[..got];
        let (true, Some(count)) = (page.starts_with(b"OggS"), page.get(HEADER - 1)) else { break };
        let Some(lacing) = page.get(HEADER..HEADER + *count as usize) else { break };
        let end = at + HEADER as u64 + *count as u64 + lacing.iter().map(|bytes| *bytes as u64).sum::<u64>();
        if end > length {
            break;
        }
        samples = page[6..].first_chunk().map_or(0, |granule| i64::from_le_bytes(*granule)).max(samples);
        at = end;
    }
    if samples == 0 {
        return Err(nothing_whole(length - at));
    }
    file.set_len(at)?;
    Ok(samples * 1_000 / 48)
}

/// Samples at 48 kHz that a packet stands for (RFC 6716 §3.1); none if it is malformed.
fn samples(packet: &[u8]) -> Option<u64> {
    let &toc = packet.first()?;
    let config = (toc >> 3) as usize;
    let frame = match config {
        0..12 => [480, 960, 1_920, 2_880][config & 3],
        12..16 => [480, 960][config & 1],
        _ => [120, 240, 480, 960][config & 3],
    };
    let frames = match toc & 3 {
        0 => 1,
        1 | 2 => 2,
        _ => packet.get(1)? & 0x3f,
    };
    Some(frame * frames as u64).filter(|samples| (1..=5_760).contains(samples))
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use ogg::PacketReader;

    use super::*;
    use crate::rtp::config::Codec;

    /// Twenty milliseconds of CELT, as browsers send it.
    const FRAME: [u8; 4] = [0xfc, 1, 2, 3];

    #[test]
    fn packets_say_how_long_they_are() {
        assert_eq!(samples(&FRAME), Some(960));
        // Two frames of 60 ms; three of 20 ms; none; more than 120 ms.
        assert_eq!(samples(&[3 << 3 | 1]), Some(5_760));
        assert_eq!(samples(&[0xff, 3]), Some(2_880));
        assert_eq!(samples(&[0xff, 0]), None);
        assert_eq!(samples(&[0xff, 7]), None);
        assert_eq!(samples(&[]), None);
    }

    #[test]
    fn a_gap_keeps_the_time() {
        let entry = TrackEntry { codec: Codec::Opus, private: b"OpusHead\x01\x02".to_vec(), size: (0, 0), title: String::new() };
        let mut file = Ogg::new(Vec::new(), &[entry]).expect("memory");
        let times = (0..100).chain(200..300).map(|index| index * 20_000);
        for time in times {
            file.frame(time, &FRAME).expect("memory");
        }
        file.finish().expect("memory");
        let mut reader = PacketReader::new(Cursor::new(file.out().clone()));
        let mut packets = Vec::new();
        while let Some(packet) = reader.read_packet().expect("pages are well formed") {
            packets.push((packet.data.len(), packet.absgp_page(), packet.last_in_stream()));
        }
        // Two headers; as many packets as there were times of 20 ms.
        assert_eq!(packets.len(), 2 + 300);
        assert_eq!(packets.iter().filter(|(bytes, ..)| *bytes == 1).count(), 100);
        assert_eq!(packets.last(), Some(&(FRAME.len(), 300 * 960, true)));
    }
}
