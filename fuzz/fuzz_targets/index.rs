//! Any bytes, with a checksum that fits, as written indexes: read back or refused, and what is read back
//! can be asked.
#![no_main]

use annals::core::{commit_log::disk::snapshot, position::Position};
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let mut file = b"ANNLIDX1".to_vec();
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
});
