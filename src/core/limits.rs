//! What one event, one commit and one name may measure.

/// The limits of a server, each settable down and, up to the hard bounds, up. Sizes are bytes as
/// recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// One event as recorded, with its names and metadata: 4 MiB.
    pub event_size_bytes_max: usize,
    /// The events of one commit as recorded: 16 MiB.
    pub commit_size_bytes_max: usize,
    /// Events in one commit: 10 000.
    pub commit_events_max: usize,
    /// A stream's name: 512 bytes.
    pub stream_name_bytes_max: usize,
    /// An event's type: 256 bytes.
    pub event_type_bytes_max: usize,
    /// Metadata entries of one event: 64.
    pub metadata_entries_max: usize,
    /// Tags of one event: 64.
    pub tags_max: usize,
}

impl Limits {
    /// What no option can exceed: a segment holds any commit, and a name fits a URL.
    pub const HARD: Self = Self {
        event_size_bytes_max: 16 << 20,
        commit_size_bytes_max: 16 << 20,
        commit_events_max: 10_000,
        stream_name_bytes_max: 2048,
        event_type_bytes_max: 1024,
        metadata_entries_max: 1024,
        tags_max: 1024,
    };
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            event_size_bytes_max: 4 << 20,
            commit_size_bytes_max: 16 << 20,
            commit_events_max: 10_000,
            stream_name_bytes_max: 512,
            event_type_bytes_max: 256,
            metadata_entries_max: 64,
            tags_max: 64,
        }
    }
}
