//! The application: who carries out commands, who answers queries, and what happens on the way.

use std::{sync::Arc, time::Duration};

use annals_client::{
    Client, Event, Filter,
    aggregate::Repository,
    bus::{CommandBus, CommandEnvelope, EventBus, Message as _, Query, QueryBus, QueryCache},
    projection::HandlerError,
    query::Search,
};
use chrono::{DateTime, Utc};

use crate::{
    domain::{
        commands::{FailPayment, ProcessPayment, RefundPayment},
        payment::{PAYMENT_EVENTS, Payment, PaymentEvent},
    },
    projection::{ORGANIZATIONS, OrganizationView, payment_events},
};

/// After how many events of a payment its state is written down. Most have two or three.
const SNAPSHOT_EVERY: u64 = 50;

/// What the command line, and the tests, work with.
pub struct Application {
    pub client: Client,
    pub commands: CommandBus,
    pub queries: QueryBus,
    pub cache: QueryCache,
    pub payments: Repository<Payment>,
}

impl Application {
    /// On the server of this client.
    pub fn new(client: &Client) -> Self {
        let payments = Repository::<Payment>::new(client.clone())
            .snapshot_every(SNAPSHOT_EVERY)
            .publish_to(EventBus::new().on("PaymentFailed", warn));
        let commands = CommandBus::builder()
            .trace()
            .validate()
            .authorize(is_named)
            .timeout(Duration::from_secs(30))
            .idempotent(client)
            .decide::<ProcessPayment, _>(&payments)
            .decide::<FailPayment, _>(&payments)
            .decide::<RefundPayment, _>(&payments)
            .build();
        let cache = QueryCache::new(client);
        let queries = QueryBus::builder()
            .trace()
            .timeout(Duration::from_secs(30))
            .layer(cache.clone())
            .handle(with(client, |client, query, _| history(client, query)))
            .handle(with(client, |client, query, _| search(client, query)))
            .handle(with(client, totals))
            .build();
        Self { client: client.clone(), commands, queries, cache, payments }
    }
}

/// Who does it, and for which organization, has to be said: it makes events countable by both.
async fn is_named(command: CommandEnvelope) -> Result<(), String> {
    let facts = command.context().metadata;
    match ["organizationId", "userId"].into_iter().find(|key| !facts.contains_key(*key)) {
        Some(key) => Err(format!("{} needs {key}", command.name())),
        None => Ok(()),
    }
}

/// Somebody has to know of it.
async fn warn(event: Arc<Event>) -> Result<(), HandlerError> {
    if let PaymentEvent::PaymentFailed { error, organization_id } = event.decode()? {
        eprintln!("to {organization_id}: {} has failed: {error}", event.stream);
    }
    Ok(())
}

/// What has happened to a payment.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PaymentHistory {
    pub payment_id: String,
}

impl PaymentHistory {
    fn stream(&self) -> String {
        format!("Payment-{}", self.payment_id)
    }
}

impl Query for PaymentHistory {
    const NAME: &'static str = "PaymentHistory";
    type Answer = Vec<Event>;

    fn depends_on(&self) -> Vec<Filter> {
        vec![Filter::new().stream(self.stream())]
    }
}

async fn history(client: Client, query: Arc<PaymentHistory>) -> Result<Vec<Event>, HandlerError> {
    Ok(client.read_stream(query.stream()).collect().await?)
}

/// Events of payments by when they happened, oldest first in the log.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SearchPayments {
    /// Of these types; empty: of all three.
    pub types: Vec<String>,
    /// Happened at this moment or later.
    pub from: DateTime<Utc>,
    /// Happened before this moment.
    pub to: DateTime<Utc>,
}

impl Query for SearchPayments {
    const NAME: &'static str = "SearchPayments";
    type Answer = Vec<Event>;

    fn depends_on(&self) -> Vec<Filter> {
        let filter = Filter::new().category("Payment").occurred(self.from..self.to);
        vec![match self.types.as_slice() {
            [] => filter.types(PAYMENT_EVENTS),
            types => filter.types(types.iter().cloned()),
        }]
    }
}

async fn search(client: Client, query: Arc<SearchPayments>) -> Result<Vec<Event>, HandlerError> {
    let filters = query.depends_on().into_iter();
    Ok(filters.fold(client.search(), Search::filter).collect().await?)
}

/// What an organization has paid; nothing where it is not known.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct OrganizationTotals {
    pub organization_id: String,
}

impl Query for OrganizationTotals {
    const NAME: &'static str = "OrganizationTotals";
    type Answer = OrganizationView;

    fn depends_on(&self) -> Vec<Filter> {
        payment_events()
    }
}

/// From the read model, as soon as that has the last of the events that count.
async fn totals(
    client: Client,
    query: Arc<OrganizationTotals>,
    position: u64,
) -> Result<OrganizationView, HandlerError> {
    let client = client.with_deadline(Duration::from_secs(10));
    let model = client.read_model(ORGANIZATIONS).min_position(position);
    let document = match model.get(&*query.organization_id).await {
        Err(error) if error.reason() == "MIN_POSITION_NOT_REACHED" || error.is_not_found() => {
            return Err(format!("{error}; is `project` running?").into());
        }
        document => document?,
    };
    Ok(document.map(|document| document.value).unwrap_or_default())
}

/// A handler that has a client.
fn with<Q, A, F>(client: &Client, answer: F) -> impl Fn(Arc<Q>, u64) -> A + use<Q, A, F>
where
    F: Fn(Client, Arc<Q>, u64) -> A,
{
    let client = client.clone();
    move |query, position| answer(client.clone(), query, position)
}
