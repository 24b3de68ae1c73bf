//! Where models run: the CPU, or a GPU that `DENOSCOPE_DEVICE` names.

use crate::error::{Error, Result};
use candle_core::Device;

/// The variable that names a device.
const VARIABLE: &str = "DENOSCOPE_DEVICE";

/// The device that `DENOSCOPE_DEVICE` names: `cpu`, `cuda` or `cuda:` and a number. Without the variable, the first GPU if
/// the library was built for CUDA and there is one, else the CPU.
///
/// # Errors
/// Another name; a GPU that is not there, or in a build without CUDA.
pub fn chosen() -> Result<Device> {
    match std::env::var(VARIABLE) {
        Ok(name) => named(&name),
        Err(_) => Ok(Device::cuda_if_available(0)?),
    }
}

/// The device of a name: `cpu`, `cuda` or `cuda:` and a number.
///
/// # Errors
/// As [`chosen`].
pub fn named(name: &str) -> Result<Device> {
    let number = match name.trim().split_once(':') {
        None if name.trim() == "cpu" => return Ok(Device::Cpu),
        None if name.trim() == "cuda" => Some(0),
        Some(("cuda", number)) => number.parse::<usize>().ok(),
        _ => None,
    };
    let Some(number) = number else {
        return Err(Error::invalid(format!("device {name:?}: expected cpu, cuda or cuda: and a number")));
    };
    if !cfg!(feature = "cuda") {
        return Err(Error::invalid(format!("device {name:?}: this library was built without the feature cuda")));
    }
    Device::new_cuda(number).map_err(|e| Error::invalid(format!("device {name:?}: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_have_names() {
        assert!(named("cpu").unwrap().is_cpu());
        for wrong in ["gpu", "cuda:", "cuda:one", "metal:0", ""] {
            let refused = named(wrong).unwrap_err().to_string();
            assert!(refused.contains(&format!("{wrong:?}")) && refused.contains("expected cpu, cuda"), "{refused}");
        }
        if !cfg!(feature = "cuda") {
            assert!(named("cuda:1").unwrap_err().to_string().contains("without the feature cuda"));
        }
    }
}
