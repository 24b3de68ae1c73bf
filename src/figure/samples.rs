//! Pictures to look at: `FIGURE_SAMPLES=folder cargo test figure::samples -- --ignored` writes one of each kind.

use super::*;
use crate::scene::Mask;
use image::{Rgb, RgbImage};

/// A house on a meadow, roughly.
fn scene(i: u32) -> RgbImage {
    RgbImage::from_fn(64, 64, |x, y| {
        let house = (10 + 5 * i..30 + 5 * i).contains(&x) && (30..50).contains(&y);
        let sun = (i64::from(x) - 50).pow(2) + (i64::from(y) - 12).pow(2) < 49;
        Rgb(match (house, sun, y > 44) {
            (true, ..) => [190, 50, 40],
            (_, true, _) => [250, 220, 60],
            (_, _, true) => [70, 150, 60],
            _ => [140, 190, 240],
        })
    })
}

fn blob(i: u32) -> Vec<f32> {
    let (cx, cy) = (5.0 + 1.25 * i as f32, 10.0);
    (0..256)
        .map(|k| (-((k % 16) as f32 - cx).powi(2) / 6.0 - ((k / 16) as f32 - cy).powi(2) / 6.0).exp() * 8.0)
        .collect()
}

#[test]
#[ignore = "writes pictures to look at into the folder named by FIGURE_SAMPLES"]
fn write_samples() {
    let Ok(folder) = std::env::var("FIGURE_SAMPLES") else { return };
    let at = |name: &str| std::path::Path::new(&folder).join(name);
    let images: Vec<RgbImage> = (0..6).map(scene).collect();
    let maps: Vec<Vec<f32>> = (0..6).map(blob).collect();

    let steps: Vec<f64> = (0..60).map(|i| i as f64 * 50.0).collect();
    let curve =
        |rate: f64| steps.iter().map(|s| 0.9 * (1.0 - (-s * rate).exp()) + 0.02 * (s / 90.0).sin()).collect::<Vec<_>>();
    let shift = |v: &[f64], d: f64| v.iter().map(|y| y + d).collect::<Vec<_>>();
    let (a, b) = (curve(0.003), curve(0.0012));
    let line = Line::new("training step", "explained variance")
        .series("TopK, conditional", &steps, &a)
        .band(shift(&a, -0.05), shift(&a, 0.05))
        .series("TopK, unconditional", &steps, &b)
        .band(shift(&b, -0.08), shift(&b, 0.08))
        .reference(0.12, "random dictionary")
        .title("Explained variance while training, mid block, t = 0.5")
        .note("scene-unet, mid_block.attentions.0; mean of 5 seeds, band: 95 % bootstrap interval");
    line.save(at("line.svg")).unwrap();
    line.save(at("line.png")).unwrap();
    let log = Line::new("k (active latents per token)", "scaled MSE")
        .log_x()
        .log_y()
        .markers()
        .series("down", [5, 10, 20, 40, 80], [0.3, 0.2, 0.11, 0.06, 0.02])
        .series("mid", [5, 10, 20, 40, 80], [0.5, 0.3, f64::NAN, 0.09, 0.04])
        .series("up", [5, 10, 20, 40, 80], [0.2, 0.12, 0.08, 0.03, 0.011])
        .series("up, residualised", [5, 10, 20, 40, 80], [0.17, 0.1, 0.05, 0.02, 0.008]);
    log.save(at("log.svg")).unwrap();

    ImageGrid::new(&images)
        .columns(3)
        .labels((0..6).map(|i| format!("seed {i}: a red house on a green meadow")))
        .row_labels(["before", "after the spatial edit"])
        .column_labels(["early", "middle", "late"])
        .title("A red house in a meadow")
        .note("scene-unet, 50 DDIM steps, guidance 4")
        .highlight(4)
        .outline(0, &Mask::from_fn(16, 16, |x, y| maps[0][16 * y + x] > 4.0))
        .save(at("grid.svg"))
        .unwrap();
    Heat::new(&maps[0], 16, 16).over(&images[0]).bar("activation").title("Latent 12").save(at("heat.svg")).unwrap();
    let mut holes = maps[1].clone();
    holes[20..24].fill(f32::NAN);
    Heat::new(&holes, 16, 16).colours(Colours::Magma).smooth().scale(4).save(at("heat_alone.svg")).unwrap();
    let grid = HeatGrid::new(16, 16)
        .row("latent 1207 · house (IoU 0.71)", &images[..5], &maps[..5])
        .row(
            "latent 88 · meadow (IoU 0.64)",
            &images[1..6],
            maps[1..6].iter().map(|m| m.iter().map(|v| v * 0.3).collect::<Vec<f32>>()),
        )
        .title("Top concepts over the pictures that excite them")
        .bar("activation");
    grid.clone().save(at("heat_grid.svg")).unwrap();
    grid.clone().per_row().fade().smooth().alpha(0.9).save(at("heat_rows.svg")).unwrap();

    let bars = Bars::new("U-Net block", "IoU of the predicted segmentation", ["down block", "mid block", "up block"])
        .series("t = 1.0", [0.19, 0.26, 0.31])
        .whiskers([0.17, 0.24, 0.29], [0.21, 0.28, 0.33])
        .series("t = 0.5", [0.31, 0.38, 0.49])
        .whiskers([0.29, 0.36, 0.46], [0.33, 0.41, 0.52])
        .series("t = 0.0", [0.33, f64::NAN, 0.52])
        .values()
        .chance(0.09)
        .reference(0.45, "paper, SD 1.4")
        .title("Composition is decided early");
    bars.save(at("bars.svg")).unwrap();
    Bars::new("", "share", ["down_blocks.0.attentions.0", "mid_block.attentions.0", "up_blocks.1.attentions.0"])
        .series("", [0.2, -0.1, 0.3])
        .save(at("bars_long.svg"))
        .unwrap();
    let wave = |n: u32, k: f64| {
        (0..n).map(move |i| (f64::from(i) * k).sin() + (f64::from(i) * k * 1.7).cos()).collect::<Vec<_>>()
    };
    let histogram = Histogram::new("log10 of firing frequency")
        .bins(30)
        .series("trained", wave(4000, 0.37))
        .series("random", wave(1500, 0.11))
        .share();
    histogram.save(at("histogram.svg")).unwrap();
    Histogram::new("activation").series("", wave(3000, 0.2)).log_y().save(at("histogram_log.svg")).unwrap();
    let scatter = Scatter::new("IoU on training scenes", "IoU on held-out scenes")
        .series("objects", [0.2, 0.4, 0.7], [0.25, 0.35, 0.66])
        .names(["sun", "fish", "house"])
        .series("parts", [0.3, 0.5], [0.2, 0.45])
        .names(["roof", "crown"])
        .diagonal()
        .size(260, 260);
    scatter.save(at("scatter.svg")).unwrap();
    let table = Table::new()
        .text("label", ["house", "<tree>", "sun"])
        .number("latent", [1207, 88, 3])
        .interval("IoU", [0.714, 0.64, 0.5], [0.69, 0.6, 0.44], [0.73, 0.68, 0.56])
        .number("frequency", [0.012, 0.2, f64::NAN])
        .number("weight", [12.5, -3.0, 0.0001])
        .pictures("examples", [&images[0..3], &images[1..4], &images[2..5]])
        .caption("Labelled latents of mid_block.attentions.0")
        .note("95 % bootstrap interval over 200 scenes");
    table.save(at("table.html")).unwrap();
    let page =
        Page::new("What the mid block knows").text("A page of figures.").figure(&line).heading("Labels").figure(&table);
    page.beside(&[&scatter, &histogram]).figure(&grid).save(at("page.html")).unwrap();

    Matrix::new(
        [0.19, 0.31, 0.33, 0.26, 0.38, f64::NAN, 0.31, 0.49, 0.52],
        ["down block", "mid block", "up block"],
        ["1.0", "0.5", "0.0"],
    )
    .axes("generation progress t", "")
    .bar("IoU")
    .title("When composition is decided")
    .save(at("matrix.svg"))
    .unwrap();
    let names: Vec<String> = (0..24).map(|i| format!("concept {i}")).collect();
    let similar: Vec<f64> = (0..576).map(|k| 1.0 - 2.0 * ((k / 24) as f64 - (k % 24) as f64).abs() / 24.0).collect();
    Matrix::new(&similar, &names, &names)
        .colours(Colours::Signed)
        .bar("cosine similarity")
        .save(at("matrix_large.svg"))
        .unwrap();
}
