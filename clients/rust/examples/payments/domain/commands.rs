//! What can be done to a payment. By whom is in the command's envelope.

use annals_client::{
    aggregate::Decide,
    bus::{Command, Violation},
};

use super::{
    money::Money,
    payment::{Payment, PaymentError, PaymentEvent},
};

/// Ids and texts: at most so many bytes.
const TEXT_BYTES_MAX: usize = 200;

/// Take the money, once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessPayment {
    pub payment_id: String,
    pub money: Money,
    pub organization_id: String,
    pub user_id: String,
}

/// Note that the money cannot be taken, or that the bank took it back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailPayment {
    pub payment_id: String,
    pub error: String,
    pub organization_id: String,
}

/// Give back what was paid, or a part of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefundPayment {
    pub payment_id: String,
    pub money: Money,
    pub reason: String,
    pub organization_id: String,
}

fn checked<const N: usize>(fields: [(&str, &str); N]) -> Vec<Violation> {
    let mut violations = Vec::new();
    for (field, text) in fields {
        if text.trim().is_empty() && field != "reason" {
            violations.push(Violation::new(field, "must not be empty"));
        } else if text.len() > TEXT_BYTES_MAX {
            let what = format!("has {} bytes, at most {TEXT_BYTES_MAX} are allowed", text.len());
            violations.push(Violation::new(field, what));
        }
    }
    violations
}

impl Command for ProcessPayment {
    const NAME: &'static str = "ProcessPayment";

    fn validate(&self) -> Vec<Violation> {
        checked([
            ("payment", &self.payment_id),
            ("organization", &self.organization_id),
            ("user", &self.user_id),
        ])
    }
}

impl Decide<Payment> for ProcessPayment {
    type Error = PaymentError;

    fn aggregate_id(&self) -> String {
        self.payment_id.clone()
    }

    fn decide(&self, payment: &Payment) -> Result<Vec<PaymentEvent>, PaymentError> {
        payment.process(self.money, &self.organization_id, &self.user_id)
    }
}

impl Command for FailPayment {
    const NAME: &'static str = "FailPayment";

    fn validate(&self) -> Vec<Violation> {
        checked([
            ("payment", &self.payment_id),
            ("organization", &self.organization_id),
            ("error", &self.error),
        ])
    }
}

impl Decide<Payment> for FailPayment {
    type Error = PaymentError;

    fn aggregate_id(&self) -> String {
        self.payment_id.clone()
    }

    fn decide(&self, payment: &Payment) -> Result<Vec<PaymentEvent>, PaymentError> {
        payment.fail(&self.error, &self.organization_id)
    }
}

impl Command for RefundPayment {
    const NAME: &'static str = "RefundPayment";

    fn validate(&self) -> Vec<Violation> {
        checked([
            ("payment", &self.payment_id),
            ("organization", &self.organization_id),
            ("reason", &self.reason),
        ])
    }
}

impl Decide<Payment> for RefundPayment {
    type Error = PaymentError;

    fn aggregate_id(&self) -> String {
        self.payment_id.clone()
    }

    fn decide(&self, payment: &Payment) -> Result<Vec<PaymentEvent>, PaymentError> {
        payment.refund(self.money, &self.reason, &self.organization_id)
    }
}

#[cfg(test)]
mod tests {
    use annals_client::testing::Scenario;

    use super::*;

    fn money(text: &str, currency: &str) -> Money {
        Money::parse(text, currency).unwrap()
    }

    fn process() -> ProcessPayment {
        ProcessPayment {
            payment_id: "p1".to_owned(),
            money: money("10", "EUR"),
            organization_id: "acme".to_owned(),
            user_id: "ada".to_owned(),
        }
    }

    fn fail() -> FailPayment {
        FailPayment {
            payment_id: "p1".to_owned(),
            error: "card declined".to_owned(),
            organization_id: "acme".to_owned(),
        }
    }

    fn refund(text: &str, currency: &str) -> RefundPayment {
        RefundPayment {
            payment_id: "p1".to_owned(),
            money: money(text, currency),
            reason: "late".to_owned(),
            organization_id: "acme".to_owned(),
        }
    }

    fn processed() -> PaymentEvent {
        PaymentEvent::PaymentProcessed {
            money: money("10", "EUR"),
            organization_id: "acme".to_owned(),
            user_id: "ada".to_owned(),
        }
    }

    fn failed() -> PaymentEvent {
        PaymentEvent::PaymentFailed {
            error: "card declined".to_owned(),
            organization_id: "acme".to_owned(),
        }
    }

    fn refunded(text: &str) -> PaymentEvent {
        PaymentEvent::PaymentRefunded {
            money: money(text, "EUR"),
            reason: "late".to_owned(),
            organization_id: "acme".to_owned(),
        }
    }

    #[test]
    fn a_payment_is_processed_once() {
        Scenario::<Payment>::new()
            .when(&process())
            .then([processed()])
            .when(&process())
            .then_refused(&PaymentError::ProcessedAlready);
        let failed_before = Scenario::<Payment>::given([failed()]);
        failed_before.when(&process()).then_refused(&PaymentError::FailedAlready);
    }

    #[test]
    fn it_fails_before_or_after_it_was_processed_but_not_when_money_went_back() {
        Scenario::<Payment>::new().when(&fail()).then([failed()]);
        Scenario::<Payment>::given([processed()]).when(&fail()).then([failed()]);
        let given = Scenario::<Payment>::given([processed(), refunded("1")]);
        given.when(&fail()).then_refused(&PaymentError::RefundedAlready);
    }

    #[test]
    fn refunds_are_at_most_what_was_paid_in_its_currency_to_its_organization() {
        let given = || Scenario::<Payment>::given([processed(), refunded("4")]);
        given().when(&refund("6", "EUR")).then([refunded("6")]);
        let [asked, paid, left] = ["6.01", "10", "6"].map(|text| money(text, "EUR"));
        let more = PaymentError::MoreThanPaid { asked, paid, left };
        given().when(&refund("6.01", "EUR")).then_refused(&more);
        let other = PaymentError::OtherCurrency { paid: "EUR", refund: "USD" };
        given().when(&refund("1", "USD")).then_refused(&other);
        let strangers =
            RefundPayment { organization_id: "globex".to_owned(), ..refund("1", "EUR") };
        let of_acme = PaymentError::OtherOrganization("acme".to_owned());
        given().when(&strangers).then_refused(&of_acme);
        Scenario::<Payment>::new()
            .when(&refund("1", "EUR"))
            .then_refused(&PaymentError::NothingPaid);
    }

    #[test]
    fn a_field_that_is_empty_or_too_long_is_named_with_the_limit() {
        let long = "x".repeat(201);
        let command =
            RefundPayment { payment_id: " ".to_owned(), reason: long, ..refund("1", "EUR") };
        assert_eq!(
            command.validate(),
            [
                Violation::new("payment", "must not be empty"),
                Violation::new("reason", "has 201 bytes, at most 200 are allowed"),
            ],
        );
        assert_eq!(RefundPayment { reason: String::new(), ..refund("1", "EUR") }.validate(), []);
    }
}
