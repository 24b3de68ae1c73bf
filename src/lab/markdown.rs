//! The little Markdown that notebooks use, as HTML: headings, paragraphs, lists, tables are left as text; bold,
//! italics, code and links inside a line.

/// Text made safe for HTML.
pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// Markdown as HTML.
pub(super) fn html(text: &str) -> String {
    let mut out = String::new();
    let mut paragraph: Vec<String> = Vec::new();
    let mut list = false;
    let mut code: Option<String> = None;
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            flush(&mut out, &mut paragraph);
            match code.take() {
                Some(block) => out.push_str(&format!("<pre>{}</pre>\n", escape(&block))),
                None => code = Some(String::new()),
            }
            continue;
        }
        if let Some(block) = &mut code {
            block.push_str(line);
            block.push('\n');
            continue;
        }
        let item = line.trim_start().strip_prefix("- ").or_else(|| line.trim_start().strip_prefix("* "));
        if list && item.is_none() && !line.starts_with("  ") {
            out.push_str("</ul>\n");
            list = false;
        }
        let level = line.bytes().take_while(|b| *b == b'#').count();
        if (1..=6).contains(&level) && line[level..].starts_with(' ') {
            flush(&mut out, &mut paragraph);
            out.push_str(&format!("<h{level}>{}</h{level}>\n", inline(line[level..].trim())));
        } else if let Some(item) = item {
            flush(&mut out, &mut paragraph);
            if !list {
                out.push_str("<ul>\n");
                list = true;
            }
            out.push_str(&format!("<li>{}</li>\n", inline(item)));
        } else if line.trim().is_empty() {
            flush(&mut out, &mut paragraph);
        } else {
            paragraph.push(inline(line.trim()));
        }
    }
    flush(&mut out, &mut paragraph);
    if list {
        out.push_str("</ul>\n");
    }
    if let Some(block) = code {
        out.push_str(&format!("<pre>{}</pre>\n", escape(&block)));
    }
    out
}

fn flush(out: &mut String, paragraph: &mut Vec<String>) {
    if !paragraph.is_empty() {
        out.push_str(&format!("<p>{}</p>\n", paragraph.join(" ")));
        paragraph.clear();
    }
}

/// Bold, italics, code and links of one line.
fn inline(line: &str) -> String {
    let mut out = String::new();
    // Inside backticks nothing else is marked up.
    for (i, part) in line.split('`').enumerate() {
        if i % 2 == 1 {
            out.push_str(&format!("<code>{}</code>", escape(part)));
        } else {
            out.push_str(&paired(&paired(&links(&escape(part)), "**", "b"), "*", "i"));
        }
    }
    out
}

/// Every second occurrence of `mark` closes what the one before it opened.
fn paired(text: &str, mark: &str, tag: &str) -> String {
    let parts: Vec<&str> = text.split(mark).collect();
    if parts.len().is_multiple_of(2) {
        return text.to_string(); // a mark without its partner is an ordinary character
    }
    let wrap =
        |(i, part): (usize, &&str)| if i % 2 == 1 { format!("<{tag}>{part}</{tag}>") } else { (*part).to_string() };
    parts.iter().enumerate().map(wrap).collect()
}

/// `[text](address)` as a link.
fn links(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(start) = rest.find('[') {
        let after = &rest[start + 1..];
        let whole = after.find("](").and_then(|m| after[m + 2..].find(')').map(|e| (m, m + 2 + e)));
        let Some((middle, end)) = whole else { break };
        out.push_str(&rest[..start]);
        out.push_str(&format!("<a href=\"{}\">{}</a>", &after[middle + 2..end], &after[..middle]));
        rest = &after[end + 1..];
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::html;

    #[test]
    fn the_markdown_of_notebooks_becomes_html() {
        let page = html("# A *fine* title\n\nOne **line**\nand `a < b` [here](x.html).\n\n- one\n- two\n");
        for part in [
            "<h1>A <i>fine</i> title</h1>",
            "<p>One <b>line</b> and <code>a &lt; b</code> <a href=\"x.html\">here</a>.</p>",
            "<ul>\n<li>one</li>\n<li>two</li>\n</ul>",
        ] {
            assert!(page.contains(part), "{part} not in {page}");
        }
    }

    #[test]
    fn what_is_no_markup_stays_as_it_is() {
        assert_eq!(html("2 * 3 [sic] <script>"), "<p>2 * 3 [sic] &lt;script&gt;</p>\n");
    }
}
