//! What a latent edit does to the code of one token.

use serde::{Deserialize, Serialize};

/// The sparse code of a token: latent and activation, by rising latent.
pub(crate) type Code = Vec<(usize, f32)>;

/// A change of the code of a token, z → z′.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Change {
    /// z′_c = s z_c for the edit's latents.
    Scale(f32),
    /// z′_c = v_c for the edit's latents, active before or not.
    Set(Vec<f32>),
    /// z′_c = s z_c for the k largest of the token's own: 0 erases them, −1 inverts them.
    Top { k: usize, factor: f32 },
    /// z′ is another picture's code at the same place.
    Replace(Vec<Code>),
}

/// Whether the edited code keeps a norm (TIDE, equation 9: F̃ = F̂ ‖F‖ / ‖F̂‖).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Norm {
    /// z′ gets the norm of z, token by token: what is left of the code grows to fill the place of what was erased. An
    /// edit that leaves nothing of the code has nothing to scale. TIDE's.
    Code,
    /// Δ′ gets the norm of Δ, token by token.
    Activation,
    /// Nothing is scaled.
    Free,
}

/// What happens to e = Δ − x̂, the part of the activation that the SAE does not reconstruct.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ErrorTerm {
    /// It stays: Δ′ = Δ + Σ (z′ − z) f. The default.
    Kept,
    /// It is lost: Δ′ = Σ z′ f + b, a reconstruction in place of the activation, as an SAE put into the layer would do.
    Dropped,
}

impl Change {
    /// z′ of a token with code z; `latents` are the edit's.
    pub fn apply(&self, token: usize, code: &Code, latents: &[usize]) -> Code {
        match self {
            Change::Scale(factor) => scaled(code, *factor, |l| latents.contains(&l)),
            Change::Top { k, factor } => {
                let top = top(code, *k);
                scaled(code, *factor, |l| top.contains(&l))
            }
            Change::Set(values) => {
                let mut new: Code = code.iter().filter(|(l, _)| !latents.contains(l)).copied().collect();
                new.extend(latents.iter().copied().zip(values.iter().copied()).filter(|(_, v)| *v != 0.0));
                new.sort_by_key(|(l, _)| *l);
                new
            }
            Change::Replace(target) => target[token].clone(),
        }
    }
}

fn scaled(code: &Code, factor: f32, which: impl Fn(usize) -> bool) -> Code {
    code.iter().map(|&(l, v)| (l, if which(l) { v * factor } else { v })).filter(|(_, v)| *v != 0.0).collect()
}

/// The `k` latents of a code with the greatest activations; of equal ones the lower.
fn top(code: &Code, k: usize) -> Vec<usize> {
    let mut order = code.clone();
    order.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    order.truncate(k);
    order.into_iter().map(|(l, _)| l).collect()
}

/// ‖z‖.
pub(crate) fn code_norm(code: &Code) -> f64 {
    code.iter().map(|(_, v)| f64::from(*v).powi(2)).sum::<f64>().sqrt()
}

/// z′ with the norm of z; a code of zeros stays.
pub(crate) fn renormalised(mut new: Code, old: &Code) -> Code {
    let norm = code_norm(&new);
    if norm > 0.0 {
        let factor = code_norm(old) / norm;
        new.iter_mut().for_each(|(_, v)| *v = (f64::from(*v) * factor) as f32);
    }
    new
}

/// z′ − z, without what stayed.
pub(crate) fn difference(new: &Code, old: &Code) -> Code {
    let mut out = Code::new();
    let (mut a, mut b) = (new.iter().peekable(), old.iter().peekable());
    loop {
        let (latent, change) = match (a.peek(), b.peek()) {
            (Some(&&(x, v)), Some(&&(y, w))) if x == y => {
                a.next();
                b.next();
                (x, v - w)
            }
            (Some(&&(x, v)), Some(&&(y, _))) if x < y => {
                a.next();
                (x, v)
            }
            (_, Some(&&(y, w))) => {
                b.next();
                (y, -w)
            }
            (Some(&&(x, v)), None) => {
                a.next();
                (x, v)
            }
            (None, None) => return out,
        };
        if change != 0.0 {
            out.push((latent, change));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code() -> Code {
        vec![(1, 3.0), (4, 1.0), (6, 2.0), (7, 3.0)]
    }

    #[test]
    fn each_change_follows_its_formula() {
        let at = |change: Change, latents: &[usize]| change.apply(1, &code(), latents);
        assert_eq!(at(Change::Scale(2.0), &[4, 5]), [(1, 3.0), (4, 2.0), (6, 2.0), (7, 3.0)]);
        assert_eq!(at(Change::Scale(0.0), &[1, 7]), [(4, 1.0), (6, 2.0)]);
        assert_eq!(at(Change::Set(vec![0.5, 9.0, 0.0]), &[6, 2, 1]), [(2, 9.0), (4, 1.0), (6, 0.5), (7, 3.0)]);
        assert_eq!(at(Change::Top { k: 2, factor: -1.0 }, &[]), [(1, -3.0), (4, 1.0), (6, 2.0), (7, -3.0)]);
        assert_eq!(at(Change::Top { k: 1, factor: 0.0 }, &[]), [(4, 1.0), (6, 2.0), (7, 3.0)]);
        assert_eq!(at(Change::Replace(vec![vec![], vec![(0, 5.0)]]), &[]), [(0, 5.0)]);
    }

    #[test]
    fn the_norm_is_kept_and_differences_are_sparse() {
        let new = renormalised(vec![(4, 1.0)], &code());
        assert!((code_norm(&new) - code_norm(&code())).abs() < 1e-6);
        assert_eq!(renormalised(vec![], &code()), []);
        let change = difference(&vec![(0, 1.0), (1, 3.0), (6, 5.0), (9, 2.0)], &code());
        assert_eq!(change, [(0, 1.0), (4, -1.0), (6, 3.0), (7, -3.0), (9, 2.0)]);
        assert_eq!(difference(&code(), &code()), []);
    }
}
