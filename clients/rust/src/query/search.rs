//! Searches: what filters pick, page by page.

use crate::{
    Client, Error, Event, Filter, Result,
    proto::{self, search_response::Message},
    read::without_end,
};

/// How many events [`Search::collect`] and [`Search::pages`] ask for at once where no limit is set.
const PAGE_SIZE: u64 = 1000;

/// A search that is being described: [`Client::search`] begins one.
///
/// ```
/// # use annals_client::{ExpectedVersion, NewEvent, testing::TestStore};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> annals_client::Result<()> {
/// # let store = TestStore::start().await;
/// # let client = store.client();
/// use annals_client::Filter;
///
/// let events = (0..3).map(|_| NewEvent::new("PaymentFailed"));
/// client.append("Payment-1", ExpectedVersion::NoStream, events).await?;
///
/// let search = client.search().filter(Filter::new().category("Payment")).backwards().limit(2);
/// let newest = search.clone().page().await?;
/// assert_eq!(newest.events[0].position, 3);
/// let token = newest.next_page_token.unwrap();
/// assert_eq!(search.page_token(token).page().await?.events.len(), 1);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
#[must_use = "nothing is looked for before `page`, `pages` or `collect`"]
pub struct Search {
    client: Client,
    request: proto::SearchRequest,
}

/// A page of a search.
///
/// ```
/// # use annals_client::{NewEvent, testing::TestStore};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> annals_client::Result<()> {
/// # let store = TestStore::start().await;
/// # let client = store.client();
/// # let events = (0..3).map(|_| NewEvent::new("PaymentFailed"));
/// # client.append("Payment-1", 0, events).await?;
/// let page = client.search().limit(2).page().await?;
/// assert_eq!((page.events.len(), page.head), (2, 3));
/// assert!(page.next_page_token.is_some(), "there is more");
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// The events, in the search's direction.
    pub events: Vec<Event>,
    /// For [`Search::page_token`], good for ever; `None`: there was nothing more.
    pub next_page_token: Option<String>,
    /// The head as of this page.
    pub head: u64,
}

impl Client {
    /// Looks for events, page by page.
    pub fn search(&self) -> Search {
        Search { client: self.clone(), request: proto::SearchRequest::default() }
    }
}

impl Search {
    /// Only what one of the filters picks; of several any one.
    pub fn filter(mut self, filter: Filter) -> Self {
        self.request.filters.push(filter.0);
        self
    }

    /// The newest event first.
    pub fn backwards(mut self) -> Self {
        self.request.direction = proto::Direction::Backwards.into();
        self
    }

    /// At most so many events on a page. Where nothing is said, [`Search::page`] has all of them.
    pub fn limit(mut self, events: u64) -> Self {
        self.request.limit = events;
        self
    }

    /// The page that [`Page::next_page_token`] is for, with the same filters and direction.
    pub fn page_token(mut self, token: impl Into<String>) -> Self {
        self.request.page_token = token.into();
        self
    }

    /// Wait until the log has reached this position: read your own writes.
    pub fn min_position(mut self, position: u64) -> Self {
        self.request.min_position = position;
        self
    }

    /// One page.
    pub async fn page(self) -> Result<Page> {
        let Self { client, request } = self;
        let mut messages = client
            .call(request, |client, request| async move {
                client.queries().search(without_end(request)).await
            })
            .await?;
        let mut events = Vec::new();
        while let Some(message) = messages.message().await? {
            match message.message {
                Some(Message::Events(batch)) => {
                    for event in batch.events {
                        events.push(Event::from_proto(event)?);
                    }
                }
                Some(Message::End(end)) => {
                    let token = end.next_page_token;
                    let next_page_token = Some(token).filter(|token| !token.is_empty());
                    return Ok(Page { events, next_page_token, head: end.head });
                }
                Some(Message::Progress(_)) | None => {}
            }
        }
        Err(Error::Decode {
            what: "a page of a search".to_owned(),
            reason: "it has no end".to_owned(),
        })
    }

    /// This page and all that follow, each when it is asked for; of 1000 events where no limit is set.
    pub fn pages(mut self) -> Pages {
        if self.request.limit == 0 {
            self.request.limit = PAGE_SIZE;
        }
        Pages { next: Some(self) }
    }

    /// The events of this page and of all that follow.
    ///
    /// ```
    /// # use annals_client::{NewEvent, testing::TestStore};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> annals_client::Result<()> {
    /// # let store = TestStore::start().await;
    /// # let client = store.client();
    /// # let events = (0..3).map(|_| NewEvent::new("PaymentFailed"));
    /// # client.append("Payment-1", 0, events).await?;
    /// use annals_client::Filter;
    ///
    /// let failed = Filter::new().types(["PaymentFailed"]);
    /// let events = client.search().filter(failed).limit(2).collect().await?;
    /// assert_eq!(events.len(), 3);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn collect(self) -> Result<Vec<Event>> {
        let mut pages = self.pages();
        let mut all = Vec::new();
        while let Some(page) = pages.next().await? {
            all.extend(page.events);
        }
        Ok(all)
    }
}

/// The pages of a search.
///
/// ```
/// # use annals_client::{NewEvent, testing::TestStore};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> annals_client::Result<()> {
/// # let store = TestStore::start().await;
/// # let client = store.client();
/// # let events = (0..3).map(|_| NewEvent::new("PaymentFailed"));
/// # client.append("Payment-1", 0, events).await?;
/// let mut pages = client.search().limit(2).pages();
/// let mut sizes = Vec::new();
/// while let Some(page) = pages.next().await? {
///     sizes.push(page.events.len());
/// }
/// assert_eq!(sizes, [2, 1]);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Pages {
    next: Option<Search>,
}

impl Pages {
    /// The next one; `None` behind the last. After an error the same page is asked for again.
    pub async fn next(&mut self) -> Result<Option<Page>> {
        let Some(search) = &self.next else { return Ok(None) };
        let page = search.clone().page().await?;
        self.next = match (self.next.take(), &page.next_page_token) {
            (Some(search), Some(token)) => Some(search.page_token(token)),
            _ => None,
        };
        Ok(Some(page))
    }
}
