//! The answer of `query-qmp-schema`: QAPI's `SchemaInfo`, a union written as one structure with the
//! members of every kind.

use crate::schema::{qapi_enum, qapi_struct};
use serde_json::Value;

qapi_enum! {
    /// The kind of thing that an entry of the schema describes.
    enum SchemaMetaType {
        /// A built-in type of the protocol.
        Builtin = "builtin",
        /// An enumeration of strings.
        Enum = "enum",
        /// A list.
        Array = "array",
        /// An object.
        Object = "object",
        /// One of several types, distinguished by their JSON.
        Alternate = "alternate",
        /// A command.
        Command = "command",
        /// An event.
        Event = "event",
    }
}

qapi_struct! {
    /// An entry of `query-qmp-schema`.
    struct SchemaInfo {
        /// The name of the command or event; of a type, a name by which other entries refer to it.
        name: String,
        /// The kind of entry.
        meta_type as "meta-type": SchemaMetaType,
        /// A built-in type's JSON.
        json_type as "json-type": Option<String>,
        /// The members of an enumeration, an object or an alternate, as QAPI's `SchemaInfoEnumMember`,
        /// `SchemaInfoObjectMember` (here with `x-doc`) and `SchemaInfoAlternateMember`.
        members: Option<Vec<Value>>,
        /// An enumeration's values, in the form that QEMU used before 6.2.
        values: Option<Vec<String>>,
        /// The type of a list's elements.
        element_type as "element-type": Option<String>,
        /// The member that chooses an object's variant.
        tag: Option<String>,
        /// An object's variants.
        variants: Option<Vec<SchemaInfoObjectVariant>>,
        /// The object that holds a command's arguments, or an event's data.
        arg_type as "arg-type": Option<String>,
        /// The type of a command's answer.
        ret_type as "ret-type": Option<String>,
        /// True if a command can be run out of band.
        allow_oob as "allow-oob": Option<bool>,
        /// A description in one line. Our own: QEMU has none.
        doc as "x-doc": Option<String>,
    }

    /// A variant of an object.
    struct SchemaInfoObjectVariant {
        /// The value of the tag.
        case: String,
        /// The object whose members it adds.
        of as "type": String,
    }
}
