//! The device driven through a mock ring: a driver of our own on one side of guest memory, a disk in
//! memory whose completions the test holds on the other.

mod device {
    mod commands;
    mod errors;
    mod events;
    mod framing;
    mod large;
    mod lifecycle;
    mod malformed;
    mod random;
    mod rig;
}
