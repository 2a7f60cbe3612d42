//! The dependency descriptor (RTP Payload Format For AV1, v1.0, appendix A; its sections are named A.n here): a header extension that
//! tells of each frame which layer it is of, what it refers to and who needs it, whatever the codec and even if it is encrypted.
//!
//! Most descriptors are three bytes that name a template. The templates come with a key frame, in its first packet, as a
//! [`Structure`], and hold until the next one: a [`Reader`] keeps them for one received stream. It is some 4 KiB, bounded, and
//! reading allocates nothing.
//!
//! [`write()`] makes of a received descriptor the one that a receiver gets. It needs the few numbers of a [`Layout`], not the
//! structure, so that they can travel with the packet. Frame numbers may be shifted but keep their gaps: what refers to what is told
//! in differences of them. A receiver that is sent fewer decode targets must be told so (A.4), else it takes the chains of the others
//! for broken.
//!
//! Where the spatial layers of a picture are of different temporal layers (`L2T2_KEY_SHIFT`), a receiver cannot be sent fewer temporal ones:
//! of every other picture it would get a lower spatial layer alone, which no decoder takes for a whole picture. From the first such
//! picture on, all are of temporal layer 0 to who selects layers.
//!
//! A descriptor may come before its structure, when the first packet of a key frame is lost or late, or after the next one, when it is
//! late itself. That is [`DropReason::DependencyUnknown`], and no fault of the packet: it is good for receivers that take the stream
//! whole.

mod structure;
#[cfg(test)]
mod tests;
mod write;

use arrayvec::ArrayVec;

pub use structure::{DecodeTarget, Indication, Indications, Structure, TargetLayers, Template};
pub use write::{DESCRIPTOR_BYTES_MAX, Forwarding, Layout, Rewrite, write};

use super::bits::Bits;
use crate::limits::{DEPENDENCY_CHAINS, FRAME_DEPENDENCIES};
use crate::metrics::DropReason;
use crate::units::RtpTime;
use crate::wire::layer::Layer;

/// Frames that a late packet is behind the newest one at most: one further behind begins a new numbering.
const LATE_FRAMES: u16 = 256;
/// The same in ticks of the RTP clock: two seconds.
const LATE_TICKS: i32 = 2 * 90_000;

/// What one packet's descriptor says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Descriptor {
    pub layout: Layout,
    /// First and last packet of the frame.
    pub start_of_frame: bool,
    pub end_of_frame: bool,
    pub spatial: u8,
    pub temporal: u8,
    pub indications: Indications,
    /// Frame numbers back to the frames that it refers to.
    pub dependencies: ArrayVec<u16, FRAME_DEPENDENCIES>,
    /// For each chain, frame numbers back to its last frame; 0: this frame begins it.
    pub chains: ArrayVec<u8, DEPENDENCY_CHAINS>,
    /// Bitmask of the decode targets that the publisher sends.
    pub active_decode_targets: u32,
    /// Largest width and height of frames of this spatial layer, if told.
    pub resolution: Option<(u32, u32)>,
    target_layers: Option<TargetLayers>,
    layer: Layer,
}

impl Descriptor {
    pub fn layer(&self) -> Layer {
        self.layer
    }

    /// What travels with the packet, so that the descriptor can be written for its receivers; none if there are more decode targets
    /// than can be told of.
    pub fn forwarding(&self) -> Option<Forwarding> {
        let targets = self.target_layers?;
        Some(Forwarding { layout: self.layout, targets, active: self.active_decode_targets as u16 })
    }
}

/// Reads the descriptors of one stream (one SSRC), and keeps what holds from packet to packet.
#[derive(Clone, Debug, Default)]
pub struct Reader {
    structure: Option<Structure>,
    /// Frame numbers without their wraps: of the newest frame, of the one that brought the structure, and of the one that told of the
    /// active decode targets.
    newest: u64,
    structured: u64,
    updated: u64,
    active: u32,
    pictures: Pictures,
}

impl Reader {
    /// The newest structure.
    pub fn structure(&self) -> Option<&Structure> {
        self.structure.as_ref()
    }

    /// Reads the descriptor of a packet with this RTP timestamp. An error changes nothing.
    pub fn read(&mut self, data: &[u8], timestamp: RtpTime) -> Result<Descriptor, DropReason> {
        const MALFORMED: DropReason = DropReason::DependencyMalformed;
        let mut bits = Bits::new(data, 0);
        let mandatory = Mandatory::read(&mut bits).ok_or(MALFORMED)?;
        let extended = if data.len() > 3 { Extended::read(&mut bits).ok_or(MALFORMED)? } else { Extended::default() };
        let attached = match extended.structure {
            true => Some(Structure::read(data, &mut bits).ok_or(MALFORMED)?),
            false => None,
        };
        // A frame from before the structure that is kept refers to another, which may have had the same template ids.
        let frame = self.unwrap(mandatory.frame_number);
        let kept = self.structure.as_ref().filter(|_| frame >= self.structured);
        let structure = attached.as_ref().or(kept).ok_or(DropReason::DependencyUnknown)?;
        let active_at = bits.at();
        let targets = structure.targets.len();
        let told = if extended.active { Some(bits.take(targets).ok_or(MALFORMED)?) } else { None };
        let template = structure.template(mandatory.template).ok_or(DropReason::DependencyUnknown)?;
        let (indications, dependencies, chains) = definition(&mut bits, &extended, template, targets).ok_or(MALFORMED)?;

        let frame_number = mandatory.frame_number;
        let told = told.or_else(|| attached.as_ref().map(Structure::all_targets));
        let before = self.pictures.frames_before(timestamp, frame_number, template.temporal);
        let mut layer = layer(template, indications, structure);
        if self.pictures.shifted {
            (layer.temporal, layer.switch_from, layer.switch_to) = (0, 0, u8::MAX);
        }
        (layer.start_of_frame, layer.end_of_frame) = (mandatory.start_of_frame, mandatory.end_of_frame);
        layer.inter_layer = dependencies.iter().any(|back| *back <= before);
        layer.inter_picture = dependencies.iter().any(|back| *back > before);
        let descriptor = Descriptor {
            layout: Layout {
                frame_number,
                structure: extended.structure,
                active: extended.active,
                targets: targets as u8,
                active_at: active_at as u16,
                bits: bits.at() as u16,
            },
            start_of_frame: mandatory.start_of_frame,
            end_of_frame: mandatory.end_of_frame,
            spatial: template.spatial,
            temporal: template.temporal,
            indications,
            dependencies,
            chains,
            active_decode_targets: told.unwrap_or(self.active),
            resolution: structure.resolutions.get(template.spatial as usize).copied(),
            target_layers: structure.target_layers,
            layer,
        };
        self.update(frame, told, attached);
        Ok(descriptor)
    }

    /// Takes over what the packet told for the packets to come, unless it is late and newer ones have told.
    fn update(&mut self, frame: u64, active: Option<u32>, structure: Option<Structure>) {
        self.newest = self.newest.max(frame);
        if let Some(active) = active.filter(|_| frame >= self.updated) {
            (self.updated, self.active) = (frame, active);
        }
        if structure.is_some() && frame >= self.structured {
            let same = |(one, other): (&Structure, &Structure)| one.templates == other.templates;
            self.pictures.shifted &= self.structure.as_ref().zip(structure.as_ref()).is_some_and(same);
            (self.structured, self.structure) = (frame, structure);
        }
    }

    /// A frame number without its wraps: a little before the newest one, else after it.
    fn unwrap(&self, number: u16) -> u64 {
        let back = (self.newest as u16).wrapping_sub(number);
        match self.structure {
            None => 1 << 16 | number as u64,
            Some(_) if back <= LATE_FRAMES => self.newest - back as u64,
            Some(_) => self.newest + number.wrapping_sub(self.newest as u16) as u64,
        }
    }
}

/// Timestamp of the newest picture, and its first frame seen with its temporal layer.
#[derive(Clone, Debug, Default)]
struct Pictures {
    newest: Option<(RtpTime, u16)>,
    temporal: u8,
    /// A picture had frames of several temporal layers.
    shifted: bool,
}

impl Pictures {
    /// Frames of the same picture before this one, as far as they have been seen: with losses it may be fewer than there were, and
    /// then a reference within the picture is taken for one to an earlier picture, which is on the safe side.
    fn frames_before(&mut self, timestamp: RtpTime, frame_number: u16, temporal: u8) -> u16 {
        match &mut self.newest {
            Some((newest, first)) if *newest == timestamp => {
                self.shifted |= temporal != self.temporal;
                if (frame_number.wrapping_sub(*first) as i16) < 0 {
                    *first = frame_number;
                }
                frame_number.wrapping_sub(*first)
            }
            Some((newest, _)) if (-LATE_TICKS..0).contains(&timestamp.distance(*newest)) => 0,
            none_or_older => {
                *none_or_older = Some((timestamp, frame_number));
                self.temporal = temporal;
                0
            }
        }
    }
}

/// mandatory_descriptor_fields() of A.8.2.
struct Mandatory {
    start_of_frame: bool,
    end_of_frame: bool,
    template: u8,
    frame_number: u16,
}

impl Mandatory {
    fn read(bits: &mut Bits) -> Option<Mandatory> {
        let (start_of_frame, end_of_frame) = (bits.flag()?, bits.flag()?);
        let (template, frame_number) = (bits.take(6)? as u8, bits.take(16)? as u16);
        Some(Mandatory { start_of_frame, end_of_frame, template, frame_number })
    }
}

/// The flags of extended_descriptor_fields() in A.8.2: what follows.
#[derive(Default)]
struct Extended {
    structure: bool,
    active: bool,
    custom_indications: bool,
    custom_dependencies: bool,
    custom_chains: bool,
}

impl Extended {
    fn read(bits: &mut Bits) -> Option<Extended> {
        Some(Extended {
            structure: bits.flag()?,
            active: bits.flag()?,
            custom_indications: bits.flag()?,
            custom_dependencies: bits.flag()?,
            custom_chains: bits.flag()?,
        })
    }
}

type Definition = (Indications, ArrayVec<u16, FRAME_DEPENDENCIES>, ArrayVec<u8, DEPENDENCY_CHAINS>);

/// frame_dependency_definition() of A.8.2: what the template says, or what the descriptor says instead.
fn definition(bits: &mut Bits, extended: &Extended, template: &Template, targets: usize) -> Option<Definition> {
    let mut indications = template.indications;
    if extended.custom_indications {
        indications = Indications::read(bits, targets)?;
    }
    let mut dependencies: ArrayVec<u16, FRAME_DEPENDENCIES> = template.dependencies.iter().map(|back| *back as u16).collect();
    if extended.custom_dependencies {
        dependencies.clear();
        loop {
            match bits.take(2)? {
                0 => break,
                size => dependencies.try_push(bits.take(4 * size as usize)? as u16 + 1).ok()?,
            }
        }
    }
    let mut chains = template.chains.clone();
    if extended.custom_chains {
        for back in &mut chains {
            *back = bits.take(8)? as u8;
        }
    }
    Some((indications, dependencies, chains))
}

/// What the template and the indications tell, in common words.
fn layer(template: &Template, indications: Indications, structure: &Structure) -> Layer {
    let mut layer = Layer {
        spatial: template.spatial,
        temporal: template.temporal,
        // No switching point, unless a target says so.
        switch_from: 1,
        switch_to: 0,
        discardable: indications.all_discardable(),
        ..Layer::default()
    };
    for (index, target) in structure.targets.iter().enumerate() {
        let indication = indications.of(index);
        // A.7: who can decode this frame may go on with the target. Who has had its temporal layer can.
        if indication == Indication::Switch && target.spatial == template.spatial {
            (layer.switch_from, layer.switch_to) = (template.temporal, layer.switch_to.max(target.temporal));
        }
    }
    layer
}
