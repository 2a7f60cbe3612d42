//! A publisher that goes on with other m-lines than before: a member that publishes more, or less.

use super::{Inbound, Role};
use crate::rtp::nack::Missing;
use crate::units::Ssrc;

impl Inbound {
    /// Takes over the m-lines of `new`, and its room for more of them. Streams of tracks that are not among those have ended: `forget` is
    /// told of each. What was replaced is in `new` afterwards.
    pub(in crate::peer) fn renew(&mut self, new: &mut Inbound, mut forget: impl FnMut(Ssrc)) {
        std::mem::swap(&mut self.lines, &mut new.lines);
        self.transport_sequence = new.transport_sequence;
        std::mem::swap(&mut self.readers, &mut new.readers);
        std::mem::swap(&mut self.windows, &mut new.windows);
        let Inbound { lines: old, readers, windows, .. } = new;
        for line in &mut self.lines {
            line.layers = old.iter().find(|old| old.track == line.track).map_or(line.layers, |old| old.layers);
        }
        for stream in self.streams.iter_mut().filter(|stream| stream.role != Role::Gone) {
            let track = old.get(stream.media as usize).map(|line| line.track);
            let reader = stream.reader.take().and_then(|reader| readers.get_mut(reader as usize));
            let window = stream.window.take().and_then(|window| windows.get_mut(window as usize));
            match self.lines.iter().position(|line| Some(line.track) == track) {
                Some(index) => {
                    stream.media = index as u8;
                    stream.reader = moved(reader, &mut self.readers);
                    stream.window = moved(window, &mut self.windows);
                }
                None => {
                    (stream.role, stream.missing) = (Role::Gone, Missing::default());
                    stream.wanted.forget();
                    forget(stream.ssrc);
                }
            }
        }
    }
}

/// Moves something over where there is room for it; where it is then.
fn moved<T: Default>(from: Option<&mut T>, to: &mut Vec<T>) -> Option<u8> {
    let from = from.filter(|_| to.len() < to.capacity())?;
    to.push(std::mem::take(from));
    Some((to.len() - 1) as u8)
}
