//! The payment: what may become of it, and the events that say so.

use std::fmt;

use annals_client::aggregate::{Aggregate, Snapshot};
use serde::{Deserialize, Serialize};

use super::money::Money;

/// What happens to a payment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", content = "data", rename_all_fields = "camelCase")]
#[expect(clippy::enum_variant_names, reason = "a variant's name is the event's type")]
pub enum PaymentEvent {
    /// The money was taken.
    PaymentProcessed {
        #[serde(flatten)]
        money: Money,
        organization_id: String,
        user_id: String,
    },
    /// It could not be taken, or was taken back by the bank.
    PaymentFailed { error: String, organization_id: String },
    /// Some of it, or all, was given back.
    PaymentRefunded {
        #[serde(flatten)]
        money: Money,
        reason: String,
        organization_id: String,
    },
}

impl PaymentEvent {
    /// Whose payment it is about.
    pub fn organization_id(&self) -> &str {
        match self {
            Self::PaymentProcessed { organization_id, .. }
            | Self::PaymentFailed { organization_id, .. }
            | Self::PaymentRefunded { organization_id, .. } => organization_id,
        }
    }
}

/// The types of the events above.
pub const PAYMENT_EVENTS: [&str; 3] = ["PaymentProcessed", "PaymentFailed", "PaymentRefunded"];

/// What a payment is by now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PaymentStatus {
    /// Nothing happened yet.
    #[default]
    New,
    Processed,
    Failed,
    PartlyRefunded,
    Refunded,
}

/// A payment, made of its events.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Payment {
    pub status: PaymentStatus,
    /// Whose it is.
    pub organization_id: String,
    /// What was taken.
    pub paid: Option<Money>,
    /// What was given back, in minor units of the same currency.
    pub refunded: u64,
    pub error: Option<String>,
}

/// Why a command is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PaymentError {
    #[error("the payment was processed already")]
    ProcessedAlready,
    #[error("the payment is one of {0}")]
    OtherOrganization(String),
    #[error("the payment has failed; a new try is a new payment")]
    FailedAlready,
    #[error("the payment was not processed, so there is nothing to refund")]
    NothingPaid,
    #[error("the payment was refunded; it cannot fail any more")]
    RefundedAlready,
    #[error("the payment was made in {paid}, the refund is in {refund}")]
    OtherCurrency { paid: &'static str, refund: &'static str },
    #[error("{asked} cannot be refunded: of {paid} only {left} is left")]
    MoreThanPaid { asked: Money, paid: Money, left: Money },
}

impl Aggregate for Payment {
    const CATEGORY: &'static str = "Payment";
    type Event = PaymentEvent;

    fn apply(&mut self, event: &PaymentEvent) {
        match event {
            PaymentEvent::PaymentProcessed { money, organization_id, user_id: _ } => {
                self.status = PaymentStatus::Processed;
                self.organization_id.clone_from(organization_id);
                self.paid = Some(*money);
            }
            PaymentEvent::PaymentFailed { error, organization_id } => {
                self.status = PaymentStatus::Failed;
                self.organization_id.clone_from(organization_id);
                self.error = Some(error.clone());
            }
            PaymentEvent::PaymentRefunded { money, .. } => {
                self.refunded += money.amount;
                let whole = self.paid.is_some_and(|paid| paid.amount == self.refunded);
                self.status =
                    if whole { PaymentStatus::Refunded } else { PaymentStatus::PartlyRefunded };
            }
        }
    }
}

/// Loads need not begin with the first event: see `Repository::snapshot_every`.
impl Snapshot for Payment {
    const SCHEMA: u32 = 1;
}

impl fmt::Display for Payment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.status)?;
        if let Some(paid) = self.paid {
            write!(f, ", paid {paid}")?;
            if self.refunded > 0 {
                write!(f, ", refunded {}", Money { amount: self.refunded, ..paid })?;
            }
        }
        match &self.error {
            Some(error) => write!(f, ", {error}"),
            None => Ok(()),
        }
    }
}

impl Payment {
    /// Takes the money, once.
    pub fn process(
        &self,
        money: Money,
        organization_id: &str,
        user_id: &str,
    ) -> Result<Vec<PaymentEvent>, PaymentError> {
        match self.status {
            PaymentStatus::New => Ok(vec![PaymentEvent::PaymentProcessed {
                money,
                organization_id: organization_id.to_owned(),
                user_id: user_id.to_owned(),
            }]),
            PaymentStatus::Failed => Err(PaymentError::FailedAlready),
            PaymentStatus::Processed | PaymentStatus::PartlyRefunded | PaymentStatus::Refunded => {
                Err(PaymentError::ProcessedAlready)
            }
        }
    }

    /// Notes that the money cannot be taken, or that the bank took it back.
    pub fn fail(
        &self,
        error: &str,
        organization_id: &str,
    ) -> Result<Vec<PaymentEvent>, PaymentError> {
        self.is_of(organization_id)?;
        match self.status {
            PaymentStatus::New | PaymentStatus::Processed => {
                let (error, organization_id) = (error.to_owned(), organization_id.to_owned());
                Ok(vec![PaymentEvent::PaymentFailed { error, organization_id }])
            }
            PaymentStatus::Failed => Err(PaymentError::FailedAlready),
            PaymentStatus::PartlyRefunded | PaymentStatus::Refunded => {
                Err(PaymentError::RefundedAlready)
            }
        }
    }

    /// Gives back what was paid, or a part of it, but never more.
    pub fn refund(
        &self,
        money: Money,
        reason: &str,
        organization_id: &str,
    ) -> Result<Vec<PaymentEvent>, PaymentError> {
        self.is_of(organization_id)?;
        let paid = match (self.status, self.paid) {
            (PaymentStatus::Failed, _) => return Err(PaymentError::FailedAlready),
            (_, Some(paid)) => paid,
            (_, None) => return Err(PaymentError::NothingPaid),
        };
        if money.currency != paid.currency {
            let (paid, refund) = (paid.currency.code(), money.currency.code());
            return Err(PaymentError::OtherCurrency { paid, refund });
        }
        let left = Money { amount: paid.amount - self.refunded, ..paid };
        if money.amount > left.amount {
            return Err(PaymentError::MoreThanPaid { asked: money, paid, left });
        }
        let (reason, organization_id) = (reason.to_owned(), organization_id.to_owned());
        Ok(vec![PaymentEvent::PaymentRefunded { money, reason, organization_id }])
    }

    fn is_of(&self, organization_id: &str) -> Result<(), PaymentError> {
        match self.status {
            PaymentStatus::New => Ok(()),
            _ if self.organization_id == organization_id => Ok(()),
            _ => Err(PaymentError::OtherOrganization(self.organization_id.clone())),
        }
    }
}
