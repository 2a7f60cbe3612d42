//! Writes a received descriptor for one receiver: numbers shifted, decode targets as the receiver gets them, a structure added
//! where it needs one, and every other bit as it came.

use super::structure::{DESCRIBED_TARGETS, Structure, TargetLayers};
use crate::wire::bits::{BitWriter, Bits};

/// Bytes of a descriptor at most: what an element of a header extension holds (RFC 8285 §4.3).
pub const DESCRIPTOR_BYTES_MAX: usize = 255;

/// What travels with a packet that has a descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forwarding {
    pub layout: Layout,
    pub targets: TargetLayers,
    /// Bitmask of the decode targets that the publisher sends.
    pub active: u16,
}

const _: () = assert!(DESCRIBED_TARGETS <= u16::BITS as usize && size_of::<Forwarding>() <= 24);

impl Forwarding {
    /// Writes the descriptor for a receiver that numbers its frames and templates otherwise and, if there are `limits`, gets the spatial
    /// and temporal layers up to them; returns its length.
    pub fn write(
        &self,
        data: &[u8],
        frame_number: u16,
        template_id_shift: u8,
        limits: Option<(u8, u8)>,
        space: &mut [u8],
    ) -> Option<usize> {
        let active = limits.map(|(spatial, temporal)| self.targets.within(spatial, temporal) & self.active as u32);
        let rewrite = Rewrite { frame_number, template_id_shift, active_decode_targets: active, ..Rewrite::default() };
        write(data, &self.layout, &rewrite, space)
    }
}

/// Where things lie in a descriptor that was read. With it, a descriptor can be written without its structure at hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    pub frame_number: u16,
    /// A structure is attached.
    pub structure: bool,
    /// The decode targets that are active are told.
    pub active: bool,
    /// Decode targets of the structure it refers to: the width of their bitmask.
    pub targets: u8,
    /// Bits before the bitmask, or before where it would be.
    pub(super) active_at: u16,
    /// Bits without the padding at the end.
    pub(super) bits: u16,
}

/// What a receiver gets otherwise than it came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rewrite<'a> {
    pub frame_number: u16,
    /// Added to template ids, modulo 64, so that the templates of two sources have different ones (A.8.3, `template_id_offset`).
    pub template_id_shift: u8,
    /// Bitmask to tell. It holds until the next one (A.4), and a structure sets all bits of it: so a receiver that is not sent all
    /// targets is told in each packet with a structure or a bitmask of the publisher's, and whenever what it gets changes.
    pub active_decode_targets: Option<u32>,
    /// The structure that the descriptor refers to, to be attached; instead of the same one, if it has one.
    pub structure: Option<&'a Structure>,
}

/// Writes the descriptor `data`, of which `layout` was read, and returns its length; `None` if there is no room for it.
pub fn write(data: &[u8], layout: &Layout, rewrite: &Rewrite, space: &mut [u8]) -> Option<usize> {
    let space_len = space.len().min(DESCRIPTOR_BYTES_MAX);
    let mut writer = BitWriter::new(space.get_mut(..space_len)?);
    let mut bits = Bits::new(data, 0);
    // Mandatory fields: start and end of frame, template, frame number.
    writer.put(bits.take(2)?, 2)?;
    writer.put(bits.take(6)?.wrapping_add(rewrite.template_id_shift as u32), 6)?;
    bits.take(16)?;
    writer.put(rewrite.frame_number as u32, 16)?;
    // Three bytes say that there are no extended fields.
    let extended = data.len() > 3;
    if !extended && rewrite.active_decode_targets.is_none() && rewrite.structure.is_none() {
        return Some(writer.len());
    }
    let custom = if extended { bits.take(5)? & 0b111 } else { 0 };
    let attached = layout.structure || rewrite.structure.is_some();
    let active = layout.active || rewrite.active_decode_targets.is_some();
    writer.put((attached as u32) << 4 | (active as u32) << 3 | custom, 5)?;
    match rewrite.structure {
        Some(structure) => {
            let mut kept = Bits::new(&structure.bits, 0);
            copy_structure(&mut writer, &mut kept, structure.bit_len as usize, rewrite.template_id_shift)?;
        }
        None if layout.structure => copy_structure(&mut writer, &mut bits, layout.active_at as usize, rewrite.template_id_shift)?,
        None => {}
    }
    let width = layout.targets as usize;
    let active_end = layout.active_at as usize + if layout.active { width } else { 0 };
    match rewrite.active_decode_targets {
        Some(mask) => writer.put(mask, width)?,
        None if layout.active => writer.copy(&mut Bits::new(data, layout.active_at as usize), active_end)?,
        None => {}
    }
    // Custom indications, dependencies and chains.
    if extended {
        writer.copy(&mut Bits::new(data, active_end), layout.bits as usize)?;
    }
    Some(writer.len())
}

fn copy_structure(writer: &mut BitWriter, bits: &mut Bits, end: usize, template_id_shift: u8) -> Option<()> {
    writer.put(bits.take(6)?.wrapping_add(template_id_shift as u32), 6)?;
    writer.copy(bits, end)
}
