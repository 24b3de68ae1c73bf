use crate::random::stream;
use crate::scene::*;

fn check(scene: &Scene, caption: &Caption) {
    let words: Vec<&str> = caption.words().collect();
    assert!(words.len() <= 28, "{}", caption.text);
    let says = |topic| -> Option<String> {
        let mut of = caption.spans.iter().filter(|s| s.topic == topic).map(|s| words[s.words.clone()].join(" "));
        let said = of.next();
        assert!(of.next().is_none(), "{topic:?} twice");
        said
    };
    let facts = &caption.facts;
    assert_eq!(facts.objects.len(), scene.objects.len());
    for f in &facts.objects {
        let (o, i) = (&scene.objects[f.object], f.object);
        assert_eq!(f.class, o.class);
        assert_eq!(says(Topic::Class(i)).as_deref(), Some(o.class.name()));
        assert_eq!(says(Topic::Colour(i)), f.colour.map(|v| v.name().to_string()));
        assert!(f.colour.is_none_or(|v| v == o.colour));
        assert!(f.size.is_none_or(|v| v == o.size) && f.place.is_none_or(|v| v == o.place));
        assert_eq!(says(Topic::Size(i)).is_some(), f.size.is_some());
        let place = says(Topic::Place(i));
        assert_eq!(place.is_some(), f.place.is_some());
        if let Some(place) = place {
            let key = match o.place {
                Place::Centre => {
                    if place.contains("middle") {
                        "middle"
                    } else {
                        "centre"
                    }
                }
                Place::TopLeft | Place::BottomLeft => "left",
                Place::TopRight | Place::BottomRight => "right",
            };
            let high = place.contains("top") || place.contains("upper");
            assert!(place.contains(key), "{place}");
            assert_eq!(high, matches!(o.place, Place::TopLeft | Place::TopRight), "{place}");
        }
        let whole = says(Topic::Object(i)).unwrap();
        assert!(whole.starts_with('a') && whole.contains(o.class.name()));
    }
    assert_eq!(facts.background.is_some(), says(Topic::Background).is_some());
    assert_eq!(facts.style.is_some(), says(Topic::Style).is_some());
    assert!(facts.background.is_none_or(|v| v == scene.background) && facts.style.is_none_or(|v| v == scene.style));
}

#[test]
fn captions_state_what_is_there_and_spans_the_words_that_do() {
    let known = vocabulary();
    assert!(known.len() < 180, "{}", known.len());
    let mut used = std::collections::BTreeSet::new();
    let mut texts = std::collections::BTreeSet::new();
    for i in 0..4000 {
        let scene = Scene::sample(Split::Train, i);
        let full = scene.full_caption();
        check(&scene, &full);
        assert!(full.facts.background.is_some() && full.facts.style.is_some());
        assert!(full.facts.objects.iter().all(|f| f.colour.is_some() && f.place.is_some() && f.size.is_some()));
        let caption = scene.caption(&mut stream(1, "caption", i));
        check(&scene, &caption);
        assert!(!caption.text.contains(" a orange") && !caption.text.contains(" a umbrella"), "{}", caption.text);
        used.extend(caption.words().map(String::from));
        texts.insert(caption.text);
    }
    assert_eq!(used.into_iter().collect::<Vec<_>>(), known);
    assert!(texts.len() > 3700, "{}", texts.len());
    println!("{} words: {known:?}", known.len());
}
