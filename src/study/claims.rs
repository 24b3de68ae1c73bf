//! What a paper claims, and whether it holds here.

use crate::error::{Error, Result};
use crate::figure::Table;
use crate::html::{display, script_json};
use crate::measure::Interval;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Marks the claims inside a notebook's output, so that a run over many notebooks can sum them up.
const MARK: &str = "denoscope-claims";

/// What came of a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Our measurement agrees.
    Held,
    /// Our measurement disagrees.
    Failed,
    /// Our intervals overlap: more trials are needed to tell.
    Undecided,
    /// It cannot be tested with this model or these means.
    NotTestable,
}

impl Verdict {
    /// Of an ordering whose intervals lie wholly as claimed, wholly the other way, or neither.
    fn of(held: bool, failed: bool) -> Self {
        match (held, failed) {
            (true, _) => Verdict::Held,
            (false, true) => Verdict::Failed,
            (false, false) => Verdict::Undecided,
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Verdict::Held => "held",
            Verdict::Failed => "failed",
            Verdict::Undecided => "undecided",
            Verdict::NotTestable => "not testable here",
        })
    }
}

/// One claim.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Claim {
    /// Table, figure or section of the paper.
    pub source: String,
    /// What it says, as an ordering or a trend.
    pub text: String,
    /// What came of it.
    pub verdict: Verdict,
    /// The measurement, or why there is none.
    pub evidence: String,
}

/// The claims of one notebook.
///
/// ```
/// use denoscope::study::{Claims, Verdict};
/// let mut claims = Claims::new("emergence");
/// claims.check("Table 4", "spatial edits work early, not late", 0.80 > 0.23, "0.80 against 0.23");
/// assert_eq!(claims.count(Verdict::Held), 1);
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Claims {
    /// The study.
    pub study: String,
    /// Its claims, in the order in which they were checked.
    pub claims: Vec<Claim>,
}

impl Claims {
    /// No claims yet.
    #[must_use]
    pub fn new(study: &str) -> Self {
        Self { study: study.into(), claims: Vec::new() }
    }

    /// Adds a claim that was tested.
    pub fn check(&mut self, source: &str, text: &str, held: bool, evidence: impl fmt::Display) {
        self.add(source, text, if held { Verdict::Held } else { Verdict::Failed }, evidence);
    }

    /// Adds the claim that `more` is greater than `less`: held when its whole interval is, failed when its whole
    /// interval is below, undecided where intervals overlap.
    pub fn greater(&mut self, source: &str, text: &str, more: Interval, less: Interval) {
        let verdict = Verdict::of(more.low > less.high, more.high < less.low);
        self.add(source, text, verdict, format!("{more} and {less}"));
    }

    /// Adds the claim that `difference`, measured on the same trials, is above zero: held when its whole interval is,
    /// failed when its whole interval is below, undecided where it holds zero.
    pub fn positive(&mut self, source: &str, text: &str, difference: Interval) {
        let verdict = Verdict::of(difference.low > 0.0, difference.high < 0.0);
        self.add(source, text, verdict, format!("difference {difference}"));
    }

    /// Adds a claim that cannot be tested here.
    pub fn untestable(&mut self, source: &str, text: &str, why: impl fmt::Display) {
        self.add(source, text, Verdict::NotTestable, why);
    }

    fn add(&mut self, source: &str, text: &str, verdict: Verdict, evidence: impl fmt::Display) {
        let (source, text, evidence) = (source.into(), text.into(), evidence.to_string());
        self.claims.push(Claim { source, text, verdict, evidence });
    }

    /// How many claims came to this.
    #[must_use]
    pub fn count(&self, verdict: Verdict) -> usize {
        self.claims.iter().filter(|c| c.verdict == verdict).count()
    }

    /// `3 held, 1 failed, 0 undecided, 2 not testable here`.
    #[must_use]
    pub fn sum(&self) -> String {
        let verdicts = [Verdict::Held, Verdict::Failed, Verdict::Undecided, Verdict::NotTestable];
        verdicts.map(|v| format!("{} {v}", self.count(v))).join(", ")
    }

    /// A table of the claims.
    ///
    /// # Errors
    /// Whatever the table refuses.
    pub fn table(&self) -> Result<Table> {
        let each = |f: &dyn Fn(&Claim) -> String| self.claims.iter().map(f).collect::<Vec<_>>();
        Table::new()
            .text("source", each(&|c| c.source.clone()))
            .text("claim", each(&|c| c.text.clone()))
            .text("here", each(&|c| c.verdict.to_string()))
            .text("evidence", each(&|c| c.evidence.clone()))
            .caption(format!("Claims of the paper: {}", self.sum()))
            .build()
    }

    /// The table as HTML, with the claims as JSON beside it, which [`Claims::find`] reads back.
    ///
    /// # Errors
    /// Whatever the table refuses.
    pub fn to_html(&self) -> Result<String> {
        let json = serde_json::to_string(self).map_err(|e| Error::invalid(format!("claims: {e}")))?;
        let json = script_json(&json);
        let table = self.table()?.to_html();
        Ok(format!("{table}<script type=\"application/json\" class=\"{MARK}\">{json}</script>"))
    }

    /// The claims in an output that [`to_html`](Self::to_html) made; none in any other text.
    #[must_use]
    pub fn find(html: &str) -> Option<Self> {
        let (_, rest) = html.split_once(&format!("class=\"{MARK}\">"))?;
        serde_json::from_str(rest.split_once("</script>")?.0).ok()
    }

    /// What a notebook shows.
    pub fn evcxr_display(&self) {
        match self.to_html() {
            Ok(html) => display(&html),
            Err(e) => println!("{e}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some() -> Claims {
        let mut claims = Claims::new("emergence");
        claims.check("Table 1", "k = 20 explains more than k = 10", true, "18 of 18");
        claims.check("Table 3", "a </script> & \"quotes\"", false, 0.25);
        claims.untestable("Fig. 4", "of Stable Diffusion", "the model is another");
        claims
    }

    #[test]
    fn claims_survive_the_way_through_a_notebook() {
        let claims = some();
        assert_eq!(claims.sum(), "1 held, 1 failed, 0 undecided, 1 not testable here");
        let html = format!("<p>before</p>{}<p>after</p>", claims.to_html().unwrap());
        assert_eq!(Claims::find(&html), Some(claims));
        assert_eq!(Claims::find("<table></table>"), None);
    }

    #[test]
    fn an_ordering_holds_when_intervals_are_apart() {
        let interval = |low, high| Interval { value: (low + high) / 2.0, low, high, n: 9 };
        let (low, middle, high) = (interval(0.1, 0.3), interval(0.25, 0.6), interval(0.5, 0.9));
        let mut claims = Claims::new("emergence");
        claims.greater("Table 4", "a", high, low);
        claims.greater("Table 4", "b", low, high);
        claims.greater("Table 4", "c", high, middle);
        assert_eq!(
            claims.claims.iter().map(|c| c.verdict).collect::<Vec<_>>(),
            [Verdict::Held, Verdict::Failed, Verdict::Undecided]
        );
        let differences = [(0.1, 0.3), (-0.3, -0.1), (-0.1, 0.1)].map(|(low, high)| interval(low, high));
        differences.into_iter().for_each(|d| claims.positive("Table 5", "d", d));
        let verdicts: Vec<Verdict> = claims.claims[3..].iter().map(|c| c.verdict).collect();
        assert_eq!(verdicts, [Verdict::Held, Verdict::Failed, Verdict::Undecided]);
    }

    #[test]
    fn the_table_has_a_row_for_each() {
        let table = some().table().unwrap();
        assert_eq!(table.rows(), 3);
        assert!(table.to_html().contains("not testable here"));
    }
}
