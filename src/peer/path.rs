//! The path to one viewer: what left over it, what the viewer tells of that, how much it carries, and so how fast packets may leave.
//!
//! ```text
//!   packet leaves ──► number, history ─┐
//!   feedback ────────► outcomes ───────┴─► estimator ──► target ──► pace: bytes that may leave now
//!                                               └─► probes to send
//! ```
//!
//! Made by the control plane, boxed, for sessions that agreed on transport-wide feedback
//! (draft-holmer-rmcat-transport-wide-cc-extensions-01), on congestion control feedback (RFC 8888), or at least on REMB, which is then
//! the target. The numbers are one count for all of a session's streams. A number is written at each sending anew, so no stream that has
//! them is ever repeated under its old SRTP index; see `signal::negotiate::stream::settle_feedback` and [`super::send`]. Where the
//! viewer tells of packets by their streams' own numbers, the count goes on unwritten, and `streams` leads from them to it.
//!
//! **Pace**, after libwebrtc's `modules/pacing`: packets leave at two and a half times the target, with an allowance for bursts, so that
//! a key frame neither overruns a narrow path nor waits long; to a viewer whose path is wide everything leaves at once. Unlike there,
//! no encoder follows the target: when 200 ms of it too much have left, only as much as the target leaves. A viewer of
//! whose path nothing is known is not paced: that has agreed on feedback and sent none for a second.
//!
//! **Beside TCP** ([`crate::rtp::gcc::compete`]) the estimate sways as a window does. What may be sent is then its mean, as encodings of fixed
//! rates cannot follow it and a picture that changes its layer each second is worse than either; and packets leave one by one: of those that
//! reach a full queue together most are lost, and each such loss counts.
//!
//! **Losses** that feedback tells of are repaired without waiting for the request, on paths where that may be lost too
//! ([`Path::take_lost`]; libwebrtc's `RtpVideoSender::OnPacketFeedbackVector` does so everywhere).
//!
//! What a viewer tells is not believed where it cannot be true: reports about packets that were never sent are dropped whole, what was
//! told once is not taken again, and there is a bound on how often it may tell. What remains may raise or lower its own estimate.

use std::mem::offset_of;

use arrayvec::ArrayVec;

use crate::limits::{CACHE_LINE_BYTES, DATAGRAM_BYTES_MAX, PATH_FEEDBACK, PATH_HISTORY};
use crate::metrics::DropReason;
use crate::rtp::allocate::Steadiness;
use crate::rtp::config::{Direction, MediaConfig};
use crate::rtp::gcc::probe::Cluster;
use crate::rtp::gcc::trendline::Usage;
use crate::rtp::gcc::{Estimator, Outcome};
use crate::units::{Bitrate, ExtendedSequence, Micros, RtpTime, SequenceNumber, Ssrc};
use crate::wire::ccfb;
use crate::wire::extension::ExtensionKind;
use crate::wire::twcc::{REFERENCE_TICKS, Report, TICK_MICROS};

mod playout;
mod streams;

use playout::Playout;
use streams::Streams;

/// What is assumed of a path before anything is told of it.
const START: Bitrate = Bitrate::kbps(1_000);
/// Bounds of the estimate.
const MIN: Bitrate = Bitrate::kbps(30);
const MAX: Bitrate = Bitrate::kbps(20_000);
/// Time after the first packet in which feedback must come for the path to be paced.
const FIRST_FEEDBACK: u64 = 1_000_000;
/// Waiting packets leave at so many quarters of the target. Libwebrtc's ten make a key frame wait in the path's queue instead of here,
/// which is taken for a sign that the path carries less; they are right before anything is known of it, so that a picture is seen soon.
const PACE_QUARTERS: u64 = 5;
const FIRST_PACE_QUARTERS: u64 = 10;
/// And while its queue is long, so that it gets shorter, and what takes over is seen soon all the same.
const FLOODED_PACE_QUARTERS: u64 = 3;
/// Parts of a second of the target by which more than the target may have left, before no more than the target leaves: 200 ms.
const SURPLUS_PARTS: i64 = 5;
/// Parts of a second of the pace that may leave at once: 10 ms, and three full packets at least.
const BURST_PARTS: u64 = 100;
const PACKET: i64 = 1_200;
const BURST_MIN: i64 = 3 * PACKET;
/// Bytes that may wait whatever the target.
const WAITING_MIN: u64 = 64 * 1024;
/// A viewer that is sent the past has caught up within so many seconds.
const CATCH_UP: u64 = 2;
/// Retransmissions: percentage of the target, and the bytes of it that may be saved up.
const REPEATS_PERCENT: u64 = 30;
const REPEATS_MIN: i64 = 6_000;
/// After the target has fallen no more than it leaves for so long: what is too much is in the path's queue.
const DRAIN: Micros = Micros::from_secs(1);
/// A path on which a repair may not come in time if it is lost itself.
const LOSSY: f64 = 0.03;
const LONG: Micros = Micros::from_millis(80);
/// From such losses on, repairs are lost as well all the time, on a path of any length.
const VERY_LOSSY: f64 = 0.1;
/// On such a path each FEC packet is for so many packets, divided by the loss, that a quarter of one of them is lost on average: then two
/// seldom are, which one FEC packet could not recover. So FEC adds some 10 to 25 %.
const FEC_SHARE: f64 = 0.25;
const FEC_EACH_MIN: f64 = 4.0;
const FEC_EACH_MAX: f64 = 10.0;
/// And is sent for so long after the path was last like that.
const FEC_SECONDS: u8 = 10;
/// Beside TCP: the time over which the estimate's mean is taken, some of a window's cuts.
const SWAY: Micros = Micros::from_secs(3);
/// A long queue.
const FLOODED_MS: f64 = 50.0;
/// And for so long it is taken for one when it was found to grow.
const FLOODED: Micros = Micros::from_millis(200);
/// Chromium reports on sound every 5 s.
const REPORTED: Micros = Micros::from_secs(6);
const ROUND_TRIP_FIRST: Micros = Micros::from_millis(100);
const ROUND_TRIP_MAX: u64 = 10_000_000;
/// Application-limited (libwebrtc's `alr_detector.cc`): of 65 % of the target over half a second, four fifths were not used; not any
/// more when half were.
const IDLE_PERCENT: u64 = 65;
/// Layers are chosen anew when the target has changed by a part like this, and at least so often.
const AIM_PARTS: u64 = 25;
const AIM_INTERVAL: Micros = Micros::from_millis(500);
/// Losses told of in one message that are repaired without having been asked for.
const LOST: usize = 16;
/// A probe that could not be sent for so long is of no use.
const PROBE_AGE_MAX: u64 = 500_000;

/// A packet that left: 31 bits of its time in microseconds and whether it can be sent again, then its length (11 bits), its cluster (3) and
/// what was told of it (2), then its number in its stream.
#[derive(Clone, Copy)]
struct Sent([u16; 4]);

const _: () = assert!(DATAGRAM_BYTES_MAX < 1 << 11);
const CLUSTER_TAGS: u32 = 7;
const REPEATABLE: u16 = 1 << 15;
const TOLD_LOST: u16 = 1 << 14;
const TOLD_ARRIVED: u16 = 1 << 15;

impl Sent {
    /// No packet: nothing can be told of it.
    const NONE: Sent = Sent([0, 0, TOLD_LOST | TOLD_ARRIVED, 0]);

    /// `number`: of what can be sent again.
    fn new(now: Micros, bytes: usize, tag: u16, number: Option<SequenceNumber>) -> Sent {
        let high = (now.0 >> 16) as u16 & !REPEATABLE | if number.is_some() { REPEATABLE } else { 0 };
        Sent([now.0 as u16, high, bytes.min(0x7ff) as u16 | tag << 11, number.map_or(0, |number| number.0)])
    }

    /// When it left; not longer ago than half an hour.
    fn at(self, now: Micros) -> Micros {
        let time = self.0[0] as u32 | ((self.0[1] & !REPEATABLE) as u32) << 16;
        Micros(now.0.saturating_sub(((now.0 as u32).wrapping_sub(time) & (u32::MAX >> 1)) as u64))
    }

    fn number(self) -> Option<SequenceNumber> {
        (self.0[1] & REPEATABLE != 0).then_some(SequenceNumber(self.0[3]))
    }

    fn bytes(self) -> usize {
        (self.0[2] & 0x7ff) as usize
    }

    fn tag(self) -> usize {
        (self.0[2] >> 11 & 7) as usize
    }

    /// Takes what is told of it; false if that is nothing new.
    fn tell(&mut self, arrived: bool) -> bool {
        let known = if arrived { TOLD_ARRIVED } else { TOLD_ARRIVED | TOLD_LOST };
        let new = self.0[2] & known == 0;
        self.0[2] |= if arrived { TOLD_ARRIVED } else { TOLD_LOST };
        new
    }
}

/// What feedback about packets needs and gives.
struct Transport {
    estimator: Estimator,
    sent: [Sent; PATH_HISTORY],
    /// Number of the next packet.
    next: ExtendedSequence,
    began: Option<Micros>,
    /// The receiver's clock: reference time of the last report as told, and without its wraps.
    reference: Option<(i32, i64)>,
    /// Ids of the clusters that the tags in `sent` stand for.
    clusters: [u32; CLUSTER_TAGS as usize + 1],
    /// What was told to be lost and could be sent again.
    lost: ArrayVec<SequenceNumber, LOST>,
    /// Unused part of what an application-limited sender would not use up.
    unused: i64,
    /// Bytes sent, and the time, at the last report.
    sent_at_report: u64,
    reported: Micros,
}

/// A cluster being sent.
#[derive(Clone, Copy, Debug)]
struct Probe {
    cluster: Cluster,
    began: Micros,
    packets: u32,
    bytes: usize,
}

/// Packets that wait: a list in the worker's slab ([`crate::worker::pace`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiting {
    pub first: u32,
    pub last: u32,
    pub packets: u32,
    pub bytes: u32,
    /// The last frame in it: its encoding and time.
    pub frame: (u8, RtpTime),
}

impl Default for Waiting {
    fn default() -> Self {
        Waiting { first: u32::MAX, last: u32::MAX, packets: 0, bytes: 0, frame: (0, RtpTime(0)) }
    }
}

/// What the control plane shows of a path.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct PathStats {
    /// None while nothing is known.
    pub target: Option<Bitrate>,
    /// How much arrives.
    pub acknowledged: Option<Bitrate>,
    pub round_trip: Micros,
    /// Of the last seconds' packets, of 1.
    pub loss: f64,
    pub waiting_bytes: u32,
}

/// The path to a viewer. Its first two cache lines are what each packet touches, beside one of the history.
#[repr(C, align(64))]
pub struct Path {
    /// Bytes that may leave now; negative after more has left.
    budget: i64,
    /// Bytes that left above the target lately.
    surplus: i64,
    refilled: Micros,
    /// Bytes a second.
    target: u64,
    pub waiting: Waiting,
    /// What flows is more than was chosen: of what waits less than usual may.
    pub hurries: bool,
    pub playout: Playout,
    transport: Option<Box<Transport>>,
    /// For a viewer that tells by stream and sequence number.
    streams: Option<Box<Streams>>,

    /// Bytes that left.
    sent: u64,
    /// Bytes that may still be sent again.
    repeats: i64,
    /// Something was told of the path.
    heard: bool,
    /// On the worker's list of those that wait or probe.
    pub listed: bool,
    /// Its queue is long while it has to drain: what is sent now may well find no place in it.
    flooded: bool,
    /// Until then its queue has to drain.
    drained: Micros,
    /// Beside TCP what the estimate is on average, else 0.
    mean: u64,

    /// Waits for media to flow; since when.
    probe_next: Option<(Cluster, Micros)>,
    probe: Option<Probe>,
    round_trip: Option<Micros>,
    /// Feedback messages since `counted`.
    messages: u32,
    counted: Micros,
    /// When something was told that was new.
    learned: Micros,
    /// Its viewer may ask for packets again (NACK), and so takes them.
    takes_repairs: bool,
    /// Packets of video for each of FEC (0: none), and seconds for which that goes on.
    protection: (u8, u8),
    /// When the target fell because it grew.
    fell: Option<Micros>,
    /// The target for which layers were chosen last, and when.
    aimed: (u64, Micros),
    pub steadiness: Steadiness,
}

const _: () = assert!(size_of::<Path>() + size_of::<Transport>() <= 8 * 1024);
const _: () = assert!(offset_of!(Path, mean) + size_of::<u64>() <= 2 * CACHE_LINE_BYTES);

/// A packet that is about to leave over a path.
pub struct Leaving<'a> {
    pub path: &'a mut Path,
    pub now: Micros,
    /// The probe it is part of; 0 for none.
    pub cluster: u32,
}

impl Leaving<'_> {
    /// Its transport-wide number; none if none are written on this path.
    pub fn number(&self) -> Option<SequenceNumber> {
        self.path.transport.as_ref().filter(|_| self.path.streams.is_none()).map(|transport| transport.next.number())
    }

    /// It left, with or without its number, as this one of its stream and so many bytes of UDP payload. `repeatable`: it can be sent again.
    pub fn left(self, numbered: bool, repeatable: bool, ssrc: Ssrc, sequence: SequenceNumber, bytes: usize) {
        let path = self.path;
        let counted = match (path.streams.as_deref_mut(), path.transport.as_deref()) {
            (Some(streams), Some(transport)) => streams.left(ssrc, sequence, transport.next.0),
            _ => numbered,
        };
        path.left(counted, bytes, self.cluster, repeatable.then_some(sequence), self.now);
    }
}

impl Path {
    /// The path of a session with these m-lines; none if nothing is told of it. `seed`: of the first number.
    pub fn new(media: &[MediaConfig], seed: u64) -> Option<Box<Path>> {
        let sent = || media.iter().filter(|media| media.direction == Direction::SendOnly);
        let numbered = sent().any(|media| media.extensions.id(ExtensionKind::TransportSequence).is_some());
        let remb = sent().flat_map(|media| &media.codecs).any(|codec| codec.feedback.remb);
        let streams = Streams::new(media).filter(|_| !numbered);
        if !numbered && streams.is_none() && !remb {
            return None;
        }
        Some(Box::new(Path {
            budget: BURST_MIN,
            surplus: 0,
            refilled: Micros::ZERO,
            target: START.0 / 8,
            waiting: Waiting::default(),
            playout: Playout::default(),
            hurries: false,
            transport: (numbered || streams.is_some()).then(|| Box::new(Transport::new(seed))),
            streams,
            sent: 0,
            repeats: REPEATS_MIN,
            heard: false,
            listed: false,
            flooded: false,
            drained: Micros::ZERO,
            mean: 0,
            probe_next: None,
            probe: None,
            round_trip: None,
            messages: 0,
            counted: Micros::ZERO,
            learned: Micros::ZERO,
            takes_repairs: sent().flat_map(|media| &media.codecs).any(|codec| codec.feedback.nack),
            protection: (0, 0),
            fell: None,
            aimed: (0, Micros::ZERO),
            steadiness: Steadiness::default(),
        }))
    }

    /// What may be sent; none if nothing is known of the path.
    pub fn target(&self) -> Option<Bitrate> {
        self.heard.then_some(Bitrate(self.target * 8))
    }

    /// What media may take of it: the target, less what repairs take. None if nothing bounds it.
    pub fn budget(&self, now: Micros) -> Option<Bitrate> {
        self.is_paced(now).then_some(Bitrate((self.target as f64 * 8.0 * self.of_media()) as u64))
    }

    /// The part of the target that is left to media.
    fn of_media(&self) -> f64 {
        let copies = if self.repairs_twice() { 2.0 } else { 1.0 };
        // Beside TCP losses come in bursts, when it fills the queue, and are few on average.
        let repairs = if self.competes() { 0.0 } else { (copies * self.loss()).min(REPEATS_PERCENT as f64 / 100.0) };
        let fec = if self.protection.0 > 0 { 1.0 / self.protection.0 as f64 } else { 0.0 };
        (1.0 - repairs) / (1.0 + fec)
    }

    /// Whether it is time to choose layers anew: the target is another one than at the last time, or that was a while ago.
    pub fn is_new(&mut self, now: Micros) -> bool {
        let (target, at) = self.aimed;
        let differs = self.target.abs_diff(target) * AIM_PARTS > target || (self.flooded && self.hurries);
        let is_new = self.heard && (differs || now.since(at) >= AIM_INTERVAL.0);
        if is_new {
            self.aimed = (self.target, now);
        }
        is_new
    }

    /// As far as the feedback tells it: with the time that the viewer takes to report.
    pub fn round_trip(&self) -> Option<Micros> {
        self.round_trip
    }

    /// Whether its queue is somebody else's: one that gives way to loss alone.
    pub fn competes(&self) -> bool {
        self.mean > 0
    }

    /// Losses of the last seconds, of 1.
    pub fn loss(&self) -> f64 {
        self.transport.as_ref().map_or(0.0, |transport| transport.estimator.loss())
    }

    pub fn stats(&self) -> PathStats {
        PathStats {
            target: self.target(),
            acknowledged: self.transport.as_ref().and_then(|transport| transport.estimator.acknowledged()),
            round_trip: self.round_trip.unwrap_or_default(),
            loss: self.loss(),
            waiting_bytes: self.waiting.bytes,
        }
    }

    /// What media could use of this path next, for example for another layer: it is probed for, and if the path carries it, more, up to the
    /// most that they could use. And the least that they take.
    pub fn want(&mut self, next: Bitrate, (least, most): (Bitrate, Bitrate), now: Micros) {
        let (may, of_media) = (self.heard && !self.drains(now), self.of_media());
        let with_repairs = |rate: Bitrate| Bitrate((rate.0 as f64 / of_media) as u64);
        let Some(transport) = self.transport.as_deref_mut() else { return };
        transport.estimator.set_least(with_repairs(least));
        if !may {
            return;
        }
        transport.estimator.want(with_repairs(next), with_repairs(most), now);
        self.take_probe(now);
    }

    /// Bytes of video that may leave now; at most 0 if packets wait. [`i64::MAX`] if the path is not paced.
    pub fn allowance(&mut self, now: Micros) -> i64 {
        let waits = self.waiting.packets > 0;
        if !self.is_paced(now) {
            return if waits { 0 } else { i64::MAX };
        }
        self.refill(now);
        if waits { self.budget.min(0) } else { self.budget }
    }

    /// As [`Path::allowance`], for the packets that wait.
    pub fn allowance_of_waiting(&mut self, now: Micros) -> i64 {
        if !self.is_paced(now) {
            return i64::MAX;
        }
        self.refill(now);
        self.budget
    }

    /// Bytes that may wait before a frame that is added: a second of what the path carries; an eighth
    /// of it of an encoding that is to be left for a lower one.
    pub fn waiting_max(&self, leaves: bool) -> u64 {
        if self.hurries && leaves { self.target / 8 } else { self.target.max(WAITING_MIN) }
    }

    /// Most of what waits has left, and a key frame would be taken.
    pub fn has_room_for_key_frame(&self) -> bool {
        self.waiting.bytes as u64 <= self.waiting_max(false) / 2
    }

    /// Bytes of the past that may be sent before what flows at `rate`: what the path carries beside that while the viewer catches up.
    /// As long as nothing is known of the path, what may wait.
    pub fn room_for_past(&self, rate: Bitrate, now: Micros) -> u64 {
        let Some(Bitrate(budget)) = self.budget(now) else { return u64::MAX };
        let spare = match self.heard {
            true if self.flooded => 0,
            true => budget.saturating_sub(rate.0) / 8 * CATCH_UP,
            false => u64::MAX,
        };
        spare.min(self.waiting_max(false)).saturating_sub(self.waiting.bytes as u64)
    }

    fn is_paced(&self, now: Micros) -> bool {
        let began = self.transport.as_ref().map(|transport| transport.began);
        self.heard || began.is_some_and(|began| began.is_none_or(|began| now.since(began) < FIRST_FEEDBACK))
    }

    fn refill(&mut self, now: Micros) {
        let elapsed = now.since(self.refilled).min(1_000_000);
        if elapsed == 0 {
            return;
        }
        self.refilled = now;
        let target = (self.target * elapsed / 1_000_000) as i64;
        self.surplus = (self.surplus - target).max(0);
        let spent = self.surplus > self.target as i64 / SURPLUS_PARTS || self.drains(now);
        let rate = match (spent, self.flooded) {
            (_, true) => self.target * FLOODED_PACE_QUARTERS / 4,
            (true, _) => self.target,
            _ if self.heard => self.target * PACE_QUARTERS / 4,
            _ => self.target * FIRST_PACE_QUARTERS / 4,
        };
        let burst = if self.flooded || self.competes() { PACKET } else { BURST_MIN.max((rate / BURST_PARTS) as i64) };
        self.budget = (self.budget + (rate * elapsed / 1_000_000) as i64).min(burst);
        let repeats_max = REPEATS_MIN.max((self.target * REPEATS_PERCENT / 200) as i64);
        self.repeats = (self.repeats + target * REPEATS_PERCENT as i64 / 100).min(repeats_max);
    }

    /// Where a repair that is lost too would be seen, it leaves twice; not while it keeps others waiting.
    pub fn repeats_twice(&self) -> bool {
        self.repairs_twice() && self.waiting.packets == 0
    }

    /// The path is long and loses so much that one repair in thirty or more would be lost as well, and another round trip be seen; or it
    /// loses so much that several in a row would be. Not beside TCP, whose full queue it is.
    pub fn repairs_twice(&self) -> bool {
        self.round_trip.is_some_and(|round_trip| loses_repairs(self.loss(), round_trip, LONG)) && !self.competes()
    }

    /// Once a second: for how many packets of video there is to be one of FEC, as the path loses; 0: none.
    pub fn protect(&mut self) -> u8 {
        self.playout.follow(self.loss(), self.round_trip);
        if self.repairs_twice() {
            let each = (FEC_SHARE / self.loss()).clamp(FEC_EACH_MIN, FEC_EACH_MAX);
            self.protection = (each as u8, FEC_SECONDS);
        }
        let (each, seconds) = self.protection;
        self.protection = if seconds == 0 { (0, 0) } else { (each, seconds - 1) };
        self.protection.0
    }

    /// Whether the path's queue has to drain.
    pub fn drains(&self, now: Micros) -> bool {
        now < self.drained
    }

    /// Its queue has run over of late, as far as a report may reach back: what that tells of losses is of no chance, and to repeat more would
    /// make it longer.
    pub fn ran_over(&self, now: Micros) -> bool {
        self.fell.is_some_and(|at| now.since(at) < REPORTED.0)
    }

    pub fn is_flooded(&self) -> bool {
        self.flooded
    }

    /// Whether the path's share for retransmissions has room for so many bytes more; they are counted.
    pub fn may_repeat(&mut self, bytes: usize, now: Micros) -> bool {
        if !self.is_paced(now) {
            return true;
        }
        self.refill(now);
        let may = self.repeats > 0;
        if may {
            self.repeats -= bytes as i64;
        }
        may
    }

    /// Whether feedback is taken about the packets of a stream, by their own numbers.
    pub fn follows(&self, ssrc: Ssrc) -> bool {
        self.streams.as_ref().is_some_and(|streams| streams.follows(ssrc))
    }

    /// A packet left that is counted, and told of, or is not.
    fn left(&mut self, counted: bool, bytes: usize, cluster: u32, number: Option<SequenceNumber>, now: Micros) {
        self.budget -= bytes as i64;
        self.sent += bytes as u64;
        if cluster == 0 {
            self.surplus += bytes as i64;
        }
        // What leaves between the packets of a probe takes its part of the path too, and belongs to it.
        let cluster = match &mut self.probe {
            Some(probe) if counted => {
                probe.packets += 1;
                probe.bytes += bytes;
                probe.cluster.id
            }
            _ => cluster,
        };
        let Some(transport) = self.transport.as_deref_mut().filter(|_| counted) else { return };
        if transport.began.is_none() {
            transport.begin(now);
            self.probe_next = transport.estimator.probe().map(|cluster| (cluster, now));
        }
        transport.left(bytes, cluster, number, now);
    }

    /// Numbers of packets that the last message told to be lost, where a request for them may be lost as well.
    pub fn take_lost(&mut self) -> ArrayVec<SequenceNumber, LOST> {
        let repairs = self.takes_repairs && self.repairs_twice();
        let lost = self.transport.as_deref_mut().map(|transport| std::mem::take(&mut transport.lost));
        lost.filter(|_| repairs).unwrap_or_default()
    }

    /// Takes a transport-wide report in (what follows the SSRCs of its RTCP packet).
    pub fn report(&mut self, bytes: &[u8], now: Micros) -> Result<(), DropReason> {
        self.count_message(now)?;
        let agreed = self.transport.as_deref_mut().filter(|_| self.streams.is_none());
        let transport = agreed.ok_or(DropReason::FeedbackUnsent)?;
        let report = Report::parse(bytes)?;
        let first = transport.next.nearest(report.base);
        if first.0 + report.status_count() as u64 > transport.next.0 {
            return Err(DropReason::FeedbackUnsent);
        }
        transport.look_for_idleness(self.sent, self.target, now);
        let round_trip = self.round_trip.unwrap_or(ROUND_TRIP_FIRST);
        let mut ticks = transport.unwrap(report.reference_time) * REFERENCE_TICKS;
        let told = (first.0..).zip(report.packets()).map(|(count, (_, delta))| {
            ticks += delta.unwrap_or(0) as i64;
            (count, delta.map(|_| Micros((ticks.max(0) as u64).saturating_mul(TICK_MICROS))))
        });
        let news = transport.take_in(told, round_trip, now);
        self.learn(news, now);
        Ok(())
    }

    /// Takes a report by stream and sequence number in (RFC 8888; what follows the sender's SSRC of its RTCP packet).
    pub fn ccfb(&mut self, bytes: &[u8], now: Micros) -> Result<(), DropReason> {
        self.count_message(now)?;
        let (Some(transport), Some(streams)) = (self.transport.as_deref_mut(), self.streams.as_deref_mut()) else {
            return Err(DropReason::FeedbackUnsent);
        };
        let report = ccfb::Report::parse(bytes)?;
        let told = streams.told(&report, transport.oldest()..transport.next.0)?;
        transport.look_for_idleness(self.sent, self.target, now);
        let news = transport.take_in(told, self.round_trip.unwrap_or(ROUND_TRIP_FIRST), now);
        self.learn(news, now);
        Ok(())
    }

    /// The estimator was told something, and a round trip if a packet arrived; or nothing new.
    fn learn(&mut self, news: Option<Option<Micros>>, now: Micros) {
        let (Some(sample), Some(transport)) = (news, self.transport.as_deref_mut()) else { return };
        if let Some(sample) = sample {
            // As RFC 6298 §2.3.
            self.round_trip = Some(self.round_trip.map_or(sample, |smooth| Micros((7 * smooth.0 + sample.0) / 8)));
        }
        self.heard = true;
        let estimate = transport.estimator.target().0 / 8;
        let elapsed = now.since(std::mem::replace(&mut self.learned, now)).min(SWAY.0);
        let mean = (self.mean * (SWAY.0 - elapsed) + estimate * elapsed) / SWAY.0;
        self.mean = if transport.estimator.competes() { mean } else { 0 };
        let target = estimate.max(self.mean);
        if (self.target - self.target.min(target)) * AIM_PARTS > self.target {
            self.drained = now + DRAIN;
            if transport.estimator.usage() == Usage::Over {
                self.fell = Some(now);
                self.budget = self.budget.min(0);
            }
        }
        self.target = target;
        transport.estimator.set_draining(now < self.drained);
        // What is told of a queue is as old as it is long. That of others does not drain if we hold back.
        let long = self.mean == 0 && transport.estimator.queue_ms() > FLOODED_MS;
        let long = long || self.fell.is_some_and(|at| now.since(at) < FLOODED.0);
        self.flooded = now < self.drained && long;
        self.take_probe(now);
    }

    /// Takes a receiver's own estimate: the target, if there is nothing better.
    pub fn remb(&mut self, bitrate: Bitrate, now: Micros) -> Result<(), DropReason> {
        self.count_message(now)?;
        if self.transport.is_none() {
            self.heard = true;
            self.target = bitrate.clamp(MIN, MAX).0 / 8;
        }
        Ok(())
    }

    fn count_message(&mut self, now: Micros) -> Result<(), DropReason> {
        if now.since(self.counted) >= 1_000_000 {
            (self.counted, self.messages) = (now, 0);
        }
        self.messages += 1;
        if self.messages > PATH_FEEDBACK { Err(DropReason::FeedbackFlood) } else { Ok(()) }
    }

    fn take_probe(&mut self, now: Micros) {
        if self.probe_next.is_none_or(|(_, since)| now.since(since) > PROBE_AGE_MAX) {
            self.probe_next = self.transport.as_deref_mut().and_then(|transport| Some((transport.estimator.probe()?, now)));
        }
    }

    /// Begins the next probe, if there is one to be sent; media flows.
    pub fn begin_probe(&mut self, now: Micros) -> bool {
        if self.probe.is_some() || self.drains(now) {
            return false;
        }
        let Some((cluster, since)) = self.probe_next.take() else { return false };
        if now.since(since) <= PROBE_AGE_MAX {
            self.probe = Some(Probe { cluster, began: now, packets: 0, bytes: 0 });
        }
        self.take_probe(now);
        self.probe.is_some()
    }

    pub fn wants_probe(&self) -> bool {
        self.probe_next.is_some()
    }

    pub fn has_probe(&self) -> bool {
        self.probe.is_some()
    }

    /// The probe of which a packet is to be sent now, and how many bytes each of its packets may have if it is to have enough of them.
    pub fn probe_due(&mut self, now: Micros) -> Option<(u32, usize)> {
        let Probe { cluster, began, packets, bytes } = self.probe?;
        let elapsed = now.since(began);
        if elapsed > PROBE_AGE_MAX || (packets >= cluster.packets && bytes >= cluster.bytes) {
            self.probe = None;
            return None;
        }
        let due = bytes as u64 * 8_000_000 <= cluster.rate.0 * elapsed;
        due.then_some((cluster.id, cluster.bytes / cluster.packets.max(1) as usize))
    }

    /// Gives a probe up that cannot be sent.
    pub fn give_up_probe(&mut self) {
        self.probe = None;
    }
}

/// Repairs are lost or late so often that it is seen: on a path that loses much, and on one longer than `long` that loses less.
fn loses_repairs(loss: f64, round_trip: Micros, long: Micros) -> bool {
    loss > VERY_LOSSY || (loss > LOSSY && round_trip > long)
}

impl Transport {
    fn new(seed: u64) -> Transport {
        Transport {
            estimator: Estimator::new(START, MIN, MAX, Micros::ZERO),
            sent: [Sent::NONE; PATH_HISTORY],
            next: ExtendedSequence::first(SequenceNumber(seed as u16)),
            began: None,
            reference: None,
            clusters: [0; CLUSTER_TAGS as usize + 1],
            lost: ArrayVec::new(),
            unused: 0,
            sent_at_report: 0,
            reported: Micros::ZERO,
        }
    }

    /// The first packet leaves: the estimator's time begins.
    fn begin(&mut self, now: Micros) {
        self.estimator = Estimator::new(START, MIN, MAX, now);
        (self.began, self.reported) = (Some(now), now);
    }

    fn left(&mut self, bytes: usize, cluster: u32, number: Option<SequenceNumber>, now: Micros) {
        let tag = if cluster == 0 { 0 } else { 1 + cluster % CLUSTER_TAGS };
        self.clusters[tag as usize] = cluster;
        self.sent[self.next.0 as usize % PATH_HISTORY] = Sent::new(now, bytes, tag as u16, number);
        self.next.0 += 1;
    }

    fn look_for_idleness(&mut self, sent: u64, target: u64, now: Micros) {
        let elapsed = now.since(self.reported).min(1_000_000);
        let used = sent - std::mem::replace(&mut self.sent_at_report, sent);
        self.reported = now;
        let may = target * IDLE_PERCENT / 100;
        let max = (may / 2) as i64;
        self.unused = (self.unused + (may * elapsed / 1_000_000) as i64 - used as i64).clamp(-max, max);
        if self.unused * 5 > max * 4 {
            self.estimator.set_idle(true);
        } else if self.unused * 2 < max {
            self.estimator.set_idle(false);
        }
    }

    /// The oldest packet in the history.
    fn oldest(&self) -> u64 {
        self.next.0.saturating_sub(PATH_HISTORY as u64)
    }

    /// News for the estimator, of what is told of packets by count, in the order of sending: when each arrived, if it did. None if there
    /// are none; else the round trip, if a packet arrived.
    fn take_in(
        &mut self,
        told: impl Iterator<Item = (u64, Option<Micros>)>,
        round_trip: Micros,
        now: Micros,
    ) -> Option<Option<Micros>> {
        let oldest = self.oldest();
        let Transport { estimator, sent, clusters, lost, .. } = self;
        lost.clear();
        let mut newest = None;
        let mut outcomes = told
            .filter_map(|(count, arrived)| {
                let packet = sent.get_mut(count as usize % PATH_HISTORY).filter(|_| count >= oldest)?;
                if !packet.tell(arrived.is_some()) {
                    return None;
                }
                if let (None, Some(number)) = (arrived, packet.number()) {
                    let _ = lost.try_push(number);
                }
                let left = packet.at(now);
                newest = newest.max(arrived.map(|arrived| (arrived, left)));
                Some(Outcome { sent: left, arrived, bytes: packet.bytes(), cluster: clusters[packet.tag()] })
            })
            .peekable();
        outcomes.peek()?;
        estimator.feedback(outcomes, round_trip, now);
        Some(newest.map(|(_, left)| Micros(now.since(left).min(ROUND_TRIP_MAX))))
    }

    /// The reference time without its wraps (24 bits, signed), from an origin far from zero.
    fn unwrap(&mut self, told: i32) -> i64 {
        let time = match self.reference {
            Some((last, time)) => time + (((told.wrapping_sub(last)) << 8 >> 8) as i64),
            None => 1 << 30,
        };
        self.reference = Some((told, time));
        time
    }
}

#[cfg(test)]
mod tests;
