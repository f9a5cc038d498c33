//! A year of plausible activity, made by chance but the same for the same seed: organizations of very different
//! sizes, more to do on weekdays and by day, growth from month to month, payments that fail and that are refunded.

use annals_client::{NewEvent, Result, aggregate::Aggregate};
use chrono::{DateTime, Datelike, Duration, Timelike, Utc, Weekday};
use rand::{RngExt as _, SeedableRng, rngs::StdRng};
use serde::Serialize;
use uuid::Uuid;

use crate::domain::{
    business::BusinessEvent,
    money::Money,
    payment::{Payment, PaymentEvent},
};

const DAYS: i64 = 365;
const NAMES: [&str; 12] = [
    "Ada", "Bram", "Chidi", "Dagny", "Emre", "Fatima", "Goran", "Hana", "Ines", "Jonas", "Kaito",
    "Lucia",
];
const WORKFLOWS: [&str; 4] = ["import", "training", "report", "backup"];
const RESOURCES: [&str; 3] = ["machine", "bucket", "database"];
const CURRENCIES: [&str; 5] = ["EUR", "EUR", "USD", "GBP", "JPY"];
const FAILURES: [&str; 3] = ["card declined", "insufficient funds", "the bank did not answer"];
const REFUNDS: [&str; 3] = ["service not delivered", "charged twice", "goodwill"];

/// An event and its stream.
#[derive(Debug, Clone)]
pub struct Step {
    pub stream: String,
    pub event: NewEvent,
}

struct Organization {
    id: String,
    users: Vec<String>,
    currency: &'static str,
}

/// The year that ends at `until`, in the order of time, with so many payments. The ids of the events follow from `run`,
/// which is also in the names of the streams: the same year again is known as what it is.
pub fn year(run: &str, payments: usize, until: DateTime<Utc>) -> Result<Vec<Step>> {
    let mut year = Year {
        run: run.to_owned(),
        namespace: Uuid::new_v5(&Uuid::NAMESPACE_OID, format!("{run}/{payments}").as_bytes()),
        dice: StdRng::seed_from_u64(run.bytes().fold(payments as u64, |seed, byte| {
            seed.wrapping_mul(31).wrapping_add(u64::from(byte))
        })),
        begin: until - Duration::days(DAYS),
        steps: Vec::new(),
    };
    let organizations = year.organizations(payments)?;
    for case in 0..payments {
        year.case(case, &organizations)?;
    }
    let Year { mut steps, .. } = year;
    // Stable: what follows from something stands behind it, also in the same second.
    steps.sort_by_key(|step| step.event.occurred_at);
    Ok(steps)
}

struct Year {
    run: String,
    namespace: Uuid,
    dice: StdRng,
    begin: DateTime<Utc>,
    steps: Vec<Step>,
}

/// Where the next event stands and what it follows from.
struct Chain<'a> {
    correlation_id: String,
    organization_id: &'a str,
    user_id: &'a str,
    at: DateTime<Utc>,
    cause: Option<Uuid>,
}

impl Year {
    /// A few, with their users, all within the first week.
    fn organizations(&mut self, payments: usize) -> Result<Vec<Organization>> {
        let count = (payments / 100).clamp(3, 24);
        let mut organizations = Vec::with_capacity(count);
        for number in 0..count {
            let id = format!("{}-org{number}", self.run);
            let users: Vec<String> =
                (0..self.dice.random_range(2..=6)).map(|user| format!("{id}-u{user}")).collect();
            let at = self.begin + Duration::minutes(self.dice.random_range(0..7 * 24 * 60));
            let mut chain = Chain {
                correlation_id: format!("signup-{id}"),
                organization_id: &id,
                user_id: &users[0],
                at,
                cause: None,
            };
            for user in &users {
                let name = NAMES[self.dice.random_range(0..NAMES.len())].to_owned();
                let email = format!("{}@{id}.example", name.to_lowercase());
                let registered = BusinessEvent::UserRegistered { name, email };
                self.happens(&mut chain, &format!("User-{user}"), &registered)?;
            }
            let stream = format!("Organization-{id}");
            let name = format!("Organization {number} of {}", self.run);
            let owner_id = users[0].clone();
            self.happens(
                &mut chain,
                &stream,
                &BusinessEvent::OrganizationCreated { name, owner_id },
            )?;
            for user in &users[1..] {
                let joined = BusinessEvent::UserJoined { user_id: user.clone() };
                self.happens(&mut chain, &stream, &joined)?;
            }
            let currency = CURRENCIES[number % CURRENCIES.len()];
            organizations.push(Organization { id, users, currency });
        }
        Ok(organizations)
    }

    /// A workflow from its start to what becomes of its payment.
    fn case(&mut self, number: usize, organizations: &[Organization]) -> Result<()> {
        // The n-th organization has about 1/n of what the first one has (Zipf's law).
        let rank = (organizations.len() as f64).powf(self.dice.random::<f64>());
        let organization = &organizations[(rank as usize).clamp(1, organizations.len()) - 1];
        let user = self.dice.random_range(0..organization.users.len());
        let id = format!("{}-{number}", self.run);
        let mut chain = Chain {
            correlation_id: format!("case-{id}"),
            organization_id: &organization.id,
            user_id: &organization.users[user],
            at: self.moment(),
            cause: None,
        };
        let workflow = format!("Workflow-{id}");
        let kind = WORKFLOWS[self.dice.random_range(0..WORKFLOWS.len())].to_owned();
        let begun = chain.at;
        let started = BusinessEvent::WorkflowStarted {
            organization_id: organization.id.clone(),
            user_id: chain.user_id.to_owned(),
            kind,
        };
        self.happens(&mut chain, &workflow, &started)?;
        let resources = self.dice.random_range(1..=3);
        for resource in 0..resources {
            let kind = RESOURCES[self.dice.random_range(0..RESOURCES.len())].to_owned();
            let provisioned =
                BusinessEvent::CloudResourceProvisioned { workflow_id: id.clone(), kind };
            self.happens(&mut chain, &format!("CloudResource-{id}-{resource}"), &provisioned)?;
        }
        let hours = self.dice.random_range(1..=40);
        chain.at += Duration::minutes(hours * 60 - 30);
        for resource in 0..resources {
            let hours = u64::try_from(hours).unwrap_or_default();
            let released = BusinessEvent::CloudResourceReleased { hours };
            self.happens(&mut chain, &format!("CloudResource-{id}-{resource}"), &released)?;
        }
        let seconds = u64::try_from((chain.at - begun).num_seconds()).unwrap_or_default();
        self.happens(&mut chain, &workflow, &BusinessEvent::WorkflowCompleted { seconds })?;

        let amount = u64::try_from(hours).unwrap_or(1) * self.dice.random_range(50..=900);
        let money = Money::new(amount, organization.currency).expect("more than 0, and known");
        let issued = BusinessEvent::InvoiceIssued {
            money,
            organization_id: organization.id.clone(),
            workflow_id: id.clone(),
        };
        self.happens(&mut chain, &format!("Billing-{id}"), &issued)?;
        chain.at += Duration::minutes(self.dice.random_range(5..3 * 24 * 60));
        self.payment(&mut chain, &format!("Payment-{id}"), money)
    }

    /// By the same rules as a payment of a user.
    fn payment(&mut self, chain: &mut Chain<'_>, stream: &str, money: Money) -> Result<()> {
        let mut payment = Payment::default();
        let chance = self.dice.random_range(0..100);
        if chance < 4 {
            let error = FAILURES[self.dice.random_range(0..FAILURES.len())];
            let failed = payment.fail(error).expect("a new payment can fail");
            return self.happen(chain, stream, &mut payment, failed);
        }
        let processed = payment
            .process(money, chain.organization_id, chain.user_id)
            .expect("a new payment can be processed");
        self.happen(chain, stream, &mut payment, processed)?;
        if chance < 10 {
            chain.at += Duration::hours(self.dice.random_range(2..10 * 24));
            let amount = if chance < 7 { money.amount } else { money.amount.div_ceil(3) };
            let reason = REFUNDS[self.dice.random_range(0..REFUNDS.len())];
            let refunded =
                payment.refund(Money { amount, ..money }, reason).expect("not more than was paid");
            self.happen(chain, stream, &mut payment, refunded)?;
        }
        Ok(())
    }

    fn happen(
        &mut self,
        chain: &mut Chain<'_>,
        stream: &str,
        payment: &mut Payment,
        events: Vec<PaymentEvent>,
    ) -> Result<()> {
        for event in events {
            payment.apply(&event);
            self.happens(chain, stream, &event)?;
        }
        Ok(())
    }

    fn happens(
        &mut self,
        chain: &mut Chain<'_>,
        stream: &str,
        event: &impl Serialize,
    ) -> Result<()> {
        chain.at += Duration::milliseconds(self.dice.random_range(200..90_000));
        let id = Uuid::new_v5(&self.namespace, self.steps.len().to_string().as_bytes());
        let mut event = NewEvent::of(event)?
            .id(id)
            .correlation_id(&chain.correlation_id)
            .metadata("organizationId", chain.organization_id)
            .metadata("userId", chain.user_id)
            .occurred_at(chain.at);
        if let Some(cause) = chain.cause.replace(id) {
            event = event.causation_id(cause.to_string());
        }
        self.steps.push(Step { stream: stream.to_owned(), event });
        Ok(())
    }

    /// A moment of the year after its first week: later months have more, weekends and nights less.
    fn moment(&mut self) -> DateTime<Utc> {
        loop {
            // The square root of an even chance rises evenly: the last month has most.
            let share = self.dice.random::<f64>().sqrt();
            let minutes = (share * ((DAYS - 30) * 24 * 60) as f64) as i64;
            let at = self.begin + Duration::days(8) + Duration::minutes(minutes);
            let weekend = matches!(at.weekday(), Weekday::Sat | Weekday::Sun);
            let night = !(7..20).contains(&at.hour());
            let chance = if weekend { 0.2 } else { 1.0 } * if night { 0.15 } else { 1.0 };
            if self.dice.random_bool(chance) {
                return at;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn the_same_year_again_is_the_same_and_ends_in_time() {
        let until = "2026-01-01T00:00:00Z".parse().unwrap();
        let steps = year("a", 300, until).unwrap();
        let again = year("a", 300, until).unwrap();
        assert_eq!(steps.len(), again.len());
        assert!(steps.iter().zip(&again).all(|(a, b)| a.event == b.event && a.stream == b.stream));
        let ids: HashSet<_> = steps.iter().map(|step| step.event.id).collect();
        assert_eq!(ids.len(), steps.len());
        assert!(steps.iter().all(|step| step.event.occurred_at.unwrap() < until));
        assert!(steps.is_sorted_by_key(|step| step.event.occurred_at));
        let payments: HashSet<_> = steps
            .iter()
            .filter(|step| step.stream.starts_with("Payment-"))
            .map(|step| &step.stream)
            .collect();
        assert_eq!(payments.len(), 300);
    }
}
