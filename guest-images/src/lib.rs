//! Guest kernel, initramfs, guest agent and disks, and the lab that gives a host without KVM a real one.
