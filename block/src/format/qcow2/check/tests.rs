//! Check and repair of damage that tools do not make.
