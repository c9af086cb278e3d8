//! The end-to-end harness and everything that runs on it: tests, the demo, benchmarks.
