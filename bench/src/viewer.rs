//! One viewer: a transport and what arrived through it. Without I/O; `receiver` owns the sockets.

use distributary::rtp::transport_cc::Arrivals;
use distributary::units::{Micros, SequenceNumber, Ssrc};
use distributary::wire::rtcp::{self, Feedback, ReportBlock};
use distributary::wire::rtp::Header;
use distributary::wire::twcc;

use crate::histogram::Histogram;
use crate::media::{self, Kind};
use crate::sdp;
use crate::tally::{Arrival, Tally};
use crate::transport::{Event, Transport};

/// A viewer that is not in the sample decrypts one of so many packets of a stream, so that it follows the roll-overs.
const GLIMPSE: u64 = 256;
const REPORT_INTERVAL: u64 = 1_000_000_000;
const NACKS_MAX: usize = 64;

/// What a viewer saw, or many together.
#[derive(Clone, Default)]
pub struct Counts {
    pub received: u64,
    pub bytes: u64,
    pub expected: u64,
    pub duplicates: u64,
    pub reordered: u64,
    pub retransmissions: u64,
    pub recovered: u64,
    /// Packets decrypted and found as they were sent.
    pub intact: u64,
    /// Packets that did not authenticate, or were not as they were sent.
    pub damaged: u64,
    /// The stream's SSRC changed under way.
    pub ssrc_changes: u64,
    /// From the publisher's send to the viewer's socket, by the kernel's clock.
    pub to_socket: Histogram,
    /// And to this program.
    pub to_reader: Histogram,
}

impl Counts {
    pub fn add(&mut self, other: &Counts) {
        self.received += other.received;
        self.bytes += other.bytes;
        self.expected += other.expected;
        self.duplicates += other.duplicates;
        self.reordered += other.reordered;
        self.retransmissions += other.retransmissions;
        self.recovered += other.recovered;
        self.intact += other.intact;
        self.damaged += other.damaged;
        self.ssrc_changes += other.ssrc_changes;
        self.to_socket.add(&other.to_socket);
        self.to_reader.add(&other.to_reader);
    }
}

#[derive(Default)]
struct Stream {
    ssrc: u32,
    tally: Tally,
    /// The publisher's number of the first packet of the measurement.
    first_number: Option<u64>,
    look_at_next: bool,
    packets: u64,
    /// Middle of the last sender report's time, and when it came.
    last_report: (u32, u64),
}

/// When a viewer got where; CLOCK_MONOTONIC.
#[derive(Clone, Copy, Debug, Default)]
pub struct Milestones {
    pub posted: u64,
    pub answered: u64,
    pub connected: Option<u64>,
    pub first_packet: Option<u64>,
    /// The first video packet began a key frame; `None` before it came.
    pub began_with_key_frame: Option<bool>,
}

pub struct Viewer {
    pub transport: Transport,
    pub milestones: Milestones,
    /// Which publisher it watches.
    pub room: usize,
    /// Decrypts everything.
    pub in_sample: bool,
    nack: bool,
    /// What is told of the path, if anything.
    arrivals: Option<Box<Arrivals>>,
    ssrc: Ssrc,
    streams: [Stream; 2],
    pub counts: Counts,
    /// RTP packets since the beginning.
    pub packets: u64,
    next_report: u64,
}

/// When a datagram came.
#[derive(Clone, Copy)]
pub struct Arrived {
    pub now: u64,
    /// By the kernel's clock, made monotonic.
    pub at_socket: Option<u64>,
    /// A datagram of the measurement.
    pub measured: bool,
}

impl Viewer {
    pub fn new(
        transport: Transport,
        milestones: Milestones,
        room: usize,
        in_sample: bool,
        nack: bool,
        numbered: bool,
        ssrc: u32,
    ) -> Viewer {
        Viewer {
            transport,
            milestones,
            room,
            in_sample,
            nack,
            arrivals: numbered.then(Box::default),
            ssrc: Ssrc(ssrc),
            streams: [Stream { look_at_next: true, ..Stream::default() }, Stream { look_at_next: true, ..Stream::default() }],
            counts: Counts::default(),
            packets: 0,
            next_report: u64::MAX,
        }
    }

    /// Whether it matters when a packet came to the socket. To who tells of arrivals it does: those of one reading would all seem to have come
    /// at once, and a server does not believe that of a path.
    pub fn asks_when(&self) -> bool {
        self.in_sample || self.arrivals.is_some()
    }

    pub fn due(&self) -> u64 {
        self.transport.due().min(self.next_report)
    }

    pub fn poll(&mut self, now: u64, send: &mut dyn FnMut(&[u8])) {
        self.transport.poll(now, send);
        if now >= self.next_report {
            self.next_report = now + REPORT_INTERVAL;
            self.report(now, send);
        }
    }

    pub fn handle(&mut self, datagram: &mut [u8], arrived: Arrived, send: &mut dyn FnMut(&[u8])) {
        match self.transport.handle(datagram, arrived.now, send) {
            Event::Handled => {}
            Event::Connected => {
                self.milestones.connected = Some(arrived.now);
                // Not all viewers at once.
                self.next_report = arrived.now + u64::from(self.ssrc.0) % REPORT_INTERVAL;
            }
            Event::Rtcp => self.handle_rtcp(datagram, arrived.now),
            Event::Rtp => self.handle_rtp(datagram, arrived, send),
        }
    }

    /// The measurement begins: what comes from now on counts.
    pub fn restart(&mut self) {
        // Probes come as a viewer joins, before anything is measured.
        self.counts = Counts { retransmissions: self.counts.retransmissions, ..Counts::default() };
        for stream in &mut self.streams {
            stream.tally.restart();
            stream.first_number = None;
            stream.look_at_next = true;
        }
    }

    /// The counts, given the numbers of the publisher's next packets when the measurement began, and now.
    pub fn finish(&mut self, began: [u64; 2], ended: [u64; 2]) -> Counts {
        let mut counts = self.counts.clone();
        for ((stream, began), ended) in self.streams.iter().zip(began).zip(ended) {
            counts.received += stream.tally.received;
            counts.duplicates += stream.tally.duplicates + stream.tally.ancient;
            counts.reordered += stream.tally.reordered;
            counts.expected += ended.saturating_sub(stream.first_number.unwrap_or(began));
        }
        counts
    }

    fn handle_rtp(&mut self, packet: &mut [u8], arrived: Arrived, send: &mut dyn FnMut(&[u8])) {
        let Ok(header) = Header::parse(packet) else {
            self.counts.damaged += 1;
            return;
        };
        let number = header.extension(sdp::TRANSPORT_SEQUENCE_ID).and_then(|data| data.try_into().ok()).map(u16::from_be_bytes);
        let (header_len, sequence, ssrc) = (header.header_len, header.sequence_number, header.ssrc.0);
        let payload_type = header.payload_type.0;
        if let Some(number) = number {
            self.report_arrival(SequenceNumber(number), arrived, send);
        }
        let kind = match payload_type {
            sdp::OPUS => Kind::Audio,
            sdp::VP8 => Kind::Video,
            sdp::VP8_RTX => return self.handle_retransmission(packet, header_len),
            _ => {
                self.counts.damaged += 1;
                return;
            }
        };
        self.counts.bytes += packet.len() as u64;
        self.packets += 1;
        let stream = &mut self.streams[kind as usize];
        if stream.ssrc != ssrc {
            if stream.packets > 0 {
                self.counts.ssrc_changes += 1;
            }
            stream.ssrc = ssrc;
        }
        stream.packets += 1;
        let arrival = stream.tally.arrived(sequence.0);
        if self.milestones.first_packet.is_none() {
            self.milestones.first_packet = Some(arrived.now);
        }
        if let (true, Kind::Video, Arrival::Next { missing: 1.. }) = (self.nack, kind, arrival) {
            self.ask_again(kind, sequence, arrival, send);
        }
        let stream = &self.streams[kind as usize];
        let look = self.in_sample || stream.look_at_next || stream.packets.is_multiple_of(GLIMPSE);
        if look && arrival != Arrival::Duplicate {
            self.look(packet, header_len, kind, arrived);
        }
    }

    /// Transport-wide feedback, when it is due.
    fn report_arrival(&mut self, number: SequenceNumber, arrived: Arrived, send: &mut dyn FnMut(&[u8])) {
        let Some(mut arrivals) = self.arrivals.take() else { return };
        let now = Micros(arrived.now / 1_000);
        arrivals.record(number, Micros(arrived.at_socket.unwrap_or(arrived.now) / 1_000));
        let mut space = [0; 1200];
        while arrivals.due(now) {
            let ((base, times), count) = (arrivals.pending(), arrivals.count);
            let Some((len, covered)) = twcc::write_feedback(&mut space[..1100], self.ssrc, self.ssrc, base, count, times) else {
                break;
            };
            self.send_rtcp(&mut space, len, send);
            arrivals.reported(covered, now);
        }
        self.arrivals = Some(arrivals);
    }

    /// Decrypts a packet and checks it.
    fn look(&mut self, packet: &mut [u8], header_len: usize, kind: Kind, arrived: Arrived) {
        let Some(keys) = self.transport.keys() else { return };
        let opened = keys.inbound.unprotect_rtp(packet, header_len).ok();
        let payload = opened.and_then(|(len, _)| Header::parse(&packet[..len]).ok()?.payload_range(&packet[..len]));
        let read = payload.and_then(|range| media::read(&packet[range], kind));
        let Some((stamp, descriptor)) = read else {
            self.counts.damaged += 1;
            return;
        };
        self.counts.intact += 1;
        if let (Some(descriptor), None) = (descriptor, self.milestones.began_with_key_frame) {
            self.milestones.began_with_key_frame = Some(descriptor.key_frame);
        }
        let stream = &mut self.streams[kind as usize];
        if std::mem::take(&mut stream.look_at_next) {
            stream.first_number = Some(stamp.number);
        }
        if self.in_sample && arrived.measured {
            self.counts.to_reader.record(arrived.now.saturating_sub(stamp.sent));
            if let Some(at_socket) = arrived.at_socket {
                self.counts.to_socket.record(at_socket.saturating_sub(stamp.sent));
            }
        }
    }

    fn ask_again(&mut self, kind: Kind, sequence: SequenceNumber, arrival: Arrival, send: &mut dyn FnMut(&[u8])) {
        let Arrival::Next { missing } = arrival else { return };
        let count = missing.min(NACKS_MAX as u64) as u16;
        let numbers: Vec<_> = (1..=count).rev().map(|back| SequenceNumber(sequence.0.wrapping_sub(back))).collect();
        let media = Ssrc(self.streams[kind as usize].ssrc);
        let mut space = [0; 1200];
        let Some(len) = rtcp::write_receiver_report(&mut space, self.ssrc, &[]) else { return };
        let Some(more) = rtcp::write_nack(&mut space[len..], self.ssrc, media, &numbers) else { return };
        self.send_rtcp(&mut space, len + more, send);
    }

    /// RFC 4588 §4.
    fn handle_retransmission(&mut self, packet: &mut [u8], header_len: usize) {
        self.counts.retransmissions += 1;
        let Some(keys) = self.transport.keys() else { return };
        let Ok((len, _)) = keys.inbound.unprotect_rtp(packet, header_len) else {
            self.counts.damaged += 1;
            return;
        };
        // Padding of a probe has no original sequence number.
        let Some(original) = packet[..len].get(header_len..).and_then(|payload| payload.first_chunk()) else { return };
        if self.streams[Kind::Video as usize].tally.recovered(u16::from_be_bytes(*original)) {
            self.counts.recovered += 1;
        }
    }

    fn handle_rtcp(&mut self, packet: &mut [u8], now: u64) {
        let Some(keys) = self.transport.keys() else { return };
        let Ok(len) = keys.inbound.unprotect_rtcp(packet) else {
            self.counts.damaged += 1;
            return;
        };
        let Ok(packets) = rtcp::packets(&packet[..len]) else { return };
        for packet in packets.flatten() {
            if let Feedback::SenderReport(report) = packet
                && let Some(stream) = self.streams.iter_mut().find(|stream| stream.ssrc == report.ssrc.0)
            {
                stream.last_report = ((report.ntp >> 16) as u32, now);
            }
        }
    }

    /// A receiver report (RFC 3550 §6.4.2). It tells no loss: that would be acted on, and is to be measured.
    fn report(&mut self, now: u64, send: &mut dyn FnMut(&[u8])) {
        let blocks: Vec<ReportBlock> = self
            .streams
            .iter()
            .filter(|stream| stream.packets > 0)
            .map(|stream| ReportBlock {
                ssrc: Ssrc(stream.ssrc),
                fraction_lost: 0,
                cumulative_lost: 0,
                extended_highest: stream.tally.extended_highest(),
                jitter: 0,
                last_sr: stream.last_report.0,
                delay_since_last_sr: match stream.last_report {
                    (0, _) => 0,
                    (_, at) => ((u128::from(now - at) << 16) / 1_000_000_000) as u32,
                },
            })
            .collect();
        let mut space = [0; 256];
        if let Some(len) = rtcp::write_receiver_report(&mut space, self.ssrc, &blocks) {
            self.send_rtcp(&mut space, len, send);
        }
    }

    fn send_rtcp(&mut self, space: &mut [u8], len: usize, send: &mut dyn FnMut(&[u8])) {
        let Some(keys) = self.transport.keys() else { return };
        if let Some(len) = keys.outbound.protect_rtcp(space, len) {
            send(&space[..len]);
        }
    }
}
