//! The one line of JSON of `loadgen members`.

use std::collections::HashMap;
use std::sync::atomic::Ordering::Relaxed;

use serde::Serialize;

use super::member::Came;
use super::{Measured, Shared};
use crate::histogram::Histogram;
use crate::media::Kind;
use crate::report::{Latency, MachineReport, Spread, tenths, thousandths, threads_us};
use crate::run::{LOAD_MAX, machine_report};

/// Media should leave when it is due.
const LATE_MAX: u64 = 20_000_000;

#[derive(Debug, Serialize)]
pub struct Report {
    pub rooms: u32,
    pub members: u32,
    pub talking: Option<u32>,
    pub video: u64,
    pub seconds: u32,
    pub workers: Option<u32>,
    pub commit: Option<String>,
    pub srtp_profile: Option<String>,
    /// Tracks that are to come to members, once for each that they are to come to; and those of which nothing did. Silent ones are not among them.
    pub tracks_expected: u64,
    pub tracks_missing: u64,
    /// Packets of those that came.
    pub packets_expected: u64,
    pub packets_received: u64,
    pub lost: u64,
    pub tracks_with_loss: u64,
    pub duplicates: u64,
    pub damaged: u64,
    /// Packets that came under an SSRC of which the server had said that it is somebody else's, and under one of which it had said nothing:
    /// by SSRC and member.
    pub mislabelled: u64,
    pub unlabelled: u64,
    /// Dropped at the members' sockets, whose buffers were full: the generator's fault.
    pub lost_by_generator: u64,
    /// Tracks that a member was sent something of, silent ones too: the most.
    pub tracks_at_a_time_max: usize,
    /// All RTP packets that came to members, and what the server says that it forwarded.
    pub packets_forwarded: u64,
    pub packets_forwarded_by_server: Option<u64>,
    pub packets_per_second: f64,
    pub packets_sent_per_second: f64,
    pub bits_per_second: f64,
    /// Server's CPU time for each packet that came to a member: all threads, the workers alone, and the director alone.
    pub cpu_us_per_forwarded_packet: Option<f64>,
    pub worker_cpu_us_per_forwarded_packet: Option<f64>,
    pub cpu_cores: Option<f64>,
    pub cpu_starved_cores: Option<f64>,
    pub datagrams_per_send: Option<f64>,
    pub cpu_us_by_thread: Option<Vec<(String, f64)>>,
    /// From a member's send to another's socket.
    pub latency_us: Latency,
    /// From a member's first loud packet to when another was told that it speaks.
    pub speaker_told_ms: Spread,
    pub speaker_updates_per_second: f64,
    /// From the first member's join until everybody had something of every track.
    pub join_seconds: f64,
    pub join_to_answer_ms: Spread,
    /// Offers that a member made.
    pub negotiations_mean: f64,
    pub negotiations_max: u64,
    pub idle_rss_kib: Option<u64>,
    pub joined_rss_kib: Option<u64>,
    pub rss_kib: Option<u64>,
    pub rss_kib_per_member: Option<f64>,
    pub key_frame_requests: u64,
    pub machine: MachineReport,
    pub generator: Generator,
}

#[derive(Debug, Serialize)]
pub struct Generator {
    /// Of one core, for the busiest thread of media.
    pub load: f64,
    /// How long after its time a packet left, at worst.
    pub late_us_max: u64,
    pub bottleneck: bool,
    pub bottleneck_reasons: Vec<String>,
}

/// What came of the tracks that everybody is to be sent.
#[derive(Default)]
struct Sum {
    expected: u64,
    received: u64,
    lost: u64,
    missing: u64,
    with_loss: u64,
    duplicates: u64,
}

pub fn make(shared: &Shared, measured: Measured, commit: Option<String>) -> Report {
    let options = &shared.options;
    let sum = sum(shared, &measured);
    let (mislabelled, unlabelled) = labels(shared, &measured);
    let came = || measured.came.iter();
    let packets: u64 = came().map(|came| came.packets).sum();
    let window_us = measured.accounted_seconds * 1e6;
    let cpu = measured.server_cpu.as_ref();
    let per_packet = |micros: f64| thousandths(micros / packets.max(1) as f64);
    let mut to_socket = Histogram::default();
    came().for_each(|came| to_socket.add(&came.to_socket));
    let mut profiles: Vec<&str> = came().filter_map(|came| came.profile).collect();
    profiles.sort_unstable();
    profiles.dedup();
    let told = || measured.told.iter();
    let negotiations: u64 = told().map(|told| told.negotiations).sum();
    let members = options.rooms * options.members;
    let sent = |at: &[[u64; 2]]| at.iter().flatten().sum::<u64>();
    let rss = measured.rss_kib.zip(measured.idle_rss_kib);
    Report {
        rooms: options.rooms,
        members: options.members,
        talking: options.talking,
        video: options.video,
        seconds: options.seconds,
        workers: options.server_binary.as_ref().map(|_| options.workers),
        commit,
        srtp_profile: (!profiles.is_empty()).then(|| profiles.join(" ")),
        tracks_expected: options.tracks_wanted(),
        tracks_missing: sum.missing,
        packets_expected: sum.expected,
        packets_received: sum.received,
        lost: sum.lost.saturating_sub(measured.socket_drops),
        tracks_with_loss: sum.with_loss,
        duplicates: sum.duplicates,
        damaged: came().map(|came| came.damaged).sum(),
        mislabelled,
        unlabelled,
        lost_by_generator: measured.socket_drops,
        tracks_at_a_time_max: came().map(|came| came.tracks.len()).max().unwrap_or(0),
        packets_forwarded: packets,
        packets_forwarded_by_server: measured.totals.as_ref().map(|totals| totals.forwarded as u64),
        packets_per_second: tenths(packets as f64 / measured.seconds),
        packets_sent_per_second: tenths((sent(&measured.ended) - sent(&measured.began)) as f64 / measured.seconds),
        bits_per_second: (came().map(|came| came.bytes).sum::<u64>() as f64 * 8.0 / measured.seconds).round(),
        cpu_us_per_forwarded_packet: cpu.map(|cpu| per_packet(cpu.total_us)),
        worker_cpu_us_per_forwarded_packet: cpu.map(|cpu| per_packet(threads_us(cpu, "distributary-w"))),
        cpu_cores: cpu.map(|cpu| thousandths(cpu.total_us / window_us)),
        cpu_starved_cores: cpu.map(|cpu| thousandths(cpu.waited_us / window_us)),
        datagrams_per_send: measured.totals.as_ref().map(|all| thousandths(all.datagrams / all.sends.max(1.0))),
        cpu_us_by_thread: cpu.map(|cpu| cpu.threads.iter().map(|(name, micros)| (name.clone(), micros.round())).collect()),
        latency_us: Latency::of(&to_socket),
        speaker_told_ms: Spread::of(told().flat_map(|told| told.speaker_after.iter().copied()).collect()),
        speaker_updates_per_second: tenths(
            told().map(|told| told.speaker_updates).sum::<u64>() as f64
                / f64::from(members)
                / measured.join_seconds.max(measured.seconds),
        ),
        join_seconds: thousandths(measured.join_seconds),
        join_to_answer_ms: Spread::of(told().map(|told| told.answer_after).collect()),
        negotiations_mean: tenths(negotiations as f64 / f64::from(members)),
        negotiations_max: told().map(|told| told.negotiations).max().unwrap_or(0),
        idle_rss_kib: measured.idle_rss_kib,
        joined_rss_kib: measured.joined_rss_kib,
        rss_kib: measured.rss_kib,
        rss_kib_per_member: rss.map(|(now, idle)| tenths((now as f64 - idle as f64) / f64::from(members))),
        key_frame_requests: shared.media.key_frame_requests.load(Relaxed),
        machine: machine_report(measured.machine, measured.accounted_seconds, cpu, &measured.own_cpu),
        generator: generator(shared, &measured),
    }
}

fn sum(shared: &Shared, measured: &Measured) -> Sum {
    let options = &shared.options;
    let mut sum = Sum::default();
    let kinds = if options.video > 0 { &[Kind::Audio, Kind::Video][..] } else { &[Kind::Audio][..] };
    for Came { member, tracks, .. } in &measured.came {
        let first = options.room_of(*member) * options.members;
        for other in (first..first + options.members).filter(|other| other != member) {
            for kind in kinds.iter().filter(|kind| **kind == Kind::Video || options.talks(other)) {
                let [began, ended] = [&measured.began, &measured.ended].map(|numbers| numbers[other as usize][*kind as usize]);
                let Some((_, received, duplicates)) = tracks.iter().find(|(of, ..)| *of == (other, *kind)) else {
                    sum.missing += 1;
                    continue;
                };
                let expected = ended - began;
                sum.expected += expected;
                sum.received += received;
                sum.duplicates += duplicates;
                sum.lost += expected.saturating_sub(*received);
                sum.with_loss += u64::from(*received < expected);
            }
        }
    }
    sum
}

/// How many SSRCs carried what the server had not said.
fn labels(shared: &Shared, measured: &Measured) -> (u64, u64) {
    let tracks = shared.tracks.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let told: HashMap<u32, _> = measured.told.iter().map(|told| (told.member, &told.labels)).collect();
    let (mut wrong, mut none) = (0, 0);
    for came in &measured.came {
        let Some(labels) = told.get(&came.member) else { continue };
        for (ssrc, of) in &came.sources {
            let said: Vec<_> = labels.iter().filter(|(known, _)| known == ssrc).filter_map(|(_, sid)| tracks.get(sid)).collect();
            none += u64::from(said.is_empty() && !of.is_empty());
            wrong += of.iter().filter(|of| !said.is_empty() && !said.contains(of)).count() as u64;
        }
    }
    (wrong, none)
}

fn generator(shared: &Shared, measured: &Measured) -> Generator {
    let window_us = measured.accounted_seconds * 1e6;
    let pumps = measured.own_cpu.threads.iter().filter(|(name, _)| name.starts_with("lg-pump"));
    let load = pumps.map(|(_, micros)| micros / window_us).fold(0.0, f64::max);
    let late = shared.media.late_max.load(Relaxed);
    let mut reasons = Vec::new();
    if measured.socket_drops > 0 {
        reasons.push(format!("{} datagrams were dropped at the members' sockets", measured.socket_drops));
    }
    if load > LOAD_MAX {
        reasons.push(format!("a thread of media was {:.0} % busy", load * 100.0));
    }
    if late > LATE_MAX {
        reasons.push(format!("media was late by up to {} ms", late / 1_000_000));
    }
    Generator { load: thousandths(load), late_us_max: late / 1_000, bottleneck: !reasons.is_empty(), bottleneck_reasons: reasons }
}
