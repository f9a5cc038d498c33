//! `annals.v1.AdminService`.

use std::{sync::Arc, time::Instant};

use tonic::{Request, Response, Status};

use super::{
    convert,
    proto::v1::{
        self, CompactRequest, CompactResponse, GetInfoRequest, GetInfoResponse, Memory, Mode,
        admin_service_server,
    },
};
use crate::{
    core::{clock::Timestamp, commit_log::disk::SyncMode, limits::Limits, store::Store},
    service::{subscription::SubscriptionService, upkeep::Compactor},
};

/// The service on the wire.
pub struct Admin {
    pub store: Arc<Store>,
    pub compactor: Compactor,
    pub subscriptions: SubscriptionService,
    pub limits: Limits,
    /// `None`: memory mode.
    pub sync: Option<SyncMode>,
    pub started_at: Timestamp,
    pub started: Instant,
}

#[tonic::async_trait]
impl admin_service_server::AdminService for Admin {
    async fn get_info(
        &self,
        _: Request<GetInfoRequest>,
    ) -> Result<Response<GetInfoResponse>, Status> {
        let history = self.store.history();
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
            memory: Some(memory(&self.store)),
            limits: Some(limits(&self.limits)),
            subscription_count: self.subscriptions.open() as u64,
            sync: match self.sync {
                None => String::new(),
                Some(SyncMode::Always) => "always".to_owned(),
                Some(SyncMode::Interval(interval)) => format!("interval={interval:?}"),
                Some(SyncMode::Never) => "never".to_owned(),
            },
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
        }))
    }
}

fn memory(store: &Store) -> Memory {
    let history = store.history();
    let (segment_bytes, offset_bytes) = history.log.allocated();
    let (in_memory, in_files) = history.log.size();
    let postings = [&history.categories, &history.types, &history.tags];
    Memory {
        segment_bytes: segment_bytes as u64,
        event_bytes: in_memory as u64,
        file_bytes: in_files as u64,
        offset_bytes: offset_bytes as u64,
        event_id_bytes: history.ids.allocated() as u64,
        stream_bytes: history.streams.allocated() as u64,
        posting_bytes: postings.iter().map(|map| map.allocated() as u64).sum(),
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

fn limits(limits: &Limits) -> v1::Limits {
    let narrow = |limit: usize| u32::try_from(limit).unwrap_or(u32::MAX);
    v1::Limits {
        event_bytes_max: limits.event_size_bytes_max as u64,
        commit_bytes_max: limits.commit_size_bytes_max as u64,
        commit_events_max: narrow(limits.commit_events_max),
        stream_name_bytes_max: narrow(limits.stream_name_bytes_max),
        event_type_bytes_max: narrow(limits.event_type_bytes_max),
        metadata_entries_max: narrow(limits.metadata_entries_max),
        tags_max: narrow(limits.tags_max),
    }
}
