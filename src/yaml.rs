//! (room in preparation)
