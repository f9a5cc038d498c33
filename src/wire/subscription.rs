//! `annals.v1.SubscriptionService`.

use tonic::{Request, Response, Status};

use super::{
    Answers, answers,
    block::EventBlock,
    convert,
    proto::v1::{
        CaughtUp, Checkpoint, FellBehind, Heartbeat, SubscribeRequest, SubscribeResponse,
        SubscriptionConfirmed, subscribe_response, subscription_service_server,
    },
};
use crate::{
    core::limits::Limits,
    service::subscription::{Message, SubscriptionService},
};

/// The service on the wire.
pub struct Subscriptions {
    service: SubscriptionService,
    limits: Limits,
}

impl Subscriptions {
    pub fn new(service: SubscriptionService, limits: Limits) -> Self {
        Self { service, limits }
    }
}

#[tonic::async_trait]
impl subscription_service_server::SubscriptionService for Subscriptions {
    type SubscribeStream = Answers<SubscribeResponse>;

    async fn subscribe(
        &self,
        request: Request<SubscribeRequest>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let options = convert::subscribe(request.into_inner(), &self.limits)?;
        let subscription = self.service.subscribe(options)?;
        Ok(Response::new(answers(Some(subscription), |subscription| async move {
            let mut subscription = subscription?;
            match subscription.next().await {
                Ok(message) => Some((Ok(message.into()), Some(subscription))),
                Err(error) => Some((Err(error.into()), None)),
            }
        })))
    }
}

impl From<Message> for SubscribeResponse {
    fn from(message: Message) -> Self {
        use subscribe_response::Message as Sent;
        let message = match message {
            Message::Confirmed { id, after, head } => Sent::Confirmed(SubscriptionConfirmed {
                subscription_id: id.to_string(),
                after: after.get(),
                head: head.get(),
            }),
            Message::Events(block) => Sent::Events(EventBlock::from_encoded(block.bytes)),
            Message::Checkpoint(position) => {
                Sent::Checkpoint(Checkpoint { position: position.get() })
            }
            Message::CaughtUp(position) => Sent::CaughtUp(CaughtUp { position: position.get() }),
            Message::FellBehind { position, head } => {
                Sent::FellBehind(FellBehind { position: position.get(), head: head.get() })
            }
            Message::Heartbeat { position, sent_at } => Sent::Heartbeat(Heartbeat {
                position: position.get(),
                sent_at: Some(convert::timestamp(sent_at)),
            }),
        };
        Self { message: Some(message) }
    }
}
