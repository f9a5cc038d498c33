//! Any bytes as the only segment of a directory: read back, cut, or refused; what is read back is whole, and
//! a check comes to the same.
#![no_main]

use std::io;

use annals::core::{
    commit_log::disk::{
        files::{File, Files},
        recovery, segment_name,
    },
    log::{
        LogWriter,
        chain::Chain,
        packing,
        verify::{Fault, Verifier},
    },
    position::Position,
};
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;

struct OneFile<'a>(&'a [u8]);

impl Files for OneFile<'_> {
    fn list(&self) -> io::Result<Vec<String>> {
        Ok(vec![segment_name(Position::new(1))])
    }

    fn read(&self, _: &str) -> io::Result<Vec<u8>> {
        Ok(self.0.to_vec())
    }

    fn map(&self, _: &str) -> io::Result<Bytes> {
        Ok(Bytes::copy_from_slice(self.0))
    }

    fn open(&self, _: &str, _: bool) -> io::Result<Box<dyn File>> {
        unreachable!("reading back writes nothing")
    }

    fn remove(&self, _: &str) -> io::Result<()> {
        Ok(())
    }

    fn rename(&self, _: &str, _: &str) -> io::Result<()> {
        unreachable!("reading back renames nothing")
    }

    fn sync_names(&self) -> io::Result<()> {
        Ok(())
    }
}

/// How far the check of the only segment comes.
fn check(bytes: &[u8]) -> (Position, Chain) {
    let (bytes, _) = packing::unpack_what_is_good(&Bytes::copy_from_slice(bytes));
    let mut verifier = Verifier::new();
    match verifier.begin(&bytes, Position::new(1)) {
        // The value that it says is in the header is not that of an empty log: it may go on.
        Ok(_) => {}
        Err(damage) if matches!(damage.fault, Fault::Chain { .. }) => {}
        Err(_) => return (Position::ZERO, Chain::GENESIS),
    }
    while let Ok(Some(_)) = verifier.commit(&bytes) {}
    (verifier.position(), *verifier.chain().expect("it begins at position 1"))
}

fuzz_target!(|bytes: &[u8]| {
    let checked = check(bytes);
    let Ok(recovered) = recovery::recover(&OneFile(bytes), 4096, |_, _| {}) else { return };
    let head = recovered.head;
    assert_eq!(checked, (head, recovered.chain));
    let Some(active) = recovered.active else { return };
    let reader = LogWriter::restore(recovered.sealed, active, 4096).reader(head);
    for position in 1..=head.get() {
        let trace = reader.trace(Position::new(position)).expect("it was read back");
        assert_eq!(trace.event().stamp.position.get(), position);
    }
});
