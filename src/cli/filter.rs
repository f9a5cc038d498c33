//! The options that say which events, for every command that reads the log.

use crate::wire::proto::v1::Filter;

const HEADING: &str = "Which events";

/// Different options must all match; of one option's values any.
#[derive(Debug, clap::Args)]
pub struct FilterArgs {
    /// Events of this category's streams; may be repeated
    #[arg(help_heading = HEADING, long, value_name = "CATEGORY")]
    category: Vec<String>,
    /// Events of this type; may be repeated
    #[arg(help_heading = HEADING, long = "type", value_name = "TYPE")]
    types: Vec<String>,
    /// Events with this tag; of several tags any
    #[arg(help_heading = HEADING, long, value_name = "TAG")]
    tag: Vec<String>,
    /// Events with this tag; of several tags all
    #[arg(help_heading = HEADING, long, value_name = "TAG")]
    tag_all: Vec<String>,
    /// Events of this stream; may be repeated
    #[arg(help_heading = HEADING, long, value_name = "STREAM")]
    in_stream: Vec<String>,
}

impl FilterArgs {
    /// Nothing where every event is asked for.
    pub fn into_filters(self) -> Vec<Filter> {
        let filter = Filter {
            streams: self.in_stream,
            categories: self.category,
            types: self.types,
            tags: self.tag,
            tags_all: self.tag_all,
            ..Filter::default()
        };
        if filter == Filter::default() { Vec::new() } else { vec![filter] }
    }
}
