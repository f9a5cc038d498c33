//! Values of indexed fields as bytes that sort as the values do, and ranges of them.
//!
//! ```text
//! absent 01 · null 02 · false 03 · true 04 · number 05 + 8 bytes · string 06 + its bytes, 00 as 00 FF, then 00 00
//! ```
//!
//! A number's 8 bytes are its IEEE 754 double, big-endian, all bits flipped where it is negative, else the sign bit:
//! then doubles sort as unsigned integers do. Each value ends where the next one can begin, so values in a row sort as
//! a list of values does.

use serde_json::value::RawValue;

use crate::core::filter::json::Scalar;

const ABSENT: u8 = 1;
const NULL: u8 = 2;
const FALSE: u8 = 3;
const TRUE: u8 = 4;
const NUMBER: u8 = 5;
const STRING: u8 = 6;

/// An indexed string may have so many bytes: it stands in every index entry.
pub const INDEXED_STRING_BYTES_MAX: usize = 1024;

/// An indexed string is too long: it has so many bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StringTooLong(pub usize);

/// Appends a value that somebody compares with.
pub fn put_scalar(to: &mut Vec<u8>, scalar: &Scalar) {
    match scalar {
        Scalar::Null => to.push(NULL),
        Scalar::Bool(false) => to.push(FALSE),
        Scalar::Bool(true) => to.push(TRUE),
        Scalar::Number(number) => put_number(to, *number),
        Scalar::Text(text) => put_string(to, text),
    }
}

/// Appends a value of a document: lists, objects and what is not there are the same.
pub fn put_value(to: &mut Vec<u8>, value: Option<&RawValue>) -> Result<(), StringTooLong> {
    let text = value.map_or("", RawValue::get);
    match text.as_bytes().first() {
        None | Some(b'[' | b'{') => to.push(ABSENT),
        Some(b'n') => to.push(NULL),
        Some(b'f') => to.push(FALSE),
        Some(b't') => to.push(TRUE),
        Some(b'"') => {
            let string: String = serde_json::from_str(text).expect("it was parsed before");
            if string.len() > INDEXED_STRING_BYTES_MAX {
                return Err(StringTooLong(string.len()));
            }
            put_string(to, &string);
        }
        // JSON's numbers are Rust's; one beyond all doubles is infinite.
        Some(_) => put_number(to, text.parse().expect("JSON's grammar of numbers is narrower")),
    }
    Ok(())
}

fn put_number(to: &mut Vec<u8>, number: f64) {
    // 0.0 and -0.0 are the same number.
    let bits = (number + 0.0).to_bits();
    let negative = bits >> 63 == 1;
    let sortable = if negative { !bits } else { bits | 1 << 63 };
    to.push(NUMBER);
    to.extend_from_slice(&sortable.to_be_bytes());
}

fn put_string(to: &mut Vec<u8>, text: &str) {
    to.push(STRING);
    for byte in text.bytes() {
        to.push(byte);
        if byte == 0 {
            to.push(0xff);
        }
    }
    to.extend_from_slice(&[0, 0]);
}

/// The bytes of the kind that `scalar` is of: from, and before.
pub fn kind_of(scalar: &Scalar) -> (Vec<u8>, Vec<u8>) {
    let mut bytes = Vec::new();
    put_scalar(&mut bytes, scalar);
    (vec![bytes[0]], vec![bytes[0] + 1])
}

/// The first bytes that sort behind everything that begins with `prefix`. `None`: there are none.
pub fn behind(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|byte| *byte != 0xff)?;
    let mut behind = prefix[..=last].to_vec();
    behind[last] += 1;
    Some(behind)
}

#[cfg(test)]
mod tests {
    use std::cmp::Ordering;

    use proptest::prelude::*;

    use super::*;

    fn scalars() -> impl Strategy<Value = Scalar> {
        prop_oneof![
            Just(Scalar::Null),
            any::<bool>().prop_map(Scalar::Bool),
            any::<f64>()
                .prop_filter("JSON has no NaN", |number| !number.is_nan())
                .prop_map(Scalar::Number),
            (-3i8..3).prop_map(|number| Scalar::Number(f64::from(number))),
            "[a-b\0\u{ff}]{0,4}".prop_map(Scalar::Text),
        ]
    }

    fn compare(a: &Scalar, b: &Scalar) -> Ordering {
        let kind = |scalar: &Scalar| match scalar {
            Scalar::Null => 0,
            Scalar::Bool(_) => 1,
            Scalar::Number(_) => 2,
            Scalar::Text(_) => 3,
        };
        match (a, b) {
            (Scalar::Bool(a), Scalar::Bool(b)) => a.cmp(b),
            (Scalar::Number(a), Scalar::Number(b)) => a.partial_cmp(b).expect("no NaN"),
            (Scalar::Text(a), Scalar::Text(b)) => a.as_bytes().cmp(b.as_bytes()),
            _ => kind(a).cmp(&kind(b)),
        }
    }

    fn bytes(scalars: &[Scalar]) -> Vec<u8> {
        scalars.iter().fold(Vec::new(), |mut bytes, scalar| {
            put_scalar(&mut bytes, scalar);
            bytes
        })
    }

    proptest! {
        /// Bytes sort as the lists of values do, also where one goes on behind the other.
        #[test]
        fn bytes_sort_as_values_do(
            a in prop::collection::vec(scalars(), 1..3),
            b in prop::collection::vec(scalars(), 1..3),
        ) {
            let expected = a.iter().zip(&b).map(|(a, b)| compare(a, b)).find(|order| order.is_ne());
            let expected = expected.unwrap_or_else(|| a.len().cmp(&b.len()));
            prop_assert_eq!(bytes(&a).cmp(&bytes(&b)), expected);
        }

        /// What begins with a prefix lies before what is behind it, and nothing else does that lies behind the prefix.
        #[test]
        fn behind_a_prefix_is_the_end_of_all_that_begins_with_it(
            prefix in prop::collection::vec(250u8.., 1..4),
            other in prop::collection::vec(250u8.., 0..5),
        ) {
            let begins = other.starts_with(&prefix);
            let inside = other >= prefix && behind(&prefix).is_none_or(|behind| other < behind);
            prop_assert_eq!(begins, inside);
        }
    }

    #[test]
    fn a_documents_value_is_the_scalar_it_says() {
        let raw = |text: &str| RawValue::from_string(text.to_owned()).unwrap();
        for (text, scalar) in [
            ("null", Scalar::Null),
            ("true", Scalar::Bool(true)),
            ("-0.0", Scalar::Number(0.0)),
            ("1e2", Scalar::Number(100.0)),
            ("12.10", Scalar::Number(12.1)),
            (r#""aA\u0000""#, Scalar::Text("aA\0".to_owned())),
        ] {
            let mut value = Vec::new();
            put_value(&mut value, Some(&raw(text))).unwrap();
            assert_eq!(value, bytes(&[scalar]), "{text}");
        }
        let mut absent = Vec::new();
        put_value(&mut absent, None).unwrap();
        put_value(&mut absent, Some(&raw("[1]"))).unwrap();
        put_value(&mut absent, Some(&raw("{}"))).unwrap();
        assert_eq!(absent, [ABSENT; 3]);
        let long = format!("\"{}\"", "x".repeat(INDEXED_STRING_BYTES_MAX + 1));
        assert_eq!(put_value(&mut Vec::new(), Some(&raw(&long))), Err(StringTooLong(1025)));
    }
}
