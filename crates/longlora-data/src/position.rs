use std::fmt;
use std::path::PathBuf;

/// Where in a file of many documents one stands, counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Position {
    /// A line of a JSONL file, blank lines counted.
    Line(usize),
    /// An object of a JSON file that is a list.
    Object(usize),
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Line(line) => write!(f, "line `{line}`"),
            Self::Object(object) => write!(f, "object `{object}`"),
        }
    }
}

/// A file, and where in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file.
    pub path: PathBuf,
    /// Where in it, if it holds many documents.
    pub position: Option<Position>,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`", self.path.display())?;
        match self.position {
            Some(position) => write!(f, " {position}"),
            None => Ok(()),
        }
    }
}
