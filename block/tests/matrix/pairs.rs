//! Combinations of options: all of them, or a few that contain every pair of values.

use std::collections::BTreeSet;

/// One option and its values.
pub type Factor = (&'static str, &'static [&'static str]);

/// A value for each factor.
pub type Row = Vec<&'static str>;

/// A factor and one of its values, by their numbers.
type Choice = (usize, usize);

/// Returns every combination that `legal` allows. `legal` is called with the first values of a row, and
/// again with each further one.
pub fn product(factors: &[Factor], legal: impl Fn(&[&str]) -> bool) -> Vec<Row> {
    let mut rows = vec![Vec::new()];
    for (_, values) in factors {
        let longer = |row: &Row| -> Vec<Row> {
            values.iter().map(|value| [&row[..], &[value]].concat()).filter(|row| legal(row)).collect()
        };
        rows = rows.iter().flat_map(longer).collect();
    }
    rows
}

/// Returns a few rows that contain every pair of values of any legal row (greedy, in a fixed order).
pub fn pairwise(factors: &[Factor], legal: impl Fn(&[&str]) -> bool) -> Vec<Row> {
    let mut missing = BTreeSet::new();
    for (i, (_, values)) in factors.iter().enumerate() {
        for (j, (_, others)) in factors.iter().enumerate().skip(i + 1) {
            for a in 0..values.len() {
                missing.extend((0..others.len()).map(|b| ((i, a), (j, b))));
            }
        }
    }
    let mut rows = Vec::new();
    while let Some(wanted) = missing.first().copied() {
        let mut search = Search { factors, legal: &legal, missing: &missing, wanted, chosen: Vec::new() };
        if !search.complete() {
            // No legal row has these two.
            missing.remove(&wanted);
            continue;
        }
        let chosen = search.chosen;
        missing.retain(|((i, a), (j, b))| chosen[*i] != *a || chosen[*j] != *b);
        rows.push(chosen.iter().zip(factors).map(|(n, (_, values))| values[*n]).collect());
    }
    rows
}

struct Search<'a> {
    factors: &'a [Factor],
    legal: &'a dyn Fn(&[&str]) -> bool,
    missing: &'a BTreeSet<(Choice, Choice)>,
    /// The pair that the row has to have.
    wanted: (Choice, Choice),
    chosen: Vec<usize>,
}

impl Search<'_> {
    /// Completes the row, trying first the values that cover most of the missing pairs. Returns false if
    /// no legal row has the wanted pair.
    fn complete(&mut self) -> bool {
        let at = self.chosen.len();
        let Some((_, values)) = self.factors.get(at) else { return true };
        let (first, second) = self.wanted;
        let mut order: Vec<usize> = match [first, second].iter().find(|choice| choice.0 == at) {
            Some(choice) => vec![choice.1],
            None => (0..values.len()).collect(),
        };
        order.sort_by_key(|value| std::cmp::Reverse(self.gain((at, *value))));
        for value in order {
            self.chosen.push(value);
            let row: Vec<&str> =
                self.chosen.iter().zip(self.factors).map(|(n, (_, values))| values[*n]).collect();
            if (self.legal)(&row) && self.complete() {
                return true;
            }
            self.chosen.pop();
        }
        false
    }

    fn gain(&self, choice: Choice) -> usize {
        let before = self.chosen.iter().copied().enumerate();
        let (first, second) = self.wanted;
        let later = [first, second].into_iter().filter(|wanted| wanted.0 > choice.0);
        let pairs = before.map(|other| (other, choice)).chain(later.map(|other| (choice, other)));
        pairs.filter(|pair| self.missing.contains(pair)).count()
    }
}
