//! Two associations over a network in memory that loses, repeats, reorders and damages datagrams; a failure names its seed.

use super::flight::message;
use super::*;

/// xorshift64*: enough to choose which datagram is lost.
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
    fn percent(&mut self, percent: u64) -> bool {
        self.next() % 100 < percent
    }
}

#[derive(Clone, Copy, Default)]
struct Weather {
    loss: u64,
    duplication: u64,
    damage: u64,
    /// Each datagram is delayed by up to this many milliseconds, so that they overtake each other.
    jitter: u64,
    /// Each datagram is split into one per record, as a path with a small MTU would have made the sender do.
    split: bool,
}

struct Pair {
    client: Association,
    server: Association,
    now: Micros,
    wire: Vec<(Micros, Role, Vec<u8>)>,
    rng: Rng,
    weather: Weather,
}

fn identities() -> (Identity, Identity) {
    (Identity::generate().unwrap(), Identity::generate().unwrap())
}

fn handshake(association: &Association) -> &Handshake {
    match &association.phase {
        Phase::Handshaking(handshake) => handshake,
        _ => panic!("the handshake is over"),
    }
}

fn connection(association: &mut Association) -> &mut Connection {
    match &mut association.phase {
        Phase::Connected(connection) => connection,
        _ => panic!("not connected"),
    }
}

impl Pair {
    fn new(weather: Weather, seed: u64) -> Self {
        let (client, server) = identities();
        Pair::with(&client, &server, client.fingerprint(), server.fingerprint(), weather, seed)
    }

    fn with(
        client: &Identity,
        server: &Identity,
        of_client: Fingerprint,
        of_server: Fingerprint,
        weather: Weather,
        seed: u64,
    ) -> Self {
        let now = Micros::from_secs(1);
        Pair {
            client: Association::new(client, Role::Client, vec![of_server], now).unwrap(),
            server: Association::new(server, Role::Server, vec![of_client], now).unwrap(),
            now,
            wire: Vec::new(),
            rng: Rng(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1),
            weather,
        }
    }

    /// After a calm handshake.
    fn connected() -> Self {
        let mut pair = Pair::new(Weather::default(), 1);
        pair.run().unwrap();
        pair
    }

    /// The given side, and the other one.
    fn sides(&mut self, first: Role) -> (&mut Association, &mut Association) {
        match first {
            Role::Client => (&mut self.client, &mut self.server),
            Role::Server => (&mut self.server, &mut self.client),
        }
    }

    fn put(&mut self, to: Role, datagram: Vec<u8>) {
        let mut pieces = Vec::new();
        if self.weather.split {
            let mut rest = datagram.as_slice();
            while let Some((record, more)) = flight::split_record(rest) {
                pieces.push(record.bytes.to_vec());
                rest = more;
            }
        } else {
            pieces.push(datagram);
        }
        for mut piece in pieces {
            assert!(piece.len() <= DATAGRAM_MAX);
            let copies = if self.rng.percent(self.weather.duplication) { 2 } else { 1 };
            for _ in 0..copies {
                if self.rng.percent(self.weather.loss) {
                    continue;
                }
                if self.rng.percent(self.weather.damage) {
                    let at = self.rng.next() as usize % piece.len();
                    piece[at] ^= 1 << (self.rng.next() % 8);
                }
                let delay = self.rng.next() % (self.weather.jitter * 1000 + 1);
                self.wire.push((self.now + Micros(1000 + delay), to, piece.clone()));
            }
        }
    }

    fn send_all(&mut self) {
        while let Some(datagram) = self.client.poll_transmit() {
            self.put(Role::Server, datagram);
        }
        while let Some(datagram) = self.server.poll_transmit() {
            self.put(Role::Client, datagram);
        }
    }

    /// One event: the earliest datagram or timer. False when nothing is left to happen.
    fn step(&mut self) -> Result<bool, (Role, DtlsError)> {
        self.send_all();
        let arrival = (0..self.wire.len()).min_by_key(|&i| self.wire[i].0);
        let deadline = self.client.poll_timeout().into_iter().chain(self.server.poll_timeout()).min();
        match (arrival, deadline) {
            (Some(i), deadline) if deadline.is_none_or(|at| self.wire[i].0 <= at) => {
                let (at, to, datagram) = self.wire.swap_remove(i);
                self.now = self.now.max(at);
                let peer = if to == Role::Client { &mut self.client } else { &mut self.server };
                peer.handle(&datagram, self.now).map_err(|error| (to, error))?;
            }
            (_, Some(at)) => {
                self.now = self.now.max(at);
                self.client.handle_timeout(self.now).map_err(|error| (Role::Client, error))?;
                self.server.handle_timeout(self.now).map_err(|error| (Role::Server, error))?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn run(&mut self) -> Result<(), (Role, DtlsError)> {
        for _ in 0..10_000 {
            if !self.step()? {
                return Ok(());
            }
        }
        panic!("endless");
    }

    fn assert_equal_keys(&mut self, context: &str) {
        let client = self.client.keys().unwrap_or_else(|| panic!("client has no keys: {context}"));
        let server = self.server.keys().unwrap_or_else(|| panic!("server has no keys: {context}"));
        assert_eq!((client.profile, server.profile), (Profile::AeadAes128Gcm, Profile::AeadAes128Gcm), "{context}");
        assert_eq!(client.exporter, server.exporter, "{context}");
        assert_eq!(client.exporter.len(), 56);
        assert!(self.client.keys().is_none() && self.server.keys().is_none());
    }
}

#[test]
fn handshake_and_application_data() {
    let mut pair = Pair::new(Weather::default(), 1);
    assert_eq!(pair.client.send_application_data(b"early"), Err(DtlsError::NotConnected));
    pair.run().unwrap();
    pair.assert_equal_keys("calm");
    assert!(pair.now.since(Micros::from_secs(1)) < 20_000, "no timer was needed");
    assert_eq!((pair.client.poll_timeout(), pair.server.poll_timeout()), (None, None));

    let longest = vec![5; APPLICATION_DATA_MAX];
    pair.client.send_application_data(&longest).unwrap();
    pair.server.send_application_data(b"from server").unwrap();
    assert_eq!(pair.client.send_application_data(&vec![5; APPLICATION_DATA_MAX + 1]), Err(DtlsError::TooLong));
    pair.run().unwrap();
    assert_eq!(pair.server.poll_application_data(), Some(longest));
    assert_eq!(pair.client.poll_application_data(), Some(b"from server".to_vec()));
    assert_eq!(pair.client.poll_application_data(), None);

    pair.client.close();
    pair.run().unwrap();
    assert!(pair.server.closed_by_peer() && !pair.client.closed_by_peer());
    assert_eq!(pair.server.send_application_data(b"late"), Err(DtlsError::NotConnected));
}

#[test]
fn survives_bad_networks() {
    let weathers = [
        ("loss", Weather { loss: 25, ..Weather::default() }),
        ("duplication", Weather { duplication: 60, jitter: 30, ..Weather::default() }),
        ("reordering", Weather { jitter: 80, split: true, ..Weather::default() }),
        ("all", Weather { loss: 15, duplication: 20, jitter: 120, split: true, ..Weather::default() }),
    ];
    for (name, weather) in weathers {
        for seed in 0..60 {
            let mut pair = Pair::new(weather, seed);
            let context = format!("{name}, seed {seed}");
            let result = pair.run();
            assert_eq!(result, Ok(()), "{context}");
            // A server whose last flight got lost for good has keys while its client has none; 8 in 8 losses are rare here.
            pair.assert_equal_keys(&context);
        }
    }
}

#[test]
fn lost_last_flight_is_repeated() {
    let mut pair = Pair::new(Weather::default(), 1);
    while !pair.server.is_connected() {
        pair.step().unwrap();
    }
    while pair.server.poll_transmit().is_some() {}
    assert!(!pair.client.is_connected());
    pair.run().unwrap();
    pair.assert_equal_keys("repeated");
}

#[test]
fn wrong_fingerprint_is_refused_by_either_side() {
    let (client, server) = identities();
    let other = Identity::generate().unwrap().fingerprint();
    let mut pair = Pair::with(&client, &server, other.clone(), server.fingerprint(), Weather::default(), 1);
    assert_eq!(pair.run(), Err((Role::Server, DtlsError::WrongFingerprint)));
    assert!(pair.server.keys().is_none());
    // bad_certificate reaches the client.
    assert_eq!(pair.run(), Err((Role::Client, DtlsError::PeerAlert(42))));
    assert!(pair.client.keys().is_none());

    let mut pair = Pair::with(&client, &server, client.fingerprint(), other, Weather::default(), 1);
    assert_eq!(pair.run(), Err((Role::Client, DtlsError::WrongFingerprint)));
    assert_eq!(pair.run(), Err((Role::Server, DtlsError::PeerAlert(42))));
    assert!(pair.client.keys().is_none() && pair.server.keys().is_none());
    assert_eq!(Association::new(&client, Role::Server, vec![], Micros::ZERO).err(), Some(DtlsError::NoFingerprint));
}

#[test]
fn silence_times_out_with_doubling_retransmissions() {
    let mut client = Pair::new(Weather::default(), 1).client;
    let mut sent = Vec::new();
    let mut now = Micros::from_secs(1);
    let error = loop {
        while client.poll_transmit().is_some() {
            sent.push(now.since(Micros::from_secs(1)) / 1000);
        }
        now = client.poll_timeout().unwrap();
        if let Err(error) = client.handle_timeout(now) {
            break error;
        }
    };
    assert_eq!(error, DtlsError::TimedOut);
    assert_eq!(now.since(Micros::from_secs(1)) / 1000, crate::limits::HANDSHAKE_MILLIS_MAX);
    assert_eq!(sent, [0, 200, 600, 1400, 3000, 6200, 12600]);
    assert_eq!(client.poll_timeout(), None);
}

#[test]
fn garbage_is_counted_and_does_no_harm() {
    let mut rng = Rng(7);
    let mut pair = Pair::new(Weather::default(), 1);
    for round in 0..2000 {
        // Random bytes, and random bytes behind a plausible record header; alerts aside, which may end a handshake.
        let mut datagram: Vec<u8> = (0..rng.next() % 200).map(|_| rng.next() as u8).collect();
        if round % 2 == 0 && datagram.len() > 13 {
            let length = (datagram.len() - 13) as u16;
            let kind = [20, 22, 22, 23][rng.next() as usize % 4];
            datagram[..5].copy_from_slice(&[kind, 0xfe, 0xfd, 0, (rng.next() % 2) as u8]);
            datagram[11..13].copy_from_slice(&length.to_be_bytes());
        }
        for peer in [&mut pair.client, &mut pair.server] {
            peer.handle(&datagram, Micros::from_secs(1)).unwrap();
        }
    }
    assert!(pair.server.discarded() > 500 && pair.server.poll_transmit().is_none());
    assert!(handshake(&pair.server).reassembly.bytes_held() <= flight::REASSEMBLY_WINDOW * flight::MESSAGE_MAX);
    assert!(handshake(&pair.server).early_records.len() <= handshake::EARLY_RECORDS_MAX);
    pair.run().unwrap();
    pair.assert_equal_keys("after garbage");
    for _ in 0..1000 {
        let datagram: Vec<u8> = (0..rng.next() % 200).map(|_| rng.next() as u8).collect();
        pair.server.handle(&datagram, pair.now).unwrap();
        // Forged in the clear: a fatal alert, application data, a handshake message, a ChangeCipherSpec.
        for (kind, body) in [(21, &[2, 40][..]), (23, b"data"), (22, &[1, 0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0]), (20, &[1])] {
            pair.server.handle(&flight::plain_record(kind, rng.next(), &[body]), pair.now).unwrap();
        }
    }
    assert!(pair.server.is_connected() && pair.server.poll_application_data().is_none());
    assert!(pair.server.poll_transmit().is_none());
}

#[test]
fn damaged_messages_never_panic_and_never_yield_different_keys() {
    let weather = Weather { damage: 25, duplication: 20, jitter: 20, loss: 5, split: true };
    for seed in 0..300 {
        let mut pair = Pair::new(weather, seed);
        let _ = pair.run();
        if let (Some(client), Some(server)) = (pair.client.keys(), pair.server.keys()) {
            assert_eq!(client.exporter, server.exporter, "seed {seed}");
        }
    }
}

#[test]
fn second_hello_must_equal_the_first() {
    let mut pair = Pair::new(Weather::default(), 1);
    let first = pair.client.poll_transmit().unwrap();
    pair.server.handle(&first, pair.now).unwrap();
    let verify = pair.server.poll_transmit().unwrap();
    pair.client.handle(&verify, pair.now).unwrap();
    let mut second = pair.client.poll_transmit().unwrap();
    // The profile list 0007 0008 0001: without its GCM entries.
    let at = second.windows(6).position(|w| w == [0, 7, 0, 8, 0, 1]).unwrap();
    second[at..at + 4].copy_from_slice(&[0, 1, 0, 1]);
    assert_eq!(pair.server.handle(&second, pair.now), Err(DtlsError::HelloChanged));
    assert_eq!(pair.server.poll_transmit().unwrap().get(13..), Some(&[2, handshake::ALERT_ILLEGAL_PARAMETER][..]));
}

#[test]
fn lost_hello_verify_request_is_repeated_within_bounds() {
    let mut pair = Pair::new(Weather::default(), 1);
    let hello = pair.client.poll_transmit().unwrap();
    let mut answers = 0;
    for _ in 0..100 {
        pair.server.handle(&hello, pair.now).unwrap();
        answers += std::iter::from_fn(|| pair.server.poll_transmit()).count();
    }
    assert_eq!(answers, 1 + usize::from(handshake::REPEATS_MAX));
    assert_eq!(pair.server.poll_timeout(), Some(handshake(&pair.server).give_up_at));
}

#[test]
fn repeated_finished_is_answered_within_bounds() {
    let mut pair = Pair::connected();
    let mut answers = 0;
    for _ in 0..100 {
        let finished = connection(&mut pair.client).seal(content::HANDSHAKE, &[message::FINISHED; 24]).unwrap();
        pair.server.handle(&finished, pair.now).unwrap();
        answers += std::iter::from_fn(|| pair.server.poll_transmit()).count();
    }
    assert_eq!(answers, usize::from(connection::REPEATS_MAX));
    // Whoever did not send the last flight of all has none to repeat.
    let finished = connection(&mut pair.server).seal(content::HANDSHAKE, &[message::FINISHED; 24]).unwrap();
    pair.client.handle(&finished, pair.now).unwrap();
    assert_eq!(pair.client.poll_transmit(), None);
    assert!(pair.client.is_connected() && pair.server.is_connected());
}

#[test]
fn replayed_and_forged_records_are_dropped() {
    for sender in [Role::Client, Role::Server] {
        let mut pair = Pair::connected();
        let now = pair.now;
        let (from, to) = pair.sides(sender);
        from.send_application_data(b"once").unwrap();
        let record = from.poll_transmit().unwrap();
        let discarded = to.discarded();
        for bit in 0..8 * record.len() {
            let mut forged = record.clone();
            forged[bit / 8] ^= 1 << (bit % 8);
            to.handle(&forged, now).unwrap();
            assert_eq!(to.poll_application_data(), None, "{sender:?}, bit {bit}");
        }
        assert!(to.discarded() > discarded);
        // What was forged has not used up the number of the true one.
        to.handle(&record, now).unwrap();
        assert_eq!(to.poll_application_data().as_deref(), Some(&b"once"[..]));
        to.handle(&record, now).unwrap();
        assert_eq!(to.poll_application_data(), None, "replayed to {sender:?}");
        assert!(to.is_connected() && !to.closed_by_peer());
    }
}

#[test]
fn either_side_ends_the_session_by_an_alert() {
    for sender in [Role::Client, Role::Server] {
        let mut pair = Pair::connected();
        let now = pair.now;
        let (from, to) = pair.sides(sender);
        // A warning other than close_notify, and a ClientHello for a renegotiation, change nothing.
        for (content_type, body) in [(content::ALERT, &[1, 90][..]), (content::HANDSHAKE, &[message::CLIENT_HELLO; 12])] {
            to.handle(&connection(from).seal(content_type, body).unwrap(), now).unwrap();
        }
        assert!(to.is_connected() && to.poll_transmit().is_none());
        from.close();
        let close_notify = from.poll_transmit().unwrap();
        to.handle(&close_notify, now).unwrap();
        assert!(to.closed_by_peer() && !to.is_connected(), "{sender:?}");
        let answer = to.poll_transmit().unwrap();
        assert_eq!((answer[0], to.poll_transmit()), (content::ALERT, None));
        from.handle(&answer, now).unwrap();
        assert!(!from.closed_by_peer() && from.poll_transmit().is_none());

        let mut pair = Pair::connected();
        let (from, to) = pair.sides(sender);
        to.handle(&connection(from).seal(content::ALERT, &[2, 40]).unwrap(), now).unwrap();
        assert!(to.closed_by_peer() && !to.is_connected() && to.poll_transmit().is_none(), "{sender:?}");
    }
}

#[test]
fn may_move_between_threads() {
    fn send<T: Send>() {}
    send::<Association>();
    send::<Identity>();
}
