//! Payments on Annals: an aggregate with its rules, a projection into a read model, and questions.
//!
//! ```sh
//! annals serve                            # in another terminal
//! alias payments='cargo run --quiet --package annals-client --example payments --'
//! payments demo                           # a year of activity, and the answers
//! payments process p1 12.50 EUR --organization acme --user ada
//! payments refund p1 5 EUR --reason late --organization acme --user ada
//! payments project                        # until Ctrl-C; in another terminal
//! payments show p1
//! payments totals acme
//! payments project-sqlite --database totals.sqlite
//! ```

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

/// A line to standard output. Who reads it may have enough of it (`| head`): then there is nothing left to do.
macro_rules! say {
    ($($line:tt)*) => {
        if std::io::Write::write_fmt(&mut std::io::stdout(), format_args!("{}\n", format_args!($($line)*))).is_err() {
            std::process::exit(0);
        }
    };
}

mod application;
mod demo;
mod domain;
#[cfg(test)]
mod flow;
mod projection;
mod sqlite;

use std::{error::Error, path::PathBuf, process::ExitCode};

use annals_client::{
    Client, Data, Event, Filter,
    bus::{CommandEnvelope, Receipt},
    projection::{Projection, ReadModelTarget, RunError, Runner, Target},
    query::{GroupBy, Unit},
};
use chrono::{DateTime, Utc};
use clap::{Args, Parser, Subcommand, ValueEnum};
use uuid::Uuid;

use self::{
    application::{Application, OrganizationTotals, PaymentHistory, SearchPayments},
    domain::{
        commands::{FailPayment, ProcessPayment, RefundPayment},
        money::{self, Money},
    },
    projection::{
        ORGANIZATIONS, OrganizationViews, PAYMENTS, PAYMENTS_INDEXES, PaymentView, PaymentViews,
    },
    sqlite::SqliteTarget,
};

/// Payments, as an example of an application on Annals.
#[derive(Parser)]
struct Arguments {
    /// The server's address
    #[arg(long, env = "ANNALS_SERVER", default_value = "http://127.0.0.1:2113")]
    server: String,
    #[command(subcommand)]
    command: Command,
}

/// Who does it, and for whom
#[derive(Args)]
struct Actor {
    #[arg(long, env = "PAYMENTS_ORGANIZATION")]
    organization: String,
    #[arg(long, env = "PAYMENTS_USER")]
    user: String,
    /// Of the command: who sends it again gives it the same one. Made where none is given
    #[arg(long, value_name = "UUID")]
    command_id: Option<Uuid>,
}

#[derive(Subcommand)]
enum Command {
    /// Take the money, once
    Process {
        id: String,
        /// Such as 12.50
        amount: String,
        /// An ISO 4217 code
        currency: String,
        #[command(flatten)]
        actor: Actor,
    },
    /// Note that the money cannot be taken, or that the bank took it back
    Fail {
        id: String,
        /// Why
        error: String,
        #[command(flatten)]
        actor: Actor,
    },
    /// Give back what was paid, or a part of it
    Refund {
        id: String,
        amount: String,
        currency: String,
        #[arg(long, default_value = "")]
        reason: String,
        #[command(flatten)]
        actor: Actor,
    },
    /// What a payment is, by its events; with --at as it was
    Show {
        id: String,
        /// Such as 2024-06-01T12:00:00Z
        #[arg(long)]
        at: Option<DateTime<Utc>>,
    },
    /// What has happened to a payment
    History { id: String },
    /// A payment's states, one after each of its events
    Replay { id: String },
    /// Events of payments by when they happened
    Search {
        #[arg(long)]
        from: DateTime<Utc>,
        #[arg(long)]
        to: DateTime<Utc>,
        /// Of these types; all three where none is named
        #[arg(long = "type", value_name = "TYPE")]
        types: Vec<String>,
    },
    /// All events of one correlation id, each below what has caused it
    Timeline { correlation_id: String },
    /// What an organization has paid; `project` has to run
    Totals { organization: String },
    /// How many events of payments there are
    Statistics {
        #[arg(long, default_value = "organization")]
        by: By,
    },
    /// How many events of payments there were in each hour, day, week or month
    Trends {
        #[arg(long, default_value = "month")]
        unit: Per,
        /// Such as Europe/Amsterdam
        #[arg(long, default_value = "UTC")]
        time_zone: String,
        /// Also split by this: those with the most events
        #[arg(long)]
        by: Option<By>,
    },
    /// Keep the read models, until Ctrl-C; `annals models find payments --where status=failed` asks one
    Project,
    /// Keep what each organization has paid in a SQLite database, until Ctrl-C
    ProjectSqlite {
        /// Its file, which is made where there is none
        #[arg(long, value_name = "FILE")]
        database: PathBuf,
    },
    /// Fill the server with a year of activity, and print the answers
    Demo {
        /// How many payments there are in the year
        #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
        payments: u32,
        /// Begins all names; the same year again is appended once
        #[arg(long, default_value = "demo")]
        name: String,
    },
}

#[derive(Clone, Copy, ValueEnum)]
enum By {
    Hour,
    Day,
    Type,
    Organization,
    User,
}

impl From<By> for GroupBy {
    fn from(by: By) -> Self {
        match by {
            By::Hour => Self::Hour,
            By::Day => Self::Day,
            By::Type => Self::Type,
            By::Organization => Self::metadata("organizationId"),
            By::User => Self::metadata("userId"),
        }
    }
}

#[derive(Clone, Copy, ValueEnum)]
enum Per {
    Hour,
    Day,
    Week,
    Month,
}

impl From<Per> for Unit {
    fn from(per: Per) -> Self {
        match per {
            Per::Hour => Self::Hour,
            Per::Day => Self::Day,
            Per::Week => Self::Week,
            Per::Month => Self::Month,
        }
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(Arguments { server, command }: Arguments) -> Result<(), Box<dyn Error>> {
    let client = Client::connect(server).await?;
    let application = Application::new(&client);
    let Application { commands, queries, payments, .. } = &application;
    match command {
        Command::Process { id, amount, currency, actor } => {
            let command = ProcessPayment {
                payment_id: id,
                money: Money::parse(&amount, &currency)?,
                organization_id: actor.organization.clone(),
                user_id: actor.user.clone(),
            };
            print_receipt(commands.send(actor.sends(command)).await?);
        }
        Command::Fail { id, error, actor } => {
            let organization_id = actor.organization.clone();
            let command = FailPayment { payment_id: id, error, organization_id };
            print_receipt(commands.send(actor.sends(command)).await?);
        }
        Command::Refund { id, amount, currency, reason, actor } => {
            let money = Money::parse(&amount, &currency)?;
            let organization_id = actor.organization.clone();
            let command = RefundPayment { payment_id: id, money, reason, organization_id };
            print_receipt(commands.send(actor.sends(command)).await?);
        }
        Command::Show { id, at } => {
            let payment = match at {
                Some(at) => payments.load_at(&id, at).await?,
                None => payments.load(&id).await?,
            };
            say!("{id}: {}", *payment);
            match client.read_model(PAYMENTS).get::<PaymentView>(&id).await {
                Ok(Some(view)) => say!("in the read model: {:?}", view.value),
                Ok(None) => say!("not in the read model yet: is `project` running?"),
                Err(error) if error.is_not_found() => say!("no read model: run `project`"),
                Err(error) => return Err(error.into()),
            }
        }
        Command::History { id } => {
            queries.ask(PaymentHistory { payment_id: id }).await?.iter().for_each(print_event);
        }
        Command::Replay { id } => demo::replay(&application, &id).await?,
        Command::Search { from, to, types } => {
            let found = queries.ask(SearchPayments { types, from, to }).await?;
            found.iter().for_each(print_event);
        }
        Command::Timeline { correlation_id } => {
            demo::print_timeline(&client.correlation(correlation_id).get().await?.entries);
        }
        Command::Totals { organization } => {
            let totals = queries.ask(OrganizationTotals { organization_id: organization }).await?;
            let projection::OrganizationView {
                processed_count,
                failed_count,
                refunded_count,
                processed,
                refunded,
            } = &*totals;
            say!("{processed_count} processed, {failed_count} failed, {refunded_count} refunds");
            for (what, amounts) in [("paid", processed), ("refunded", refunded)] {
                for (currency, amount) in amounts {
                    say!("{what} {}", money::shown(*amount, currency));
                }
            }
        }
        Command::Statistics { by } => {
            let counted = client.statistics().filter(Filter::new().category("Payment"));
            let counted = counted.by(by).get().await?.answer;
            say!("{} events of {} payments", counted.event_count, counted.stream_count);
            counted.groups.iter().for_each(demo::print_group);
        }
        Command::Trends { unit, time_zone, by } => {
            let trends = client.trends(unit.into()).filter(Filter::new().category("Payment"));
            let trends = match by {
                Some(by) => trends.split_by(by.into()),
                None => trends.fill_empty(),
            };
            let rows = trends.time_zone(time_zone).get().await?.answer.rows;
            let most = rows.iter().map(|row| row.count).max().unwrap_or_default();
            for row in &rows {
                demo::print_bar(&format!("{} {}", row.key, row.series), row.count, most);
            }
        }
        Command::Project => {
            let (views, totals) = (client.read_model(PAYMENTS), client.read_model(ORGANIZATIONS));
            views.create(&PAYMENTS_INDEXES).await?;
            totals.create(&[]).await?;
            let views = Runner::new(&client, PaymentViews, ReadModelTarget::new(views));
            let totals = Runner::new(&client, OrganizationViews, ReadModelTarget::new(totals));
            tokio::try_join!(keep(PAYMENTS, views), keep(ORGANIZATIONS, totals))?;
        }
        Command::ProjectSqlite { database } => {
            let target = SqliteTarget::open(&database, sqlite::TOTALS, sqlite::TABLES)?;
            let runner = Runner::new(&client, sqlite::OrganizationTotals, target);
            keep(sqlite::TOTALS, runner).await?;
        }
        Command::Demo { payments, name } => demo::run(&application, &name, payments).await?,
    }
    Ok(())
}

impl Actor {
    fn sends<C: annals_client::bus::Command>(&self, command: C) -> CommandEnvelope {
        let envelope = CommandEnvelope::new(command)
            .metadata("organizationId", &self.organization)
            .metadata("userId", &self.user);
        match self.command_id {
            Some(id) => envelope.id(id),
            None => envelope,
        }
    }
}

/// Runs until Ctrl-C, and says where it is.
async fn keep<P, T>(name: &'static str, runner: Runner<P, T>) -> Result<(), RunError>
where
    T: Target,
    P: Projection<T::Batch>,
{
    let mut progress = runner.progress();
    tokio::spawn(async move {
        while progress.changed().await.is_ok() {
            let now = progress.borrow_and_update().clone();
            say!("{name}: at {}, {} behind", now.checkpoint, now.pending);
        }
    });
    runner.run(async { tokio::signal::ctrl_c().await.unwrap_or_default() }).await
}

fn print_receipt(Receipt { version, position, duplicate }: Receipt) {
    let again = if duplicate { ", as the same command did before" } else { "" };
    say!("done: version {version}, position {position}{again}");
}

fn print_event(event: &Event) {
    let data = match &event.data {
        Data::Text(text) => text,
        _ => "",
    };
    say!("  {} {} {} {} {data}", event.position, event.occurred_at, event.stream, event.event_type);
}
