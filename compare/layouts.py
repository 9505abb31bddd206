#!/usr/bin/env python3
"""Byte layouts against onnxruntime: a generated grid of bits, block sizes, zero points and shapes.

For every case our quantizer packs a weight, onnxruntime computes with the packed tensors, and the result must be that of
our dequantized weight to 1e-5 of the largest output (accuracy_level 0 and 1, where the runtime computes in float).
MatMulNBits, blocked DequantizeLinear + MatMul, GatherBlockQuantized and MatMulBnb4.
"""

import itertools
import sys

import numpy as np
from onnx import TensorProto, helper

import common
from weights import Quantizers

TOLERANCE = 1e-5  #: of the largest output: sums of up to 300 float products, in another order
#: (N, K): one element, ragged N and K, odd block counts, K below a block, K of whole blocks.
SHAPES = [(1, 1), (3, 17), (16, 32), (5, 96), (7, 300), (33, 130)]
CODES = {"int2": 26, "uint2": 25, "int4": 22, "uint4": 21, "int8": 3, "uint8": 2}


def ugly_weight(rng, rows: int, cols: int) -> np.ndarray:
    """Rows of zeros, one-signed rows, ordinary rows."""
    weight = rng.standard_normal((rows, cols)).astype(np.float32)
    weight[0::5] = np.abs(weight[0::5]) + 0.5
    weight[1::5] = -np.abs(weight[1::5]) - 0.5
    weight[2::5] = 0
    return weight


def tensor(name: str, kind: int, shape, data: bytes) -> TensorProto:
    return helper.make_tensor(name, kind, shape, data, raw=True)


def run(nodes, initializers, feeds, opset=21, ir=10):
    inputs = [
        helper.make_tensor_value_info(k, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape) for k, v in feeds.items()
    ]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    graph = helper.make_graph(nodes, "layout", inputs, outputs, initializers)
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    # Basic level: the extended one fuses DequantizeLinear + MatMul into kernels that round activations to 8 bits.
    model = helper.make_model(graph, opset_imports=opsets, ir_version=ir)
    return common.ort_run(model, feeds, "basic")[0]


def matmul_nbits(quantizers, weight, x, bits, block, zero, level):
    rows, cols = weight.shape
    answer = quantizers(weight, "rtn", bits, block, zero, layout="nbits")
    facts = answer.facts["layout"]["facts"]
    blocks = facts["shape"][1]
    init = [
        tensor("b", TensorProto.UINT8, facts["shape"], answer.tensors["codes"]),
        tensor("s", TensorProto.FLOAT, [rows, blocks], answer.tensors["scales"]),
    ]
    names = ["x", "b", "s"]
    if "zeros" in answer.tensors:
        init.append(tensor("z", TensorProto.UINT8, [rows, -(-blocks * facts["bits"] // 8)], answer.tensors["zeros"]))
        names.append("z")
    node = helper.make_node(
        "MatMulNBits",
        names,
        ["y"],
        domain="com.microsoft",
        K=cols,
        N=rows,
        bits=facts["bits"],
        block_size=facts["block"],
        accuracy_level=level,
    )
    return answer.weight, run([node], init, {"x": x})


def dequantize_linear(quantizers, weight, x, bits, block, zero, order):
    answer = quantizers(weight, "rtn", bits, block, zero, layout=f"blocked_{order}")
    facts = answer.facts["layout"]["facts"]
    kind = CODES[facts["code"]]
    init = [
        tensor("q", kind, facts["shape"], answer.tensors["codes"]),
        tensor("s", TensorProto.FLOAT, facts["scales"], answer.tensors["scales"]),
    ]
    names = ["q", "s"]
    if "zeros" in answer.tensors:
        init.append(tensor("z", kind, facts["scales"], answer.tensors["zeros"]))
        names.append("z")
    attributes = {"axis": facts["axis"]} | ({"block_size": facts["block"]} if facts["block"] else {})
    nodes = [helper.make_node("DequantizeLinear", names, ["w"], **attributes)]
    if order == "nk":
        nodes.append(helper.make_node("Transpose", ["w"], ["t"], perm=[1, 0]))
    nodes.append(helper.make_node("MatMul", ["x", "w" if order == "kn" else "t"], ["y"]))
    two_bits = kind in (CODES["int2"], CODES["uint2"])
    return answer.weight, run(nodes, init, {"x": x}, *((25, 13) if two_bits else (21, 10)))


def gather(quantizers, weight, x, bits, block, zero, form):
    rows, _ = weight.shape
    answer = quantizers(weight, "rtn", bits, block, zero, layout=form)
    facts = answer.facts["layout"]["facts"]
    kind = CODES[facts["code"]]
    blocks = len(answer.tensors["scales"]) // 4 // rows
    init = [
        tensor("q", kind, facts["shape"], answer.tensors["codes"]),
        tensor("s", TensorProto.FLOAT, [rows, blocks], answer.tensors["scales"]),
    ]
    names = ["q", "i", "s"]
    if "zeros" in answer.tensors:
        init.append(tensor("z", kind, facts["zeros"], answer.tensors["zeros"]))
        names.append("z")
    node = helper.make_node(
        "GatherBlockQuantized",
        names,
        ["y"],
        domain="com.microsoft",
        gather_axis=0,
        quantize_axis=1,
        block_size=facts["block"],
        bits=facts["bits"],
    )
    picked = np.arange(rows, dtype=np.int64)
    # Comparing rows themselves: as if x were the identity.
    return answer.weight, run([node], init, {"i": picked})


def bnb4(quantizers, weight, x, table, block):
    rows, cols = weight.shape
    answer = quantizers(weight, table, block=block, layout="bnb4")
    facts = answer.facts["layout"]["facts"]
    init = [
        tensor("b", TensorProto.UINT8, [len(answer.tensors["codes"])], answer.tensors["codes"]),
        tensor("s", TensorProto.FLOAT, [len(answer.tensors["scales"]) // 4], answer.tensors["scales"]),
    ]
    node = helper.make_node(
        "MatMulBnb4",
        ["x", "b", "s"],
        ["y"],
        domain="com.microsoft",
        K=cols,
        N=rows,
        block_size=facts["block"],
        quant_type=facts["quant_type"],
    )
    return answer.weight, run([node], init, {"x": x})


def cases():
    """Label, function, arguments after (quantizers, weight, x)."""
    zeros = ["center", "per_block"]
    blocks = [16, 32, 64, 128, 256, None]
    for bits, block, zero, level in itertools.product([2, 3, 4, 8], blocks, zeros, [0, 1]):
        yield "MatMulNBits", matmul_nbits, (bits, block, zero, level)
    for bits, block, zero, order in itertools.product([2, 4, 8], blocks, zeros, ["kn", "nk"]):
        yield "DequantizeLinear", dequantize_linear, (bits, block, zero, order)
    for bits, block, zero, form in itertools.product([2, 4, 8], blocks[:-1], zeros, ["gather_int4", "gather_bytes"]):
        if form == "gather_bytes" or bits == 4:
            yield "GatherBlockQuantized", gather, (bits, block, zero, form)
    for table, block in itertools.product(["nf4", "fp4"], blocks[:-1]):
        yield "MatMulBnb4", bnb4, (table, block)


def main() -> None:
    parser = common.arguments(__doc__)
    args = parser.parse_args()
    quantizers = Quantizers()
    rng = np.random.default_rng(5)
    counts: dict[str, list] = {}
    problems = []
    for label, function, arguments in cases():
        for rows, cols in SHAPES:
            name = f"{label} {arguments} N={rows} K={cols}"
            if args.only and args.only not in name:
                continue
            if arguments[-1] == "gather_bytes" and cols * arguments[0] % 8:
                continue  # the operator's own rule: rows of whole bytes
            weight = ugly_weight(rng, rows, cols)
            x = rng.standard_normal((3, cols)).astype(np.float32)
            right, wrong, refused, worst = counts.setdefault(label, [0, 0, 0, 0.0])
            try:
                dequantized, got = function(quantizers, weight, x, *arguments)
            except Exception as error:  # onnxruntime has no kernel for the form
                counts[label][2] = refused + 1
                problems.append(f"{name}: refused: {common.brief(str(error))}")
                continue
            exact = dequantized.astype(np.float64)
            expected = exact if function is gather else x.astype(np.float64) @ exact.T
            error = np.abs(got - expected).max() / max(np.abs(expected).max(), 1e-6)
            if error <= TOLERANCE:
                counts[label][0] = right + 1
            else:
                counts[label][1] = wrong + 1
                problems.append(f"{name}: off by {error:.2g}")
            counts[label][3] = max(worst, float(error))
    text = common.table(
        ["operator", "right", "wrong", "refused", "largest error"],
        [[k, a, b, c, f"{d:.1e}"] for k, (a, b, c, d) in counts.items()],
    )
    common.report("layouts", "Byte layouts in onnxruntime", text, args.save)
    common.progress("\n".join(problems[:40]))
    sys.exit(any(wrong for _, wrong, _, _ in counts.values()))


if __name__ == "__main__":
    main()
