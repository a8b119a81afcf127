//! barman
fn main() {}
