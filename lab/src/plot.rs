//! Plots as SVG text, of our own: lines with bands, points with intervals, and stacked bars.
//!
//! The text of a plot is text, its colours are CSS variables that follow the reader's light or dark theme,
//! and nothing is loaded from anywhere. (Plotters measures text without fonts and writes colours as numbers,
//! so a plot would fit one theme only.)
//!
//! - [`axis`]: scales, ticks, and numbers with their units
//! - [`chart`]: two axes with series ([`Chart`])
//! - [`bars`]: a bar for each name, in parts ([`Bars`])

pub mod axis;
pub mod bars;
pub mod chart;

pub use axis::{Axis, Unit};
pub use bars::Bars;
pub use chart::{Chart, Series};

/// The colours and strokes of plots. A plot that stands alone carries it, and a page has it once.
pub const STYLE: &str = include_str!("plot/style.css");

/// The width of a plot in its own units; a page may scale it.
pub const WIDTH: f64 = 1000.0;
/// The height of a line of a legend.
const LINE: f64 = 19.0;
/// The width of the column of the legend.
const LEGEND: f64 = 262.0;
/// The number of colours; series beyond it get other strokes.
const COLOURS: usize = 8;

/// Writes a plot as a file of its own: with colours, and with a size.
pub fn standalone(svg: &str) -> String {
    svg.replacen('>', &format!(" xmlns=\"http://www.w3.org/2000/svg\"><style>{STYLE}</style>"), 1)
}

/// Replaces what has a meaning in XML.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            // XML has no way to write other control characters.
            c if c.is_control() && c != '\n' && c != '\t' => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

/// An estimate of the width of a text of 13 units in a usual sans-serif font: rather too wide than too
/// narrow.
fn text_width(text: &str) -> f64 {
    text.chars().map(|c| if "il.,:;|!'()[]fjt ".contains(c) { 4.6 } else { 7.6 }).sum()
}

/// Shortens a text to a width, with an ellipsis.
fn fit(text: &str, width: f64) -> String {
    if text_width(text) <= width {
        return text.to_owned();
    }
    let mut short = String::new();
    for c in text.chars() {
        short.push(c);
        if text_width(&short) + 8.0 > width {
            short.pop();
            break;
        }
    }
    short + "…"
}

/// A coordinate with one digit after the point.
fn at(value: f64) -> String {
    let rounded = (value * 10.0).round() / 10.0;
    if rounded == rounded.trunc() { format!("{}", rounded as i64) } else { format!("{rounded:.1}") }
}

/// The class of a series: its colour and, after eight of them, its stroke.
fn class(index: usize) -> String {
    format!("c{} d{}", index % COLOURS, index / COLOURS % 3)
}

/// The sign of a series in a legend and at its points: a shape for those who see colours alike.
fn marker(index: usize, x: f64, y: f64) -> String {
    let shape = index % 5;
    let class = format!("m c{}", index % COLOURS);
    // Every second round of colours is hollow.
    let class = if index / COLOURS % 2 == 1 { format!("{class} h") } else { class };
    let points = |around: &[(f64, f64)]| {
        let list: Vec<String> =
            around.iter().map(|(dx, dy)| format!("{},{}", at(x + dx), at(y + dy))).collect();
        format!("<polygon class=\"{class}\" points=\"{}\"/>", list.join(" "))
    };
    match shape {
        0 => format!("<circle class=\"{class}\" cx=\"{}\" cy=\"{}\" r=\"4.5\"/>", at(x), at(y)),
        1 => points(&[(-4.2, -4.2), (4.2, -4.2), (4.2, 4.2), (-4.2, 4.2)]),
        2 => points(&[(0.0, -5.4), (5.0, 4.0), (-5.0, 4.0)]),
        3 => points(&[(0.0, -6.0), (6.0, 0.0), (0.0, 6.0), (-6.0, 0.0)]),
        _ => points(&[(0.0, 5.4), (5.0, -4.0), (-5.0, -4.0)]),
    }
}

#[cfg(test)]
#[path = "plot_tests.rs"]
mod tests;
