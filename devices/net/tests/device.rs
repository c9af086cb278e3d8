//! The device driven through mock rings: a driver of our own on one side of guest memory, the other end of a
//! stream socket on the other.

mod device {
    mod frames;
    mod link;
    mod malformed;
    mod passt;
    mod rig;
}
