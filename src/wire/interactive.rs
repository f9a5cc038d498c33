//! `SubscribeInteractive`: what both sides say, in one loop. A request is read when the one before was
//! answered, and nothing is queued.

use tonic::{Status, Streaming};

use super::{
    convert::InvalidRequest,
    proto::v1::{
        RemoveFilter, SubscribeInteractiveRequest, SubscribeInteractiveResponse,
        subscribe_interactive_request::Message,
    },
    status,
    subscribing::{self, Sizes},
};
use crate::{
    core::limits::Limits,
    service::subscription::{Caller, Interactive, SubscriptionService},
};

/// One call.
pub struct Conversation {
    service: SubscriptionService,
    limits: Limits,
    caller: Caller,
    /// `None`: the client says nothing more.
    requests: Option<Streaming<SubscribeInteractiveRequest>>,
    /// `None`: it has not begun.
    subscription: Option<(Interactive, Sizes)>,
}

impl Conversation {
    /// It has not begun: the first request begins it.
    pub fn new(
        service: SubscriptionService,
        limits: Limits,
        caller: Caller,
        requests: Streaming<SubscribeInteractiveRequest>,
    ) -> Self {
        Self { service, limits, caller, requests: Some(requests), subscription: None }
    }

    /// The next message. An error ends the call.
    pub async fn next(&mut self) -> Result<SubscribeInteractiveResponse, Status> {
        loop {
            let Some((subscription, _)) = &mut self.subscription else {
                self.begin().await?;
                continue;
            };
            let takes_changes = subscription.takes_changes();
            // Whichever is ready: neither side can keep the other waiting.
            let request = tokio::select! {
                told = subscription.next() => return Ok(told?.into()),
                request = next(&mut self.requests), if takes_changes => request?,
            };
            match request {
                Some(request) => self.handle(request)?,
                None => self.requests = None,
            }
        }
    }

    async fn begin(&mut self) -> Result<(), Status> {
        let first = tokio::select! {
            biased;
            () = self.service.stopped() => return Err(status::shutting_down()),
            first = next(&mut self.requests) => first?,
        };
        let start = match first.and_then(|request| request.message) {
            Some(Message::Start(start)) => Some(start),
            _ => None,
        };
        let filters = start.iter().flat_map(|start| &start.subscribe);
        let filters = filters.flat_map(|subscribe| &subscribe.filters).map(super::filter::size);
        let sizes = filters.enumerate().map(|(index, size)| (index.to_string(), size)).collect();
        let (options, name) = subscribing::start(start, &self.limits)?;
        let caller = Caller { name, ..self.caller.clone() };
        self.subscription = Some((self.service.interactive(options, caller).await?, sizes));
        Ok(())
    }

    fn handle(&mut self, request: SubscribeInteractiveRequest) -> Result<(), Status> {
        let Some((subscription, sizes)) = &mut self.subscription else { return Ok(()) };
        match request.message {
            Some(Message::AddFilter(add)) => {
                let (name, clause) = subscribing::add_filter(add, sizes, &self.limits)?;
                subscription.add_filter(name, clause);
            }
            Some(Message::RemoveFilter(RemoveFilter { name })) => {
                let removed = subscription.remove_filter(&name);
                removed.map_err(|error| {
                    InvalidRequest::one("remove_filter.name", error.to_string())
                })?;
                sizes.remove(&name);
            }
            Some(Message::Permits(permits)) => subscription.permit(subscribing::permits(permits)?),
            Some(Message::Start(_)) => {
                let what = "is the first message, and no later one";
                return Err(InvalidRequest::one("start", what).into());
            }
            None => {
                let what = "is empty: neither add_filter, nor remove_filter, nor permits";
                return Err(InvalidRequest::one("message", what).into());
            }
        }
        Ok(())
    }
}

/// The client's next request; `None`: it says nothing more. Never, once that is known.
async fn next(
    requests: &mut Option<Streaming<SubscribeInteractiveRequest>>,
) -> Result<Option<SubscribeInteractiveRequest>, Status> {
    match requests {
        Some(requests) => requests.message().await,
        None => std::future::pending().await,
    }
}
