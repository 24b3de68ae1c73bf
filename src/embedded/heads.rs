//! Linear read-outs with cross entropy where some answers are unknown: what pre-trains the text encoder, and what
//! its accuracy is measured with.

use crate::diffusion::layers::{Linear, composed, reshape};
use crate::diffusion::weights::Weights;
use crate::error::{Error, Result};
use candle_core::{D, Tensor};

/// Reads `items` questions with `options` answers each from a vector.
#[derive(Debug, Clone)]
pub struct Head {
    linear: Linear,
    items: usize,
    options: usize,
}

/// The right answers: `rows · items` of them, `None` where the question is not asked.
pub type Answers = Vec<Option<usize>>;

impl Head {
    /// Weights `[items·options, width]` under `weights`.
    ///
    /// # Errors
    /// A misshapen tensor.
    pub fn load(weights: &Weights, width: usize, items: usize, options: usize) -> Result<Self> {
        Ok(Self { linear: Linear::load(weights, width, items * options, true)?, items, options })
    }

    /// Logits `[rows, items, options]` of `x[rows, width]`.
    ///
    /// # Errors
    /// Of the tensor library.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let y = self.linear.forward(x)?;
        let rows = y.elem_count() / (self.items * self.options);
        reshape(&y, (rows, self.items, self.options))
    }

    /// Mean of −ln p(right answer) over the questions asked; 0 if there is none.
    ///
    /// # Errors
    /// Answers of another number than rows · items.
    pub fn loss(&self, x: &Tensor, answers: &Answers) -> Result<Tensor> {
        let logits = self.forward(x)?;
        cross_entropy(&logits, answers)
    }

    /// Right answers and questions asked.
    ///
    /// # Errors
    /// Answers of another number than rows · items.
    pub fn score(&self, x: &Tensor, answers: &Answers) -> Result<(usize, usize)> {
        let best = self.forward(x)?.argmax(D::Minus1)?.flatten_all()?.to_vec1::<u32>()?;
        check(best.len(), answers)?;
        let asked = answers.iter().zip(best).filter_map(|(a, b)| a.map(|a| a == b as usize));
        Ok(asked.fold((0, 0), |(right, all), ok| (right + usize::from(ok), all + 1)))
    }
}

fn check(rows: usize, answers: &Answers) -> Result<()> {
    if rows == answers.len() {
        return Ok(());
    }
    Err(Error::invalid(format!("{} answers to {rows} questions", answers.len())))
}

/// Mean of −ln softmax(logits)\[answer\] over rows with an answer; the last axis of `logits` holds the options.
///
/// # Errors
/// Answers of another number than rows.
pub fn cross_entropy(logits: &Tensor, answers: &Answers) -> Result<Tensor> {
    let options = logits.dim(D::Minus1)?;
    let rows = logits.elem_count() / options;
    check(rows, answers)?;
    let asked = answers.iter().flatten().count().max(1);
    let mut target = vec![0f32; rows * options];
    for (row, answer) in answers.iter().enumerate() {
        if let Some(answer) = answer {
            target[row * options + answer] = -1.0 / asked as f32;
        }
    }
    let target = Tensor::from_vec(target, (rows, options), logits.device())?;
    composed(&[logits], |logits| {
        let logits = logits[0].reshape((rows, options))?;
        let shifted = logits.broadcast_sub(&logits.max_keepdim(1)?.detach())?;
        let log_p = shifted.broadcast_sub(&shifted.exp()?.sum_keepdim(1)?.log()?)?;
        Ok((log_p * target)?.sum_all()?)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn cross_entropy_of_known_odds() {
        let logits = Tensor::new(&[[0f32, 0.0, 3f32.ln()], [50.0, 0.0, 0.0], [1.0, 2.0, 3.0]], &Device::Cpu).unwrap();
        let loss = cross_entropy(&logits, &vec![Some(2), Some(0), None]).unwrap().to_scalar::<f32>().unwrap();
        assert!((loss - 0.5 * (5f32 / 3.0).ln()).abs() < 1e-6, "{loss}");
        assert!(cross_entropy(&logits, &vec![None]).is_err());
    }
}
