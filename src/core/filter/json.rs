//! Comparisons with what an event's JSON data says, at a `JSONPath`.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json_path::JsonPath;

/// A path has at most so many bytes.
pub const PATH_BYTES_MAX: usize = 256;
/// And so many segments: `.name`, `[0]`, `..name`.
const SEGMENTS_MAX: usize = 16;

/// How a value at the path compares with the one that is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Operator {
    Equals,
    NotEquals,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    /// There is one.
    Exists,
}

/// A value to compare with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Scalar {
    Null,
    Bool(bool),
    Number(#[serde(with = "exact")] f64),
    Text(String),
}

/// A number as text: a JSON number may be read back as its neighbour.
mod exact {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
    pub fn serialize<S: Serializer>(number: &f64, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(number)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
        String::deserialize(from)?.parse().map_err(D::Error::custom)
    }
}

/// JSON data in which any of the values at a path compares as said.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "Written")]
pub struct JsonMatch {
    /// The path as it was given: what the library makes of it is not always a path again.
    text: String,
    path: JsonPath,
    operator: Operator,
    value: Scalar,
}

/// A comparison as it is written down.
#[derive(Serialize, Deserialize)]
struct Written {
    path: String,
    operator: Operator,
    value: Scalar,
}

impl TryFrom<Written> for JsonMatch {
    type Error = PathError;

    fn try_from(Written { path, operator, value }: Written) -> Result<Self, PathError> {
        Self::new(&path, operator, value)
    }
}

impl From<JsonMatch> for Written {
    fn from(json: JsonMatch) -> Self {
        Self { path: json.text, operator: json.operator, value: json.value }
    }
}

// Numbers to compare with are finite: the edge has refused others.
impl Eq for JsonMatch {}

/// Why a text is not a path, or one that is not evaluated.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    #[error("has {0} bytes, at most {PATH_BYTES_MAX} are allowed")]
    TooLong(usize),
    #[error("is not a JSONPath (RFC 9535): {0}")]
    Syntax(String),
    #[error("has a filter (`?`), which is not offered: compare with `operator` and `value`")]
    Filter,
    #[error("has several selectors in one bracket, which is not offered: use several filters")]
    List,
    #[error("has `..` more than once")]
    Descendants,
    #[error("has more than {SEGMENTS_MAX} segments")]
    TooDeep,
}

impl JsonMatch {
    /// A comparison of what is at `path`. With these restrictions a path's work is in proportion to the data:
    /// each segment leads to each value at most once, but for `..`, of which there is one.
    pub fn new(path: &str, operator: Operator, value: Scalar) -> Result<Self, PathError> {
        if path.len() > PATH_BYTES_MAX {
            return Err(PathError::TooLong(path.len()));
        }
        let text = path.to_owned();
        let path = JsonPath::parse(path).map_err(|error| PathError::Syntax(error.to_string()))?;
        check(&path.to_string())?;
        Ok(Self { text, path, operator, value })
    }

    /// The path, as it was given.
    pub fn path(&self) -> &str {
        &self.text
    }

    /// How.
    pub fn operator(&self) -> Operator {
        self.operator
    }

    /// With what.
    pub fn value(&self) -> &Scalar {
        &self.value
    }

    /// Whether any of the values at the path in `data` compares as said.
    pub fn holds(&self, data: &Value) -> bool {
        self.path.query(data).iter().any(|value| self.compares(value))
    }

    fn compares(&self, actual: &Value) -> bool {
        use std::cmp::Ordering::{Equal, Greater, Less};
        let order = match (actual, &self.value) {
            (Value::Null, Scalar::Null) => Some(Equal),
            (Value::Bool(actual), Scalar::Bool(value)) => (actual == value).then_some(Equal),
            (Value::Number(actual), Scalar::Number(value)) => {
                actual.as_f64().and_then(|actual| actual.partial_cmp(value))
            }
            (Value::String(actual), Scalar::Text(value)) => Some(actual.as_str().cmp(value)),
            _ => None,
        };
        match self.operator {
            Operator::Exists => true,
            Operator::Equals => order == Some(Equal),
            Operator::NotEquals => order != Some(Equal),
            Operator::Less => order == Some(Less),
            Operator::LessOrEqual => matches!(order, Some(Less | Equal)),
            Operator::Greater => order == Some(Greater),
            Operator::GreaterOrEqual => matches!(order, Some(Greater | Equal)),
        }
    }
}

/// Looks through a path as the library writes it: names in quotes, everything else as it is.
fn check(path: &str) -> Result<(), PathError> {
    let (mut quote, mut brackets, mut segments, mut descendants) = (None, 0u32, 0, 0);
    let mut characters = path.chars().peekable();
    while let Some(character) = characters.next() {
        match (quote, character) {
            (Some(_), '\\') => {
                characters.next();
            }
            (Some(open), _) if open == character => quote = None,
            (None, '\'' | '"') => quote = Some(character),
            (None, '?') => return Err(PathError::Filter),
            (None, ',') => return Err(PathError::List),
            (None, '[') => {
                brackets += 1;
                segments += 1;
            }
            (None, ']') => brackets = brackets.saturating_sub(1),
            (None, '.') if characters.peek() == Some(&'.') => {
                characters.next();
                descendants += 1;
                // `..[` counts where the bracket does.
                segments += usize::from(characters.peek() != Some(&'['));
            }
            (None, '.') if brackets == 0 => segments += 1,
            (Some(_) | None, _) => {}
        }
    }
    match (descendants, segments) {
        (2.., _) => Err(PathError::Descendants),
        (_, segments) if segments > SEGMENTS_MAX => Err(PathError::TooDeep),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn holds(path: &str, operator: Operator, value: Scalar, data: &Value) -> bool {
        JsonMatch::new(path, operator, value).expect(path).holds(data)
    }

    #[test]
    fn any_value_at_the_path_is_enough() {
        use Operator::{Equals, Exists, Greater, GreaterOrEqual, Less, LessOrEqual, NotEquals};
        let data = json!({"amount": 12.5, "lines": [{"sku": "a"}, {"sku": "b"}], "a b": [null]});
        let text = |text: &str| Scalar::Text(text.to_owned());
        for (path, operator, value, expected) in [
            ("$.amount", Equals, Scalar::Number(12.5), true),
            ("$.amount", Greater, Scalar::Number(12.5), false),
            ("$.amount", GreaterOrEqual, Scalar::Number(12.5), true),
            ("$.amount", Less, text("13"), false),
            ("$.amount", NotEquals, text("12.5"), true),
            ("$.none", NotEquals, Scalar::Null, false),
            ("$.lines[*].sku", Equals, text("b"), true),
            ("$.lines[-1].sku", Equals, text("a"), false),
            ("$.lines[0:1].sku", LessOrEqual, text("a"), true),
            ("$..sku", Greater, text("a"), true),
            ("$['a b'][0]", Equals, Scalar::Null, true),
            ("$.lines", Exists, Scalar::Null, true),
            ("$.lines[2]", Exists, Scalar::Null, false),
        ] {
            assert_eq!(holds(path, operator, value, &data), expected, "{path} {operator:?}");
        }
    }

    #[test]
    fn a_path_whose_work_has_no_bound_is_refused() {
        let new = |path: &str| JsonMatch::new(path, Operator::Exists, Scalar::Null).err();
        assert_eq!(new("$[0,0][0,0]"), Some(PathError::List));
        assert_eq!(new("$.a[?@.b == 1]"), Some(PathError::Filter));
        assert_eq!(new("$..a..b"), Some(PathError::Descendants));
        assert_eq!(new("$..[*]..*"), Some(PathError::Descendants));
        assert_eq!(new(&format!("${}", ".a".repeat(17))), Some(PathError::TooDeep));
        assert_eq!(new(&format!("${}", "['.,?..']".repeat(16))), None, "a name may have anything");
        assert_eq!(new(&"$".repeat(257)), Some(PathError::TooLong(257)));
        assert!(matches!(new("amount"), Some(PathError::Syntax(_))));
        assert!(matches!(new(""), Some(PathError::Syntax(_))));
    }
}
