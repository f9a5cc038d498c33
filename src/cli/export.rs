//! `annals export`: the log, or what a filter picks of it, as CloudEvents.

use std::{
    fs::{self, File},
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
    time::Instant,
};

use flate2::{Compression, write::GzEncoder};

use super::{
    CliError,
    client::ServerArgs,
    cloud_events,
    filter::FilterArgs,
    import::per_second,
    output::{self, grouped},
};
use crate::wire::proto::v1::{CountRequest, Direction, ReadAllRequest, RecordedEvent};

/// Write events to a file as CloudEvents
///
/// CloudEvents 1.0 in JSON, one a line, in the order of the log; `annals import` makes the same events of
/// them. The stream is `subject`; an event whose metadata names no `source` gets `urn:annals`; tags are
/// `annalstags`, a JSON array in a string; metadata that cannot be an attribute is in
/// `annalsmetadata`, a JSON object in a string; data that is not JSON on one line is in
/// `data_base64`. An existing FILE is replaced, once the export is complete.
#[derive(Debug, clap::Args)]
pub struct ExportArgs {
    /// The file, packed if its name ends in .gz; `-` is stdout
    #[arg(default_value = "-")]
    file: PathBuf,
    /// Begin after this position
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    after: u64,
    /// At most so many events
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
    /// Also events of streams that begin with `$`: the server's own, which cannot be imported, and snapshots of
    /// clients
    #[arg(long)]
    system: bool,
    #[command(flatten)]
    filter: FilterArgs,
    #[command(flatten)]
    server: ServerArgs,
}

pub async fn run(args: ExportArgs) -> Result<(), CliError> {
    let mut queries = args.server.connect().await?.queries();
    let filters = args.filter.into_filters();
    let limit = args.limit.unwrap_or(u64::MAX);
    // Where the export begins later, some are left out, or more is appended while it runs, this is only
    // about right.
    let count = queries.count(CountRequest { filters: filters.clone(), min_position: 0 }).await?;
    let expected = count.into_inner().count.min(limit);

    let request = ReadAllRequest {
        direction: Direction::Forwards.into(),
        after: args.after,
        // What is left out does not count.
        limit: if args.system { args.limit.unwrap_or(0) } else { 0 },
        filters,
        min_position: 0,
    };
    let mut blocks = queries.read_all(request).await?.into_inner();
    let mut target = Target::open(args.file)?;
    let started = Instant::now();
    let bar = output::progress_bar(Some(expected), false);
    let mut written: u64 = 0;
    while written < limit
        && let Some(block) = blocks.message().await?
    {
        let wanted = |event: &&RecordedEvent| args.system || !event.stream.starts_with('$');
        let left = usize::try_from(limit - written).unwrap_or(usize::MAX);
        for event in block.events.iter().filter(wanted).take(left) {
            target.line(&cloud_events::format(event))?;
            written += 1;
        }
        bar.set_position(written);
        bar.set_message(format!(
            "{} events, {}/s",
            grouped(written),
            grouped(per_second(written, started))
        ));
    }
    target.finish()?;
    bar.finish_and_clear();
    eprintln!(
        "{} exported; {:.2} s, {} events/s",
        written,
        started.elapsed().as_secs_f64(),
        per_second(written, started),
    );
    Ok(())
}

/// A file that appears under its name when it is complete, or stdout.
struct Target {
    writer: Writer,
    /// Where it is written, and where it goes. None: it is there already.
    rename: Option<(PathBuf, PathBuf)>,
    path: PathBuf,
    finished: bool,
}

enum Writer {
    Plain(BufWriter<Box<dyn Write>>),
    Gzip(BufWriter<GzEncoder<Box<dyn Write>>>),
}

impl Target {
    fn open(path: PathBuf) -> Result<Self, CliError> {
        if path.as_os_str() == "-" {
            let writer = Writer::plain(Box::new(io::stdout().lock()));
            return Ok(Self { writer, rename: None, path, finished: false });
        }
        // A device or a pipe cannot be replaced by a file.
        let special = fs::metadata(&path).is_ok_and(|metadata| !metadata.is_file());
        let rename = (!special).then(|| (partial(&path), path.clone()));
        let destination = rename.as_ref().map_or(&path, |(partial, _)| partial);
        let file = File::create(destination)
            .map_err(|e| CliError::file(destination.display().to_string(), e))?;
        let packed = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gz"));
        let writer =
            if packed { Writer::gzip(Box::new(file)) } else { Writer::plain(Box::new(file)) };
        Ok(Self { writer, rename, path, finished: false })
    }

    fn line(&mut self, line: &str) -> Result<(), CliError> {
        let result = match &mut self.writer {
            Writer::Plain(writer) => writeln!(writer, "{line}"),
            Writer::Gzip(writer) => writeln!(writer, "{line}"),
        };
        result.map_err(|error| failed(&self.path, error))
    }

    fn finish(mut self) -> Result<(), CliError> {
        let result = match &mut self.writer {
            Writer::Plain(writer) => writer.flush(),
            Writer::Gzip(writer) => writer.flush().and_then(|()| writer.get_mut().try_finish()),
        };
        result
            .and_then(|()| match &self.rename {
                Some((partial, path)) => fs::rename(partial, path),
                None => Ok(()),
            })
            .map_err(|error| failed(&self.path, error))?;
        self.finished = true;
        Ok(())
    }
}

impl Drop for Target {
    /// Half an export is none.
    fn drop(&mut self) {
        if let Some((partial, _)) = self.rename.as_ref().filter(|_| !self.finished) {
            let _ = fs::remove_file(partial);
        }
    }
}

impl Writer {
    fn plain(inner: Box<dyn Write>) -> Self {
        Self::Plain(BufWriter::with_capacity(256 << 10, inner))
    }

    fn gzip(inner: Box<dyn Write>) -> Self {
        Self::Gzip(BufWriter::with_capacity(
            256 << 10,
            GzEncoder::new(inner, Compression::default()),
        ))
    }
}

fn partial(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".partial");
    name.into()
}

/// A closed stdout is the reader's leave to stop.
fn failed(path: &Path, error: io::Error) -> CliError {
    if path.as_os_str() == "-" {
        CliError::Output(error)
    } else {
        CliError::file(path.display().to_string(), error)
    }
}
