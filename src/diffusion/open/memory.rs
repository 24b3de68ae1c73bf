//! Whether weights fit into memory, asked before they are loaded.

use crate::diffusion::weights::Weights;
use crate::error::{Error, Result};

/// What a forward pass needs beside the weights, at most: measured at .35 to .85 GB at full size
/// (`benches/full_size.md`).
const WORK: u64 = 900_000_000;

/// Refuses weights that do not fit into what memory the system has left; says nothing where it does not tell.
///
/// # Errors
/// Names the components with what they need, and what there is.
pub fn check(what: &str, parts: &[(&str, &Weights)]) -> Result<()> {
    if parts.iter().any(|(_, weights)| !weights.device().is_cpu()) {
        return Ok(());
    }
    let sizes: Vec<(&str, u64)> = parts.iter().map(|(name, weights)| (*name, weights.size())).collect();
    let info = std::fs::read_to_string("/proc/meminfo").ok();
    match info.as_deref().and_then(available) {
        Some(available) => fits(what, &sizes, available),
        None => Ok(()),
    }
}

/// `MemAvailable` and free swap space of Linux's `/proc/meminfo`, in bytes.
fn available(info: &str) -> Option<u64> {
    let field = |name: &str| -> Option<u64> {
        let line = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
    };
    Some(field("MemAvailable")? + field("SwapFree").unwrap_or(0))
}

fn fits(what: &str, sizes: &[(&str, u64)], available: u64) -> Result<()> {
    let weights: u64 = sizes.iter().map(|(_, size)| size).sum();
    // A small model needs little to work in.
    let work = WORK.min(weights / 4);
    if weights + work <= available {
        return Ok(());
    }
    let gb = |bytes: u64| format!("{:.2} GB", bytes as f64 / 1e9);
    let parts: Vec<String> = sizes.iter().map(|(name, size)| format!("{name} {}", gb(*size))).collect();
    Err(Error::invalid(format!(
        "{what} does not fit into memory: its weights take {} ({}), work about {} more, and {} are available; free some, \
         or keep the weights in half precision (bf16), which takes half of it",
        gb(weights),
        parts.join(", "),
        gb(work),
        gb(available)
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device};

    #[test]
    fn what_the_system_says_is_read() {
        let info =
            "MemTotal:       24683892 kB\nMemFree:          812340 kB\nMemAvailable:   2000000 kB\nSwapFree:  500 kB\n";
        assert_eq!(available(info), Some(2_000_500 * 1024));
        assert_eq!(available("MemTotal: 1 kB\n"), None);
    }

    #[test]
    fn the_estimate_names_what_is_needed_and_what_there_is() {
        let sizes = [("unet", 3_440_000_000), ("vae", 330_000_000)];
        fits("sd", &sizes, 5_000_000_000).unwrap();
        let error = fits("sd", &sizes, 4_000_000_000).unwrap_err().to_string();
        for part in ["sd does", "3.77 GB", "unet 3.44 GB, vae 0.33 GB", "0.90 GB more", "4.00 GB are", "bf16"] {
            assert!(error.contains(part), "{error}");
        }
        fits("tiny", &[("unet", 1000)], 1250).unwrap();
    }

    /// A file that says it holds 32 TB, all of it a hole.
    #[test]
    fn a_model_larger_than_memory_is_refused_before_it_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        let (side, bytes) = (1_u64 << 21, 1_u64 << 43);
        let header =
            format!(r#"{{"weight": {{"dtype": "F16", "shape": [{side}, {side}], "data_offsets": [0, {bytes}]}}}}"#);
        std::fs::write(&path, [&(header.len() as u64).to_le_bytes(), header.as_bytes()].concat()).unwrap();
        let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
        if file.set_len(8 + header.len() as u64 + bytes).is_err() {
            // A file system without such files.
            return;
        }
        let open = |kept| Weights::open(std::slice::from_ref(&path), &Device::Cpu, kept).unwrap();
        assert_eq!(open(DType::F32).size(), 2 * bytes);
        assert_eq!(open(DType::BF16).size(), bytes);
        if cfg!(target_os = "linux") {
            let error = check("huge", &[("unet", &open(DType::F32))]).unwrap_err().to_string();
            assert!(error.contains("huge does not fit") && error.contains("unet 17592.19 GB"), "{error}");
        }
    }
}
