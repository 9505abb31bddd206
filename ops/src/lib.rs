//! What each operator means: shapes, values, and how it may be quantized
