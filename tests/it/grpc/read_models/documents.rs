//! What a document may be: JSON objects, within limits; everything else is refused by the name of its field.

use annals::wire::proto::v1::DocumentWrite;

use crate::support::{
    TestStore,
    models::{Models, apply, create, delete, equals, find, invalid, merge, text, upsert},
};

const MIB: usize = 1 << 20;

async fn with_model() -> (TestStore, Models, u64) {
    let store = TestStore::start().await;
    let models = store.models();
    models.create(create("m", 0, &[&["n"], &["deep.n", "n"]])).await.unwrap();
    let position = store.fill("Payment-1", 1).await[0];
    (store, models, position)
}

/// A document of so many bytes.
fn of_size(bytes: usize) -> String {
    format!(r#"{{"x":"{}"}}"#, "x".repeat(bytes - 8))
}

#[tokio::test]
async fn what_is_no_json_object_is_refused_as_a_document_and_as_a_patch() {
    let (_store, models, at) = with_model().await;
    let bad = [
        "",
        " ",
        "null",
        "true",
        "7",
        "\"text\"",
        "[]",
        "[{}]",
        "{",
        "}",
        "{}{}",
        "{} x",
        "{,}",
        r#"{"a":1,}"#,
        r#"{"a"}"#,
        r#"{"a":}"#,
        "{a:1}",
        r"{'a':1}",
        r#"{"a":01}"#,
        r#"{"a":.5}"#,
        r#"{"a":1.}"#,
        r#"{"a":+1}"#,
        r#"{"a":1e}"#,
        r#"{"a":NaN}"#,
        r#"{"a":Infinity}"#,
        r#"{"a":0x10}"#,
        r#"{"a":tru}"#,
        r#"{"a":"\x"}"#,
        r#"{"a":"\u12"}"#,
        "{\"a\":\"\u{1}\"}",
        "{\"a\":\"\n\"}",
        r#"{"a":"b}"#,
        "{\"a\":1}\u{0}",
        "\u{feff}{}",
        "{/**/}",
        "// {}",
        r#"{"a":[1,]}"#,
        r#"{"a":[}"#,
        "{\u{a0}}",
        "{1:2}",
        "--1",
    ];
    for text in bad {
        for (write, field) in
            [(upsert("k", text), "writes[0].upsert"), (merge("k", text), "writes[0].merge")]
        {
            invalid(text, models.apply(apply("m", 0, at, [write])).await, &[field]);
        }
    }
    assert_eq!(models.checkpoint("m", 0).await.unwrap().checkpoint, 0);
    assert!(models.documents("m").await.is_empty());
}

/// A lone surrogate is a string that no UTF-8 has, wherever it stands.
#[tokio::test]
async fn lone_surrogates_are_refused() {
    let (_store, models, at) = with_model().await;
    for text in
        [r#"{"n":"\ud800"}"#, r#"{"n":"\udc00\ud800"}"#, r#"{"\ud83d":1}"#, r#"{"x":["\ud83dx"]}"#]
    {
        for (write, field) in
            [(upsert("k", text), "writes[0].upsert"), (merge("k", text), "writes[0].merge")]
        {
            invalid(text, models.apply(apply("m", 0, at, [write])).await, &[field]);
        }
    }
}

#[tokio::test]
async fn a_document_that_names_a_member_twice_is_refused() {
    let (_store, models, at) = with_model().await;
    for text in [
        r#"{"n":1,"n":2}"#,
        r#"{"n":1,"x":0,"n":1}"#,
        r#"{"n":1,"\u006e":2}"#,
        r#"{"x":{"y":1,"y":2}}"#,
        r#"{"x":[{"y":1,"y":2}]}"#,
        r#"{"deep":{"n":1},"deep":{}}"#,
    ] {
        for (write, field) in
            [(upsert("k", text), "writes[0].upsert"), (merge("k", text), "writes[0].merge")]
        {
            invalid(text, models.apply(apply("m", 0, at, [write])).await, &[field]);
        }
    }
    // The same name in another object is another member.
    let write = upsert("k", r#"{"n":{"n":1},"x":[{"n":1},{"n":2}]}"#);
    models.apply(apply("m", 0, at, [write])).await.unwrap();
}

#[tokio::test]
async fn deep_nesting_is_refused_before_it_costs_a_stack() {
    let (_store, models, at) = with_model().await;
    let list = |depth: usize| format!(r#"{{"n":{}1{}}}"#, "[".repeat(depth), "]".repeat(depth));
    let object = |depth: usize| format!("{}1{}", r#"{"n":"#.repeat(depth), "}".repeat(depth));
    let open = |depth: usize| format!(r#"{{"n":{}"#, "[".repeat(depth));
    for depth in [200, 10_000, 150_000] {
        for text in [list(depth), object(depth), open(depth)] {
            if text.len() > MIB {
                continue;
            }
            for (write, field) in
                [(upsert("k", &text), "writes[0].upsert"), (merge("k", &text), "writes[0].merge")]
            {
                let what = format!("{depth} deep: {}", &text[..20]);
                invalid(&what, models.apply(apply("m", 0, at, [write])).await, &[field]);
            }
        }
    }
    let writes = [upsert("a", &list(30)), upsert("b", &object(30)), merge("c", &object(30))];
    models.apply(apply("m", 0, at, writes)).await.unwrap();
    assert_eq!(models.json("m", "b").await, object(30));
}

#[tokio::test]
async fn a_document_may_have_1_mib_and_not_a_byte_more() {
    let (_store, models, at) = with_model().await;
    let too_large = of_size(MIB + 1);
    for (write, field) in
        [(upsert("k", &too_large), "writes[1].upsert"), (merge("k", &too_large), "writes[1].merge")]
    {
        let answer = models.apply(apply("m", 0, at, [upsert("a", "{}"), write])).await;
        invalid("too large", answer, &[field]);
    }
    assert!(models.documents("m").await.is_empty());
    let largest = of_size(MIB);
    models.apply(apply("m", 0, at, [upsert("a", &largest), merge("b", &largest)])).await.unwrap();
    assert_eq!(models.json("m", "a").await, largest);
    // Blanks count: what is kept is what was sent.
    let blanks = format!("{{}}{}", " ".repeat(MIB - 1));
    let position = at;
    invalid(
        "blanks",
        models.apply(apply("m", 0, position, [upsert("c", &blanks)])).await,
        &["writes[0].upsert"],
    );
}

/// Two names' worth of an index each with 1024 bytes is fine; one with 1025 is not, wherever the index has it.
#[tokio::test]
async fn an_indexed_string_has_at_most_1024_bytes() {
    let (_store, models, at) = with_model().await;
    let n = |text: &str| format!(r#"{{"n":"{text}"}}"#);
    let deep = |text: &str| format!(r#"{{"deep":{{"n":"{text}"}}}}"#);
    for text in ["x".repeat(1025), "é".repeat(513), "\u{1d11e}".repeat(257)] {
        for json in [n(&text), deep(&text)] {
            for (write, field) in
                [(upsert("k", &json), "writes[0].upsert"), (merge("k", &json), "writes[0].merge")]
            {
                invalid("too long", models.apply(apply("m", 0, at, [write])).await, &[field]);
            }
        }
    }
    let unindexed = format!(r#"{{"other":"{}","deep":{{"m":"{0}"}}}}"#, "x".repeat(2000));
    let escaped = n(&r"\u0061".repeat(1024));
    let writes = [
        upsert("a", &n(&"x".repeat(1024))),
        upsert("b", &format!(r#"{{"n":"{}","deep":{{"n":"{0}"}}}}"#, "é".repeat(512))),
        upsert("c", &unindexed),
        upsert("d", &escaped),
        // What a list or an object has is not indexed.
        upsert("e", &format!(r#"{{"n":["{}"]}}"#, "x".repeat(2000))),
    ];
    models.apply(apply("m", 0, at, writes)).await.unwrap();
    for (value, key) in [("x", "a"), ("a", "d")] {
        let value = text(&value.repeat(1024));
        assert_eq!(models.found(find("m", [equals("n", value)], "")).await, [key]);
    }
}

#[tokio::test]
async fn a_bad_key_is_refused_by_the_name_of_its_field() {
    let (_store, models, at) = with_model().await;
    for (what, key) in [
        ("none", String::new()),
        ("513 bytes", "x".repeat(513)),
        ("257 characters, 514 bytes", "é".repeat(257)),
        ("a line feed", "a\nb".to_owned()),
        ("a zero", "\0".to_owned()),
        ("DEL", "a\u{7f}".to_owned()),
        ("a C1 control", "a\u{85}".to_owned()),
    ] {
        for write in [upsert(&key, "{}"), merge(&key, "{}"), delete(&key)] {
            let answer = models.apply(apply("m", 0, at, [upsert("a", "{}"), write])).await;
            invalid(what, answer, &["writes[1].key"]);
        }
    }
    assert!(models.documents("m").await.is_empty());
    let good = [
        "x".repeat(512),
        "é".repeat(256),
        " ".to_owned(),
        "/../%".to_owned(),
        "\u{feff}".to_owned(),
    ];
    let writes: Vec<DocumentWrite> = good.iter().map(|key| upsert(key, "{}")).collect();
    models.apply(apply("m", 0, at, writes)).await.unwrap();
    let mut sorted = good.to_vec();
    sorted.sort_unstable();
    assert_eq!(models.found(find("m", [], "")).await, sorted, "in the order of their bytes");
    for key in good {
        models.document("m", &key).await.unwrap();
    }
}
