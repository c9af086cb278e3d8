//! The device driven through mock rings: a driver of our own on one side of guest memory, a drive in memory
//! whose reads the test holds on the other.

mod device {
    mod commands;
    mod control;
    mod malformed;
    mod rig;
    mod tray;
}
