//! Forward passes at full size against diffusers on PyTorch, in turn in the same run.
//!
//! The models come from `python tests/golden/full_size.py make FOLDER` (random weights, real configurations):
//!
//! `cargo bench --profile dev --bench against_diffusers -- FOLDER PYTHON [CASE…]`
//!
//! A case takes one to three minutes on two quiet cores, and every round is told on standard error as it ends. Both sides compute on two threads; beside the time stands that of the processor, which hardly depends on what else
//! runs on the machine. What is recorded so far is in `benches/full_size.md`.

use candle_core::{DType, Device, Tensor};
use denoscope::Result;
use denoscope::diffusion::captions::Captions;
use denoscope::diffusion::dit::{Dit, DitConfig, MicroConditions};
use denoscope::diffusion::open::{Fields, component_weights};
use denoscope::diffusion::tap::Tap;
use denoscope::diffusion::unet::{Unet, UnetConfig};
use denoscope::diffusion::vae::{Vae, VaeConfig};
use denoscope::diffusion::weights::Weights;
use denoscope::error::Error;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

/// Rounds of one forward pass each; the median of the ratios counts.
const ROUNDS: usize = 5;

const CASES: [&str; 5] = ["sd14-unet", "sd14-vae-decode", "sd14-vae-encode", "pixart-one-block", "pixart-transformer"];

fn main() -> Result<()> {
    // Cargo adds an argument of its own.
    let args: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let [folder, python, cases @ ..] = &args[..] else {
        println!(
            "skipped: cargo bench --bench against_diffusers -- FOLDER PYTHON [CASE…], see tests/golden/full_size.py"
        );
        return Ok(());
    };
    rayon::ThreadPoolBuilder::new().num_threads(2).build_global().map_err(Error::invalid)?;
    println!("| case | time | diffusers | ratio | of all rounds | processor time | diffusers | ratio |");
    println!("|---|---|---|---|---|---|---|---|");
    for case in CASES.iter().filter(|c| cases.is_empty() || cases.iter().any(|a| a == *c)) {
        compare(Path::new(folder), python, case)?;
    }
    Ok(())
}

fn compare(root: &Path, python: &str, case: &str) -> Result<()> {
    let mut ours = network(root, case)?;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/full_size.py");
    let mut child = Command::new(python)
        .args([script.as_path(), Path::new("serve"), root, Path::new(case)])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(Error::file(python))?;
    let (mut ask, answers) = (child.stdin.take().expect("piped"), child.stdout.take().expect("piped"));
    let mut answers = BufReader::new(answers).lines();
    let mut answer = || -> Result<String> {
        answers.next().ok_or_else(|| Error::invalid("diffusers ended early"))?.map_err(Error::file(python))
    };
    answer()?; // ready
    let mut theirs = || -> Result<[f64; 2]> {
        writeln!(ask, "forward").map_err(Error::file(python))?;
        let times: Vec<f64> = answer()?.split(' ').filter_map(|t| t.parse().ok()).collect();
        times.try_into().map_err(|_| Error::invalid("diffusers answered something else than two times"))
    };
    // The first pass of each touches memory for the first time.
    ours()?;
    theirs()?;
    let mut times: [Vec<f64>; 6] = Default::default();
    for _ in 0..ROUNDS {
        let (start, used) = (Instant::now(), processor_time()?);
        ours()?;
        let found = [start.elapsed().as_secs_f64(), processor_time()? - used];
        let expected = theirs()?;
        let ratios = [found[0] / expected[0], found[1] / expected[1]];
        eprintln!(
            "{case}: {:.2} s, diffusers {:.2} s; processor {:.2} s, diffusers {:.2} s",
            found[0], expected[0], found[1], expected[1]
        );
        for (times, time) in times.iter_mut().zip([found, expected, ratios].concat()) {
            times.push(time);
        }
    }
    drop(ask);
    child.wait().map_err(Error::file(python))?;
    times.iter_mut().for_each(|t| t.sort_by(f64::total_cmp));
    let [wall, cpu, their_wall, their_cpu, wall_ratio, cpu_ratio] = times.each_ref().map(|t| t[ROUNDS / 2]);
    let spread = format!("{:.2}–{:.2}", times[4][0], times[4][ROUNDS - 1]);
    println!(
        "| {case} | {wall:.2} s | {their_wall:.2} s | {wall_ratio:.2} | {spread} | {cpu:.2} s | {their_cpu:.2} s | {cpu_ratio:.2} |"
    );
    Ok(())
}

/// Seconds of processor time that this process has used, in hundredths.
fn processor_time() -> Result<f64> {
    let path = "/proc/self/stat";
    let text = std::fs::read_to_string(path).map_err(Error::file(path))?;
    // Fields 14 and 15, user and system time, counted after the name in brackets.
    let fields = text.rsplit(')').next().unwrap_or_default().split_whitespace().skip(11).take(2);
    Ok(fields.filter_map(|f| f.parse::<f64>().ok()).sum::<f64>() / 100.0)
}

/// A forward pass on the case's inputs.
fn network(root: &Path, case: &str) -> Result<Box<dyn FnMut() -> Result<()>>> {
    let path = root.join(format!("{case}.inputs.safetensors"));
    let x = candle_core::safetensors::load(&path, &Device::Cpu)?;
    let x = move |name: &str| -> Result<Tensor> {
        x.get(name).cloned().ok_or_else(|| Error::format(&path, format!("no tensor {name}")))
    };
    let part = |model: &str, component: &str| -> Result<_> {
        let folder = root.join(model).join(component);
        Ok((folder.join("config.json"), Weights::open(&component_weights(&folder)?, &Device::Cpu, DType::F32)?))
    };
    let last = |x: Tensor| -> Result<Tensor> { Ok(x.permute((0, 2, 3, 1))?.contiguous()?) };
    match case {
        "sd14-unet" => {
            let (config, weights) = part("sd14", "unet")?;
            let unet = Unet::load(&UnetConfig::read(&config)?, &weights)?;
            let (sample, time, text) = (last(x("sample")?)?, x("timestep")?, x("encoder_hidden_states")?);
            Ok(Box::new(move || unet.forward(&sample, &time, &text, &mut Tap::none()).map(drop)))
        }
        "sd14-vae-decode" | "sd14-vae-encode" => {
            let (config, weights) = part("sd14-vae", "vae")?;
            let vae = Vae::load(&VaeConfig::read(&mut Fields::read(&config)?)?, &weights)?;
            if case == "sd14-vae-encode" {
                let sample = last(x("sample")?)?;
                return Ok(Box::new(move || vae.encode(&sample).map(drop)));
            }
            let latents = last(x("latents")?)?;
            Ok(Box::new(move || vae.decode(&latents).map(drop)))
        }
        _ => {
            let model = if case == "pixart-one-block" { "pixart-block" } else { "pixart" };
            let (config, weights) = part(model, "transformer")?;
            let dit = Dit::load(&DitConfig::open(&config)?, &weights)?;
            let (sample, time) = (last(x("sample")?)?, x("timestep")?);
            let captions = Captions::new(&x("encoder_hidden_states")?, Some(&x("encoder_attention_mask")?))?;
            let size = MicroConditions { resolution: x("resolution")?, aspect_ratio: x("aspect_ratio")? };
            Ok(Box::new(move || dit.forward(&sample, &time, &captions, Some(&size), &mut Tap::none()).map(drop)))
        }
    }
}
