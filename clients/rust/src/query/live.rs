//! Watches: an answer and what changes of it, over broken connections too.

use tonic::{Response, Status, Streaming};

use crate::{
    Client, Result,
    client::{Backoff, Retry},
    subscribe::ended_without_error,
};

/// A request whose first answer is whole, so that it can be made again at any time.
pub(super) trait Watched {
    type Answer;

    async fn watch(&self, client: &Client) -> Result<Response<Streaming<Self::Answer>>, Status>;
}

#[derive(Debug)]
pub(super) struct Live<W: Watched> {
    client: Client,
    request: W,
    answers: Option<Streaming<W::Answer>>,
    backoff: Backoff,
}

impl<W: Watched> Live<W> {
    pub(super) async fn start(client: Client, request: W) -> Result<Self> {
        let backoff = Backoff::new(&Retry::for_ever());
        let mut live = Self { client, request, answers: None, backoff };
        live.connect().await?;
        Ok(live)
    }

    /// Safe to drop and call again: nothing is lost.
    pub(super) async fn next(&mut self) -> Result<W::Answer> {
        loop {
            let Some(answers) = &mut self.answers else {
                self.connect().await?;
                continue;
            };
            match answers.message().await {
                Ok(Some(answer)) => {
                    self.backoff.reset();
                    return Ok(answer);
                }
                ended => {
                    self.answers = None;
                    self.backoff
                        .wait_after(
                            ended.err().unwrap_or_else(ended_without_error).into(),
                            "the watch",
                        )
                        .await?;
                }
            }
        }
    }

    async fn connect(&mut self) -> Result<()> {
        loop {
            match self.request.watch(&self.client).await {
                Ok(answers) => {
                    self.answers = Some(answers.into_inner());
                    return Ok(());
                }
                Err(status) => self.backoff.wait_after(status.into(), "the watch").await?,
            }
        }
    }
}
