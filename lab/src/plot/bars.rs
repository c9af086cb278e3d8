//! A horizontal bar for each name, made of parts.

use super::axis::Axis;
use super::{LINE, WIDTH, at, escape, fit, text_width};
use std::fmt::Write;

/// Bars in parts.
#[derive(Clone, Debug)]
pub struct Bars {
    /// The heading.
    pub title: String,
    /// The axis from left to right.
    pub axis: Axis,
    /// The names of the parts, five at most, in the order of the colours from harmless to bad.
    pub parts: Vec<String>,
    /// The bars: a name, and the size of each part. Empty names make a gap between groups.
    pub bars: Vec<(String, Vec<f64>)>,
}

/// The height of a row.
const ROW: f64 = 22.0;

impl Bars {
    /// Draws the bars.
    pub fn svg(&self) -> String {
        let sum = |parts: &Vec<f64>| parts.iter().filter(|part| part.is_finite()).sum::<f64>();
        let scale = self.axis.scale(self.bars.iter().map(|(_, parts)| sum(parts)).chain([0.0]));
        let names = self.bars.iter().map(|(name, _)| text_width(name)).fold(0.0, f64::max).min(330.0);
        let (left, right, top) = (names + 20.0, WIDTH - 40.0, 58.0);
        let bottom = top + self.bars.len() as f64 * ROW + 4.0;
        let place = |value: f64| left + scale.place(value) * (right - left);
        let (title, height) = (escape(&self.title), at(bottom + 48.0));
        let mut out = format!(
            "<svg class=\"plot\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\" role=\"img\" \
             aria-label=\"{title}\"><text x=\"8\" y=\"18\" font-weight=\"600\">{title}</text>"
        );
        let mut x = 8.0;
        for (i, part) in self.parts.iter().enumerate() {
            let _ = write!(
                out,
                "<rect class=\"p{}\" x=\"{}\" y=\"30\" width=\"12\" height=\"12\"/><text x=\"{}\" y=\"41\">{}</text>",
                i % 5,
                at(x),
                at(x + 18.0),
                escape(part)
            );
            x += 18.0 + text_width(part) + LINE;
        }
        let mut free = f64::NEG_INFINITY;
        for (value, label) in &scale.ticks {
            let (x, half) = (place(*value), text_width(label) / 2.0);
            let _ = write!(
                out,
                "<line class=\"g\" x1=\"{x}\" x2=\"{x}\" y1=\"{top}\" y2=\"{}\"/>",
                at(bottom),
                x = at(x)
            );
            if x - half >= free {
                free = x + half + 10.0;
                let y = at(bottom + 17.0);
                let _ =
                    write!(out, "<text class=\"t mid\" x=\"{}\" y=\"{y}\">{}</text>", at(x), escape(label));
            }
        }
        for (row, (name, parts)) in self.bars.iter().enumerate() {
            let y = top + 4.0 + row as f64 * ROW;
            let _ = write!(
                out,
                "<text class=\"e\" x=\"{}\" y=\"{}\">{}</text>",
                at(left - 8.0),
                at(y + 13.0),
                escape(&fit(name, 330.0))
            );
            let mut from = 0.0;
            for (i, &part) in parts.iter().enumerate().filter(|(_, part)| part.is_finite() && **part > 0.0) {
                // A part that is too small to see is the one that matters: it gets a unit of width.
                let (start, end) = (place(from), place(from + part).max(place(from) + 1.0));
                let label = escape(&format!(
                    "{}: {}, {}",
                    name,
                    self.parts.get(i).map_or("", String::as_str),
                    self.axis.unit.format(part)
                ));
                let _ = write!(
                    out,
                    "<rect class=\"p{}\" x=\"{}\" y=\"{}\" width=\"{}\" height=\"16\"><title>{label}</title></rect>",
                    i % 5,
                    at(start),
                    at(y),
                    at(end - start)
                );
                from += part;
            }
        }
        let _ = write!(
            out,
            "<text class=\"t mid\" x=\"{}\" y=\"{}\">{}</text></svg>",
            at((left + right) / 2.0),
            at(bottom + 38.0),
            escape(&self.axis.title)
        );
        out
    }
}

#[cfg(test)]
#[path = "bars_tests.rs"]
mod tests;
