use crate::support::golden;
use denoscope::diffusion::pipeline::Pipeline;
use serde::Deserialize;

#[derive(Deserialize)]
struct Case {
    prompt: String,
    seed: u64,
    steps: usize,
    guidance: f64,
}

/// The shipped model paints what Python diffusers painted from the same seed (see `compare_embedded.py`).
#[test]
fn the_embedded_model_paints_what_diffusers_paints() {
    let Ok(text) = std::fs::read_to_string(golden("embedded/cases.json")) else {
        eprintln!("no recorded pictures: run tests/golden/compare_embedded.py --write once the model is there");
        return;
    };
    let model = Pipeline::open("scene-unet").unwrap();
    let cases: Vec<Case> = serde_json::from_str(&text).unwrap();
    assert!(!cases.is_empty());
    for (i, case) in cases.iter().enumerate() {
        let expected = image::open(golden("embedded").join(format!("{i}.png"))).unwrap().to_rgb8();
        let picture =
            model.prompt(&case.prompt).seed(case.seed).steps(case.steps).guidance(case.guidance).run().unwrap().image;
        assert_eq!(picture.dimensions(), expected.dimensions());
        let pairs = picture.as_raw().iter().zip(expected.as_raw());
        let difference = pairs.map(|(a, b)| f64::from(a.abs_diff(*b))).sum::<f64>() / picture.as_raw().len() as f64;
        assert!(difference <= 1.0, "{:?}: {difference} grey levels apart", case.prompt);
    }
}
