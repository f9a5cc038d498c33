//! How values compare and stand in an order: absent, null, false, true, numbers as doubles, strings by bytes.

use annals::wire::proto::v1::{
    FindRequest,
    JsonOperator::{Equals, Greater, GreaterOrEqual, Less, LessOrEqual, Unspecified},
};
use prost_types::value::Kind;

use crate::support::{
    TestStore,
    models::{Models, NULL, apply, create, equals, find, matches, number, text, upsert},
};

/// Documents by what `n` is, in the order in which they come; those in one row are the same and come by their keys.
const ORDER: [&[(&str, &str)]; 21] = [
    &[
        ("absent-1", "{}"),
        ("absent-2", r#"{"n":[]}"#),
        ("absent-3", r#"{"n":{}}"#),
        ("absent-4", r#"{"n":[null,1,"a"]}"#),
        ("absent-5", r#"{"n":{"n":1}}"#),
        ("absent-6", r#"{"N":1,"n.n":2}"#),
    ],
    &[("null", r#"{"n":null}"#)],
    &[("false", r#"{"n":false}"#)],
    &[("true", r#"{"n":true}"#)],
    &[("lowest", r#"{"n":-1.7976931348623157e308}"#)],
    &[("negative", r#"{"n":-2}"#)],
    &[("tiny-below", r#"{"n":-5e-324}"#)],
    &[("zero-1", r#"{"n":-0.0}"#), ("zero-2", r#"{"n":0}"#), ("zero-3", r#"{"n":0e5}"#)],
    &[("tiny", r#"{"n":5e-324}"#)],
    &[("one-1", r#"{"n":1}"#), ("one-2", r#"{"n":1.0}"#), ("one-3", r#"{"n":10e-1}"#)],
    &[("two", r#"{"n":2}"#)],
    &[("ten", r#"{"n":10}"#)],
    // The nearest double of both is 2^53.
    &[("2^53", r#"{"n":9007199254740992}"#), ("2^53+1", r#"{"n":9007199254740993}"#)],
    &[("2^53+2", r#"{"n":9007199254740994}"#)],
    &[("empty", r#"{"n":""}"#)],
    &[("string-zero", r#"{"n":"\u0000"}"#)],
    &[("string-10", r#"{"n":"10"}"#)],
    &[("string-9", r#"{"n":"9"}"#)],
    &[("string-B", r#"{"n":"B"}"#)],
    &[("string-a", r#"{"n":"\u0061"}"#)],
    &[("string-high", r#"{"n":"\uffff"}"#)],
];

/// By UTF-16 it would stand before U+FFFF.
const LAST: (&str, &str) = ("string-highest", r#"{"n":"\ud800\udc00"}"#);

fn all() -> Vec<&'static str> {
    let rows = ORDER.iter().flat_map(|row| row.iter().map(|(key, _)| *key));
    rows.chain([LAST.0]).collect()
}

async fn with_values() -> (TestStore, Models) {
    let store = TestStore::start().await;
    let models = store.models();
    models.create(create("m", 0, &[&["n"]])).await.unwrap();
    let position = store.fill("Payment-1", 1).await[0];
    let documents = ORDER.iter().flat_map(|row| row.iter()).chain([&LAST]);
    // Not in their order.
    let mut writes: Vec<_> = documents.map(|(key, json)| upsert(key, json)).collect();
    writes.sort_by_key(|write| write.key.chars().rev().collect::<String>());
    models.apply(apply("m", 0, position, writes)).await.unwrap();
    (store, models)
}

#[tokio::test]
async fn absent_null_false_true_numbers_and_strings_come_in_this_order() {
    let (_store, models) = with_values().await;
    let forwards = models.found(find("m", [], "n")).await;
    assert_eq!(forwards, all());
    let backwards = FindRequest { descending: true, ..find("m", [], "n") };
    let mut reversed = all();
    reversed.reverse();
    assert_eq!(models.found(backwards.clone()).await, reversed, "keys, too, the other way round");
    // And page by page.
    for (request, expected) in [(find("m", [], "n"), all()), (backwards, reversed)] {
        for page_size in [1, 2, 7] {
            let request = FindRequest { page_size, ..request.clone() };
            assert_eq!(models.found(request).await, expected, "pages of {page_size}");
        }
    }
}

#[tokio::test]
async fn equals_means_the_same_kind_and_the_same_value() {
    let (_store, models) = with_values().await;
    let cases: Vec<(Kind, Vec<&str>)> = vec![
        // What is absent is not null.
        (NULL, vec!["null"]),
        (Kind::BoolValue(false), vec!["false"]),
        (Kind::BoolValue(true), vec!["true"]),
        (number(0.0), vec!["zero-1", "zero-2", "zero-3"]),
        (number(-0.0), vec!["zero-1", "zero-2", "zero-3"]),
        (number(1.0), vec!["one-1", "one-2", "one-3"]),
        (number(9_007_199_254_740_992.0), vec!["2^53", "2^53+1"]),
        (number(5e-324), vec!["tiny"]),
        (number(f64::MIN), vec!["lowest"]),
        (number(3.0), vec![]),
        (text(""), vec!["empty"]),
        (text("\0"), vec!["string-zero"]),
        (text("a"), vec!["string-a"]),
        (text("10"), vec!["string-10"]),
        (text("\u{10000}"), vec!["string-highest"]),
        (text("A"), vec![]),
        (text("null"), vec![]),
    ];
    for (value, expected) in cases {
        for operator in [Equals, Unspecified] {
            let found = models.found(find("m", [matches("n", operator, value.clone())], "")).await;
            assert_eq!(found, expected, "{value:?}");
        }
    }
}

#[tokio::test]
async fn less_and_greater_compare_numbers_with_numbers_and_strings_with_strings() {
    let (_store, models) = with_values().await;
    let order = all();
    let from = |key: &str| order.iter().position(|it| *it == key).unwrap();
    let (numbers, strings) = (from("lowest")..from("empty"), from("empty")..order.len());
    // A value, where its equals are, and the kind that it compares with.
    let cases = [
        (number(-0.0), from("zero-1")..from("tiny"), numbers.clone()),
        (number(0.0), from("zero-1")..from("tiny"), numbers.clone()),
        (number(1.5), from("two")..from("two"), numbers.clone()),
        (number(f64::MAX), numbers.end..numbers.end, numbers.clone()),
        (number(f64::MIN), from("lowest")..from("negative"), numbers.clone()),
        (number(9_007_199_254_740_993.0), from("2^53")..from("2^53+2"), numbers),
        (text(""), from("empty")..from("string-zero"), strings.clone()),
        (text("10"), from("string-10")..from("string-9"), strings.clone()),
        (text("1"), from("string-10")..from("string-10"), strings.clone()),
        (text("a"), from("string-a")..from("string-high"), strings.clone()),
        (text("\u{10ffff}"), order.len()..order.len(), strings),
    ];
    for (value, same, kind) in cases {
        let expected = [
            (Less, kind.start..same.start),
            (LessOrEqual, kind.start..same.end),
            (Greater, same.end..kind.end),
            (GreaterOrEqual, same.start..kind.end),
            (Equals, same.clone()),
        ];
        for (operator, range) in expected {
            let request = find("m", [matches("n", operator, value.clone())], "n");
            let found = models.found(request.clone()).await;
            assert_eq!(found, order[range.clone()], "{operator:?} {value:?}");
            // Without an order they come in that of the index, which is the same here.
            let request = FindRequest { order_by: String::new(), page_size: 2, ..request };
            assert_eq!(models.found(request).await, order[range], "{operator:?} {value:?}");
        }
    }
}

#[tokio::test]
async fn several_matches_of_one_field_make_a_range() {
    let (_store, models) = with_values().await;
    let range = async |matches: &[_]| models.found(find("m", matches, "n")).await;
    let between = [matches("n", GreaterOrEqual, number(0.0)), matches("n", Less, number(2.0))];
    let expected = ["zero-1", "zero-2", "zero-3", "tiny", "one-1", "one-2", "one-3"];
    assert_eq!(range(&between).await, expected);
    let narrower = [&between[..], &[matches("n", Greater, number(0.0))]].concat();
    assert_eq!(range(&narrower).await, expected[3..]);
    let one = [&narrower[..], &[equals("n", number(1.0))]].concat();
    assert_eq!(range(&one).await, expected[4..]);
    // Nothing is two things at once.
    for nothing in [
        [matches("n", Less, number(1.0)), matches("n", Greater, number(1.0))],
        [matches("n", Less, number(1.0)), matches("n", GreaterOrEqual, number(1.0))],
        [matches("n", GreaterOrEqual, number(0.0)), matches("n", GreaterOrEqual, text(""))],
        [equals("n", number(1.0)), equals("n", number(2.0))],
        [equals("n", NULL), equals("n", Kind::BoolValue(false))],
        [equals("n", number(2.0)), matches("n", Less, number(2.0))],
    ] {
        assert!(range(&nothing).await.is_empty(), "{nothing:?}");
    }
    let same = [matches("n", LessOrEqual, number(1.0)), matches("n", GreaterOrEqual, number(1.0))];
    assert_eq!(range(&same).await, ["one-1", "one-2", "one-3"]);
}

/// What no double holds is taken as the nearest one; the largest is infinite, and still a number.
#[tokio::test]
async fn a_number_too_large_for_a_double_is_found_beyond_all_others() {
    let store = TestStore::start().await;
    let models = store.models();
    models.create(create("m", 0, &[&["n"]])).await.unwrap();
    let position = store.fill("Payment-1", 1).await[0];
    let writes = [
        upsert("huge", r#"{"n":1e400}"#),
        upsert("low", r#"{"n":-1e400}"#),
        upsert("largest", r#"{"n":1.7976931348623157e308}"#),
        upsert("none", r#"{"n":1e-400}"#),
        upsert("2^64", r#"{"n":18446744073709551616}"#),
        upsert("2^64+1", r#"{"n":18446744073709551617}"#),
    ];
    models.apply(apply("m", 0, position, writes)).await.unwrap();
    let order = ["low", "none", "2^64", "2^64+1", "largest", "huge"];
    assert_eq!(models.found(find("m", [], "n")).await, order);
    let above = [matches("n", Greater, number(f64::MAX))];
    assert_eq!(models.found(find("m", above, "n")).await, ["huge"]);
    let same = [equals("n", number(18_446_744_073_709_551_616.0))];
    assert_eq!(models.found(find("m", same, "n")).await, ["2^64", "2^64+1"]);
    let zero = [equals("n", number(0.0))];
    assert_eq!(models.found(find("m", zero, "n")).await, ["none"]);
}
