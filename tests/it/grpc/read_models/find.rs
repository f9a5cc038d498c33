//! Finding documents: by indexes of several fields, by members of members, and what remains to be looked at.

use annals::wire::proto::v1::{
    FindRequest, GetRequest,
    JsonOperator::{Greater, GreaterOrEqual, Less},
};

use crate::support::{
    TestStore,
    models::{Models, apply, create, delete, equals, find, matches, number, text, upsert},
};

const INDEXES: &[&[&str]] = &[&["status", "customer.country", "amount"], &["amount"]];

/// Key, status, country, amount.
const ORDERS: [(&str, &str, &str, u32); 8] = [
    ("a", "failed", "NL", 5),
    ("b", "failed", "NL", 3),
    ("c", "failed", "DE", 4),
    ("d", "paid", "NL", 1),
    ("e", "paid", "DE", 9),
    ("f", "failed", "NL", 3),
    ("g", "paid", "NL", 7),
    ("h", "open", "BE", 3),
];

fn order(status: &str, country: &str, amount: u32) -> String {
    serde_json::json!({"status": status, "customer": {"country": country}, "amount": amount})
        .to_string()
}

async fn with_orders() -> (TestStore, Models, u64) {
    let store = TestStore::start().await;
    let models = store.models();
    models.create(create("orders", 0, INDEXES)).await.unwrap();
    let position = store.fill("Payment-1", 1).await[0];
    let writes =
        ORDERS.map(|(key, status, country, amount)| upsert(key, &order(status, country, amount)));
    models.apply(apply("orders", 0, position, writes)).await.unwrap();
    (store, models, position)
}

#[tokio::test]
async fn a_document_is_got_by_its_key_with_the_checkpoint() {
    let (store, models, at) = with_orders().await;
    let next = store.fill("Payment-1", 1).await[0];
    models.apply(apply("orders", at, next, [])).await.unwrap();
    let request =
        GetRequest { model: "orders".to_owned(), version: 1, key: "a".to_owned(), min_position: 0 };
    let answer = models.get(request).await.unwrap();
    let document = answer.document.unwrap();
    assert_eq!((&*document.key, document.json), ("a", order("failed", "NL", 5)));
    assert_eq!((document.position, answer.checkpoint), (at, next));
}

#[tokio::test]
async fn every_document_comes_by_its_key_where_nothing_is_asked() {
    let (_store, models, at) = with_orders().await;
    let page = models.find(find("orders", [], "")).await.unwrap();
    assert_eq!(
        crate::support::models::keys(&page.documents),
        ["a", "b", "c", "d", "e", "f", "g", "h"]
    );
    assert_eq!((page.checkpoint, &*page.next_page_token), (at, ""));
    assert!(page.documents.iter().all(|document| document.position == at));
    let request = FindRequest { descending: true, ..find("orders", [], "") };
    assert_eq!(models.found(request).await, ["h", "g", "f", "e", "d", "c", "b", "a"]);
}

#[tokio::test]
async fn the_first_fields_of_an_index_are_compared_and_the_next_one_is_the_order() {
    let (_store, models, _) = with_orders().await;
    let failed = || equals("status", text("failed"));
    let dutch = || equals("customer.country", text("NL"));
    let cases = [
        // In the order of the index, whose values are all compared before the keys are.
        (find("orders", [failed()], ""), vec!["c", "b", "f", "a"]),
        (find("orders", [failed(), dutch()], ""), vec!["b", "f", "a"]),
        // The order in which they are named is nothing.
        (find("orders", [dutch(), failed()], ""), vec!["b", "f", "a"]),
        (find("orders", [failed(), dutch()], "amount"), vec!["b", "f", "a"]),
        (find("orders", [failed()], "customer.country"), vec!["c", "b", "f", "a"]),
        (find("orders", [], "status"), vec!["c", "b", "f", "a", "h", "e", "d", "g"]),
        (find("orders", [], "amount"), vec!["d", "b", "f", "h", "c", "a", "g", "e"]),
        (
            find("orders", [failed(), dutch(), matches("amount", Greater, number(3.0))], "amount"),
            vec!["a"],
        ),
        (find("orders", [failed(), equals("amount", number(3.0)), dutch()], ""), vec!["b", "f"]),
        // A field that is compared may be the order as well.
        (find("orders", [failed()], "status"), vec!["c", "b", "f", "a"]),
        (
            find("orders", [matches("amount", GreaterOrEqual, number(5.0))], "amount"),
            vec!["a", "g", "e"],
        ),
        (
            find("orders", [matches("status", Greater, text("failed"))], "status"),
            vec!["h", "e", "d", "g"],
        ),
    ];
    for (request, expected) in cases {
        assert_eq!(models.found(request.clone()).await, expected, "{request:?}");
        if !request.order_by.is_empty() {
            let request = FindRequest { page_size: 1, descending: true, ..request };
            let mut found = models.found(request.clone()).await;
            found.reverse();
            assert_eq!(found, expected, "{request:?}");
        }
    }
}

/// An index answers a part of it; the rest is looked at in what that part finds.
#[tokio::test]
async fn what_the_index_does_not_say_is_looked_at_in_what_it_finds() {
    let (_store, models, _) = with_orders().await;
    let cases = [
        // The country stands between them.
        (
            find("orders", [equals("status", text("failed")), equals("amount", number(3.0))], ""),
            vec!["b", "f"],
        ),
        (
            find(
                "orders",
                [matches("status", Less, text("open")), equals("customer.country", text("NL"))],
                "status",
            ),
            vec!["b", "f", "a"],
        ),
        (
            find(
                "orders",
                [equals("customer.country", text("NL")), equals("amount", number(3.0))],
                "",
            ),
            vec!["b", "f"],
        ),
        (
            find(
                "orders",
                [equals("customer.country", text("NL")), matches("amount", Greater, number(1.0))],
                "amount",
            ),
            vec!["b", "f", "a", "g"],
        ),
        (find("orders", [equals("customer.country", text("DE"))], "amount"), vec!["c", "e"]),
        (find("orders", [equals("customer.country", text("FR"))], "amount"), vec![]),
    ];
    for (request, expected) in cases {
        for page_size in [1000, 1, 2] {
            let request = FindRequest { page_size, ..request.clone() };
            assert_eq!(models.found(request.clone()).await, expected, "{request:?}");
        }
    }
}

#[tokio::test]
async fn a_member_of_a_member_is_found_and_a_member_whose_name_has_a_dot_is_not_it() {
    let store = TestStore::start().await;
    let models = store.models();
    models.create(create("m", 0, &[&["a.b"], &["a.b.c"], &["é.ß"]])).await.unwrap();
    let position = store.fill("Payment-1", 1).await[0];
    let writes = [
        upsert("nested", r#"{"a":{"b":1}}"#),
        upsert("dotted", r#"{"a.b":1}"#),
        upsert("list", r#"{"a":[{"b":1}]}"#),
        upsert("scalar", r#"{"a":1}"#),
        upsert("deeper", r#"{"a":{"b":{"c":1}}}"#),
        upsert("escaped", r#"{"\u0061":{"\u0062":1},"\u00e9":{"\u00df":2}}"#),
    ];
    models.apply(apply("m", 0, position, writes)).await.unwrap();
    let one = |field| find("m", [equals(field, number(1.0))], "");
    assert_eq!(models.found(one("a.b")).await, ["escaped", "nested"]);
    assert_eq!(models.found(one("a.b.c")).await, ["deeper"]);
    assert_eq!(models.found(find("m", [equals("é.ß", number(2.0))], "")).await, ["escaped"]);
}

#[tokio::test]
async fn an_index_follows_each_change_of_a_document() {
    let (store, models, at) = with_orders().await;
    let more = store.fill("Payment-1", 4).await;
    let failed =
        async || models.found(find("orders", [equals("status", text("failed"))], "")).await;
    let write = upsert("a", &order("paid", "NL", 5));
    models.apply(apply("orders", at, more[0], [write])).await.unwrap();
    assert_eq!(failed().await, ["c", "b", "f"]);
    models.apply(apply("orders", more[0], more[1], [delete("b"), delete("c")])).await.unwrap();
    assert_eq!(failed().await, ["f"]);
    let writes = [upsert("f", "{}"), upsert("b", &order("failed", "BE", 0))];
    models.apply(apply("orders", more[1], more[2], writes)).await.unwrap();
    assert_eq!(failed().await, ["b"]);
    let amounts = models.found(find("orders", [], "amount")).await;
    assert_eq!(amounts, ["f", "b", "d", "h", "a", "g", "e"]);
}
