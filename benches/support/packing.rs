//! What compression saves on the segments of a data directory, and what a read then costs.

use std::path::Path;

use annals::core::log::{
    format,
    packing::{self, Codec, Packed},
};
use bytes::Bytes;

const ROUNDS: usize = 5;

/// The processor time of this thread, seconds: the first field of `schedstat`, nanoseconds (proc(5)).
fn processor_seconds() -> std::io::Result<f64> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat")?;
    let nanos = text.split(' ').next().and_then(|nanos| nanos.parse::<f64>().ok());
    nanos
        .map(|nanos| nanos / 1e9)
        .ok_or_else(|| std::io::Error::other("/proc has no processor time"))
}

/// Prints a line a codec for all segments of `directory` together: medians of several rounds, one thread, its
/// processor time.
pub fn run(directory: &Path) -> std::io::Result<()> {
    let mut plain = Vec::new();
    for entry in std::fs::read_dir(directory.join("segments"))? {
        let mut bytes = std::fs::read(entry?.path())?;
        // The newest one's room.
        let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        bytes.truncate(used);
        let bytes =
            packing::unpack(&bytes.into()).map_err(|(_, error)| std::io::Error::other(error))?;
        plain.push(bytes);
    }
    let size: usize = plain.iter().map(Bytes::len).sum();
    println!("{} segments, {size} bytes plain", plain.len());
    println!("codec  bytes  part of plain  packed MB/s  unpacked MB/s  blocks  us a block");
    for (name, codec) in [("lz4", Codec::Lz4), ("zstd", Codec::Zstd)] {
        let (mut pack_seconds, mut unpack_seconds) = (Vec::new(), Vec::new());
        let (mut packed_size, mut blocks) = (0, 0);
        for _ in 0..ROUNDS {
            let began = processor_seconds()?;
            let packed: Vec<Option<Bytes>> =
                plain.iter().map(|bytes| Packed::pack(codec, bytes).map(Bytes::from)).collect();
            pack_seconds.push(processor_seconds()? - began);
            packed_size = packed
                .iter()
                .zip(&plain)
                .map(|(it, plain)| it.as_ref().unwrap_or(plain).len())
                .sum();
            blocks = 0;
            let began = processor_seconds()?;
            for (packed, plain) in packed.iter().zip(&plain) {
                let Some(packed) = packed else { continue };
                let header = format::read_header(packed).expect("it has one").size;
                let mut unpacked = header;
                let opened = Packed::open(packed.clone(), header, |_, block| {
                    blocks += 1;
                    unpacked += block.len();
                    Ok(())
                });
                assert!(opened.is_ok() && unpacked == plain.len(), "what was packed comes back");
            }
            unpack_seconds.push(processor_seconds()? - began);
        }
        let median = |seconds: &mut Vec<f64>| {
            seconds.sort_by(f64::total_cmp);
            seconds[seconds.len() / 2]
        };
        let (pack, unpack) = (median(&mut pack_seconds), median(&mut unpack_seconds));
        #[expect(clippy::cast_precision_loss, reason = "figures to look at")]
        let (size, packed_size, count) = (size as f64, packed_size as f64, f64::from(blocks));
        println!(
            "{name}  {packed_size}  {:.3}  {:.0}  {:.0}  {blocks}  {:.0}",
            packed_size / size,
            size / pack / 1e6,
            size / unpack / 1e6,
            unpack / count * 1e6,
        );
    }
    Ok(())
}
