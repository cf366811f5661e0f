//! Fetching, against a hub inside the test. No test touches the network.

// So that clippy takes the helpers for tests, too.
#![cfg(test)]

mod server; // HTTP, one request per connection, with answers that can be cut
mod repository; // a hub with one model, and the faults that a network has

mod fetch; // what is fetched, where it lies, and what is not fetched again
mod faults; // what breaks on the way, and what is said about it
