//! What training returns: the SAE, how it got there and how good it is.

use super::{Options, Quality, Sae};
use crate::activations::Mixing;
use crate::html::display;
use std::fmt::Write;
use std::ops::Deref;

/// One line of the log of a training.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// Steps done.
    pub step: usize,
    /// Tokens seen.
    pub tokens: usize,
    /// ‖x − x̂‖²/d of the batch, in units of the scaled activations.
    pub loss: f64,
    /// Explained variance of the batch.
    pub explained_variance: f64,
    /// Mean number of latents that fired on a token.
    pub l0: f64,
    /// Share of latents that have been silent for the dead window.
    pub dead_share: f64,
    /// Learning rate.
    pub learning_rate: f32,
}

/// A trained SAE with its report. It can stand wherever an [`Sae`] is asked for.
#[derive(Debug, Clone)]
pub struct Trained {
    /// The SAE, for activations as they are.
    pub sae: Sae,
    /// How it was trained, with what was open filled in.
    pub options: Options,
    /// The log.
    pub history: Vec<Row>,
    /// Its quality on (a part of) the activations it was trained on.
    pub training: Quality,
    /// Its quality on the items that were kept out, if any were.
    pub held_out: Option<Quality>,
    /// Share of latents that were silent over the last dead window of the training.
    pub dead_share: f64,
    /// How well the batches of the last epoch were mixed: the share of pairs of tokens of one item, against chance. `None`
    /// for a training that was over when it was read back.
    pub mixing: Option<Mixing>,
}

impl Deref for Trained {
    type Target = Sae;
    fn deref(&self) -> &Sae {
        &self.sae
    }
}

impl Trained {
    /// What a notebook shows: the measures as a table.
    pub fn evcxr_display(&self) {
        println!("{}", self.sae);
        show_table(&columns(&self.training, self.held_out.as_ref()));
        if let Some(Mixing { same_item, chance }) = self.mixing {
            println!("pairs of tokens of one item in a batch: {same_item:.5}, by chance {chance:.5}");
        }
    }

    /// The log as CSV, with a header line.
    #[must_use]
    pub fn csv(&self) -> String {
        csv(&self.history)
    }
}

const HEADER: &str = "step,tokens,loss,explained_variance,l0,dead_share,learning_rate";

/// The log as CSV, with a header line. Every number is written so that reading gives the same bits.
pub(crate) fn csv(history: &[Row]) -> String {
    let mut text = format!("{HEADER}\n");
    for r in history {
        let Row { step, tokens, loss, explained_variance, l0, dead_share, learning_rate } = r;
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{step},{tokens},{loss},{explained_variance},{l0},{dead_share},{learning_rate}");
    }
    text
}

/// The log that [`csv`] wrote.
pub(crate) fn parse(text: &str) -> Option<Vec<Row>> {
    let mut lines = text.lines();
    if lines.next()? != HEADER {
        return None;
    }
    let row = |line: &str| -> Option<Row> {
        let fields: Vec<&str> = line.split(',').collect();
        let [step, tokens, loss, explained_variance, l0, dead_share, learning_rate] = fields[..] else { return None };
        Some(Row {
            step: step.parse().ok()?,
            tokens: tokens.parse().ok()?,
            loss: loss.parse().ok()?,
            explained_variance: explained_variance.parse().ok()?,
            l0: l0.parse().ok()?,
            dead_share: dead_share.parse().ok()?,
            learning_rate: learning_rate.parse().ok()?,
        })
    };
    lines.map(row).collect()
}

/// The measures of a training, as columns of a table.
pub(crate) fn columns<'a>(training: &'a Quality, held_out: Option<&'a Quality>) -> Vec<(&'static str, &'a Quality)> {
    let mut columns = vec![("training", training)];
    columns.extend(held_out.map(|quality| ("held out", quality)));
    columns
}

/// Prints measures side by side as an HTML table for a notebook.
pub(crate) fn show_table(columns: &[(&str, &Quality)]) {
    let mut html = "<table><tr><th></th>".to_string();
    for (name, _) in columns {
        let _ = write!(html, "<th>{name}</th>");
    }
    html.push_str("</tr>");
    let cells: Vec<_> = columns.iter().map(|(_, q)| q.rows()).collect();
    for (i, (name, _)) in cells[0].iter().enumerate() {
        let _ = write!(html, "<tr><td>{name}</td>");
        for column in &cells {
            let _ = write!(html, "<td style=\"text-align:right\">{}</td>", column[i].1);
        }
        html.push_str("</tr>");
    }
    html.push_str("</table>");
    display(&html);
}
