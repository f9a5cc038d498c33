//! `annals models watch`: the documents that match, and then what changes.

use serde::Serialize;

use super::{DocumentJson, ModelArgs, document_line, matches::WhereArgs};
use crate::{
    cli::{
        CliError,
        client::ServerArgs,
        output::{self, Output, grouped, printable},
    },
    wire::proto::v1::{DocumentChanges, WatchRequest, watch_response::Message},
};

/// Print the documents that match, and then each that changes, begins to match or stops to
///
/// `+` stands before a document as it is now, `-` before the key of one that does not match any more. Ends with
/// Ctrl-C, or when the connection does.
#[derive(Debug, clap::Args)]
pub struct WatchArgs {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    matches: WhereArgs,
    /// Wait until the model has come to this position before the first result is printed
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    min_position: u64,
    /// Print one JSON object a line, one for each message
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

/// A message, by the names of the protocol's JSON.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
enum MessageJson<'a> {
    #[serde(rename_all = "camelCase")]
    Changes {
        upserts: Vec<DocumentJson<'a>>,
        removed_keys: &'a [String],
    },
    CaughtUp {
        checkpoint: u64,
        version: u32,
    },
    Reset {
        version: u32,
    },
}

struct Watch {
    json: bool,
    out: Output,
    /// How many documents of the first result have come; none once that is whole.
    first: Option<u64>,
}

pub async fn run(args: WatchArgs) -> Result<(), CliError> {
    let request = WatchRequest {
        model: args.model.model,
        version: args.model.version,
        matches: args.matches.matches,
        min_position: args.min_position,
        heartbeat_interval: None,
    };
    let mut messages = args.server.connect().await?.models().watch(request).await?.into_inner();
    let mut watch = Watch { json: args.json, out: Output::stdout(), first: Some(0) };
    let follow = async {
        while let Some(message) = messages.message().await? {
            if let Some(message) = message.message {
                watch.print(&message)?;
            }
        }
        Err(CliError::ConnectionLost("the server ended the watch".to_owned()))
    };
    tokio::select! {
        result = follow => result,
        () = output::stdout_closed() => Ok(()),
        _ = tokio::signal::ctrl_c() => Ok(()),
    }
}

impl Watch {
    fn print(&mut self, message: &Message) -> Result<(), CliError> {
        match message {
            Message::Changes(changes) => {
                if let Some(first) = &mut self.first {
                    *first += changes.upserts.len() as u64;
                }
                self.changes(changes)?;
            }
            Message::CaughtUp(caught_up) => {
                let (checkpoint, version) = (caught_up.checkpoint, caught_up.version);
                if self.json {
                    self.out.json(&MessageJson::CaughtUp { checkpoint, version })?;
                }
                self.out.flush()?;
                if let Some(first) = self.first.take() {
                    let documents = grouped(first);
                    output::note(&format!(
                        "version {version} at checkpoint {checkpoint}: {documents} documents match"
                    ));
                }
            }
            Message::Reset(reset) => {
                let version = reset.version;
                if self.json {
                    self.out.json(&MessageJson::Reset { version })?;
                }
                self.out.flush()?;
                output::note(&format!("the result of version {version} comes from its beginning"));
                self.first = Some(0);
            }
            Message::Heartbeat(_) => {}
        }
        Ok(())
    }

    fn changes(&mut self, changes: &DocumentChanges) -> Result<(), CliError> {
        let DocumentChanges { upserts, removed_keys } = changes;
        if self.json {
            let upserts = upserts.iter().map(DocumentJson::of).collect::<Result<_, _>>()?;
            self.out.json(&MessageJson::Changes { upserts, removed_keys })?;
            return Ok(self.out.flush()?);
        }
        for document in upserts {
            self.out.line(|palette| format!("+ {}", document_line(document, palette)))?;
        }
        for key in removed_keys {
            self.out.line(|palette| {
                let dim = palette.dim;
                format!("{dim}- {:>8}  {}{dim:#}", "", printable(key))
            })?;
        }
        Ok(self.out.flush()?)
    }
}
