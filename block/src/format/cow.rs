//! The part that the copy-on-write formats share: tables in memory, the order of a commit, and clusters
//! that are given back.

pub(super) mod cache;
pub(super) mod commit;
pub(super) mod retire;
