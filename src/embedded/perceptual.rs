//! The embedded perceptual distance, in the role of LPIPS: the plain formula on features of the annotator's encoder.
//!
//! LPIPS needs a network that sees what people see in photographs; in the scene world the annotator is the network that
//! has learnt to see. Its three feature maps, from fine to coarse, are compared as
//! [`feature_distance`] does; nothing is fitted to people's judgements.

use crate::embedded::annotator::SceneAnnotator;
use crate::error::Result;
use crate::measure::perceptual::{Perceptual, feature_distance, in_passes};
use image::RgbImage;

/// Pairs of one pass.
const PASS: usize = 16;

/// The embedded perceptual distance.
///
/// ```
/// use denoscope::embedded::SceneDistance;
/// use denoscope::measure::Perceptual;
/// use denoscope::scene::{Scene, Split};
///
/// let distance = SceneDistance::open()?;
/// let [a, b] = [3, 4].map(|i| Scene::sample(Split::Test, i).render().image);
/// assert!(distance.distance(&a, &b)? > 0.0 && distance.distance(&a, &a)? == 0.0);
/// # Ok::<(), denoscope::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct SceneDistance {
    annotator: SceneAnnotator,
}

impl SceneDistance {
    /// The distance in the features of the annotator that comes with the library.
    ///
    /// # Errors
    /// As [`SceneAnnotator::open`].
    pub fn open() -> Result<Self> {
        Ok(Self::of(SceneAnnotator::open()?))
    }

    /// The distance in the features of this annotator.
    #[must_use]
    pub fn of(annotator: SceneAnnotator) -> Self {
        Self { annotator }
    }
}

impl Perceptual for SceneDistance {
    fn name(&self) -> &str {
        "embedded perceptual distance"
    }

    fn distances(&self, a: &[RgbImage], b: &[RgbImage]) -> Result<Vec<f64>> {
        in_passes(a, b, PASS, |a, b| {
            let features = |x: &[RgbImage]| self.annotator.features(&x.iter().collect::<Vec<_>>());
            let (a, b) = (features(a)?, features(b)?);
            let layers = [(&a.fine, &b.fine), (&a.middle, &b.middle), (&a.coarse, &b.coarse)];
            let layers = layers.map(|(a, b)| feature_distance(a, b, None)).into_iter().collect::<Result<Vec<_>>>()?;
            Ok((0..layers[0].len()).map(|i| layers.iter().map(|layer| layer[i]).sum()).collect())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::image::mse;
    use crate::scene::{Class, Colour, Scene, Split, Style};

    fn render(scene: &Scene) -> RgbImage {
        scene.render().image
    }

    #[test]
    fn equal_pictures_are_at_no_distance_and_order_does_not_matter() {
        let distance = SceneDistance::open().unwrap();
        let pictures: Vec<RgbImage> = (0..4).map(|i| render(&Scene::sample(Split::Test, i))).collect();
        assert!(distance.distances(&pictures, &pictures).unwrap().iter().all(|d| *d == 0.0));
        let [a, b] = [&pictures[..2], &pictures[2..]];
        let (there, back) = (distance.distances(a, b).unwrap(), distance.distances(b, a).unwrap());
        assert!(there.iter().zip(back).all(|(x, y)| (x - y).abs() < 1e-12 && *x > 0.0));
        let one = distance.distance(&a[1], &b[1]).unwrap();
        assert!((one - there[1]).abs() < 1e-6 * one, "{one} {there:?}");
    }

    /// A picture that is a little darker, or moved by a pixel, looks as before; an object of another colour or class does
    /// not. Squared errors of pixels get the first wrong in some 17 of 60 scenes.
    #[test]
    fn what_looks_alike_is_nearer_than_another_object() {
        let distance = SceneDistance::open().unwrap();
        let (mut right, mut misled, n) = ([0, 0], 0, 30);
        for i in 0..n {
            let scene = Scene { style: Style::Flat, ..Scene::sample(Split::Test, 3000 + i) };
            let before = render(&scene);
            let darker =
                RgbImage::from_fn(64, 64, |x, y| image::Rgb(before.get_pixel(x, y).0.map(|b| b.saturating_sub(14))));
            let moved = RgbImage::from_fn(64, 64, |x, y| *before.get_pixel(x.saturating_sub(1), y));
            let (mut recoloured, mut other) = (scene.clone(), scene.clone());
            recoloured.objects[0].colour = Colour::ALL[(scene.objects[0].colour.index() + 3) % Colour::COUNT];
            other.objects[0].class = Class::ALL[(scene.objects[0].class.index() + 5) % Class::COUNT];
            let pairs = [(darker, render(&recoloured)), (moved, render(&other))];
            for ((alike, unlike), right) in pairs.iter().zip(&mut right) {
                let [near, far] = [alike, unlike].map(|x| distance.distance(&before, x).unwrap());
                *right += usize::from(near < far);
            }
            misled += usize::from(mse(&before, &pairs[0].0).unwrap() > mse(&before, &pairs[0].1).unwrap());
        }
        assert!(right.iter().all(|r| *r as u64 >= n * 19 / 20), "{right:?} of {n}");
        assert!(misled >= 4, "squared errors were misled {misled} times");
    }

    #[test]
    fn what_cannot_be_compared_is_refused() {
        let distance = SceneDistance::open().unwrap();
        let e = distance.distance(&RgbImage::new(64, 60), &RgbImage::new(64, 60)).unwrap_err().to_string();
        assert!(e.contains("[1, 60, 64, 3]") && e.contains("multiples of 8"), "{e}");
        assert!(distance.distance(&RgbImage::new(64, 64), &RgbImage::new(64, 32)).is_err());
    }
}
