//! `Search`: page by page, each match once, whatever is appended meanwhile.

use std::collections::BTreeSet;

use annals::wire::proto::v1::{Filter, SearchRequest, SearchResponse, search_response::Message};
use prost::Message as _;
use tonic::Code;

use crate::support::{
    ANY, Events, Refusal, TestStore,
    asked::{of_streams, of_texts, of_types, saying},
    dice::Dice,
    event,
    model::{self, Model},
    raw::{Raw, frame},
    within,
};

fn search(filters: Vec<Filter>, direction: i32, limit: u64) -> SearchRequest {
    SearchRequest { filters, direction, limit, ..SearchRequest::default() }
}

impl TestStore {
    /// All pages: the positions of each.
    async fn pages(&self, mut request: SearchRequest) -> Vec<Vec<u64>> {
        let mut pages = Vec::new();
        loop {
            let page = self.search(request.clone()).await.unwrap();
            assert_eq!(page.end.event_count, page.events.len() as u64);
            pages.push(page.events.positions());
            if page.end.next_page_token.is_empty() {
                return pages;
            }
            request.page_token = page.end.next_page_token;
        }
    }
}

#[tokio::test]
async fn a_search_goes_page_by_page_in_both_directions() {
    let store = TestStore::start().await;
    for _ in 0..5 {
        store.append("Payment-1", ANY, ["Paid", "Noted"]).await.unwrap();
    }
    for (filters, direction, limit, expected) in [
        (of_types(&["Paid"]), 1, 2, vec![vec![1, 3], vec![5, 7], vec![9]]),
        (of_types(&["Paid"]), 2, 2, vec![vec![9, 7], vec![5, 3], vec![1]]),
        (of_types(&["Paid"]), 0, 0, vec![vec![1, 3, 5, 7, 9]]),
        // The last page is full, and nothing follows.
        (of_types(&["Paid"]), 1, 5, vec![vec![1, 3, 5, 7, 9]]),
        (of_types(&["Paid"]), 2, 5, vec![vec![9, 7, 5, 3, 1]]),
        (of_types(&["Paid"]), 2, 1, vec![vec![9], vec![7], vec![5], vec![3], vec![1]]),
        (vec![], 1, 4, vec![vec![1, 2, 3, 4], vec![5, 6, 7, 8], vec![9, 10]]),
        (vec![], 2, 6, vec![vec![10, 9, 8, 7, 6, 5], vec![4, 3, 2, 1]]),
        (of_types(&["Never"]), 1, 3, vec![vec![]]),
        (of_types(&["Never"]), 2, 3, vec![vec![]]),
        (of_types(&["Paid"]), 1, u64::MAX, vec![vec![1, 3, 5, 7, 9]]),
    ] {
        assert_eq!(store.pages(search(filters, direction, limit)).await, expected);
    }
    let end = store.search(search(of_types(&["Paid"]), 1, 2)).await.unwrap().end;
    assert_eq!((end.event_count, end.head), (2, 10));
}

#[tokio::test]
async fn an_empty_history_has_one_empty_page() {
    let store = TestStore::start().await;
    for direction in [1, 2] {
        for filters in [vec![], of_texts(&["x"])] {
            let page = store.search(search(filters, direction, 1)).await.unwrap();
            assert_eq!((page.events.len(), &*page.end.next_page_token), (0, ""));
            assert_eq!((page.end.event_count, page.end.head), (0, 0));
        }
    }
}

/// Forwards up to what is there when the last page is asked for, backwards what was there when the first one
/// was: each event once.
#[tokio::test]
async fn pages_give_each_match_once_while_appends_go_on() {
    let store = TestStore::start().await;
    let append =
        async || store.append("Payment-1", ANY, ["Paid", "Noted", "Paid"]).await.unwrap().position;
    for _ in 0..20 {
        append().await;
    }
    for direction in [1, 2] {
        let mut request = search(of_types(&["Paid"]), direction, 7);
        let before = store.head().await;
        let (mut seen, mut pages) = (Vec::new(), 0);
        let end = loop {
            let page = store.search(request.clone()).await.unwrap();
            seen.extend(page.events.positions());
            pages += 1;
            if page.end.next_page_token.is_empty() {
                break page.end;
            }
            if pages < 10 {
                append().await;
            }
            request.page_token = page.end.next_page_token;
        };
        let last = if direction == 1 { end.head } else { before };
        let mut expected: Vec<u64> = (1..=last).filter(|position| position % 3 != 2).collect();
        if direction == 2 {
            expected.reverse();
        }
        assert!(end.head > before && pages > 3);
        assert_eq!(seen, expected, "direction {direction}");
    }
}

#[tokio::test]
async fn a_search_over_texts_and_pages_finds_what_the_model_finds() {
    let store = TestStore::start().await;
    let (mut dice, mut model) = (Dice::new(11), Model::default());
    while model.log.len() < 300 {
        let stream = model::random_stream(&mut dice);
        let events: Vec<_> = (0..=dice.below(9)).map(|_| model::random_event(&mut dice)).collect();
        let answer = store.append(&stream, ANY, events.clone()).await.unwrap();
        model.note(&stream, events, &answer);
    }
    for _ in 0..40 {
        let filters = model::random_filters(&mut dice);
        let backwards = dice.once_in(2);
        let direction = if backwards { 2 } else { 1 };
        let pages = store.pages(search(filters.clone(), direction, 1 + dice.below(20))).await;
        let expected = model.read(&filters, backwards, 0, 0);
        assert_eq!(pages.concat(), expected.positions(), "{filters:?}");
        assert!(pages.iter().rev().skip(1).all(|page| page.len() == pages[0].len()));
        assert_eq!(pages.last().unwrap().is_empty(), expected.is_empty(), "no page for nothing");
    }
}

#[tokio::test]
async fn hidden_events_are_not_found_and_take_no_room_in_a_page() {
    let store = TestStore::start().await;
    for stream in ["Payment-1", "Payment-2", "Payment-1", "Payment-2", "Payment-1"] {
        store
            .append(stream, ANY, [saying("Paid", "\"x\""), saying("Paid", "\"x\"")])
            .await
            .unwrap();
    }
    let token = store.search(search(of_texts(&["x"]), 1, 3)).await.unwrap().end.next_page_token;
    store.hide_stream("Payment-1").await;
    assert_eq!(store.pages(search(of_texts(&["x"]), 1, 2)).await, [[3, 4], [7, 8]]);
    assert_eq!(store.pages(search(of_texts(&["x"]), 2, 3)).await, [vec![8, 7, 4], vec![3]]);
    assert_eq!(store.pages(search(of_streams(&["Payment-1"]), 1, 3)).await, [Vec::<u64>::new()]);
    // A token from before goes on after its place.
    let request = SearchRequest { page_token: token, ..search(of_texts(&["x"]), 1, 3) };
    assert_eq!(store.pages(request).await, [[4, 7, 8]]);
}

#[tokio::test]
async fn a_token_is_good_after_a_restart_and_in_another_server_of_the_same_log() {
    let data = tempfile::tempdir().unwrap();
    let start = || TestStore::start_with(|config| config.data = Some(data.path().join("data")));
    let store = start().await;
    store.append("Payment-1", ANY, vec!["Paid"; 10]).await.unwrap();
    let mut forwards = search(of_types(&["Paid"]), 1, 4);
    let mut backwards = search(of_types(&["Paid"]), 2, 4);
    let page = store.search(forwards.clone()).await.unwrap();
    assert_eq!(page.events.positions(), [1, 2, 3, 4]);
    forwards.page_token = page.end.next_page_token;
    let page = store.search(backwards.clone()).await.unwrap();
    assert_eq!(page.events.positions(), [10, 9, 8, 7]);
    backwards.page_token = page.end.next_page_token;
    store.stop.cancel();
    store.stopped().await.unwrap();

    let store = start().await;
    store.append("Payment-1", ANY, ["Paid"]).await.unwrap();
    assert_eq!(store.pages(forwards).await, [vec![5, 6, 7, 8], vec![9, 10, 11]]);
    assert_eq!(store.pages(backwards).await, [vec![6, 5, 4, 3], vec![2, 1]]);
}

/// A large page comes in many messages; a reader that stops holds up nobody.
#[tokio::test]
async fn a_page_comes_in_blocks_and_ends_with_its_end() {
    let store = TestStore::start().await;
    let large = || saying("Large", &format!("\"{}\"", "x".repeat(10_000)));
    store.append("Large-1", ANY, (0..100).map(|_| large())).await.unwrap();
    let mut raw = Raw::connect(store.address).await;
    let mut call = raw.begin("QueryService/Search", &[]).await;
    let request = search(of_types(&["Large"]), 2, 80).encode_to_vec();
    call.request.send_data(frame(&request), true).unwrap();
    // It waits for its reader; others do not.
    store.append("Large-1", ANY, ["Small"]).await.unwrap();
    let answer = call.end().await;
    assert!(answer.status.is_none(), "{:?}", answer.status);
    let messages: Vec<SearchResponse> = answer.decoded();
    let (end, blocks) = messages.split_last().unwrap();
    let Some(Message::End(end)) = &end.message else { panic!("the end comes last") };
    assert_eq!(end.event_count, 80);
    let mut events = Vec::new();
    for block in blocks {
        match &block.message {
            Some(Message::Events(block)) => events.extend(block.events.iter().cloned()),
            Some(Message::Progress(_)) => {}
            other => panic!("{other:?}"),
        }
    }
    assert!(blocks.len() > 5, "a block has at most 120 KiB");
    assert_eq!(events.len(), 80);
    assert_eq!(events.iter().map(|event| event.position).collect::<BTreeSet<_>>().len(), 80);
}

#[tokio::test]
async fn a_search_waits_for_its_min_position() {
    let store = TestStore::start().await;
    store.append("Payment-1", ANY, ["Paid"]).await.unwrap();
    let mut queries = store.queries();
    let request = SearchRequest { min_position: 2, ..search(vec![], 2, 1) };
    let waiting = tokio::spawn(async move { queries.search(request).await });
    store.append("Payment-1", ANY, [event("Noted")]).await.unwrap();
    let mut answers = within(waiting).await.unwrap().unwrap().into_inner();
    let first = within(answers.message()).await.unwrap().unwrap().message.unwrap();
    let Message::Events(block) = first else { panic!("{first:?}") };
    assert_eq!(block.events.types(), ["Noted"]);

    let mut raw = Raw::connect(store.address).await;
    let request = SearchRequest { min_position: 3, ..search(vec![], 2, 1) }.encode_to_vec();
    let answer = raw.call("QueryService/Search", &[("grpc-timeout", "50m")], &request).await;
    let refusal = answer.status.unwrap();
    assert_eq!(refusal.code(), Code::DeadlineExceeded);
    assert_eq!(refusal.reason(), "MIN_POSITION_NOT_REACHED");
}
