//! Gradients of a network's training step.
//!
//! The tensor library's own backward pass begins every gradient with a tensor of zeros and adds to it, also where
//! there is but one thing to add; between fused layers that was over a third of a training step. While a [`Tape`]
//! exists on a thread, the operations of this module's siblings are noted on it instead of in the library's graph.
//! [`Tape::gradients`] walks the notes backwards: the first gradient of a tensor is moved, only further ones are
//! added, and what a note held is released as soon as it is done with.
//!
//! What is computed from noted tensors with the tensor library's own operations must go through [`composed`], else
//! no gradient passes through it. Without a tape all of these are ordinary operations of the library's graph.

use crate::error::Result;
use candle_core::{CustomOp1, CustomOp2, CustomOp3, D, Shape, Tensor, TensorId, Var};
use std::cell::RefCell;
use std::collections::{HashMap, HashSet};

/// Gradients of an operation's inputs from (inputs, output, gradient of the output).
type Backward = Box<dyn FnOnce(&[Tensor], &Tensor, &Tensor) -> candle_core::Result<Vec<Option<Tensor>>>>;

struct Note {
    inputs: Vec<Tensor>,
    output: Tensor,
    backward: Backward,
}

#[derive(Default)]
struct Notes {
    notes: Vec<Note>,
    /// Outputs of noted operations.
    noted: HashSet<TensorId>,
}

thread_local! {
    static NOTES: RefCell<Option<Notes>> = const { RefCell::new(None) };
}

/// Notes what the layers do on this thread, until it is dropped.
#[derive(Debug)]
pub(crate) struct Tape(());

impl Tape {
    /// Starts on an empty tape.
    pub(crate) fn new() -> Self {
        NOTES.set(Some(Notes::default()));
        Self(())
    }

    /// The gradients of a noted scalar with respect to variables, by their tensors' ids.
    pub(crate) fn gradients(self, of: &Tensor) -> Result<HashMap<TensorId, Tensor>> {
        let mut gradients = HashMap::from([(of.id(), of.ones_like()?)]);
        while let Some(note) = NOTES.with_borrow_mut(|n| n.as_mut().and_then(|n| n.notes.pop())) {
            let Some(gradient) = gradients.remove(&note.output.id()) else { continue };
            let found = (note.backward)(&note.inputs, &note.output, &gradient)?;
            for (input, gradient) in note.inputs.iter().zip(found) {
                let Some(gradient) = gradient.filter(|_| wants_gradient(input)) else { continue };
                let sum = match gradients.remove(&input.id()) {
                    Some(before) => (before + gradient)?,
                    None => gradient,
                };
                gradients.insert(input.id(), sum);
            }
        }
        Ok(gradients)
    }
}

impl Drop for Tape {
    fn drop(&mut self) {
        NOTES.set(None);
    }
}

/// Whether the gradient of a tensor is asked for: it is a variable, or was computed from one.
pub(super) fn wants_gradient(x: &Tensor) -> bool {
    x.track_op() || NOTES.with_borrow(|n| n.as_ref().is_some_and(|n| n.noted.contains(&x.id())))
}

/// Whether an operation on these is to be noted.
fn noting(inputs: &[&Tensor]) -> bool {
    NOTES.with_borrow(Option::is_some) && inputs.iter().any(|x| wants_gradient(x))
}

fn note(
    inputs: &[&Tensor],
    output: &Tensor,
    backward: impl FnOnce(&[Tensor], &Tensor, &Tensor) -> candle_core::Result<Vec<Option<Tensor>>> + 'static,
) {
    let inputs = inputs.iter().map(|x| (*x).clone()).collect();
    NOTES.with_borrow_mut(|notes| {
        let notes = notes.as_mut().expect("a tape on this thread");
        notes.noted.insert(output.id());
        notes.notes.push(Note { inputs, output: output.clone(), backward: Box::new(backward) });
    });
}

/// A fused operation of one tensor.
pub(super) fn apply1(x: &Tensor, op: impl CustomOp1 + Send + Sync + 'static) -> Result<Tensor> {
    if !noting(&[x]) {
        return Ok(x.apply_op1(op)?);
    }
    let y = x.apply_op1_no_bwd(&op)?;
    note(&[x], &y, move |x, y, dy| Ok(vec![op.bwd(&x[0], y, dy)?]));
    Ok(y)
}

/// A fused operation of two tensors.
pub(super) fn apply2(a: &Tensor, b: &Tensor, op: impl CustomOp2 + Send + Sync + 'static) -> Result<Tensor> {
    if !noting(&[a, b]) {
        return Ok(a.apply_op2(b, op)?);
    }
    let y = a.apply_op2_no_bwd(b, &op)?;
    note(&[a, b], &y, move |x, y, dy| op.bwd(&x[0], &x[1], y, dy).map(|(da, db)| vec![da, db]));
    Ok(y)
}

/// A fused operation of three tensors.
pub(super) fn apply3(a: &Tensor, b: &Tensor, c: &Tensor, op: impl CustomOp3 + Send + Sync + 'static) -> Result<Tensor> {
    if !noting(&[a, b, c]) {
        return Ok(a.apply_op3(b, c, op)?);
    }
    let y = a.apply_op3_no_bwd(b, c, &op)?;
    note(&[a, b, c], &y, move |x, y, dy| op.bwd(&x[0], &x[1], &x[2], y, dy).map(|(da, db, dc)| vec![da, db, dc]));
    Ok(y)
}

/// a + b of one shape.
///
/// # Errors
/// Tensors of different shapes.
pub fn add(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let y = (a + b)?;
    if !noting(&[a, b]) {
        return Ok(y);
    }
    let y = y.detach();
    note(&[a, b], &y, |_, _, dy| Ok(vec![Some(dy.clone()), Some(dy.clone())]));
    Ok(y)
}

/// The same numbers in another shape.
///
/// # Errors
/// A shape with another number of elements.
pub fn reshape(x: &Tensor, shape: impl Into<Shape>) -> Result<Tensor> {
    let y = x.reshape(shape.into())?;
    if !noting(&[x]) {
        return Ok(y);
    }
    let y = y.detach();
    note(&[x], &y, |x, _, dy| Ok(vec![Some(dy.reshape(x[0].shape())?)]));
    Ok(y)
}

/// Feature maps one after the other along the channels, the last dimension.
///
/// # Errors
/// Tensors that differ in another dimension.
pub fn concat(parts: &[&Tensor]) -> Result<Tensor> {
    let y = Tensor::cat(parts, D::Minus1)?;
    if !noting(parts) {
        return Ok(y);
    }
    let y = y.detach();
    note(parts, &y, |parts, _, dy| {
        let mut from = 0;
        let part = |x: &Tensor| {
            let width = x.dim(D::Minus1)?;
            let dx = dy.narrow(D::Minus1, from, width)?.contiguous()?;
            from += width;
            Ok(Some(dx))
        };
        parts.iter().map(part).collect()
    });
    Ok(y)
}

/// Anything made of the tensor library's own operations; `work` gets the inputs and must compute with those alone.
///
/// # Errors
/// Of `work`.
pub fn composed(inputs: &[&Tensor], work: impl FnOnce(&[Tensor]) -> Result<Tensor>) -> Result<Tensor> {
    if !noting(inputs) {
        return work(&inputs.iter().map(|x| (*x).clone()).collect::<Vec<_>>());
    }
    let leaf = |x: &&Tensor| -> Result<Tensor> {
        Ok(if wants_gradient(x) { Var::from_tensor(x)?.as_tensor().clone() } else { (*x).clone() })
    };
    let leaves = inputs.iter().map(leaf).collect::<Result<Vec<_>>>()?;
    let inner = work(&leaves)?;
    let y = inner.detach();
    note(inputs, &y, move |_, _, dy| {
        let mut gradients = (inner * dy)?.sum_all()?.backward()?;
        Ok(leaves.iter().map(|x| gradients.remove(x)).collect())
    });
    Ok(y)
}

/// For tests: the gradients of all variables by tape are those of the tensor library's graph, and reach all of them.
#[cfg(test)]
pub(crate) fn against_graph(vars: &[(String, Var)], loss: impl Fn() -> Result<Tensor>) {
    let expected = loss().unwrap().backward().unwrap();
    let tape = Tape::new();
    let total = loss().unwrap();
    let found = tape.gradients(&total).unwrap();
    let norm = |t: &Tensor| t.sqr().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap().sqrt();
    let largest = vars.iter().map(|(_, var)| norm(expected.get(var).unwrap())).fold(0.0, f32::max);
    for (name, var) in vars {
        let (found, expected) = (&found[&var.id()], expected.get(var).unwrap());
        // A key's bias has no effect, so that its gradient is rounding alone.
        let (size, error) = (norm(expected).max(1e-3 * largest), norm(&(found - expected).unwrap()));
        assert!(error <= 1e-5 * size, "{name}: gradients differ by {error}, norm {size}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    fn var(values: &[f32]) -> Var {
        Var::from_vec(values.to_vec(), (1, values.len()), &Device::Cpu).unwrap()
    }

    fn numbers(gradients: &HashMap<TensorId, Tensor>, of: &Var) -> Vec<f32> {
        gradients[&of.as_tensor().id()].flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn gradients_of_a_tensor_used_twice_are_added() {
        // Σ c · (a, b, a + b)², so that da = 2(c₁a + c₃(a + b)).
        let (a, b) = (var(&[1.0, -2.0]), var(&[0.5, 3.0]));
        let tape = Tape::new();
        let both = concat(&[&a, &b, &add(&a, &b).unwrap()]).unwrap();
        let flat = reshape(&both, 6).unwrap();
        let c = Tensor::new(&[1f32, 1.0, 2.0, 2.0, 3.0, 3.0], &Device::Cpu).unwrap();
        let total = composed(&[&flat, &c], |x| Ok((x[0].sqr()? * &x[1])?.sum_all()?)).unwrap();
        let gradients = tape.gradients(&total).unwrap();
        assert_eq!(numbers(&gradients, &a), [2.0 + 6.0 * 1.5, -4.0 + 6.0]);
        assert_eq!(numbers(&gradients, &b), [2.0 + 6.0 * 1.5, 12.0 + 6.0]);
    }

    #[test]
    fn without_a_tape_the_library_sees_the_whole_graph() {
        let (a, b) = (var(&[1.0, -2.0]), var(&[0.5, 3.0]));
        let both = reshape(&concat(&[&a, &add(&a, &b).unwrap()]).unwrap(), 4).unwrap();
        let total = composed(&[&both], |x| Ok(x[0].sqr()?.sum_all()?)).unwrap();
        let gradients = total.backward().unwrap();
        let da: Vec<f32> = gradients.get(&a).unwrap().flatten_all().unwrap().to_vec1().unwrap();
        assert_eq!(da, [2.0 + 3.0, -4.0 + 2.0]);
    }
}
