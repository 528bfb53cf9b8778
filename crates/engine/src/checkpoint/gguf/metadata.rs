//! A GGUF file's keys, asked for by the type that is needed.

use std::collections::BTreeMap;
use std::fmt;

use crate::checkpoint::CheckpointError;

/// A key's value.
#[derive(Debug)]
pub(super) enum Value {
    Unsigned(u64),
    Negative(i64),
    Float(f64),
    Bool(bool),
    Text(String),
    Array(Array),
}

/// The values of an array.
#[derive(Debug)]
pub(super) enum Array {
    Integers(Vec<i32>),
    Floats(Vec<f32>),
    Texts(Vec<String>),
    /// Of a type that nothing here reads; passed over.
    Other,
}

/// As messages show it: short, whatever the file holds.
impl fmt::Display for Value {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unsigned(value) => write!(out, "{value}"),
            Self::Negative(value) => write!(out, "{value}"),
            Self::Float(value) => write!(out, "{value}"),
            Self::Bool(value) => write!(out, "{value}"),
            Self::Text(value) if value.len() <= 64 => write!(out, "{value:?}"),
            Self::Text(value) => write!(out, "a text of {} bytes", value.len()),
            Self::Array(Array::Integers(values)) => {
                write!(out, "an array of {} integers", values.len())
            }
            Self::Array(Array::Floats(values)) => {
                write!(out, "an array of {} floats", values.len())
            }
            Self::Array(Array::Texts(values)) => write!(out, "an array of {} texts", values.len()),
            Self::Array(Array::Other) => out.write_str("an array"),
        }
    }
}

/// The keys of one file.
#[derive(Debug)]
pub(super) struct Metadata {
    file: String,
    values: BTreeMap<String, Value>,
}

impl Metadata {
    pub(super) fn new(file: &str) -> Self {
        Self {
            file: file.to_owned(),
            values: BTreeMap::new(),
        }
    }

    pub(super) fn file(&self) -> &str {
        &self.file
    }

    /// A key may be there once.
    pub(super) fn insert(&mut self, key: String, value: Value) -> Result<(), CheckpointError> {
        if self.values.contains_key(&key) {
            return Err(self.refuse(&key, "it is there twice", "one value"));
        }
        self.values.insert(key, value);
        Ok(())
    }

    pub(super) fn refuse(
        &self,
        key: &str,
        found: impl Into<String>,
        expected: impl Into<String>,
    ) -> CheckpointError {
        CheckpointError::Key {
            file: self.file.clone(),
            key: key.to_owned(),
            found: found.into(),
            expected: expected.into(),
        }
    }

    /// That a key is needed and not there.
    pub(super) fn absent(&self, key: &str, expected: &str) -> CheckpointError {
        self.refuse(key, "absent", expected)
    }

    fn get<'a, T>(
        &'a self,
        key: &str,
        expected: &str,
        read: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, CheckpointError> {
        let Some(value) = self.values.get(key) else {
            return Ok(None);
        };
        match read(value) {
            Some(read) => Ok(Some(read)),
            None => Err(self.refuse(key, value.to_string(), expected)),
        }
    }

    pub(super) fn unsigned(&self, key: &str) -> Result<Option<u64>, CheckpointError> {
        self.get(key, "an integer of at least 0", |value| match value {
            Value::Unsigned(value) => Some(*value),
            _ => None,
        })
    }

    pub(super) fn float(&self, key: &str) -> Result<Option<f64>, CheckpointError> {
        self.get(key, "a finite number", |value| match value {
            Value::Float(value) => Some(*value).filter(|value| value.is_finite()),
            // Some writers put whole numbers as integers.
            Value::Unsigned(value) => Some(*value as f64),
            _ => None,
        })
    }

    pub(super) fn bool(&self, key: &str) -> Result<Option<bool>, CheckpointError> {
        self.get(key, "true or false", |value| match value {
            Value::Bool(value) => Some(*value),
            _ => None,
        })
    }

    pub(super) fn text(&self, key: &str) -> Result<Option<&str>, CheckpointError> {
        self.get(key, "a text", |value| match value {
            Value::Text(value) => Some(&**value),
            _ => None,
        })
    }

    pub(super) fn texts(&self, key: &str) -> Result<Option<&[String]>, CheckpointError> {
        self.get(key, "an array of texts", |value| match value {
            Value::Array(Array::Texts(values)) => Some(&**values),
            _ => None,
        })
    }

    pub(super) fn integers(&self, key: &str) -> Result<Option<&[i32]>, CheckpointError> {
        self.get(key, "an array of 32-bit integers", |value| match value {
            Value::Array(Array::Integers(values)) => Some(&**values),
            _ => None,
        })
    }

    pub(super) fn floats(&self, key: &str) -> Result<Option<&[f32]>, CheckpointError> {
        self.get(key, "an array of 32-bit floats", |value| match value {
            Value::Array(Array::Floats(values)) => Some(&**values),
            _ => None,
        })
    }
}
