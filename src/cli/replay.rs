//! `annals replay`: events as they came, at their own pace or another one.

use prost_types::{Duration, Timestamp};

use super::{
    CliError,
    client::ServerArgs,
    filter::{FilterArgs, parse_time},
    output::{self, Output, duration, grouped, nanos},
};
use crate::wire::proto::v1::{
    ReplayEnded, ReplayPause, ReplayRequest, ReplayResponse, TimeBase, replay_response::Message,
};

const SPEED_MIN: f64 = 0.001;
const SPEED_MAX: f64 = 1_000_000.0;

const UNITS: [(&str, i64); 5] =
    [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

/// Print events as they came, at their own pace
#[derive(Debug, clap::Args)]
pub struct ReplayArgs {
    /// Begin after this position
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    after: u64,
    /// Begin with the first event of this time, such as 2011-03-01T09:30:00Z or 2011-03-01, or later
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    from: Option<Timestamp>,
    /// How many times as fast as it was: 0.001 to 1000000; 0: at once, without pauses
    #[arg(long, value_name = "X", default_value = "1", value_parser = parse_speed)]
    speed: f64,
    /// No pause is longer than this, such as 500ms, 10s, 5m or 1h
    #[arg(long, value_name = "DURATION", value_parser = parse_pause)]
    pause_max: Option<Duration>,
    /// By the time when the server took an event, not the time when it occurred
    #[arg(long)]
    recorded: bool,
    /// At most so many events
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
    /// Print one JSON object a line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    filter: FilterArgs,
    #[command(flatten)]
    server: ServerArgs,
}

fn parse_speed(text: &str) -> Result<f64, String> {
    let speed = text.parse().ok();
    let speed = speed.filter(|it| *it == 0.0 || (SPEED_MIN..=SPEED_MAX).contains(it));
    speed.ok_or_else(|| "a number from 0.001 to 1000000, or 0, is expected".to_owned())
}

fn parse_pause(text: &str) -> Result<Duration, String> {
    parse_duration(text).and_then(|pause| match pause {
        Duration { seconds: 0, nanos: 0 } => Err("a pause is longer than 0".to_owned()),
        pause => Ok(pause),
    })
}

/// `500ms`, `10s`, `5m`, `1h` or `1d`; never negative.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let millis = UNITS.into_iter().find_map(|(unit, millis)| {
        let number: i64 = text.strip_suffix(unit)?.trim_end().parse().ok()?;
        number.checked_mul(millis).filter(|millis| *millis >= 0)
    });
    let millis =
        millis.ok_or("a whole number of ms, s, m, h or d is expected, such as 500ms or 10s")?;
    Ok(Duration {
        seconds: millis / 1000,
        nanos: i32::try_from(millis % 1000).unwrap_or_default() * 1_000_000,
    })
}

pub async fn run(args: ReplayArgs) -> Result<(), CliError> {
    let time_base = if args.recorded { TimeBase::Recorded } else { TimeBase::Occurred };
    let request = ReplayRequest {
        filters: args.filter.into_filters(),
        after: args.after,
        from: args.from,
        speed: args.speed,
        time_base: time_base.into(),
        pause_max: args.pause_max,
        limit: args.limit.unwrap_or(0),
        min_position: 0,
    };
    let mut queries = args.server.connect().await?.queries();
    let mut messages = queries.replay(request).await?.into_inner();
    let mut out = Output::stdout();
    let replay = async {
        while let Some(message) = messages.message().await? {
            if let Some(ended) = print(message, args.json, &mut out)? {
                let (events, position) = (grouped(ended.event_count), ended.position);
                output::note(&format!("{events} events replayed, up to position {position}"));
                return Ok(());
            }
        }
        Err(CliError::ConnectionLost("the replay has no end".to_owned()))
    };
    tokio::select! {
        result = replay => result,
        () = output::stdout_closed() => Ok(()),
    }
}

/// What was sent last, if this is it. Who reads must not wait for what follows.
fn print(
    message: ReplayResponse,
    json: bool,
    out: &mut Output,
) -> Result<Option<ReplayEnded>, CliError> {
    match message.message {
        Some(Message::Events(replayed)) => {
            for event in &replayed.batch.unwrap_or_default().events {
                out.event(event, json)?;
            }
            out.flush()?;
        }
        Some(Message::Pause(pause)) => output::note(&remark(&pause)),
        Some(Message::Ended(ended)) => return Ok(Some(ended)),
        // Or of a newer protocol.
        Some(Message::Started(_)) | None => {}
    }
    Ok(None)
}

fn remark(pause: &ReplayPause) -> String {
    let wait = duration(pause.wait.as_ref().map_or(0, nanos));
    format!("a pause of {wait}, until {}", output::time(pause.until.as_ref()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_speed_is_in_the_protocols_range_or_0() {
        for (text, speed) in [("0", 0.0), ("0.001", SPEED_MIN), ("1e6", SPEED_MAX), ("2.5", 2.5)] {
            assert_eq!(parse_speed(text), Ok(speed));
        }
        for bad in ["", "-1", "0.0001", "1000001", "inf", "NaN", "2x"] {
            assert!(parse_speed(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_pause_has_a_unit_and_a_length() {
        let pause = |text| parse_pause(text).map(|it| (it.seconds, it.nanos));
        assert_eq!(pause("1500ms"), Ok((1, 500_000_000)));
        assert_eq!(
            [pause("10s"), pause("5m"), pause("2d")].map(Result::unwrap),
            [(10, 0), (300, 0), (172_800, 0)]
        );
        for bad in ["", "s", "0s", "-1s", "1.5s", "10", "9223372036854775807d"] {
            assert!(parse_pause(bad).is_err(), "{bad}");
        }
        assert_eq!(parse_duration("0s"), Ok(Duration::default()));
        assert!(parse_duration("-1s").is_err());
    }

    #[test]
    fn a_pause_says_how_long_it_is_and_what_comes_then() {
        let wait = Some(Duration { seconds: 1, nanos: 500_000_000 });
        let until = Some(Timestamp { seconds: 0, nanos: 0 });
        let text = "a pause of 1.5 s, until 1970-01-01T00:00:00Z";
        assert_eq!(remark(&ReplayPause { wait, until }), text);
    }
}
