//! The data dictionary as one HTML page without any other file.
//!
//! In: the dictionary. Out: the page; every text of the pipeline passes [`escaped`].

use std::fmt::Write as _;

use super::dictionary::{Dictionary, Entry, Model};
use super::docs::{model_facts, origin, visibility};
use super::wording::Rule;

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// The whole page.
pub(super) fn page(dictionary: &Dictionary) -> String {
    let title = escaped(&dictionary.pipeline);
    let mut body = String::new();
    header(&mut body, dictionary);
    body.push_str("<main>\n");
    for (i, entry) in dictionary.columns.iter().enumerate() {
        column(&mut body, i, entry);
    }
    body.push_str("<p id=\"none\" hidden>No column matches.</p>\n");
    if !dictionary.table_rules.is_empty() {
        body.push_str("<section class=\"more\"><h2>Rules of the table</h2>");
        rules(&mut body, &dictionary.table_rules);
        body.push_str("</section>\n");
    }
    older_formats(&mut body, dictionary);
    for entry in &dictionary.models {
        model(&mut body, entry);
    }
    body.push_str("</main>\n");
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n<title>{title}: data dictionary</title>\n\
         <style>\n{STYLE}</style>\n</head>\n<body>\n{}{body}<script>\n{SCRIPT}</script>\n</body>\n</html>\n",
        index(dictionary)
    )
}

fn index(dictionary: &Dictionary) -> String {
    let mut nav = String::from(
        "<nav aria-label=\"Columns\">\n<input id=\"search\" type=\"search\" placeholder=\"Search columns\" \
         aria-label=\"Search columns\" autocomplete=\"off\">\n<ol>\n",
    );
    for (i, entry) in dictionary.columns.iter().enumerate() {
        let dot = match entry.personal_data {
            Some(_) => "<span class=\"dot\" title=\"personal data\"></span>",
            None => "",
        };
        let _ = writeln!(
            nav,
            "<li><a href=\"#c{i}\">{}{dot}</a></li>",
            escaped(&entry.name)
        );
    }
    nav.push_str("</ol>\n</nav>\n");
    nav
}

fn header(body: &mut String, dictionary: &Dictionary) {
    let seen = if dictionary.masked {
        "notice"
    } else {
        "notice clear"
    };
    let _ = writeln!(
        body,
        "<header>\n<p class=\"eyebrow\">Data dictionary</p>\n<h1>{}</h1>\n<p class=\"{seen}\">{}</p>\n<dl>",
        escaped(&dictionary.pipeline),
        escaped(&visibility(dictionary))
    );
    for fact in &dictionary.facts {
        let _ = writeln!(
            body,
            "<div><dt>{}</dt><dd>{}</dd></div>",
            fact.label,
            escaped(&fact.text)
        );
    }
    body.push_str("</dl>\n</header>\n");
}

fn column(body: &mut String, position: usize, entry: &Entry) {
    let _ = writeln!(
        body,
        "<section class=\"column\" id=\"c{position}\">\n<h2>{}",
        escaped(&entry.name)
    );
    let _ = write!(body, "<span class=\"tag\">{}</span>", escaped(&entry.kind));
    if entry.required {
        body.push_str("<span class=\"tag strong\">required</span>");
    }
    if let Some(personal) = &entry.personal_data {
        let _ = write!(
            body,
            "<span class=\"tag personal\">personal: {}</span>",
            personal.class
        );
    }
    body.push_str("</h2>\n");
    match &entry.meaning {
        Some(meaning) => {
            let _ = writeln!(body, "<p class=\"meaning\">{}</p>", escaped(meaning));
        }
        None => body.push_str("<p class=\"meaning absent\">No description yet.</p>\n"),
    }
    body.push_str("<dl>\n");
    let _ = writeln!(
        body,
        "<div><dt>Type</dt><dd>{}</dd></div>",
        escaped(&entry.type_in_words)
    );
    masking(body, entry);
    if !entry.rules.is_empty() {
        body.push_str("<div><dt>Rules</dt><dd>");
        rules(body, &entry.rules);
        body.push_str("</dd></div>\n");
    }
    body.push_str("<div><dt>From</dt><dd><ul>");
    for lineage in &entry.lineage {
        let _ = write!(
            body,
            "<li>{} <code>{}</code></li>",
            escaped(&origin(lineage)),
            escaped(&lineage.value)
        );
    }
    body.push_str("</ul></dd></div>\n</dl>\n</section>\n");
}

fn masking(body: &mut String, entry: &Entry) {
    let Some(personal) = &entry.personal_data else {
        return;
    };
    let place = match personal.clear_in.as_slice() {
        [] => "Everywhere".to_owned(),
        clear => format!("Outside {}", clear.join(", ")),
    };
    let _ = write!(
        body,
        "<div><dt>Masking</dt><dd>{} it is {}.",
        escaped(&place),
        escaped(personal.masking)
    );
    if let Some(example) = &personal.example {
        let _ = write!(
            body,
            "<p class=\"example\"><code>{}</code><span aria-label=\"becomes\">→</span><code>{}</code></p>",
            escaped(&example.clear),
            escaped(&example.masked)
        );
    }
    body.push_str("</dd></div>\n");
}

fn rules(body: &mut String, rules: &[Rule]) {
    body.push_str("<ul>");
    for rule in rules {
        let level = match rule.severity.as_str() {
            "critical" => "critical",
            "warning" => "warning",
            _ => "info",
        };
        let _ = write!(
            body,
            "<li>{} <span class=\"level {level}\">{}</span></li>",
            escaped(&rule.text),
            escaped(&rule.severity)
        );
    }
    body.push_str("</ul>");
}

fn older_formats(body: &mut String, dictionary: &Dictionary) {
    if dictionary.versions.is_empty() {
        return;
    }
    body.push_str("<section class=\"more\"><h2>Older formats</h2><ul>");
    for version in &dictionary.versions {
        let _ = write!(
            body,
            "<li><b>{}</b>, when <code>{}</code></li>",
            escaped(&version.name),
            escaped(&version.recognised_by)
        );
    }
    body.push_str("</ul></section>\n");
}

fn model(body: &mut String, model: &Model) {
    let name = escaped(&model.name);
    let _ = write!(
        body,
        "<section class=\"more\" id=\"model-{name}\"><h2>Model {name}</h2>"
    );
    if let Some(meaning) = &model.meaning {
        let _ = write!(body, "<p class=\"meaning\">{}</p>", escaped(meaning));
    }
    body.push_str("<dl>");
    for (label, value) in model_facts(model) {
        let _ = write!(body, "<div><dt>{label}</dt><dd>{}</dd></div>", escaped(&value));
    }
    body.push_str("<div><dt>Columns</dt><dd><ul>");
    for column in &model.columns {
        let meaning = column.meaning.as_deref().unwrap_or_default();
        let (name, kind) = (escaped(&column.name), escaped(&column.kind));
        let _ = write!(body, "<li><code>{name}</code> {kind} {}</li>", escaped(meaning));
    }
    let sql = escaped(&model.sql);
    let _ = writeln!(
        body,
        "</ul></dd></div><div><dt>Query</dt><dd><pre>{sql}</pre></dd></div></dl></section>"
    );
}

/// Text that stays text in HTML, in elements and in attributes.
fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            other => safe.push(other),
        }
    }
    safe
}
