//! The largest pre-activations, without a sort.
//!
//! They are found by halving an interval around the threshold above which they lie: no sort of the tensor library's takes rows
//! of several thousand numbers on CUDA.

use crate::error::Result;
use candle_core::{DType, Tensor};

/// Halvings of the interval of a threshold. From the greatest pre-activation down, this tells neighbouring numbers of single
/// precision apart that are 2⁻¹² of it or more.
const HALVINGS: usize = 36;

/// Which pre-activations become codes: the largest positive ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Selection {
    /// `k` of every token.
    Token(usize),
    /// `k` times the tokens, of the whole batch.
    Batch(usize),
}

impl Selection {
    /// 1 where a pre-activation of `p[tokens, latents]` becomes a code, else 0.
    pub(super) fn mask(self, p: &Tensor) -> Result<Tensor> {
        let above = |t: &Tensor| -> Result<Tensor> { Ok(p.broadcast_gt(t)?.to_dtype(DType::F32)?) };
        let count = |t: &Tensor| -> Result<Tensor> {
            let of_tokens = above(t)?.sum_keepdim(1)?;
            Ok(match self {
                Self::Token(_) => of_tokens,
                Self::Batch(_) => of_tokens.sum_keepdim(0)?,
            })
        };
        let greatest = p.max_keepdim(1)?;
        let (most, mut high) = match self {
            Self::Token(k) => (k, greatest),
            Self::Batch(k) => (k * p.dim(0)?, greatest.max_keepdim(0)?),
        };
        let zero = high.zeros_like()?;
        high = high.maximum(&zero)?;
        let (few, mut low) = (count(&zero)?.le(most as f64)?, zero.clone());
        for _ in 0..HALVINGS {
            let middle = ((&low + &high)? * 0.5)?;
            let few = count(&middle)?.le(most as f64)?;
            (high, low) = (few.where_cond(&middle, &high)?, few.where_cond(&low, &middle)?);
        }
        // Where no more are positive than may be, all of them.
        above(&few.where_cond(&zero, &high)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn a_mask_holds_the_largest_positive() {
        let p: [[f32; 5]; 3] = [[3.0, 1e-3, -1.0, 2.0, 2.5], [-1.0, -2.0, 0.0, -0.5, 1e-6], [5.0, 4.0, 3.0, 2.0, 1.0]];
        let p = Tensor::new(&p, &Device::Cpu).unwrap();
        let mask = |s: Selection| s.mask(&p).unwrap().to_vec2::<f32>().unwrap();
        let expected = [[1.0, 0.0, 0.0, 0.0, 1.0], [0.0, 0.0, 0.0, 0.0, 1.0], [1.0, 1.0, 0.0, 0.0, 0.0]];
        assert_eq!(mask(Selection::Token(2)), expected);
        // Six of the whole: 5, 4, 3, 3, 2.5 and one of the two 2s, which are as many as six only without both.
        let six = mask(Selection::Batch(2));
        assert_eq!(six, [[1.0, 0.0, 0.0, 0.0, 1.0], [0.0; 5], [1.0, 1.0, 1.0, 0.0, 0.0]]);
        assert_eq!(mask(Selection::Batch(3)).iter().flatten().sum::<f32>(), 9.0);
        assert_eq!(mask(Selection::Token(5))[0], [1.0, 1.0, 0.0, 1.0, 1.0]);
    }
}
