//! Pages: their size, and tokens that go with the request they were given for and with no other.

use annals::wire::proto::v1::{FindRequest, JsonOperator::GreaterOrEqual};

use crate::support::{
    TestStore,
    models::{
        Models, apply, create, delete, equals, find, invalid, keys, matches, number, text, upsert,
    },
};

/// 250 documents with 5 values of `n`.
async fn with_documents() -> (TestStore, Models, u64) {
    let store = TestStore::start().await;
    let models = store.models();
    models.create(create("m", 0, &[&["n", "s"], &["s"]])).await.unwrap();
    let position = store.fill("Payment-1", 1).await[0];
    let writes: Vec<_> = (0..250)
        .map(|it| upsert(&format!("{it:03}"), &format!(r#"{{"n":{},"s":"{}"}}"#, it % 5, it % 7)))
        .collect();
    models.apply(apply("m", 0, position, writes)).await.unwrap();
    (store, models, position)
}

#[tokio::test]
async fn a_page_has_100_documents_unless_told_otherwise() {
    let (_store, models, _) = with_documents().await;
    let sized = |page_size| FindRequest { page_size, ..find("m", [], "") };
    for (asked, given) in [(0, 100), (1, 1), (99, 99), (250, 250), (1000, 250)] {
        let page = models.find(sized(asked)).await.unwrap();
        assert_eq!((page.documents.len(), page.next_page_token.is_empty()), (given, given == 250));
    }
}

#[tokio::test]
async fn pages_of_any_size_have_every_document_once_and_in_order() {
    let (_store, models, _) = with_documents().await;
    let requests = [
        find("m", [], ""),
        find("m", [], "n"),
        find("m", [], "s"),
        find("m", [equals("n", number(3.0))], ""),
        find("m", [equals("n", number(3.0))], "s"),
        find("m", [matches("n", GreaterOrEqual, number(1.0))], ""),
        find("m", [matches("n", GreaterOrEqual, number(1.0)), equals("s", text("2"))], "n"),
    ];
    for request in requests {
        for descending in [false, true] {
            let request = FindRequest { descending, ..request.clone() };
            let whole = models.found(request.clone()).await;
            assert!(!whole.is_empty());
            for page_size in [1, 3, 100] {
                let request = FindRequest { page_size, ..request.clone() };
                assert_eq!(models.found(request.clone()).await, whole, "{request:?}");
            }
        }
    }
}

#[tokio::test]
async fn a_page_ends_at_2_mib_but_has_one_document_at_least() {
    let store = TestStore::start().await;
    let models = store.models();
    models.create(create("m", 0, &[&["n"]])).await.unwrap();
    let position = store.fill("Payment-1", 1).await[0];
    let sized = |bytes: usize| format!(r#"{{"n":1,"x":"{}"}}"#, "x".repeat(bytes - 14));
    let writes: Vec<_> = (0..9).map(|it| upsert(&it.to_string(), &sized(1 << 20))).collect();
    models.apply(apply("m", 0, position, writes)).await.unwrap();
    for request in
        [find("m", [], ""), find("m", [], "n"), find("m", [equals("n", number(1.0))], "")]
    {
        let mut request = request;
        let mut seen = Vec::new();
        loop {
            let page = models.find(request.clone()).await.unwrap();
            let bytes: usize = page.documents.iter().map(|it| it.key.len() + it.json.len()).sum();
            assert!(!page.documents.is_empty() && bytes <= 3 << 20, "{bytes}");
            seen.extend(page.documents.into_iter().map(|it| it.key));
            if page.next_page_token.is_empty() {
                break;
            }
            request.page_token = page.next_page_token;
        }
        assert_eq!(seen, ["0", "1", "2", "3", "4", "5", "6", "7", "8"]);
    }
}

#[tokio::test]
async fn a_token_goes_with_its_own_request_only() {
    let (_store, models, _) = with_documents().await;
    models.create(create("other", 0, &[&["n", "s"], &["s"]])).await.unwrap();
    models.create(create("m", 2, &[&["n", "s"], &["s"]])).await.unwrap();
    let request = FindRequest { page_size: 10, ..find("m", [equals("n", number(3.0))], "s") };
    let page = models.find(request.clone()).await.unwrap();
    let with_token =
        |request: FindRequest| FindRequest { page_token: page.next_page_token.clone(), ..request };
    let matches = |matches: Vec<_>| FindRequest { matches, ..request.clone() };
    let others = [
        ("another model", FindRequest { model: "other".to_owned(), ..request.clone() }),
        ("another version", FindRequest { version: 2, ..request.clone() }),
        ("another value", matches(vec![equals("n", number(4.0))])),
        ("another kind", matches(vec![equals("n", text("3"))])),
        ("no match", matches(vec![])),
        ("one more match", matches(vec![equals("n", number(3.0)), equals("s", text("2"))])),
        ("no order", FindRequest { order_by: String::new(), ..request.clone() }),
        ("another order", FindRequest { order_by: "n".to_owned(), ..request.clone() }),
        ("the other way", FindRequest { descending: true, ..request.clone() }),
    ];
    for (what, other) in others {
        invalid(what, models.find(with_token(other)).await, &["page_token"]);
    }
    // How long the pages are, and what the answer waits for, is no part of what is asked.
    let longer = FindRequest { page_size: 1000, min_position: 1, ..request.clone() };
    let rest = models.find(with_token(longer)).await.unwrap();
    assert_eq!(page.documents.len() + rest.documents.len(), 50);
    assert!(rest.next_page_token.is_empty());
}

#[tokio::test]
async fn a_damaged_token_is_refused_and_never_answered_wrongly() {
    let (_store, models, _) = with_documents().await;
    let request = FindRequest { page_size: 10, ..find("m", [], "n") };
    let page = models.find(request.clone()).await.unwrap();
    let token = page.next_page_token;
    let good =
        models.find(FindRequest { page_token: token.clone(), ..request.clone() }).await.unwrap();
    let characters: Vec<char> = token.chars().collect();
    for place in 0..characters.len() {
        let mut damaged = characters.clone();
        damaged[place] = if damaged[place] == 'A' { 'B' } else { 'A' };
        let cut: String = characters[..place].iter().collect();
        for text in [damaged.into_iter().collect(), cut] {
            if text.is_empty() {
                continue;
            }
            match models.find(FindRequest { page_token: text.clone(), ..request.clone() }).await {
                Err(_) => {
                    let answer =
                        models.find(FindRequest { page_token: text, ..request.clone() }).await;
                    invalid("damaged", answer, &["page_token"]);
                }
                // The same place in other letters, or another place: a page of this request all the same.
                Ok(page) => {
                    let n = |json: &str| json.as_bytes()[5];
                    assert!(page.documents.is_sorted_by_key(|it| (n(&it.json), it.key.clone())));
                }
            }
        }
    }
    assert_eq!(good.documents.len(), 10);
}

/// The place is between two documents: whether these are still there is nothing to it.
#[tokio::test]
async fn the_next_page_goes_on_where_the_last_one_ended_whatever_was_written_meanwhile() {
    let (store, models, at) = with_documents().await;
    let request = FindRequest { page_size: 3, ..find("m", [], "") };
    let page = models.find(request.clone()).await.unwrap();
    assert_eq!(keys(&page.documents), ["000", "001", "002"]);
    let next = store.fill("Payment-1", 1).await[0];
    let writes = [
        delete("002"),
        delete("003"),
        upsert("0011", r#"{"n":0}"#),
        upsert("0021", r#"{"n":0}"#),
        upsert("004", r#"{"n":1}"#),
    ];
    models.apply(apply("m", at, next, writes)).await.unwrap();
    let request = FindRequest { page_token: page.next_page_token, ..request };
    let page = models.find(request).await.unwrap();
    assert_eq!(keys(&page.documents), ["0021", "004", "005"]);
    assert_eq!(page.checkpoint, next, "each page is of its own moment");
}

#[tokio::test]
async fn a_token_for_the_current_version_ends_with_a_switch_or_stays_with_its_version() {
    let (_store, models, at) = with_documents().await;
    models.create(create("m", 2, &[&["n", "s"], &["s"]])).await.unwrap();
    let request = FindRequest { page_size: 10, ..find("m", [], "n") };
    let first = models.find(request.clone()).await.unwrap();
    models.switch("m", 2).await.unwrap();
    let request = FindRequest { page_token: first.next_page_token, ..request };
    match models.find(request.clone()).await {
        // Version 2 is empty, and says so: nothing of both is mixed.
        Ok(page) => assert_eq!((page.documents.len(), page.checkpoint), (0, 0)),
        Err(_) => invalid("switched", models.find(request).await, &["page_token"]),
    }
    assert!(at > 0);
}
