//! The read model of payments: what each of them is by now.

use annals_client::{
    Event, Filter,
    projection::{Documents, HandlerError, Projection},
};
use serde::{Deserialize, Serialize};

use crate::domain::payment::{PAYMENT_EVENTS, PaymentEvent, PaymentStatus};

/// The read model's name.
pub const MODEL: &str = "payments";
/// By what it is found.
pub const INDEXES: [&[&str]; 2] = [&["status"], &["organizationId", "status"]];

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
        MODEL
    }

    fn filters(&self) -> Vec<Filter> {
        vec![Filter::new().category("Payment").types(PAYMENT_EVENTS)]
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
            PaymentEvent::PaymentFailed { error } => {
                view.status = PaymentStatus::Failed;
                view.error = Some(error);
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
