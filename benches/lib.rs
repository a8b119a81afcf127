//! Criterion benches of barman-core; see the files beside this one.
