//! Runnable examples of barman-core; see the files beside this one.
