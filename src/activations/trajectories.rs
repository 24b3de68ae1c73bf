//! Trajectories: what the same tokens are at several denoising steps, one after another.

use super::{Activations, Description, Item, Rows, Store};
use crate::diffusion::hook::{Half, Kind, Site};
use crate::error::{Error, Result};
use crate::random::stream;
use half::{bf16, f16};
use safetensors::Dtype;
use safetensors::tensor::Metadata;
use std::fmt::Display;
use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The activations of one place at several steps: for every token of every item `steps` rows of `d` numbers.
///
/// Step 0 is the noisiest that was chosen. Nothing is read before it is asked for, and one item at a time.
///
/// ```
/// use denoscope::activations::Trajectories;
///
/// // Two items of a 1×2 grid with three channels, at four steps.
/// let data: Vec<f32> = (0..2 * 4 * 2 * 3).map(|v| v as f32).collect();
/// let trajectories = Trajectories::from_vec((1, 2), 4, 3, data)?;
/// assert_eq!((trajectories.len(), trajectories.tokens(), trajectories.steps(), trajectories.d()), (2, 4, 4, 3));
/// // Item 1, token 0: its rows at the four steps, one behind another.
/// assert_eq!(trajectories.item(1)?[..6], [24.0, 25.0, 26.0, 30.0, 31.0, 32.0]);
/// # Ok::<(), denoscope::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Trajectories {
    steps: Vec<Activations>,
}

/// No header of an array file comes near this size; a larger one is a damaged file.
const LARGEST_HEADER: u64 = 1 << 24;

impl Store {
    /// The trajectories over the steps that are nearest to these values of t (1 = noise, 0 = the last step).
    ///
    /// # Errors
    /// If such a step was not kept, or if more than one site or half is left to choose from.
    pub fn trajectories(&self, t: impl AsRef<[f64]>) -> Result<Trajectories> {
        Trajectories::join(t.as_ref().iter().map(|&t| self.stage(t)).collect::<Result<_>>()?)
    }

    /// The trajectories over these steps, counted from the noisiest.
    ///
    /// # Errors
    /// As [`trajectories`](Self::trajectories).
    pub fn trajectories_at(&self, steps: impl AsRef<[usize]>) -> Result<Trajectories> {
        Trajectories::join(steps.as_ref().iter().map(|&step| self.step(step)).collect::<Result<_>>()?)
    }
}

impl Trajectories {
    /// The trajectories that activations of one place at rising steps make.
    ///
    /// # Errors
    /// If there are none, or they differ in model, place, half, items, grid or channels, or their steps do not rise.
    pub fn join(steps: Vec<Activations>) -> Result<Self> {
        let Some(first) = steps.first() else { return Err(Error::invalid("trajectories: no step given")) };
        let refuse = |what: &str, a: String, b: String| {
            Err(Error::invalid(format!("trajectories: {what} {a} and {b} in one trajectory")))
        };
        for pair in steps.windows(2) {
            let (a, b) = (pair[0].about(), pair[1].about());
            if (&a.model, &a.fingerprint) != (&b.model, &b.fingerprint) {
                let name = |d: &Description| format!("{} {}", d.model, d.fingerprint);
                return refuse("models", name(a), name(b));
            }
            if a.site != b.site {
                return refuse("places", a.site.to_string(), b.site.to_string());
            }
            if a.half != b.half {
                return refuse("halves", a.half.to_string(), b.half.to_string());
            }
            if (a.grid, a.d) != (b.grid, b.d) {
                let shape = |d: &Description| format!("{}×{}×{}", d.grid.0, d.grid.1, d.d);
                return refuse("shapes", shape(a), shape(b));
            }
            if a.step >= b.step || a.steps != b.steps {
                let step = |d: &Description| format!("{} of {}", d.step, d.steps);
                return refuse("steps that do not rise:", step(a), step(b));
            }
        }
        if let Some(other) = steps.iter().find(|s| s.items() != first.items()) {
            return refuse("items of", first.to_string(), other.to_string());
        }
        Ok(Self { steps })
    }

    /// Trajectories in memory, with no model behind them: `data` is `[items, steps, h·w, d]`.
    ///
    /// # Errors
    /// If the length of `data` is not a multiple of an item's size, or a value is not finite.
    pub fn from_vec(grid: (usize, usize), steps: usize, d: usize, data: Vec<f32>) -> Result<Self> {
        let block = grid.0 * grid.1 * d;
        let size = steps * block;
        if size == 0 || data.is_empty() || !data.len().is_multiple_of(size) {
            return Err(Error::invalid(format!(
                "trajectories: {} numbers do not divide into items of {steps} steps of {}×{} tokens of {d} channels",
                data.len(),
                grid.0,
                grid.1
            )));
        }
        let items = numbered(data.len() / size);
        let step = |s: usize| {
            let rows = data.chunks_exact(size).flat_map(|item| &item[s * block..(s + 1) * block]).copied().collect();
            Activations::described(nowhere("memory", s, steps, grid, d), items.to_vec(), rows)
        };
        Self::join((0..steps).map(step).collect::<Result<_>>()?)
    }

    /// The trajectories of a safetensors file with one array `[items, steps, d]`, of any process that has steps:
    /// `tensor` names it where the file holds several. It stays on disk; rows are read when they are asked for.
    ///
    /// # Errors
    /// If the file is no whole safetensors file, there is no such tensor, or it has another number of dimensions or
    /// another type than F16, BF16, F32 or F64.
    pub fn open(path: impl AsRef<Path>, tensor: Option<&str>) -> Result<Self> {
        let array = Array::open(path.as_ref(), tensor)?;
        let [n, steps, d] = array.shape;
        let (array, items) = (Arc::new(array), Arc::new(numbered(n)));
        let step = |step: usize| {
            let about = nowhere(&array.name, step, steps, (1, 1), d);
            Activations::derived(about, items.clone(), Arc::new(ArrayStep { array: array.clone(), step }))
        };
        Self::join((0..steps).map(step).collect())
    }

    /// Number of items.
    #[must_use]
    pub fn len(&self) -> usize {
        self.steps[0].len()
    }

    /// Whether there is no item.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.steps[0].is_empty()
    }

    /// Steps of a trajectory.
    #[must_use]
    pub fn steps(&self) -> usize {
        self.steps.len()
    }

    /// Channels of a token at one step.
    #[must_use]
    pub fn d(&self) -> usize {
        self.steps[0].d()
    }

    /// Height and width of the grid of tokens.
    #[must_use]
    pub fn grid(&self) -> (usize, usize) {
        self.steps[0].grid()
    }

    /// Tokens of one item: h·w.
    #[must_use]
    pub fn tokens_per_item(&self) -> usize {
        self.steps[0].tokens_per_item()
    }

    /// Tokens of all items: as many trajectories there are.
    #[must_use]
    pub fn tokens(&self) -> usize {
        self.steps[0].tokens()
    }

    /// The prompt and seed of every item.
    #[must_use]
    pub fn items(&self) -> &[Item] {
        self.steps[0].items()
    }

    /// Where and when the activations of every step were taken.
    #[must_use]
    pub fn about(&self) -> Vec<Description> {
        self.steps.iter().map(|s| s.about().clone()).collect()
    }

    /// The activations of one step of the trajectories.
    ///
    /// # Panics
    /// If there is no such step.
    #[must_use]
    pub fn step(&self, i: usize) -> &Activations {
        &self.steps[i]
    }

    /// The same trajectories, restricted to `range` of their items.
    ///
    /// # Errors
    /// If the range does not lie within the items.
    pub fn range(&self, range: Range<usize>) -> Result<Self> {
        Ok(Self { steps: self.steps.iter().map(|s| s.range(range.clone())).collect::<Result<_>>()? })
    }

    /// The trajectories of item `i`: `[h·w, steps, d]`.
    ///
    /// # Errors
    /// If there is no such item, or it cannot be read or holds a value that is not finite.
    pub fn item(&self, i: usize) -> Result<Vec<f32>> {
        let (d, steps) = (self.d(), self.steps());
        let mut out = vec![0.0; self.tokens_per_item() * steps * d];
        for (s, step) in self.steps.iter().enumerate() {
            let rows = step.item(i)?;
            for (to, from) in out.chunks_exact_mut(steps * d).zip(rows.chunks_exact(d)) {
                to[s * d..(s + 1) * d].copy_from_slice(from);
            }
        }
        Ok(out)
    }

    /// The same trajectories of a random `share` of the tokens of every item (at least one), drawn with `seed` (TIDE,
    /// section 5.2, samples 1/16: neighbouring tokens tell the same). Their grid is `1 × n`.
    ///
    /// # Errors
    /// If the share is not above 0 and at most 1.
    pub fn sampled(&self, share: f64, seed: u64) -> Result<Self> {
        if !(share > 0.0 && share <= 1.0) {
            return Err(Error::invalid(format!("a share of {share} of the tokens: expected above 0, at most 1")));
        }
        if share == 1.0 {
            return Ok(self.clone());
        }
        let tokens = ((self.tokens_per_item() as f64 * share).round() as usize).max(1);
        let sampled = |step: &Activations| {
            let about = Description { grid: (1, tokens), ..step.about().clone() };
            let items = Arc::new(step.items().to_vec());
            Activations::derived(about, items, Arc::new(Sampled { of: step.clone(), tokens, seed }))
        };
        Ok(Self { steps: self.steps.iter().map(sampled).collect() })
    }

    /// Refuses to be put before what was made for trajectories of another model, place, half or steps.
    pub(crate) fn same_place(&self, wanted: &[Description]) -> Result<()> {
        for (found, wanted) in self.steps.iter().map(Activations::about).zip(wanted) {
            // What comes from no model has no place to compare.
            if found.fingerprint.is_empty() || wanted.fingerprint.is_empty() {
                continue;
            }
            let differ = |what: &str, found: &dyn Display, wanted: &dyn Display| {
                Err(Error::invalid(format!("{self}: {what} {found}, what is applied to them is for {wanted}")))
            };
            if found.fingerprint != wanted.fingerprint {
                let name = |d: &Description| format!("{} {}", d.model, d.fingerprint);
                return differ("model", &name(found), &name(wanted));
            }
            if found.site != wanted.site {
                return differ("place", &found.site, &wanted.site);
            }
            if found.half != wanted.half {
                return differ("half", &found.half, &wanted.half);
            }
            if (found.step, found.steps) != (wanted.step, wanted.steps) {
                let step = |d: &Description| format!("{} of {}", d.step, d.steps);
                return differ("step", &step(found), &step(wanted));
            }
        }
        Ok(())
    }

    /// What a notebook shows: the description in one line.
    pub fn evcxr_display(&self) {
        println!("{self}");
    }
}

impl Display for Trajectories {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let about = self.steps[0].about();
        let (h, w) = about.grid;
        let t: Vec<String> = self.steps.iter().map(|s| format!("{:.2}", s.about().t())).collect();
        write!(
            f,
            "{} {} {} {h}×{w}×{} at t = {}: {} items",
            about.model,
            about.site,
            about.half,
            about.d,
            t.join(", "),
            self.len()
        )
    }
}

/// The two steps around progress `t` and how far it is from the first to the second; `times` is the progress of every
/// step and falls. Beyond the ends both are the nearest.
pub(crate) fn around(times: &[f64], t: f64) -> (usize, usize, f64) {
    let last = times.len() - 1;
    match times.iter().position(|own| *own <= t) {
        Some(0) => (0, 0, 0.0),
        Some(n) => (n - 1, n, (times[n - 1] - t) / (times[n - 1] - times[n])),
        None => (last, last, 0.0),
    }
}

/// Items that come from no prompt.
fn numbered(n: usize) -> Vec<Item> {
    (0..n).map(|i| Item { prompt: String::new(), seed: i as u64 }).collect()
}

/// The description of activations that come from no model.
fn nowhere(module: &str, step: usize, steps: usize, grid: (usize, usize), d: usize) -> Description {
    Description {
        model: "none".into(),
        fingerprint: String::new(),
        site: Site::new(module, Kind::Output),
        step,
        steps,
        half: Half::Conditional,
        guidance: 1.0,
        grid,
        d,
    }
}

/// Some tokens of every item; the same ones at every step.
#[derive(Debug)]
struct Sampled {
    of: Activations,
    tokens: usize,
    seed: u64,
}

impl Rows for Sampled {
    fn item(&self, i: usize) -> Result<Vec<f32>> {
        let (d, all) = (self.of.d(), self.of.item(i)?);
        let mut chosen = stream(self.seed, "sampled tokens", i as u64).permutation(self.of.tokens_per_item());
        chosen.truncate(self.tokens);
        chosen.sort_unstable();
        Ok(chosen.into_iter().flat_map(|t| &all[t * d..(t + 1) * d]).copied().collect())
    }
}

/// An array `[items, steps, d]` on disk.
#[derive(Debug)]
struct Array {
    path: PathBuf,
    name: String,
    file: File,
    /// Where its numbers start.
    start: u64,
    dtype: Dtype,
    shape: [usize; 3],
}

impl Array {
    fn open(path: &Path, tensor: Option<&str>) -> Result<Self> {
        let mut file = File::open(path).map_err(Error::file(path))?;
        let found = file.metadata().map_err(Error::file(path))?.len();
        let truncated = |_| Error::format(path, format!("truncated: {found} bytes hold no safetensors header"));
        let mut bytes = vec![0; 8];
        file.read_exact(&mut bytes).map_err(truncated)?;
        let length = bytes.iter().rev().fold(0u64, |n, &b| n << 8 | u64::from(b));
        if length > LARGEST_HEADER {
            let problem = format!("no safetensors file: a header of {length} bytes, at most {LARGEST_HEADER} expected");
            return Err(Error::format(path, problem));
        }
        bytes.resize(length as usize, 0);
        file.read_exact(&mut bytes).map_err(truncated)?;
        let header: Metadata =
            serde_json::from_slice(&bytes).map_err(|e| Error::format(path, format!("damaged header: {e}")))?;
        let mut names: Vec<String> = header.tensors().into_keys().collect();
        names.sort();
        let name = match (tensor, &names[..]) {
            (Some(name), _) => name,
            (None, [one]) => one,
            _ => return Err(Error::format(path, format!("holds {}: say which tensor", names.join(", ")))),
        };
        let info = header.info(name).ok_or_else(|| Error::unknown("tensor in the file", name, &names))?;
        let shape: [usize; 3] =
            info.shape.clone().try_into().map_err(|shape| {
                Error::format(path, format!("{name} of shape {shape:?}, expected [items, steps, d]"))
            })?;
        if shape.contains(&0) {
            return Err(Error::format(path, format!("{name} of shape {shape:?}: empty")));
        }
        if !matches!(info.dtype, Dtype::F16 | Dtype::BF16 | Dtype::F32 | Dtype::F64) {
            return Err(Error::format(path, format!("{name} of {:?}, expected F16, BF16, F32 or F64", info.dtype)));
        }
        let (start, end) = (8 + length + info.data_offsets.0 as u64, 8 + length + info.data_offsets.1 as u64);
        if found < end {
            return Err(Error::format(path, format!("truncated: {found} bytes, {name} ends at {end}")));
        }
        let (dtype, name) = (info.dtype, name.to_string());
        Ok(Self { path: path.into(), name, file, start, dtype, shape })
    }

    /// The row of `item` at `step`.
    fn row(&self, item: usize, step: usize) -> Result<Vec<f32>> {
        let [_, steps, d] = self.shape;
        let width = match self.dtype {
            Dtype::F64 => 8,
            Dtype::F32 => 4,
            _ => 2,
        };
        let mut bytes = vec![0u8; d * width];
        let at = self.start + ((item * steps + step) * d * width) as u64;
        self.file.read_exact_at(&mut bytes, at).map_err(Error::file(&self.path))?;
        let row: Vec<f32> = match self.dtype {
            Dtype::F32 => bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
            Dtype::F64 => bytes.as_chunks().0.iter().map(|b| f64::from_le_bytes(*b) as f32).collect(),
            Dtype::F16 => bytes.as_chunks().0.iter().map(|b| f16::from_le_bytes(*b).to_f32()).collect(),
            _ => bytes.as_chunks().0.iter().map(|b| bf16::from_le_bytes(*b).to_f32()).collect(),
        };
        match row.iter().position(|v| !v.is_finite()) {
            None => Ok(row),
            Some(c) => {
                let problem = format!("{}: {} at item {item}, step {step}, channel {c}", self.name, row[c]);
                Err(Error::format(&self.path, format!("{problem}: expected finite numbers")))
            }
        }
    }
}

/// One step of an array on disk.
#[derive(Debug)]
struct ArrayStep {
    array: Arc<Array>,
    step: usize,
}

impl Rows for ArrayStep {
    fn item(&self, i: usize) -> Result<Vec<f32>> {
        self.array.row(i, self.step)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use safetensors::tensor::TensorView;

    fn refusal<T>(result: Result<T>) -> String {
        result.err().expect("should be refused").to_string()
    }

    fn write(path: &Path, tensors: &[(&str, Dtype, &[usize], &[u8])]) {
        let views: Vec<_> =
            tensors.iter().map(|(n, t, s, b)| (*n, TensorView::new(*t, s.to_vec(), b).unwrap())).collect();
        safetensors::serialize_to_file(views, None, path).unwrap();
    }

    #[test]
    fn an_array_on_disk_reads_as_it_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("paths.safetensors");
        let values: Vec<f32> = (0..5 * 3 * 2).map(|v| v as f32 - 7.0).collect();
        let f32s: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let f64s: Vec<u8> = values.iter().flat_map(|v| f64::from(*v).to_le_bytes()).collect();
        let f16s: Vec<u8> = values.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes()).collect();
        let bf16s: Vec<u8> = values.iter().flat_map(|v| bf16::from_f32(*v).to_le_bytes()).collect();
        let shape = [5, 3, 2];
        write(
            &path,
            &[
                ("a", Dtype::F32, &shape, &f32s),
                ("b", Dtype::F64, &shape, &f64s),
                ("c", Dtype::F16, &shape, &f16s),
                ("d", Dtype::BF16, &shape, &bf16s),
                ("flat", Dtype::F32, &[15, 2], &f32s),
                ("whole", Dtype::U16, &shape, &f16s),
            ],
        );
        for name in ["a", "b", "c", "d"] {
            let read = Trajectories::open(&path, Some(name)).unwrap();
            assert_eq!((read.len(), read.steps(), read.d(), read.tokens()), (5, 3, 2, 5));
            assert_eq!(read.item(3).unwrap(), values[18..24], "{name}");
            assert_eq!(read.range(2..5).unwrap().step(2).item(1).unwrap(), values[22..24]);
            let mut all: Vec<f32> = read.step(1).batches(2, 0).unwrap().flat_map(|b| b.unwrap()).collect();
            all.sort_by(f32::total_cmp);
            let mut expected: Vec<f32> = (0..5).flat_map(|i| &values[i * 6 + 2..i * 6 + 4]).copied().collect();
            expected.sort_by(f32::total_cmp);
            assert_eq!(all, expected, "{name}");
        }
        assert!(refusal(Trajectories::open(&path, None)).contains("a, b, c, d, flat, whole: say which"));
        assert!(refusal(Trajectories::open(&path, Some("flat"))).contains("[15, 2], expected [items, steps, d]"));
        assert!(refusal(Trajectories::open(&path, Some("whole"))).contains("U16"));
        assert!(refusal(Trajectories::open(&path, Some("e"))).contains("no tensor in the file named \"e\""));
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() - 3]).unwrap();
        assert!(refusal(Trajectories::open(&path, Some("whole"))).contains("paths.safetensors"));
        std::fs::write(&path, &bytes[..5]).unwrap();
        assert!(refusal(Trajectories::open(&path, None)).contains("truncated: 5 bytes"));
    }

    #[test]
    fn a_number_that_is_not_finite_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("paths.safetensors");
        let mut values = [0f32; 12];
        values[7] = f32::NAN;
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        write(&path, &[("x", Dtype::F32, &[2, 3, 2], &bytes)]);
        let read = Trajectories::open(&path, None).unwrap();
        assert!(read.item(0).is_ok());
        assert!(refusal(read.item(1)).contains("x: NaN at item 1, step 0, channel 1"), "{}", refusal(read.item(1)));
        assert!(refusal(Trajectories::from_vec((1, 1), 3, 2, values.to_vec())).contains("NaN"));
    }

    #[test]
    fn steps_of_different_things_make_no_trajectory() {
        let all = Trajectories::from_vec((1, 2), 3, 2, (0..36).map(|v| v as f32).collect()).unwrap();
        let steps: Vec<Activations> = (0..3).map(|s| all.step(s).clone()).collect();
        assert!(refusal(Trajectories::join(vec![])).contains("no step"));
        assert!(refusal(Trajectories::join(vec![steps[1].clone(), steps[0].clone()])).contains("1 of 3 and 0 of 3"));
        let part = steps[2].range(0..2).unwrap();
        assert!(refusal(Trajectories::join(vec![steps[0].clone(), part])).contains("items of"));
        let mut elsewhere = steps[2].clone();
        elsewhere.about.site.module = "mid".into();
        assert!(refusal(Trajectories::join(vec![steps[0].clone(), elsewhere])).contains("mid:output"));
        assert!(refusal(Trajectories::from_vec((2, 2), 3, 2, vec![0.0; 25])).contains("25 numbers"));
    }

    #[test]
    fn a_sample_has_its_share_of_every_item_at_the_same_tokens() {
        // Token and item can be read off a number; the step is a sign.
        let data: Vec<f32> = (0..40)
            .flat_map(|i| [1.0, -1.0].into_iter().flat_map(move |s| (0..64).map(move |t| s * (i * 64 + t) as f32)))
            .collect();
        let all = Trajectories::from_vec((8, 8), 2, 1, data).unwrap();
        let some = all.sampled(1.0 / 16.0, 3).unwrap();
        assert_eq!((some.tokens_per_item(), some.tokens(), some.len()), (4, 160, 40));
        let mut places = [0; 64];
        for i in 0..40 {
            for pair in some.item(i).unwrap().chunks_exact(2) {
                assert_eq!(pair[0], -pair[1]);
                assert_eq!(pair[0] as usize / 64, i);
                places[pair[0] as usize % 64] += 1;
            }
        }
        assert!(places.iter().filter(|n| **n > 0).count() > 50, "other tokens in other items: {places:?}");
        assert_eq!(some.item(7).unwrap(), all.sampled(1.0 / 16.0, 3).unwrap().item(7).unwrap());
        assert_ne!(some.item(7).unwrap(), all.sampled(1.0 / 16.0, 4).unwrap().item(7).unwrap());
        assert_eq!(all.sampled(1.0, 0).unwrap().item(2).unwrap(), all.item(2).unwrap());
        assert!(refusal(all.sampled(0.0, 0)).contains("share of 0"));
    }
}
