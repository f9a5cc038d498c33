//! Any bytes as the blocks of a compressed segment, with checksums that fit: unpacked or refused; and any
//! bytes as the whole file.
#![no_main]

use annals::core::{
    log::{format, packing},
    position::Position,
};
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    // Codec, size, length, content, again and again.
    let mut file = format::header(Position::new(1), Some(&[7; 32]));
    let header = file.len();
    let mut rest = bytes;
    while let Some(([codec, low, high, length], more)) = rest.split_first_chunk() {
        let (content, more) = more.split_at((*length as usize).min(more.len()));
        let size = usize::from(u16::from_le_bytes([*low, *high]));
        packing::put_packed(&mut file, (*codec % 4).into(), size, content);
        rest = more;
    }
    if let Ok(plain) = packing::unpack(&Bytes::from(file.clone())) {
        assert_eq!(plain[..header], file[..header]);
    }
    file.truncate(header);
    file.extend_from_slice(bytes);
    let _ = packing::unpack(&Bytes::from(file));
});
