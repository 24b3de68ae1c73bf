//! The one threshold that a BatchTopK SAE is saved with.

use denoscope::activations::Activations;
use denoscope::random::stream;
use denoscope::sae::{Architecture, BatchTopK, Matryoshka};

/// In a short training the running mean of thresholds is that of weights long gone; the budget is kept all the same.
#[test]
fn one_threshold_keeps_the_budget() {
    let activations = Activations::from_vec((4, 4), 16, stream(8, "noise", 0).normals(24 * 16 * 16)).unwrap();
    for (holdout, on) in [(0.25, "held out"), (0.0, "training")] {
        let batch = BatchTopK::new(6, 4).batch(100).epochs(60).holdout(holdout).train(&activations).unwrap();
        let nested = Matryoshka::new(6, 4).batch(100).epochs(60).holdout(holdout).train(&activations).unwrap();
        for trained in [batch, nested] {
            let quality = trained.held_out.as_ref().unwrap_or(&trained.training);
            assert!((quality.l0 - 4.0).abs() < 0.02, "{on}: {quality}");
            let said = &trained.facts["threshold"];
            let Architecture::JumpReLU { threshold } = &trained.architecture else { panic!("{}", trained.sae) };
            assert!((said["value"].as_f64().unwrap() - f64::from(threshold[0])).abs() < 1e-6, "{said}");
            assert_eq!(said["on"], on);
            assert_ne!(said["running_mean"], said["value"]);
        }
    }
}
