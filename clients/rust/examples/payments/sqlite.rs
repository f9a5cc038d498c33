//! What each organization has paid, in a SQLite database of one's own.

mod target;

use annals_client::{
    Event, Filter,
    projection::{HandlerError, Projection},
};

pub use self::target::{SqliteTarget, Statements};
use crate::domain::payment::{PAYMENT_EVENTS, PaymentEvent};

/// The projection's name.
pub const TOTALS: &str = "organization_totals";

/// Amounts in minor units of the currency. A payment that failed before it was processed is known by neither
/// organization nor currency: both are empty.
pub const TABLES: &str = "
    CREATE TABLE IF NOT EXISTS organization_totals (
        organization_id TEXT NOT NULL,
        currency TEXT NOT NULL,
        processed INTEGER NOT NULL DEFAULT 0,
        processed_count INTEGER NOT NULL DEFAULT 0,
        refunded INTEGER NOT NULL DEFAULT 0,
        refunded_count INTEGER NOT NULL DEFAULT 0,
        failed_count INTEGER NOT NULL DEFAULT 0,
        PRIMARY KEY (organization_id, currency)
    ) STRICT;
    CREATE TABLE IF NOT EXISTS payment_organizations (
        payment_id TEXT PRIMARY KEY,
        organization_id TEXT NOT NULL,
        currency TEXT NOT NULL
    ) STRICT";

const NOTE_ORGANIZATION: &str = "INSERT INTO payment_organizations VALUES (?1, ?2, ?3)";

const ADD_PROCESSED: &str = "
    INSERT INTO organization_totals (organization_id, currency, processed, processed_count)
    VALUES (?1, ?2, ?3, 1)
    ON CONFLICT DO UPDATE SET processed = processed + ?3, processed_count = processed_count + 1";

const ADD_REFUNDED: &str = "
    UPDATE organization_totals SET refunded = refunded + ?2, refunded_count = refunded_count + 1
    WHERE (organization_id, currency) =
        (SELECT organization_id, currency FROM payment_organizations WHERE payment_id = ?1)";

/// The aggregates make one row where the payment has none.
const ADD_FAILED: &str = "
    INSERT INTO organization_totals (organization_id, currency, failed_count)
    SELECT coalesce(max(organization_id), ''), coalesce(max(currency), ''), 1
    FROM payment_organizations WHERE payment_id = ?1
    ON CONFLICT DO UPDATE SET failed_count = failed_count + 1";

/// Adds payments up by organization and currency.
pub struct OrganizationTotals;

impl Projection<Statements> for OrganizationTotals {
    fn name(&self) -> &'static str {
        TOTALS
    }

    fn filters(&self) -> Vec<Filter> {
        vec![Filter::new().category("Payment").types(PAYMENT_EVENTS)]
    }

    async fn handle(&mut self, event: &Event, batch: &mut Statements) -> Result<(), HandlerError> {
        let id = event.stream.strip_prefix("Payment-").ok_or("a stream without an id")?.to_owned();
        match event.decode()? {
            PaymentEvent::PaymentProcessed { money, organization_id, user_id: _ } => {
                let (amount, currency) = (i64::try_from(money.amount)?, money.currency.code());
                let of = [organization_id, currency.to_owned()].map(Into::into);
                let [organization, currency] = of.clone();
                batch.add(NOTE_ORGANIZATION, [id.into(), organization, currency]);
                let [organization, currency] = of;
                batch.add(ADD_PROCESSED, [organization, currency, amount.into()]);
            }
            PaymentEvent::PaymentFailed { .. } => batch.add(ADD_FAILED, [id.into()]),
            PaymentEvent::PaymentRefunded { money, .. } => {
                batch.add(ADD_REFUNDED, [id.into(), i64::try_from(money.amount)?.into()]);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::{BTreeMap, HashMap},
        path::Path,
    };

    use annals_client::{
        Client,
        aggregate::{Context, Repository},
        projection::{Runner, Target as _, TargetError},
        testing::TestStore,
    };
    use rusqlite::Connection;

    use super::*;
    use crate::domain::{money::Money, payment::Payment};

    /// By organization and currency: processed, how often, refunded, how often, failed how often.
    type Totals = BTreeMap<(String, String), [u64; 5]>;

    fn table(database: &Path) -> Totals {
        let connection = Connection::open(database).unwrap();
        let mut select = connection
            .prepare(
                "SELECT organization_id, currency, processed, processed_count, refunded,
                        refunded_count, failed_count FROM organization_totals",
            )
            .unwrap();
        let rows = select.query_map([], |row| {
            let number = |at| Ok::<_, rusqlite::Error>(row.get::<_, i64>(at)?.cast_unsigned());
            let sums = [number(2)?, number(3)?, number(4)?, number(5)?, number(6)?];
            Ok(((row.get(0)?, row.get(1)?), sums))
        });
        rows.unwrap().collect::<Result<_, _>>().unwrap()
    }

    /// The same by hand, of the whole log.
    async fn fold(client: &Client) -> Totals {
        let (mut totals, mut payments) = (Totals::new(), HashMap::new());
        for event in client.read_all().collect().await.unwrap() {
            let mut add = |of: &(String, String), [amount, place]: [u64; 2], at: usize| {
                let sums = totals.entry(of.clone()).or_default();
                sums[at] += amount;
                sums[at + 1] += place;
            };
            match event.decode().unwrap() {
                PaymentEvent::PaymentProcessed { money, organization_id, .. } => {
                    let of = (organization_id, money.currency.code().to_owned());
                    add(&of, [money.amount, 1], 0);
                    payments.insert(event.stream, of);
                }
                PaymentEvent::PaymentRefunded { money, .. } => {
                    add(&payments[&event.stream], [money.amount, 1], 2);
                }
                PaymentEvent::PaymentFailed { .. } => {
                    let of = payments.get(&event.stream).cloned().unwrap_or_default();
                    totals.entry(of).or_default()[4] += 1;
                }
            }
        }
        totals
    }

    /// Payments of two organizations in two currencies; some fail and some are given back in part.
    async fn pay(client: &Client, numbers: std::ops::Range<u64>) {
        let payments = Repository::<Payment>::new(client.clone());
        let context = Context::default();
        for number in numbers {
            let id = format!("p{number}");
            let currency = ["EUR", "JPY"][usize::from(number.is_multiple_of(3))];
            let organization = ["acme", "globex"][usize::from(number.is_multiple_of(2))];
            let money = |amount| Money::new(amount, currency).unwrap();
            if !number.is_multiple_of(7) {
                let paid = money(100 + number);
                payments
                    .execute(&id, &context, |it| it.process(paid, organization, "ada"))
                    .await
                    .unwrap();
            }
            if number.is_multiple_of(5) || number.is_multiple_of(7) {
                payments
                    .execute(&id, &context, |it| it.fail("declined", organization))
                    .await
                    .unwrap();
            } else if number.is_multiple_of(2) {
                payments
                    .execute(&id, &context, |it| it.refund(money(number), "", organization))
                    .await
                    .unwrap();
            }
        }
    }

    fn target(database: &Path) -> SqliteTarget {
        SqliteTarget::open(database, TOTALS, TABLES).unwrap()
    }

    /// How many events it has handled.
    async fn project(client: &Client, database: &Path) -> u64 {
        let runner = Runner::new(client, OrganizationTotals, target(database)).batch_size(7);
        let progress = runner.progress();
        runner.run_until_caught_up().await.unwrap();
        let progress = progress.borrow();
        progress.handled
    }

    #[tokio::test]
    async fn the_totals_are_a_fold_over_the_log_and_the_next_runner_goes_on_behind_it() {
        let store = TestStore::start().await;
        let client = store.client();
        let directory = tempfile::tempdir().unwrap();
        let database = directory.path().join("totals.sqlite");
        pay(&client, 0..50).await;
        let first = project(&client, &database).await;
        let expected = fold(&client).await;
        assert_eq!(
            expected.len(),
            5,
            "two organizations, two currencies, and unknown: {expected:?}"
        );
        assert_eq!(table(&database), expected);

        pay(&client, 50..60).await;
        let second = project(&client, &database).await;
        assert_eq!(table(&database), fold(&client).await);
        assert_ne!(table(&database), expected);
        let head = client.read_all().collect().await.unwrap().len() as u64;
        assert_eq!((first + second, project(&client, &database).await), (head, 0));
        assert_eq!(target(&database).checkpoint().await.unwrap(), head);
    }

    #[tokio::test]
    async fn a_batch_is_written_at_the_expected_checkpoint_or_not_at_all() {
        let directory = tempfile::tempdir().unwrap();
        let database = directory.path().join("totals.sqlite");
        let mut target = target(&database);
        assert_eq!(target.checkpoint().await.unwrap(), 0);
        let mut batch = target.begin();
        batch.add(ADD_PROCESSED, ["acme".to_owned().into(), "EUR".to_owned().into(), 5.into()]);
        target.commit(0, 3, &mut batch).await.unwrap();
        let again = target.commit(0, 3, &mut batch).await;
        assert!(matches!(again, Err(TargetError::Conflict { actual: 3 })), "{again:?}");

        // A statement that fails takes the ones before it and the checkpoint along.
        batch.add("INSERT INTO nowhere VALUES (1)", []);
        let failed = target.commit(3, 4, &mut batch).await;
        assert!(matches!(failed, Err(TargetError::Permanent(_))), "{failed:?}");
        assert_eq!(target.checkpoint().await.unwrap(), 3);
        let acme = ("acme".to_owned(), "EUR".to_owned());
        assert_eq!(table(&database), Totals::from([(acme, [5, 1, 0, 0, 0])]));
    }

    #[tokio::test]
    async fn a_database_that_another_one_writes_to_is_tried_again() {
        let directory = tempfile::tempdir().unwrap();
        let database = directory.path().join("totals.sqlite");
        let mut target = target(&database);
        target.checkpoint().await.unwrap();
        let other = Connection::open(&database).unwrap();
        other.execute_batch("BEGIN IMMEDIATE").unwrap();
        let mut batch = target.begin();
        let busy = target.commit(0, 1, &mut batch).await;
        assert!(matches!(busy, Err(TargetError::Transient(_))), "{busy:?}");
        other.execute_batch("ROLLBACK").unwrap();
        target.commit(0, 1, &mut batch).await.unwrap();
        assert_eq!(target.checkpoint().await.unwrap(), 1);
    }
}
