//! The model in memory: graph, values, types, tensors, text form, verifier
