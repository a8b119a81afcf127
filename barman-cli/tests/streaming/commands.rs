//! The options of `receive-wal`, beside what Barman says.
