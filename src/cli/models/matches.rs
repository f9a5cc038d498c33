//! `--where`: what an indexed field must say.

use crate::{
    cli::filter::json_scalar,
    wire::proto::v1::{FieldMatch, JsonOperator},
};

/// Two characters before one: the first that fits is the operator.
const OPERATORS: [(&str, JsonOperator); 6] = [
    ("==", JsonOperator::Equals),
    ("<=", JsonOperator::LessOrEqual),
    (">=", JsonOperator::GreaterOrEqual),
    ("=", JsonOperator::Equals),
    ("<", JsonOperator::Less),
    (">", JsonOperator::Greater),
];

#[derive(Debug, clap::Args)]
pub struct WhereArgs {
    /// Documents whose indexed field is so: status=failed, 'amount>=100', 'customer.country=NL'; of several all.
    /// A string that looks like a number, true, false or null is put in quotes: 'code="12"'
    #[arg(long = "where", value_name = "MATCH", value_parser = parse)]
    pub matches: Vec<FieldMatch>,
}

/// FIELD OP VALUE. The first operator is meant: a field whose name has one cannot be named here.
pub fn parse(text: &str) -> Result<FieldMatch, String> {
    const EXPECTED: &str =
        "FIELD OP VALUE is expected, such as 'amount >= 100', with =, ==, <, <=, > or >=";
    let at = text.find(['=', '<', '>', '!']).ok_or(EXPECTED)?;
    let rest = &text[at..];
    if rest.starts_with('!') {
        return Err("no index finds what is not so; with =, ==, <, <=, > or >=".to_owned());
    }
    let found = OPERATORS.iter().find(|(symbol, _)| rest.starts_with(symbol));
    let (symbol, operator) = found.ok_or(EXPECTED)?;
    let field = text[..at].trim();
    if field.is_empty() {
        return Err(EXPECTED.to_owned());
    }
    let value = json_scalar(rest[symbol.len()..].trim())?;
    Ok(FieldMatch { field: field.to_owned(), operator: (*operator).into(), value: Some(value) })
}

#[cfg(test)]
mod tests {
    use prost_types::value::Kind;

    use super::*;

    #[test]
    fn a_match_is_a_field_an_operator_and_a_value() {
        let text = |text: &str| Kind::StringValue(text.to_owned());
        for (given, field, operator, value) in [
            ("status=failed", "status", JsonOperator::Equals, text("failed")),
            (" a.b == x y ", "a.b", JsonOperator::Equals, text("x y")),
            ("amount>=100", "amount", JsonOperator::GreaterOrEqual, Kind::NumberValue(100.0)),
            ("amount > -1.5", "amount", JsonOperator::Greater, Kind::NumberValue(-1.5)),
            ("at<2011-03-01", "at", JsonOperator::Less, text("2011-03-01")),
            ("at<=\"<\"", "at", JsonOperator::LessOrEqual, text("<")),
            ("code=\"12\"", "code", JsonOperator::Equals, text("12")),
            ("open=true", "open", JsonOperator::Equals, Kind::BoolValue(true)),
            ("open=null", "open", JsonOperator::Equals, Kind::NullValue(0)),
            ("text=a=b!", "text", JsonOperator::Equals, text("a=b!")),
            ("größe=\"\"", "größe", JsonOperator::Equals, text("")),
        ] {
            let parsed = parse(given).unwrap_or_else(|fault| panic!("{given}: {fault}"));
            assert_eq!((&*parsed.field, parsed.operator()), (field, operator), "{given}");
            assert_eq!(parsed.value.and_then(|value| value.kind), Some(value), "{given}");
        }
        for (bad, part) in [
            ("status", "FIELD OP VALUE"),
            ("", "FIELD OP VALUE"),
            ("=1", "FIELD OP VALUE"),
            ("status=", "a value is expected"),
            ("status!=paid", "no index finds"),
            ("status=[1]", "no list"),
            ("a=>1", "the operators are"),
        ] {
            let fault = parse(bad).expect_err(bad);
            assert!(fault.contains(part), "{bad}: {fault}");
        }
    }
}
