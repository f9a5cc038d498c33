//! Any bytes, with a checksum that fits, as written indexes: read back or refused, and what is read back
//! can be asked.
#![no_main]

use annals::core::{commit_log::disk::snapshot, index::shared_ids::Candidates, position::Position};
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let mut file = b"ANNLIDX2".to_vec();
    file.extend_from_slice(bytes);
    file.extend_from_slice(&crc32c::crc32c(&file).to_le_bytes());
    let Ok(indexes) = snapshot::read(&Bytes::from(file)) else { return };
    for map in [&indexes.streams, &indexes.categories, &indexes.types, &indexes.tags] {
        for name in map.names() {
            let positions = map.get(name.as_str()).expect("it is listed");
            let count = positions.up_to(Position::MAX).count() as u64;
            assert!(count > 0);
            assert_eq!(positions.count(indexes.head), count);
        }
    }
    let (streams, times) = (indexes.columns.streams.view(), indexes.columns.occurred.view());
    for position in (1..=indexes.head.get()).take(100_000).map(Position::new) {
        assert!(streams.get(position) <= indexes.streams.code_max());
        if let (Some(second), Some((min, max))) = (times.get(position), times.span_micros(position)) {
            std::hint::black_box((second, min, max));
        }
    }
    for id in ["", "a", "correlation-1"] {
        for ids in [&indexes.correlations, &indexes.causations] {
            if let Candidates::Few(few) = ids.candidates(id, indexes.head, Position::new(1)) {
                assert!(few.is_sorted() && few.len() < 15);
            }
        }
    }
});
