//! The building blocks of the definitions of commands, events and their types.
//!
//! `qapi_struct!`, `qapi_enum!`, `commands!` and `events!` each turn one entry (name, documentation and
//! members) into the Rust type, its strict parser with QEMU's error texts, and its description
//! ([`Type`]), so that the three cannot disagree.

use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// A type on the wire, in the detail of `query-qmp-schema`.
#[derive(Clone, Debug)]
pub enum Type {
    /// A string.
    Str,
    /// An integer; QAPI's schema does not distinguish widths.
    Int,
    /// A number.
    Number,
    /// A boolean.
    Bool,
    /// The value `null`.
    Null,
    /// Any JSON value.
    Any,
    /// A list.
    Array(Box<Type>),
    /// An enumeration of strings.
    Enum {
        /// The type's QAPI name.
        name: &'static str,
        /// All values.
        values: &'static [&'static str],
    },
    /// An object. Its members are described lazily, since an object can contain its own type.
    Object {
        /// The type's QAPI name.
        name: &'static str,
        /// All members, in the order in which they are checked.
        members: fn() -> Vec<Member>,
    },
    /// An object `{"type": T, "data": D}` where T chooses the type of D.
    Union {
        /// The type's QAPI name.
        name: &'static str,
        /// The possible values of T, each with the type of D.
        variants: fn() -> Vec<(&'static str, Type)>,
    },
    /// One of several types, distinguished by their JSON.
    Alternate {
        /// The type's QAPI name.
        name: &'static str,
        /// The types.
        of: fn() -> Vec<Type>,
    },
}

/// A member of an object, or an argument of a command.
#[derive(Clone, Debug)]
pub struct Member {
    /// The name on the wire.
    pub name: &'static str,
    /// A description in one line.
    pub doc: &'static str,
    /// Its type.
    pub of: Type,
    /// True if it can be left out.
    pub optional: bool,
}

/// A type on the wire: its description and its parser from JSON.
pub trait Qapi: Sized {
    /// True if a member of this type can be left out.
    const OPTIONAL: bool = false;

    /// Returns the description.
    fn describe() -> Type;

    /// Reads a value found at `path` (`size`, `actions[0].type`).
    ///
    /// # Errors
    /// `GenericError` with QEMU's text, which names the path.
    fn parse(path: &str, value: Value) -> Result<Self>;

    /// Returns the value of a member that was left out.
    ///
    /// # Errors
    /// Fails if the member is not optional.
    fn absent(path: &str) -> Result<Self> {
        Err(missing(path))
    }

    /// Returns true if the value is left out of the JSON.
    fn is_absent(&self) -> bool {
        false
    }
}

fn missing(path: &str) -> Error {
    Error::generic(format!("Parameter '{path}' is missing"))
}

fn wrong_type(path: &str, expected: &str) -> Error {
    Error::generic(format!("Invalid parameter type for '{path}', expected: {expected}"))
}

/// Returns a member's path below its parent's path, which is empty for the root.
fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

/// Takes one member out of an object.
#[doc(hidden)]
pub fn member<T: Qapi>(path: &str, object: &mut Map<String, Value>, name: &str) -> Result<T> {
    match object.remove(name) {
        Some(value) => T::parse(&join(path, name), value),
        None => T::absent(&join(path, name)),
    }
}

/// Fails if the object has a member that was not taken.
#[doc(hidden)]
pub fn finish(path: &str, object: &Map<String, Value>) -> Result<()> {
    match object.keys().next() {
        Some(name) => Err(Error::generic(format!("Parameter '{}' is unexpected", join(path, name)))),
        None => Ok(()),
    }
}

/// Returns the object that a structure is read from. Fails if `value` is not an object.
#[doc(hidden)]
pub fn object(path: &str, value: Value) -> Result<Map<String, Value>> {
    match value {
        Value::Object(object) => Ok(object),
        _ => Err(wrong_type(path, "object")),
    }
}

/// Returns the index of a string among an enumeration's values.
#[doc(hidden)]
pub fn choice(path: &str, value: Value, values: &[&str]) -> Result<usize> {
    let text = String::parse(path, value)?;
    values.iter().position(|known| *known == text).ok_or_else(|| {
        // Like QEMU, this names only the last part of the path; a list's elements have no name.
        let name = if path.ends_with(']') { "null" } else { path.rsplit('.').next().unwrap_or(path) };
        Error::generic(format!("Parameter '{name}' does not accept value '{text}'"))
    })
}

/// Takes the member that chooses a union's variant. Returns its value, one of `kinds`.
#[doc(hidden)]
pub fn kind(path: &str, object: &mut Map<String, Value>, kinds: &[&'static str]) -> Result<&'static str> {
    let path = join(path, "type");
    let value = object.remove("type").ok_or_else(|| missing(&path))?;
    choice(&path, value, kinds).map(|index| kinds[index])
}

impl Qapi for String {
    fn describe() -> Type {
        Type::Str
    }
    fn parse(path: &str, value: Value) -> Result<Self> {
        match value {
            Value::String(text) => Ok(text),
            _ => Err(wrong_type(path, "string")),
        }
    }
}

impl Qapi for bool {
    fn describe() -> Type {
        Type::Bool
    }
    fn parse(path: &str, value: Value) -> Result<Self> {
        value.as_bool().ok_or_else(|| wrong_type(path, "boolean"))
    }
}

impl Qapi for i64 {
    fn describe() -> Type {
        Type::Int
    }
    fn parse(path: &str, value: Value) -> Result<Self> {
        value.as_i64().ok_or_else(|| wrong_type(path, "integer"))
    }
}

impl Qapi for u64 {
    fn describe() -> Type {
        Type::Int
    }
    fn parse(path: &str, value: Value) -> Result<Self> {
        value.as_u64().ok_or_else(|| Error::generic(format!("Parameter '{path}' expects uint64")))
    }
}

impl Qapi for u32 {
    fn describe() -> Type {
        Type::Int
    }
    fn parse(path: &str, value: Value) -> Result<Self> {
        let number = value.as_u64().and_then(|number| u32::try_from(number).ok());
        number.ok_or_else(|| Error::generic(format!("Parameter '{path}' expects uint32_t")))
    }
}

impl Qapi for f64 {
    fn describe() -> Type {
        Type::Number
    }
    fn parse(path: &str, value: Value) -> Result<Self> {
        value.as_f64().ok_or_else(|| wrong_type(path, "number"))
    }
}

impl Qapi for Value {
    fn describe() -> Type {
        Type::Any
    }
    fn parse(_: &str, value: Value) -> Result<Self> {
        Ok(value)
    }
}

impl<T: Qapi> Qapi for Option<T> {
    const OPTIONAL: bool = true;
    fn describe() -> Type {
        T::describe()
    }
    fn parse(path: &str, value: Value) -> Result<Self> {
        T::parse(path, value).map(Some)
    }
    fn absent(_: &str) -> Result<Self> {
        Ok(None)
    }
    fn is_absent(&self) -> bool {
        self.is_none()
    }
}

impl<T: Qapi> Qapi for Vec<T> {
    fn describe() -> Type {
        Type::Array(Box::new(T::describe()))
    }
    fn parse(path: &str, value: Value) -> Result<Self> {
        let Value::Array(values) = value else { return Err(wrong_type(path, "array")) };
        let parse = |(index, value)| T::parse(&format!("{path}[{index}]"), value);
        values.into_iter().enumerate().map(parse).collect()
    }
}

impl<T: Qapi> Qapi for Box<T> {
    const OPTIONAL: bool = T::OPTIONAL;
    fn describe() -> Type {
        T::describe()
    }
    fn parse(path: &str, value: Value) -> Result<Self> {
        T::parse(path, value).map(Box::new)
    }
    fn absent(path: &str) -> Result<Self> {
        T::absent(path).map(Box::new)
    }
    fn is_absent(&self) -> bool {
        (**self).is_absent()
    }
}

/// A member's name on the wire: the given one, else the field's.
macro_rules! wire_name {
    ($field:ident) => {
        stringify!($field)
    };
    ($field:ident $wire:literal) => {
        $wire
    };
}

/// Structures of the wire: `struct Name { /// doc \n field [as "wire-name"]: Type, }`.
macro_rules! qapi_struct {
    ($($(#[doc = $doc:literal])* struct $name:ident {
        $($(#[doc = $mdoc:literal])* $field:ident $(as $wire:literal)?: $of:ty),* $(,)?
    })*) => {$(
        $(#[doc = $doc])*
        #[derive(Clone, PartialEq, Debug, serde::Serialize, serde::Deserialize)]
        pub struct $name {
            $(
                $(#[doc = $mdoc])*
                $(#[serde(rename = $wire)])?
                #[serde(skip_serializing_if = "crate::schema::Qapi::is_absent")]
                pub $field: $of,
            )*
        }

        impl crate::schema::Qapi for $name {
            fn describe() -> crate::schema::Type {
                fn members() -> Vec<crate::schema::Member> {
                    vec![$(crate::schema::Member {
                        name: crate::schema::wire_name!($field $($wire)?),
                        doc: concat!($($mdoc),*).trim_ascii(),
                        of: <$of as crate::schema::Qapi>::describe(),
                        optional: <$of as crate::schema::Qapi>::OPTIONAL,
                    }),*]
                }
                crate::schema::Type::Object { name: stringify!($name), members }
            }

            fn parse(path: &str, value: serde_json::Value) -> crate::Result<Self> {
                #[allow(unused_mut, reason = "a structure can have no members")]
                let mut object = crate::schema::object(path, value)?;
                $(let $field = crate::schema::member(
                    path, &mut object, crate::schema::wire_name!($field $($wire)?),
                )?;)*
                crate::schema::finish(path, &object)?;
                Ok($name { $($field),* })
            }
        }
    )*};
}

/// Enumerations of the wire: `enum Name { /// doc \n Variant = "wire-name", }`.
macro_rules! qapi_enum {
    ($($(#[doc = $doc:literal])* enum $name:ident {
        $($(#[doc = $vdoc:literal])* $variant:ident = $wire:literal),* $(,)?
    })*) => {$(
        $(#[doc = $doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
        pub enum $name {
            $($(#[doc = $vdoc])* #[serde(rename = $wire)] $variant),*
        }

        impl $name {
            /// All values, in the order of their definition.
            pub const ALL: &[$name] = &[$($name::$variant),*];

            const NAMES: &[&str] = &[$($wire),*];

            /// The name on the wire.
            pub fn as_str(self) -> &'static str {
                match self {
                    $($name::$variant => $wire),*
                }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl crate::schema::Qapi for $name {
            fn describe() -> crate::schema::Type {
                crate::schema::Type::Enum { name: stringify!($name), values: Self::NAMES }
            }
            fn parse(path: &str, value: serde_json::Value) -> crate::Result<Self> {
                crate::schema::choice(path, value, Self::NAMES).map(|index| Self::ALL[index])
            }
        }
    )*};
}

/// Unions of the wire, `{"type": "wire-name", "data": {...}}`: `union Name { /// doc \n Variant(Data) =
/// "wire-name", }`.
macro_rules! qapi_union {
    ($($(#[doc = $doc:literal])* union $name:ident {
        $($(#[doc = $vdoc:literal])* $variant:ident($of:ty) = $wire:literal),* $(,)?
    })*) => {$(
        $(#[doc = $doc])*
        #[derive(Clone, PartialEq, Debug, serde::Serialize, serde::Deserialize)]
        #[serde(tag = "type", content = "data")]
        pub enum $name {
            $($(#[doc = $vdoc])* #[serde(rename = $wire)] $variant($of)),*
        }

        impl $name {
            /// Returns the variant's name on the wire.
            pub fn kind(&self) -> &'static str {
                match self {
                    $($name::$variant(_) => $wire),*
                }
            }
        }

        impl crate::schema::Qapi for $name {
            fn describe() -> crate::schema::Type {
                fn variants() -> Vec<(&'static str, crate::schema::Type)> {
                    vec![$(($wire, <$of as crate::schema::Qapi>::describe())),*]
                }
                crate::schema::Type::Union { name: stringify!($name), variants }
            }

            fn parse(path: &str, value: serde_json::Value) -> crate::Result<Self> {
                let mut object = crate::schema::object(path, value)?;
                let kind = crate::schema::kind(path, &mut object, &[$($wire),*])?;
                let parsed = match kind {
                    $($wire => $name::$variant(crate::schema::member(path, &mut object, "data")?),)*
                    _ => unreachable!("a kind is one of those that were given"),
                };
                crate::schema::finish(path, &object)?;
                Ok(parsed)
            }
        }
    )*};
}

pub(crate) use {qapi_enum, qapi_struct, qapi_union, wire_name};

#[cfg(test)]
#[path = "schema_tests.rs"]
mod tests;
