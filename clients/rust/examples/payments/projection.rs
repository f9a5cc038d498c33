//! The read models on the server: what each payment is by now, and what each organization has paid.

use annals_client::{
    Event, Filter,
    projection::{Documents, HandlerError, Projection},
};
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::domain::payment::{PAYMENT_EVENTS, PaymentEvent, PaymentStatus};

/// The read model of payments, by the payment's id.
pub const PAYMENTS: &str = "payments";
/// By what payments are found.
pub const PAYMENTS_INDEXES: [&[&str]; 2] = [&["status"], &["organizationId", "status"]];

/// The read model of organizations, by the organization's id.
pub const ORGANIZATIONS: &str = "organizations";

/// The events of payments.
pub fn payment_events() -> Vec<Filter> {
    vec![Filter::new().category("Payment").types(PAYMENT_EVENTS)]
}

/// A payment as it is shown.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PaymentView {
    pub status: PaymentStatus,
    /// In minor units of the currency.
    pub amount: u64,
    pub currency: String,
    pub refunded_amount: u64,
    pub error: Option<String>,
    pub organization_id: String,
    pub user_id: String,
}

/// Folds payments into [`PaymentView`]s, by the entity's id.
pub struct PaymentViews;

impl Projection<Documents> for PaymentViews {
    fn name(&self) -> &'static str {
        PAYMENTS
    }

    fn filters(&self) -> Vec<Filter> {
        payment_events()
    }

    async fn handle(&mut self, event: &Event, views: &mut Documents) -> Result<(), HandlerError> {
        let id = event.stream.strip_prefix("Payment-").ok_or("a stream without an id")?;
        let mut view: PaymentView = views.get(id).await?.unwrap_or_default();
        match event.decode()? {
            PaymentEvent::PaymentProcessed { money, organization_id, user_id } => {
                view.status = PaymentStatus::Processed;
                view.amount = money.amount;
                money.currency.code().clone_into(&mut view.currency);
                view.organization_id = organization_id;
                view.user_id = user_id;
            }
            PaymentEvent::PaymentFailed { error, organization_id } => {
                view.status = PaymentStatus::Failed;
                view.error = Some(error);
                view.organization_id = organization_id;
            }
            PaymentEvent::PaymentRefunded { money, .. } => {
                view.refunded_amount += money.amount;
                let is_whole = view.refunded_amount == view.amount;
                view.status =
                    if is_whole { PaymentStatus::Refunded } else { PaymentStatus::PartlyRefunded };
            }
        }
        views.put(id, &view)?;
        Ok(())
    }
}

/// What an organization has paid.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct OrganizationView {
    pub processed_count: u64,
    pub failed_count: u64,
    pub refunded_count: u64,
    /// By currency, in its minor units.
    pub processed: BTreeMap<String, u64>,
    /// By currency, in its minor units.
    pub refunded: BTreeMap<String, u64>,
}

/// Adds payments up into [`OrganizationView`]s.
pub struct OrganizationViews;

impl Projection<Documents> for OrganizationViews {
    fn name(&self) -> &'static str {
        ORGANIZATIONS
    }

    fn filters(&self) -> Vec<Filter> {
        payment_events()
    }

    async fn handle(&mut self, event: &Event, views: &mut Documents) -> Result<(), HandlerError> {
        let event: PaymentEvent = event.decode()?;
        let id = event.organization_id();
        let mut view: OrganizationView = views.get(id).await?.unwrap_or_default();
        match &event {
            PaymentEvent::PaymentProcessed { money, .. } => {
                view.processed_count += 1;
                *view.processed.entry(money.currency.code().to_owned()).or_default() +=
                    money.amount;
            }
            PaymentEvent::PaymentFailed { .. } => view.failed_count += 1,
            PaymentEvent::PaymentRefunded { money, .. } => {
                view.refunded_count += 1;
                *view.refunded.entry(money.currency.code().to_owned()).or_default() += money.amount;
            }
        }
        views.put(id, &view)?;
        Ok(())
    }
}
