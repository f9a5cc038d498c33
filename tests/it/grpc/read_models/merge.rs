//! Merge patches (RFC 7396): what comes out, and that numbers keep their digits.

use serde_json::{Value, json};

use crate::support::{
    TestStore,
    models::{Models, apply, create, equals, find, invalid, merge, number, text, upsert},
};

/// A server with the model `m`, and so many events.
async fn with_model(events: usize) -> (TestStore, Models, Vec<u64>) {
    let store = TestStore::start().await;
    let models = store.models();
    models.create(create("m", 0, &[&["n"]])).await.unwrap();
    let positions = store.fill("Payment-1", events).await;
    (store, models, positions)
}

/// What a merge makes of a document: the text, as it is sent to clients.
async fn merged(cases: &[(&str, &str)]) -> Vec<String> {
    let (_store, models, at) = with_model(1).await;
    let mut writes = Vec::new();
    for (number, (document, patch)) in cases.iter().enumerate() {
        let key = number.to_string();
        if !document.is_empty() {
            writes.push(upsert(&key, document));
        }
        writes.push(merge(&key, patch));
    }
    models.apply(apply("m", 0, at[0], writes)).await.unwrap();
    let mut all = Vec::new();
    for number in 0..cases.len() {
        all.push(models.json("m", &number.to_string()).await);
    }
    all
}

/// The cases of RFC 7396, appendix A, in which both are objects, and the text's own example.
#[tokio::test]
async fn a_merge_does_what_rfc_7396_says() {
    let example = r#"{"title":"Goodbye!","author":{"givenName":"John","familyName":"Doe"},
        "tags":["example","sample"],"content":"This will be unchanged"}"#;
    let patch = r#"{"title":"Hello!","phoneNumber":"+01-123-456-7890",
        "author":{"familyName":null},"tags":["example"]}"#;
    let cases = [
        (r#"{"a":"b"}"#, r#"{"a":"c"}"#, json!({"a":"c"})),
        (r#"{"a":"b"}"#, r#"{"b":"c"}"#, json!({"a":"b","b":"c"})),
        (r#"{"a":"b"}"#, r#"{"a":null}"#, json!({})),
        (r#"{"a":"b","b":"c"}"#, r#"{"a":null}"#, json!({"b":"c"})),
        (r#"{"a":["b"]}"#, r#"{"a":"c"}"#, json!({"a":"c"})),
        (r#"{"a":"c"}"#, r#"{"a":["b"]}"#, json!({"a":["b"]})),
        (r#"{"a":{"b":"c"}}"#, r#"{"a":{"b":"d","c":null}}"#, json!({"a":{"b":"d"}})),
        (r#"{"a":[{"b":"c"}]}"#, r#"{"a":[1]}"#, json!({"a":[1]})),
        (r#"{"e":null}"#, r#"{"a":1}"#, json!({"e":null,"a":1})),
        ("{}", r#"{"a":{"bb":{"ccc":null}}}"#, json!({"a":{"bb":{}}})),
        (r#"{"a":7}"#, r#"{"a":{"b":null,"c":1}}"#, json!({"a":{"c":1}})),
        (r#"{"a":[null]}"#, "{}", json!({"a":[null]})),
        (r#"{"a":1}"#, r#"{"a":[null,{"b":null}]}"#, json!({"a":[null,{"b":null}]})),
        (
            example,
            patch,
            json!({"title":"Hello!","author":{"givenName":"John"},"tags":["example"],
                "content":"This will be unchanged","phoneNumber":"+01-123-456-7890"}),
        ),
        // Where there is no document it is merged into an empty one.
        ("", r#"{"a":1,"b":null,"c":{"d":null,"e":2}}"#, json!({"a":1,"c":{"e":2}})),
        ("", "{}", json!({})),
    ];
    let pairs: Vec<_> = cases.iter().map(|(document, patch, _)| (*document, *patch)).collect();
    for (text, (document, patch, expected)) in merged(&pairs).await.iter().zip(&cases) {
        let value: Value = serde_json::from_str(text).unwrap();
        assert_eq!(value, *expected, "{document} with {patch}");
    }
}

#[tokio::test]
async fn a_merge_keeps_the_digits_of_every_number() {
    let numbers = [
        "12.10",
        "1e400",
        "18446744073709551617",
        "-0.0",
        "1E+2",
        "0.1e-7",
        "-0",
        "3.14159265358979323846264338327950288419716939937510",
    ];
    let cases: Vec<(String, String)> = numbers
        .iter()
        .flat_map(|number| {
            let holds = |name: &str| format!(r#"{{"{name}":{number}}}"#);
            let deep = format!(r#"{{"old":[{{"x":[{number}]}}]}}"#);
            [
                (holds("old"), r#"{"new":1}"#.to_owned()),
                (r#"{"new":1}"#.to_owned(), holds("old")),
                (String::new(), holds("old")),
                (deep, r#"{"new":1}"#.to_owned()),
            ]
        })
        .collect();
    let pairs: Vec<_> = cases.iter().map(|(a, b)| (&**a, &**b)).collect();
    let texts = merged(&pairs).await;
    for (index, text) in texts.iter().enumerate() {
        let number = numbers[index / 4];
        let compact = text.replace(' ', "");
        let ends = [format!("{number}}}"), format!("{number},"), format!("{number}]")];
        let starts = [":", "["];
        let there = ends
            .iter()
            .any(|end| starts.iter().any(|start| compact.contains(&format!("{start}{end}"))));
        assert!(there, "{number} of {:?} in {text}", cases[index]);
    }
}

/// A number that no double has is kept as text, but indexed as the nearest double.
#[tokio::test]
async fn an_upsert_is_kept_byte_for_byte() {
    let (_store, models, at) = with_model(1).await;
    let texts = [
        "{ }",
        " \r\n\t{\"b\" : 1 ,\"a\":2}\n",
        r#"{"a":12.10,"b":1e400,"n":1e0,"c":-0.0,"d":18446744073709551617}"#,
        r#"{"\u0061":"\ud83d\ude00\/","é":"\u00e9","n":"\u0000"}"#,
        r#"{"":{"":""}}"#,
    ];
    let keyed = |(number, text): (usize, &&str)| upsert(&number.to_string(), text);
    let writes: Vec<_> = texts.iter().enumerate().map(keyed).collect();
    models.apply(apply("m", 0, at[0], writes)).await.unwrap();
    for (number, text) in texts.iter().enumerate() {
        assert_eq!(models.json("m", &number.to_string()).await, *text);
    }
    let found = models.find_all(find("m", [], "")).await.unwrap();
    assert_eq!(found.iter().map(|it| &*it.json).collect::<Vec<_>>(), texts);
}

#[tokio::test]
async fn what_a_merge_makes_is_found_by_what_it_says_now() {
    let (_store, models, at) = with_model(3).await;
    let found = async |value| models.found(find("m", [equals("n", value)], "")).await;
    models.apply(apply("m", 0, at[0], [merge("a", r#"{"n":"x","m":1}"#)])).await.unwrap();
    assert_eq!(found(text("x")).await, ["a"]);
    models.apply(apply("m", at[0], at[1], [merge("a", r#"{"n":2}"#)])).await.unwrap();
    assert!(found(text("x")).await.is_empty());
    assert_eq!(found(number(2.0)).await, ["a"]);
    models.apply(apply("m", at[1], at[2], [merge("a", r#"{"n":null}"#)])).await.unwrap();
    assert!(found(number(2.0)).await.is_empty());
    assert_eq!(models.found(find("m", [], "n")).await, ["a"], "it is there without n");
}

#[tokio::test]
async fn a_merge_must_not_make_a_document_that_is_too_large() {
    let (_store, models, at) = with_model(2).await;
    let half = "x".repeat(600_000);
    models
        .apply(apply("m", 0, at[0], [upsert("a", &format!(r#"{{"a":"{half}"}}"#))]))
        .await
        .unwrap();
    let before = models.json("m", "a").await;
    let grow = || merge("a", &format!(r#"{{"b":"{half}"}}"#));
    let answer = models.apply(apply("m", at[0], at[1], [upsert("b", "{}"), grow()])).await;
    invalid("too large", answer, &["writes[1].merge"]);
    assert_eq!(models.json("m", "a").await, before);
    assert_eq!(models.documents("m").await.len(), 1);
    // In the place of the other half there is room.
    let replace = merge("a", &format!(r#"{{"a":null,"b":"{half}"}}"#));
    models.apply(apply("m", at[0], at[1], [replace])).await.unwrap();
}

/// As many as an Apply may have, to one document with many members. Were the document written anew by each, it would
/// take minutes, and every other projection would wait.
#[tokio::test]
async fn many_small_patches_to_a_large_document_cost_what_they_have() {
    const PATCHES: usize = 10_000;
    let (_store, models, at) = with_model(2).await;
    let members: Vec<_> = (0..45_000).map(|it| format!(r#""k{it}":{{"of":{it}}}"#)).collect();
    let json = format!("{{{}}}", members.join(","));
    assert!(json.len() > 900_000, "{}", json.len());
    models.apply(apply("m", 0, at[0], [upsert("a", &json)])).await.unwrap();
    let patch = |it: usize| match it % 3 {
        0 => format!(r#"{{"k{it}":null}}"#),
        1 => format!(r#"{{"k{it}":{{"of":null}}}}"#),
        _ => r#"{"n":1}"#.to_owned(),
    };
    let writes: Vec<_> = (0..PATCHES).map(|it| merge("a", &patch(it))).collect();
    models.apply(apply("m", at[0], at[1], writes)).await.unwrap();
    let value: Value = serde_json::from_str(&models.json("m", "a").await).unwrap();
    let object = value.as_object().unwrap();
    assert_eq!(object.len(), 45_000 - PATCHES.div_ceil(3) + 1);
    assert_eq!(
        (&object["k1"], &object["k2"], &object["n"]),
        (&json!({}), &json!({"of": 2}), &json!(1))
    );
}
