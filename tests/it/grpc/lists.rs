//! Lists of streams, categories and types: all pages together are the model's list.

use annals::wire::proto::v1::{
    ListCategoriesRequest, ListEventTypesRequest, ListStreamsRequest, StreamInfo,
};

use crate::support::{
    ANY, TestStore,
    dice::Dice,
    model::{self, Model},
    within,
};

async fn filled() -> (TestStore, Model) {
    let (store, mut model, mut dice) = (TestStore::start().await, Model::default(), Dice::new(6));
    for _ in 0..400 {
        let stream = model::random_stream(&mut dice);
        let events: Vec<_> = (0..=dice.below(2)).map(|_| model::random_event(&mut dice)).collect();
        let answer = store.append(&stream, ANY, events.clone()).await.unwrap();
        model.note(&stream, events, &answer);
    }
    (store, model)
}

/// What the model knows of each stream.
fn streams(model: &Model) -> Vec<StreamInfo> {
    let describe = |(name, version, last_position): (String, u64, u64)| {
        let first = model.stream(&name).next().unwrap();
        let last = model.stream(&name).last().unwrap();
        StreamInfo {
            category: model::category(&name).to_owned(),
            version,
            first_version: 1,
            first_position: first.position,
            last_position,
            first_recorded_at: first.recorded_at,
            last_recorded_at: last.recorded_at,
            name,
        }
    };
    model.names(|event| &event.stream).into_iter().map(describe).collect()
}

/// All pages of `page_size`, one after the other; no page is larger than asked for.
async fn list_streams(store: &TestStore, prefix: &str, page_size: u32) -> Vec<StreamInfo> {
    let mut all = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = ListStreamsRequest {
            prefix: prefix.to_owned(),
            page_size,
            page_token,
            min_position: 0,
        };
        let page = within(store.queries().list_streams(request)).await.unwrap().into_inner();
        let size = if page_size == 0 { 100 } else { page_size as usize };
        assert!(page.streams.len() <= size);
        all.extend(page.streams);
        if page.next_page_token.is_empty() {
            return all;
        }
        page_token = page.next_page_token;
    }
}

#[tokio::test]
async fn the_pages_of_the_streams_with_a_prefix_are_the_models_list() {
    let (store, model) = filled().await;
    let all = streams(&model);
    for prefix in
        ["", "P", "Payment", "Payment-", "Order", "Order-", "Ordering-3", "Z", "-", "None"]
    {
        let expected: Vec<_> =
            all.iter().filter(|stream| stream.name.starts_with(prefix)).cloned().collect();
        for page_size in [0, 1, 2, 7, expected.len().try_into().unwrap(), 1000] {
            assert_eq!(list_streams(&store, prefix, page_size).await, expected, "{prefix:?}");
        }
    }
    for stream in all {
        assert_eq!(store.stream(&stream.name).await.unwrap(), stream);
    }
}

#[tokio::test]
async fn the_pages_of_the_categories_and_the_types_are_the_models_lists() {
    let (store, model) = filled().await;
    let mut queries = store.queries();
    for page_size in [0, 1, 2, 4, 1000] {
        let (mut categories, mut page_token) = (Vec::new(), String::new());
        loop {
            let request = ListCategoriesRequest { page_size, page_token, min_position: 0 };
            let page = within(queries.list_categories(request)).await.unwrap().into_inner();
            let found = page.categories.into_iter();
            categories.extend(found.map(|info| (info.name, info.event_count, info.last_position)));
            page_token = page.next_page_token;
            if page_token.is_empty() {
                break;
            }
        }
        assert_eq!(categories, model.names(|event| model::category(&event.stream)));

        let (mut types, mut page_token) = (Vec::new(), String::new());
        loop {
            let request = ListEventTypesRequest { page_size, page_token, min_position: 0 };
            let page = within(queries.list_event_types(request)).await.unwrap().into_inner();
            let found = page.event_types.into_iter();
            types.extend(found.map(|info| (info.name, info.event_count, info.last_position)));
            page_token = page.next_page_token;
            if page_token.is_empty() {
                break;
            }
        }
        assert_eq!(types, model.names(|event| &event.r#type));
    }
    let info = store.info().await;
    let categories = model.names(|event| model::category(&event.stream)).len() as u64;
    assert_eq!(info.category_count, categories);
    assert_eq!((info.event_type_count, info.tag_count), (6, 6));
}

/// A page's token is a place between names, not a number of names.
#[tokio::test]
async fn a_stream_that_is_new_between_two_pages_moves_no_other_out_of_them() {
    let store = TestStore::start().await;
    for name in ["B-1", "D-1", "F-1", "H-1"] {
        store.append(name, ANY, ["Made"]).await.unwrap();
    }
    let page = |page_token| {
        let request =
            ListStreamsRequest { page_size: 2, page_token, ..ListStreamsRequest::default() };
        let mut queries = store.queries();
        async move {
            let page = within(queries.list_streams(request)).await.unwrap().into_inner();
            let names: Vec<_> = page.streams.into_iter().map(|stream| stream.name).collect();
            (names, page.next_page_token)
        }
    };
    let (first, token) = page(String::new()).await;
    for name in ["A-1", "C-1", "E-1"] {
        store.append(name, ANY, ["Made"]).await.unwrap();
    }
    let (second, token) = page(token).await;
    let (third, end) = page(token).await;
    assert_eq!([first, second, third].concat(), ["B-1", "D-1", "E-1", "F-1", "H-1"]);
    assert_eq!(end, "");
}
