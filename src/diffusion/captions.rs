//! Captions as a network reads them: what a text encoder made of prompts, computed here or beforehand.

use crate::error::{Error, Result};
use candle_core::{DType, Device, Tensor};
use std::path::Path;

/// The embeddings of some prompts.
#[derive(Debug, Clone)]
pub struct Captions {
    /// `[prompts, n, width]`.
    pub embeds: Tensor,
    /// `[prompts, n]`, 1 = a token, 0 = padding; where absent every position is looked at.
    pub mask: Option<Tensor>,
}

/// Captions of which no text encoder is needed any more.
///
/// In Python: `save_file({"prompt_embeds": …, "prompt_attention_mask": …, "negative_prompt_embeds": …,
/// "negative_prompt_attention_mask": …}, "captions.safetensors")` with what a pipeline's `encode_prompt` returns.
#[derive(Debug, Clone)]
pub struct Precomputed {
    /// One a prompt, or one for all.
    pub prompts: Captions,
    /// That of the negative prompt, one a prompt or one for all.
    pub negative: Option<Captions>,
}

impl Precomputed {
    /// Reads `prompt_embeds` and `prompt_attention_mask`, and the same with `negative_` before them if they are there,
    /// from a safetensors file.
    ///
    /// # Errors
    /// A file that cannot be read, a missing tensor, or shapes that do not fit.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let tensors = candle_core::safetensors::load(path, &Device::Cpu).map_err(|e| Error::format(path, e))?;
        let get = |name: &str| {
            let found = tensors.get(name).cloned();
            found.ok_or_else(|| Error::format(path, Error::unknown("tensor", name, tensors.keys())))
        };
        let read = |prefix: &str| -> Result<Captions> {
            let mask = get(&format!("{prefix}prompt_attention_mask"))?;
            Captions::new(&get(&format!("{prefix}prompt_embeds"))?, Some(&mask)).map_err(|e| Error::format(path, e))
        };
        let negative = tensors.contains_key("negative_prompt_embeds").then(|| read("negative_")).transpose()?;
        Ok(Self { prompts: read("")?, negative })
    }

    /// A digest of the numbers, to tell one set of captions from another.
    ///
    /// # Errors
    /// Of the tensor library.
    pub fn digest(&self) -> Result<String> {
        let mut bytes = Vec::new();
        for captions in [Some(&self.prompts), self.negative.as_ref()].into_iter().flatten() {
            for tensor in [Some(&captions.embeds), captions.mask.as_ref()].into_iter().flatten() {
                let values = tensor.flatten_all()?.to_dtype(DType::F32)?.to_vec1::<f32>()?;
                bytes.extend(values.into_iter().flat_map(f32::to_le_bytes));
            }
        }
        Ok(format!("{:016x}", crate::random::fnv1a(bytes)))
    }
}

impl Captions {
    /// Embeddings `[prompts, n, width]` and their mask `[prompts, n]`.
    ///
    /// # Errors
    /// Shapes that do not fit; a mask with other numbers than 0 and 1.
    pub fn new(embeds: &Tensor, mask: Option<&Tensor>) -> Result<Self> {
        let shape = |what: &str, found: &Tensor, expected: Vec<usize>| Error::Shape {
            what: what.into(),
            found: found.dims().into(),
            expected,
        };
        let [prompts, n, _] = *embeds.dims() else {
            return Err(shape("prompt_embeds [prompts, tokens, width]", embeds, vec![0; 3]));
        };
        let Some(mask) = mask else {
            return Ok(Self { embeds: embeds.to_dtype(DType::F32)?, mask: None });
        };
        if mask.dims() != [prompts, n] {
            return Err(shape("prompt_attention_mask", mask, vec![prompts, n]));
        }
        let mask = mask.to_dtype(DType::F32)?;
        if let Some(odd) = mask.flatten_all()?.to_vec1::<f32>()?.into_iter().find(|v| *v != 0.0 && *v != 1.0) {
            return Err(Error::invalid(format!("prompt_attention_mask holds {odd}, expected 0 and 1 only")));
        }
        Ok(Self { embeds: embeds.to_dtype(DType::F32)?, mask: Some(mask) })
    }

    /// How many prompts.
    #[must_use]
    pub fn len(&self) -> usize {
        self.embeds.dims()[0]
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Those of the prompts `from`..`from + n`; of a single caption, n copies.
    ///
    /// # Errors
    /// Prompts beyond the last.
    pub fn part(&self, from: usize, n: usize) -> Result<Self> {
        let part = |x: &Tensor| -> Result<Tensor> {
            if x.dim(0)? == 1 {
                let mut shape = x.dims().to_vec();
                shape[0] = n;
                return Ok(x.broadcast_as(shape)?.contiguous()?);
            }
            Ok(x.narrow(0, from, n)?)
        };
        Ok(Self { embeds: part(&self.embeds)?, mask: self.mask.as_ref().map(part).transpose()? })
    }

    /// These and then `others`; the shorter sequences are padded, which a mask hides.
    ///
    /// # Errors
    /// Captions of different widths, or of different lengths where one has no mask.
    pub fn and(&self, others: &Self) -> Result<Self> {
        let (n, m) = (self.embeds.dim(1)?, others.embeds.dim(1)?);
        if n == m && self.mask.is_none() && others.mask.is_none() {
            return Ok(Self { embeds: Tensor::cat(&[&self.embeds, &others.embeds], 0)?, mask: None });
        }
        let masks = [self, others].map(|captions| match &captions.mask {
            Some(mask) => Ok(mask.clone()),
            None if n == m => Ok(captions.embeds.narrow(2, 0, 1)?.ones_like()?.squeeze(2)?),
            None => Err(Error::invalid(format!("captions of {n} and {m} tokens do not go together without a mask"))),
        });
        let [mine, theirs] = masks;
        let pad = |x: &Tensor| x.pad_with_zeros(1, 0, n.max(m) - x.dim(1)?);
        let embeds = Tensor::cat(&[pad(&self.embeds)?, pad(&others.embeds)?], 0)?;
        Ok(Self { embeds, mask: Some(Tensor::cat(&[pad(&mine?)?, pad(&theirs?)?], 0)?) })
    }

    /// The same on a device.
    ///
    /// # Errors
    /// Of the tensor library.
    pub fn to_device(&self, device: &Device) -> Result<Self> {
        let mask = self.mask.as_ref().map(|m| m.to_device(device)).transpose()?;
        Ok(Self { embeds: self.embeds.to_device(device)?, mask })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    fn captions(lengths: &[usize], n: usize) -> Captions {
        let mask: Vec<f32> = lengths.iter().flat_map(|l| (0..n).map(move |i| f32::from(u8::from(i < *l)))).collect();
        let mask = Tensor::from_vec(mask, (lengths.len(), n), &Device::Cpu).unwrap();
        let embeds = Tensor::ones((lengths.len(), n, 2), DType::F32, &Device::Cpu).unwrap();
        Captions::new(&embeds, Some(&mask)).unwrap()
    }

    #[test]
    fn shorter_captions_are_padded_and_hidden() {
        let both = captions(&[2, 3], 3).and(&captions(&[5], 5)).unwrap();
        assert_eq!(both.embeds.dims(), [3, 5, 2]);
        let mask: Vec<Vec<f32>> = both.mask.as_ref().unwrap().to_vec2().unwrap();
        assert_eq!(mask, [[1., 1., 0., 0., 0.], [1., 1., 1., 0., 0.], [1., 1., 1., 1., 1.]]);
        let bare = Captions { mask: None, ..captions(&[3], 3) };
        assert!(bare.and(&captions(&[5], 5)).is_err());
        assert_eq!(bare.and(&captions(&[2], 3)).unwrap().mask.unwrap().to_vec2::<f32>().unwrap()[0], [1.0; 3]);
        assert_eq!(bare.part(3, 4).unwrap().len(), 4);
        assert_eq!(both.part(1, 2).unwrap().mask.unwrap().to_vec2::<f32>().unwrap()[0], [1., 1., 1., 0., 0.]);
    }

    #[test]
    fn files_are_read_and_faults_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("captions.safetensors");
        let c = captions(&[2, 3], 3);
        let mask = c.mask.clone().unwrap();
        let write = |tensors: &[(&str, &Tensor)]| {
            let map: HashMap<String, Tensor> = tensors.iter().map(|(n, t)| ((*n).into(), (*t).clone())).collect();
            candle_core::safetensors::save(&map, &path).unwrap();
        };
        let whole = mask.to_dtype(DType::I64).unwrap();
        write(&[("prompt_embeds", &c.embeds), ("prompt_attention_mask", &whole)]);
        let read = Precomputed::open(&path).unwrap();
        assert!(read.negative.is_none() && read.prompts.len() == 2);
        assert_eq!(read.prompts.mask.unwrap().to_vec2::<f32>().unwrap(), mask.to_vec2::<f32>().unwrap());
        write(&[("prompt_embeds", &c.embeds)]);
        assert!(Precomputed::open(&path).unwrap_err().to_string().contains("prompt_attention_mask"));
        write(&[("prompt_embeds", &c.embeds), ("prompt_attention_mask", &mask.narrow(1, 0, 2).unwrap())]);
        assert!(Precomputed::open(&path).unwrap_err().to_string().contains("[2, 2]"));
        write(&[("prompt_embeds", &c.embeds), ("prompt_attention_mask", &(mask * 2.0).unwrap())]);
        assert!(Precomputed::open(&path).unwrap_err().to_string().contains("holds 2"));
    }
}
