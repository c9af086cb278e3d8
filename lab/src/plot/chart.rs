//! Charts with two axes: lines with bands, and points with intervals.

use super::axis::{Axis, Scale};
use super::{LEGEND, LINE, WIDTH, at, class, escape, fit, marker, text_width};
use std::fmt::Write;

/// A chart.
#[derive(Clone, Debug)]
pub struct Chart {
    /// The heading, and the name for those who do not see it.
    pub title: String,
    /// The axis from left to right.
    pub x: Axis,
    /// The axis from the bottom up.
    pub y: Axis,
    /// The series in the order of the legend.
    pub series: Vec<Series>,
    /// Instants with a name, drawn as vertical lines.
    pub marks: Vec<(f64, String)>,
    /// The points that no other is better than, from left to right, joined by a line.
    pub front: Vec<(f64, f64)>,
}

/// A series of a chart.
#[derive(Clone, Debug)]
pub struct Series {
    /// The name in the legend.
    pub name: String,
    /// The number of its colour. Series of one strategy have one number in all charts.
    pub colour: usize,
    /// Its points: x, y. Those that an axis cannot show are left out and break the line.
    pub points: Vec<(f64, f64)>,
    /// For each point the range of y: a band along a line, or an interval at a point. May be empty.
    pub ranges: Vec<(f64, f64)>,
    /// True if the points are joined.
    pub line: bool,
    /// True if each point has a sign.
    pub signs: bool,
}

impl Series {
    /// Creates a line.
    pub fn line(name: &str, colour: usize, points: Vec<(f64, f64)>) -> Self {
        Series { name: name.to_owned(), colour, points, ranges: Vec::new(), line: true, signs: false }
    }

    /// Creates points that are not joined.
    pub fn points(name: &str, colour: usize, points: Vec<(f64, f64)>) -> Self {
        Series { line: false, signs: true, ..Series::line(name, colour, points) }
    }

    /// Adds ranges: a band to a line, intervals to points.
    pub fn ranges(self, ranges: Vec<(f64, f64)>) -> Self {
        Series { ranges, ..self }
    }
}

/// The rectangle of the data.
struct Frame {
    left: f64,
    right: f64,
    top: f64,
    bottom: f64,
    x: Scale,
    y: Scale,
}

impl Frame {
    fn place(&self, (x, y): (f64, f64)) -> (f64, f64) {
        (
            self.left + self.x.place(x) * (self.right - self.left),
            self.bottom - self.y.place(y) * (self.bottom - self.top),
        )
    }
}

impl Chart {
    /// Creates a chart without marks.
    pub fn new(title: &str, x: Axis, y: Axis, series: Vec<Series>) -> Self {
        Chart { title: title.to_owned(), x, y, series, marks: Vec::new(), front: Vec::new() }
    }

    /// Draws the chart.
    pub fn svg(&self) -> String {
        let shown = |point: &&(f64, f64)| self.x.shows(point.0) && self.y.shows(point.1);
        let points = || self.series.iter().flat_map(|series| series.points.iter().filter(shown));
        let ranges =
            self.series.iter().flat_map(|series| &series.ranges).flat_map(|&(low, high)| [low, high]);
        let y =
            self.y.scale(points().map(|point| point.1).chain(ranges.filter(|&value| self.y.shows(value))));
        let marks = self.marks.iter().map(|mark| mark.0).filter(|&value| self.x.shows(value));
        let x = self.x.scale(points().map(|point| point.0).chain(marks));
        let widest = y.ticks.iter().map(|(_, label)| text_width(label)).fold(0.0, f64::max);
        let marked = if self.marks.is_empty() { 0.0 } else { LINE };
        let top = 58.0 + marked;
        let bottom = top + 270.0_f64.max(self.series.len() as f64 * LINE - 10.0);
        let frame = Frame { left: widest + 18.0, right: WIDTH - LEGEND - 14.0, top, bottom, x, y };
        let mut out = String::new();
        let height = at(bottom + 50.0);
        let title = escape(&self.title);
        let _ = write!(
            out,
            "<svg class=\"plot\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\" role=\"img\" \
             aria-label=\"{title}\"><text x=\"8\" y=\"18\" font-weight=\"600\">{title}</text>"
        );
        self.axes(&mut out, &frame);
        self.marks(&mut out, &frame);
        for series in &self.series {
            self.draw(&mut out, &frame, series);
        }
        self.front(&mut out, &frame);
        self.legend(&mut out, &frame);
        if points().next().is_none() {
            let (x, y) = ((frame.left + frame.right) / 2.0, (frame.top + frame.bottom) / 2.0);
            let _ = write!(
                out,
                "<text class=\"t mid\" x=\"{}\" y=\"{}\">no run has such a value</text>",
                at(x),
                at(y)
            );
        }
        out.push_str("</svg>");
        out
    }

    fn axes(&self, out: &mut String, frame: &Frame) {
        let (left, right, top, bottom) = (at(frame.left), at(frame.right), at(frame.top), at(frame.bottom));
        let y_title = escape(&fit(&self.y.title, frame.right - 8.0));
        let _ = write!(out, "<text class=\"t\" x=\"8\" y=\"40\">{y_title}</text>");
        for (value, label) in &frame.y.ticks {
            let y = frame.place((frame.x.low, *value)).1;
            let _ = write!(
                out,
                "<line class=\"g\" x1=\"{left}\" x2=\"{right}\" y1=\"{y}\" y2=\"{y}\"/>\
                 <text class=\"t e\" x=\"{}\" y=\"{}\">{}</text>",
                at(frame.left - 8.0),
                at(y + 4.5),
                escape(label),
                y = at(y)
            );
        }
        let mut free = f64::NEG_INFINITY;
        for (value, label) in &frame.x.ticks {
            let x = frame.place((*value, frame.y.low)).0;
            let _ = write!(
                out,
                "<line class=\"g\" x1=\"{x}\" x2=\"{x}\" y1=\"{top}\" y2=\"{bottom}\"/>",
                x = at(x)
            );
            let half = text_width(label) / 2.0;
            if x - half >= free {
                free = x + half + 10.0;
                let y = at(frame.bottom + 17.0);
                let _ =
                    write!(out, "<text class=\"t mid\" x=\"{}\" y=\"{y}\">{}</text>", at(x), escape(label));
            }
        }
        let middle = at((frame.left + frame.right) / 2.0);
        let _ = write!(
            out,
            "<path class=\"ax\" fill=\"none\" d=\"M{left} {top}V{bottom}H{right}\"/>\
             <text class=\"t mid\" x=\"{middle}\" y=\"{}\">{}</text>",
            at(frame.bottom + 38.0),
            escape(&self.x.title)
        );
    }

    /// Names stand above the frame; one that would touch the one before it is left out, its line is not.
    fn marks(&self, out: &mut String, frame: &Frame) {
        let mut free = f64::NEG_INFINITY;
        for (value, name) in self.marks.iter().filter(|(value, _)| self.x.shows(*value)) {
            let x = frame.place((*value, frame.y.low)).0;
            let (top, bottom) = (at(frame.top), at(frame.bottom));
            let _ = write!(
                out,
                "<line class=\"mk\" x1=\"{x}\" x2=\"{x}\" y1=\"{top}\" y2=\"{bottom}\"/>",
                x = at(x)
            );
            let start = x.min(frame.right - text_width(name));
            if start >= free {
                free = start + text_width(name) + 8.0;
                let y = at(frame.top - 6.0);
                let _ =
                    write!(out, "<text class=\"t\" x=\"{}\" y=\"{y}\">{}</text>", at(start), escape(name));
            }
        }
    }

    fn draw(&self, out: &mut String, frame: &Frame, series: &Series) {
        let class = class(series.colour);
        let shown = |point: (f64, f64)| self.x.shows(point.0) && self.y.shows(point.1);
        let range = |i: usize| {
            let (low, high) = *series.ranges.get(i)?;
            let x = series.points[i].0;
            let low = if self.y.log && low <= 0.0 { frame.y.low } else { low };
            (shown((x, low)) && shown((x, high))).then(|| (frame.place((x, low)), frame.place((x, high))))
        };
        if series.line {
            for run in runs(&series.points, shown) {
                let band: Vec<_> = run.clone().filter_map(range).collect();
                // Points with signs have intervals of their own.
                if band.len() > 1 && !series.signs {
                    let there = band.iter().map(|(low, _)| low);
                    let back = band.iter().rev().map(|(_, high)| high);
                    let _ = write!(out, "<path class=\"b {class}\" d=\"{}Z\"/>", path(there.chain(back)));
                }
                let places: Vec<_> = run.map(|i| frame.place(series.points[i])).collect();
                let _ = write!(out, "<path class=\"l {class}\" d=\"{}\"/>", path(places.iter()));
            }
        }
        let alone = |i: usize| {
            let near =
                |j: Option<usize>| j.and_then(|j| series.points.get(j)).is_some_and(|point| shown(*point));
            !near(i.checked_sub(1)) && !near(Some(i + 1))
        };
        for (i, point) in series.points.iter().enumerate().filter(|(_, point)| shown(**point)) {
            if !series.signs && !alone(i) {
                continue;
            }
            let (x, y) = frame.place(*point);
            if series.signs
                && let Some(((_, low), (_, high))) = range(i)
            {
                let (x, low, high) = (at(x), at(low), at(high));
                let _ = write!(
                    out,
                    "<line class=\"w {class}\" x1=\"{x}\" x2=\"{x}\" y1=\"{low}\" y2=\"{high}\"/>"
                );
            }
            out.push_str(&marker(series.colour, x, y));
        }
    }

    fn front(&self, out: &mut String, frame: &Frame) {
        let shown = self.front.iter().filter(|point| self.x.shows(point.0) && self.y.shows(point.1));
        let places: Vec<_> = shown.map(|&point| frame.place(point)).collect();
        if places.len() > 1 {
            let _ = write!(out, "<path class=\"fr\" d=\"{}\"/>", path(places.iter()));
        }
    }

    fn legend(&self, out: &mut String, frame: &Frame) {
        let left = WIDTH - LEGEND;
        for (i, series) in self.series.iter().enumerate() {
            let y = frame.top + 6.0 + i as f64 * LINE;
            if series.line {
                let (from, to, y) = (at(left), at(left + 26.0), at(y));
                let class = class(series.colour);
                let _ = write!(
                    out,
                    "<line class=\"l {class}\" x1=\"{from}\" x2=\"{to}\" y1=\"{y}\" y2=\"{y}\"/>"
                );
            }
            if series.signs {
                out.push_str(&marker(series.colour, left + 13.0, y));
            }
            let name = escape(&fit(&series.name, LEGEND - 36.0));
            let full = escape(&series.name);
            let _ = write!(
                out,
                "<text x=\"{}\" y=\"{}\">{name}<title>{full}</title></text>",
                at(left + 34.0),
                at(y + 4.5)
            );
        }
    }
}

/// The ranges of points that are all shown.
fn runs(points: &[(f64, f64)], shown: impl Fn((f64, f64)) -> bool) -> Vec<std::ops::Range<usize>> {
    let mut found: Vec<std::ops::Range<usize>> = Vec::new();
    for (i, _) in points.iter().enumerate().filter(|(_, point)| shown(**point)) {
        match found.last_mut() {
            Some(last) if last.end == i => last.end = i + 1,
            _ => found.push(i..i + 1),
        }
    }
    found.retain(|run| run.len() > 1);
    found
}

fn path<'a>(places: impl Iterator<Item = &'a (f64, f64)>) -> String {
    let mut out = String::new();
    for (i, (x, y)) in places.enumerate() {
        let _ = write!(out, "{}{} {}", if i == 0 { "M" } else { "L" }, at(*x), at(*y));
    }
    out
}

#[cfg(test)]
#[path = "chart_tests.rs"]
mod tests;
