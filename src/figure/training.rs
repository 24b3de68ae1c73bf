//! The report of an SAE's training: its measures as a table, its course and its latents as charts.

use super::{Histogram, Line, Page, Table};
use crate::activations::Mixing;
use crate::sae::report::columns;
use crate::sae::{Options, Quality, Row, Trained, TrainedTide};

/// What both reports are made of.
struct Course<'a> {
    options: &'a Options,
    history: &'a [Row],
    training: &'a Quality,
    held_out: Option<&'a Quality>,
    dead_share: f64,
    mixing: Option<Mixing>,
}

impl Trained {
    /// The report as a page: measures, loss and explained variance by step, dead share over time, how many latents fire
    /// on a token, and on how many tokens a latent fires.
    #[must_use]
    pub fn report(&self) -> Page {
        let Self { sae, options, history, training, held_out, dead_share, mixing } = self;
        let (held_out, dead_share, mixing) = (held_out.as_ref(), *dead_share, *mixing);
        Course { options, history, training, held_out, dead_share, mixing }.page(sae)
    }
}

impl TrainedTide {
    /// The report as a page, as [`Trained::report`]; tokens are those of all steps.
    #[must_use]
    pub fn report(&self) -> Page {
        let Self { sae, options, history, training, held_out, dead_share } = self;
        let (held_out, dead_share) = (held_out.as_ref(), *dead_share);
        Course { options, history, training, held_out, dead_share, mixing: None }.page(sae)
    }
}

impl Course<'_> {
    fn page(&self, title: impl std::fmt::Display) -> Page {
        let samples = columns(self.training, self.held_out);
        let mut table = Table::new().text("measure", self.training.rows().iter().map(|(name, _)| *name));
        for (name, quality) in &samples {
            table = table.text(name, quality.rows().into_iter().map(|(_, value)| value));
        }
        let steps = || self.history.iter().map(|row| row.step as f64);
        let over_time = |y: &str, of: fn(&Row) -> f64| {
            Line::new("step", y).series("batches of the training", steps(), self.history.iter().map(of))
        };
        let loss = over_time("‖x − x̂‖²/d, of scaled activations", |row| row.loss).log_y();
        let explained = over_time("explained variance", |row| row.explained_variance);
        let dead = over_time("share of dead latents", |row| row.dead_share);
        let mut l0 = Histogram::new("latents that fire on a token").share();
        let mut density = Histogram::new("log₁₀ of the share of tokens on which a latent fires");
        for (name, quality) in &samples {
            let tokens = quality.tokens_by_l0.iter().enumerate();
            l0 = l0.series(name, tokens.flat_map(|(l0, &n)| std::iter::repeat_n(l0 as f64, n as usize)));
            density = density.series(name, quality.density.iter().filter(|d| **d > 0.0).map(|d| d.log10()));
        }
        let mut text = format!(
            "{} steps of {} tokens, learning rate {:.2e}, seed {}. Dead at the end: {:.2} % of the latents.",
            self.history.last().map_or(0, |row| row.step),
            self.options.batch.unwrap_or_default(),
            self.options.learning_rate.unwrap_or_default(),
            self.options.seed,
            100.0 * self.dead_share
        );
        if let Some(Mixing { same_item, chance }) = self.mixing {
            text += &format!(" Pairs of tokens of one item in a batch: {same_item:.5}, by chance {chance:.5}.");
        }
        Page::new(title)
            .text(text)
            .figure(&table)
            .heading("Course")
            .beside(&[&loss, &explained, &dead])
            .heading("Latents")
            .beside(&[&l0, &density])
    }
}

#[cfg(test)]
mod tests {
    use crate::activations::Activations;
    use crate::random::stream;
    use crate::sae::BatchTopK;

    #[test]
    fn a_report_shows_measures_and_charts() {
        let activations = Activations::from_vec((4, 4), 6, stream(0, "report", 0).normals(40 * 16 * 6)).unwrap();
        let trained = BatchTopK::new(4, 3).epochs(3).train(&activations).unwrap();
        let page = trained.report();
        page.check().unwrap();
        let html = page.to_html();
        for word in
            ["explained variance", "share of dead latents", "latents that fire on a token", "by chance", "held out"]
        {
            assert!(html.contains(word), "{word}");
        }
    }
}
