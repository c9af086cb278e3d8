//! The machine: memory, vCPUs, ACPI, MMIO bus, serial, devices and run loop, and the millrace program.
