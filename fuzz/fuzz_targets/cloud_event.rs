//! Any line as a CloudEvent: an event, or a reason why not.
#![no_main]

use annals::cli::cloud_events;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|line: &str| {
    let _ = cloud_events::parse(line);
});
