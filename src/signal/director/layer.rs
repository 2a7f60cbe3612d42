//! Layers as people name them: a viewer's wish becomes a choice, and choices become something to show.

use super::{Director, Part, Session};
use crate::limits::{QUALITIES_MAX, SIDE_MAX, TEMPORAL_LAYERS_MAX};
use crate::room::shard::Subscriber;
use crate::rtp::config::{MediaConfig, MediaKind};
use crate::rtp::layers::{Choice, Layers, Wish};
use crate::signal::api::{LayerView, LayerWish, QualityView, Refusal, SessionPath};
use crate::units::Micros;
use crate::worker::mail::Command;

/// Whoever has just come may turn out to have room for everything: so long everything is watched that it does not decline.
const ARRIVAL: Micros = Micros::from_secs(10);

impl Director {
    /// Sets what a viewer wants of one picture. It holds until the next wish, for whatever publisher comes.
    pub(super) fn wish(&mut self, path: &SessionPath, wish: &LayerWish) -> Result<(), Refusal> {
        let slot = self.find(path)?;
        let Some(session) = self.sessions.get(&slot) else { return Err(Refusal::UnknownSession) };
        let refuse = |reason: String| Err(Refusal::Layer { reason });
        let mut sent = session.lines.iter().enumerate();
        let line = match &wish.media_id {
            Some(mid) => sent.find(|(_, media)| media.mid.as_str() == mid),
            None => sent.find(|(_, media)| media.kind == MediaKind::Video),
        };
        let Some((index, media)) = line else {
            return match &wish.media_id {
                Some(mid) => refuse(format!("mediaId is {mid:?}, and nothing is sent on an m-line with that mid.")),
                None => refuse("The session has no m-line on which video is sent.".into()),
            };
        };
        let pictures = wish.width.or(wish.height).or(wish.priority).is_some();
        if media.kind != MediaKind::Video && (wish.active.is_none() || pictures) {
            let mid = media.mid.as_str();
            return refuse(format!("The m-line {mid:?} is sound: it has no layers, size or priority, only \"active\"."));
        }
        let (size, priority) = match (size(wish), priority(wish)) {
            (Ok(size), Ok(priority)) => (size, priority),
            (Err(reason), _) | (_, Err(reason)) => return refuse(reason),
        };
        let quality = match (&wish.encoding_id, wish.max_spatial_layer_id) {
            (Some(id), _) => match self.encoding(session, id) {
                Some(encoding) => encoding,
                None => {
                    let known = self.encodings(session).join(", ");
                    return refuse(format!("encodingId is {id:?}; the publisher's encodings are: {known}."));
                }
            },
            (None, Some(spatial)) => spatial,
            (None, None) => u8::MAX,
        };
        let temporal = wish.max_temporal_layer_id.unwrap_or(u8::MAX).min(TEMPORAL_LAYERS_MAX as u8 - 1);
        let index = index as u16;
        let before = match *wish == (LayerWish { media_id: wish.media_id.clone(), ..LayerWish::default() }) {
            true => Wish::default(),
            false => session.wish(index),
        };
        let layers = wish.encoding_id.is_some() || wish.active.is_some();
        let layers = layers || wish.max_spatial_layer_id.or(wish.max_temporal_layer_id).is_some();
        let most = if layers { (wish.active != Some(false)).then_some(Choice { quality, temporal }) } else { before.most };
        let (size, priority) = (size.unwrap_or(before.size), priority.unwrap_or(before.priority));
        let wished = Wish { most, size, priority, ..before };
        self.want(slot, index, wished);
        Ok(())
    }

    /// Sets what is wanted on an m-line that the server sends on.
    pub(super) fn want(&mut self, slot: u32, index: u16, wished: Wish) {
        let Some(session) = self.sessions.get_mut(&slot) else { return };
        let (peer, worker) = (session.id, session.worker);
        session.wishes.retain(|(other, _)| *other != index);
        session.wishes.push((index, wished));
        if let Some(office) = worker.and_then(|worker| self.workers.get_mut(worker.0 as usize)) {
            office.send(Command::Wish { subscriber: Subscriber { peer: slot, sender: index }, peer, wish: wished });
        }
    }

    /// The video that a viewer's publisher sends, or the publisher itself.
    fn picture<'a>(&'a self, session: &'a Session) -> Option<&'a MediaConfig> {
        let publisher = if session.part == Part::Viewer { self.on_stage(session)? } else { session };
        publisher.agreed.media.iter().find(|media| media.kind == MediaKind::Video)
    }

    /// The names of the publisher's encodings, by index.
    fn encodings(&self, session: &Session) -> Vec<String> {
        let Some(media) = self.picture(session) else { return Vec::new() };
        match media.rids.len() {
            0 => (0..media.remote_streams.len().max(1)).map(|index| index.to_string()).collect(),
            _ => media.rids.iter().map(|rid| rid.to_string()).collect(),
        }
    }

    fn encoding(&self, session: &Session, id: &str) -> Option<u8> {
        let index = self.encodings(session).iter().position(|name| name == id).or_else(|| id.parse().ok())?;
        (index < QUALITIES_MAX).then_some(index as u8)
    }

    /// What was chosen for a viewer, and what it is sent.
    pub(super) fn layer_views(&self, session: &Session) -> (Option<LayerView>, Option<LayerView>) {
        let publisher = self.on_stage(session).filter(|_| session.part == Part::Viewer);
        let Some(layers) = publisher.and_then(|publisher| publisher.stats.layers) else { return (None, None) };
        let names = self.encodings(session);
        let view = |choice: Choice| match layers.scalable() {
            true => LayerView { encoding: None, spatial: choice.quality, temporal: choice.temporal },
            false => LayerView { encoding: name(&names, choice.quality), spatial: 0, temporal: choice.temporal },
        };
        (session.stats.chosen.map(view), session.stats.flowing.map(view))
    }

    /// What flows of a publisher's video.
    pub(super) fn quality_views(&self, session: &Session) -> Vec<QualityView> {
        let Some(layers) = session.stats.layers else { return Vec::new() };
        let names = self.encodings(session);
        let view = |quality: u8, layers: &Layers| QualityView {
            encoding: if layers.scalable() { None } else { name(&names, quality) },
            spatial: if layers.scalable() { quality } else { 0 },
            bitrates: layers.rates(quality).to_vec(),
        };
        (0..QUALITIES_MAX as u8).filter(|quality| layers.flows(*quality)).map(|quality| view(quality, &layers)).collect()
    }

    /// The publisher's encodings that nobody is sent or records, has asked for by name, or would be given next. Never among them: the one that
    /// takes least, so that there is something for whoever comes, and what has not flowed yet.
    pub(super) fn unwatched(&self, session: &Session, now: Micros) -> Vec<String> {
        let layers = session.stats.layers.filter(|layers| session.part == Part::Publisher && !layers.scalable());
        let (Some(layers), Some(room)) = (layers, self.rooms.get(&session.room)) else { return Vec::new() };
        // Members say what they watch in another way, which this does not look at.
        if !room.members.is_empty() && room.watched_by_members() {
            return Vec::new();
        }
        let names = self.encodings(session);
        let mut rising: Vec<u8> = (0..names.len().min(QUALITIES_MAX) as u8).filter(|quality| layers.known(*quality) > 0).collect();
        rising.sort_by_key(|quality| layers.known(*quality));
        let viewers = room.viewers.iter().filter_map(|slot| self.sessions.get(slot));
        let mut watched = viewers.fold(0, |watched, viewer| watched | viewer.watches(&layers, &rising, now));
        if self.is_recorded(session.id) {
            // Whatever it is told to record: it goes over to the best where that does not flow.
            watched = u8::MAX;
        }
        let rest = rising.into_iter().skip(1).filter(|quality| watched >> quality & 1 == 0);
        rest.filter_map(|quality| names.get(quality as usize).cloned()).collect()
    }
}

/// The size that was told, in a sentence what is wrong with it.
fn size(wish: &LayerWish) -> Result<Option<(u16, u16)>, String> {
    let (width, height) = match (wish.width, wish.height) {
        (None, None) => return Ok(None),
        (Some(width), Some(height)) => (width, height),
        (Some(width), None) => return Err(format!("width is {width}, and height is missing: a size has both.")),
        (None, Some(height)) => return Err(format!("height is {height}, and width is missing: a size has both.")),
    };
    for (name, side) in [("width", width), ("height", height)] {
        if side == 0 {
            return Err(format!("{name} is 0: a picture that is not shown is switched off by \"active\": false."));
        }
        if side > SIDE_MAX {
            return Err(format!("{name} is {side}: it is pixels of the screen, {SIDE_MAX} at most."));
        }
    }
    Ok(Some((width as u16, height as u16)))
}

fn priority(wish: &LayerWish) -> Result<Option<u8>, String> {
    match wish.priority {
        None => Ok(None),
        Some(priority @ 1..=255) => Ok(Some(priority as u8)),
        Some(priority) => {
            Err(format!("priority is {priority}: it is 1, which comes first, to 255; whoever tells none has {}.", Wish::PRIORITY))
        }
    }
}

impl Session {
    fn wish(&self, line: u16) -> Wish {
        self.wishes.iter().find(|(index, _)| *index == line).map_or_else(Wish::default, |(_, wish)| *wish)
    }

    /// Which of a publisher's encodings a viewer makes worth sending, a bit each; `rising`: from the one that takes least.
    fn watches(&self, layers: &Layers, rising: &[u8], now: Micros) -> u8 {
        let Some(line) = self.lines.iter().position(|media| media.kind == MediaKind::Video) else { return 0 };
        let has = [self.stats.flowing, self.stats.chosen].into_iter().flatten();
        let has_rank = has.clone().filter_map(|choice| rising.iter().position(|quality| *quality == choice.quality)).max();
        let watched = has.fold(0, |watched, choice| watched | bit(choice.quality));
        let wish = self.wish(line as u16);
        let Some(most) = wish.most else { return watched };
        let rank = |quality: u8| rising.iter().position(|other| *other == quality);
        // Whichever is less: what was named, or what fills the place.
        let named = [rank(most.quality), layers.enough(wish.size).and_then(rank)].into_iter().flatten().min();
        let next = match named.and_then(|rank| rising.get(rank)) {
            Some(quality) => bit(*quality),
            None if now.since(self.since) < ARRIVAL.0 => u8::MAX,
            // One more than it has, to go to as soon as its path carries that.
            None => rising.get(has_rank.map_or(0, |rank| rank + 1)).map_or(0, |quality| bit(*quality)),
        };
        watched | next
    }
}

fn bit(quality: u8) -> u8 {
    1u8.checked_shl(quality.into()).unwrap_or(0)
}

/// None where there is but one.
fn name(names: &[String], quality: u8) -> Option<String> {
    names.get(quality as usize).filter(|_| names.len() > 1).cloned()
}
