//! Jinja as `transformers` sets it up, on a library that is nearly Jinja.

use minijinja::formatting::{FormatStyle, format};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Rest, ValueKind, from_args};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, State, Value};
use minijinja_contrib::pycompat;

use super::{json, limits};

/// The filter around both sides of `+`, before every filter, and after `in`.
pub(super) const GROWN: &str = "tiermesh_grown";
/// The filter around both sides of `~`.
pub(super) const TEXT: &str = "tiermesh_text";
/// The filter after a slice.
pub(super) const SLICED: &str = "tiermesh_sliced";
/// The filter around both sides of `*`.
pub(super) const FACTOR: &str = "tiermesh_factor";
/// The function called for a long literal.
pub(super) const LITERAL: &str = "tiermesh_literal";

/// The longest text, and the largest number, that may be multiplied: a text
/// times a number stays small.
const FACTOR_BYTES: usize = 64;
const FACTOR_MOST: i64 = 4096;
/// The widest a line may be indented, or a value padded.
const WIDEST: usize = 256;

pub(super) fn new() -> Environment<'static> {
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder()
        .trim_blocks(true)
        .lstrip_blocks(true)
        .build();
    environment.set_syntax(syntax.expect("the usual delimiters"));
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_recursion_limit(limits::DEPTH);
    environment.set_fuel(Some(limits::FUEL));
    environment.set_unknown_method_callback(method);
    environment.set_formatter(|out, _, value| {
        if !value.is_undefined() {
            out.write_str(&limits::text(value)?)?;
        }
        Ok(())
    });
    // They make lists of any length, which nobody counts.
    for name in ["batch", "slice", "chain", "zip", "pprint", "urlencode"] {
        environment.remove_filter(name);
    }
    environment.add_filter("tojson", json::tojson);
    environment.add_filter("string", |value: &Value| limits::text(value));
    environment.add_filter("replace", |text: &Value, from: &Value, to: &Value| {
        replace(&text.to_string(), from, to, None)
    });
    environment.add_filter("join", join);
    environment.add_filter("indent", indent);
    environment.add_filter("format", |pattern: &Value, args: Rest<Value>| {
        let pattern = pattern.as_str().unwrap_or_default();
        format_is_bounded(pattern, &args)?;
        format(FormatStyle::Printf, pattern, &args)
    });
    environment.add_filter(GROWN, grown);
    environment.add_filter(TEXT, |value: Value| match value.kind() {
        ValueKind::String => grown(value),
        _ => limits::text(&value).map(Value::from),
    });
    environment.add_filter(SLICED, sliced);
    environment.add_filter(FACTOR, factor);
    environment.add_function(LITERAL, |bytes: usize| limits::charge(bytes).map(|()| ""));
    environment.add_function("raise_exception", |message: &Value| {
        Err::<Value, Error>(limits::raised(&message.to_string()))
    });
    environment.add_function("strftime_now", strftime_now);
    environment
}

fn grown(value: Value) -> Result<Value, Error> {
    let bytes = value.as_str().map_or(0, str::len);
    // A list's items are counted where they are made.
    let items = value.len().filter(|_| bytes == 0).unwrap_or(0);
    limits::charge(bytes + items * size_of::<Value>())?;
    Ok(value)
}

/// A slice of a list is a view of it, and a view of a view of a view takes
/// longer with every step: it becomes a list of its own.
fn sliced(value: Value) -> Result<Value, Error> {
    let value = grown(value)?;
    match value.kind() {
        ValueKind::Seq | ValueKind::Iterable => Ok(value.try_iter()?.collect()),
        _ => Ok(value),
    }
}

fn factor(value: Value) -> Result<Value, Error> {
    let small = match value.kind() {
        ValueKind::Number => i64::try_from(value.clone()).map_or(true, |n| n.abs() <= FACTOR_MOST),
        ValueKind::String => value
            .as_str()
            .is_some_and(|text| text.len() <= FACTOR_BYTES),
        ValueKind::Seq | ValueKind::Iterable => value.len().is_some_and(|n| n <= 1),
        _ => true,
    };
    if !small {
        return Err(limits::too_much());
    }
    // The most that a text times a number has.
    let texts = value.kind() == ValueKind::String;
    limits::charge(if texts {
        FACTOR_BYTES * FACTOR_MOST as usize
    } else {
        0
    })?;
    Ok(value)
}

fn strftime_now(format: &str) -> Result<String, Error> {
    let wrong = || Error::new(ErrorKind::InvalidOperation, "the time format is not known");
    if format.len() > WIDEST {
        return Err(wrong());
    }
    let format = time::format_description::parse_strftime_owned(format).map_err(|_| wrong())?;
    limits::now().format(&format).map_err(|_| wrong())
}

/// Python's `str.replace`, counted before it is done.
fn replace(text: &str, from: &Value, to: &Value, most: Option<usize>) -> Result<Value, Error> {
    let (from, to) = (from.to_string(), to.to_string());
    let found = match from.is_empty() {
        true => text.chars().count() + 1,
        false => text.matches(&from).count(),
    };
    let most = most.unwrap_or(found).min(found);
    limits::charge(text.len() + most.saturating_mul(to.len()))?;
    Ok(Value::from(text.replacen(&from, &to, most)))
}

fn join(items: &Value, separator: Option<&Value>, kwargs: Kwargs) -> Result<Value, Error> {
    let attribute: Option<Value> = kwargs.get("attribute")?;
    let separator: Option<Value> = separator.cloned().or(kwargs.get("d")?);
    kwargs.assert_all_used()?;
    let separator = separator.map_or_else(String::new, |s| s.to_string());
    if items.is_undefined() || items.is_none() {
        return Ok(Value::from(""));
    }
    let mut joined = String::new();
    for (index, item) in items.try_iter()?.enumerate() {
        if index > 0 {
            limits::charge(separator.len())?;
            joined.push_str(&separator);
        }
        let item = match &attribute {
            Some(attribute) => item.get_item(attribute)?,
            None => item,
        };
        joined.push_str(&limits::text(&item)?);
    }
    Ok(Value::from(joined))
}

fn indent(
    text: &Value,
    width: Option<&Value>,
    first: Option<bool>,
    blank: Option<bool>,
    kwargs: Kwargs,
) -> Result<Value, Error> {
    let text = text.to_string();
    let width: Option<Value> = width.cloned().or(kwargs.get("width")?);
    let first = first.or(kwargs.get("first")?).unwrap_or(false);
    let blank = blank.or(kwargs.get("blank")?).unwrap_or(false);
    kwargs.assert_all_used()?;
    let margin = match width {
        None => " ".repeat(4),
        Some(width) => match width.as_str() {
            Some(margin) => margin.to_owned(),
            None => " ".repeat(usize::try_from(width)?.min(WIDEST)),
        },
    };
    let lines = text.split('\n').count();
    limits::charge(text.len() + lines.saturating_mul(margin.len()))?;
    let mut indented = String::with_capacity(text.len() + lines * margin.len());
    for (index, line) in text.split('\n').enumerate() {
        if index > 0 {
            indented.push('\n');
        }
        let wanted = if index == 0 {
            first
        } else {
            blank || !line.is_empty()
        };
        if wanted {
            indented.push_str(&margin);
        }
        indented.push_str(line);
    }
    Ok(Value::from(indented))
}

/// Python's methods. Those that can make much of little are counted.
fn method(state: &mut State, value: &Value, name: &str, args: &[Value]) -> Result<Value, Error> {
    if let Some(text) = value.as_str() {
        limits::charge(text.len())?;
        match name {
            "replace" => {
                let (from, to, most): (&Value, &Value, Option<i64>) = from_args(args)?;
                let most = most.and_then(|most| usize::try_from(most).ok());
                return replace(text, from, to, most);
            }
            "join" => {
                let (items,): (&Value,) = from_args(args)?;
                let none = Kwargs::from_iter(std::iter::empty::<(&str, Value)>());
                return join(items, Some(value), none);
            }
            "format" => format_is_bounded(text, args)?,
            _ => {}
        }
    }
    pycompat::unknown_method_callback(state, value, name, args)
}

/// A format can ask for any width, and for a value many times.
fn format_is_bounded(pattern: &str, args: &[Value]) -> Result<(), Error> {
    let mut digits = 0;
    for c in pattern.chars() {
        digits = if c.is_ascii_digit() { digits + 1 } else { 0 };
        if digits > 2 || c == '*' {
            return Err(limits::too_much());
        }
    }
    let fields = pattern.matches(['%', '{']).count();
    limits::charge(pattern.len() + fields.saturating_mul(WIDEST))?;
    for value in args {
        let bytes = limits::text(value)?.len();
        limits::charge(bytes.saturating_mul(fields))?;
    }
    Ok(())
}
