//! The plots of a report.

use std::collections::BTreeMap;

use super::metrics::{CLASSES, METRICS, exposure};
use super::summary::ranking;
use crate::plot::{Axis, Bars, Chart, Series, Unit};
use crate::record::SeriesPoint;
use crate::results::Results;
use crate::units;

/// The most points of a line; more could not be seen.
const POINTS: usize = 240;
/// The most strategies that get a plot of their own.
pub const OWN_PLOTS: usize = 24;

/// A plot of a report.
#[derive(Clone, Debug)]
pub struct Figure {
    /// The name of its file, without ending.
    pub name: String,
    /// A sentence or two about what can be seen.
    pub caption: String,
    /// The plot.
    pub svg: String,
}

impl Figure {
    pub(super) fn new(name: impl Into<String>, caption: impl Into<String>, svg: String) -> Figure {
        Figure { name: name.into(), caption: caption.into(), svg }
    }
}

/// The course of the first seed at a point, for each strategy of the experiment that has one.
fn courses(results: &Results, point: usize) -> BTreeMap<usize, Vec<&SeriesPoint>> {
    let seed = results.info.seeds.first().copied().unwrap_or_default();
    let mut found: BTreeMap<usize, Vec<&SeriesPoint>> = BTreeMap::new();
    for line in results.series.iter().filter(|line| line.point == point && line.seed == seed) {
        if let Some(strategy) = results.info.strategies.iter().position(|name| *name == line.strategy) {
            found.entry(strategy).or_default().push(line);
        }
    }
    found
}

/// Takes `of` from a course, with at most [`POINTS`] points: of several that fall together, the largest.
fn curve(course: &[&SeriesPoint], of: fn(&SeriesPoint) -> f64) -> Vec<(f64, f64)> {
    let size = course.len().div_ceil(POINTS).max(1);
    let largest = |part: &[&SeriesPoint]| part.iter().map(|line| of(line)).fold(f64::NEG_INFINITY, f64::max);
    course.chunks(size).map(|part| (part[0].t_s, largest(part))).collect()
}

/// Latency over time: all strategies in one plot, and each with its bands.
pub fn latency(results: &Results, point: usize) -> (Vec<Figure>, Vec<Figure>) {
    let courses = courses(results, point);
    if !courses.values().flatten().any(|line| line.p99_ms > 0.0) {
        return (Vec::new(), Vec::new());
    }
    let time = || Axis::new("time since the command", Unit::Seconds);
    let axis = |title: &str| Axis::new(title, Unit::Millis).log();
    let name = |strategy: usize| &results.info.strategies[strategy];
    let lines = courses
        .iter()
        .map(|(&strategy, course)| Series::line(name(strategy), strategy, curve(course, |line| line.p99_ms)));
    let title = "99th percentile of the guest's latency";
    let all = Chart::new(title, time(), axis("99th percentile of a second"), lines.collect());
    let caption = "Each line is one run, that of the first seed. It ends with the migration.";
    let mut own = Vec::new();
    for (&strategy, course) in courses.iter().take(OWN_PLOTS) {
        let (p50, p99) = (curve(course, |line| line.p50_ms), curve(course, |line| line.p99_ms));
        let max = curve(course, |line| line.max_ms);
        let band = p50.iter().zip(&max).map(|(low, max)| (low.1, max.1)).collect();
        let series = vec![
            Series::line("99th percentile", strategy, p99).ranges(band),
            Series::line("median", strategy + 8, p50),
        ];
        let mut chart =
            Chart::new(name(strategy), time(), axis("latency: median, 99th percentile, longest"), series);
        chart.marks = marks(course);
        let caption = "The band reaches from the median to the longest request.";
        own.push(Figure::new(
            format!("latency-{}", file_name(name(strategy), strategy)),
            caption,
            chart.svg(),
        ));
    }
    (vec![Figure::new("latency", caption, all.svg())], own)
}

/// The begin of each part of a migration but the first.
fn marks(course: &[&SeriesPoint]) -> Vec<(f64, String)> {
    let name = |phase: &str| match phase {
        "before" => "guest at the source",
        "stopped" => "guest stopped",
        "after" => "guest at the target",
        "done" => "done",
        _ => "",
    };
    let changes = course.windows(2).filter(|pair| pair[0].phase != pair[1].phase);
    changes.map(|pair| (pair[1].t_s, name(&pair[1].phase).to_owned())).collect()
}

/// Draws the bytes that are left to copy, over time.
pub fn remaining(results: &Results, point: usize) -> Vec<Figure> {
    let courses = courses(results, point);
    let plot = |name: &str, title: &str, axis: &str, unit, of: fn(&SeriesPoint) -> f64, caption: &str| {
        let lines = courses.iter().map(|(&strategy, course)| {
            Series::line(&results.info.strategies[strategy], strategy, curve(course, of))
        });
        let time = Axis::new("time since the command", Unit::Seconds);
        Figure::new(name, caption, Chart::new(title, time, Axis::new(axis, unit), lines.collect()).svg())
    };
    vec![
        plot(
            "remaining",
            "What the target lacks",
            "missing or stale at the target",
            Unit::Bytes,
            |line| line.todo_bytes as f64,
            "Each line is one run, that of the first seed. A strategy that converges reaches 0.",
        ),
        plot(
            "sent",
            "What was sent",
            "sent over the link",
            Unit::Bytes,
            |line| line.sent_bytes as f64,
            "Bytes sent so far, in the same runs.",
        ),
    ]
}

/// The two trade-offs that a choice of a strategy is about.
pub fn pareto(results: &Results, point: usize) -> Vec<Figure> {
    let plot = |name: &str, x: usize, y: usize| {
        let rows = ranking(results, point);
        let value = |row: &super::summary::Row, metric: usize| row.values[metric];
        let axis = |metric: usize| {
            let values = rows.iter().map(|row| value(row, metric).median);
            Axis::new(METRICS[metric].label, METRICS[metric].unit).tight().fitting(values)
        };
        let mut by_strategy: Vec<_> = rows.iter().collect();
        by_strategy.sort_by_key(|row| row.strategy);
        let series = by_strategy.iter().map(|row| {
            let (x, y) = (value(row, x), value(row, y));
            Series::points(&row.name, row.strategy, vec![(x.median, y.median)]).ranges(vec![(y.low, y.high)])
        });
        let title = format!("{} against {}", METRICS[y].label, METRICS[x].label);
        let mut chart = Chart::new(&title, axis(x), axis(y), series.collect());
        chart.front = front(rows.iter().map(|row| (value(row, x).median, value(row, y).median)).collect());
        let caption = "Medians over seeds; lower and further left is better. The dashed line joins the strategies \
                       that no other one beats in both. Those that never move the guest have no place here.";
        Figure::new(name, caption, chart.svg())
    };
    vec![plot("pareto-blackout-total", 1, 2), plot("pareto-p99-amplification", 4, 3)]
}

/// The points that no other is at least as good as in both values and better in one, from left to right.
fn front(mut points: Vec<(f64, f64)>) -> Vec<(f64, f64)> {
    points.retain(|point| point.0.is_finite() && point.1.is_finite());
    points.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1)));
    let mut best = f64::INFINITY;
    points.retain(|point| {
        let better = point.1 < best;
        best = best.min(point.1);
        better
    });
    points
}

/// Seconds of each class of failure, by strategy and by the party that dies.
pub fn exposures(results: &Results, point: usize) -> Vec<Figure> {
    let mut figures = Vec::new();
    for party in 0..3 {
        let mut bars = Vec::new();
        for name in &results.info.strategies {
            let runs: Vec<_> =
                results.runs.iter().filter(|run| run.point == point && run.strategy == *name).collect();
            let mean = |class: usize| {
                runs.iter().map(|run| exposure(run)[party].1[class]).sum::<f64>() / runs.len().max(1) as f64
            };
            bars.push((name.clone(), (0..5).map(mean).collect()));
        }
        let name = ["source", "target", "link"][party];
        let plot = Bars {
            title: match name {
                "link" => "If the link is cut at an instant, this is what it costs".to_owned(),
                party => format!("If the {party} dies at an instant, this is what it costs"),
            },
            axis: Axis::new("time during which it costs that (mean over seeds)", Unit::Seconds),
            parts: CLASSES.map(str::to_owned).to_vec(),
            bars,
        };
        let caption = "Each run is forked at instants of its course, and the party dies there. The parts of a bar are \
                       the time during which such a death has that cost.";
        figures.push(Figure::new(format!("exposure-{name}"), caption, plot.svg()));
    }
    figures
}

/// A name for a file: what is no letter or digit becomes a dash, and the number keeps names apart.
pub(super) fn file_name(name: &str, number: usize) -> String {
    let plain: String =
        name.chars().take(60).map(|c| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' }).collect();
    format!("{number:02}-{plain}")
}

/// Returns the number of a setting's text and its unit, if it is a number.
pub(super) fn number(text: &str) -> Option<(f64, Unit)> {
    let plain = || text.parse().ok().map(|value| (value, Unit::Plain));
    let rate = || units::rate(text).map(|value| (value, Unit::Rate));
    let time = || units::time(text).map(|value| (value, Unit::Seconds));
    let size = || units::size(text).map(|value| (value as f64, Unit::Bytes));
    let share = || units::percent(text).map(|value| (value, Unit::Share));
    plain().or_else(rate).or_else(time).or_else(size).or_else(share)
}

#[cfg(test)]
#[path = "figures_tests.rs"]
mod tests;
