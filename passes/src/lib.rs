//! Model in, model out: one pass a file; the driver; the targets
