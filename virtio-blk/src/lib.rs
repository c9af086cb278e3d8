//! The virtio block device: rings to requests and back, over guest memory.
