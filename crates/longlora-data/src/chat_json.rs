use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Error, ErrorKind, State, Value};

/// Deeper values than this are no messages and no tools.
const MAX_DEPTH: usize = 64;

/// The filter `tojson` as transformers defines it: Python's `json.dumps(.., ensure_ascii=False)`,
/// with `indent`, without the escapes for HTML that Jinja's own filter adds.
pub(crate) fn to_json(state: &State, value: &Value, options: Kwargs) -> Result<String, Error> {
    let indent: Option<usize> = options.get("indent")?;
    let ensure_ascii: Option<bool> = options.get("ensure_ascii")?;
    options.assert_all_used()?;
    if ensure_ascii == Some(true) {
        return Err(refused("tojson cannot escape to ASCII"));
    }
    let mut json = String::new();
    Writer { state, indent, json: &mut json }.write(value, 0)?;
    Ok(json)
}

struct Writer<'a, 'template, 'env> {
    state: &'a State<'template, 'env>,
    indent: Option<usize>,
    json: &'a mut String,
}

impl Writer<'_, '_, '_> {
    fn write(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        self.state.consume_fuel(1)?;
        if depth > MAX_DEPTH {
            return Err(refused("tojson was given a value that is nested too deeply"));
        }
        match value.kind() {
            ValueKind::None => self.json.push_str("null"),
            ValueKind::Bool => self.json.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => self.json.push_str(&value.to_string()),
            ValueKind::String => self.write_string(value.as_str().unwrap_or_default())?,
            ValueKind::Seq | ValueKind::Iterable => {
                self.json.push('[');
                let mut empty = true;
                for item in value.try_iter()? {
                    self.next_item(&mut empty, depth + 1);
                    self.write(&item, depth + 1)?;
                }
                self.close(']', empty, depth);
            }
            ValueKind::Map => {
                self.json.push('{');
                let mut empty = true;
                for key in value.try_iter()? {
                    self.next_item(&mut empty, depth + 1);
                    self.write_string(&key.to_string())?;
                    self.json.push_str(": ");
                    self.write(&value.get_item(&key)?, depth + 1)?;
                }
                self.close('}', empty, depth);
            }
            kind => return Err(refused(format!("tojson cannot write a value of kind {kind}"))),
        }
        Ok(())
    }

    fn write_string(&mut self, text: &str) -> Result<(), Error> {
        self.state.consume_fuel(text.len() as u64 / 64)?;
        let quoted = serde_json::to_string(text).map_err(|error| refused(error.to_string()))?;
        self.json.push_str(&quoted);
        Ok(())
    }

    fn next_item(&mut self, empty: &mut bool, depth: usize) {
        if !*empty {
            self.json.push_str(if self.indent.is_some() { "," } else { ", " });
        }
        *empty = false;
        self.new_line(depth);
    }

    fn close(&mut self, bracket: char, empty: bool, depth: usize) {
        if !empty {
            self.new_line(depth);
        }
        self.json.push(bracket);
    }

    fn new_line(&mut self, depth: usize) {
        if let Some(indent) = self.indent {
            self.json.push('\n');
            // An indent beyond any page is a trick to fill the memory.
            self.json.extend(std::iter::repeat_n(' ', indent.min(16) * depth));
        }
    }
}

fn refused(reason: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::InvalidOperation, reason)
}
