//! Viewers that tell of their paths by transport-wide feedback and by congestion control feedback (RFC 8888), behind the same bottlenecks.
//!
//! They are made by hand, because str0m tells in the first way alone; the second way's reports are written by another stack.
//! `SIM_TRACE=1` prints what was found.

#[path = "sim/mod.rs"]
mod sim;

use std::net::SocketAddr;

use distributary::signal::api::Purpose;
use distributary::units::{Micros, SequenceNumber, Ssrc};
use distributary::wire::rtp::Header;
use distributary::wire::twcc;
use rtc_rtcp::transport_feedbacks::cc_feedback_report::{CcFeedbackMetricBlock, CcFeedbackReport, CcFeedbackReportBlock, Ecn};
use sim::native::Native;
use sim::network::Link;
use sim::{World, for_seeds, watching};

/// Sizes of the encodings in quarters of 440 kb/s.
const ENCODINGS: [u8; 3] = [1, 5, 20];

/// What the server thinks of a viewer's path, in kilobits per second.
fn target(world: &mut World, viewer: SocketAddr) -> Option<u64> {
    let rooms = world.server.rooms();
    let session = rooms.iter().flat_map(|room| &room.sessions).find(|session| session.remote_address == Some(viewer))?;
    session.target_bitrate.map(|rate| rate / 1000)
}

/// Id of the transport-wide number in what [`Behind`] offers.
const NUMBER_ID: u8 = 3;
/// One way between the server and [`Behind`], in microseconds, and the time between two of its reports.
const ONE_WAY: u64 = 15_000;
const REPORT_INTERVAL: u64 = 50_000;

/// A packet of which nothing was told: its SSRC (0 where all are counted as one), its number, and when it arrives.
type Untold = (u32, u16, Option<u64>);

/// A viewer behind a bottleneck that tells of what arrives in one way or in the other.
struct Behind {
    viewer: Native,
    by_stream: bool,
    bits_per_second: u64,
    /// When the bottleneck is free; its queue holds 200 ms.
    free: u64,
    untold: Vec<Untold>,
    /// Reports on their way.
    told: Vec<(u64, Vec<u8>)>,
    waited: Vec<u64>,
}

impl Behind {
    fn join(world: &mut World, by_stream: bool, bits_per_second: u64) -> Behind {
        let tells = match by_stream {
            true => "a=rtcp-fb:* ack ccfb\r\n".to_owned(),
            false => format!(
                "a=rtcp-fb:96 transport-cc\r\n\
                 a=extmap:{NUMBER_ID} http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01\r\n"
            ),
        };
        let lines = format!("a=rtpmap:97 rtx/90000\r\na=fmtp:97 apt=96\r\n{tells}");
        let mut viewer = Native::join_with(world, "room", Purpose::Watch, &lines);
        viewer.claim(world);
        viewer.connect(world);
        world.heard.clear();
        Behind { viewer, by_stream, bits_per_second, free: 0, untold: Vec::new(), told: Vec::new(), waited: Vec::new() }
    }

    fn run_seconds(&mut self, world: &mut World, seconds: u64) {
        for _ in 0..1_000 * seconds {
            world.tick();
            for (to, bytes) in std::mem::take(&mut world.heard) {
                // Not RTCP (RFC 5761 §4).
                if to == self.viewer.address && bytes[0] >> 6 == 2 && !(192..=223).contains(&bytes[1]) {
                    self.pass(world.now, &bytes);
                }
            }
            if world.now.is_multiple_of(REPORT_INTERVAL) {
                self.report(world.now);
            }
            while self.told.first().is_some_and(|(due, _)| *due <= world.now) {
                let packet = self.viewer.rtcp(&self.told.remove(0).1);
                world.server.deliver(self.viewer.address, &packet);
            }
        }
    }

    fn pass(&mut self, now: u64, bytes: &[u8]) {
        let header = Header::parse(bytes).expect("RTP");
        let waits = self.free.saturating_sub(now);
        let arrives = (waits <= 200_000).then(|| {
            self.waited.push(waits / 1_000);
            self.free = self.free.max(now) + bytes.len() as u64 * 8_000_000 / self.bits_per_second;
            self.free + ONE_WAY
        });
        match header.extension(NUMBER_ID) {
            _ if self.by_stream => self.untold.push((header.ssrc.0, header.sequence_number.0, arrives)),
            Some(number) => self.untold.push((0, u16::from_be_bytes(number.try_into().expect("two bytes")), arrives)),
            None => {}
        }
    }

    /// Tells of each stream up to its newest packet that has arrived.
    fn report(&mut self, now: u64) {
        let mut ssrcs: Vec<u32> = self.untold.iter().map(|(ssrc, ..)| *ssrc).collect();
        ssrcs.sort_unstable();
        ssrcs.dedup();
        let mut blocks = Vec::new();
        for ssrc in ssrcs {
            let has_come = |packet: &Untold| packet.0 == ssrc && packet.2.is_some_and(|arrives| arrives <= now);
            let Some(last) = self.untold.iter().rposition(has_come) else { continue };
            let (told, untold): (Vec<_>, Vec<_>) =
                self.untold.drain(..).enumerate().partition(|(index, packet)| *index <= last && packet.0 == ssrc);
            self.untold = untold.into_iter().map(|(_, packet)| packet).collect();
            let told: Vec<Untold> = told.into_iter().map(|(_, packet)| packet).collect();
            assert!(told.is_sorted_by(|a, b| b.1 == a.1.wrapping_add(1)), "no holes: {told:?}");
            blocks.push(told);
        }
        let report = match &blocks[..] {
            [] => return,
            blocks if self.by_stream => by_stream(now, blocks),
            [told, ..] => {
                let mut space = [0; 1200];
                let arrivals = told.iter().map(|(.., arrives)| arrives.map(Micros));
                let (len, count) = twcc::write_feedback(&mut space, Ssrc(9), Ssrc(9), SequenceNumber(told[0].1), 0, arrivals)
                    .expect("one arrived");
                assert_eq!(count, told.len());
                space[..len].to_vec()
            }
        };
        self.told.push((now + ONE_WAY, report));
    }
}

/// What another stack writes (RFC 8888).
fn by_stream(now: u64, blocks: &[Vec<Untold>]) -> Vec<u8> {
    let metric = |(.., arrives): &Untold| CcFeedbackMetricBlock {
        received: arrives.is_some(),
        ecn: Ecn::NotEct,
        arrival_time_offset: arrives.map_or(0, |arrives| ((now - arrives) * 1_024 / 1_000_000).min(0x1ffe) as u16),
    };
    let block = |told: &Vec<Untold>| CcFeedbackReportBlock {
        media_ssrc: told[0].0,
        begin_sequence: told[0].1,
        metric_blocks: told.iter().map(metric).collect(),
    };
    let report = CcFeedbackReport {
        sender_ssrc: 9,
        report_blocks: blocks.iter().map(block).collect(),
        report_timestamp: (now * 65_536 / 1_000_000) as u32,
    };
    rtc_rtcp::packet::marshal(&[Box::new(report)]).expect("a packet").to_vec()
}

/// Congestion control feedback (RFC 8888) leads where transport-wide feedback does, over the same paths: to the same estimate and layer.
#[test]
fn feedback_by_stream_leads_to_the_same_estimate() {
    for_seeds(&[241, 242], |seed| {
        for (kilobits, best) in [(3_000, "f"), (1_000, "h"), (400, "q")] {
            let run = |by_stream: bool| {
                let mut world = World::new(seed, 1);
                let mut found = (0, None, 0);
                watching(&mut world, |world| {
                    world.publish_simulcast("room", &ENCODINGS, Link::clean());
                    assert!(world.connect(3));
                    let mut behind = Behind::join(world, by_stream, kilobits * 1_000);
                    behind.run_seconds(world, 15);
                    behind.waited.clear();
                    let mut targets = Vec::new();
                    for _ in 0..10 {
                        behind.run_seconds(world, 1);
                        targets.push(target(world, behind.viewer.address).expect("it tells"));
                    }
                    let rooms = world.server.rooms();
                    let sessions = rooms.iter().flat_map(|room| &room.sessions);
                    let layer = sessions.filter_map(|session| session.layer_sent.as_ref()?.encoding.clone()).next();
                    behind.waited.sort_unstable();
                    let queue = behind.waited[behind.waited.len() * 95 / 100];
                    found = (targets.iter().sum::<u64>() / 10, layer, queue);
                });
                found
            };
            let (wide, by_stream) = (run(false), run(true));
            let both = format!("{kilobits} kb/s: {wide:?} transport-wide, {by_stream:?} by stream");
            if std::env::var_os("SIM_TRACE").is_some() {
                eprintln!("{both}");
            }
            assert_eq!((wide.1.as_deref(), by_stream.1.as_deref()), (Some(best), Some(best)), "{both}");
            assert!(wide.0.abs_diff(by_stream.0) * 8 <= wide.0, "within an eighth: {both}");
            assert!(by_stream.2 < 100, "{both}");
        }
    });
}
