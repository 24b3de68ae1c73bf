//! The overlap of one item's activation maps with its masks, at grid or at mask resolution.

use super::label::LabelledMask;
use super::labeller::{Compare, Options, Scale};
use super::maps::Maps;
use crate::error::{Error, Result};

/// How much the map of a latent and a mask have in common.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Overlap {
    pub latent: u32,
    /// Which mask of the item.
    pub mask: u32,
    /// Cells or pixels in both.
    pub both: u32,
    /// Intersection over union.
    pub iou: f32,
}

/// Everything that one item adds to a dictionary.
#[derive(Debug, Default)]
pub(crate) struct ItemOverlaps {
    /// Pairs that touch, by latent and then by mask.
    pub pairs: Vec<Overlap>,
    /// Area of every active latent's thresholded map.
    pub areas: Vec<(u32, u32)>,
    /// Area of every mask.
    pub masks: Vec<u32>,
}

/// The masks of an item, ready for comparison.
enum Target {
    /// Sets of cells, or of pixels of a smooth enlargement, in words of 64.
    Bits(Vec<Vec<u64>>),
    /// Pixels of each mask in every cell, and pixels of a cell: the enlarged map is constant within a cell.
    Counts { masks: Vec<Vec<u32>>, cell: Vec<u32> },
}

/// Compares every active latent of `maps` with every one of `masks`.
pub(crate) fn overlaps(
    maps: &Maps,
    masks: &[LabelledMask],
    (height, width): (usize, usize),
    options: &Options,
) -> Result<ItemOverlaps> {
    let size = masks.first().map_or((height, width), |m| (m.mask.height(), m.mask.width()));
    if let Some(odd) = masks.iter().find(|m| (m.mask.height(), m.mask.width()) != size) {
        return Err(Error::Shape {
            what: format!("mask {} of an item whose first mask has another size", odd.label),
            found: vec![odd.mask.height(), odd.mask.width()],
            expected: vec![size.0, size.1],
        });
    }
    let target = match options.compare {
        Compare::Grid => Target::Bits(masks.iter().map(|m| words(m.mask.at_grid(height, width).iter())).collect()),
        Compare::Smooth => Target::Bits(masks.iter().map(|m| words(m.mask.iter())).collect()),
        Compare::Pixels => {
            let count = |mask: &dyn Fn(usize, usize) -> bool| {
                let mut cells = vec![0; height * width];
                for y in 0..size.0 {
                    for x in (0..size.1).filter(|&x| mask(x, y)) {
                        cells[y * height / size.0 * width + x * width / size.1] += 1;
                    }
                }
                cells
            };
            let masks = masks.iter().map(|m| count(&|x, y| m.mask.get(x, y))).collect();
            Target::Counts { masks, cell: count(&|_, _| true) }
        }
    };
    let mut out = ItemOverlaps {
        masks: match &target {
            Target::Bits(masks) => masks.iter().map(|m| ones(m)).collect(),
            Target::Counts { masks, .. } => masks.iter().map(|m| m.iter().sum()).collect(),
        },
        ..ItemOverlaps::default()
    };
    let smooth = matches!(options.compare, Compare::Smooth).then(|| Enlarge::new((height, width), size));
    let (mut cells, mut bits, mut dense) = (Vec::new(), Vec::new(), vec![0.0; height * width]);
    for n in 0..maps.active().len() {
        let (latent, tokens, values) = maps.nth(n);
        let max = values.iter().copied().fold(0.0, f32::max);
        // The least value of the whole map: 0 unless the latent fires on every token.
        let full = tokens.len() == maps.tokens();
        let min = match options.scale {
            Scale::MinMax if full => values.iter().copied().fold(f32::INFINITY, f32::min),
            Scale::MinMax | Scale::Max => 0.0,
        };
        if max <= min {
            continue; // a constant map has no shape under min–max scaling
        }
        let scaled = |v: f32| (v - min) / (max - min);
        if let Some(enlarge) = &smooth {
            dense.fill(0.0);
            tokens.iter().zip(values).for_each(|(&t, &v)| dense[t as usize] = scaled(v));
            enlarge.above(&dense, tokens, options.threshold, &mut bits);
        } else {
            cells.clear();
            let on = tokens.iter().zip(values).filter(|(_, v)| scaled(**v) > options.threshold);
            cells.extend(on.map(|(&t, _)| t));
        }
        let mut put = |mask: usize, both: u32, area: u32| {
            if both > 0 {
                let either = area + out.masks[mask] - both;
                let (latent, mask) = (latent as u32, mask as u32);
                out.pairs.push(Overlap { latent, mask, both, iou: both as f32 / either as f32 });
            }
        };
        let area = match &target {
            Target::Bits(masks) => {
                if smooth.is_none() {
                    bits.clear();
                    bits.resize((height * width).div_ceil(64), 0);
                    cells.iter().for_each(|&c| bits[c as usize / 64] |= 1 << (c % 64));
                }
                let area = ones(&bits);
                for (i, mask) in masks.iter().enumerate() {
                    put(i, bits.iter().zip(mask).map(|(a, b)| (a & b).count_ones()).sum(), area);
                }
                area
            }
            Target::Counts { masks, cell } => {
                let area = cells.iter().map(|&c| cell[c as usize]).sum();
                for (i, mask) in masks.iter().enumerate() {
                    put(i, cells.iter().map(|&c| mask[c as usize]).sum(), area);
                }
                area
            }
        };
        out.areas.push((latent as u32, area));
    }
    Ok(out)
}

fn words(bits: impl Iterator<Item = bool>) -> Vec<u64> {
    let mut words = Vec::new();
    for (i, bit) in bits.enumerate() {
        if i % 64 == 0 {
            words.push(0);
        }
        words[i / 64] |= u64::from(bit) << (i % 64);
    }
    words
}

fn ones(words: &[u64]) -> u32 {
    words.iter().map(|w| w.count_ones()).sum()
}

/// Bilinear enlargement from a grid to pixels, with pixel centres as PyTorch's `interpolate(align_corners=False)`.
struct Enlarge {
    from: (usize, usize),
    rows: Vec<(usize, usize, f32)>,
    columns: Vec<(usize, usize, f32)>,
}

impl Enlarge {
    fn new(from: (usize, usize), to: (usize, usize)) -> Self {
        let axis = |n: usize, m: usize| {
            let place = |i: usize| {
                let exact = ((i as f32 + 0.5) * (n as f32 / m as f32) - 0.5).max(0.0);
                let low = (exact as usize).min(n - 1);
                (low, (low + 1).min(n - 1), exact - low as f32)
            };
            (0..m).map(place).collect()
        };
        Self { from, rows: axis(from.0, to.0), columns: axis(from.1, to.1) }
    }

    /// The pixels at which the enlarged map exceeds `threshold`, as words of 64. The map is zero outside the `cells`;
    /// pixels that no cell reaches are not looked at.
    fn above(&self, map: &[f32], cells: &[u32], threshold: f32, bits: &mut Vec<u64>) {
        let (wide, width) = (self.columns.len(), self.from.1);
        let reach = |coordinate: &dyn Fn(usize) -> usize, axis: &[(usize, usize, f32)]| {
            let all = || cells.iter().map(|&c| coordinate(c as usize));
            let (low, high) = (all().min().unwrap_or(0), all().max().unwrap_or(0));
            (axis.partition_point(|p| p.1 < low), axis.partition_point(|p| p.0 <= high))
        };
        let (top, bottom) = reach(&|c| c / width, &self.rows);
        let (left, right) = reach(&|c| c % width, &self.columns);
        bits.clear();
        bits.resize((self.rows.len() * wide).div_ceil(64), 0);
        let mut lines = vec![0.0; 2 * wide];
        let mut held = None;
        for y in top..bottom {
            let (a, b, part) = self.rows[y];
            if held != Some((a, b)) {
                held = Some((a, b));
                for (line, y) in lines.chunks_exact_mut(wide).zip([a, b]) {
                    let row = &map[y * width..(y + 1) * width];
                    for (x, &(a, b, part)) in line[left..right].iter_mut().zip(&self.columns[left..right]) {
                        *x = row[a] * (1.0 - part) + row[b] * part;
                    }
                }
            }
            for x in left..right {
                let i = y * wide + x;
                let value = lines[x] * (1.0 - part) + lines[wide + x] * part;
                bits[i / 64] |= u64::from(value > threshold) << (i % 64);
            }
        }
    }
}
