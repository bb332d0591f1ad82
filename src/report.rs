//! What people read about mistakes: diagnostics in the look of rustc, or as JSON.

use annotate_snippets::{AnnotationKind, Group, Level, Origin, Renderer, Snippet};

use crate::config::{Diagnostic, Location, Severity};

/// The text of all diagnostics, one blank line between two, a newline at the end.
pub fn render(diagnostics: &[Diagnostic], colour: bool) -> String {
    let renderer = if colour { Renderer::styled() } else { Renderer::plain() };
    let texts: Vec<String> =
        diagnostics.iter().map(|diagnostic| render_one(diagnostic, &renderer) + "\n").collect();
    texts.join("\n")
}

/// The diagnostics as a JSON array: `file line column end_column severity message hint notes`; `line` and the columns
/// are left out where the file as a whole is meant, `hint` and `notes` where there are none.
pub fn to_json(diagnostics: &[Diagnostic]) -> serde_json::Value {
    serde_json::to_value(diagnostics).expect("diagnostics hold text and numbers, and maps with text for keys")
}

fn render_one(diagnostic: &Diagnostic, renderer: &Renderer) -> String {
    let level = match diagnostic.severity {
        Severity::Error => Level::ERROR,
        Severity::Warning => Level::WARNING,
        Severity::Note => Level::NOTE,
    };
    let mut groups =
        vec![located(Group::with_title(level.primary_title(printable(&diagnostic.message))), &diagnostic.at)];
    for note in &diagnostic.notes {
        groups.push(located(
            Group::with_title(Level::NOTE.secondary_title(printable(&note.message))),
            &note.at,
        ));
    }
    if let Some(hint) = &diagnostic.hint {
        groups.push(Group::with_title(Level::HELP.secondary_title(printable(hint))));
    }
    renderer.render(&groups)
}

fn located<'a>(group: Group<'a>, at: &Location) -> Group<'a> {
    let path = printable(&at.file.display().to_string());
    let Some(place) = &at.place else {
        return group.element(Origin::path(path));
    };
    let text = printable(&place.text);
    let offset = |column: usize| text.char_indices().nth(column - 1).map_or(text.len(), |(offset, _)| offset);
    let span = offset(place.column)..offset(place.end_column);
    let snippet = Snippet::source(text.clone()).path(path).line_start(place.line);
    group.element(snippet.annotation(AnnotationKind::Primary.span(span)))
}

/// Text without control characters, as many characters as before: what a file holds never reaches a terminal raw.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\t' { '\u{fffd}' } else { c }).collect()
}
