//! `query-qmp-schema`: the definitions of commands, events and their types as data.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::command::commands;
use crate::event::EVENTS;
use crate::schema::{Member, Type};
use crate::types::{SchemaInfo, SchemaInfoObjectVariant, SchemaMetaType};

/// Types by name, each once.
#[derive(Default)]
struct Types(BTreeMap<String, SchemaInfo>);

fn entry(name: &str, meta_type: SchemaMetaType) -> SchemaInfo {
    SchemaInfo {
        name: name.to_owned(),
        meta_type,
        json_type: None,
        members: None,
        values: None,
        element_type: None,
        tag: None,
        variants: None,
        arg_type: None,
        ret_type: None,
        allow_oob: None,
        doc: None,
    }
}

impl Types {
    fn put(&mut self, info: SchemaInfo) -> String {
        let name = info.name.clone();
        self.0.insert(name.clone(), info);
        name
    }

    fn builtin(&mut self, name: &str, json_type: &str) -> String {
        self.put(SchemaInfo { json_type: Some(json_type.to_owned()), ..entry(name, SchemaMetaType::Builtin) })
    }

    fn values(&mut self, name: &str, values: impl Iterator<Item = &'static str>) -> String {
        let values: Vec<_> = values.map(str::to_owned).collect();
        let members = values.iter().map(|value| json!({"name": value})).collect();
        self.put(SchemaInfo {
            members: Some(members),
            values: Some(values),
            ..entry(name, SchemaMetaType::Enum)
        })
    }

    /// Adds a type with all types that it refers to. Returns its name.
    fn add(&mut self, of: &Type) -> String {
        match of {
            Type::Str => self.builtin("str", "string"),
            Type::Int => self.builtin("int", "int"),
            Type::Number => self.builtin("number", "number"),
            Type::Bool => self.builtin("bool", "boolean"),
            Type::Null => self.builtin("null", "null"),
            Type::Any => self.builtin("any", "value"),
            Type::Array(element) => {
                let element = self.add(element);
                let name = format!("[{element}]");
                self.put(SchemaInfo { element_type: Some(element), ..entry(&name, SchemaMetaType::Array) })
            }
            Type::Enum { name, values } => self.values(name, values.iter().copied()),
            Type::Object { name, members } => self.object(name, *members),
            Type::Union { name, variants } => self.union(name, &variants()),
            Type::Alternate { name, of } => {
                let members = of().iter().map(|of| json!({"type": self.add(of)})).collect();
                self.put(SchemaInfo { members: Some(members), ..entry(name, SchemaMetaType::Alternate) })
            }
        }
    }

    fn object(&mut self, name: &str, members: fn() -> Vec<Member>) -> String {
        if self.0.contains_key(name) {
            return name.to_owned();
        }
        // Entered before its members, since an object can contain its own type.
        self.put(entry(name, SchemaMetaType::Object));
        let members = members().iter().map(|member| self.member(member)).collect();
        self.put(SchemaInfo { members: Some(members), ..entry(name, SchemaMetaType::Object) })
    }

    fn member(&mut self, member: &Member) -> Value {
        let mut value = json!({"name": member.name, "type": self.add(&member.of), "x-doc": member.doc});
        if member.optional {
            // QAPI's schema has no default values yet: null means that the member can be left out.
            value["default"] = Value::Null;
        }
        value
    }

    fn union(&mut self, name: &str, variants: &[(&'static str, Type)]) -> String {
        let kind = self.values(&format!("{name}Kind"), variants.iter().map(|(case, _)| *case));
        let variants = variants.iter().map(|(case, of)| {
            let members = vec![json!({"name": "data", "type": self.add(of)})];
            let wrapper = format!("q_obj_{name}-{case}-wrapper");
            let of =
                self.put(SchemaInfo { members: Some(members), ..entry(&wrapper, SchemaMetaType::Object) });
            SchemaInfoObjectVariant { case: (*case).to_owned(), of }
        });
        let variants = variants.collect();
        self.put(SchemaInfo {
            members: Some(vec![json!({"name": "type", "type": kind})]),
            tag: Some("type".to_owned()),
            variants: Some(variants),
            ..entry(name, SchemaMetaType::Object)
        })
    }

    /// Adds the arguments of a command or the data of an event. Returns the type's name, which is made
    /// of the wire name: its Rust name means nothing on the wire.
    fn members_of(&mut self, wire: &str, of: &Type) -> String {
        match of {
            Type::Object { members, .. } => self.object(&format!("q_obj_{wire}-arg"), *members),
            other => self.add(other),
        }
    }
}

/// All commands, all events, and the types that they refer to.
pub(crate) fn schema() -> Vec<SchemaInfo> {
    let mut types = Types::default();
    let mut entries = Vec::new();
    for command in commands() {
        entries.push(SchemaInfo {
            arg_type: Some(types.members_of(command.name, &(command.arguments)())),
            ret_type: Some(types.add(&(command.answer)())),
            allow_oob: Some(false),
            doc: Some(command.doc.to_owned()),
            ..entry(command.name, SchemaMetaType::Command)
        });
    }
    for event in EVENTS {
        entries.push(SchemaInfo {
            arg_type: Some(types.members_of(event.name, &(event.data)())),
            doc: Some(event.doc.to_owned()),
            ..entry(event.name, SchemaMetaType::Event)
        });
    }
    entries.extend(types.0.into_values());
    entries
}

#[cfg(test)]
#[path = "introspect_tests.rs"]
mod tests;
