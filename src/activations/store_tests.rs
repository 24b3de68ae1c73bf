//! Tests of writing and reading stores, against synthetic visits.

use crate::activations::{Item, Plan, Recorder, Recording, Seen, Store, Writer};
use crate::diffusion::hook::{Half, Hook, Kind, Site, Visit};
use crate::error::Result;
use candle_core::{Device, Tensor};
use image::{ImageFormat, Rgb, RgbImage};
use std::io::Cursor;
use std::path::Path;

const GRID: (usize, usize) = (2, 3);
const D: usize = 5;

fn plan() -> Plan {
    Plan {
        model: "toy".into(),
        fingerprint: "abc".into(),
        sites: vec![Site::new("mid", Kind::Residual), Site::new("up", Kind::Output)],
        steps: 5,
        kept: vec![0, 2, 4],
        halves: vec![Half::Conditional, Half::Unconditional],
        guidance: 4.0,
        source: Seen::Generated,
        shard_items: 4,
        items: (0..10).map(|i| Item { prompt: format!("prompt {i}"), seed: 100 + i }).collect(),
    }
}

/// A number of its own for every place, item, token and channel, exact in half precision.
fn value(site: usize, step: usize, half: usize, item: usize, at: usize) -> f32 {
    let place = if half == 0 { 1.0 } else { -1.0 } * 2f32.powi((step + 5 * site) as i32 - 5);
    (at + 30 * item) as f32 * place
}

/// Visits of a generation of `items`, two at a time, at every site, step and half.
fn generate(plan: &Plan, items: std::ops::Range<usize>) -> Recording {
    let mut recorder = Recorder::new(&plan.sites, &plan.kept, &plan.halves);
    let all: Vec<usize> = items.collect();
    for batch in all.chunks(2) {
        let ids: Vec<usize> = (0..batch.len()).collect();
        for step in 0..plan.steps {
            for (s, site) in plan.sites.iter().enumerate() {
                for (h, half) in [Half::Conditional, Half::Unconditional].into_iter().enumerate() {
                    let data: Vec<f32> =
                        batch.iter().flat_map(|&i| (0..30).map(move |a| value(s, step, h, i, a))).collect();
                    let tensor = Tensor::from_vec(data, (batch.len(), 6, D), &Device::Cpu).unwrap();
                    let visit = Visit { site, step, steps: plan.steps, timestep: 0.0, half, grid: GRID, items: &ids };
                    assert!(recorder.visit(&visit, &tensor).unwrap().is_none());
                }
            }
        }
        recorder.advance(batch.len());
    }
    recorder.take()
}

fn pictures(items: std::ops::Range<usize>) -> Vec<Vec<u8>> {
    let png = |i: usize| {
        let mut bytes = Cursor::new(Vec::new());
        RgbImage::from_pixel(3, 2, Rgb([i as u8, 0, 1])).write_to(&mut bytes, ImageFormat::Png).unwrap();
        bytes.into_inner()
    };
    items.map(png).collect()
}

fn fill(folder: &Path, plan: Plan, most: usize) -> Result<Writer> {
    let writer = Writer::open(folder, plan)?;
    for _ in 0..most {
        let Some((shard, items)) = writer.missing() else { break };
        writer.write(shard, &generate(writer.plan(), items.clone()), &pictures(items))?;
    }
    Ok(writer)
}

fn refusal<T>(result: Result<T>) -> String {
    result.err().expect("should be refused").to_string()
}

#[test]
fn what_was_visited_is_read_back() {
    let folder = tempfile::tempdir().unwrap();
    let store = fill(folder.path(), plan(), 9).unwrap().finish().unwrap();
    let activations = store.module("up").unwrap().half(Half::Unconditional).unwrap().stage(0.5).unwrap();
    assert_eq!((activations.len(), activations.grid(), activations.d()), (10, GRID, D));
    assert_eq!(activations.about().step, 2);
    for i in [0, 3, 4, 9] {
        let expected: Vec<f32> = (0..30).map(|a| value(1, 2, 1, i, a)).collect();
        assert_eq!(activations.item(i).unwrap(), expected);
        assert_eq!(activations.items()[i].prompt, format!("prompt {i}"));
        assert_eq!(store.image(i).unwrap().get_pixel(1, 1).0, [i as u8, 0, 1]);
    }
}

#[test]
fn batches_from_shards_hold_every_token_once_whatever_the_buffer() {
    let folder = tempfile::tempdir().unwrap();
    let store = fill(folder.path(), plan(), 9).unwrap().finish().unwrap();
    let activations = store.module("mid").unwrap().half(Half::Conditional).unwrap().step(4).unwrap();
    let mut expected: Vec<f32> = (0..10).flat_map(|i| activations.item(i).unwrap()).collect();
    expected.sort_by(f32::total_cmp);
    for buffer in [1, 200, 1 << 20] {
        let mut batches = activations.clone().buffer(buffer).batches(7, 3).unwrap();
        let mut all: Vec<f32> = Vec::new();
        for batch in batches.by_ref() {
            let batch = batch.unwrap();
            assert!(batch.chunks(D).all(|row| row[4] == row[0] + 4.0 * value(0, 4, 0, 0, 1)), "rows stay whole");
            all.extend(batch);
        }
        all.sort_by(f32::total_cmp);
        assert_eq!(all, expected);
        let mixing = batches.mixing();
        // A buffer of one item cannot mix; the report says so.
        assert_eq!(mixing.same_item > 5.0 * mixing.chance, buffer == 1, "buffer {buffer}: {mixing:?}");
    }
}

#[test]
fn an_interrupted_capture_goes_on_at_the_first_missing_shard() {
    let (whole, broken) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fill(whole.path(), plan(), 9).unwrap().finish().unwrap();
    let writer = fill(broken.path(), plan(), 1).unwrap();
    assert!(refusal(Store::open(broken.path())).contains("unfinished"));
    assert!(refusal(writer.finish()).contains("shard 1"));
    // Killed within a shard: one of its files is there, the others are not.
    let again = fill(broken.path(), plan(), 1).unwrap();
    let lost = broken.path().join("shards/up/output/step-0004/unconditional/00001.safetensors");
    std::fs::remove_file(&lost).unwrap();
    assert_eq!(again.missing(), Some((1, 4..8)));
    fill(broken.path(), plan(), 9).unwrap().finish().unwrap();
    let place = "shards/mid/residual/step-0002/conditional/00002.safetensors";
    assert_eq!(std::fs::read(whole.path().join(place)).unwrap(), std::fs::read(broken.path().join(place)).unwrap());
    assert!(lost.exists());
}

#[test]
fn a_full_disk_leaves_earlier_shards_valid() {
    let folder = tempfile::tempdir().unwrap();
    fill(folder.path(), plan(), 1).unwrap();
    // A folder in a shard's place makes the write fail as a full disk would: after the bytes, before the name.
    let blocked = folder.path().join("shards/up/output/step-0000/conditional/00001.safetensors");
    std::fs::create_dir_all(blocked.join("x")).unwrap();
    assert!(refusal(fill(folder.path(), plan(), 9)).contains("00001.safetensors"));
    std::fs::remove_dir_all(&blocked).unwrap();
    let store = fill(folder.path(), plan(), 9).unwrap().finish().unwrap();
    assert_eq!(
        store.module("up").unwrap().half(Half::Conditional).unwrap().step(0).unwrap().item(5).unwrap()[0],
        value(1, 0, 0, 5, 0)
    );
}

#[test]
fn a_store_of_something_else_is_refused_with_both_values() {
    let folder = tempfile::tempdir().unwrap();
    fill(folder.path(), plan(), 1).unwrap();
    let open = |change: &dyn Fn(&mut Plan)| {
        let mut other = plan();
        change(&mut other);
        refusal(Writer::open(folder.path(), other))
    };
    let has =
        |text: String, words: &[&str]| assert!(words.iter().all(|w| text.contains(w)), "{text} lacks one of {words:?}");
    has(open(&|p| p.fingerprint = "def".into()), &["fingerprint", "abc", "def"]);
    has(open(&|p| p.sites[0].module = "down".into()), &["mid:residual", "down:residual"]);
    has(open(&|p| p.kept = vec![0, 3]), &["kept steps", "[0, 2, 4]", "[0, 3]"]);
    has(open(&|p| p.guidance = 7.5), &["guidance", "4.0", "7.5"]);
    has(open(&|p| p.items[3].prompt = "other".into()), &["item 3", "prompt 3", "other"]);
    has(open(&|p| p.items[3].seed = 5), &["item 3", "103", "5"]);
    let index = folder.path().join("index.json");
    let text = std::fs::read_to_string(&index).unwrap().replace("\"format\": 1", "\"format\": 999");
    std::fs::write(&index, text).unwrap();
    has(refusal(Writer::open(folder.path(), plan())), &["format 999", "format 1"]);
}

#[test]
fn ambiguity_and_absence_say_what_there_is() {
    let folder = tempfile::tempdir().unwrap();
    let store = fill(folder.path(), plan(), 9).unwrap().finish().unwrap();
    assert!(refusal(store.stage(0.5)).contains("mid:residual, up:output"));
    let mid = store.module("mid").unwrap();
    assert!(refusal(mid.stage(0.5)).contains("conditional, unconditional"));
    let one = mid.half(Half::Conditional).unwrap();
    assert!(refusal(one.stage(0.25)).contains("0 (t = 1.00), 2 (t = 0.50), 4 (t = 0.00)"));
    assert!(refusal(one.only()).contains("several stages"));
    assert!(refusal(store.module("mit")).contains("nearest: mid"));
    assert!(refusal(store.kind(Kind::Input)).contains("residual"));
}

#[test]
fn damaged_shards_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let store = fill(folder.path(), plan(), 9).unwrap().finish().unwrap();
    let mid = store.module("mid").unwrap().half(Half::Conditional).unwrap();
    let path = folder.path().join("shards/mid/residual/step-0002/conditional/00001.safetensors");
    let whole = std::fs::read(&path).unwrap();
    let damage = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        refusal(mid.step(2))
    };
    for cut in [0, 5, 40, whole.len() - 1] {
        let text = damage(&whole[..cut]);
        assert!(text.contains("conditional/00001.safetensors") && text.contains("truncated"), "{text}");
    }
    let mut wrong = whole.clone();
    wrong[..8].fill(255);
    assert!(damage(&wrong).contains("damaged"));
    // The third row (token 2 of item 4, which is the shard's first) gets a NaN in channel 1.
    let mut nan = whole.clone();
    let at = whole.len() - 4 * 30 * 2 + (2 * D + 1) * 2;
    nan[at..at + 2].copy_from_slice(&[0xff, 0x7f]);
    std::fs::write(&path, &nan).unwrap();
    let activations = mid.step(2).unwrap();
    let text = refusal(activations.item(4));
    assert!(["00001.safetensors", "mid:residual", "row 2, channel 1"].iter().all(|w| text.contains(w)), "{text}");
    assert!(activations.batches(8, 0).unwrap().any(|b| b.is_err()));
    // A shard of another place under this name.
    std::fs::copy(folder.path().join("shards/mid/residual/step-0004/conditional/00001.safetensors"), &path).unwrap();
    assert!(refusal(mid.step(2)).contains("t = 0.00"));
    std::fs::copy(folder.path().join("shards/mid/residual/step-0002/conditional/00000.safetensors"), &path).unwrap();
    assert!(refusal(mid.step(2)).contains("item 0, expected item 4"));
}

#[test]
fn unusable_recordings_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let writer = Writer::open(folder.path(), plan()).unwrap();
    let mut small = plan();
    small.halves.pop();
    assert!(refusal(writer.write(0, &generate(&small, 0..4), &pictures(0..4))).contains("without guidance"));
    assert!(refusal(writer.write(0, &generate(&plan(), 0..3), &pictures(0..4))).contains("shape"));
    assert!(refusal(writer.write(0, &generate(&plan(), 0..4), &[])).contains("0 pictures"));
    let mut plan = plan();
    plan.items.clear();
    assert!(refusal(Writer::open(folder.path(), plan)).contains("no prompts"));
}
