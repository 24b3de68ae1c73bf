//! Scene to picture and exact ground truth.
//!
//! Every sheet is a signed distance, so edges are anti-aliased, shadows soft and rims even without supersampling:
//! coverage = clamp(1/2 - d / edge width).

use super::background::ground;
use super::cutout::{self, Boxed, Paint, Piece};
use super::mask::Mask;
use super::sample::{Object, SIDE, Scene};
use super::shape::{mix, smooth, unit};
use super::style::{self, INK, Look, Noise};
use super::world::{Colour, Part, Style};
use image::{Rgb, RgbImage};

/// A rendered scene and everything that is known about its pixels. Maps are row-major, [`SIDE`] squared.
#[derive(Debug, Clone)]
pub struct Render {
    /// The picture, 64x64.
    pub image: RgbImage,
    /// What is known of each object, in the order of [`Scene::objects`].
    pub objects: Vec<ObjectTruth>,
    /// Distance from the eye: 1 at the furthest backdrop sheet, less for what stands above it.
    pub depth: Vec<f32>,
    /// Pixels darkened by at least half the full strength of a cast shadow (on the backdrop or on a farther object).
    pub shadow: Mask,
    /// 0 for the backdrop, 1 + class index.
    pub class_map: Vec<u8>,
    /// 0 where nothing carries a named colour, 1 + colour index where a part has it or a shade of it.
    pub colour_map: Vec<u8>,
    /// 0 for the backdrop, 1 + part index.
    pub part_map: Vec<u8>,
    /// 0 for the backdrop, 1 + index of the object.
    pub object_map: Vec<u8>,
}

/// Ground truth of one object.
#[derive(Debug, Clone)]
pub struct ObjectTruth {
    /// The object.
    pub object: Object,
    /// Its visible pixels.
    pub mask: Mask,
    /// The visible pixels of each of its parts; together they are `mask`.
    pub parts: Vec<(Part, Mask)>,
    /// The visible pixels painted with exactly the named colour.
    pub coloured: Mask,
}

/// How far the shadow of an object of height 1 falls, in pixels (light from the upper left).
const SHADOW_FALL: [f32; 2] = [7.5, 11.0];
/// Half width of the penumbra in pixels: at the backdrop, and more per height.
const PENUMBRA: (f32, f32) = (0.8, 4.5);
/// Shadows are this much larger per height.
const SHADOW_GROWTH: f32 = 0.12;
/// What full shadow multiplies the paint by, less the strength of the style: bluish.
const SHADOW_TINT: [f32; 3] = [0.0, 0.04, 0.16];
/// Depth between two sheets of an object.
const SHEET: f32 = 0.012;
/// Darkening and reach (pixels) of a sheet's crease on the sheet of the same object beneath.
const CREASE: (f32, f32) = (0.22, 2.2);
/// Pixels added to the reach of a piece before it is passed over: distances from ellipses are of first order only.
const SLACK: f32 = 1.0;

/// What is drawn in one cell.
#[derive(Debug, Clone, Copy)]
struct Cell {
    rgb: [f32; 3],
    depth: f32,
    /// Strength of the cast shadow, 0 to 1.
    shade: f32,
    /// 1 + index of the object, 0 for the backdrop.
    object: u8,
    /// 1 + index of the part, 0 for the backdrop.
    part: u8,
    /// None for the backdrop.
    paint: Option<Paint>,
}

/// Draw `scene`.
pub(crate) fn render(scene: &Scene) -> Render {
    let look = style::look(scene.style);
    let n = SIDE / look.cell;
    let mut canvas = Canvas::backdrop(scene, look, n);
    let mut order: Vec<usize> = (0..scene.objects.len()).collect();
    // From the lowest cut-out to the highest; the sort is stable.
    order.sort_by(|&a, &b| scene.objects[a].height.total_cmp(&scene.objects[b].height));
    for index in order {
        canvas.cast_shadow(&scene.objects[index]);
        canvas.paste(&scene.objects[index], index);
    }
    canvas.finish(scene)
}

struct Canvas {
    n: usize,
    look: Look,
    style: Style,
    cells: Vec<Cell>,
    /// Where each cell samples the world, in pixels: its centre plus the style's wobble.
    at: Vec<[f32; 2]>,
    mottle: Noise,
}

impl Canvas {
    fn backdrop(scene: &Scene, look: Look, n: usize) -> Canvas {
        let size = look.cell as f32;
        let seed = scene.texture;
        let wobble = [Noise::new(seed ^ 0x5bd1, 9.0), Noise::new(seed ^ 0xa3c7, 9.0)];
        let mut at = Vec::with_capacity(n * n);
        let mut cells = Vec::with_capacity(n * n);
        for j in 0..n {
            for i in 0..n {
                let (mut x, mut y) = ((i as f32 + 0.5) * size, (j as f32 + 0.5) * size);
                if look.wobble > 0.0 {
                    let (dx, dy) = (wobble[0].at(x, y), wobble[1].at(x, y));
                    x += look.wobble * dx;
                    y += look.wobble * dy;
                }
                let g = ground(scene.background, scene.phase, size > 1.0, [x, y]);
                let mut rgb = style::backdrop(scene.style, g.rgb, look.bleach);
                if look.ink {
                    rgb = mix(rgb, INK, 0.55 * smooth(1.4 - g.edge));
                }
                at.push([x, y]);
                cells.push(Cell { rgb, depth: g.depth, shade: 0.0, object: 0, part: 0, paint: None });
            }
        }
        Canvas { n, look, style: scene.style, cells, at, mottle: Noise::new(seed ^ 0x1f35, 11.0) }
    }

    /// Cells whose position can lie within `reach` pixels of the object's box moved by `offset`.
    fn window(&self, object: &Object, offset: [f32; 2], reach: f32) -> [std::ops::Range<usize>; 2] {
        let (low, high) = object.bounds();
        let size = self.look.cell as f32;
        let cut = |v: f32| (v / size).floor().clamp(0.0, self.n as f32) as usize;
        [0, 1].map(|axis| cut(low[axis] + offset[axis] - reach)..cut(high[axis] + offset[axis] + reach + size))
    }

    fn cast_shadow(&mut self, object: &Object) {
        let offset = SHADOW_FALL.map(|fall| fall * object.height);
        let soft = PENUMBRA.0 + PENUMBRA.1 * object.height;
        let scale = object.scale() * (1.0 + SHADOW_GROWTH * object.height);
        let hard = self.look.cell > 1;
        let pieces = Boxed::all(object.class, (soft + SLACK) / scale);
        let [xs, ys] = self.window(object, offset, soft + 3.0);
        for j in ys {
            for i in xs.clone() {
                let k = j * self.n + i;
                let p = object.local([self.at[k][0] - offset[0], self.at[k][1] - offset[1]], scale);
                let d = pieces
                    .iter()
                    .filter(|boxed| boxed.holds(p))
                    .fold(f32::MAX, |d, boxed| d.min(boxed.piece.distance(p)))
                    * scale;
                let mut dark = smooth(0.5 - d / (2.0 * soft));
                if hard {
                    // Few tones: none, half, full.
                    dark = (dark * 2.0 + 0.5).floor() * 0.5;
                }
                if dark > 0.0 {
                    let cell = &mut self.cells[k];
                    // Shadows of two objects do not add up beyond the darker one.
                    let (before, after) = (cell.shade, cell.shade.max(dark));
                    let strength = |dark: f32, c: usize| 1.0 - dark * self.look.shadow * (1.0 - SHADOW_TINT[c]);
                    for c in 0..3 {
                        cell.rgb[c] *= strength(after, c) / strength(before, c);
                    }
                    cell.shade = after;
                }
            }
        }
    }

    fn paste(&mut self, object: &Object, index: usize) {
        let scale = object.scale();
        let extent = cutout::extent(object.class);
        let tall = extent.high[1] - extent.low[1];
        let hard = self.look.edge == 0.0;
        let pieces = Boxed::all(object.class, (CREASE.1 + self.look.swell + SLACK) / scale);
        let [xs, ys] = self.window(object, [0.0; 2], 4.0);
        for j in ys {
            for i in xs.clone() {
                let k = j * self.n + i;
                let p = object.local(self.at[k], scale);
                // Light falls off from top to bottom of the cut-out.
                let down = ((p[1] - extent.low[1]) / tall).clamp(0.0, 1.0);
                let light = 1.05 - 0.12 * if hard { (2.0 * down).floor() * 0.5 } else { down };
                let mut own = false;
                for (layer, boxed) in pieces.iter().enumerate() {
                    if !boxed.holds(p) {
                        continue;
                    }
                    let piece = boxed.piece;
                    let d = piece.distance(p) * scale - self.look.swell;
                    let cell = &mut self.cells[k];
                    if d > 0.0 && d < CREASE.1 && own && !self.look.ink && !hard {
                        let crease = 1.0 - CREASE.0 * (1.0 - smooth(d / CREASE.1));
                        cell.rgb = cell.rgb.map(|v| v * crease);
                    }
                    let cover =
                        if hard { f32::from(u8::from(d <= 0.0)) } else { (0.5 - d / self.look.edge).clamp(0.0, 1.0) };
                    if cover > 0.0 {
                        let paint = self.look.paint(self.style, piece, object.colour, light, d);
                        cell.rgb = mix(cell.rgb, paint, cover);
                    }
                    if d <= 0.0 {
                        own = true;
                        cell.depth = 1.0 - object.height - SHEET * layer as f32;
                        cell.shade = 0.0;
                        cell.object = 1 + index as u8;
                        cell.part = 1 + piece.part.index() as u8;
                        cell.paint = Some(piece.paint);
                    }
                }
            }
        }
    }

    fn finish(self, scene: &Scene) -> Render {
        let (n, size) = (self.n, self.look.cell);
        let mottled = self.look.wobble > 0.0;
        let small: Vec<Rgb<u8>> = (0..n * n)
            .map(|k| {
                let (x, y) = (((k % n) as f32 + 0.5) * size as f32, ((k / n) as f32 + 0.5) * size as f32);
                let mottle = if mottled { self.mottle.at(x, y) } else { 0.0 };
                let rgb = style::finish(scene.style, self.cells[k].rgb, x, y, mottle);
                Rgb(rgb.map(|v| (v * 255.0 + 0.5).clamp(0.0, 255.0) as u8))
            })
            .collect();
        let mut truth = Render {
            image: RgbImage::new(SIDE as u32, SIDE as u32),
            objects: scene.objects.iter().map(ObjectTruth::new).collect(),
            depth: Vec::with_capacity(SIDE * SIDE),
            shadow: Mask::new(SIDE, SIDE),
            class_map: vec![0; SIDE * SIDE],
            colour_map: vec![0; SIDE * SIDE],
            part_map: vec![0; SIDE * SIDE],
            object_map: vec![0; SIDE * SIDE],
        };
        for y in 0..SIDE {
            for x in 0..SIDE {
                let (pixel, k) = (y * SIDE + x, y / size * n + x / size);
                let cell = &self.cells[k];
                truth.image.put_pixel(x as u32, y as u32, small[k]);
                truth.depth.push(cell.depth);
                truth.shadow.set(x, y, cell.shade >= 0.5);
                if let (Some(index), Some(paint)) = (usize::from(cell.object).checked_sub(1), cell.paint) {
                    let own = &mut truth.objects[index];
                    truth.class_map[pixel] = 1 + own.object.class.index() as u8;
                    truth.part_map[pixel] = cell.part;
                    truth.object_map[pixel] = cell.object;
                    if matches!(paint, Paint::Named | Paint::Shade) {
                        truth.colour_map[pixel] = 1 + own.object.colour.index() as u8;
                    }
                    own.mask.set(x, y, true);
                    own.coloured.set(x, y, paint == Paint::Named);
                    if let Some((_, mask)) = own.parts.iter_mut().find(|(p, _)| 1 + p.index() as u8 == cell.part) {
                        mask.set(x, y, true);
                    }
                }
            }
        }
        truth
    }
}

impl ObjectTruth {
    fn new(object: &Object) -> ObjectTruth {
        let empty = || Mask::new(SIDE, SIDE);
        let parts = object.class.parts().into_iter().map(|part| (part, empty())).collect();
        ObjectTruth { object: object.clone(), mask: empty(), parts, coloured: empty() }
    }
}

impl Look {
    /// The paint of a piece at signed distance `d` pixels from its edge.
    fn paint(&self, style: Style, piece: &Piece, colour: Colour, light: f32, d: f32) -> [f32; 3] {
        let named = unit(colour.rgb());
        let base = match piece.paint {
            Paint::Named => named,
            Paint::Shade => named.map(|v| v * 0.74),
            Paint::Tint if colour == Colour::White => [0.72, 0.74, 0.80],
            Paint::Tint => mix(named, [1.0, 0.98, 0.94], 0.82),
            Paint::Fixed(rgb) => unit(rgb),
            Paint::Glass => style::glass(style),
        };
        if self.ink {
            return mix(base, INK, smooth((d + self.rim + 0.7) / 1.4));
        }
        let lit = base.map(|v| v * light);
        let rim = smooth(d + self.rim + 0.5);
        let rim = if self.edge == 0.0 { (rim + 0.5).floor() } else { rim };
        let shaded = lit.map(|v| v * self.rim_shade);
        mix(lit, shaded, rim)
    }
}
