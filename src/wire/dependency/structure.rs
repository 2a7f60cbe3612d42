//! The template dependency structure (AV1 RTP specification, A.8): what the frames of a coded video sequence have in common, told
//! once with its key frame.

use arrayvec::ArrayVec;

use crate::limits::{DECODE_TARGETS, DEPENDENCY_CHAINS, FRAME_DEPENDENCIES, FRAME_TEMPLATES};
use crate::wire::bits::Bits;
use crate::wire::layer::LAYERS;

/// What a frame is to a decode target (A.8.3, table A.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Indication {
    NotPresent,
    /// The target has it, and none of its frames refers to it.
    Discardable,
    /// Who can decode this frame can decode all later ones of the target.
    Switch,
    Required,
}

/// The indications of one frame, two bits for each decode target, the first target lowest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Indications(pub(super) u64);

impl Indications {
    /// [`Indication::NotPresent`] for a decode target there is not.
    pub fn of(self, target: usize) -> Indication {
        match if target < DECODE_TARGETS { self.0 >> (2 * target) & 3 } else { 0 } {
            0 => Indication::NotPresent,
            1 => Indication::Discardable,
            2 => Indication::Switch,
            _ => Indication::Required,
        }
    }

    /// Some target has the frame, and to none it is more than discardable.
    pub fn all_discardable(self) -> bool {
        const UPPER_BITS: u64 = 0xaaaa_aaaa_aaaa_aaaa;
        self.0 != 0 && self.0 & UPPER_BITS == 0
    }

    pub(super) fn read(bits: &mut Bits, targets: usize) -> Option<Indications> {
        let mut packed = 0;
        for target in 0..targets {
            packed |= (bits.take(2)? as u64) << (2 * target);
        }
        Some(Indications(packed))
    }
}

/// A subset of the stream that can be decoded by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecodeTarget {
    pub spatial: u8,
    pub temporal: u8,
    /// The chain that protects it, if there are chains.
    pub chain: Option<u8>,
}

/// The layers of up to [`DESCRIBED_TARGETS`] decode targets: what has to be known of a structure to tell a receiver which of them it
/// is sent. Small enough to travel with a packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TargetLayers([u8; DESCRIBED_TARGETS]);

/// Decode targets whose layers travel with a packet.
pub const DESCRIBED_TARGETS: usize = 9;

impl TargetLayers {
    /// None if there are more targets than are kept.
    pub fn of(targets: &[DecodeTarget]) -> Option<TargetLayers> {
        let mut layers = [0xff; DESCRIBED_TARGETS];
        for (index, target) in targets.iter().enumerate() {
            *layers.get_mut(index)? = target.spatial << 4 | target.temporal;
        }
        Some(TargetLayers(layers))
    }

    /// Bitmask of the decode targets up to these limits: `active_decode_targets_bitmask` of a receiver that gets them.
    pub fn within(&self, spatial: u8, temporal: u8) -> u32 {
        let within = |layers: u8| layers != 0xff && layers >> 4 <= spatial && layers & 0xf <= temporal;
        self.0.iter().enumerate().filter(|(_, layers)| within(**layers)).fold(0, |mask, (index, _)| mask | 1 << index)
    }
}

/// What frames have in common that name this template.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Template {
    pub spatial: u8,
    pub temporal: u8,
    pub indications: Indications,
    /// Frame numbers back to the frames that it refers to.
    pub dependencies: ArrayVec<u8, FRAME_DEPENDENCIES>,
    /// For each chain, frame numbers back to its last frame; 0: this frame begins it.
    pub chains: ArrayVec<u8, DEPENDENCY_CHAINS>,
}

/// A structure, and the bits it was read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Structure {
    /// Id of the first template.
    pub(super) id_offset: u8,
    pub templates: ArrayVec<Template, FRAME_TEMPLATES>,
    pub targets: ArrayVec<DecodeTarget, DECODE_TARGETS>,
    /// Layers of the decode targets, unless there are too many.
    pub target_layers: Option<TargetLayers>,
    /// Largest width and height of each spatial layer; empty if not told.
    pub resolutions: ArrayVec<(u32, u32), LAYERS>,
    pub(super) bits: ArrayVec<u8, 256>,
    pub(super) bit_len: u16,
}

impl Structure {
    /// The template with this id.
    pub fn template(&self, id: u8) -> Option<&Template> {
        self.templates.get((id.wrapping_sub(self.id_offset) & 63) as usize)
    }

    /// All decode targets, which are active if a descriptor with a structure does not say otherwise (A.4).
    pub fn all_targets(&self) -> u32 {
        ((1u64 << self.targets.len()) - 1) as u32
    }

    /// template_dependency_structure() of A.8.2.
    pub(super) fn read(data: &[u8], bits: &mut Bits) -> Option<Structure> {
        let start = bits.at();
        let id_offset = bits.take(6)? as u8;
        let targets = bits.take(5)? as usize + 1;
        let mut templates = read_layers(bits)?;
        for template in &mut templates {
            template.indications = Indications::read(bits, targets)?;
        }
        for template in &mut templates {
            while bits.flag()? {
                template.dependencies.try_push(bits.take(4)? as u8 + 1).ok()?;
            }
        }
        let mut targets = decode_targets(&templates, targets);
        read_chains(bits, &mut templates, &mut targets)?;
        let mut resolutions = ArrayVec::new();
        if bits.flag()? {
            // Templates come in order of their spatial layers.
            for _ in 0..=templates.last()?.spatial {
                resolutions.try_push((bits.take(16)? + 1, bits.take(16)? + 1)).ok()?;
            }
        }
        let target_layers = TargetLayers::of(&targets);
        let mut structure =
            Structure { id_offset, templates, targets, target_layers, resolutions, bits: ArrayVec::new(), bit_len: 0 };
        structure.keep_bits(data, start, bits.at())?;
        Some(structure)
    }

    fn keep_bits(&mut self, data: &[u8], start: usize, end: usize) -> Option<()> {
        let mut bits = Bits::new(data, start);
        while bits.at() < end {
            let width = (end - bits.at()).min(8);
            self.bits.try_push((bits.take(width)? << (8 - width)) as u8).ok()?;
        }
        self.bit_len = (end - start) as u16;
        Some(())
    }
}

/// template_layers(): a template for each layer, or more.
fn read_layers(bits: &mut Bits) -> Option<ArrayVec<Template, FRAME_TEMPLATES>> {
    let mut templates: ArrayVec<Template, FRAME_TEMPLATES> = ArrayVec::new();
    let (mut spatial, mut temporal) = (0, 0);
    loop {
        templates.try_push(Template { spatial, temporal, ..Template::default() }).ok()?;
        match bits.take(2)? {
            0 => {}
            1 => temporal += 1,
            2 => (spatial, temporal) = (spatial + 1, 0),
            _ => return Some(templates),
        }
        if spatial as usize >= LAYERS || temporal as usize >= LAYERS {
            return None;
        }
    }
}

/// decode_target_layers(): a target is of the highest layers that its frames have.
fn decode_targets(templates: &[Template], count: usize) -> ArrayVec<DecodeTarget, DECODE_TARGETS> {
    let layers = |target: usize| {
        let of_target = templates.iter().filter(move |template| template.indications.of(target) != Indication::NotPresent);
        of_target.fold((0, 0), |(spatial, temporal), template| (template.spatial.max(spatial), template.temporal.max(temporal)))
    };
    let targets = (0..count).map(layers).map(|(spatial, temporal)| DecodeTarget { spatial, temporal, chain: None });
    targets.take(DECODE_TARGETS).collect()
}

/// template_chains().
fn read_chains(bits: &mut Bits, templates: &mut [Template], targets: &mut [DecodeTarget]) -> Option<()> {
    let chains = bits.below(targets.len() as u32 + 1)?;
    if chains == 0 {
        return Some(());
    }
    for target in targets {
        target.chain = Some(bits.below(chains)? as u8);
    }
    for template in templates {
        for _ in 0..chains {
            template.chains.try_push(bits.take(4)? as u8).ok()?;
        }
    }
    Some(())
}
