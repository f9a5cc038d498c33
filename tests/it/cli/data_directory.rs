//! What a user sees of a data directory that cannot be used, at a start and later.
