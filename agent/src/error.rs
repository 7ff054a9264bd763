//! How an agent ends other than by being told to.
