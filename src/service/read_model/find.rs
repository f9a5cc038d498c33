//! Finds documents, a page at a time, in the order of an index.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use super::{
    ReadModelError, ReadModelService, Version, blocking,
    database::{Stored, Walk},
    document::{FieldPath, Object},
    plan::{self, FieldMatch, NotIndexed, Plan},
};
use crate::service::page_token::Fingerprint;

/// A page ends at so many bytes of documents.
const PAGE_BYTES_MAX: usize = 2 << 20;

/// Which documents.
#[derive(Debug, Clone)]
pub struct FindRequest {
    pub matches: Vec<FieldMatch>,
    pub order_by: Option<FieldPath>,
    pub descending: bool,
    pub size: usize,
    /// Empty: the first page.
    pub page_token: String,
}

/// A page of documents.
#[derive(Debug, Clone)]
pub struct Found {
    pub documents: Vec<(String, Stored)>,
    /// The token of the next page; `None`: this is the last one.
    pub next: Option<String>,
    /// The version's checkpoint at that moment.
    pub checkpoint: u64,
}

/// A part of what a plan finds.
pub(super) struct Part {
    pub documents: Vec<(String, Stored)>,
    /// The place of the last one, where there may be more.
    pub reached: Option<Vec<u8>>,
    pub checkpoint: u64,
}

/// Ends a walk when nobody waits for it any more.
struct Abandon(Arc<AtomicBool>);

impl Drop for Abandon {
    fn drop(&mut self) {
        // Relaxed: the walk may go on for a moment.
        self.0.store(true, Ordering::Relaxed);
    }
}

impl ReadModelService {
    /// A page of documents.
    pub async fn find(
        &self,
        model: &str,
        version: &Arc<Version>,
        request: FindRequest,
    ) -> Result<Found, ReadModelError> {
        let plan = planned(model, version, &request.matches, request.order_by.as_ref())?;
        let fingerprint = fingerprint(version, &request);
        let after = fingerprint.place(&request.page_token)?;
        let FindRequest { matches, descending, size, .. } = request;
        let part = self.part(model, version, &plan, matches, after, descending, size).await?;
        let next = part.reached.map(|place| fingerprint.token(&place));
        Ok(Found { documents: part.documents, next, checkpoint: part.checkpoint })
    }

    /// What `plan` finds behind `after`, of one moment.
    #[expect(clippy::too_many_arguments, reason = "a walk has a place, a way and a size")]
    pub(super) async fn part(
        &self,
        model: &str,
        version: &Arc<Version>,
        plan: &Plan,
        matches: Vec<FieldMatch>,
        after: Option<Vec<u8>>,
        descending: bool,
        size: usize,
    ) -> Result<Part, ReadModelError> {
        let database = Arc::clone(&self.shared.database);
        let (name, number, id) = (model.to_owned(), version.number, version.id);
        let plan = plan.clone();
        let abandoned = Arc::new(AtomicBool::new(false));
        let _abandon = Abandon(Arc::clone(&abandoned));
        let part = blocking(move || {
            let view = database.view()?;
            let Some(checkpoint) = view.checkpoint(&name, number)? else { return Ok(None) };
            let mut part = Part { documents: Vec::new(), reached: None, checkpoint };
            let mut bytes = 0;
            let mut last = Vec::new();
            let walk = Walk {
                from: &plan.from,
                before: &plan.before,
                after: after.as_deref(),
                descending,
            };
            view.walk(id, plan.index, &walk, |place, key, document| {
                // Relaxed: as where it is set.
                if abandoned.load(Ordering::Relaxed) {
                    return Ok(false);
                }
                let mut object = Object::of(&document.json);
                if !plan.rest.iter().all(|at| matches[*at].holds(&mut object)) {
                    return Ok(true);
                }
                let more = bytes + key.len() + document.json.len();
                if part.documents.len() == size || (more > PAGE_BYTES_MAX && bytes > 0) {
                    part.reached = Some(std::mem::take(&mut last));
                    return Ok(false);
                }
                bytes = more;
                last = place.to_vec();
                part.documents.push((key.to_owned(), document));
                Ok(true)
            })?;
            Ok(Some(part))
        });
        let unknown = || ReadModelError::UnknownModel { model: model.to_owned(), version: number };
        part.await?.ok_or_else(unknown)
    }
}

/// The plan, or that no index answers.
pub(super) fn planned(
    model: &str,
    version: &Version,
    matches: &[FieldMatch],
    order_by: Option<&FieldPath>,
) -> Result<Plan, ReadModelError> {
    plan::plan(&version.indexes, matches, order_by).map_err(|NotIndexed| {
        let mut fields: Vec<String> = Vec::new();
        for field in matches.iter().map(|it| &it.field).chain(order_by) {
            let field = field.to_string();
            if !fields.contains(&field) {
                fields.push(field);
            }
        }
        let (model, version) = (model.to_owned(), version.number);
        ReadModelError::NotIndexed { model, version, fields: fields.join(",") }
    })
}

/// Of a question, so that a token of one is not taken by another.
fn fingerprint(version: &Version, request: &FindRequest) -> Fingerprint {
    let FindRequest { matches, order_by, descending, size: _, page_token: _ } = request;
    let said = format!("{} {matches:?} {order_by:?} {descending}", version.id);
    Fingerprint::of(said.as_bytes())
}
