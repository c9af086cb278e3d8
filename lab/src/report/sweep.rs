//! Metrics over the values of a sweep.

use std::collections::BTreeMap;

use super::figures::{Figure, file_name, number};
use super::metrics::METRICS;
use super::summary::{Row, ranking};
use crate::plot::{Axis, Chart, Series, Unit};
use crate::results::Results;

/// The metrics over a sweep, by their numbers in [`METRICS`].
const SHOWN: [usize; 5] = [0, 2, 3, 4, 6];

/// Splits the settings of a point into keys and values. A value may have blanks: a word without `=` belongs
/// to the value before it.
pub fn settings(label: &str) -> Vec<(String, String)> {
    let mut pairs: Vec<(String, String)> = Vec::new();
    for word in label.split(' ') {
        match (word.split_once('='), pairs.last_mut()) {
            (Some((key, value)), _) => pairs.push((key.to_owned(), value.to_owned())),
            (None, Some(last)) => last.1 += &format!(" {word}"),
            (None, None) => {}
        }
    }
    pairs
}

/// Plots each metric over each key of the sweep. The other keys keep the values that they have at the point
/// `middle`.
pub fn sweeps(results: &Results, middle: usize) -> Vec<Figure> {
    let points: Vec<BTreeMap<String, String>> =
        results.info.points.iter().map(|label| settings(label).into_iter().collect()).collect();
    let Some(chosen) = points.get(middle) else { return Vec::new() };
    let mut figures = Vec::new();
    for key in chosen.keys() {
        let line: Vec<usize> = (0..points.len())
            .filter(|&point| {
                chosen.iter().all(|(other, value)| other == key || points[point].get(other) == Some(value))
            })
            .collect();
        if line.len() < 2 {
            continue;
        }
        let values: Vec<&str> =
            line.iter().map(|&point| points[point].get(key).map_or("", String::as_str)).collect();
        let (mut places, axis) = axis(key, &values);
        places.iter_mut().zip(&line).for_each(|(place, point)| place.1 = *point);
        places.sort_by(|a, b| a.0.total_cmp(&b.0));
        let fixed: Vec<String> = chosen
            .iter()
            .filter(|(other, _)| *other != key)
            .map(|(key, value)| format!("{key} = {value}"))
            .collect();
        let fixed = if fixed.is_empty() { String::new() } else { format!(" Here {}.", fixed.join(", ")) };
        let rows: Vec<(f64, Vec<Row>)> =
            places.iter().map(|&(x, point)| (x, ranking(results, point))).collect();
        figures.extend(SHOWN.map(|metric| plot(results, &rows, key, &axis, metric, &fixed)));
        figures.push(moved(results, &rows, key, &axis, &fixed));
    }
    figures
}

/// The places of values on an axis (with 0 for a point), and the axis: that of numbers if all are numbers of
/// one unit, else one that counts them. There must be a value.
fn axis(key: &str, values: &[&str]) -> (Vec<(f64, usize)>, Axis) {
    let numbers: Option<Vec<(f64, Unit)>> = values.iter().map(|value| number(value)).collect();
    let numbers = numbers.filter(|all| all.windows(2).all(|pair| pair[0].1 == pair[1].1));
    let places: Vec<f64> = match &numbers {
        Some(numbers) => numbers.iter().map(|number| number.0).collect(),
        None => (0..values.len()).map(|i| i as f64).collect(),
    };
    let mut ticks: Vec<(f64, String)> =
        places.iter().copied().zip(values.iter().map(|value| (*value).to_owned())).collect();
    ticks.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (low, high) = (ticks[0].0, ticks[ticks.len() - 1].0);
    let unit = numbers.map_or(Unit::Plain, |numbers| numbers[0].1);
    let axis = Axis::new(key, unit).tight().ticks(ticks);
    let axis = if low > 0.0 && high > 7.0 * low { axis.log() } else { axis };
    (places.into_iter().map(|place| (place, 0)).collect(), axis)
}

fn plot(
    results: &Results,
    rows: &[(f64, Vec<Row>)],
    key: &str,
    x: &Axis,
    metric: usize,
    fixed: &str,
) -> Figure {
    let shown = &METRICS[metric];
    let series = results.info.strategies.iter().enumerate().map(|(strategy, name)| {
        let of =
            |row: &Vec<Row>| row.iter().find(|row| row.strategy == strategy).map(|row| row.values[metric]);
        let found: Vec<_> = rows.iter().filter_map(|(x, row)| Some((*x, of(row)?))).collect();
        let points = found.iter().map(|(x, value)| (*x, value.median)).collect();
        let ranges = found.iter().map(|(_, value)| (value.low, value.high)).collect();
        Series { signs: true, ..Series::line(name, strategy, points).ranges(ranges) }
    });
    let series: Vec<Series> = series.collect();
    let all = series.iter().flat_map(|series| series.points.iter().map(|point| point.1));
    let y = Axis::new(shown.label, shown.unit).tight().fitting(all);
    let title = format!("{} over {key}", shown.label);
    let caption = format!(
        "Medians with 95 % intervals. A line that ends early: the strategy no longer moves the guest.{fixed}"
    );
    let name = format!("sweep-{}-{}", file_name(key, metric), shown.column);
    Figure::new(name, caption, Chart::new(&title, x.clone(), y, series).svg())
}

/// The share of runs that moved the guest.
fn moved(results: &Results, rows: &[(f64, Vec<Row>)], key: &str, x: &Axis, fixed: &str) -> Figure {
    let series = results.info.strategies.iter().enumerate().map(|(strategy, name)| {
        let of = |row: &Vec<Row>| row.iter().find(|row| row.strategy == strategy).cloned();
        let share = |row: Row| row.moved as f64 / row.runs.max(1) as f64;
        let points = rows.iter().filter_map(|(x, row)| Some((*x, share(of(row)?)))).collect();
        Series { signs: true, ..Series::line(name, strategy, points) }
    });
    let title = format!("share of runs that moved the guest, over {key}");
    let y = Axis::new("moved before the deadline", Unit::Share);
    let caption = format!("Where a line falls, the strategy stops converging.{fixed}");
    let name = format!("sweep-{}-moved", file_name(key, 9));
    Figure::new(name, caption, Chart::new(&title, x.clone(), y, series.collect()).svg())
}

#[cfg(test)]
#[path = "sweep_tests.rs"]
mod tests;
