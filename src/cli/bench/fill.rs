//! A history to read, appended before the rounds.

use super::{
    Bench, CliError, EventArgs, append::pipeline, events::Maker, load::Twin, rounds::RoundArgs,
};

/// An append of the history has so many events.
const BATCH: u64 = 100;
const IN_FLIGHT: usize = 64;
/// The history is in so many streams, unless another number is asked for.
pub const STREAMS: u32 = 1000;

/// What to append first.
#[derive(Debug, clap::Args)]
pub struct FillArgs {
    /// Append so many events first
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    fill: Option<u64>,
    #[command(flatten)]
    pub events: EventArgs,
}

/// What was appended.
pub struct Filled {
    pub category: String,
    pub streams: Vec<String>,
}

impl FillArgs {
    /// Appends what is asked for, evenly to so many streams.
    pub async fn run(
        &self,
        bench: &Bench,
        rounds: &RoundArgs,
        streams: u32,
    ) -> Result<Option<Filled>, CliError> {
        let Some(events) = self.fill else { return Ok(None) };
        let batch = BATCH.min(events.div_ceil(streams.into()));
        let batch_events = u32::try_from(batch).unwrap_or(u32::MAX);
        let names = bench.names(&self.events);
        let maker = Maker::new(bench.id_base(), self.events.data_bytes(batch_events)?);
        let streams = u64::from(streams).min(events);
        let streams: Vec<_> = (0..streams).map(|it| format!("{}{it}", names.prefix)).collect();
        let (mut left, mut turns) = (events, streams.clone().into_iter().cycle());
        let requests = std::iter::from_fn(move || {
            let events = batch.min(left);
            left -= events;
            (events > 0).then(|| maker.append(&turns.next().unwrap_or_default(), None, events))
        });
        let channels = rounds.server.channels(1).await?;
        pipeline(channels[0].clone(), Twin::Real, requests, IN_FLIGHT).await?;
        Ok(Some(Filled { category: names.category, streams }))
    }
}
