//! Running a model: tract, the reference evaluator, ONNX Runtime
