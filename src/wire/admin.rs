//! `annals.v1.AdminService`.

use std::{sync::Arc, time::Instant};

use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use super::{
    Answers,
    analytics::Kept,
    answers,
    convert::{self, InvalidRequest},
    proto::v1::{
        self, BackupBegin, BackupFile, BackupRequest, BackupResponse, CompactRequest,
        CompactResponse, GetInfoRequest, GetInfoResponse, Memory, Mode, VerifyProgress,
        VerifyRequest, VerifyResponse, VerifyResult, admin_service_server, backup_response,
        verify_response,
    },
};
use crate::{
    core::{
        clock::Timestamp,
        commit_log::disk::SyncMode,
        limits::Limits,
        log::{chain::Chain, packing},
        position::Position,
        store::Store,
    },
    service::{
        backup::{self, Backup},
        cache::{CacheFacts, QueryCache},
        places::Places,
        upkeep::Compactor,
        verify::{Progress, Verification, Verified},
    },
};

/// What the server takes at once, and has taken.
#[derive(Clone)]
pub struct Load {
    pub connections: Places,
    pub calls: Places,
    pub limits: LoadLimits,
}

/// The limits that are counted elsewhere.
#[derive(Clone, Copy)]
pub struct LoadLimits {
    pub request_bytes_max: usize,
    pub requests_bytes_max: usize,
    pub append_queue_max: usize,
    pub append_queue_bytes_max: usize,
}

/// The service on the wire.
pub struct Admin {
    pub store: Arc<Store>,
    pub compactor: Compactor,
    pub places: Places,
    pub load: Load,
    pub cache: Arc<QueryCache<Kept>>,
    pub limits: Limits,
    /// `None`: memory mode.
    pub sync: Option<SyncMode>,
    pub started_at: Timestamp,
    pub started: Instant,
    pub stop: CancellationToken,
}

#[tonic::async_trait]
impl admin_service_server::AdminService for Admin {
    async fn get_info(
        &self,
        _: Request<GetInfoRequest>,
    ) -> Result<Response<GetInfoResponse>, Status> {
        let (history, cached) = (self.store.history(), self.cache.facts());
        let uptime = prost_types::Duration::try_from(self.started.elapsed()).unwrap_or_default();
        Ok(Response::new(GetInfoResponse {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            mode: if self.sync.is_some() { Mode::Durable } else { Mode::Memory }.into(),
            started_at: Some(convert::timestamp(self.started_at)),
            uptime: Some(uptime),
            head: history.log.watermark().get().get(),
            first_position: history.log.first().get(),
            stream_count: history.streams.len() as u64,
            category_count: history.categories.len() as u64,
            event_type_count: history.types.len() as u64,
            tag_count: history.tags.len() as u64,
            memory: Some(memory(&self.store, &cached)),
            limits: Some(self.limits()),
            subscription_count: self.places.open() as u64,
            sync: match self.sync {
                None => String::new(),
                Some(SyncMode::Always) => "always".to_owned(),
                Some(SyncMode::Interval(interval)) => format!("interval={interval:?}"),
                Some(SyncMode::Never) => "never".to_owned(),
            },
            query_cache: Some(query_cache(&cached)),
            indexed_metadata_keys: history
                .metadata
                .iter()
                .map(|index| index.key.to_string())
                .collect(),
            connection_count: self.load.connections.open() as u64,
            call_count: self.load.calls.open() as u64,
        }))
    }

    async fn compact(
        &self,
        _: Request<CompactRequest>,
    ) -> Result<Response<CompactResponse>, Status> {
        let removed = self.compactor.compact().await?;
        Ok(Response::new(CompactResponse {
            segment_count: removed.segments,
            event_count: removed.events,
            freed_bytes: removed.bytes,
            freed_index_bytes: removed.index_bytes,
        }))
    }

    type VerifyStream = Answers<VerifyResponse>;

    async fn verify(
        &self,
        request: Request<VerifyRequest>,
    ) -> Result<Response<Self::VerifyStream>, Status> {
        let VerifyRequest { position, expected_hash } = request.into_inner();
        let not_a_hash = || InvalidRequest::one("expected_hash", "must be 64 hexadecimal digits");
        let expected = match expected_hash.as_str() {
            "" => None,
            text => Some(Chain::parse(text).ok_or_else(not_a_hash)?),
        };
        let (history, stop) = (self.store.history(), self.stop.clone());
        let verification = Verification::begin(history, Position::new(position), expected, stop)?;
        Ok(Response::new(answers(Some(verification), |verification| async move {
            match verification?.next().await {
                Ok((progress, rest)) => Some((Ok(progress.into()), rest)),
                Err(error) => Some((Err(error.into()), None)),
            }
        })))
    }

    type BackupStream = Answers<BackupResponse>;

    async fn backup(
        &self,
        _: Request<BackupRequest>,
    ) -> Result<Response<Self::BackupStream>, Status> {
        let backup = Backup::begin(self.store.history(), self.stop.clone())?;
        Ok(Response::new(answers(Some(backup), |backup| async move {
            match backup?.next().await.transpose()? {
                Ok((message, rest)) => Some((Ok(message.into()), Some(rest))),
                Err(error) => Some((Err(error.into()), None)),
            }
        })))
    }
}

impl From<Progress> for VerifyResponse {
    fn from(progress: Progress) -> Self {
        let message = match progress {
            Progress::Going { position, head, checked_bytes, total_bytes } => {
                verify_response::Message::Progress(VerifyProgress {
                    position: position.get(),
                    head: head.get(),
                    checked_bytes,
                    total_bytes,
                })
            }
            Progress::Done(verified) => verify_response::Message::Result(verified.into()),
        };
        Self { message: Some(message) }
    }
}

impl From<Verified> for VerifyResult {
    fn from(verified: Verified) -> Self {
        let Verified { head, tally, chain, noted: (position, noted) } = verified;
        let digits = |chain: Option<Chain>| chain.map_or(String::new(), |chain| chain.to_string());
        Self {
            head: head.get(),
            event_count: tally.events,
            removed_count: tally.removed,
            segment_count: tally.segments,
            checked_bytes: tally.bytes,
            head_hash: digits(chain),
            position: position.get(),
            hash: digits(noted),
        }
    }
}

impl From<backup::Message> for BackupResponse {
    fn from(message: backup::Message) -> Self {
        use backup_response::Message as Sent;
        let message = match message {
            backup::Message::Begin { head, total_bytes } => {
                Sent::Begin(BackupBegin { head: head.get(), total_bytes })
            }
            backup::Message::File { name, size } => {
                Sent::File(BackupFile { name, size_bytes: size })
            }
            backup::Message::Piece(content) => Sent::Content(content),
            backup::Message::Done(verified) => Sent::Result(verified.into()),
        };
        Self { message: Some(message) }
    }
}

fn query_cache(facts: &CacheFacts) -> v1::QueryCache {
    v1::QueryCache {
        hit_count: facts.hits,
        miss_count: facts.misses,
        entry_count: facts.entries,
        saved_time: prost_types::Duration::try_from(facts.saved).ok(),
    }
}

fn memory(store: &Store, cached: &CacheFacts) -> Memory {
    let history = store.history();
    let (segment_bytes, offset_bytes) = history.log.allocated();
    let (in_memory, in_files) = history.log.size();
    let metadata = history.metadata.iter().map(|index| index.values.allocated() as u64);
    Memory {
        segment_bytes: segment_bytes as u64,
        event_bytes: in_memory as u64,
        file_bytes: in_files as u64,
        unpacked_bytes: packing::cache_size(),
        offset_bytes: offset_bytes as u64,
        event_id_bytes: history.ids.allocated() as u64,
        stream_bytes: history.streams.allocated() as u64,
        category_bytes: history.categories.allocated() as u64,
        type_bytes: history.types.allocated() as u64,
        tag_bytes: history.tags.allocated() as u64,
        correlation_bytes: history.correlations.allocated() as u64,
        causation_bytes: history.causations.allocated() as u64,
        metadata_bytes: metadata.sum(),
        column_bytes: history.columns_allocated() as u64,
        retention_bytes: history.retention.allocated() as u64,
        query_cache_bytes: cached.bytes,
        resident_bytes: resident_bytes().unwrap_or(0),
    }
}

/// The resident set, where the operating system tells it as Linux does: in KiB, in `VmRSS` of
/// /proc/self/status (`proc_pid_status(5)`).
fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

impl Admin {
    fn limits(&self) -> v1::Limits {
        let narrow = |limit: usize| u32::try_from(limit).unwrap_or(u32::MAX);
        let (limits, load) = (&self.limits, &self.load);
        v1::Limits {
            event_bytes_max: limits.event_size_bytes_max as u64,
            commit_bytes_max: limits.commit_size_bytes_max as u64,
            commit_events_max: narrow(limits.commit_events_max),
            stream_name_bytes_max: narrow(limits.stream_name_bytes_max),
            event_type_bytes_max: narrow(limits.event_type_bytes_max),
            metadata_entries_max: narrow(limits.metadata_entries_max),
            tags_max: narrow(limits.tags_max),
            request_bytes_max: load.limits.request_bytes_max as u64,
            requests_bytes_max: load.limits.requests_bytes_max as u64,
            connections_max: narrow(load.connections.limit()),
            calls_max: narrow(load.calls.limit()),
            append_queue_max: narrow(load.limits.append_queue_max),
            append_queue_bytes_max: load.limits.append_queue_bytes_max as u64,
            subscriptions_max: narrow(self.places.limit()),
        }
    }
}
