//! A client connection to a Redis-like server: URL, TLS, authentication, replies.
