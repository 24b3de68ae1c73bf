use super::*;
use crate::activations::Activations;
use crate::concepts::{LabelledMask, Survey, Vocabulary};
use crate::random::stream;
use crate::sae::Sae;
use crate::scene::Mask;
use serde_json::Value;

fn part(html: &str, id: &str) -> String {
    let start = html.find(&format!("id=\"{id}\">")).unwrap() + id.len() + 6;
    html[start..start + html[start..].find("</script>").unwrap()].to_string()
}

/// Twelve pictures on a 4 × 6 grid with 5 channels.
fn activations() -> Activations {
    Activations::from_vec((4, 6), 5, stream(1, "explorer", 0).normals(12 * 24 * 5)).unwrap()
}

#[test]
fn records_hold_what_the_survey_found() {
    let (sae, activations) = (Sae::random(5, 40, 3, 1).unwrap(), activations());
    let survey = Survey::new().examples(2).neighbours(3).build(&sae, &activations, &[]).unwrap();
    let tree = |_: usize| vec![LabelledMask::new(Vocabulary::Class, "tree", Mask::from_fn(6, 4, |x, _| x < 4))];
    let masks: Vec<_> = (0..12).map(tree).collect();
    let dictionary = crate::concepts::Labelling::new().iou(0.05).build(&sae, &activations, &masks).unwrap();
    let explorer = Explorer::new(&survey).dictionary(&dictionary).prompts(["</script><b>"; 12]);
    let html = explorer.pictures(|i| Ok(RgbImage::from_pixel(80, 80, image::Rgb([i as u8 * 9; 3])))).to_html().unwrap();
    let data: Value = serde_json::from_str(&part(&html, "data")).unwrap();
    assert!(!html.contains("</script><b>"), "a prompt cannot end the script");
    let records = part(&html, "records");
    let chars = data["chars"].as_u64().unwrap() as usize;
    assert_eq!(records.len(), 40 * chars);
    let mut checked = 0;
    for (latent, found) in survey.latents.iter().enumerate() {
        let bytes = BASE64.decode(&records[latent * chars..(latent + 1) * chars]).unwrap();
        let u16_at = |i: usize| u16::from_le_bytes([bytes[i], bytes[i + 1]]);
        // Two pictures, the bins, one mean, three neighbours.
        let near = 4 + BINS + 1;
        assert_eq!(usize::from(u16_at(near)), found.neighbours[0].0);
        let cosine = f32::from(bytes[near + 2]) / 127.5 - 1.0;
        assert!((cosine - found.neighbours[0].1).abs() < 0.005);
        assert_eq!(data["items"][latent].as_u64().unwrap() as usize, found.firing.items);
        let labels = data["labels"][latent].as_array().unwrap();
        assert_eq!(labels.len(), dictionary.concepts[latent].labels.len());
        if found.firing.items == 0 {
            assert_eq!(u16_at(0), NONE);
            continue;
        }
        // Every picture is somebody's: item i has place i of those that are used.
        assert_ne!(u16_at(0), NONE);
        let maps = near + 9 + WORDS * 3;
        let cell = |i: usize| (bytes[maps + i / 2] >> (4 * (i % 2))) & 15;
        for (i, v) in found.maps[0].iter().enumerate() {
            let expected = if *v > 0.0 { (v / found.firing.max * 15.0).round().max(1.0) as u8 } else { 0 };
            assert_eq!(cell(i), expected, "latent {latent} cell {i}");
        }
        checked += 1;
    }
    assert!(checked > 10);
    let sheets: Value = serde_json::from_str(&part(&html, "sheets")).unwrap();
    let sheet = sheets[0].as_str().unwrap().split_once("base64,").unwrap().1;
    let sheet = image::load_from_memory(&BASE64.decode(sheet).unwrap()).unwrap().to_rgb8();
    assert_eq!(sheet.width(), SHEET * SIDE);
    assert_eq!(data["names"], serde_json::json!([["tree", "class"]]));
}

#[test]
fn large_maps_keep_their_greatest_values() {
    // 4 × 2 onto 2 × 1: each block of 2 × 2 keeps its greatest.
    let map = vec![0.0, 1.0, 8.0, 0.0, 0.0, 0.0, 4.0, 0.0];
    assert_eq!(nibbles(Some(&map), (4, 2), (2, 1), 8.0), [15 | 8 << 4]);
    assert_eq!(nibbles(None, (4, 2), (2, 1), 8.0), [0]);
}

#[test]
fn what_does_not_fit_is_named() {
    let (sae, activations) = (Sae::random(5, 40, 3, 1).unwrap(), activations());
    let survey = Survey::new().build(&sae, &activations, &[]).unwrap();
    let other = Sae::random(5, 7, 3, 1).unwrap();
    let dictionary = Dictionary::build(&other, &activations, &vec![vec![]; 12]).unwrap();
    let e = Explorer::new(&survey).dictionary(&dictionary).to_html().unwrap_err().to_string();
    assert!(e.contains("[7]") && e.contains("[40]"), "{e}");
    let e = Explorer::new(&survey).pictures(|i| Err(Error::invalid(format!("no picture {i}")))).to_html();
    assert!(e.unwrap_err().to_string().contains("no picture 0"));
    assert!(Explorer::new(&survey).save("page.svg").unwrap_err().to_string().contains("page.svg"));
}

/// Writes the page of 5120 latents to look at: `EXPLORER_PAGE=file.html cargo test explorer -- --ignored`.
#[test]
#[ignore = "writes a page to look at into the file named by EXPLORER_PAGE"]
fn write_large_page() {
    let Ok(path) = std::env::var("EXPLORER_PAGE") else { return };
    use crate::scene::{Scene, Split};
    let (d, n) = (64, 1000);
    let sae = Sae::random(d, 5120, 10, 1).unwrap();
    let stage = |step: usize| {
        let items = (0..n)
            .map(|i| crate::activations::Item { prompt: Scene::sample(Split::Test, i).full_caption().text, seed: i });
        let items: Vec<_> = items.collect();
        let base = Activations::from_vec((1, 1), d, vec![0.0; d]).unwrap();
        let about = crate::activations::Description { step, steps: 50, grid: (16, 16), ..base.about().clone() };
        let mut data = Vec::with_capacity(n as usize * 256 * d);
        (0..n).for_each(|i| data.extend(stream(step as u64, "large page", i).normals(256 * d)));
        Activations::described(about, items, data).unwrap()
    };
    let stages = [stage(0), stage(24), stage(49)];
    let survey = Survey::new().build(&sae, &stages[1], &stages).unwrap();
    let masks: Vec<_> = (0..n)
        .map(|i| {
            let scene = Scene::sample(Split::Test, i);
            crate::concepts::truth::masks(&scene, &scene.render(), &[Vocabulary::Class, Vocabulary::Part])
        })
        .collect();
    let labels = crate::concepts::Labelling::new().iou(0.08).build(&sae, &stages[1], &masks).unwrap();
    let explorer = Explorer::new(&survey).dictionary(&labels).prompts(stages[0].items().iter().map(|i| &i.prompt));
    explorer.pictures(|i| Ok(Scene::sample(Split::Test, i as u64).render().image)).save(path).unwrap();
}
