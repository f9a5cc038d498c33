//! `annals groups`: consumer groups, whose position and events in flight the server keeps.
//!
//! Taking a group's events is `annals tail --group`: consumer.rs.

mod parked;
mod settings;
mod show;

use serde_json::json;

use super::{
    CliError,
    client::ServerArgs,
    filter_text::filters_line,
    output::{Output, grouped, printable},
    subscriptions::behind,
    table::{Column, Table},
};
use crate::wire::proto::v1::{
    DeleteGroupRequest, GetGroupRequest, GroupInfo, ListGroupsRequest, SetGroupPositionRequest,
    set_group_position_request::Target,
};

const PAGE_SIZE_MAX: u32 = 1000;

const COLUMNS: [Column; 10] = [
    Column::Text("group", 36),
    Column::Text("strategy", 22),
    Column::Number("position"),
    Column::Number("behind"),
    Column::Number("in flight"),
    Column::Number("retry"),
    Column::Number("parked"),
    Column::Number("consumers"),
    Column::Text("filter", 48),
    Column::Text("last error", 80),
];

/// List and manage consumer groups, which share events among consumers
///
/// A group's position and the events that its consumers have are kept by the server. Its events come with
/// `annals tail --group GROUP`.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct GroupsArgs {
    #[command(subcommand)]
    command: Option<GroupsCommand>,
    #[command(flatten)]
    list: ListArgs,
}

#[derive(Debug, clap::Subcommand)]
enum GroupsCommand {
    List(ListArgs),
    Show(ShowArgs),
    Create(Box<settings::CreateArgs>),
    Update(Box<settings::UpdateArgs>),
    Delete(DeleteArgs),
    Move(MoveArgs),
    Parked(parked::ParkedArgs),
    Replay(parked::ReplayArgs),
    Drop(parked::DropArgs),
}

/// List the groups, which is what `annals groups` does, too
#[derive(Debug, clap::Args)]
struct ListArgs {
    /// Print one JSON object a line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

/// Show a group: its settings, where it is, and who takes its events
#[derive(Debug, clap::Args)]
struct ShowArgs {
    /// The group
    group: String,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

/// End a group, its position and its list of parked events; the events themselves stay
#[derive(Debug, clap::Args)]
struct DeleteArgs {
    /// The group
    group: String,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

/// Move a group: back, on, or past exactly one event
#[derive(Debug, clap::Args)]
struct MoveArgs {
    /// The group
    group: String,
    /// The position that the group must have to be moved; `annals groups show` tells it
    #[arg(long, value_name = "N")]
    expected_position: u64,
    #[command(flatten)]
    target: TargetArgs,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct TargetArgs {
    /// Go on after this position: what lies behind it comes, again if need be
    #[arg(long, value_name = "N")]
    after: Option<u64>,
    /// Count the event at this position as handled; it must not be settled yet
    #[arg(long, value_name = "POSITION")]
    skip: Option<u64>,
}

pub async fn run(args: GroupsArgs) -> Result<(), CliError> {
    match args.command {
        None => list(args.list).await,
        Some(GroupsCommand::List(args)) => list(args).await,
        Some(GroupsCommand::Show(args)) => show(args).await,
        Some(GroupsCommand::Create(args)) => settings::create(*args).await,
        Some(GroupsCommand::Update(args)) => settings::update(*args).await,
        Some(GroupsCommand::Delete(args)) => delete(args).await,
        Some(GroupsCommand::Move(args)) => move_to(args).await,
        Some(GroupsCommand::Parked(args)) => parked::list(args).await,
        Some(GroupsCommand::Replay(args)) => parked::replay(args).await,
        Some(GroupsCommand::Drop(args)) => parked::drop_parked(args).await,
    }
}

async fn list(args: ListArgs) -> Result<(), CliError> {
    let mut client = args.server.connect().await?.subscriptions();
    let mut out = Output::stdout();
    let mut rows = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = ListGroupsRequest { page_size: PAGE_SIZE_MAX, page_token };
        let page = client.list_groups(request).await?.into_inner();
        for group in &page.groups {
            if args.json {
                out.json(&show::group_json(group))?;
            } else {
                rows.push(row(group));
            }
        }
        page_token = page.next_page_token;
        if page_token.is_empty() {
            Table::new(COLUMNS).print(rows, &mut out)?;
            return Ok(out.flush()?);
        }
    }
}

fn row(group: &GroupInfo) -> [String; 10] {
    [
        group.group.clone(),
        settings::strategy_name(group.settings.unwrap_or_default().strategy()).to_owned(),
        group.position.to_string(),
        behind(group.events_behind, group.time_behind.as_ref()),
        grouped(group.in_flight_count),
        grouped(group.retry_count),
        grouped(group.parked_count),
        grouped(group.consumer_count),
        filters_line(&group.filters),
        group.last_error.clone(),
    ]
}

async fn show(args: ShowArgs) -> Result<(), CliError> {
    let request = GetGroupRequest { group: args.group };
    let answer = args.server.connect().await?.subscriptions().get_group(request).await?;
    let answer = answer.into_inner();
    let mut out = Output::stdout();
    if args.json {
        out.json(&show::to_json(&answer))?;
    } else {
        show::print(&answer, &mut out)?;
    }
    Ok(out.flush()?)
}

async fn delete(args: DeleteArgs) -> Result<(), CliError> {
    let DeleteArgs { group, json, server } = args;
    let request = DeleteGroupRequest { group: group.clone() };
    server.connect().await?.subscriptions().delete_group(request).await?;
    let mut out = Output::stdout();
    if json {
        out.json(&json!({ "group": group }))?;
    } else {
        out.line(|_| format!("deleted {}", printable(&group)))?;
    }
    Ok(out.flush()?)
}

async fn move_to(args: MoveArgs) -> Result<(), CliError> {
    let MoveArgs { group, expected_position, target, json, server } = args;
    let target = target.after.map(Target::After).or(target.skip.map(Target::Skip));
    let request = SetGroupPositionRequest { group: group.clone(), expected_position, target };
    let answer = server.connect().await?.subscriptions().set_group_position(request).await?;
    let position = answer.into_inner().position;
    let mut out = Output::stdout();
    if json {
        out.json(&json!({ "position": position }))?;
    } else {
        out.line(|_| format!("{} goes on after position {position}", printable(&group)))?;
    }
    Ok(out.flush()?)
}
