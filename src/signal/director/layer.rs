//! Layers as people name them: a viewer's wish becomes a choice, and choices become something to show.

use super::{Director, Part, Session};
use crate::limits::{QUALITIES_MAX, TEMPORAL_LAYERS_MAX};
use crate::room::shard::Subscriber;
use crate::rtp::config::{MediaConfig, MediaKind};
use crate::rtp::layers::{Choice, Layers};
use crate::signal::api::{LayerView, LayerWish, QualityView, Refusal, SessionPath};
use crate::units::Micros;
use crate::worker::mail::Command;

/// Whoever has just come may turn out to have room for everything: so long everything is watched that it does not decline.
const ARRIVAL: Micros = Micros::from_secs(10);

impl Director {
    /// Sets the best that a viewer wants of one picture. It holds until the next wish, for whatever publisher comes.
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
        if media.kind != MediaKind::Video && wish.active.is_none() {
            return refuse(format!("The m-line {:?} is sound: it has no layers, only \"active\".", media.mid.as_str()));
        }
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
        let wished = (wish.active != Some(false)).then_some(Choice { quality, temporal });
        let index = index as u16;
        self.want(slot, index, wished);
        Ok(())
    }

    /// Sets the best that is wanted on an m-line that the server sends on.
    pub(super) fn want(&mut self, slot: u32, index: u16, wished: Option<Choice>) {
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
        let mut watched = viewers.fold(0, |watched, viewer| watched | viewer.watches(&rising, now));
        if self.is_recorded(session.id) {
            // Whatever it is told to record: it goes over to the best where that does not flow.
            watched = u8::MAX;
        }
        let rest = rising.into_iter().skip(1).filter(|quality| watched >> quality & 1 == 0);
        rest.filter_map(|quality| names.get(quality as usize).cloned()).collect()
    }
}

impl Session {
    /// Which of a publisher's encodings a viewer makes worth sending, a bit each; `rising`: from the one that takes least.
    fn watches(&self, rising: &[u8], now: Micros) -> u8 {
        let Some(line) = self.lines.iter().position(|media| media.kind == MediaKind::Video) else { return 0 };
        let has = [self.stats.flowing, self.stats.chosen].into_iter().flatten();
        let has_rank = has.clone().filter_map(|choice| rising.iter().position(|quality| *quality == choice.quality)).max();
        let watched = has.fold(0, |watched, choice| watched | bit(choice.quality));
        let wish = match self.wishes.iter().find(|(index, _)| *index as usize == line) {
            Some((_, None)) => return watched,
            Some((_, Some(choice))) => rising.iter().find(|quality| **quality == choice.quality),
            None => None,
        };
        let next = match wish {
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
