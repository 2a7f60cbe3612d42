//! One continuous stream for a receiver, whatever comes and goes at the source, and which of the source's layers are in it.
//!
//! A receiver sees one SSRC whose sequence numbers, timestamps, picture ids, TL0PICIDX and frame numbers go on without a seam when the source
//! changes: another simulcast encoding, or another publisher. Within one source the numbers are shifted by a constant, so loss and
//! reordering upstream look the same downstream and a late packet still finds its place; where layers are left out,
//! [`Thinning`] says by how much.

use crate::limits::{CACHE_LINE_BYTES, QUALITIES_MAX};
use crate::metrics::DropReason;
use crate::rtp::media::Media;
use crate::rtp::report::SenderClock;
use crate::rtp::thinning::{Shift, Thinning};
use crate::units::{ExtendedSequence, Micros, RtpTime, SequenceNumber, TrackId};

/// The stream a receiver is being fed from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Source {
    pub track: TrackId,
    pub stream: u8,
    pub encoding: u8,
}

impl Source {
    pub fn of(media: &Media) -> Source {
        Source { track: media.track, stream: media.stream, encoding: media.encoding }
    }
}

/// What a receiver is to be given of a track: an encoding, and the layers of it up to these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    pub encoding: u8,
    pub spatial: u8,
    pub temporal: u8,
}

impl Target {
    /// All of one encoding.
    pub const fn all(encoding: u8) -> Target {
        Target { encoding, spatial: u8::MAX, temporal: u8::MAX }
    }
}

/// What is written into the outgoing packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rewritten {
    pub sequence: ExtendedSequence,
    pub timestamp: RtpTime,
    /// Of its picture, or of its frame: [`Media::picture_number`].
    pub picture_number: u16,
    pub tl0_pic_idx: u8,
    pub marker: bool,
    /// Sent without its payload.
    pub blank: bool,
    /// For a dependency descriptor: added to its template ids.
    pub template_id_shift: u8,
    /// For a dependency descriptor: the spatial and temporal layer up to which this receiver gets the source, if it does not get all.
    pub limits: Option<(u8, u8)>,
}

/// Outgoing minus incoming numbers of one source.
#[derive(Clone, Copy, Debug, Default)]
struct Deltas {
    sequence: i64,
    timestamp: u32,
    picture_number: u16,
    tl0_pic_idx: u8,
    /// Of dependency descriptors. Two sources, one after the other, have different template ids, so that what is sent again of the
    /// first is not read by the second's structure.
    template_id: u8,
}

/// Half of the template ids: a structure has hardly ever as many, and encoders count them from 0.
const TEMPLATE_ID_STEP: u8 = 32;

impl Deltas {
    #[inline]
    fn renumber(&self, media: &Media, shift: Shift, limits: Option<(u8, u8)>) -> Rewritten {
        let picture_number = media.picture_number().unwrap_or(0).wrapping_add(self.picture_number).wrapping_add(shift.pictures);
        Rewritten {
            sequence: ExtendedSequence(media.sequence.0.wrapping_add_signed(self.sequence + shift.packets as i64)),
            timestamp: media.timestamp.add(self.timestamp),
            picture_number: picture_number & if media.dependency.is_some() { 0xffff } else { 0x7fff },
            tl0_pic_idx: media.picture.tl0_pic_idx.map_or(0, |(_, index)| index.wrapping_add(self.tl0_pic_idx)),
            marker: media.marker || shift.marked,
            blank: shift.blank,
            template_id_shift: self.template_id,
            limits: limits.filter(|_| media.dependency.is_some()),
        }
    }
}

/// What is known of packets that were sent, beyond their constant shift. Touched only where layers are left out, and by NACKs.
#[derive(Default)]
pub struct History {
    thinning: Thinning,
    /// The first outgoing number of this source.
    first: ExtendedSequence,
    /// The source before this one: what was lost just before a switch can still be sent again.
    previous: Option<Segment>,
}

/// A source that has ended.
struct Segment {
    source: Source,
    deltas: Deltas,
    first: ExtendedSequence,
    /// First and last outgoing number.
    outgoing: (ExtendedSequence, ExtendedSequence),
    thinning: Option<Thinning>,
}

/// The numbering of one outgoing stream. All that a packet reads and writes fits one cache line.
#[repr(C, align(64))]
pub struct Rewriter {
    /// Packets of the source before this one were never meant for this receiver.
    first: ExtendedSequence,
    /// The newest packet sent.
    highest: ExtendedSequence,
    deltas: Deltas,
    source: Source,
    timestamp: RtpTime,
    /// Of the newest packet sent, in milliseconds; wraps.
    arrival: u32,
    picture_number: u16,
    tl0_pic_idx: u8,
    attached: bool,
    started: bool,
    /// Layers of this source have been left out.
    thinned: bool,
    /// Layers of the source that pass now; `target` is where they are to go at the next chance.
    spatial: u8,
    temporal: u8,
    target: Option<Target>,
}

const _: () = assert!(size_of::<Rewriter>() == CACHE_LINE_BYTES);

impl Rewriter {
    /// `seed` sets the random first numbers (RFC 3550 §5.1); the sequence number starts in the lower half so that an early loss
    /// cannot confuse the receiver's roll-over counter (RFC 3711 §3.3.1).
    pub fn new(seed: u64) -> Self {
        Rewriter {
            first: ExtendedSequence(0),
            highest: ExtendedSequence(seed & 0x7fff),
            deltas: Deltas::default(),
            source: Source::default(),
            timestamp: RtpTime((seed >> 16) as u32),
            arrival: 0,
            picture_number: (seed >> 48) as u16 & 0x3fff,
            tl0_pic_idx: (seed >> 40) as u8,
            attached: false,
            started: false,
            thinned: false,
            spatial: 0,
            temporal: 0,
            target: Some(Target::all(0)),
        }
    }

    pub fn source(&self) -> Option<Source> {
        self.attached.then_some(self.source)
    }

    pub fn target(&self) -> Option<Target> {
        self.target
    }

    /// Spatial and temporal layers that pass now.
    pub fn passing(&self) -> (u8, u8) {
        (self.spatial, self.temporal)
    }

    /// The same, if layers are left out or have been: then a receiver is told with every packet, because it keeps what it was told
    /// last until the next key frame (AV1 RTP specification, A.4), and a packet that tells of a change can be lost.
    fn limits(&self) -> Option<(u8, u8)> {
        (self.thinned || (self.spatial, self.temporal) != (u8::MAX, u8::MAX)).then_some((self.spatial, self.temporal))
    }

    /// What the receiver is to get from the next chance on; none: nothing, at once.
    pub fn aim(&mut self, target: Option<Target>) {
        self.target = target;
        if target.is_none() {
            self.detach();
        }
    }

    /// The encoding of which a key frame is needed to get to where the target is. A higher spatial layer needs one too: in the middle
    /// of a sequence its pictures refer to earlier ones of their own.
    pub fn awaits(&self) -> Option<u8> {
        let Target { encoding, spatial, .. } = self.target?;
        (!self.attached || self.source.encoding != encoding || self.spatial < spatial).then_some(encoding)
    }

    /// Outgoing minus incoming timestamp, to translate sender reports.
    pub fn timestamp_delta(&self) -> u32 {
        self.deltas.timestamp
    }

    /// The newest number sent.
    pub fn newest(&self) -> SequenceNumber {
        self.highest.number()
    }

    /// Whether something that came then, or later, has been sent.
    pub fn has_sent(&self, arrival: Micros) -> bool {
        self.started && self.elapsed(arrival) <= 0
    }

    /// Milliseconds from the arrival of the newest packet sent to another one's.
    fn elapsed(&self, arrival: Micros) -> i32 {
        (arrival.as_millis() as u32).wrapping_sub(self.arrival) as i32
    }

    /// Timestamp of the newest packet sent.
    pub fn timestamp(&self) -> RtpTime {
        self.timestamp
    }

    /// The packets that were taken from this one on are not sent. What comes next is a key frame.
    pub fn take_back(&mut self, numbers: &Rewritten) {
        self.highest = ExtendedSequence(numbers.sequence.0 - 1);
    }

    /// The numbers of a packet that is none of a source's, while there is no source; what comes after it goes on from them.
    pub fn fill(&mut self, now: Micros, clock_rate: u32) -> Option<(ExtendedSequence, RtpTime)> {
        if self.attached {
            return None;
        }
        if self.started {
            self.timestamp = self.timestamp.add((self.elapsed(now).max(0) as u64 * clock_rate as u64 / 1_000) as u32);
        }
        (self.started, self.arrival) = (true, now.as_millis() as u32);
        self.highest.0 += 1;
        Some((self.highest, self.timestamp))
    }

    /// No source any more; the numbers go on from here with the next.
    pub fn detach(&mut self) {
        self.attached = false;
    }

    /// Takes the track's next packet: the numbers it is sent with, or none if this receiver does not get it. A video begins, and
    /// changes its encoding, with a key frame.
    #[inline]
    pub fn take(
        &mut self,
        media: &Media,
        is_video: bool,
        clock_rate: u32,
        clocks: &[Option<SenderClock>; QUALITIES_MAX],
        history: Option<&mut History>,
    ) -> Result<Option<Rewritten>, DropReason> {
        let Some(target) = self.target else { return Ok(None) };
        // Most packets: of the source that flows, all of which passes and has passed.
        let is_whole = (self.spatial & self.temporal, target) == (u8::MAX, Target::all(self.source.encoding)) && !self.thinned;
        if is_whole && self.attached && self.source == Source::of(media) && media.sequence >= self.first {
            return Ok(Some(self.pass(media, Shift::default())));
        }
        self.consider(media, &target, is_video, clock_rate, clocks, history)
    }

    /// What [`Rewriter::take`] does with a packet that may begin a source, or be left out.
    #[inline(never)]
    fn consider(
        &mut self,
        media: &Media,
        target: &Target,
        is_video: bool,
        clock_rate: u32,
        clocks: &[Option<SenderClock>; QUALITIES_MAX],
        mut history: Option<&mut History>,
    ) -> Result<Option<Rewritten>, DropReason> {
        if !self.attached || self.source != Source::of(media) {
            if media.encoding != target.encoding {
                return Ok(None);
            }
            if is_video && !media.key_frame {
                return if self.attached { Ok(None) } else { Err(DropReason::AwaitingKeyFrame) };
            }
            self.switch(media, clock_rate, clocks, history.as_deref_mut());
        } else if media.sequence < self.first {
            return Err(DropReason::TooLate);
        } else if !self.wants(media, target) {
            return Ok(history.and_then(|history| self.leave_out(media, &mut history.thinning)));
        }
        let ends = self.ends_picture(media);
        let shift = match history {
            Some(history) if ends || self.thinned => {
                let thinning = &mut history.thinning;
                self.thin(thinning, media);
                thinning.passed(media.sequence, media.picture.gapless_id());
                if ends {
                    thinning.mark(media.sequence);
                }
                thinning.shift(media.sequence).ok_or(DropReason::TooLate)?
            }
            _ => Shift::default(),
        };
        Ok(Some(self.pass(media, shift)))
    }

    /// Whether a packet of the source is of a layer that passes; layers change where they can.
    fn wants(&mut self, media: &Media, target: &Target) -> bool {
        let layer = &media.layer;
        // Until the key frame of the other encoding is there, everything of this one goes on.
        let (spatial, temporal) = match self.source.encoding == target.encoding {
            true => (target.spatial, target.temporal),
            false => (self.spatial, self.temporal),
        };
        if media.timestamp.add(self.deltas.timestamp) != self.timestamp {
            // A picture is not left half-way.
            self.spatial = self.spatial.min(spatial);
            self.temporal = self.temporal.min(temporal);
        }
        if media.key_frame {
            (self.spatial, self.temporal) = (spatial, temporal);
        }
        if temporal > self.temporal && layer.start_of_frame && layer.inter_picture && layer.spatial <= self.spatial {
            self.temporal = layer.temporal_limit(self.temporal, temporal);
        }
        layer.is_within(self.spatial, self.temporal)
    }

    /// The last packet of the picture for this receiver, which lacks the marker bit because higher spatial layers follow it.
    fn ends_picture(&self, media: &Media) -> bool {
        !media.marker && media.layer.marker(false, self.spatial)
    }

    /// From here on not all packets of the source are sent as they are.
    fn thin(&mut self, thinning: &mut Thinning, media: &Media) {
        if !std::mem::replace(&mut self.thinned, true) {
            let newest = ExtendedSequence(self.highest.0.wrapping_add_signed(-self.deltas.sequence));
            let picture = media.picture.gapless_id().map(|_| self.picture_number.wrapping_sub(self.deltas.picture_number) & 0x7fff);
            thinning.start(newest, picture);
        }
    }

    fn leave_out(&mut self, media: &Media, thinning: &mut Thinning) -> Option<Rewritten> {
        self.thin(thinning, media);
        let shift = thinning.skip(media.sequence, media.picture.gapless_id());
        self.deltas.sequence -= shift.packets as i64;
        self.deltas.picture_number = self.deltas.picture_number.wrapping_sub(shift.pictures);
        // A number was kept for it while it was missing.
        let kept = shift.blank.then(|| thinning.shift(media.sequence)).flatten()?;
        kept.blank.then(|| self.deltas.renumber(media, kept, self.limits()))
    }

    /// Begins a new source with `media` as its first packet.
    fn switch(
        &mut self,
        media: &Media,
        clock_rate: u32,
        clocks: &[Option<SenderClock>; QUALITIES_MAX],
        history: Option<&mut History>,
    ) {
        let ticks = if self.started { self.step(media, clock_rate, clocks) } else { 0 };
        if let Some(history) = history {
            history.previous = self.attached.then(|| Segment {
                source: self.source,
                deltas: self.deltas,
                first: self.first,
                outgoing: (history.first, self.highest),
                thinning: self.thinned.then(|| history.thinning.clone()),
            });
            history.first = ExtendedSequence(self.highest.0 + 1);
        }
        self.source = Source::of(media);
        (self.attached, self.started, self.thinned) = (true, true, false);
        self.first = media.sequence;
        self.deltas.sequence = (self.highest.0 + 1) as i64 - media.sequence.0 as i64;
        self.deltas.timestamp = self.timestamp.add(ticks).0.wrapping_sub(media.timestamp.0);
        if let Some(number) = media.picture_number() {
            self.deltas.picture_number = self.picture_number.wrapping_add(1).wrapping_sub(number);
        }
        if media.dependency.is_some() {
            self.deltas.template_id ^= TEMPLATE_ID_STEP;
        }
        if let Some((_, tl0_pic_idx)) = media.picture.tl0_pic_idx {
            self.deltas.tl0_pic_idx = self.tl0_pic_idx.wrapping_add(1).wrapping_sub(tl0_pic_idx);
        }
        let target = self.target.unwrap_or(Target::all(0));
        (self.spatial, self.temporal) = (target.spatial, target.temporal);
    }

    /// Clock ticks from the last picture sent to the first of a new source. Encodings of one publisher have timestamps of their
    /// own; its sender reports tell how they lie to each other. Without, time went on as the arrivals say.
    fn step(&self, media: &Media, clock_rate: u32, clocks: &[Option<SenderClock>; QUALITIES_MAX]) -> u32 {
        let arrived = self.elapsed(media.arrival) as i64 * clock_rate as i64 / 1_000;
        let clock =
            |encoding: u8, stream: u8| clocks.get(encoding as usize).copied().flatten().filter(|clock| clock.stream == stream);
        let reported = (self.source.track == media.track)
            .then(|| Some((clock(self.source.encoding, self.source.stream)?, clock(media.encoding, media.stream)?)))
            .flatten()
            .map(|(before, after)| {
                let last = RtpTime(self.timestamp.0.wrapping_sub(self.deltas.timestamp));
                let ntp = after.ntp_at(media.timestamp, clock_rate).wrapping_sub(before.ntp_at(last, clock_rate)) as i64;
                ((ntp as i128 * clock_rate as i128 + (1 << 31)) >> 32) as i64
            });
        // Reports that disagree with what is seen by more than half a second are not believed.
        let ticks = reported.filter(|ticks| (ticks - arrived).abs() < clock_rate as i64 / 2).unwrap_or(arrived);
        // At least one tick, so that it is a new picture.
        ticks.clamp(1, u32::MAX as i64) as u32
    }

    /// Numbers a packet of the source that is sent.
    #[inline]
    fn pass(&mut self, media: &Media, shift: Shift) -> Rewritten {
        let rewritten = self.deltas.renumber(media, shift, self.limits());
        if rewritten.sequence > self.highest {
            self.highest = rewritten.sequence;
            self.timestamp = rewritten.timestamp;
            self.arrival = media.arrival.as_millis() as u32;
            if media.picture_number().is_some() {
                self.picture_number = rewritten.picture_number;
            }
            if media.picture.tl0_pic_idx.is_some() {
                self.tl0_pic_idx = rewritten.tl0_pic_idx;
            }
        }
        rewritten
    }

    /// The numbers a packet was sent with, bit by bit: for retransmissions. None if it was not.
    pub fn renumber(&self, media: &Media, history: Option<&History>) -> Option<Rewritten> {
        let source = Source::of(media);
        let sent = |first: ExtendedSequence, deltas: &Deltas, thinning: Option<&Thinning>| {
            let shift = thinning.map_or(Some(Shift::default()), |thinning| thinning.shift(media.sequence))?;
            (media.sequence >= first).then(|| deltas.renumber(media, shift, self.limits()))
        };
        if self.attached && self.source == source {
            let thinning = history.filter(|_| self.thinned).map(|history| &history.thinning);
            return sent(self.first, &self.deltas, thinning).filter(|numbers| numbers.sequence <= self.highest);
        }
        let segment = history?.previous.as_ref().filter(|segment| segment.source == source)?;
        let numbers = sent(segment.first, &segment.deltas, segment.thinning.as_ref())?;
        (numbers.sequence >= segment.outgoing.0 && numbers.sequence <= segment.outgoing.1).then_some(numbers)
    }

    /// The packet behind an outgoing number: its source, and its number there.
    pub fn origin(&self, number: SequenceNumber, history: Option<&History>) -> Option<(Source, ExtendedSequence)> {
        let out = self.highest.nearest(number);
        let lead_back = |deltas: &Deltas, thinning: Option<&Thinning>| {
            let unshifted = out.0.checked_add_signed(deltas.sequence.checked_neg()?)?;
            thinning.map_or(Some(unshifted), |thinning| thinning.origin(unshifted))
        };
        if self.attached && out <= self.highest {
            let thinning = history.filter(|_| self.thinned).map(|history| &history.thinning);
            let incoming = lead_back(&self.deltas, thinning)?;
            if incoming >= self.first.0 {
                return Some((self.source, ExtendedSequence(incoming)));
            }
        }
        let segment = history?.previous.as_ref()?;
        if out < segment.outgoing.0 || out > segment.outgoing.1 {
            return None;
        }
        Some((segment.source, ExtendedSequence(lead_back(&segment.deltas, segment.thinning.as_ref())?)))
    }
}

#[cfg(test)]
mod tests;
