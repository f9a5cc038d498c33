//! The flows that every reader of the field knows, over real gRPC.

use annals_client::{
    aggregate::Aggregate as _,
    bus::{Command, CommandEnvelope, CommandError, QueryEnvelope, Receipt},
    projection::{ReadModelTarget, Runner},
    query::ReplayMessage,
    read_model::Find,
    testing::TestStore,
};
use chrono::{DateTime, Utc};

use crate::{
    application::{Application, OrganizationTotals, PaymentHistory, SearchPayments},
    domain::{
        commands::{FailPayment, ProcessPayment, RefundPayment},
        money::Money,
        payment::{Payment, PaymentError, PaymentEvent, PaymentStatus},
    },
    projection::{
        ORGANIZATIONS, OrganizationViews, PAYMENTS, PAYMENTS_INDEXES, PaymentView, PaymentViews,
    },
};

struct App {
    store: TestStore,
    application: Application,
}

fn money(text: &str, currency: &str) -> Money {
    Money::parse(text, currency).unwrap()
}

/// By Ada, of Acme.
fn by_ada<C: Command>(command: C) -> CommandEnvelope {
    CommandEnvelope::new(command).metadata("organizationId", "acme").metadata("userId", "ada")
}

fn process(id: &str, amount: &str, currency: &str) -> ProcessPayment {
    ProcessPayment {
        payment_id: id.to_owned(),
        money: money(amount, currency),
        organization_id: "acme".to_owned(),
        user_id: "ada".to_owned(),
    }
}

fn fail(id: &str) -> FailPayment {
    FailPayment {
        payment_id: id.to_owned(),
        error: "card declined".to_owned(),
        organization_id: "acme".to_owned(),
    }
}

fn refund(id: &str, amount: &str, currency: &str) -> RefundPayment {
    RefundPayment {
        payment_id: id.to_owned(),
        money: money(amount, currency),
        reason: "late".to_owned(),
        organization_id: "acme".to_owned(),
    }
}

impl App {
    async fn start() -> Self {
        let store = TestStore::start().await;
        let application = Application::new(&store.client());
        Self { store, application }
    }

    async fn send<C: Command>(&self, command: C) -> Result<Receipt, CommandError> {
        self.application.commands.send(by_ada(command)).await
    }

    async fn process(&self, id: &str, amount: &str, currency: &str, at: &str) {
        let command = by_ada(process(id, amount, currency)).occurred_at(at.parse().unwrap());
        self.application.commands.send(command).await.unwrap();
    }

    async fn project(&self) {
        let client = self.store.client();
        let views = client.read_model(PAYMENTS);
        views.create(&PAYMENTS_INDEXES).await.unwrap();
        let runner = Runner::new(&client, PaymentViews, ReadModelTarget::new(views));
        runner.run_until_caught_up().await.unwrap();
    }

    async fn view(&self, id: &str) -> PaymentView {
        self.store.client().read_model(PAYMENTS).get(id).await.unwrap().unwrap().value
    }
}

#[tokio::test]
async fn a_processed_payment_has_one_event() {
    let app = App::start().await;
    app.process("payment-123", "99.95", "EUR", "2024-03-01T10:00:00Z").await;
    let history = PaymentHistory { payment_id: "payment-123".to_owned() };
    let history = app.application.queries.ask(history).await.unwrap();
    let [event] = history.as_slice() else { panic!("{history:?}") };
    assert_eq!(event.event_type, "PaymentProcessed");
    let PaymentEvent::PaymentProcessed { money, .. } = event.decode().unwrap() else {
        panic!("{event:?}")
    };
    assert_eq!(money.to_string(), "99.95 EUR");
    assert_eq!(event.metadata["organizationId"], "acme");
}

#[tokio::test]
async fn a_search_by_time_finds_the_payments_of_that_year() {
    let app = App::start().await;
    for (id, currency, at) in [
        ("p0", "EUR", "2023-12-31T23:59:59Z"),
        ("p1", "EUR", "2024-01-01T00:00:00Z"),
        ("p2", "USD", "2024-06-15T12:00:00Z"),
        ("p3", "EUR", "2024-12-30T12:00:00Z"),
        ("p4", "EUR", "2025-01-01T00:00:00Z"),
    ] {
        app.process(id, "10", currency, at).await;
    }
    let (from, to) = ("2024-01-01T00:00:00Z", "2024-12-31T00:00:00Z");
    let (from, to) = (from.parse().unwrap(), to.parse().unwrap());
    let search = SearchPayments { types: Vec::new(), from, to };
    let found = app.application.queries.ask(search).await.unwrap();
    assert_eq!(found.len(), 3);
    assert_eq!(found[0].event_type, "PaymentProcessed");
    assert_eq!(found[0].stream, "Payment-p1");
}

#[tokio::test]
async fn failures_and_refunds_change_the_read_model() {
    let app = App::start().await;
    app.process("a", "10", "EUR", "2024-03-01T10:00:00Z").await;
    app.process("b", "10", "EUR", "2024-03-01T11:00:00Z").await;
    app.project().await;
    assert_eq!(app.view("a").await.status, PaymentStatus::Processed);

    app.send(fail("a")).await.unwrap();
    app.send(refund("b", "4", "EUR")).await.unwrap();
    app.project().await;
    let (a, b) = (app.view("a").await, app.view("b").await);
    assert_eq!((a.status, a.error.as_deref()), (PaymentStatus::Failed, Some("card declined")));
    assert_eq!((b.status, b.refunded_amount), (PaymentStatus::PartlyRefunded, 400));

    app.send(refund("b", "6", "EUR")).await.unwrap();
    app.project().await;
    assert_eq!(app.view("b").await.status, PaymentStatus::Refunded);
    let failed = Find::new().equals("organizationId", "acme").equals("status", "failed");
    let model = app.store.client().read_model(PAYMENTS);
    let failed = model.find_all::<PaymentView>(failed).await.unwrap();
    assert_eq!(failed.iter().map(|it| it.key.as_str()).collect::<Vec<_>>(), ["a"]);
}

#[tokio::test]
async fn a_payment_is_processed_once_and_refunded_at_most_as_paid() {
    let app = App::start().await;
    app.send(process("a", "10", "EUR")).await.unwrap();
    let refused = |done: Result<Receipt, CommandError>| {
        done.unwrap_err().refusal::<PaymentError>().cloned().unwrap()
    };
    let again = refused(app.send(process("a", "10", "EUR")).await);
    assert_eq!(again, PaymentError::ProcessedAlready);
    let dollars = refused(app.send(refund("a", "1", "USD")).await);
    assert!(matches!(dollars, PaymentError::OtherCurrency { .. }));
    let more = refused(app.send(refund("a", "10.01", "EUR")).await);
    assert!(matches!(more, PaymentError::MoreThanPaid { .. }));
    assert_eq!(refused(app.send(refund("b", "1", "EUR")).await), PaymentError::NothingPaid);
    let history = app.store.client().read_stream("Payment-a").collect().await.unwrap();
    assert_eq!(history.len(), 1, "what is refused writes nothing");
}

#[tokio::test]
async fn nobody_pays_without_a_name_or_to_nobody() {
    let app = App::start().await;
    let nameless = CommandEnvelope::new(process("a", "10", "EUR")).metadata("userId", "ada");
    let nameless = app.application.commands.send(nameless).await.unwrap_err();
    assert_eq!(
        nameless.to_string(),
        "ProcessPayment is not allowed: ProcessPayment needs organizationId"
    );
    let nobody = app.send(process("", "10", "EUR")).await.unwrap_err();
    assert_eq!(nobody.to_string(), "ProcessPayment is invalid: payment: must not be empty");
    assert!(app.store.client().read_all().collect().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_command_that_is_sent_again_pays_once() {
    let app = App::start().await;
    let command = by_ada(process("a", "10", "EUR"));
    let first = app.application.commands.send(command.clone()).await.unwrap();
    app.send(refund("a", "10", "EUR")).await.unwrap();
    let again = app.application.commands.send(command).await.unwrap();
    assert_eq!(again, Receipt { duplicate: true, ..first });
}

/// As of a time, and step by step.
#[tokio::test]
async fn a_payment_is_what_it_was() {
    let app = App::start().await;
    app.process("a", "10", "EUR", "2024-03-01T10:00:00Z").await;
    let later: DateTime<Utc> = "2024-03-05T10:00:00Z".parse().unwrap();
    let refund = by_ada(refund("a", "4", "EUR")).occurred_at(later);
    app.application.commands.send(refund).await.unwrap();

    let payments = &app.application.payments;
    let between = payments.load_at("a", "2024-03-04T00:00:00Z".parse().unwrap()).await.unwrap();
    assert_eq!((between.status, between.refunded), (PaymentStatus::Processed, 0));
    let before = payments.load_at("a", "2024-02-01T00:00:00Z".parse().unwrap()).await.unwrap();
    assert_eq!(before.status, PaymentStatus::New);

    let mut replay = app.store.client().replay().start().await.unwrap();
    let (mut state, mut states) = (Payment::default(), Vec::new());
    while let Some(message) = replay.next().await.unwrap() {
        if let ReplayMessage::Events(events) = message {
            for event in events {
                state.apply(&event.decode::<PaymentEvent>().unwrap());
                states.push(state.to_string());
            }
        }
    }
    assert_eq!(
        states,
        ["Processed, paid 10.00 EUR", "PartlyRefunded, paid 10.00 EUR, refunded 4.00 EUR"],
    );
    assert_eq!(*payments.load("a").await.unwrap(), state);
}

/// The read model is written by a projection that runs beside; who asks has what they have paid in it all the same, also
/// from the cache.
#[tokio::test(flavor = "multi_thread")]
async fn totals_have_what_was_just_paid() {
    let app = App::start().await;
    let client = app.store.client();
    let model = client.read_model(ORGANIZATIONS);
    model.create(&[]).await.unwrap();
    let runner = Runner::new(&client, OrganizationViews, ReadModelTarget::new(model));
    let running = tokio::spawn(runner.run(std::future::pending()));
    let query = || OrganizationTotals { organization_id: "acme".to_owned() };
    for count in 1..=20 {
        let receipt = app.send(process(&format!("p{count}"), "10", "EUR")).await.unwrap();
        let totals = app.application.queries.ask(query()).await.unwrap();
        assert_eq!((totals.processed_count, totals.processed["EUR"]), (count, count * 1000));
        let envelope = QueryEnvelope::from(query()).min_position(receipt.position);
        let again = app.application.queries.ask_in::<OrganizationTotals>(envelope).await.unwrap();
        assert_eq!(again, totals);
    }
    assert_eq!((app.application.cache.hits(), app.application.cache.misses()), (20, 20));
    app.send(refund("p1", "4", "EUR")).await.unwrap();
    app.send(fail("p2")).await.unwrap();
    let totals = app.application.queries.ask(query()).await.unwrap();
    assert_eq!((totals.failed_count, totals.refunded_count, totals.refunded["EUR"]), (1, 1, 400));
    running.abort();
}

/// The whole demonstration, on a small year; and again, which appends nothing.
#[tokio::test(flavor = "multi_thread")]
async fn the_demo_runs_and_runs_again() {
    let app = App::start().await;
    crate::demo::run(&app.application, "test", 150).await.unwrap();
    let first = app.store.client().read_all().collect().await.unwrap().len();
    assert!(first > 1000, "{first}");
    crate::demo::run(&app.application, "test", 150).await.unwrap();
    assert_eq!(app.store.client().read_all().collect().await.unwrap().len(), first);
}
