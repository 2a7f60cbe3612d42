//! Several pictures to one viewer, on a path that does not carry all of them: who comes first, who waits, and who is told.
//!
//! Members of a room publish on str0m, in 150, 600 and 2,200 kb/s, and one more watches all of them; the paths are the simulator's.

#[path = "sim/mod.rs"]
mod sim;

use distributary::signal::api::LayerWish;
use livekit_protocol::UpdateTrackSettings as Settings;
use sim::member::SCREEN;
use sim::network::Link;
use sim::{World, for_seeds, watching};

const ENCODINGS: [u8; 3] = [1, 5, 20];

/// Two who publish, and one who watches both over such a path.
fn room(world: &mut World, link: Link) -> ([usize; 2], usize) {
    let publishers = [world.present("room", &ENCODINGS, 0), world.present("room", &ENCODINGS, 0)];
    assert!(world.connect(5));
    world.run_seconds(2);
    let watcher = world.look("room", 2, 2, link);
    assert!(world.connect(5));
    (publishers, watcher)
}

/// What the server thinks that a member's path carries, in kilobits per second.
fn target(world: &mut World, watcher: usize) -> Option<u64> {
    let address = world.clients[watcher].public;
    let rooms = world.server.rooms();
    let session = rooms.iter().flat_map(|room| &room.sessions).find(|session| session.remote_address == Some(address))?;
    session.target_bitrate.map(|rate| rate / 1000)
}

fn sizes(world: &World, watcher: usize) -> [u8; 2] {
    [1, 2].map(|publisher| world.watcher(watcher).size(publisher))
}

/// Pictures of both, and sounds of both, in so many seconds.
fn count(world: &mut World, watcher: usize, seconds: u64) -> [[u64; 2]; 2] {
    let counts = |world: &World| {
        let watcher = world.watcher(watcher);
        [
            [1, 2].map(|publisher| watcher.count(publisher)),
            [1, 2].map(|publisher| watcher.heard.get(&publisher).copied().unwrap_or(0)),
        ]
    };
    let before = counts(world);
    world.run_seconds(seconds);
    let after = counts(world);
    [0, 1].map(|kind| [0, 1].map(|publisher| after[kind][publisher] - before[kind][publisher]))
}

fn first(priority: u32) -> Settings {
    Settings { priority, width: 1280, height: 720, ..Settings::default() }
}

/// The one that matters more is better; when the path gets narrow the other pauses, its viewer is told, and it comes back. Sound goes on.
#[test]
fn the_picture_that_matters_less_is_smaller_and_pauses_first() {
    for_seeds(&[301, 302, 303], |seed| {
        let mut world = World::new(seed, 1 + (seed % 2) as usize);
        watching(&mut world, |world| {
            let ([one, other], watcher) = room(world, Link::narrow(1_000_000, 200));
            world.want(watcher, one, "camera", first(1));
            world.want(watcher, other, "camera", first(200));
            world.run_seconds(25);
            assert_eq!(sizes(world, watcher), [5, 1]);
            world.want(watcher, one, "camera", first(200));
            world.want(watcher, other, "camera", first(1));
            world.run_seconds(25);
            assert_eq!(sizes(world, watcher), [1, 5]);
            assert_eq!(world.told_paused(watcher, one, "camera"), None, "both are shown, and nobody was told otherwise");
            world.clients[watcher].link = Link::narrow(300_000, 200);
            world.run_seconds(10);
            assert_eq!(world.told_paused(watcher, one, "camera"), Some(true));
            let [pictures, sounds] = count(world, watcher, 10);
            // Now and then the estimate is too good for a moment, and it is tried for two seconds.
            assert!(pictures[0] < 100 && pictures[1] > 270, "{pictures:?} in ten seconds");
            assert!(sounds.iter().all(|sounds| *sounds > 470), "{sounds:?} in ten seconds");
            let told = |world: &World| [one, other].map(|publisher| world.told_paused(watcher, publisher, "camera"));
            assert!(told(world)[0].is_some() && told(world)[1].is_none(), "{:?}", told(world));
            world.clients[watcher].link = Link::narrow(1_000_000, 200);
            world.run_seconds(20);
            let [pictures, _] = count(world, watcher, 5);
            assert!(pictures.iter().all(|pictures| *pictures > 135), "{pictures:?} in five seconds");
            assert_eq!(told(world), [Some(false), None]);
            assert_eq!(sizes(world, watcher), [1, 5], "{:?} kb/s", target(world, watcher));
            world.assert_no_violations();
        });
    });
}

/// What is hidden gets nothing, and what it took goes to the other; shown again it is back at once. A small place gets a small picture.
#[test]
fn hidden_pictures_get_nothing_and_small_ones_little() {
    for_seeds(&[311, 312], |seed| {
        let mut world = World::new(seed, 1 + (seed % 2) as usize);
        watching(&mut world, |world| {
            let ([one, other], watcher) = room(world, Link::narrow(4_200_000, 200));
            world.want(watcher, one, "camera", first(1));
            world.run_seconds(20);
            assert_eq!(sizes(world, watcher), [20, 5], "{:?} kb/s", target(world, watcher));
            world.want(watcher, one, "camera", Settings { disabled: true, ..Settings::default() });
            world.run_seconds(12);
            let [pictures, sounds] = count(world, watcher, 5);
            assert!(pictures[0] == 0 && pictures[1] > 140, "{pictures:?} in five seconds");
            assert!(sounds[0] > 235, "{sounds:?} in five seconds");
            assert_eq!(sizes(world, watcher)[1], 20);
            assert_eq!(world.told_paused(watcher, one, "camera"), None, "it was not the network");
            world.want(watcher, one, "camera", Settings { width: 300, height: 160, ..Settings::default() });
            world.want(watcher, other, "camera", Settings { width: 640, height: 300, ..Settings::default() });
            world.run_seconds(2);
            assert_eq!(sizes(world, watcher), [1, 5]);
            let [pictures, _] = count(world, watcher, 10);
            assert!(pictures.iter().all(|pictures| *pictures > 280), "{pictures:?} in ten seconds");
            assert_eq!(sizes(world, watcher), [1, 5], "there is room, and no place for more");
            world.assert_no_violations();
        });
    });
}

/// A camera and a screen of one publisher. Unless the viewer says otherwise the screen comes first.
#[test]
fn a_screen_comes_before_its_publishers_camera() {
    for_seeds(&[321, 322], |seed| {
        let mut world = World::new(seed, 1);
        watching(&mut world, |world| {
            let publisher = world.present("room", &ENCODINGS, 3);
            assert!(world.connect(5));
            world.run_seconds(2);
            let watcher = world.look("room", 1, 2, Link::narrow(900_000, 200));
            assert!(world.connect(5));
            world.run_seconds(20);
            let seen = |world: &World| [1, 1 + SCREEN].map(|publisher| world.watcher(watcher).size(publisher));
            assert_eq!(seen(world), [1, 3]);
            // 440 kb/s do not carry both.
            world.clients[watcher].link = Link::narrow(440_000, 200);
            world.run_seconds(10);
            let before = world.watcher(watcher).count(1);
            world.run_seconds(10);
            assert!(
                world.watcher(watcher).count(1) - before < 100,
                "{} pictures of the camera",
                world.watcher(watcher).count(1) - before
            );
            assert_eq!(world.told_paused(watcher, publisher, "camera"), Some(true));
            assert_eq!(world.told_paused(watcher, publisher, "screen"), None);
            world.want(watcher, publisher, "camera", first(1));
            world.run_seconds(10);
            assert_eq!(world.told_paused(watcher, publisher, "camera"), Some(false));
            assert_eq!(world.told_paused(watcher, publisher, "screen"), Some(true));
            assert!(seen(world)[0] >= 1);
            world.assert_no_violations();
        });
    });
}

/// A path that sways around what is needed makes neither picture flap.
#[test]
fn a_path_that_sways_makes_nobody_flap() {
    for_seeds(&[331, 332, 333], |seed| {
        let mut world = World::new(seed, 1);
        watching(&mut world, |world| {
            let ([one, other], watcher) = room(world, Link::narrow(1_400_000, 200));
            world.want(watcher, one, "camera", first(1));
            world.want(watcher, other, "camera", first(200));
            world.run_seconds(20);
            let began = world.now;
            for _ in 0..60 {
                // Both in the middle take 1.25 Mb/s.
                let rate = 1_100_000 + world.random.below(400_000) as u64;
                world.clients[watcher].link = Link::narrow(rate, 300);
                world.run_seconds(1);
            }
            let changes = [1, 2].map(|publisher| world.watcher(watcher).changes(publisher, began));
            let pictures = [1, 2].map(|publisher| world.watcher(watcher).count(publisher));
            assert!(changes[0] <= 2 && changes[1] <= 12, "{changes:?} changes in a minute, {pictures:?} pictures");
            world.assert_no_violations();
        });
    });
}

/// A viewer who came by WHEP says the same by HTTP.
#[test]
fn a_viewer_by_whep_says_how_large_its_place_is() {
    for_seeds(&[341, 342], |seed| {
        let mut world = World::new(seed, 1 + (seed % 2) as usize);
        watching(&mut world, |world| {
            world.publish_simulcast("room", &ENCODINGS, Link::clean());
            let viewer = world.watch("room", Link::clean());
            assert!(world.connect(3));
            world.run_seconds(5);
            let path = world.clients[viewer].path.clone().expect("a session");
            let size = |world: &World| world.viewer(viewer).decoder.sizes.last().map_or(0, |(_, size)| *size);
            assert_eq!(size(world), 20);
            let place = |width, height| LayerWish { width: Some(width), height: Some(height), ..LayerWish::default() };
            for (width, height, expected) in [(200, 100, 1), (640, 360, 5), (400, 700, 5), (1920, 1080, 20), (321, 90, 1)] {
                world.server.layer(path.clone(), place(width, height)).expect("a wish");
                world.run_seconds(3);
                assert_eq!(size(world), expected, "in a place of {width} by {height}");
            }
            // What is said of layers leaves the size as it is, and nothing at all takes both back.
            let wish = |active| LayerWish { active: Some(active), ..LayerWish::default() };
            world.server.layer(path.clone(), wish(false)).expect("a wish");
            world.run_seconds(1);
            let before = world.viewer(viewer).decoder.pictures;
            world.run_seconds(2);
            assert_eq!(world.viewer(viewer).decoder.pictures, before);
            world.server.layer(path.clone(), wish(true)).expect("a wish");
            world.run_seconds(2);
            assert_eq!(size(world), 1);
            world.server.layer(path.clone(), LayerWish::default()).expect("a wish");
            world.run_seconds(3);
            assert_eq!(size(world), 20);
            for (wish, words) in [
                (place(0, 100), "width is 0"),
                (place(100, 20_000), "height is 20000: it is pixels of the screen, 16384 at most"),
                (LayerWish { width: Some(100), ..LayerWish::default() }, "height is missing"),
                (LayerWish { priority: Some(0), ..LayerWish::default() }, "priority is 0: it is 1"),
                (LayerWish { priority: Some(256), ..LayerWish::default() }, "priority is 256"),
                (LayerWish { media_id: Some("nope".to_owned()), ..place(100, 100) }, "nothing is sent on an m-line with that mid"),
            ] {
                let refusal = world.server.layer(path.clone(), wish).expect_err("a wish that makes no sense");
                assert!(refusal.status() == 422 && refusal.to_string().contains(words), "{refusal}");
            }
            world.assert_no_violations();
        });
    });
}
