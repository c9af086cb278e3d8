//! Disks over chains of images, switched, populated and copied live on one I/O thread each.
