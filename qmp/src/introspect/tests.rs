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
    for command in COMMANDS {
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
