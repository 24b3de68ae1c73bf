//! What the builders accept, so that a notebook can hand over what it has.

use image::RgbImage;

/// A number of any primitive type, or a reference to one.
pub trait Number {
    /// The value as `f64`.
    fn to_f64(&self) -> f64;
}

macro_rules! numbers {
    ($($t:ty),*) => {$(
        impl Number for $t {
            #[allow(clippy::cast_lossless, clippy::cast_precision_loss)]
            fn to_f64(&self) -> f64 { *self as f64 }
        }
    )*};
}
numbers!(f32, f64, u8, u16, u32, u64, usize, i8, i16, i32, i64, isize);

impl<T: Number> Number for &T {
    fn to_f64(&self) -> f64 {
        (**self).to_f64()
    }
}

/// Anything one can walk through as numbers: vectors, slices, arrays, ranges of any primitive number type.
pub trait Numbers {
    /// The values, as owned `f64`.
    fn numbers(self) -> Vec<f64>;
}

impl<I> Numbers for I
where
    I: IntoIterator,
    I::Item: Number,
{
    fn numbers(self) -> Vec<f64> {
        self.into_iter().map(|v| v.to_f64()).collect()
    }
}

/// Something that holds an RGB picture.
pub trait AsImage {
    /// The picture.
    fn as_image(&self) -> &RgbImage;

    /// Which model made it and how, for the line below a figure; nothing if that is not known.
    fn origin(&self) -> Option<String> {
        None
    }
}

impl AsImage for RgbImage {
    fn as_image(&self) -> &RgbImage {
        self
    }
}

impl<T: AsImage> AsImage for &T {
    fn as_image(&self) -> &RgbImage {
        (**self).as_image()
    }

    fn origin(&self) -> Option<String> {
        (**self).origin()
    }
}

impl AsImage for crate::scene::Render {
    fn as_image(&self) -> &RgbImage {
        &self.image
    }
}

impl AsImage for crate::diffusion::pipeline::Picture {
    fn as_image(&self) -> &RgbImage {
        &self.image
    }

    fn origin(&self) -> Option<String> {
        let s = &self.settings;
        Some(format!("{}, {} steps, guidance {}", s.model, s.steps, s.guidance))
    }
}

/// Owned texts of anything that prints.
pub(crate) fn texts(items: impl IntoIterator<Item = impl ToString>) -> Vec<String> {
    items.into_iter().map(|t| t.to_string()).collect()
}
