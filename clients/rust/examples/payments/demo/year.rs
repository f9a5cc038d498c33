//! A year of plausible activity, made by chance but the same for the same name: organizations of very different
//! sizes, more to do on weekdays and by day, growth from month to month, payments that fail and that are refunded.

use annals_client::{NewEvent, Result, aggregate::Aggregate as _};
use chrono::{DateTime, Datelike as _, TimeDelta, Timelike as _, Utc, Weekday};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _};
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
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    pub stream: String,
    pub event: NewEvent,
}

struct Organization {
    /// From 1, which is the largest.
    rank: u32,
    id: String,
    users: Vec<String>,
    currency: &'static str,
}

/// The year that ends at `until`, in the order of time, with so many payments. Ids of events follow from the name and the
/// number, and the name is in the names of the streams: who appends the same year again appends nothing.
pub fn year(name: &str, payments: u32, until: DateTime<Utc>) -> Result<Vec<Step>> {
    let id = Uuid::new_v5(&Uuid::NAMESPACE_OID, format!("{name}/{payments}").as_bytes());
    let mut year = Year {
        name: name.to_owned(),
        id,
        dice: StdRng::seed_from_u64(id.as_u64_pair().0),
        begin: until - TimeDelta::days(DAYS),
        steps: Vec::new(),
    };
    let organizations = year.organizations(payments)?;
    for case in 0..payments {
        year.case(case, &organizations)?;
    }
    let Year { mut steps, .. } = year;
    // Stable: what follows from something stands behind it, also at the same moment.
    steps.sort_by_key(|step| step.event.occurred_at);
    Ok(steps)
}

struct Year {
    name: String,
    id: Uuid,
    dice: StdRng,
    begin: DateTime<Utc>,
    steps: Vec<Step>,
}

/// What the next event belongs to and follows from, and when it happens.
struct Chain<'a> {
    correlation_id: String,
    organization_id: &'a str,
    user_id: &'a str,
    at: DateTime<Utc>,
    cause: Option<Uuid>,
}

impl Year {
    fn one_of(&mut self, words: &[&'static str]) -> &'static str {
        words.choose(&mut self.dice).expect("there are some")
    }

    /// A few, with their users, all within the first week.
    fn organizations(&mut self, payments: u32) -> Result<Vec<Organization>> {
        let mut organizations = Vec::new();
        for number in 0..(payments / 100).clamp(3, 24) {
            let id = format!("{}-org{number}", self.name);
            let users = self.dice.random_range(2..=6);
            let users: Vec<String> = (0..users).map(|user| format!("{id}-u{user}")).collect();
            let at = self.begin + TimeDelta::minutes(self.dice.random_range(0..7 * 24 * 60));
            let mut chain = Chain {
                correlation_id: format!("signup-{id}"),
                organization_id: &id,
                user_id: &users[0],
                at,
                cause: None,
            };
            for user in &users {
                let name = self.one_of(&NAMES).to_owned();
                let email = format!("{}@{id}.example", name.to_lowercase());
                let registered = BusinessEvent::UserRegistered { name, email };
                self.happens(&mut chain, &format!("User-{user}"), &registered)?;
            }
            let stream = format!("Organization-{id}");
            let name = format!("Organization {number} of {}", self.name);
            let created = BusinessEvent::OrganizationCreated { name, owner_id: users[0].clone() };
            self.happens(&mut chain, &stream, &created)?;
            for user in &users[1..] {
                let joined = BusinessEvent::UserJoined { user_id: user.clone() };
                self.happens(&mut chain, &stream, &joined)?;
            }
            let currency = self.one_of(&CURRENCIES);
            organizations.push(Organization { rank: number + 1, id, users, currency });
        }
        Ok(organizations)
    }

    /// A workflow from its start to what becomes of its payment.
    fn case(&mut self, number: u32, organizations: &[Organization]) -> Result<()> {
        // The n-th organization has 1/n of what the first one has (Zipf's law).
        let organization = organizations
            .choose_weighted(&mut self.dice, |it| 1.0 / f64::from(it.rank))
            .expect("there are some");
        let user = organization.users.choose(&mut self.dice).expect("each has some");
        let id = format!("{}-{number}", self.name);
        let begun = self.moment();
        let mut chain = Chain {
            correlation_id: format!("case-{id}"),
            organization_id: &organization.id,
            user_id: user,
            at: begun,
            cause: None,
        };
        let workflow = format!("Workflow-{id}");
        let started = BusinessEvent::WorkflowStarted {
            organization_id: organization.id.clone(),
            user_id: user.clone(),
            kind: self.one_of(&WORKFLOWS).to_owned(),
        };
        self.happens(&mut chain, &workflow, &started)?;
        let resources = self.dice.random_range(1..=3);
        let resource = |number: u32| format!("CloudResource-{id}-{number}");
        for number in 0..resources {
            let kind = self.one_of(&RESOURCES).to_owned();
            let workflow_id = id.clone();
            let provisioned = BusinessEvent::CloudResourceProvisioned { workflow_id, kind };
            self.happens(&mut chain, &resource(number), &provisioned)?;
        }
        let hours: u32 = self.dice.random_range(1..=40);
        chain.at += TimeDelta::minutes(i64::from(hours) * 60 - 30);
        for number in 0..resources {
            let released = BusinessEvent::CloudResourceReleased { hours: hours.into() };
            self.happens(&mut chain, &resource(number), &released)?;
        }
        let seconds = u64::try_from((chain.at - begun).num_seconds()).unwrap_or_default();
        self.happens(&mut chain, &workflow, &BusinessEvent::WorkflowCompleted { seconds })?;

        let amount = u64::from(hours) * self.dice.random_range(50..=900);
        let money = Money::new(amount, organization.currency).expect("more than 0, and known");
        let organization_id = organization.id.clone();
        let issued =
            BusinessEvent::InvoiceIssued { money, organization_id, workflow_id: id.clone() };
        self.happens(&mut chain, &format!("Billing-{id}"), &issued)?;
        chain.at += TimeDelta::minutes(self.dice.random_range(5..3 * 24 * 60));
        self.payment(&mut chain, &format!("Payment-{id}"), money)
    }

    /// By the same rules as a payment of a user.
    fn payment(&mut self, chain: &mut Chain<'_>, stream: &str, money: Money) -> Result<()> {
        let mut payment = Payment::default();
        let organization_id = chain.organization_id;
        let chance = self.dice.random_range(0..100);
        if chance < 4 {
            let error = self.one_of(&FAILURES);
            let failed = payment.fail(error, organization_id).expect("a new payment can fail");
            return self.happen(chain, stream, &mut payment, failed);
        }
        let processed = payment.process(money, organization_id, chain.user_id);
        let processed = processed.expect("a new payment can be processed");
        self.happen(chain, stream, &mut payment, processed)?;
        if chance < 10 {
            chain.at += TimeDelta::hours(self.dice.random_range(2..10 * 24));
            let amount = if chance < 7 { money.amount } else { money.amount.div_ceil(3) };
            let back = Money { amount, ..money };
            let refunded = payment.refund(back, self.one_of(&REFUNDS), organization_id);
            let refunded = refunded.expect("not more than was paid");
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
        chain.at += TimeDelta::milliseconds(self.dice.random_range(200..90_000));
        let id = Uuid::new_v5(&self.id, self.steps.len().to_string().as_bytes());
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

    /// A moment of the year after its first week and before its last month: later months have more, weekends and nights
    /// less.
    fn moment(&mut self) -> DateTime<Utc> {
        let minutes = (DAYS - 40) * 24 * 60;
        loop {
            // The later of two even chances: its density rises evenly.
            let [one, other] = [(); 2].map(|()| self.dice.random_range(0..minutes));
            let at = self.begin + TimeDelta::days(8) + TimeDelta::minutes(one.max(other));
            let at_weekend = matches!(at.weekday(), Weekday::Sat | Weekday::Sun);
            let by_night = !(7..20).contains(&at.hour());
            let chance = if at_weekend { 20 } else { 100 } * if by_night { 15 } else { 100 };
            if self.dice.random_ratio(chance, 10_000) {
                return at;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, HashSet};

    use super::*;

    #[test]
    fn the_same_name_again_is_the_same_year_which_is_over_at_its_end() {
        let until = "2026-01-01T00:00:00Z".parse().unwrap();
        let steps = year("a", 300, until).unwrap();
        assert_eq!(steps, year("a", 300, until).unwrap());
        assert_ne!(steps, year("b", 300, until).unwrap());
        let ids: HashSet<_> = steps.iter().map(|step| step.event.id).collect();
        assert_eq!(ids.len(), steps.len());
        assert!(steps.iter().all(|step| step.event.occurred_at.unwrap() < until));
        assert!(steps.is_sorted_by_key(|step| step.event.occurred_at));
    }

    /// Every payment by its rules, after the invoice of its workflow, within one case.
    #[test]
    fn what_happens_is_what_may_happen() {
        let steps = year("a", 300, "2026-01-01T00:00:00Z".parse().unwrap()).unwrap();
        let mut streams: BTreeMap<&str, Vec<&NewEvent>> = BTreeMap::new();
        for step in &steps {
            streams.entry(&step.stream).or_default().push(&step.event);
        }
        let payments: Vec<_> =
            streams.iter().filter(|(stream, _)| stream.starts_with("Payment-")).collect();
        assert_eq!(payments.len(), 300);
        for (stream, events) in payments {
            let billing = &streams[stream.replace("Payment-", "Billing-").as_str()][0];
            assert_eq!(billing.correlation_id, events[0].correlation_id);
            assert_eq!(events[0].causation_id, Some(billing.id.to_string()));
            let types: Vec<_> = events.iter().map(|event| event.event_type.as_str()).collect();
            let known = [
                &["PaymentFailed"][..],
                &["PaymentProcessed"],
                &["PaymentProcessed", "PaymentRefunded"],
            ];
            assert!(known.contains(&types.as_slice()), "{types:?}");
        }
    }
}
