//! The flows that every reader of the field knows, over real gRPC.

use annals_client::{
    aggregate::{Aggregate as _, Context, ExecuteError, Repository},
    projection::{ReadModelTarget, Runner},
    read_model::Find,
    testing::TestStore,
};

use crate::{
    context,
    domain::{
        money::Money,
        payment::{Payment, PaymentError, PaymentEvent, PaymentStatus},
    },
    projection::{INDEXES, MODEL, PaymentView, PaymentViews},
    search,
};

struct App {
    store: TestStore,
    payments: Repository<Payment>,
}

impl App {
    async fn start() -> Self {
        let store = TestStore::start().await;
        let payments = Repository::new(store.client());
        Self { store, payments }
    }

    async fn process(&self, id: &str, amount: &str, currency: &str, at: &str) {
        let money = Money::parse(amount, currency).unwrap();
        let context = Context { occurred_at: Some(at.parse().unwrap()), ..context("acme", "ada") };
        let decide = |payment: &Payment| payment.process(money, "acme", "ada");
        self.payments.execute(id, &context, decide).await.unwrap();
    }

    async fn project(&self) {
        let client = self.store.client();
        let model = client.read_model(MODEL);
        model.create(&INDEXES).await.unwrap();
        let runner = Runner::new(&client, PaymentViews, ReadModelTarget::new(model));
        runner.run_until_caught_up().await.unwrap();
    }

    async fn view(&self, id: &str) -> PaymentView {
        self.store.client().read_model(MODEL).get(id).await.unwrap().unwrap().value
    }
}

#[tokio::test]
async fn a_processed_payment_has_one_event() {
    let app = App::start().await;
    app.process("payment-123", "99.95", "EUR", "2024-03-01T10:00:00Z").await;
    let history = app.store.client().read_stream("Payment-payment-123").collect().await.unwrap();
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
    let client = app.store.client();
    let found = search(&client, &[], from.parse().unwrap(), to.parse().unwrap()).await.unwrap();
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

    let context = Context::default();
    app.payments.execute("a", &context, |it| it.fail("card declined")).await.unwrap();
    let part = Money::parse("4", "EUR").unwrap();
    app.payments.execute("b", &context, |it| it.refund(part, "late")).await.unwrap();
    app.project().await;
    let (a, b) = (app.view("a").await, app.view("b").await);
    assert_eq!((a.status, a.error.as_deref()), (PaymentStatus::Failed, Some("card declined")));
    assert_eq!((b.status, b.refunded_amount), (PaymentStatus::PartlyRefunded, 400));

    let rest = Money::parse("6", "EUR").unwrap();
    app.payments.execute("b", &context, |it| it.refund(rest, "late")).await.unwrap();
    app.project().await;
    assert_eq!(app.view("b").await.status, PaymentStatus::Refunded);
    let failed = Find::new().equals("organizationId", "acme").equals("status", "failed");
    let model = app.store.client().read_model(MODEL);
    let failed = model.find_all::<PaymentView>(failed).await.unwrap();
    assert_eq!(failed.iter().map(|it| it.key.as_str()).collect::<Vec<_>>(), ["a"]);
}

#[tokio::test]
async fn a_payment_is_processed_once_and_refunded_at_most_as_paid() {
    let app = App::start().await;
    app.process("a", "10", "EUR", "2024-03-01T10:00:00Z").await;
    let context = Context::default();
    let money = |text: &str, currency| Money::parse(text, currency).unwrap();
    let refused = |done: Result<_, ExecuteError<PaymentError>>| match done {
        Err(ExecuteError::Refused(error)) => error,
        other => panic!("{:?}", other.map(|_| ())),
    };
    let again = app.payments.execute("a", &context, |it| it.process(money("10", "EUR"), "o", "u"));
    assert_eq!(refused(again.await), PaymentError::ProcessedAlready);
    let dollars = app.payments.execute("a", &context, |it| it.refund(money("1", "USD"), ""));
    assert!(matches!(refused(dollars.await), PaymentError::OtherCurrency { .. }));
    let more = app.payments.execute("a", &context, |it| it.refund(money("10.01", "EUR"), ""));
    assert!(matches!(refused(more.await), PaymentError::MoreThanPaid { .. }));
    let nothing = app.payments.execute("b", &context, |it| it.refund(money("1", "EUR"), ""));
    assert_eq!(refused(nothing.await), PaymentError::NothingPaid);
    let history = app.store.client().read_stream("Payment-a").collect().await.unwrap();
    assert_eq!(history.len(), 1, "what is refused writes nothing");
    let mut state = Payment::default();
    state.apply(&history[0].decode().unwrap());
    assert_eq!(*app.payments.load("a").await.unwrap(), state);
}
