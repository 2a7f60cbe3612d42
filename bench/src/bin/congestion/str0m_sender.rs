//! The crate str0m's congestion control, to compare with. It is not public by itself, so that two of its sessions are connected by
//! the path: its own pacer, probes, feedback and retransmissions.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use str0m::bwe::{Bitrate, BweKind};
use str0m::format::Codec;
use str0m::media::{MediaKind, Mid, Pt};
use str0m::net::{Protocol, Receive};
use str0m::rtp::{RtpWrite, Ssrc};
use str0m::{Candidate, Event, Input, Output, Rtc};

use crate::encoder::{Encoder, FRAME_INTERVAL, Layers};
use crate::path::{MILLISECOND, Time};
use crate::sender::{MAX, START};
use crate::sim::{Datagram, End, Flow};

const MEDIA: u32 = 42;
const REPEATED: u32 = 44;
const PAYLOAD: usize = 1150;
const IP_AND_UDP: usize = 28;
/// A session that wants to be called at once is called after so long.
const LEAST_WAIT: Time = MILLISECOND / 10;

fn address(end: End) -> SocketAddr {
    match end {
        End::Sender => (Ipv4Addr::new(192, 0, 2, 1), 1000).into(),
        End::Receiver => (Ipv4Addr::new(192, 0, 2, 2), 2000).into(),
    }
}

fn other(end: End) -> End {
    if end == End::Sender { End::Receiver } else { End::Sender }
}

pub struct Session {
    sender: Rtc,
    receiver: Rtc,
    /// The time of the sessions at the beginning of the run.
    epoch: Instant,
    sender_due: Time,
    receiver_due: Time,
    contents: HashMap<u64, Vec<u8>>,
    next_key: u64,
    encoder: Encoder,
    next_frame: Time,
    payload_type: Pt,
    sequence: u64,
    target: u64,
}

impl Session {
    pub fn new(layers: Layers, start: Time, seed: u64) -> Self {
        str0m::crypto::from_feature_flags().install_process_default();
        let begins = Instant::now();
        let initial = Some(Bitrate::bps(START));
        let sender = Rtc::builder().set_rtp_mode(true).enable_bwe(initial).build(begins);
        let receiver = Rtc::builder().set_rtp_mode(true).build(begins);
        let is_vp8 = |params: &str0m::format::PayloadParams| params.spec().codec == Codec::Vp8;
        let payload_type = sender.codec_config().find(is_vp8).map(|params| params.pt()).expect("VP8 is among the defaults");
        let mut session = Session {
            sender,
            receiver,
            epoch: begins,
            sender_due: start,
            receiver_due: start,
            contents: HashMap::new(),
            next_key: 0,
            encoder: Encoder::new(layers, seed),
            next_frame: start,
            payload_type,
            sequence: 1,
            target: START,
        };
        session.introduce();
        session.connect(start);
        session
    }

    fn introduce(&mut self) {
        let mid: Mid = "vid".into();
        let (media, repeated): (Ssrc, Ssrc) = (MEDIA.into(), REPEATED.into());
        let [local, remote] =
            [End::Sender, End::Receiver].map(|end| Candidate::host(address(end), "udp").expect("an address of a host"));
        let (sender, receiver) = (&mut self.sender, &mut self.receiver);
        sender.add_local_candidate(local.clone());
        receiver.add_local_candidate(remote.clone());
        sender.add_remote_candidate(remote);
        receiver.add_remote_candidate(local);
        let (mut sender, mut receiver) = (sender.direct_api(), receiver.direct_api());
        sender.set_remote_fingerprint(receiver.local_dtls_fingerprint().clone());
        receiver.set_remote_fingerprint(sender.local_dtls_fingerprint().clone());
        sender.set_remote_ice_credentials(receiver.local_ice_credentials());
        receiver.set_remote_ice_credentials(sender.local_ice_credentials());
        sender.set_ice_controlling(true);
        receiver.set_ice_controlling(false);
        sender.start_dtls(true).expect("nothing was started yet");
        receiver.start_dtls(false).expect("nothing was started yet");
        sender.declare_media(mid, MediaKind::Video);
        sender.declare_stream_tx(media, Some(repeated), mid, None);
        receiver.declare_media(mid, MediaKind::Video);
        receiver.expect_stream_rx(media, Some(repeated), mid, None);
        receiver.enable_twcc_feedback();
        self.sender.bwe().set_bitrate(Bitrate::ZERO, Bitrate::bps(MAX));
    }

    /// The handshakes, over a path of no delay and before the run begins.
    fn connect(&mut self, start: Time) {
        let mut out = Vec::new();
        for step in 0.. {
            assert!(step < 10_000, "str0m does not connect to itself");
            let now = start + step * MILLISECOND;
            for end in [End::Sender, End::Receiver] {
                self.input(now, end, Input::Timeout(self.at(now)), &mut out);
            }
            while let Some(datagram) = out.pop() {
                self.arrive(now, datagram.to, datagram.key, &mut out);
            }
            if self.sender.is_connected() && self.receiver.is_connected() {
                self.epoch += Duration::from_micros(step * MILLISECOND);
                (self.sender_due, self.receiver_due) = (start, start);
                return;
            }
        }
    }

    fn at(&self, now: Time) -> Instant {
        self.epoch + Duration::from_micros(now)
    }

    fn input(&mut self, now: Time, end: End, input: Input, out: &mut Vec<Datagram>) {
        let rtc = if end == End::Sender { &mut self.sender } else { &mut self.receiver };
        rtc.handle_input(input).expect("what str0m sent is fit for str0m");
        self.poll(now, end, out);
    }

    fn poll(&mut self, now: Time, end: End, out: &mut Vec<Datagram>) {
        loop {
            let rtc = if end == End::Sender { &mut self.sender } else { &mut self.receiver };
            match rtc.poll_output().expect("a healthy session") {
                Output::Timeout(at) => {
                    let due = (at.saturating_duration_since(self.epoch).as_micros() as Time).max(now + LEAST_WAIT);
                    *(if end == End::Sender { &mut self.sender_due } else { &mut self.receiver_due }) = due;
                    return;
                }
                Output::Transmit(transmit) => {
                    let contents = transmit.contents.to_vec();
                    let media = contents[0] >> 6 == 2 && contents.get(8..12) == Some(MEDIA.to_be_bytes().as_slice());
                    out.push(Datagram { to: other(end), bytes: contents.len() + IP_AND_UDP, key: self.next_key, media });
                    self.contents.insert(self.next_key, contents);
                    self.next_key += 1;
                }
                Output::Event(Event::EgressBitrateEstimate(BweKind::Twcc { estimate, .. })) => self.target = estimate.as_u64(),
                Output::Event(_) => {}
            }
        }
    }

    fn frame(&mut self, now: Time, out: &mut Vec<Datagram>) {
        let mut bytes = self.encoder.frame(self.target);
        let time = (now * 9 / 100) as u32;
        while bytes > 0 {
            let payload = bytes.min(PAYLOAD);
            bytes -= payload;
            let wallclock = self.at(now);
            let write = RtpWrite::new(self.payload_type, self.sequence.into(), time, wallclock, vec![0u8; payload]);
            self.sequence += 1;
            let (media, mut api): (Ssrc, _) = (MEDIA.into(), self.sender.direct_api());
            api.stream_tx(&media).expect("it was declared").write_rtp(write.marker(bytes == 0).nackable(true));
            self.poll(now, End::Sender, out);
        }
    }
}

impl Flow for Session {
    fn due(&self) -> Time {
        self.next_frame.min(self.sender_due).min(self.receiver_due)
    }

    fn timeout(&mut self, now: Time, out: &mut Vec<Datagram>) {
        if now >= self.next_frame {
            self.next_frame = now + FRAME_INTERVAL;
            self.frame(now, out);
        }
        for (end, due) in [(End::Sender, self.sender_due), (End::Receiver, self.receiver_due)] {
            if now >= due {
                self.input(now, end, Input::Timeout(self.at(now)), out);
            }
        }
    }

    fn arrive(&mut self, now: Time, to: End, key: u64, out: &mut Vec<Datagram>) {
        let Some(contents) = self.contents.remove(&key) else { return };
        let (source, destination) = (address(other(to)), address(to));
        let Ok(parsed) = contents.as_slice().try_into() else { return };
        let receive = Receive { proto: Protocol::Udp, source, destination, contents: parsed };
        self.input(now, to, Input::Receive(self.at(now), receive), out);
    }

    fn target(&self) -> u64 {
        self.target
    }
}
