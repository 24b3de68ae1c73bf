//! One HTML page with what the notebooks showed: headings, explanations, pictures, tables and values.

use std::fs;
use std::path::Path;

use serde_json::Value;

use super::markdown::{escape, html};
use super::reproduce::{Executed, joined};
use crate::error::{Error, Result};

const STYLE: &str = "body{font:16px/1.5 system-ui,sans-serif;max-width:60em;margin:2em auto;padding:0 1em;color:#222}\
h1,h2,h3{line-height:1.2;margin-top:2em}pre{background:#f6f6f4;padding:.6em .8em;overflow-x:auto;font-size:13px;\
border-radius:4px}details{margin:.4em 0;color:#555}summary{cursor:pointer;font-size:13px}img,svg{max-width:100%}\
.failed{border-left:4px solid #c0392b;background:#fdf0ee}.note{color:#777;font-size:13px}table{border-collapse:collapse}\
td,th{padding:.2em .6em;border-bottom:1px solid #ddd;text-align:left}@media(prefers-color-scheme:dark){body{background:#181818;\
color:#ddd}pre{background:#252525}.failed{background:#3a2020}.out{background:#fff;color:#222;padding:.5em;border-radius:4px}}";

/// Writes the page; it needs no other file.
///
/// # Errors
/// When a notebook cannot be read or the page not be written.
pub fn write(notebooks: &[Executed], page: &Path) -> Result<()> {
    let mut body = String::from("<p class=note>Made by <code>denoscope reproduce</code>; code is folded.</p>\n");
    if notebooks.len() > 1 {
        let entry = |n: &Executed| format!("<li><a href=\"#{0}\">{0}</a></li>", escape(&n.name));
        body.push_str(&format!("<ul>{}</ul>\n", notebooks.iter().map(entry).collect::<String>()));
    }
    for notebook in notebooks {
        body.push_str(&section(notebook)?);
    }
    let text = format!(
        "<!doctype html>\n<html lang=en>\n<meta charset=utf-8>\n<meta name=viewport content=\"width=device-width\">\n\
         <title>denoscope</title>\n<style>{STYLE}</style>\n{body}</html>\n"
    );
    let fresh = page.with_extension("html.new");
    fs::write(&fresh, text).map_err(Error::file(&fresh))?;
    fs::rename(&fresh, page).map_err(Error::file(page))
}

fn section(notebook: &Executed) -> Result<String> {
    let text = fs::read_to_string(&notebook.file).map_err(Error::file(&notebook.file))?;
    let json: Value = serde_json::from_str(&text).map_err(|e| Error::format(&notebook.file, e))?;
    let mut out = format!(
        "<section id=\"{}\">\n<p class=note>{} · {:.0} s</p>\n",
        escape(&notebook.name),
        escape(&notebook.name),
        notebook.total
    );
    for cell in json["cells"].as_array().into_iter().flatten() {
        let source = joined(&cell["source"]);
        if cell["cell_type"] == "markdown" {
            out.push_str(&html(&source));
        } else if cell["cell_type"] == "code" && !source.trim().is_empty() {
            let seconds = cell["metadata"]["denoscope"]["seconds"].as_f64();
            let note = seconds.map_or("not run".to_string(), |s| format!("{s:.1} s"));
            out.push_str(&format!(
                "<details><summary>code · {note}</summary><pre>{}</pre></details>\n",
                escape(&source)
            ));
            cell["outputs"].as_array().into_iter().flatten().for_each(|o| out.push_str(&output(o)));
        }
    }
    out.push_str("</section>\n");
    Ok(out)
}

/// One output as HTML: the richest form that it has.
fn output(output: &Value) -> String {
    match output["output_type"].as_str() {
        Some("execute_result" | "display_data") => {
            let data = |mime: &str| output["data"].get(mime).map(joined).filter(|t| !t.is_empty());
            let picture = |mime: &str| {
                data(mime).map(|d| format!("<img alt=\"\" src=\"data:{mime};base64,{}\">", d.replace(['\n', ' '], "")))
            };
            let shown = data("text/html")
                .or_else(|| data("image/svg+xml"))
                .or_else(|| picture("image/png"))
                .or_else(|| picture("image/jpeg"))
                .or_else(|| data("text/markdown").map(|t| html(&t)))
                .or_else(|| data("text/plain").map(|t| format!("<pre>{}</pre>", escape(&t))));
            format!("<div class=out>{}</div>\n", shown.unwrap_or_default())
        }
        Some("stream") if output["name"] == "stdout" => format!("<pre>{}</pre>\n", escape(&joined(&output["text"]))),
        // Progress lines: of use when something went wrong, folded otherwise.
        Some("stream") => {
            format!("<details><summary>messages</summary><pre>{}</pre></details>\n", escape(&joined(&output["text"])))
        }
        Some("error") => format!(
            "<pre class=failed>{}: {}</pre>\n",
            escape(output["ename"].as_str().unwrap_or("Error")),
            escape(output["evalue"].as_str().unwrap_or(""))
        ),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_richest_form_of_an_output_is_shown() {
        let both = serde_json::json!({"output_type": "execute_result", "data": {"text/plain": "P", "image/png": "iVBO\nRw=="}});
        assert!(output(&both).contains("data:image/png;base64,iVBORw=="), "{}", output(&both));
        let html = serde_json::json!({"output_type": "display_data", "data": {"text/plain": "P", "text/html": ["<b>", "x</b>"]}});
        assert!(output(&html).contains("<b>x</b>"));
    }

    #[test]
    fn code_and_errors_cannot_break_the_page() {
        let error = serde_json::json!({"output_type": "error", "ename": "Panic", "evalue": "a < b", "traceback": []});
        assert!(output(&error).contains("Panic: a &lt; b"));
    }
}
