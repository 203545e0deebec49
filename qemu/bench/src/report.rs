//! The figures for people: a table, and bars that show how much of each budget is used.

use super::figure::{Figure, Unit};

const DASH: &str = "-";

/// One line a figure; medians.
pub fn table(figures: &[Figure]) -> String {
    let mut text = format!(
        "{:<44}{:>11}{:>11}{:>11} {:<6}{:>8}  {:<28}{}\n",
        "figure", "guest", "floor", "crun", "unit", "ratio", "budget", "verdict"
    );
    for figure in figures {
        let number = |value: Option<f64>| value.map_or(DASH.into(), |value| format!("{value:.2}"));
        let verdict = match figure.holds() {
            Some(true) => "ok",
            Some(false) => "OVER",
            None if figure.samples.is_empty() => "not measured",
            None => "",
        };
        let line = format!(
            "{:<44}{:>11}{:>11}{:>11} {:<6}{:>8}  {:<28}{verdict}",
            figure.name,
            number(figure.value()),
            number(figure.floor_value()),
            number(figure.peer_value()),
            figure.unit.name(),
            number(figure.ratio()),
            budget(figure),
        );
        text += line.trim_end();
        text.push('\n');
    }
    text
}

fn budget(figure: &Figure) -> String {
    let sign = match figure.unit {
        Unit::MebibytesPerSecond | Unit::PerSecond => ">=",
        Unit::Milliseconds | Unit::Kibibytes | Unit::Kiloinstructions => "<=",
    };
    let ratio = figure.budget.ratio.map(|ratio| format!("{ratio:.2}x"));
    let absolute = figure.budget.absolute.map(|value| format!("{value:.0}"));
    let peer = figure.budget.peer.filter(|_| !figure.peer.is_empty());
    let peer = peer.map(|ratio| format!("{ratio:.2}x crun"));
    let parts: Vec<_> = ratio.into_iter().chain(peer).chain(absolute).collect();
    match parts.is_empty() {
        true => String::new(),
        false => format!("{sign} {}", parts.join(", ")),
    }
}

/// How much of its tightest budget a figure uses: 1 is all of it, above 1 too much.
fn used(figure: &Figure) -> Option<f64> {
    let inverse = matches!(figure.unit, Unit::MebibytesPerSecond | Unit::PerSecond);
    let part = |value: Option<f64>, asked: Option<f64>| {
        let (value, asked) = (value?, asked?);
        Some(if inverse {
            asked / value
        } else {
            value / asked
        })
    };
    let ratio = part(figure.ratio(), figure.budget.ratio);
    let absolute = part(figure.value(), figure.budget.absolute);
    let beside = figure.value().zip(figure.peer_value());
    let peer = part(beside.map(|(value, peer)| value / peer), figure.budget.peer);
    [ratio, absolute, peer]
        .into_iter()
        .flatten()
        .reduce(f64::max)
}

/// Bars, one a figure with a budget; the line across is the budget.
pub fn svg(figures: &[Figure]) -> String {
    const ROW: usize = 26;
    const LEFT: usize = 330;
    const FULL: f64 = 300.0;
    let rows: Vec<_> = figures
        .iter()
        .filter_map(|figure| used(figure).map(|used| (figure, used)))
        .collect();
    let height = ROW * rows.len() + 40;
    let budget_at = LEFT as f64 + FULL;
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"900\" height=\"{height}\" \
         font-family=\"sans-serif\" font-size=\"13\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"{budget_at}\" y=\"18\" text-anchor=\"middle\">budget</text>\n"
    );
    for (row, (figure, used)) in rows.iter().enumerate() {
        let top = 28 + row * ROW;
        let base = top + 14;
        // A bar that leaves the picture still shows its number.
        let width = (used * FULL).min(480.0);
        let colour = if *used <= 1.0 { "#4a8" } else { "#c54" };
        let value = figure.value().unwrap_or_default();
        let end = LEFT as f64 + width + 6.0;
        text += &format!(
            "<text x=\"{}\" y=\"{base}\" text-anchor=\"end\">{}</text>\n\
             <rect x=\"{LEFT}\" y=\"{top}\" width=\"{width:.0}\" height=\"18\" fill=\"{colour}\"/>\n\
             <text x=\"{end:.0}\" y=\"{base}\">{value:.1} {}</text>\n",
            LEFT - 8,
            escape(&figure.name),
            figure.unit.name(),
        );
    }
    let bottom = height - 8;
    text += &format!(
        "<line x1=\"{budget_at}\" y1=\"24\" x2=\"{budget_at}\" y2=\"{bottom}\" stroke=\"#333\" \
         stroke-dasharray=\"4 3\"/>\n</svg>\n"
    );
    text
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Vec<Figure> {
        let mut exec = Figure::new("exec", Unit::Milliseconds).against("spawn", 3.0);
        exec.samples = vec![4.0];
        exec.floor = vec![1.0];
        let mut out = Figure::new("stdout", Unit::MebibytesPerSecond).against("write", 0.8);
        out.samples = vec![90.0];
        out.floor = vec![100.0];
        let size = Figure::new("a<b", Unit::Kibibytes).within(4096.0);
        vec![exec, out, size]
    }

    #[test]
    fn the_table_says_what_holds() {
        let text = table(&sample());
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 4, "{text}");
        assert!(lines[1].ends_with("OVER") && lines[1].contains("<= 3.00x"));
        assert!(lines[2].ends_with("ok") && lines[2].contains(">= 0.80x"));
        assert!(lines[3].ends_with("not measured"), "{text}");
    }

    #[test]
    fn the_picture_has_a_bar_for_each_figure_that_was_measured() {
        let text = svg(&sample());
        // The background and two bars.
        assert_eq!(text.matches("<rect").count(), 3, "{text}");
        assert!(text.contains("#c54") && text.contains("#4a8"));
        assert!(!text.contains("a<b"));
    }
}
