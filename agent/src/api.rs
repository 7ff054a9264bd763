//! What a running agent shows of itself: gRPC, metrics, health.
