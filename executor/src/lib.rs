//! A single-threaded async executor over an event-manager loop, with a seeded twin on a virtual clock for simulation.
