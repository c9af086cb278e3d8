//! TOML tables read key by key, so that an unknown key or an impossible value is an error with its line.

use std::collections::BTreeSet;
use std::ops::Range;

use thiserror::Error;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::units;

/// An error of an experiment file, or of a file of results. It says where and what to do.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[error("{file}:{line}: {text}")]
pub struct LabError {
    /// The file's name.
    pub file: String,
    /// The line's number, from 1.
    pub line: usize,
    /// The reason.
    pub text: String,
}

/// The text of a file, for the lines of errors.
#[derive(Clone, Copy)]
pub struct Source<'a> {
    /// The file's name.
    pub file: &'a str,
    /// The file's text.
    pub text: &'a str,
}

impl<'a> Source<'a> {
    /// Makes the error of a place.
    pub fn error(&self, span: Range<usize>, text: impl Into<String>) -> LabError {
        let before = self.text.get(..span.start).unwrap_or(self.text);
        LabError { file: self.file.to_owned(), line: before.matches('\n').count() + 1, text: text.into() }
    }

    /// Reads the whole file as a table.
    ///
    /// # Errors
    /// If it is not TOML.
    pub fn parse(&self) -> Result<Spanned<DeTable<'a>>, LabError> {
        DeTable::parse(self.text).map_err(|e| self.error(e.span().unwrap_or(0..0), e.message()))
    }
}

/// Returns the candidate that was probably meant, if there is one: `; did you mean 'x'?`, or nothing.
pub fn suggestion<'a>(given: &str, candidates: impl IntoIterator<Item = &'a str>) -> String {
    let near = candidates.into_iter().map(|name| (strsim::damerau_levenshtein(given, name), name)).min();
    match near {
        Some((distance, name)) if distance <= 1 + name.len() / 4 => format!("; did you mean '{name}'?"),
        _ => String::new(),
    }
}

/// A table of which keys are taken one after the other. What is left at the end is unknown.
pub struct Table<'s> {
    source: Source<'s>,
    name: String,
    span: Range<usize>,
    table: &'s DeTable<'s>,
    known: BTreeSet<&'static str>,
}

impl<'s> Table<'s> {
    /// Starts to read a table. `name` is for messages, empty for the file itself.
    pub fn new(source: Source<'s>, name: &str, span: Range<usize>, table: &'s DeTable<'s>) -> Self {
        Table { source, name: name.to_owned(), span, table, known: BTreeSet::new() }
    }

    /// Makes an error of the table as a whole.
    pub fn error(&self, text: impl Into<String>) -> LabError {
        self.source.error(self.span.clone(), text)
    }

    /// Makes an error of a key's value, or of the table if it has none.
    pub fn error_at(&self, key: &str, text: impl Into<String>) -> LabError {
        let span = self.table.get(key).map_or(self.span.clone(), Spanned::span);
        self.source.error(span, format!("{}: {}", self.full(key), text.into()))
    }

    fn full(&self, key: &str) -> String {
        if self.name.is_empty() { key.to_owned() } else { format!("{}.{key}", self.name) }
    }

    /// Takes a value.
    pub fn value(&mut self, key: &'static str) -> Option<&'s Spanned<DeValue<'s>>> {
        self.known.insert(key);
        self.table.get(key)
    }

    /// Takes a table; `None` if the key is missing.
    pub fn table(&mut self, key: &'static str) -> Result<Option<Table<'s>>, LabError> {
        let Some(value) = self.value(key) else { return Ok(None) };
        let DeValue::Table(table) = value.get_ref() else {
            return Err(self.error_at(key, format!("is not a table: write [{}]", self.full(key))));
        };
        Ok(Some(Table::new(self.source, &self.full(key), value.span(), table)))
    }

    /// Takes a text that `parse` understands; `form` is an example of one.
    pub fn text<T>(
        &mut self,
        key: &'static str,
        form: &str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Result<Option<T>, LabError> {
        let Some(value) = self.value(key) else { return Ok(None) };
        let parsed = value.get_ref().as_str().and_then(parse);
        parsed.map(Some).ok_or_else(|| self.error_at(key, format!("give {form}")))
    }

    /// Takes a size in bytes, above 0.
    pub fn size(&mut self, key: &'static str) -> Result<Option<u64>, LabError> {
        self.text(key, "a size above 0, as in \"64G\"", |text| units::size(text).filter(|size| *size > 0))
    }

    /// Takes a rate in bytes per second, above 0.
    pub fn rate(&mut self, key: &'static str) -> Result<Option<f64>, LabError> {
        let form = "a rate above 0, as in \"400M/s\" or \"10Gbit\"";
        self.text(key, form, |text| units::rate(text).filter(|rate| *rate > 0.0))
    }

    /// Takes a time in seconds.
    pub fn time(&mut self, key: &'static str) -> Result<Option<f64>, LabError> {
        self.text(key, "a time, as in \"20ms\" or \"6h\"", units::time)
    }

    /// Takes a number in a range.
    pub fn number(&mut self, key: &'static str, least: f64, most: f64) -> Result<Option<f64>, LabError> {
        let Some(value) = self.value(key) else { return Ok(None) };
        let found = match value.get_ref() {
            DeValue::Integer(number) => number.as_str().replace('_', "").parse().ok(),
            DeValue::Float(number) => number.as_str().replace('_', "").parse().ok(),
            _ => None,
        };
        match found.filter(|number| (least..=most).contains(number)) {
            Some(number) => Ok(Some(number)),
            None => Err(self.error_at(key, format!("give a number from {least} to {most}"))),
        }
    }

    /// Takes a whole number in a range.
    pub fn whole(&mut self, key: &'static str, least: u32, most: u64) -> Result<Option<u64>, LabError> {
        let found = self.number(key, f64::from(least), most as f64)?;
        if found.is_some_and(|number| number.fract() != 0.0) {
            return Err(self.error_at(key, "give a whole number"));
        }
        Ok(found.map(|number| number as u64))
    }

    /// Takes a truth value.
    pub fn flag(&mut self, key: &'static str) -> Result<Option<bool>, LabError> {
        let Some(value) = self.value(key) else { return Ok(None) };
        value.get_ref().as_bool().map(Some).ok_or_else(|| self.error_at(key, "give true or false"))
    }

    /// Takes a list of texts, each with its place.
    pub fn texts(&mut self, key: &'static str) -> Result<Vec<(String, Range<usize>)>, LabError> {
        let Some(value) = self.value(key) else { return Ok(Vec::new()) };
        let wrong = || self.error_at(key, "give a list of texts, as in [\"a\", \"b\"]");
        let list = value.get_ref().as_array().ok_or_else(wrong)?;
        let text = |item: &Spanned<DeValue<'_>>| Some((item.get_ref().as_str()?.to_owned(), item.span()));
        list.iter().map(text).collect::<Option<Vec<_>>>().ok_or_else(wrong)
    }

    /// Ends the reading.
    ///
    /// # Errors
    /// The first key that nobody took, with the one that was probably meant.
    pub fn finish(self) -> Result<(), LabError> {
        for key in self.table.keys() {
            let name: &str = key.get_ref();
            if !self.known.contains(name) {
                let hint = suggestion(name, self.known.iter().copied());
                let text = format!("unknown key '{}'{hint}", self.full(name));
                return Err(self.source.error(key.span(), text));
            }
        }
        Ok(())
    }

    /// The keys and values, for tables of free names.
    pub fn entries(
        &self,
    ) -> impl Iterator<Item = (&'s str, Range<usize>, &'s Spanned<DeValue<'s>>)> + use<'s> {
        self.table.iter().map(|(key, value)| (key.get_ref().as_ref(), key.span(), value))
    }

    /// The text of the file.
    pub fn source(&self) -> Source<'s> {
        self.source
    }
}
