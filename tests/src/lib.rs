//! The workspace from outside: one integration binary in `it/`, and what other programs computed, in `golden/`.
