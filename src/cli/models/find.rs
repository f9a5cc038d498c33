//! `annals models find`: documents by what their indexed fields say.

use super::{DocumentJson, ModelArgs, document_line, matches::WhereArgs};
use crate::{
    cli::{
        CliError,
        client::ServerArgs,
        output::{self, Output, grouped},
    },
    wire::proto::v1::FindRequest,
};

const PAGE_SIZE_MAX: u64 = 1000;

/// Find documents by what their indexed fields say
///
/// Prints the position of its last change, the key, and the document. What no index of the model answers is
/// refused: `annals models show MODEL` tells which it has.
#[derive(Debug, clap::Args)]
pub struct FindArgs {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    matches: WhereArgs,
    /// In the order of this field's values, such as amount [default: of the index that answers]
    #[arg(long, value_name = "FIELD", default_value = "", hide_default_value = true)]
    order_by: String,
    /// The other way round
    #[arg(long)]
    descending: bool,
    /// At most so many documents
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
    /// Wait until the model has come to this position
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    min_position: u64,
    /// Print one JSON object a line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

pub async fn run(args: FindArgs) -> Result<(), CliError> {
    let mut client = args.server.connect().await?.models();
    let mut out = Output::stdout();
    let mut left = args.limit.unwrap_or(u64::MAX);
    let mut request = FindRequest {
        model: args.model.model,
        version: args.model.version,
        matches: args.matches.matches,
        order_by: args.order_by,
        descending: args.descending,
        page_size: 0,
        page_token: String::new(),
        min_position: args.min_position,
    };
    loop {
        request.page_size = u32::try_from(left.min(PAGE_SIZE_MAX)).unwrap_or(u32::MAX);
        let page = client.find(request.clone()).await?.into_inner();
        for document in &page.documents {
            if args.json {
                out.json(&DocumentJson::of(document)?)?;
            } else {
                out.line(|palette| document_line(document, palette))?;
            }
        }
        left = left.saturating_sub(page.documents.len() as u64);
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            return Ok(out.flush()?);
        }
        if left == 0 {
            out.flush()?;
            let limit = args.limit.unwrap_or_default();
            output::note(&format!("the first {}; there are more", grouped(limit)));
            return Ok(());
        }
    }
}
