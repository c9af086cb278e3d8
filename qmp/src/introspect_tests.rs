//! The schema as a client walks it.

use std::collections::HashMap;

use super::*;

#[test]
fn every_name_that_the_schema_refers_to_is_in_it_once() {
    let schema = schema();
    let mut by_name = HashMap::new();
    for info in &schema {
        assert!(by_name.insert(info.name.as_str(), info).is_none(), "{} is there twice", info.name);
    }
    let mut referred = Vec::new();
    for info in &schema {
        referred.extend(info.arg_type.iter().chain(&info.ret_type).chain(&info.element_type).cloned());
        referred.extend(info.variants.iter().flatten().map(|variant| variant.of.clone()));
        let types = info.members.iter().flatten().filter_map(|member| member["type"].as_str());
        referred.extend(types.map(str::to_owned));
    }
    for name in referred {
        assert!(by_name.contains_key(name.as_str()), "{name} is not in the schema");
    }
    for command in commands() {
        assert_eq!(by_name[command.name].meta_type, SchemaMetaType::Command);
    }
}

#[test]
fn what_is_optional_has_a_default() {
    let schema = schema();
    let change = schema.iter().find(|info| info.name == "q_obj_change-arg").unwrap();
    let member = |name| change.members.iter().flatten().find(|member| member["name"] == name).unwrap();
    assert!(member("device").get("default").is_none());
    assert_eq!(member("format").get("default"), Some(&Value::Null));
    assert_eq!(member("notify")["type"], "bool");
}

/// QEMU 10.0's names and types, in the form that the file's head explains.
struct Record<'a>(HashMap<&'a str, Entry<'a>>);

enum Entry<'a> {
    /// A command or an event, with its answer.
    Message(Vec<Field<'a>>, &'a str),
    Object(Vec<Field<'a>>),
    Enum(Vec<Field<'a>>),
    Union(Vec<Field<'a>>),
}

/// A member, or a value of an enumeration or union.
struct Field<'a> {
    name: &'a str,
    of: &'a str,
    optional: bool,
    left_out: bool,
}

impl<'a> Field<'a> {
    fn parse(text: &'a str) -> Self {
        let (name, of) = text.split_once(": ").unwrap_or((text, "*"));
        let (name, optional) = name.strip_suffix('?').map_or((name, false), |name| (name, true));
        let (name, left_out) = name.strip_prefix('-').map_or((name, false), |name| (name, true));
        Field { name, of, optional, left_out }
    }

    fn parse_all(text: &'a str, between: &str) -> Vec<Self> {
        text.split(between).filter(|part| !part.is_empty()).map(Field::parse).collect()
    }
}

impl<'a> Record<'a> {
    /// Parses `text`, which has one entry per line.
    fn parse(text: &'a str) -> Self {
        let entry = |line: &'a str| {
            let end = line.find([' ', '(']).unwrap();
            let (name, rest) = line.split_at(end);
            let entry = if let Some(rest) = rest.strip_prefix('(') {
                let (members, answer) = rest.split_once(')').unwrap();
                Entry::Message(Field::parse_all(members, ", "), answer.strip_prefix(" -> ").unwrap_or("*"))
            } else if let Some(values) = rest.strip_prefix(" = ") {
                Entry::Enum(Field::parse_all(values, " "))
            } else if let Some(values) = rest.strip_prefix(" | ") {
                Entry::Union(Field::parse_all(values, ", "))
            } else {
                let members = rest.strip_prefix(" {").and_then(|rest| rest.strip_suffix('}')).unwrap();
                Entry::Object(Field::parse_all(members, ", "))
            };
            (name, entry)
        };
        Record(text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).map(entry).collect())
    }

    /// Returns the differences between a recorded type and ours.
    fn compare(&self, path: &str, of: &'a str, ours: &Type, seen: &mut Vec<&'a str>) -> Vec<String> {
        let is_same = match (of, ours) {
            ("*", _) | ("str", Type::Str) | ("int", Type::Int) | ("bool", Type::Bool) => true,
            ("number", Type::Number) => true,
            (list, Type::Array(element)) if list.starts_with('[') => {
                return self.compare(&format!("{path}[]"), list.trim_matches(['[', ']']), element, seen);
            }
            _ => false,
        };
        if is_same || seen.contains(&of) {
            return Vec::new();
        }
        match (self.0.get(of), ours) {
            (Some(Entry::Object(fields)), Type::Object { members, .. }) => {
                seen.push(of);
                let differ = self.compare_members(path, fields, &members(), seen);
                seen.pop();
                differ
            }
            (Some(Entry::Enum(fields)), Type::Enum { values, .. }) => {
                let ours: Vec<_> = values.iter().map(|value| (*value, None)).collect();
                self.compare_names(path, fields, &ours, seen)
            }
            (Some(Entry::Union(fields)), Type::Union { variants, .. }) => {
                let variants = variants();
                let ours: Vec<_> = variants.iter().map(|(value, of)| (*value, Some(of))).collect();
                self.compare_names(path, fields, &ours, seen)
            }
            _ => vec![format!("{path}: {of} there, {ours:?} here")],
        }
    }

    fn compare_members(
        &self,
        path: &str,
        fields: &[Field<'a>],
        members: &[Member],
        seen: &mut Vec<&'a str>,
    ) -> Vec<String> {
        let ours: Vec<_> = members.iter().map(|member| (member.name, Some(&member.of))).collect();
        let mut differ = self.compare_names(path, fields, &ours, seen);
        for field in fields {
            let member = members.iter().find(|member| member.name == field.name);
            if member.is_some_and(|member| member.optional != field.optional) {
                differ.push(format!("{path}.{}: whether it can be left out", field.name));
            }
        }
        differ
    }

    fn compare_names(
        &self,
        path: &str,
        fields: &[Field<'a>],
        ours: &[(&str, Option<&Type>)],
        seen: &mut Vec<&'a str>,
    ) -> Vec<String> {
        let mut differ = Vec::new();
        for field in fields {
            let path = format!("{path}.{}", field.name);
            match ours.iter().find(|(name, _)| *name == field.name) {
                None if field.left_out => {}
                None => differ.push(format!("{path}: missing here")),
                Some(_) if field.left_out => differ.push(format!("{path}: recorded as left out")),
                Some((_, of)) => {
                    differ.extend(of.iter().flat_map(|of| self.compare(&path, field.of, of, seen)));
                }
            }
        }
        let own = ours
            .iter()
            .filter(|(name, _)| !name.starts_with("x-") && !fields.iter().any(|field| field.name == *name));
        differ.extend(own.map(|(name, _)| format!("{path}.{name}: QEMU has none")));
        differ
    }
}

fn record() -> String {
    include_str!("introspect/qemu-10.0.txt").replace("\n  ", " ")
}

#[test]
fn what_we_share_with_qemu_is_as_qemu_10_has_it() {
    let text = record();
    let record = Record::parse(&text);
    let own = ["block_stream", "query-block-stream", "change", "BLOCK_STREAM_COMPLETED", "BLOCK_SWITCHED"];
    let own = |name: &str| own.contains(&name) || name.starts_with("x-") || name == "EVENTS_DROPPED";
    let mut differ = Vec::new();
    let commands = commands().map(|command| (command.name, (command.arguments)(), Some((command.answer)())));
    let events = EVENTS.iter().map(|event| (event.name, (event.data)(), None));
    for (name, data, answer) in commands.chain(events).filter(|(name, ..)| !own(name)) {
        let (Some(Entry::Message(fields, of)), Type::Object { members, .. }) = (record.0.get(name), data)
        else {
            differ.push(format!("{name}: not recorded"));
            continue;
        };
        differ.extend(record.compare_members(name, fields, &members(), &mut Vec::new()));
        if let Some(answer) = answer {
            differ.extend(record.compare(&format!("{name} ->"), of, &answer, &mut Vec::new()));
        }
    }
    assert!(differ.is_empty(), "{}", differ.join("\n"));
}

#[test]
fn the_page_on_qmp_names_everything() {
    let page = include_str!("../../docs/qmp.md");
    let names = commands().map(|command| command.name).chain(EVENTS.iter().map(|event| event.name));
    let text = record();
    let record = Record::parse(&text);
    let fields = record.0.values().flat_map(|entry| match entry {
        Entry::Message(fields, _) | Entry::Object(fields) => fields,
        Entry::Enum(fields) | Entry::Union(fields) => fields,
    });
    let left_out = fields.filter(|field| field.left_out).map(|field| field.name);
    let schema = schema();
    let members = schema.iter().flat_map(|info| info.members.iter().flatten());
    let ours = members.filter_map(|member| member["name"].as_str()).filter(|name| name.starts_with("x-"));
    let names = names.chain(ours);
    let missing: Vec<_> = names.chain(left_out).filter(|name| !page.contains(&format!("`{name}`"))).collect();
    assert!(missing.is_empty(), "docs/qmp.md does not name {missing:?}");
}
