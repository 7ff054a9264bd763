//! redwind.v1: the agent's gRPC interface.
