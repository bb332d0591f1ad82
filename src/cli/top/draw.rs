//! How the screen of `top` looks, for any size of terminal. Pure: the terminal is a grid of cells.
//!
//! Colours go by the terminal's own sixteen, and none is needed to read it; with NO_COLOR there are none.

use std::collections::VecDeque;

use ratatui::{
    Frame,
    layout::{Alignment, Constraint, Layout, Rect},
    style::{Color, Modifier, Style},
    text::{Line, Span},
    widgets::{Block, Cell, Paragraph, RenderDirection, Row as TableRow, Sparkline, Table, TableState},
};

use super::{
    super::{output::Colour, show},
    screen::{LogView, Order, Row, Screen, Shown, float},
};
use crate::control::types::{Sample, ServiceState};

/// Below this height there is no room for more than the rows.
const LOW: u16 = 16;
/// From this width on there are more columns.
const WIDE: u16 = 120;
/// Levels of a graph that is one line high.
const BARS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
/// Less than so many thousandths of a CPU is not drawn as if it were much.
const QUIET: u64 = 50;

const DIM: Style = Style::new().add_modifier(Modifier::DIM);
const BOLD: Style = Style::new().add_modifier(Modifier::BOLD);
const CHOSEN: Style = Style::new().add_modifier(Modifier::REVERSED);

/// Draws everything.
pub(super) fn draw(frame: &mut Frame<'_>, screen: &Screen) {
    let area = frame.area();
    let graphs = if area.height < LOW || screen.log.is_some() { 0 } else { 5 };
    let [title, totals, body, below, foot] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(1),
        Constraint::Min(1),
        Constraint::Length(graphs),
        Constraint::Length(1),
    ])
    .areas(area);
    frame.render_widget(Paragraph::new(head(screen)), title);
    match &screen.log {
        Some(log) => {
            let name = Line::styled(format!("log of {}", log.name), BOLD);
            frame.render_widget(Paragraph::new(name), totals);
            frame.render_widget(lines(log, body.height), body);
        }
        None => {
            frame.render_widget(Paragraph::new(sums(&screen.rows)), totals);
            let mut state = TableState::default().with_selected(screen.index());
            frame.render_stateful_widget(table(screen, body.width), body, &mut state);
            if graphs > 0
                && let Some(row) = screen.selected()
            {
                draw_graphs(frame, row, below);
            }
        }
    }
    frame.render_widget(Paragraph::new(keys(screen)), foot);
}

/// `12 services: 10 active, 1 failed, 1 stopped`.
fn head(screen: &Screen) -> Line<'_> {
    if let Some(error) = &screen.lost {
        return Line::styled(error.as_str(), Style::new().fg(Color::Red));
    }
    let count = |state: ServiceState| screen.rows.iter().filter(|row| row.sample.state == state).count();
    let states =
        ServiceState::ALL.iter().map(|state| (count(*state), *state)).filter(|(count, _)| *count > 0);
    let mut spans =
        vec![Span::styled("palisade top", BOLD), Span::raw(format!("  {} services", screen.rows.len()))];
    for (number, (count, state)) in states.enumerate() {
        spans.push(Span::raw(if number == 0 { ": " } else { ", " }));
        spans.push(Span::styled(format!("{count} {}", state.as_str()), of_state(state)));
    }
    Line::from(spans)
}

/// What all of them take together.
fn sums(rows: &[Row]) -> Line<'static> {
    let sum =
        |value: fn(&Row) -> Option<f64>| rows.iter().filter_map(value).fold(0.0, |sum, value| sum + value);
    let restarts: u64 = rows.iter().map(|row| row.sample.restarts).sum();
    Line::from(format!(
        "cpu {}  memory {}  in {}/s  out {}/s  restarts {restarts}",
        percent(Some(sum(|row| row.rates.cpu))),
        amount(Some(sum(|row| row.sample.memory.map(float)))),
        amount(Some(sum(|row| row.rates.received))),
        amount(Some(sum(|row| row.rates.sent))),
    ))
}

/// The columns: title, width, what they are ordered by, whether wide terminals alone have them, and text.
struct Column {
    title: &'static str,
    width: u16,
    order: Option<Order>,
    is_extra: bool,
    text: fn(&Row) -> String,
}

const COLUMNS: [Column; 10] = [
    Column {
        title: "STATE",
        width: 9,
        order: None,
        is_extra: false,
        text: |row| state(&row.sample).to_owned(),
    },
    Column {
        title: "CPU%",
        width: 6,
        order: Some(Order::Cpu),
        is_extra: false,
        text: |row| percent(row.rates.cpu),
    },
    Column {
        title: "MEM",
        width: 6,
        order: Some(Order::Memory),
        is_extra: false,
        text: |row| amount(row.sample.memory.map(float)),
    },
    Column { title: "PIDS", width: 5, order: None, is_extra: true, text: |row| or_dash(row.sample.pids) },
    Column { title: "PRESSURE", width: 10, order: Some(Order::Pressure), is_extra: false, text: pressure },
    Column {
        title: "IN/s",
        width: 6,
        order: Some(Order::Network),
        is_extra: false,
        text: |row| amount(row.rates.received),
    },
    Column {
        title: "OUT/s",
        width: 6,
        order: Some(Order::Network),
        is_extra: false,
        text: |row| amount(row.rates.sent),
    },
    Column { title: "RUN", width: 5, order: None, is_extra: true, text: |row| row.sample.run.to_string() },
    Column {
        title: "RESTARTS",
        width: 8,
        order: Some(Order::Restarts),
        is_extra: false,
        text: |row| row.sample.restarts.to_string(),
    },
    Column { title: "SINCE", width: 10, order: None, is_extra: true, text: since },
];

fn table(screen: &Screen, width: u16) -> Table<'_> {
    let columns: Vec<&Column> = COLUMNS.iter().filter(|column| width >= WIDE || !column.is_extra).collect();
    let taken: u16 = columns.iter().map(|column| column.width + 1).sum();
    // What is left is for the name and the graph.
    let left = width.saturating_sub(taken + 1);
    let longest = screen.rows.iter().map(|row| row.sample.name.len()).max().unwrap_or_default();
    let name = u16::try_from(longest).unwrap_or(u16::MAX).clamp(8, (left * 2 / 3).max(8));
    let graph = left.saturating_sub(name);
    let mark = |title: &str, order: Option<Order>| {
        let style = if order == Some(screen.order) { BOLD.add_modifier(Modifier::UNDERLINED) } else { DIM };
        Span::styled(title.to_owned(), style)
    };
    let right = |text: Line<'static>| Cell::from(text.alignment(Alignment::Right));
    let mut titles = vec![Cell::from(mark("NAME", Some(Order::Name)))];
    titles.extend(columns.iter().enumerate().map(|(number, column)| {
        let title = Line::from(mark(column.title, column.order));
        if number == 0 { Cell::from(title) } else { right(title) }
    }));
    titles.push(Cell::from(mark("CPU", None)));
    let rows = screen.rows.iter().map(|row| {
        let mut cells = vec![Cell::from(row.sample.name.clone())];
        cells.extend(columns.iter().enumerate().map(|(number, column)| {
            let text = Line::from((column.text)(row));
            if number == 0 { Cell::from(text).style(of_state_of(&row.sample)) } else { right(text) }
        }));
        cells.push(Cell::from(bars(row, usize::from(graph))));
        TableRow::new(cells)
    });
    let mut widths = vec![Constraint::Length(name)];
    widths.extend(columns.iter().map(|column| Constraint::Length(column.width)));
    widths.push(Constraint::Length(graph));
    Table::new(rows, widths).header(TableRow::new(titles)).column_spacing(1).row_highlight_style(CHOSEN)
}

/// A graph of CPU one line high, the newest at its right end.
fn bars(row: &Row, width: usize) -> String {
    let shown = row.cpu.iter().take(width);
    let most = shown.clone().copied().max().unwrap_or_default().max(QUIET);
    let steps = u64::try_from(BARS.len() - 1).unwrap_or(1);
    let bar =
        |value: &u64| BARS[usize::try_from((value * steps).div_ceil(most).min(steps)).unwrap_or_default()];
    let text: String = shown.rev().map(bar).collect();
    format!("{text:>width$}")
}

/// CPU and memory of the chosen one, over time.
fn draw_graphs(frame: &mut Frame<'_>, row: &Row, area: Rect) {
    let [left, right] = Layout::horizontal([Constraint::Fill(1), Constraint::Fill(1)]).areas(area);
    let Sample { name, cpus, memory, memory_max, .. } = &row.sample;
    let of = |bound: Option<String>| bound.map(|bound| format!(" of {bound}")).unwrap_or_default();
    let bound = of(cpus.map(|cpus| percent(Some(cpus))));
    let cpu = format!(" {name}: cpu {}{bound} ", percent(row.rates.cpu));
    let bound = of(memory_max.map(|most| amount(Some(float(most)))));
    let memory = format!(" memory {}{bound} ", amount(memory.map(float)));
    let graph = |title: String, values: &VecDeque<u64>, least: u64| {
        let values: Vec<u64> = values.iter().copied().take(usize::from(area.width)).collect();
        let most = values.iter().copied().max().unwrap_or_default().max(least);
        Sparkline::default()
            .block(Block::bordered().title(title))
            .direction(RenderDirection::RightToLeft)
            .max(most)
            .data(values)
    };
    frame.render_widget(graph(cpu, &row.cpu, QUIET), left);
    frame.render_widget(graph(memory, &row.memory, 1), right);
}

/// The last lines of a log that there is room for.
fn lines(log: &LogView, height: u16) -> Paragraph<'_> {
    let end = log.lines.len().saturating_sub(log.below);
    let begin = end.saturating_sub(usize::from(height));
    if log.lines.is_empty() {
        return Paragraph::new(Line::styled("nothing was written yet", DIM));
    }
    let line = |shown: &Shown| {
        let style = show::colour_of_level(shown.level).map_or(Style::new(), of_colour);
        Line::from(vec![
            Span::styled(format!("{} ", shown.time), DIM),
            Span::styled(shown.text.replace('\t', "    "), style),
        ])
    };
    Paragraph::new(log.lines.range(begin..end).map(line).collect::<Vec<_>>())
}

/// What keys do; or what has come of the last one.
fn keys(screen: &Screen) -> Line<'_> {
    if let Some((verb, name)) = &screen.question {
        let text = format!("{} {name}? y: yes, any other key: no", verb.as_str());
        return Line::styled(text, Style::new().fg(Color::Yellow));
    }
    if let Some(said) = &screen.said {
        let style = if said.is_error { Style::new().fg(Color::Red) } else { Style::new() };
        return Line::styled(said.text.as_str(), style);
    }
    let text = match &screen.log {
        Some(log) if log.below > 0 => format!("q back  ↑↓ PgUp PgDn End  {} lines below", log.below),
        Some(_) => "q back  ↑↓ PgUp PgDn Home End".to_owned(),
        None => {
            format!(
                "q quit  ↑↓ choose  r restart  s stop  a start  l log  o order: {}",
                screen.order.as_str()
            )
        }
    };
    Line::styled(text, DIM)
}

fn state(sample: &Sample) -> &'static str {
    match (sample.state, sample.healthy) {
        (ServiceState::Active, Some(false)) => "unhealthy",
        (state, _) => state.as_str(),
    }
}

fn of_state_of(sample: &Sample) -> Style {
    match (sample.state, sample.healthy) {
        (ServiceState::Active, Some(false)) => of_colour(Colour::Red),
        (state, _) => of_state(state),
    }
}

fn of_state(state: ServiceState) -> Style {
    show::colour(state).map_or(Style::new(), of_colour)
}

fn of_colour(colour: Colour) -> Style {
    match colour {
        Colour::Green => Style::new().fg(Color::Green),
        Colour::Yellow => Style::new().fg(Color::Yellow),
        Colour::Red => Style::new().fg(Color::Red),
        Colour::Dim => DIM,
    }
}

fn or_dash(count: Option<u64>) -> String {
    count.map_or_else(|| "-".to_owned(), |count| count.to_string())
}

/// CPUs in percent of one.
fn percent(cpus: Option<f64>) -> String {
    cpus.map_or_else(|| "-".to_owned(), |cpus| format!("{:.1}", cpus * 100.0))
}

/// `io 12%`: what is waited for most.
fn pressure(row: &Row) -> String {
    match &row.rates.pressure {
        Some((what, share)) => match (share * 100.0).round() {
            0.0 => "0%".to_owned(),
            percent => format!("{what} {percent}%"),
        },
        None => "-".to_owned(),
    }
}

fn since(row: &Row) -> String {
    let Some(since) = row.sample.since else { return "-".to_owned() };
    let seconds = row.sample.at.saturating_sub(since.mono) / 1000;
    show::span(i64::try_from(seconds).unwrap_or(i64::MAX))
}

/// Bytes in four characters or five.
fn amount(bytes: Option<f64>) -> String {
    let Some(mut amount) = bytes else { return "-".to_owned() };
    let mut units = ["", "K", "M", "G", "T"].into_iter();
    let mut unit = "";
    for larger in units.by_ref() {
        unit = larger;
        if amount < 999.5 {
            break;
        }
        amount /= 1024.0;
    }
    match amount < 9.95 && !unit.is_empty() {
        true => format!("{amount:.1}{unit}"),
        false => format!("{amount:.0}{unit}"),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use ratatui::{
        Terminal,
        backend::TestBackend,
        crossterm::event::{KeyCode, KeyEvent, KeyModifiers},
    };

    use super::{
        super::screen::tests::{sample, screen},
        *,
    };
    use crate::control::types::{LogEntry, Moment, Samples, Stream};

    /// What stands on the lines of a terminal of this size.
    fn shown(screen: &Screen, width: u16, height: u16) -> Vec<String> {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("it is in memory");
        terminal.draw(|frame| draw(frame, screen)).expect("it is in memory");
        let buffer = terminal.backend().buffer();
        let line = |y: u16| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>();
        (0..height).map(|y| line(y).trim_end().to_owned()).collect()
    }

    #[test]
    fn a_row_has_everything_in_eighty_columns() {
        let mut screen = screen(&[("web", 250), ("db", 10)]);
        let mut web = sample("web", 3_000, 1_500_000);
        web.restarts = 12;
        web.healthy = Some(false);
        web.memory_max = Some(64 << 20);
        web.cpus = Some(2.0);
        web.pressure = BTreeMap::from([("cpu".to_owned(), 250_000), ("io".to_owned(), 620_000)]);
        web.received_bytes = Some(20_000 + (3 << 20));
        web.since = Some(Moment { unix: 0, mono: 1_000 });
        screen.take(Samples { services: vec![sample("db", 3_000, 30_000), web] });
        let lines = shown(&screen, 80, 24);
        assert_eq!(
            lines[..5],
            [
                "palisade top  2 services: 2 active",
                "cpu 101.0  memory 10M  in 3.0M/s  out 0/s  restarts 12",
                "NAME     STATE       CPU%    MEM   PRESSURE   IN/s  OUT/s RESTARTS CPU",
                "web      unhealthy  100.0   5.0M     io 62%   3.0M      0       12            ▂█",
                "db       active       1.0   5.0M     cpu 1%   9.8K      0        0            ▂▂",
            ],
            "{lines:#?}"
        );
        assert!(lines[18].contains(" web: cpu 100.0 of 200.0 "), "{lines:#?}");
        assert!(lines[18].contains(" memory 5.0M of 64M "), "{lines:#?}");
        assert_eq!(lines[23], "q quit  ↑↓ choose  r restart  s stop  a start  l log  o order: cpu");
        let wide = shown(&screen, 200, 50);
        let titles: Vec<&str> = wide[2].split_whitespace().collect();
        assert_eq!(
            titles,
            [
                "NAME", "STATE", "CPU%", "MEM", "PIDS", "PRESSURE", "IN/s", "OUT/s", "RUN", "RESTARTS",
                "SINCE", "CPU"
            ]
        );
        assert!(wide[3].contains(" 2s "), "{wide:#?}");
        screen.take(Samples::default());
        assert_eq!(shown(&screen, 80, 24)[1], "cpu 0.0  memory 0  in 0/s  out 0/s  restarts 0");
        screen.lost("nobody\u{1b}[2J");
        assert_eq!(shown(&screen, 80, 24)[0], "nobody\\x1b[2J");
    }

    #[test]
    fn no_size_is_too_small_and_no_name_too_long() {
        let long = "a".repeat(200);
        let mut screen = screen(&[(&long, 250), ("b", 10)]);
        for (width, height) in [(1, 1), (2, 40), (40, 3), (80, 5), (79, 15), (80, 16), (119, 16), (300, 100)]
        {
            assert_eq!(shown(&screen, width, height).len(), usize::from(height));
        }
        let lines = shown(&screen, 80, 24);
        assert!(lines[3].contains("aaaa ") && lines[3].contains(" active "), "{lines:#?}");
        let key = |code: KeyCode| KeyEvent::new(code, KeyModifiers::NONE);
        screen.key(key(KeyCode::Char('l')));
        for (width, height) in [(1, 1), (80, 3), (80, 24)] {
            assert_eq!(shown(&screen, width, height).len(), usize::from(height));
        }
    }

    #[test]
    fn the_last_lines_of_a_log_are_shown_and_nothing_in_them_is_obeyed() {
        let mut screen = screen(&[("web", 250)]);
        let key = |code: KeyCode| KeyEvent::new(code, KeyModifiers::NONE);
        screen.key(key(KeyCode::Char('l')));
        assert_eq!(shown(&screen, 80, 24)[2], "nothing was written yet");
        let entry = |number: u32| LogEntry {
            name: "web".to_owned(),
            time: "2026-11-29T07:00:00Z".to_owned(),
            stream: Stream::Stdout,
            partial: false,
            text: format!("line {number}\u{1b}[2J\u{9b}1m"),
        };
        screen.lines((0..100).map(entry).collect());
        let lines = shown(&screen, 80, 24);
        assert!(lines[22].ends_with("line 99\\x1b[2J\\u{9b}1m"), "{lines:#?}");
        assert!(lines[2].contains("line 79"), "{lines:#?}");
        screen.key(key(KeyCode::PageUp));
        let lines = shown(&screen, 80, 24);
        assert!(lines[22].contains("line 89"), "{lines:#?}");
        assert!(lines[23].ends_with("10 lines below"), "{lines:#?}");
    }

    #[test]
    fn bytes_fit_their_column() {
        let all = [0.0, 999.0, 1000.0, 10_188.0, 1_048_000.0, 1e9, 1e15, 1.465e12];
        let texts: Vec<String> = all.iter().map(|bytes| amount(Some(*bytes))).collect();
        assert_eq!(texts, ["0", "999", "1.0K", "9.9K", "1.0M", "954M", "909T", "1.3T"]);
        assert_eq!((amount(None), percent(None)), ("-".to_owned(), "-".to_owned()));
    }
}
