//! The event bus.

use std::sync::{Arc, Mutex};

use annals_client::{
    Event,
    aggregate::{Context, Repository},
    bus::EventBus,
    testing::TestStore,
};

use crate::account::{Account, AccountEvent};

/// What the handlers were told.
#[derive(Clone, Default)]
struct Told(Arc<Mutex<Vec<(&'static str, Event)>>>);

impl Told {
    fn by(
        &self,
        handler: &'static str,
    ) -> impl Fn(
        Arc<Event>,
    ) -> std::future::Ready<Result<(), annals_client::projection::HandlerError>>
    + use<> {
        let told = self.clone();
        move |event| {
            told.0.lock().unwrap().push((handler, (*event).clone()));
            std::future::ready(Ok(()))
        }
    }

    fn events(&self, handler: &str) -> Vec<Event> {
        let told = self.0.lock().unwrap();
        told.iter().filter(|(by, _)| *by == handler).map(|(_, event)| event.clone()).collect()
    }
}

#[tokio::test]
async fn handlers_are_told_what_was_appended_as_the_log_has_it() {
    let store = TestStore::start().await;
    let told = Told::default();
    let bus = EventBus::new()
        .on("Deposited", told.by("deposits"))
        .on_every(told.by("all"))
        .on("Withdrawn", told.by("withdrawals"));
    let accounts = Repository::<Account>::new(store.client()).publish_to(bus);
    let mut account = accounts.load("1").await.unwrap();
    account.record(AccountEvent::Opened);
    account.record(AccountEvent::Deposited { amount: 10 });
    let context = Context {
        correlation_id: Some("case-1".to_owned()),
        tags: vec!["eur".to_owned()],
        ..Context::default()
    };
    accounts.save(&mut account, &context).await.unwrap();
    accounts.execute("1", &context, |it| it.withdraw(3, "ada")).await.unwrap();
    let refused = accounts.execute("1", &context, |it| it.withdraw(8, "ada")).await;
    assert!(refused.is_err());

    let logged = store.client().read_all().collect().await.unwrap();
    assert_eq!(logged.len(), 3);
    assert_eq!(told.events("all"), logged, "every field");
    assert_eq!(told.events("deposits"), logged[1..2]);
    assert_eq!(told.events("withdrawals"), logged[2..]);
}

#[tokio::test]
async fn a_handler_that_fails_or_panics_holds_up_nobody() {
    let store = TestStore::start().await;
    let told = Told::default();
    let bus = EventBus::new()
        .on_every(|_| async { Err("it failed".into()) })
        .on_every(|_| async { panic!("it panicked") })
        .on_every(told.by("last"));
    let accounts = Repository::<Account>::new(store.client()).publish_to(bus);
    let mut account = accounts.load("1").await.unwrap();
    account.record(AccountEvent::Opened);
    account.record(AccountEvent::Opened);
    accounts.save(&mut account, &Context::default()).await.unwrap();
    assert_eq!(told.events("last").len(), 2);
}

/// A handler goes on to its end where the one who saves is not there any more.
#[tokio::test]
async fn a_caller_that_gives_up_stops_no_handler_half_way() {
    let store = TestStore::start().await;
    let (begun, is_begun) = tokio::sync::oneshot::channel();
    let (go_on, may_go_on) = tokio::sync::oneshot::channel::<()>();
    let (done, is_done) = tokio::sync::oneshot::channel();
    let steps = Mutex::new(Some((begun, may_go_on, done)));
    let bus = EventBus::new().on("Opened", move |_| {
        let (begun, may_go_on, done) = steps.lock().unwrap().take().unwrap();
        async move {
            begun.send(()).unwrap();
            may_go_on.await?;
            done.send(()).unwrap();
            Ok(())
        }
    });
    let accounts = Repository::<Account>::new(store.client()).publish_to(bus);
    let saving = tokio::spawn(async move {
        let mut account = accounts.load("1").await.unwrap();
        account.record(AccountEvent::Opened);
        accounts.save(&mut account, &Context::default()).await
    });
    is_begun.await.unwrap();
    saving.abort();
    assert!(saving.await.unwrap_err().is_cancelled());
    go_on.send(()).unwrap();
    is_done.await.unwrap();
}
