//! Fills a server with a year of activity, and asks what a history is kept for.

mod year;

use std::{collections::VecDeque, error::Error, time::Duration};

use annals_client::{
    Event, ExpectedVersion, Filter,
    append_stream::Pending,
    projection::{ReadModelTarget, Runner},
    query::{Entry, GroupBy, StatisticsGroup, TimeBase, Unit},
};
use chrono::{DateTime, TimeDelta, Timelike as _, Utc};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::{
    application::{Application, OrganizationTotals, PaymentHistory, SearchPayments},
    domain::{money, payment::Payment},
    print_event,
    projection::{ORGANIZATIONS, OrganizationViews, PAYMENTS, PAYMENTS_INDEXES, PaymentViews},
};

/// So many appends are on their way at once.
const IN_FLIGHT: usize = 256;
/// So wide is the longest bar of a chart, in characters.
const BAR_WIDTH: u64 = 40;

/// The whole of it: fill, project, ask.
pub async fn run(
    application: &Application,
    name: &str,
    payments: u32,
) -> Result<(), Box<dyn Error>> {
    let until = Utc::now().with_nanosecond(0).ok_or("no time without nanoseconds")?;
    fill(application, name, payments, until).await?;
    project(application).await?;
    ask(application, name, until).await
}

/// Appends the year. What is there already stays as it is.
async fn fill(
    application: &Application,
    name: &str,
    payments: u32,
    until: DateTime<Utc>,
) -> Result<(), Box<dyn Error>> {
    let steps = year::year(name, payments, until)?;
    let progress = progress(steps.len() as u64, "appending a year");
    let pipeline = application.client.append_stream().await?;
    let mut pending: VecDeque<Pending> = VecDeque::with_capacity(IN_FLIGHT);
    let mut duplicates = 0_u64;
    for step in steps {
        if pending.len() == IN_FLIGHT
            && let Some(first) = pending.pop_front()
        {
            duplicates += u64::from(first.await?.duplicate);
            progress.inc(1);
        }
        pending.push_back(pipeline.append(step.stream, ExpectedVersion::Any, [step.event]).await?);
    }
    for pending in pending {
        duplicates += u64::from(pending.await?.duplicate);
        progress.inc(1);
    }
    let total = progress.length().unwrap_or_default();
    let elapsed = progress.elapsed();
    progress.finish_and_clear();
    say!("{total} events in {elapsed:.1?}; {duplicates} of them had been there before");
    Ok(())
}

/// Brings both read models to the head.
async fn project(application: &Application) -> Result<(), Box<dyn Error>> {
    let client = &application.client;
    let (payments, organizations) = (client.read_model(PAYMENTS), client.read_model(ORGANIZATIONS));
    payments.create(&PAYMENTS_INDEXES).await?;
    organizations.create(&[]).await?;
    let payments = Runner::new(client, PaymentViews, ReadModelTarget::new(payments));
    let organizations = Runner::new(client, OrganizationViews, ReadModelTarget::new(organizations));
    let mut runs = payments.progress();
    let bar = progress(
        application
            .client
            .list_event_types()
            .await?
            .iter()
            .map(|it| it.last_position)
            .max()
            .unwrap_or_default(),
        "projecting",
    );
    let shown = tokio::spawn({
        let bar = bar.clone();
        async move {
            while runs.changed().await.is_ok() {
                bar.set_position(runs.borrow_and_update().checkpoint);
            }
        }
    });
    tokio::try_join!(payments.run_until_caught_up(), organizations.run_until_caught_up())?;
    shown.await?;
    bar.finish_and_clear();
    Ok(())
}

/// Prints the answers.
async fn ask(
    application: &Application,
    name: &str,
    until: DateTime<Utc>,
) -> Result<(), Box<dyn Error>> {
    let client = &application.client;
    let year = until - TimeDelta::days(365)..until;
    let of_year = Filter::new().category("Payment").occurred(year.clone());

    let months = client
        .trends(Unit::Month)
        .filter(of_year.clone())
        .time_base(TimeBase::Occurred)
        .fill_empty()
        .get()
        .await?
        .answer;
    say!("\nEvents of payments by month");
    let most = months.rows.iter().map(|row| row.count).max().unwrap_or_default();
    for row in &months.rows {
        print_bar(&row.key, row.count, most);
    }

    let statistics = client
        .statistics()
        .filter(of_year)
        .by(GroupBy::Type)
        .by(GroupBy::metadata("organizationId"))
        .by(GroupBy::metadata("userId"))
        .rows_max(5)
        .get()
        .await?
        .answer;
    statistics.groups.iter().for_each(print_group);

    let organization_id = format!("{name}-org0");
    let totals = OrganizationTotals { organization_id: organization_id.clone() };
    let totals = application.queries.ask(totals).await?;
    say!("\n{organization_id} has paid, by its read model");
    for (currency, paid) in &totals.processed {
        let refunded = totals.refunded.get(currency).copied().unwrap_or_default();
        let (paid, refunded) = (money::shown(*paid, currency), money::shown(refunded, currency));
        say!("  {paid} in {} payments, of which {refunded} went back", totals.processed_count);
    }

    let search = SearchPayments {
        types: vec!["PaymentRefunded".to_owned()],
        from: year.start,
        to: year.end,
    };
    let refunds = application.queries.ask(search).await?;
    say!("\n{} refunds in the year; the last three", refunds.len());
    refunds.iter().rev().take(3).for_each(print_event);
    let Some(refund) = refunds.last() else { return Ok(()) };
    let payment_id = refund.stream.trim_start_matches("Payment-").to_owned();

    say!("\nThe last refund's case, from the workflow to the money");
    if let Some(correlation_id) = &refund.correlation_id {
        let timeline = client.correlation(correlation_id).get().await?;
        print_timeline(&timeline.entries);
    }
    say!("\nThe payment, event by event");
    replay(application, &payment_id).await?;
    let before = refund.occurred_at - TimeDelta::milliseconds(1);
    let was = application.payments.load_at(&payment_id, before).await?;
    say!("  just before the refund it was {:?}", was.status);

    let history = PaymentHistory { payment_id };
    for _ in 0..3 {
        application.queries.ask(history.clone()).await?;
    }
    let cache = &application.cache;
    say!("\nThe query cache: {} hits, {} misses", cache.hits(), cache.misses());
    Ok(())
}

/// A payment's states, one after each of its events.
pub async fn replay(application: &Application, payment_id: &str) -> Result<(), Box<dyn Error>> {
    use annals_client::{aggregate::Aggregate as _, query::ReplayMessage};

    let stream = format!("Payment-{payment_id}");
    // An unknown one is an error here; a replay of nothing is not.
    application.client.stream_info(&*stream).await?;
    let filter = Filter::new().stream(stream);
    let mut replay = application.client.replay().filter(filter).start().await?;
    let mut payment = Payment::default();
    while let Some(message) = replay.next().await? {
        if let ReplayMessage::Events(events) = message {
            for event in events {
                payment.apply(&event.decode()?);
                say!("  {} {}: {payment}", event.occurred_at, event.event_type);
            }
        }
    }
    Ok(())
}

/// Events below what has caused them, each with the time since.
pub fn print_timeline(entries: &[Entry]) {
    let mut entries: Vec<&Entry> = entries.iter().collect();
    entries.sort_by_key(|entry| entry.tree_order);
    for Entry { event, since_first, depth, .. } in entries {
        let Event { event_type, stream, .. } = event;
        let since = since_first.to_std().unwrap_or(Duration::ZERO).as_secs();
        let (days, hours, minutes) = (since / 86_400, since / 3600 % 24, since / 60 % 60);
        let indent = usize::try_from(*depth).unwrap_or_default() * 2;
        say!("  {days:>3} d {hours:02}:{minutes:02} {:indent$}{event_type} {stream}", "");
    }
}

/// A chart of the rows, and what they leave out.
pub fn print_group(group: &StatisticsGroup) {
    let by = group.group_by.as_ref();
    let key = by.map(|by| by.metadata_key.as_str()).filter(|key| !key.is_empty());
    let kind = by.map(|by| by.grouping().as_str_name().trim_start_matches("GROUPING_"));
    say!("\nBy {}", key.map_or(kind.unwrap_or_default().to_lowercase(), str::to_owned));
    let most = group.rows.iter().map(|row| row.count).max().unwrap_or_default();
    for row in &group.rows {
        print_bar(&row.key, row.count, most);
    }
    let others = group.row_count - group.rows.len() as u64;
    if others > 0 {
        say!("  {others} more: {}", group.other_count);
    }
    if group.without_count > 0 {
        say!("  without one: {}", group.without_count);
    }
}

/// One line of a chart, in which `most` is the longest bar.
pub fn print_bar(key: &str, count: u64, most: u64) {
    let width = (count * BAR_WIDTH).div_ceil(most.max(1));
    let bar = "#".repeat(usize::try_from(width).unwrap_or_default());
    say!("  {key:<24} {count:>8} {bar}");
}

/// On a terminal a bar; elsewhere nothing.
fn progress(length: u64, what: &'static str) -> ProgressBar {
    let style = "{msg} {wide_bar} {pos}/{len} {per_sec} {eta}";
    let style =
        ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar());
    let bar = ProgressBar::with_draw_target(Some(length), ProgressDrawTarget::stderr());
    bar.with_style(style).with_message(what)
}
