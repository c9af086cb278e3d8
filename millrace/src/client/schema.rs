//! A server's schema of its commands, for typing arguments and for completing them.

use std::collections::HashMap;

use qmp::types::{SchemaInfo, SchemaMetaType};
use qmp::{Client, command};
use serde_json::{Map, Value};

use crate::Failure;

/// A server's schema, by name; empty if the server has none.
#[derive(Default)]
pub(super) struct Schema(HashMap<String, SchemaInfo>);

impl Schema {
    /// Asks the server for its schema. A server without one still takes commands; the types of their
    /// arguments are then guessed.
    pub(super) fn ask(client: &mut Client) -> Self {
        // Entries are parsed one by one, since some of QEMU's have members that are unknown here.
        let entries = client.execute_json(<command::QueryQmpSchema as command::Request>::NAME, Value::Null);
        let Ok(Value::Array(entries)) = entries else { return Schema::default() };
        let entries = entries.into_iter().filter_map(|entry| serde_json::from_value(entry).ok());
        Schema(entries.map(|entry: SchemaInfo| (entry.name.clone(), entry)).collect())
    }

    /// Returns the names of all commands, sorted.
    pub(super) fn commands(&self) -> Vec<&str> {
        let is_command = |info: &&SchemaInfo| info.meta_type == SchemaMetaType::Command;
        let mut names: Vec<_> = self.0.values().filter(is_command).map(|info| info.name.as_str()).collect();
        names.sort_unstable();
        names
    }

    /// Returns the description of a command, if the server gives one.
    pub(super) fn doc(&self, command: &str) -> Option<&str> {
        self.0.get(command)?.doc.as_deref()
    }

    /// Returns a command's arguments: name, type, and true if the argument is optional.
    pub(super) fn members(&self, command: &str) -> Vec<(&str, &str, bool)> {
        let of = self.0.get(command).and_then(|info| info.arg_type.as_deref());
        of.map_or_else(Vec::new, |of| self.members_of(of))
    }

    fn members_of(&self, of: &str) -> Vec<(&str, &str, bool)> {
        let members = self.0.get(of).and_then(|info| info.members.as_ref());
        members
            .into_iter()
            .flatten()
            .filter_map(|member| {
                let text = |key| member.get(key).and_then(Value::as_str);
                Some((text("name")?, text("type")?, member.get("default").is_some()))
            })
            .collect()
    }

    /// Returns the values that an argument of type `of` can have, or nothing if they are unknown.
    pub(super) fn values(&self, of: &str) -> Vec<String> {
        match self.0.get(of) {
            Some(SchemaInfo { values: Some(values), .. }) => values.clone(),
            _ if of == "bool" => vec!["true".into(), "false".into()],
            _ => Vec::new(),
        }
    }

    /// Returns the type of the member `path` of type `of`, or `None` if it is unknown.
    fn member_type(&self, of: Option<&str>, path: &str) -> Option<&str> {
        let members = self.members_of(of?);
        members.iter().find(|(name, ..)| *name == path).map(|(_, of, _)| *of)
    }

    /// Converts `key=value` pairs to the arguments object. A dotted key names a member inside an argument.
    pub(super) fn arguments(&self, command: &str, pairs: &[String]) -> Result<Value, Failure> {
        let of = self.0.get(command).and_then(|info| info.arg_type.as_deref());
        let mut arguments = Map::new();
        for pair in pairs {
            let (key, text) = pair.split_once('=').ok_or_else(|| format!("'{pair}': give KEY=VALUE"))?;
            let mut object = &mut arguments;
            let mut of = of;
            let mut parts = key.split('.').peekable();
            while let Some(part) = parts.next() {
                of = self.member_type(of, part);
                if parts.peek().is_none() {
                    object.insert(part.to_owned(), self.value(key, of, text)?);
                    break;
                }
                let inner = object.entry(part).or_insert_with(|| Value::Object(Map::new()));
                object =
                    inner.as_object_mut().ok_or_else(|| format!("'{pair}': '{part}' has a value already"))?;
            }
        }
        Ok(Value::Object(arguments))
    }

    /// Converts a value to its type. If the type is unknown, the value is JSON if it parses as JSON, else a
    /// string.
    fn value(&self, key: &str, of: Option<&str>, text: &str) -> Result<Value, Failure> {
        let json = || serde_json::from_str(text).ok();
        let wrong = |what: &str| format!("{key}={text}: give {what}");
        let info = of.and_then(|of| self.0.get(of));
        let kind = info.map(|info| (info.meta_type, info.json_type.as_deref()));
        match kind {
            Some((SchemaMetaType::Builtin, Some("string")) | (SchemaMetaType::Enum, _)) => Ok(text.into()),
            Some((SchemaMetaType::Builtin, Some("boolean"))) => match text {
                "true" | "on" => Ok(true.into()),
                "false" | "off" => Ok(false.into()),
                _ => Err(wrong("true or false")),
            },
            Some((SchemaMetaType::Builtin, Some("int"))) => match text.parse::<i64>() {
                Ok(number) => Ok(number.into()),
                Err(_) => crate::options::size(text).map(Value::from).map_err(|_| wrong("a number")),
            },
            Some((SchemaMetaType::Array | SchemaMetaType::Object, _)) => json().ok_or_else(|| wrong("JSON")),
            _ => Ok(json().unwrap_or_else(|| text.into())),
        }
    }
}

#[cfg(test)]
#[path = "schema_tests.rs"]
mod tests;
