//! The outline of a mask, along the edges of its pixels.

use std::collections::BTreeMap;

use crate::scene::Mask;

type Corner = (i32, i32);

/// The closed loops around the pixels of a mask, in pixel corners: (0, 0) is the top left corner of the
/// first pixel. Outer loops run clockwise, holes the other way; runs of equal direction are one side. The first corner
/// is repeated at the end.
pub(crate) fn trace(mask: &Mask) -> Vec<Vec<(f64, f64)>> {
    let (width, height) = (mask.width(), mask.height());
    let at =
        |x: i32, y: i32| x >= 0 && y >= 0 && x < width as i32 && y < height as i32 && mask.get(x as usize, y as usize);
    // Directed edges with the mask on the right; a corner where two pixels touch diagonally starts two of them.
    let mut next: BTreeMap<Corner, Vec<Corner>> = BTreeMap::new();
    for y in 0..height as i32 {
        for x in 0..width as i32 {
            if !at(x, y) {
                continue;
            }
            let sides = [
                (!at(x, y - 1), (x, y), (x + 1, y)),
                (!at(x + 1, y), (x + 1, y), (x + 1, y + 1)),
                (!at(x, y + 1), (x + 1, y + 1), (x, y + 1)),
                (!at(x - 1, y), (x, y + 1), (x, y)),
            ];
            for (_, from, to) in sides.into_iter().filter(|s| s.0) {
                next.entry(from).or_default().push(to);
            }
        }
    }
    let mut loops = Vec::new();
    while let Some((&start, _)) = next.first_key_value() {
        let mut corners = vec![start];
        let mut here = start;
        let mut heading = (0, 0);
        while let Some(ends) = next.get_mut(&here) {
            // At a touching corner turn right, so that the two pixels stay apart.
            let right = (here.0 - heading.1, here.1 + heading.0);
            let i = ends.iter().position(|e| *e == right).unwrap_or(0);
            let to = ends.swap_remove(i);
            if ends.is_empty() {
                next.remove(&here);
            }
            let turn = (to.0 - here.0, to.1 - here.1);
            if turn == heading {
                corners.pop();
            }
            corners.push(to);
            (here, heading) = (to, turn);
            if here == start {
                break;
            }
        }
        loops.push(corners.into_iter().map(|c| (f64::from(c.0), f64::from(c.1))).collect());
    }
    loops
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mask(rows: &[&str]) -> Mask {
        Mask::from_fn(rows[0].len(), rows.len(), |x, y| rows[y].as_bytes()[x] == b'#')
    }

    /// Signed area by the shoelace formula; positive is clockwise as y grows downwards.
    fn area(corners: &[(f64, f64)]) -> f64 {
        corners.windows(2).map(|w| w[0].0 * w[1].1 - w[1].0 * w[0].1).sum::<f64>() / 2.0
    }

    #[test]
    fn a_rectangle_has_four_sides() {
        let m = mask(&["....", ".##.", ".##."]);
        assert_eq!(trace(&m), [vec![(1.0, 1.0), (3.0, 1.0), (3.0, 3.0), (1.0, 3.0), (1.0, 1.0)]]);
    }

    #[test]
    fn loops_enclose_the_mask_and_leave_out_its_holes() {
        let m = mask(&["#####.", "#.#.#.", "#####.", "......", "##.#.#", "##..#."]);
        let loops = trace(&m);
        let total: f64 = loops.iter().map(|l| area(l)).sum();
        assert_eq!(total, m.area() as f64);
        assert_eq!(loops.iter().filter(|l| area(l) < 0.0).count(), 2, "two holes");
        assert!(loops.iter().all(|l| l.first() == l.last()));
    }

    #[test]
    fn an_empty_mask_has_no_outline() {
        assert!(trace(&Mask::new(3, 2)).is_empty());
    }
}
