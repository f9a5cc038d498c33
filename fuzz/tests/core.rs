//! The core's own tests, built as the fuzz targets are: under AddressSanitizer. The core is compiled as a
//! part of this test, with no dependency but its own: that it stands alone is shown by the way.

// As a library has it: what is public is used.
#![allow(dead_code)]

#[path = "../../src/core/mod.rs"]
pub mod core;
