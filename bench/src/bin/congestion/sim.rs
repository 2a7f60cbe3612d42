//! Flows over one bottleneck, event by event, and the record of what became of them.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::path::{Bottleneck, MILLISECOND, Profile, SECOND, Time};

/// A flow's two ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum End {
    Sender,
    Receiver,
}

/// Something to be sent. Its contents are the flow's own affair: it knows them by the key.
#[derive(Clone, Copy, Debug)]
pub struct Datagram {
    pub to: End,
    /// With the headers of IP and UDP.
    pub bytes: usize,
    pub key: u64,
    /// New media, neither padding nor a repetition.
    pub media: bool,
}

/// Both ends of a connection over the path.
pub trait Flow {
    /// When it wants to be called if nothing arrives until then.
    fn due(&self) -> Time;
    fn timeout(&mut self, now: Time, out: &mut Vec<Datagram>);
    fn arrive(&mut self, now: Time, to: End, key: u64, out: &mut Vec<Datagram>);
    /// What it believes it may send, bits per second.
    fn target(&self) -> u64;
}

/// What has waited longer comes too late for a conversation: ITU-T G.114 has 150 ms for the whole way from mouth to ear.
const TIMELY: Time = 150 * MILLISECOND;

/// Length of a bin of the record.
pub const BIN: Time = SECOND / 10;

#[derive(Clone, Copy, Default)]
pub struct Bin {
    pub target: u64,
    /// Bytes that were sent, that arrived, and what of the latter was new media.
    pub sent: u64,
    pub arrived: u64,
    pub media: u64,
    /// What of that was in time.
    pub timely: u64,
}

/// What became of a flow.
#[derive(Default)]
pub struct Record {
    pub bins: Vec<Bin>,
    /// When a packet left the bottleneck, and how long it had waited there.
    pub queued: Vec<(Time, Time)>,
    pub packets: u64,
    /// Packets that did not fit into the queue.
    pub dropped: u64,
}

impl Record {
    fn bin(&mut self, now: Time) -> &mut Bin {
        let index = (now / BIN) as usize;
        if self.bins.len() <= index {
            self.bins.resize(index + 1, Bin::default());
        }
        &mut self.bins[index]
    }
}

/// Runs the flows for so long.
pub fn run(profile: &Profile, flows: &mut [Box<dyn Flow>], until: Time, seed: u64) -> Vec<Record> {
    let mut records: Vec<Record> = flows.iter().map(|_| Record::default()).collect();
    let mut path: Bottleneck<(usize, Datagram)> = Bottleneck::new(profile.clone(), seed);
    // Time, order of insertion, flow, end, key, bytes, media.
    #[allow(clippy::type_complexity)] // named where they are taken out
    let mut arrivals: BinaryHeap<Reverse<(Time, u64, usize, End, u64, usize, bool)>> = BinaryHeap::new();
    let (mut order, mut out, mut next_bin) = (0, Vec::new(), 0);
    loop {
        let arrival = arrivals.peek().map_or(Time::MAX, |Reverse(next)| next.0);
        let (flow, due) = flows.iter().map(|flow| flow.due()).enumerate().min_by_key(|(_, due)| *due).unwrap_or((0, Time::MAX));
        let now = arrival.min(due).min(path.due()).min(next_bin);
        if now >= until {
            return records;
        }
        if now == next_bin {
            for (flow, record) in flows.iter().zip(&mut records) {
                record.bin(now).target = flow.target();
            }
            next_bin += BIN;
        } else if now == path.due() {
            let Some(left) = path.leave(now) else { continue };
            let (flow, datagram) = left.packet;
            records[flow].queued.push((now, left.queued));
            if let Some(at) = left.arrives {
                order += 1;
                arrivals.push(Reverse((at, order, flow, datagram.to, datagram.key, datagram.bytes, datagram.media)));
                if datagram.media && left.queued <= TIMELY {
                    records[flow].bin(at).timely += datagram.bytes as u64;
                }
            }
        } else {
            let flow = if now == arrival {
                let Some(Reverse((_, _, flow, to, key, bytes, media))) = arrivals.pop() else { continue };
                if to == End::Receiver {
                    let bin = records[flow].bin(now);
                    bin.arrived += bytes as u64;
                    bin.media += if media { bytes as u64 } else { 0 };
                }
                flows[flow].arrive(now, to, key, &mut out);
                flow
            } else {
                flows[flow].timeout(now, &mut out);
                flow
            };
            for datagram in out.drain(..) {
                if datagram.to == End::Sender {
                    order += 1;
                    let at = now + profile.round_trip / 2;
                    arrivals.push(Reverse((at, order, flow, datagram.to, datagram.key, datagram.bytes, datagram.media)));
                    continue;
                }
                records[flow].packets += 1;
                records[flow].bin(now).sent += datagram.bytes as u64;
                if !path.enter(now, datagram.bytes, (flow, datagram)) {
                    records[flow].dropped += 1;
                }
            }
        }
    }
}
