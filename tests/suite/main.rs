//! The integration tests, in one binary: they link once.

mod promql;
