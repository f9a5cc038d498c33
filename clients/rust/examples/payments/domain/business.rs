//! The business around payments: who works for whom, what runs, what it uses and what it costs.

use serde::{Deserialize, Serialize};

use super::money::Money;

/// What happens before there is something to pay. Each stands in the stream of what it is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", content = "data", rename_all_fields = "camelCase")]
pub enum BusinessEvent {
    /// `User-…`
    UserRegistered { name: String, email: String },
    /// `Organization-…`, by a user.
    OrganizationCreated { name: String, owner_id: String },
    /// `Organization-…`
    UserJoined { user_id: String },
    /// `Workflow-…`, of an organization.
    WorkflowStarted { organization_id: String, user_id: String, kind: String },
    /// `Workflow-…`
    WorkflowCompleted { seconds: u64 },
    /// `CloudResource-…`, for a workflow.
    CloudResourceProvisioned { workflow_id: String, kind: String },
    /// `CloudResource-…`
    CloudResourceReleased { hours: u64 },
    /// `Billing-…`, for what a workflow has used; a payment follows.
    InvoiceIssued {
        #[serde(flatten)]
        money: Money,
        organization_id: String,
        workflow_id: String,
    },
}
