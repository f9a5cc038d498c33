//! Payments on Annals: an aggregate with its rules, a projection into a read model, and questions.
//!
//! ```sh
//! annals serve                            # in another terminal
//! cargo run --package annals-client --example payments -- process p1 12.50 EUR --organization acme --user ada
//! cargo run --package annals-client --example payments -- refund p1 5 EUR --reason "late"
//! cargo run --package annals-client --example payments -- project         # until Ctrl-C
//! cargo run --package annals-client --example payments -- project-sqlite --database totals.sqlite
//! cargo run --package annals-client --example payments -- show p1
//! ```

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod domain;
#[cfg(test)]
mod flow;
mod projection;
mod sqlite;

use std::{error::Error, path::PathBuf, process::ExitCode};

use annals_client::{
    Client, Event, Filter,
    aggregate::{Context, Repository},
    projection::{Projection, ReadModelTarget, RunError, Runner, Target},
};
use chrono::{DateTime, Utc};
use clap::{Parser, Subcommand};

use self::{
    domain::{
        money::Money,
        payment::{PAYMENT_EVENTS, Payment},
    },
    projection::{INDEXES, MODEL, PaymentView, PaymentViews},
    sqlite::{OrganizationTotals, SqliteTarget, TABLES, TOTALS},
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

#[derive(Subcommand)]
enum Command {
    /// Take the money, once
    Process {
        id: String,
        /// Such as 12.50
        amount: String,
        /// An ISO 4217 code
        currency: String,
        #[arg(long)]
        organization: String,
        #[arg(long)]
        user: String,
    },
    /// Note that the money cannot be taken, or that the bank took it back
    Fail {
        id: String,
        /// Why
        error: String,
    },
    /// Give back what was paid, or a part of it
    Refund {
        id: String,
        amount: String,
        currency: String,
        #[arg(long, default_value = "")]
        reason: String,
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
    /// Keep the read model, until Ctrl-C; `annals models find payments --where status=failed` asks it
    Project,
    /// Keep what each organization has paid in a SQLite database, until Ctrl-C
    ProjectSqlite {
        /// Its file, which is made where there is none
        #[arg(long, value_name = "FILE")]
        database: PathBuf,
    },
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
    let payments = Repository::<Payment>::new(client.clone());
    match command {
        Command::Process { id, amount, currency, organization, user } => {
            let money = Money::parse(&amount, &currency)?;
            let context = context(&organization, &user);
            let decide = |payment: &Payment| payment.process(money, &organization, &user);
            print_payment(&id, &*payments.execute(&id, &context, decide).await?);
        }
        Command::Fail { id, error } => {
            let decide = |payment: &Payment| payment.fail(&error);
            print_payment(&id, &*payments.execute(&id, &Context::default(), decide).await?);
        }
        Command::Refund { id, amount, currency, reason } => {
            let money = Money::parse(&amount, &currency)?;
            let decide = |payment: &Payment| payment.refund(money, &reason);
            print_payment(&id, &*payments.execute(&id, &Context::default(), decide).await?);
        }
        Command::Show { id, at } => {
            let payment = match at {
                Some(at) => payments.load_at(&id, at).await?,
                None => payments.load(&id).await?,
            };
            print_payment(&id, &payment);
            match client.read_model(MODEL).get::<PaymentView>(&id).await {
                Ok(Some(view)) => println!("in the read model: {:?}", view.value),
                Ok(None) => println!("not in the read model yet: is `project` running?"),
                Err(error) if error.is_not_found() => println!("no read model: run `project`"),
                Err(error) => return Err(error.into()),
            }
        }
        Command::History { id } => {
            client
                .read_stream(format!("Payment-{id}"))
                .collect()
                .await?
                .iter()
                .for_each(print_event);
        }
        Command::Search { from, to, types } => {
            search(&client, &types, from, to).await?.iter().for_each(print_event);
        }
        Command::Project => {
            let model = client.read_model(MODEL);
            model.create(&INDEXES).await?;
            keep(Runner::new(&client, PaymentViews, ReadModelTarget::new(model))).await?;
        }
        Command::ProjectSqlite { database } => {
            let target = SqliteTarget::open(&database, TOTALS, TABLES)?;
            keep(Runner::new(&client, OrganizationTotals, target)).await?;
        }
    }
    Ok(())
}

/// Runs until Ctrl-C, and says where it is.
async fn keep<P, T>(runner: Runner<P, T>) -> Result<(), RunError>
where
    T: Target,
    P: Projection<T::Batch>,
{
    let mut progress = runner.progress();
    tokio::spawn(async move {
        while progress.changed().await.is_ok() {
            let now = progress.borrow_and_update().clone();
            println!("at {}, {} behind", now.checkpoint, now.pending);
        }
    });
    runner.run(async { tokio::signal::ctrl_c().await.unwrap_or_default() }).await
}

/// What makes events countable by organization and by user.
fn context(organization: &str, user: &str) -> Context {
    let metadata = [("organizationId", organization), ("userId", user)];
    let metadata = metadata.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
    Context { metadata, ..Context::default() }
}

/// Events of payments that happened in this time, oldest first in the log.
async fn search(
    client: &Client,
    types: &[String],
    from: DateTime<Utc>,
    to: DateTime<Utc>,
) -> annals_client::Result<Vec<Event>> {
    let filter = Filter::new().category("Payment").occurred(from..to);
    let filter = match types {
        [] => filter.types(PAYMENT_EVENTS),
        types => filter.types(types.iter().cloned()),
    };
    client.read_all().filter(filter).collect().await
}

fn print_payment(id: &str, payment: &Payment) {
    let Payment { status, paid, refunded, error } = payment;
    let paid = paid.map_or("nothing".to_owned(), |money| money.to_string());
    print!("{id}: {status:?}, paid {paid}, refunded {refunded} (minor units)");
    println!("{}", error.as_ref().map_or(String::new(), |error| format!(", {error}")));
}

fn print_event(event: &Event) {
    let data = match &event.data {
        annals_client::Data::Text(text) => text,
        _ => "",
    };
    println!("{} {} {} {data}", event.position, event.occurred_at, event.event_type);
}
