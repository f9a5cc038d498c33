//! Every other mistake that can be made with a read model: `INVALID_ARGUMENT`, the field named, nothing done.

use annals::wire::proto::v1::{
    ApplyRequest, CreateModelRequest, DocumentWrite, FieldMatch, FindRequest, GetRequest, Index,
    ListModelsRequest, WatchRequest,
};
use prost_types::{Duration, ListValue, Struct, Value, value::Kind};
use tonic::Status;

use crate::support::{
    TestStore,
    models::{Models, apply, create, equals, find, indexes, invalid, number, text, upsert, watch},
};

async fn with_model() -> (TestStore, Models) {
    let store = TestStore::start().await;
    let models = store.models();
    models.create(create("m", 0, &[&["n", "s"], &["s"]])).await.unwrap();
    store.fill("Payment-1", 1).await;
    (store, models)
}

/// Names that no model has.
fn bad_names() -> Vec<(&'static str, String)> {
    vec![
        ("none", String::new()),
        ("257 bytes", "x".repeat(257)),
        ("129 characters, 258 bytes", "é".repeat(129)),
        ("a line feed", "m\n".to_owned()),
        ("a zero", "\0".to_owned()),
        ("a C1 control", "\u{9f}m".to_owned()),
    ]
}

/// How a watch that is asked for badly ends: its call is refused, or it is in place of the first message.
async fn watched(models: &Models, request: WatchRequest) -> Result<(), Status> {
    models.watch(request).await?.next().await.map(drop)
}

#[tokio::test]
async fn a_bad_name_of_a_model_is_refused_by_every_call() {
    let (_store, models) = with_model().await;
    for (what, model) in bad_names() {
        let name = || model.clone();
        let get = GetRequest { model: name(), key: "k".to_owned(), ..GetRequest::default() };
        let answers = [
            models.create(create(&model, 0, &[])).await.map(drop),
            models.apply(apply(&model, 0, 1, [])).await.map(drop),
            models.get(get).await.map(drop),
            models.find(find(&model, [], "")).await.map(drop),
            watched(&models, watch(&model, [])).await,
            models.checkpoint(&model, 0).await.map(drop),
            models.switch(&model, 1).await.map(drop),
            models.drop(&model, 0).await.map(drop),
        ];
        for answer in answers {
            invalid(what, answer, &["model"]);
        }
    }
    assert_eq!(models.all().await.len(), 1);
}

#[tokio::test]
async fn bad_indexes_are_refused_by_the_names_of_their_fields_and_nothing_is_made() {
    let (_store, models) = with_model().await;
    let of = |fields: &[&str]| indexes(&[fields]);
    let long = "x".repeat(257);
    let cases: Vec<(&str, Vec<Index>, &[&str])> = vec![
        (
            "17 indexes",
            (0..17).map(|it| of(&[&format!("f{it}")]).remove(0)).collect(),
            &["indexes"],
        ),
        ("no field", indexes(&[&["a"], &[]]), &["indexes[1].fields"]),
        ("5 fields", of(&["a", "b", "c", "d", "e"]), &["indexes[0].fields"]),
        ("a field without a name", of(&["a", ""]), &["indexes[0].fields[1]"]),
        ("257 bytes", of(&[&long]), &["indexes[0].fields[0]"]),
        ("9 names deep", of(&["a.b.c.d.e.f.g.h.i"]), &["indexes[0].fields[0]"]),
        ("an empty name", of(&["a..b"]), &["indexes[0].fields[0]"]),
        ("an empty name first", of(&[".b"]), &["indexes[0].fields[0]"]),
        ("an empty name last", of(&["b."]), &["indexes[0].fields[0]"]),
        ("only a dot", of(&["."]), &["indexes[0].fields[0]"]),
        ("a field twice", of(&["a", "b", "a"]), &["indexes[0].fields[2]"]),
        ("an index twice", indexes(&[&["a"], &["b"], &["a"]]), &["indexes[2].fields"]),
        (
            "several",
            indexes(&[&[""], &["a"], &["a"]]),
            &["indexes[0].fields[0]", "indexes[2].fields"],
        ),
    ];
    for (what, indexes, fields) in cases {
        let request = CreateModelRequest { model: "new".to_owned(), version: 0, indexes };
        invalid(what, models.create(request).await, fields);
    }
    assert_eq!(models.all().await.len(), 1);
}

#[tokio::test]
async fn a_bad_apply_is_refused_by_the_names_of_its_fields_and_writes_nothing() {
    let (_store, models) = with_model().await;
    let many: Vec<DocumentWrite> = (0..10_001).map(|it| upsert(&it.to_string(), "{}")).collect();
    let fill = format!(r#"{{"x":"{}"}}"#, "x".repeat(1 << 19));
    let large: Vec<DocumentWrite> = (0..33).map(|it| upsert(&it.to_string(), &fill)).collect();
    let nothing = DocumentWrite { key: "k".to_owned(), write: None };
    let cases: Vec<(&str, ApplyRequest, &[&str])> = vec![
        ("10 001 writes", apply("m", 0, 1, many), &["writes"]),
        ("more than 16 MiB", apply("m", 0, 1, large), &["writes"]),
        (
            "a write that is none",
            apply("m", 0, 1, [upsert("a", "{}"), nothing.clone()]),
            &["writes[1].write"],
        ),
        ("no checkpoint", apply("m", 0, 0, []), &["checkpoint"]),
        (
            "several",
            apply("", 5, 5, [nothing, upsert("", "{"), upsert("a", "{}")]),
            &["model", "checkpoint", "writes[0].write", "writes[1].key", "writes[1].upsert"],
        ),
    ];
    for (what, request, fields) in cases {
        invalid(what, models.apply(request).await, fields);
    }
    assert_eq!(models.checkpoint("m", 0).await.unwrap().checkpoint, 0);
    assert!(models.documents("m").await.is_empty());
}

#[tokio::test]
async fn a_bad_get_is_refused_by_the_name_of_its_field() {
    let (_store, models) = with_model().await;
    let get = |key: &str| GetRequest {
        model: "m".to_owned(),
        key: key.to_owned(),
        ..GetRequest::default()
    };
    for key in ["", &"x".repeat(513), "a\tb"] {
        invalid(key, models.get(get(key)).await, &["key"]);
    }
    let both = GetRequest { model: String::new(), ..get("") };
    invalid("both", models.get(both).await, &["model", "key"]);
}

/// Matches of which one is wrong, and the fields that are named.
fn bad_matches() -> Vec<(&'static str, Vec<FieldMatch>, &'static [&'static str])> {
    let with =
        |kind: Option<Kind>| FieldMatch { value: Some(Value { kind }), ..equals("n", number(1.0)) };
    let operator = |operator: i32, kind: Kind| FieldMatch { operator, ..equals("n", kind) };
    let long = "x".repeat(257);
    let mut cases: Vec<(&'static str, Vec<FieldMatch>, &'static [&'static str])> = vec![
        ("17 matches", vec![equals("n", number(1.0)); 17], &["matches"]),
        ("no field", vec![equals("", number(1.0))], &["matches[0].field"]),
        ("257 bytes", vec![equals(&long, number(1.0))], &["matches[0].field"]),
        ("9 names", vec![equals("a.b.c.d.e.f.g.h.i", number(1.0))], &["matches[0].field"]),
        ("an empty name", vec![equals("a..b", number(1.0))], &["matches[0].field"]),
        (
            "no value",
            vec![FieldMatch { value: None, ..equals("n", number(1.0)) }],
            &["matches[0].value"],
        ),
        ("no kind", vec![with(None)], &["matches[0].value"]),
        ("a list", vec![with(Some(Kind::ListValue(ListValue::default())))], &["matches[0].value"]),
        (
            "an object",
            vec![with(Some(Kind::StructValue(Struct::default())))],
            &["matches[0].value"],
        ),
        ("no number", vec![equals("n", number(f64::NAN))], &["matches[0].value"]),
        ("endless", vec![equals("n", number(f64::INFINITY))], &["matches[0].value"]),
        ("not equals", vec![operator(2, number(1.0))], &["matches[0].operator"]),
        ("exists", vec![operator(7, number(1.0))], &["matches[0].operator"]),
        ("operator 8", vec![operator(8, number(1.0))], &["matches[0].operator"]),
        ("operator -1", vec![operator(-1, number(1.0))], &["matches[0].operator"]),
        (
            "the second and the third",
            vec![equals("n", number(1.0)), equals("", text("x")), operator(2, number(1.0))],
            &["matches[1].field", "matches[2].operator"],
        ),
    ];
    for less in 3..=6 {
        cases.push((
            "less than true",
            vec![operator(less, Kind::BoolValue(true))],
            &["matches[0].value"],
        ));
        cases.push((
            "less than null",
            vec![operator(less, Kind::NullValue(0))],
            &["matches[0].value"],
        ));
    }
    cases
}

#[tokio::test]
async fn bad_matches_are_refused_by_the_names_of_their_fields_to_find_and_to_watch() {
    let (_store, models) = with_model().await;
    for (what, matches, fields) in bad_matches() {
        invalid(what, models.find(find("m", matches.clone(), "")).await, fields);
        invalid(what, watched(&models, watch("m", matches)).await, fields);
    }
}

#[tokio::test]
async fn a_bad_find_is_refused_by_the_names_of_its_fields() {
    let (_store, models) = with_model().await;
    let long = "x".repeat(257);
    let size = |page_size| FindRequest { page_size, ..find("m", [], "") };
    let token =
        |page_token: &str| FindRequest { page_token: page_token.to_owned(), ..find("m", [], "") };
    let cases: Vec<(&str, FindRequest, &[&str])> = vec![
        ("1001", size(1001), &["page_size"]),
        ("all", size(u32::MAX), &["page_size"]),
        ("257 bytes", find("m", [], &long), &["order_by"]),
        ("an empty name", find("m", [], "n."), &["order_by"]),
        ("9 names deep", find("m", [], "a.b.c.d.e.f.g.h.i"), &["order_by"]),
        ("a token of nobody", token("nonsense"), &["page_token"]),
        ("a token of no letters", token("\u{1}é\u{0}"), &["page_token"]),
        ("a long token", token(&"A".repeat(1 << 20)), &["page_token"]),
        (
            "several",
            FindRequest { page_size: 1001, ..find("", [equals("", number(1.0))], ".") },
            &["model", "matches[0].field", "order_by", "page_size"],
        ),
    ];
    for (what, request, fields) in cases {
        invalid(what, models.find(request).await, fields);
    }
}

#[tokio::test]
async fn a_bad_watch_is_refused_by_the_names_of_its_fields() {
    let (_store, models) = with_model().await;
    let every = |seconds, nanos| WatchRequest {
        heartbeat_interval: Some(Duration { seconds, nanos }),
        ..watch("m", [])
    };
    for (what, request) in [
        ("99.9 ms", every(0, 99_999_999)),
        ("over 1 h", every(3600, 1)),
        ("before now", every(-1, 0)),
        ("no time", every(0, 0)),
        ("for ever", every(i64::MAX, i32::MAX)),
        ("no duration", every(1, -1)),
    ] {
        invalid(what, watched(&models, request).await, &["heartbeat_interval"]);
    }
    let several = WatchRequest { model: String::new(), ..every(0, 1) };
    invalid("several", watched(&models, several).await, &["model", "heartbeat_interval"]);
    for good in [every(3600, 0), every(0, 100_000_000)] {
        watched(&models, good).await.unwrap();
    }
}

#[tokio::test]
async fn a_bad_list_or_switch_is_refused_by_the_name_of_its_field() {
    let (_store, models) = with_model().await;
    let page =
        |page_size, token: &str| ListModelsRequest { page_size, page_token: token.to_owned() };
    invalid("1001", models.list(page(1001, "")).await, &["page_size"]);
    for token in ["\u{1}no", "\n"] {
        invalid("token", models.list(page(0, token)).await, &["page_token"]);
    }
    invalid("no version", models.switch("m", 0).await, &["version"]);
    let both = models.switch("", 0).await;
    invalid("both", both, &["model", "version"]);
}
