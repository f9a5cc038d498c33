//! Sealed segments, compressed in blocks that are unpacked as they are read.
//!
//! ```text
//! plain    header  commit commit commit …        offsets count from here, packed or not
//! packed   header  [block: 64 KiB or a little more of whole commits]  [block] …
//! ```
//!
//! No commit lies in two blocks, so a record, and a slice between two records, lies in one. What was
//! unpacked is kept in a cache that all segments of the process share, and that is bounded.

use std::sync::{
    LazyLock,
    atomic::{AtomicU64, Ordering},
};

use bytes::Bytes;
use quick_cache::{Weighter, sync::Cache};

use super::{
    format::{self, FormatError, PACKED_TAG},
    protobuf::{FIXED32, LENGTH, VARINT, Value, put_varint, tag, take_field},
};

/// A block ends with the commit that brings it to this size.
const BLOCK_SIZE_BYTES: usize = 64 << 10;
/// No block is larger when unpacked: the largest commit, and a block that was almost full.
pub const UNPACKED_SIZE_BYTES_MAX: usize = 24 << 20;
/// So much of what was unpacked is kept.
const CACHE_SIZE_BYTES: u64 = 64 << 20;
/// zstd's own default: a higher level gains little on events and costs a multiple.
const ZSTD_LEVEL: i32 = 3;

/// How blocks are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Codec {
    /// Fast both ways.
    Lz4,
    /// Smaller, and slower.
    Zstd,
}

impl Codec {
    /// Its number in the format.
    pub fn number(self) -> u64 {
        match self {
            Self::Lz4 => 1,
            Self::Zstd => 2,
        }
    }

    /// The one that has the number.
    pub fn of(number: u64) -> Option<Self> {
        [Self::Lz4, Self::Zstd].into_iter().find(|codec| codec.number() == number)
    }

    fn pack(self, plain: &[u8]) -> Vec<u8> {
        match self {
            Self::Lz4 => lz4_flex::block::compress(plain),
            Self::Zstd => zstd::bulk::compress(plain, ZSTD_LEVEL).expect("memory is all it needs"),
        }
    }

    fn unpack(self, packed: &[u8], size: usize) -> Option<Vec<u8>> {
        let plain = match self {
            Self::Lz4 => lz4_flex::block::decompress(packed, size).ok()?,
            Self::Zstd => zstd::bulk::decompress(packed, size).ok()?,
        };
        (plain.len() == size).then_some(plain)
    }
}

#[derive(Clone)]
struct Size;

impl Weighter<(u64, u32), Bytes> for Size {
    fn weight(&self, _: &(u64, u32), bytes: &Bytes) -> u64 {
        bytes.len() as u64
    }
}

/// Blocks that were unpacked, by segment and number.
static UNPACKED: LazyLock<Cache<(u64, u32), Bytes, Size>> = LazyLock::new(|| {
    let blocks = usize::try_from(CACHE_SIZE_BYTES).expect("it fits") / BLOCK_SIZE_BYTES;
    Cache::with_weighter(blocks, CACHE_SIZE_BYTES, Size)
});
static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// Where a block is, in the plain segment and in the packed one.
struct Block {
    plain_start: u32,
    plain_end: u32,
    start: u32,
    end: u32,
    codec: Codec,
}

/// A segment's packed bytes.
pub struct Packed {
    /// Tells its blocks from those of all others in the cache.
    id: u64,
    bytes: Bytes,
    blocks: Box<[Block]>,
}

impl Packed {
    /// Packs a segment, header and commits; `None` if it would not be smaller.
    pub fn pack(codec: Codec, plain: &[u8]) -> Option<Vec<u8>> {
        let header = format::read_header(plain)?;
        let mut out = plain[..header.size].to_vec();
        let (mut start, mut end) = (header.size, header.size);
        while start < plain.len() {
            // Whole fields, up to the first seal behind the size.
            loop {
                let seal = plain[end] == format::SEAL_TAG;
                end += format::field_size(&plain[end..]);
                if end == plain.len() || seal && end - start >= BLOCK_SIZE_BYTES {
                    break;
                }
            }
            let block = &plain[start..end];
            let content = codec.pack(block);
            put_packed(&mut out, codec.number(), block.len(), &content);
            start = end;
        }
        (out.len() < plain.len()).then_some(out)
    }

    /// The blocks of a packed segment, header and all; `each` is given each block's plain bytes and where
    /// they begin in the plain segment. Takes any bytes. The error says where.
    pub fn open(
        bytes: Bytes,
        header_size: usize,
        mut each: impl FnMut(usize, &[u8]) -> Result<(), (usize, FormatError)>,
    ) -> Result<Self, (usize, FormatError)> {
        let mut blocks = Vec::new();
        let (mut at, mut plain_start) = (header_size, header_size);
        while at < bytes.len() {
            let failed = |error| (at, error);
            let PackedBlock { codec, size, content, field_size } =
                read_packed(&bytes[at..]).map_err(failed)?;
            let codec = Codec::of(codec).ok_or((at, FormatError::Packed))?;
            if size > UNPACKED_SIZE_BYTES_MAX {
                return Err((at, FormatError::Packed));
            }
            let plain = codec.unpack(content, size).ok_or((at, FormatError::Packed))?;
            each(plain_start, &plain).map_err(|(_, error)| (at, error))?;
            let narrow = |at: usize| u32::try_from(at).map_err(|_| failed(FormatError::Packed));
            // The content is the last field.
            let content_end = at + field_size;
            blocks.push(Block {
                plain_start: narrow(plain_start)?,
                plain_end: narrow(plain_start + size)?,
                start: narrow(content_end - content.len())?,
                end: narrow(content_end)?,
                codec,
            });
            at += field_size;
            plain_start += size;
        }
        // Relaxed: it only gives out numbers.
        let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        Ok(Self { id, bytes, blocks: blocks.into_boxed_slice() })
    }

    /// The packed bytes.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The plain bytes from `offset` to the end of its block.
    pub fn from(&self, offset: usize) -> Bytes {
        let after = self.blocks.partition_point(|block| block.plain_start as usize <= offset);
        let index = after.checked_sub(1).expect("the header is never asked for");
        let start = self.blocks[index].plain_start as usize;
        let key = (self.id, u32::try_from(index).expect("blocks are few"));
        let plain = UNPACKED.get_or_insert_with(&key, || Ok::<_, ()>(self.unpack(index)));
        plain.expect("it was checked").slice(offset - start..)
    }

    /// Where the block of the plain byte at `offset` ends.
    pub fn block_end(&self, offset: usize) -> usize {
        let after = self.blocks.partition_point(|block| block.plain_start as usize <= offset);
        self.blocks[after - 1].plain_end as usize
    }

    /// The whole segment, plain, checked once more. Nothing of it is kept in the cache.
    pub fn plain(&self) -> Result<Bytes, (usize, FormatError)> {
        unpack(&self.bytes)
    }

    /// How many bytes the plain segment has.
    pub fn plain_size(&self) -> usize {
        self.blocks.last().map_or(self.bytes.len(), |block| block.plain_end as usize)
    }

    fn unpack(&self, index: usize) -> Bytes {
        let Block { plain_start, plain_end, start, end, codec } = self.blocks[index];
        let size = (plain_end - plain_start) as usize;
        let plain = codec.unpack(&self.bytes[start as usize..end as usize], size);
        Bytes::from(plain.expect("it was checked"))
    }

    /// Memory that its blocks' places take.
    pub fn allocated(&self) -> usize {
        size_of_val(&*self.blocks)
    }
}

impl Drop for Packed {
    fn drop(&mut self) {
        // Nobody asks for them any more; the numbers are never given out again.
        for index in 0..self.blocks.len() {
            UNPACKED.remove(&(self.id, u32::try_from(index).expect("blocks are few")));
        }
    }
}

/// A segment's bytes, plain: as they are if they are not packed. Takes any bytes. The error says where.
pub fn unpack(bytes: &Bytes) -> Result<Bytes, (usize, FormatError)> {
    if !is_packed(bytes) {
        return Ok(bytes.clone());
    }
    let (plain, fault) = unpack_what_is_good(bytes);
    fault.map_or(Ok(plain), Err)
}

/// The same, up to the first block that cannot be unpacked: where that is and why.
pub fn unpack_what_is_good(bytes: &Bytes) -> (Bytes, Option<(usize, FormatError)>) {
    let header = format::read_header(bytes).filter(|_| is_packed(bytes));
    let Some(header) = header else { return (bytes.clone(), None) };
    let mut plain = bytes[..header.size].to_vec();
    let opened = Packed::open(bytes.clone(), header.size, |_, block| {
        plain.extend_from_slice(block);
        Ok(())
    });
    (Bytes::from(plain), opened.err())
}

/// Whether a segment's bytes are packed.
pub fn is_packed(bytes: &[u8]) -> bool {
    format::read_header(bytes)
        .is_some_and(|header| bytes.get(header.size) == Some(&format::PACKED_TAG))
}

/// How much of what was unpacked is kept now, bytes.
pub fn cache_size() -> u64 {
    UNPACKED.weight()
}

/// Appends a block of a packed segment: `size` bytes when unpacked, packed to `content`.
pub fn put_packed(out: &mut Vec<u8>, codec: u64, size: usize, content: &[u8]) {
    let mut inner = Vec::with_capacity(24);
    inner.push(tag(1, VARINT));
    put_varint(&mut inner, codec);
    inner.push(tag(2, VARINT));
    put_varint(&mut inner, size as u64);
    inner.push(tag(3, FIXED32));
    inner.extend_from_slice(&crc32c::crc32c(content).to_le_bytes());
    inner.push(tag(4, LENGTH));
    put_varint(&mut inner, content.len() as u64);
    out.push(PACKED_TAG);
    put_varint(out, (inner.len() + content.len()) as u64);
    out.extend_from_slice(&inner);
    out.extend_from_slice(content);
}

/// A block of a packed segment.
pub struct PackedBlock<'a> {
    pub codec: u64,
    /// Bytes when unpacked.
    pub size: usize,
    pub content: &'a [u8],
    /// How many bytes all of it takes in the segment.
    pub field_size: usize,
}

/// The block at the start of `bytes`, its checksum checked.
pub fn read_packed(bytes: &[u8]) -> Result<PackedBlock<'_>, FormatError> {
    let mut rest = bytes;
    let Some((5, Value::Bytes(mut block))) = take_field(&mut rest)? else {
        return Err(FormatError::Tag);
    };
    let field_size = bytes.len() - rest.len();
    let mut next = || take_field(&mut block)?.ok_or(FormatError::Packed);
    // In this order and nothing else: each bit is looked at.
    let (
        (1, Value::Number(codec)),
        (2, Value::Number(size)),
        (3, Value::Fixed(checksum)),
        (4, Value::Bytes(content)),
    ) = (next()?, next()?, next()?, next()?)
    else {
        return Err(FormatError::Packed);
    };
    let size = usize::try_from(size).map_err(|_| FormatError::Packed)?;
    let whole = block.is_empty() && checksum == crc32c::crc32c(content).to_le_bytes();
    if whole {
        Ok(PackedBlock { codec, size, content, field_size })
    } else {
        Err(FormatError::Packed)
    }
}

#[cfg(all(test, not(any(feature = "loom", feature = "shuttle"))))]
mod tests {
    use std::sync::Arc;

    use uuid::Uuid;

    use super::*;
    use crate::core::{
        clock::Timestamp,
        log::{
            format::{Body, Data, Stamp},
            segment::{Home, Segment, SegmentWriter},
        },
        position::{Position, Version},
    };

    const EVENTS: u64 = 3000;

    /// A segment of several blocks, in commits of three events, and where its records begin.
    fn segment() -> (Arc<Segment>, Box<[u32]>) {
        let mut writer = SegmentWriter::new(Position::new(1), 4 << 20, None);
        for first in (1..EVENTS).step_by(3) {
            let (mut bytes, mut records) = (Vec::new(), Vec::new());
            for position in first..first + 3 {
                records.push(u32::try_from(bytes.len()).expect("a small number"));
                let stamp = Stamp {
                    id: Uuid::from_u128(position.into()),
                    position: Position::new(position),
                    version: Version::new(position),
                    recorded_at: Timestamp::default(),
                    occurred_at: Timestamp::default(),
                };
                let data = Data::Text("a text that is like the next one");
                let body = Body { stream: "Account-1", event_type: "T", data, ..Body::default() };
                format::put_event(&mut bytes, &stamp, &body.encode());
            }
            let mut seal = Vec::new();
            format::put_seal(&mut seal, &bytes, 3);
            bytes.extend_from_slice(&seal);
            writer.append(&bytes, &records);
        }
        let segment = Arc::clone(writer.segment());
        let offset = |position| segment.offset(Position::new(position));
        let narrow = |offset| u32::try_from(offset).expect("a small number");
        let offsets = (1..=EVENTS).map(offset).map(narrow).collect();
        (segment, offsets)
    }

    #[test]
    fn a_packed_segment_reads_as_the_plain_one_and_is_smaller() {
        let (plain, offsets) = segment();
        for codec in [Codec::Lz4, Codec::Zstd] {
            let bytes = Packed::pack(codec, plain.readable(0..)).expect("it is smaller");
            assert!(bytes.len() * 3 < plain.size(), "{} of {}", bytes.len(), plain.size());
            let header = format::read_header(&bytes).expect("it has one").size;
            let mut seen = plain.readable(0..)[..header].to_vec();
            let packed = Packed::open(Bytes::from(bytes), header, |at, block| {
                assert_eq!(at, seen.len());
                seen.extend_from_slice(block);
                Ok(())
            });
            let packed = packed.map_err(|(_, error)| error).expect("it is what was packed");
            assert!(packed.blocks.len() > 4, "{} blocks", packed.blocks.len());
            assert_eq!(seen, plain.readable(0..));
            let packed = Segment::packed(plain.first(), packed, offsets.clone(), Home::Memory);
            for position in (1..=EVENTS).map(Position::new) {
                assert_eq!(*packed.record(position), *plain.record(position));
            }
            let again = Arc::new(packed).plain().map_err(|(_, error)| error).expect("it is good");
            assert_eq!(again.readable(0..), plain.readable(0..));
        }
    }

    /// Each bit of it is looked at: the file's or the block's checksum, or the header's, finds it.
    #[test]
    fn a_flipped_bit_in_a_packed_segment_is_found() {
        let (plain, _) = segment();
        let good = Packed::pack(Codec::Lz4, plain.readable(0..)).expect("it is smaller");
        let header = format::read_header(&good).expect("it has one").size;
        let open = |bytes: &[u8]| {
            let mut all = Vec::new();
            let packed = Packed::open(Bytes::copy_from_slice(bytes), header, |_, block| {
                all.extend_from_slice(block);
                Ok(())
            });
            packed.is_ok().then_some(all)
        };
        let expected = open(&good).expect("it is good");
        for at in (header..good.len()).step_by(7).chain(header..header + 40) {
            for bit in 0..8 {
                let mut bad = good.clone();
                bad[at] ^= 1 << bit;
                let found = open(&bad);
                assert!(found.is_none_or(|found| found == expected), "byte {at} bit {bit}");
            }
        }
    }
}
