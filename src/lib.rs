//! A compiler that quantizes ONNX models and proves what it emitted.
